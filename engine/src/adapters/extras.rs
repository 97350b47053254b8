//! What adapters train besides themselves: modules that are trained whole (PEFT's `modules_to_save`), and biases.

use super::targets::last_parts;
use crate::{
    Result,
    files::export,
    model::{Layout, Parameter, network::Vocabulary},
};
use api::{
    Problem, RunConfig,
    params::{self, ModelParams},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Which biases are trained.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum Bias {
    #[default]
    None,
    All,
    // Of the linears that carry the adapter; other types call it by their own names.
    #[serde(alias = "oft_only")]
    LoraOnly,
}

/// Base parameters that are trained beside an adapter.
#[derive(Clone, Debug, Default)]
pub struct Extras {
    /// Modules by the ends of their names, whatever is in them.
    pub whole: Vec<String>,
    /// The embedding and the head, whatever this family calls them: the vocabulary grows.
    pub vocabulary: bool,
    pub bias: Bias,
}

impl Extras {
    /// As a run asks for it; embedding and head are added where the vocabulary grows and nothing was named.
    pub fn asked(whole: &[String], bias: Bias, config: &RunConfig) -> Self {
        let model = params::read::<ModelParams>(config).unwrap_or_default();
        let grows = model.resize_vocab || !model.add_tokens.is_empty() || !model.add_special_tokens.is_empty();
        Self { whole: whole.to_vec(), vocabulary: grows && whole.is_empty(), bias }
    }

    /// Whether nothing of the base is trained.
    pub fn is_empty(&self) -> bool {
        self.whole.is_empty() && !self.vocabulary && self.bias == Bias::None
    }

    /// Whether the parameter of this name is trained; `adapted` says whether its module carries the adapter.
    pub fn trains(&self, name: &str, adapted: impl Fn(&str) -> bool) -> bool {
        let Some((module, kind)) = name.rsplit_once('.') else { return false };
        let bias = kind == "bias"
            && match self.bias {
                Bias::None => false,
                Bias::All => true,
                Bias::LoraOnly => adapted(module),
            };
        bias || self.holds(name)
    }

    /// Whether the parameter is of a module that is trained whole: that module, or one that it stands in, has one of
    /// the names as its end, as PEFT compares them.
    pub fn holds(&self, name: &str) -> bool {
        if self.vocabulary && export::is_vocabulary(name) {
            return true;
        }
        let ends = name.match_indices('.').map(|(i, _)| &name[..i]);
        ends.into_iter().any(|module| self.whole.iter().any(|end| module.ends_with(end.as_str())))
    }

    /// Values of the base parameters that are trained.
    pub fn count(&self, layout: &dyn Layout, adapted: impl Fn(&str) -> bool) -> u64 {
        layout.tensors().iter().filter(|(name, _)| self.trains(name, &adapted)).map(|(_, count)| count).sum()
    }

    /// Refuses names that no module has.
    pub fn check(&self, layout: &dyn Layout) -> Result<()> {
        let (tensors, vocabulary) = (layout.tensors(), layout.vocabulary());
        let known = |end: &str| {
            let alone = Self { whole: vec![end.into()], ..Self::default() };
            // Tied heads are no tensor of their own, and are trained with the embedding.
            let tied = vocabulary.tied && vocabulary.head.ends_with(end);
            (tied && self.holds(&format!("{}.weight", vocabulary.embedding)))
                || tensors.iter().any(|(name, _)| alone.holds(name))
        };
        let Some(unknown) = self.whole.iter().find(|end| !known(end)) else { return Ok(()) };
        let modules = tensors.iter().filter_map(|(name, _)| Some(name.rsplit_once('.')?.0));
        let modules = last_parts(modules).join(", ");
        Err(Problem::new(
            "bad_additional_target",
            format!("additional_target names {unknown:?}, which no module of this model is called."),
            format!("additional_target 中有“{unknown}”，此模型没有这样的模块。"),
        )
        .hint(format!("Its modules: {modules}."), format!("它的模块：{modules}。"))
        .field("additional_target")
        .into())
    }

    /// `modules_to_save` for these trained parameters; PEFT keeps tied modules apart and wants each of them.
    pub fn peft<'a>(&self, trained: impl Iterator<Item = &'a Parameter>, layout: &dyn Layout) -> Vec<String> {
        let held: Vec<&str> = trained.map(|p| p.name.as_str()).filter(|name| self.holds(name)).collect();
        let matched = self.whole.iter().filter(|end| {
            let alone = Self { whole: vec![(*end).clone()], ..Self::default() };
            held.iter().any(|name| alone.holds(name))
        });
        let vocabulary = held.iter().filter(|name| export::is_vocabulary(name)).filter_map(|n| n.rsplit_once('.'));
        let Vocabulary { embedding, head, tied } = layout.vocabulary();
        let tied = (tied && held.contains(&format!("{embedding}.weight").as_str())).then_some(head);
        let mut modules: Vec<String> = matched.cloned().collect();
        modules.extend(last_parts(vocabulary.map(|(module, _)| module).chain(tied)));
        modules.sort();
        modules.dedup();
        modules
    }
}
