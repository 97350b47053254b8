//! Who answers: the model of this computer, or whatever the caller connects. The engine itself reaches no network.

use super::Arguments;
use crate::{Error, Places, Result, generate::Request, loaded::Loaded};
use api::{
    Problem,
    chat::FinishReason,
    data::Message,
    params::{ComputeType, GenerateParams, MakeParams, ModelParams},
};
use std::sync::atomic::AtomicBool;

/// How an answer is made.
#[derive(Clone, Debug)]
pub struct Options {
    /// With a seed, so that a run can be repeated as far as the teacher allows.
    pub generate: GenerateParams,
    /// Whether [`Said::confidence`] is wanted.
    pub surely: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Said {
    pub text: String,
    /// exp of the mean log probability of the answer's tokens, 0 to 1; None where the teacher doesn't tell.
    pub confidence: Option<f64>,
    /// Whether the answer came to its end, rather than to `max_new_tokens`.
    pub whole: bool,
}

pub trait Teacher: Send {
    /// For provenance.
    fn name(&self) -> String;

    /// Answers a conversation. It returns soon once `stop` is true; what it gives then doesn't count.
    fn answer(&mut self, messages: &[Message], options: &Options, stop: &AtomicBool) -> Result<Said>;

    /// A score for each text, of an endpoint that gives scores instead of answers: then the address is asked as it stands.
    fn scores(&mut self, texts: &[String], stop: &AtomicBool) -> Result<Vec<f64>> {
        let _ = (texts, stop);
        Err(Error::Internal(format!("{} gives no scores", self.name())))
    }
}

/// An OpenAI-compatible server and the name of a model there. Keys are the connector's affair.
#[derive(Clone, Debug, PartialEq)]
pub struct Endpoint {
    pub base_url: String,
    pub model: String,
}

/// Makes a teacher of an endpoint.
pub type Connect<'a> = &'a dyn Fn(&Endpoint) -> Result<Box<dyn Teacher>>;

/// For callers that have no network.
pub fn no_endpoints(_: &Endpoint) -> Result<Box<dyn Teacher>> {
    Err(Error::Internal("nothing connects to endpoints here".into()))
}

/// Who a job names: its server if it has one, otherwise the model of this computer.
pub(super) fn open(arguments: &Arguments, places: &Places, connect: Connect) -> Result<Box<dyn Teacher>> {
    match endpoint(&arguments.make) {
        Some(endpoint) => connect(&endpoint),
        None => local(&arguments.model, places),
    }
}

/// The server that a job names.
pub(super) fn endpoint(make: &MakeParams) -> Option<Endpoint> {
    let given = |text: &Option<String>| text.as_deref().map(str::trim).filter(|t| !t.is_empty()).map(str::to_owned);
    Some(Endpoint { base_url: given(&make.base_url)?, model: given(&make.teacher).unwrap_or_default() })
}

/// Loads a model of this computer.
pub fn local(model: &ModelParams, places: &Places) -> Result<Box<dyn Teacher>> {
    Ok(Box::new(Local { name: name_of(model), loaded: Loaded::open(model, places, ComputeType::Auto)? }))
}

/// `MODEL`, or `MODEL + ADAPTER`.
pub(super) fn name_of(model: &ModelParams) -> String {
    let adapter = model.adapter_name_or_path.as_deref().filter(|a| !a.is_empty());
    adapter.map_or(model.model_name_or_path.clone(), |a| format!("{} + {a}", model.model_name_or_path))
}

/// A model with its weights in memory.
struct Local {
    name: String,
    loaded: Loaded,
}

impl Teacher for Local {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn answer(&mut self, messages: &[Message], options: &Options, stop: &AtomicBool) -> Result<Said> {
        let request = self.loaded.answer(messages, None, options.generate.clone())?;
        let request = Request { surely: options.surely, ..request };
        let (answers, _) = self.loaded.engine()?.answer(request, stop, &mut |_, _| {})?;
        let answer = answers.into_iter().next().ok_or_else(|| Error::Internal("no answer".into()))?;
        let whole = answer.reason == FinishReason::Stop;
        Ok(Said { text: answer.text, confidence: answer.confidence, whole })
    }
}

/// What to do about a teacher that doesn't say how sure it is.
pub(super) fn unsure(teacher: &str) -> Problem {
    Problem::new(
        "no_confidence",
        format!("{teacher} doesn't tell the probabilities of its tokens, so one answer has no confidence."),
        format!("{teacher} 不提供词元概率，单次回答没有置信度。"),
    )
    .hint(
        "Set samples to 3 or more: then the share of answers that agree counts.",
        "请将 samples 设为 3 或更多，以一致回答的比例作为置信度。",
    )
    .field("samples")
}
