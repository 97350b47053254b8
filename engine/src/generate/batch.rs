//! Many answers at once, for the stages that learn from what the model itself says: all go through the engine together, and
//! a prompt is computed once for all its answers.

use super::engine::{Engine, Request, Said};
use crate::{Error, Result, model::Network};
use api::{chat::FinishReason, params::GenerateParams};
use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

/// A prompt, and a seed for each answer that is wanted.
#[derive(Clone, Debug)]
pub struct Ask {
    pub prompt: Vec<u32>,
    /// Each answer is a function of its seed and the model, whatever else is in the batch.
    pub seeds: Vec<u64>,
}

/// One answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// With the token that ended it.
    pub ids: Vec<u32>,
    /// Whether it came to its end, rather than to `max_new_tokens` or to the end of the model's context.
    pub whole: bool,
}

/// Answers to each of `asks`, in the order of their seeds; nothing if `stop` was heard. `eos` are the tokens that end an
/// answer; the seed of `params` counts for nothing.
pub fn answers(
    model: &dyn Network,
    asks: &[Ask],
    eos: &[u32],
    params: &GenerateParams,
    stop: &AtomicBool,
) -> Result<Option<Vec<Vec<Answer>>>> {
    let mut engine = Engine::new(vec![model])?;
    let (params, eos): (Arc<GenerateParams>, Arc<[u32]>) = (Arc::new(params.clone()), eos.into());
    let mut places = HashMap::new();
    for (place, ask) in asks.iter().enumerate().filter(|(_, ask)| !ask.seeds.is_empty()) {
        let request = Request {
            prompt: ask.prompt.clone(),
            model: 0,
            params: params.clone(),
            seeds: ask.seeds.clone(),
            eos: eos.clone(),
            tokenizer: None,
            surely: false,
        };
        places.insert(engine.add(request)?, place);
    }
    let mut done: Vec<Vec<Answer>> = asks.iter().map(|ask| vec![Answer::default(); ask.seeds.len()]).collect();
    while !engine.is_idle() {
        if stop.load(Ordering::Relaxed) {
            return Ok(None);
        }
        for (ticket, said) in engine.step() {
            match said {
                Said::Ended(answer) => {
                    let place = *places.get(&ticket).ok_or_else(|| Error::Internal("an answer to nothing".into()))?;
                    let ids = answer.ids.into_iter().chain(answer.eos).collect();
                    done[place][answer.index] = Answer { ids, whole: answer.reason == FinishReason::Stop };
                }
                Said::Failed(problem) => return Err(problem.into()),
                Said::Text { .. } | Said::Done(_) => {}
            }
        }
    }
    Ok(Some(done))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::model::{Model, Source, Store, build, families::family};
    use candle_core::{DType, Device};
    use serde_json::json;

    fn model() -> Model {
        let raw = json!({
            "model_type": "llama", "vocab_size": 60, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 40, "rms_norm_eps": 1e-5,
            "rope_theta": 100.0, "tie_word_embeddings": false, "initializer_range": 0.4
        });
        let config = family(&raw).unwrap().config(&raw).unwrap();
        build(&config, &Source::Random { seed: 3 }, &(), &mut Store::default(), &Device::Cpu, DType::F32).unwrap()
    }

    fn ask(prompt: &[u32], seeds: &[u64]) -> Ask {
        Ask { prompt: prompt.into(), seeds: seeds.into() }
    }

    fn made(model: &Model, asks: &[Ask], params: &GenerateParams) -> Vec<Vec<Answer>> {
        answers(model, asks, &[7, 11, 13], params, &AtomicBool::new(false)).unwrap().unwrap()
    }

    #[test]
    fn greedy_answers_of_a_batch_are_those_of_each_alone() {
        let model = model();
        let params = GenerateParams { do_sample: false, max_new_tokens: 30, ..GenerateParams::default() };
        let prompts: Vec<Vec<u32>> = (0..6).map(|i| (0..=i * 2).map(|j| (i * 17 + j * 5) % 60).collect()).collect();
        let asks: Vec<Ask> = prompts.iter().map(|prompt| ask(prompt, &[1])).collect();
        let together = made(&model, &asks, &params);
        let mut lengths = Vec::new();
        for (one, batched) in asks.iter().zip(&together) {
            // One token after another, each time the whole text.
            let (mut ids, mut said) = (one.prompt.clone(), Vec::new());
            while said.len() < 30 && ids.len() < 40 && !said.last().is_some_and(|id| [7, 11, 13].contains(id)) {
                let last = model.logits(&ids, &[ids.len()]).unwrap().get(ids.len() - 1).unwrap();
                let next = last.argmax(0).unwrap().to_scalar::<u32>().unwrap();
                ids.push(next);
                said.push(next);
            }
            assert_eq!(batched[0].ids, said);
            assert_eq!(batched[0].whole, [7, 11, 13].contains(said.last().unwrap()));
            lengths.push(said.len());
        }
        lengths.dedup();
        assert!(lengths.len() > 1, "all end together: {lengths:?}");
    }

    #[test]
    fn an_answer_is_a_function_of_its_seed() {
        let model = model();
        let params =
            GenerateParams { max_new_tokens: 12, temperature: 1.0, top_p: 1.0, top_k: 0, ..GenerateParams::default() };
        let (a, b) = ([5u32, 9, 2], [30u32, 31]);
        let all = made(&model, &[ask(&a, &[1, 2, 3, 1]), ask(&b, &[2, 4])], &params);
        assert_eq!(all[0][0], all[0][3]);
        assert_ne!(all[0][0], all[0][1]);
        assert_eq!(made(&model, &[ask(&b, &[4])], &params)[0][0], all[1][1]);
        // More than go together at a time.
        let many: Vec<u64> = (0..70).map(|i| 1 + i % 3).collect();
        let split = made(&model, &[ask(&a, &many), ask(&a, &[2])], &params);
        assert_eq!((split[0].len(), &split[1][0], &split[0][69]), (70, &all[0][1], &all[0][0]));
        let stopped = answers(&model, &[ask(&a, &[1])], &[7], &params, &AtomicBool::new(true)).unwrap();
        assert!(stopped.is_none());
    }
}
