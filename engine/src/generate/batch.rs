//! Many answers at once, for the stages that learn from what the model itself says: all sequences go through the model
//! together, a prompt is computed once for all its answers, and an answer that has ended leaves the batch.

use super::sample::choose;
use crate::{
    Error, Result,
    model::{Cache, Model},
    random::Random,
};
use api::{Problem, params::GenerateParams};
use rayon::prelude::*;
use std::sync::atomic::{AtomicBool, Ordering};

/// Stream of the random numbers that choose tokens.
const STREAM: u64 = 0x6E1;

/// Sequences that advance together at most.
pub const TOGETHER: usize = 64;

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

/// An answer in the making.
struct Active {
    ask: usize,
    answer: usize,
    random: Random,
    ids: Vec<u32>,
}

/// Answers to each of `asks`, in the order of their seeds; nothing if `stop` was heard. `eos` are the tokens that end an
/// answer; the seed of `params` counts for nothing.
pub fn answers(
    model: &Model,
    asks: &[Ask],
    eos: &[u32],
    params: &GenerateParams,
    stop: &AtomicBool,
) -> Result<Option<Vec<Vec<Answer>>>> {
    let mut all = Vec::with_capacity(asks.len());
    let mut rest = asks;
    while !rest.is_empty() {
        let mut sum = 0;
        let fit = rest.iter().take_while(|ask| {
            sum += ask.seeds.len();
            sum <= TOGETHER
        });
        let (some, others) = rest.split_at(fit.count().max(1));
        rest = others;
        match together(model, some, eos, params, stop)? {
            Some(answers) => all.extend(answers),
            None => return Ok(None),
        }
    }
    Ok(Some(all))
}

fn together(
    model: &Model,
    asks: &[Ask],
    eos: &[u32],
    params: &GenerateParams,
    stop: &AtomicBool,
) -> Result<Option<Vec<Vec<Answer>>>> {
    let context = model.context();
    if let Some(ask) = asks.iter().find(|ask| ask.prompt.is_empty() || ask.prompt.len() >= context) {
        return Err(Error::Internal(format!("a prompt has {} tokens, the context {context}", ask.prompt.len())));
    }
    let mut done: Vec<Vec<Answer>> = asks.iter().map(|ask| vec![Answer::default(); ask.seeds.len()]).collect();
    let mut cache = Cache::of(model.config.layers, asks.len());
    let prompts: Vec<&[u32]> = asks.iter().map(|ask| ask.prompt.as_slice()).collect();
    let logits = model.step_all(&prompts, &mut cache)?;
    let each = asks.iter().enumerate().flat_map(|(ask, asked)| (0..asked.seeds.len()).map(move |answer| (ask, answer)));
    let active = each.map(|(ask, answer)| {
        let random = Random::new(asks[ask].seeds[answer], STREAM);
        Active { ask, answer, random, ids: Vec::new() }
    });
    let mut active: Vec<Active> = active.collect();
    cache.choose(&active.iter().map(|one| one.ask).collect::<Vec<_>>())?;
    let mut logits: Vec<Vec<f32>> = active.iter().map(|one| logits[one.ask].clone()).collect();
    while !active.is_empty() {
        if stop.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let chosen = active.par_iter_mut().zip(&mut logits).map(|(one, logits)| {
            if logits.iter().any(|l| l.is_nan()) {
                return Err(not_finite());
            }
            let seen = asks[one.ask].prompt.iter().chain(&one.ids).copied();
            let next = choose(logits, params, seen, &mut one.random);
            one.ids.push(next);
            Ok(())
        });
        chosen.collect::<Result<(), Problem>>()?;
        let mut going = Vec::new();
        for (i, one) in active.iter_mut().enumerate() {
            let whole = one.ids.last().is_some_and(|id| eos.contains(id));
            let length = asks[one.ask].prompt.len() + one.ids.len();
            match whole || one.ids.len() >= params.max_new_tokens || length >= context {
                true => done[one.ask][one.answer] = Answer { ids: std::mem::take(&mut one.ids), whole },
                false => going.push(i),
            }
        }
        if going.len() < active.len() {
            cache.choose(&going)?;
            // Those that ended have given their ids away.
            active.retain(|one| !one.ids.is_empty());
        }
        if active.is_empty() {
            break;
        }
        let pieces: Vec<&[u32]> = active.iter().map(|one| &one.ids[one.ids.len() - 1..]).collect();
        logits = model.step_all(&pieces, &mut cache)?;
    }
    Ok(Some(done))
}

fn not_finite() -> Problem {
    Problem::new(
        "diverged",
        "The model gives no numbers any more while it generates: its weights have diverged.",
        "模型生成时已不再给出有效数值：其权重已发散。",
    )
    .hint("Resume from the last checkpoint with a lower learning_rate.", "请调低 learning_rate，从最近的检查点继续。")
    .field("learning_rate")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::model::{Source, Store, build, families::family};
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
