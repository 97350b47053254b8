//! The decoder: embedding, layers, norm, head. Sequences are packed one after another without padding.

use super::{
    blocks::{Block, Layer, Linear, Norm, Recompute},
    cache::{Cache, VIRTUAL},
    config::DecoderConfig,
    parameter::{Grads, Parameter},
    pass::{Cached, Keep, Pass, Weights},
    rope::{RopeConfig, RopeTable},
    virtual_tokens::{Ahead, VirtualTokens},
};
use crate::{
    Error, Result,
    kernels::{
        self,
        attention::Span,
        head::{CrossEntropy, Gradients, Head, Outlook, Scale, cross_entropy, outlook, softcap},
        matmul::{self, Factor},
        on_worker,
        profile::time,
        values::cast,
    },
};
use candle_core::{DType, Device, Tensor};
use std::{collections::HashMap, ops::Range, sync::Arc};

pub struct Model {
    pub config: DecoderConfig,
    pub device: Device,
    /// (vocab, hidden)
    pub embedding: Arc<Parameter>,
    /// (context, hidden), where positions are learned.
    pub positions: Option<Arc<Parameter>>,
    pub layers: Vec<Layer>,
    pub norm: Norm,
    /// (vocab, hidden); the embedding itself where they are tied.
    pub head: Arc<Parameter>,
    /// Virtual tokens that a tuning puts before each sequence.
    pub virtual_tokens: Option<VirtualTokens>,
    /// The type that products are computed in.
    pub compute: DType,
    /// Keep only the layers' inputs in training and compute the rest again.
    pub recompute: bool,
    /// NEFTune's alpha: noise on the embeddings while training.
    pub noise: Option<f32>,
}

/// Some sequences, packed, and what is to be predicted in them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Batch {
    pub ids: Vec<u32>,
    pub lengths: Vec<usize>,
    /// Rows whose next token is trained, and that token.
    pub rows: Vec<u32>,
    pub targets: Vec<u32>,
    /// What the data says of each sequence besides its tokens; empty where it says nothing.
    pub marks: Vec<f32>,
}

/// One more piece of a sequence of a cache.
#[derive(Clone, Copy, Debug)]
pub struct Piece<'a> {
    pub sequence: usize,
    pub ids: &'a [u32],
    /// Whether the logits behind it are wanted.
    pub wanted: bool,
}

impl Batch {
    /// From (ids, trained) of each sequence; a token is predicted at the row before it, so the first never is.
    pub fn new<'a>(sequences: impl IntoIterator<Item = (&'a [u32], &'a [bool])>) -> Self {
        let mut batch = Self::default();
        for (ids, trained) in sequences {
            let start = batch.ids.len();
            for i in (1..ids.len()).filter(|i| trained[*i]) {
                batch.rows.push((start + i - 1) as u32);
                batch.targets.push(ids[i]);
            }
            batch.ids.extend(ids);
            batch.lengths.push(ids.len());
        }
        batch
    }

    /// Each of its sequences as a batch of its own.
    pub fn apart(&self) -> impl Iterator<Item = Self> + '_ {
        let mut end = 0;
        self.lengths.iter().zip(self.target_ranges()).map(move |(length, range)| {
            let start = end;
            end += length;
            let rows = self.rows[range.clone()].iter().map(|row| row - start as u32).collect();
            let (ids, targets) = (self.ids[start..end].to_vec(), self.targets[range].to_vec());
            Self { ids, lengths: vec![*length], rows, targets, marks: Vec::new() }
        })
    }

    /// Which of the targets are those of each sequence: rows are in order, so they stand together.
    pub fn target_ranges(&self) -> Vec<Range<usize>> {
        let (mut end, mut to) = (0, 0);
        let ranges = self.lengths.iter().map(|length| {
            let from = to;
            end += length;
            to = self.rows.partition_point(|row| (*row as usize) < end);
            from..to
        });
        ranges.collect()
    }

    /// The same sequences, of which only the state of the last token is wanted. Nothing is predicted there: the targets
    /// mean nothing.
    pub fn at_ends(&self) -> Self {
        let mut end = 0;
        let rows = self.lengths.iter().map(|length| {
            end += *length as u32;
            end.saturating_sub(1)
        });
        Self { rows: rows.collect(), targets: vec![0; self.lengths.len()], ..self.clone() }
    }
}

impl Model {
    /// Logits (tokens, vocab) of packed sequences.
    pub fn logits(&self, ids: &[u32], lengths: &[usize]) -> Result<Tensor> {
        let pass = self.pass(lengths, Weights::Tuned, None)?;
        let x = self.hidden(ids, &pass, &mut Keep::nothing())?;
        let x = pass.ahead.as_ref().map_or(Ok(x.clone()), |ahead| ahead.text(x))?;
        let x = self.norm.forward(&x, &pass, &mut Keep::nothing())?;
        self.head_logits(&x)
    }

    /// Sum of `-log p` over the targets of a batch, without gradients.
    pub fn loss(&self, batch: &Batch) -> Result<f64> {
        on_worker(|| {
            let h = self.states_here(batch, Weights::Tuned)?;
            Ok(self.head_loss(&h, &batch.targets, Scale::All(1.0), 1.0, Gradients::None)?.sum())
        })
    }

    /// Log probability of each target of a batch, without gradients.
    pub fn log_probs(&self, batch: &Batch, weights: Weights) -> Result<Vec<f32>> {
        on_worker(|| {
            let h = self.states_here(batch, weights)?;
            self.log_probs_of(&h, &batch.targets)
        })
    }

    /// Normalised last hidden state (targets, hidden) at the rows that predict the targets, without gradients.
    pub fn states(&self, batch: &Batch, weights: Weights) -> Result<Tensor> {
        on_worker(|| self.states_here(batch, weights))
    }

    /// What the model says of each target of a batch, and how open it is there; without gradients.
    pub fn outlooks(&self, batch: &Batch, weights: Weights, temperature: f32) -> Result<Outlook> {
        on_worker(|| self.outlook(&self.states_here(batch, weights)?, &batch.targets, temperature))
    }

    fn states_here(&self, batch: &Batch, weights: Weights) -> Result<Tensor> {
        let (pass, mut keep) = (self.pass(&batch.lengths, weights, None)?, Keep::nothing());
        let x = self.hidden(&batch.ids, &pass, &mut keep)?;
        let rows = Tensor::new(predicting(batch, &pass).as_slice(), &self.device)?;
        self.norm.forward(&x.index_select(&rows, 0)?, &pass, &mut keep)
    }

    /// Sum of `-log p` over the targets of each sequence of a batch, without gradients.
    pub fn losses(&self, batch: &Batch) -> Result<Vec<f64>> {
        let all = self.log_probs(batch, Weights::Tuned)?;
        let mut left = all.as_slice();
        let sums = batch.apart().map(|sequence| {
            let (own, rest) = left.split_at(sequence.targets.len());
            left = rest;
            own.iter().map(|log_prob| -f64::from(*log_prob)).sum()
        });
        Ok(sums.collect())
    }

    /// Sum of `-log p` over the targets; adds the gradients of `scale` times that sum to `grads`. `random` is the key
    /// of this micro-batch's random numbers.
    pub fn learn(&self, batch: &Batch, scale: f32, random: u64, grads: &mut Grads) -> Result<f64> {
        if batch.targets.is_empty() {
            return Ok(0.0);
        }
        self.learn_through(batch, random, grads, |h, grads| {
            let found = self.head_loss_backward(h, &batch.targets, Scale::All(scale), grads)?;
            Ok((found.sum(), found.hidden))
        })
    }

    /// As [`learn`](Self::learn), for any loss of the targets' log probabilities: `objective` hears each and gives the
    /// gradient of its loss for each, with whatever else it found.
    pub fn learn_by<T: Send>(
        &self,
        batch: &Batch,
        random: u64,
        grads: &mut Grads,
        objective: impl FnOnce(&[f32]) -> Result<(T, Vec<f32>)> + Send,
    ) -> Result<T> {
        self.learn_through(batch, random, grads, |h, grads| {
            let (found, gradient) = objective(&self.log_probs_of(h, &batch.targets)?)?;
            // The head's loss is -log p.
            let scales: Vec<f32> = gradient.iter().map(|d| -d).collect();
            let hidden = self.head_loss_backward(h, &batch.targets, Scale::Rows(&scales), grads)?.hidden;
            Ok((found, hidden))
        })
    }

    /// As [`learn`](Self::learn), for any loss of the normalised last hidden state h (targets, hidden) at the rows that
    /// predict the targets: `objective` gives what it found and the gradient of h, and adds those of parameters behind h.
    pub fn learn_through<T: Send>(
        &self,
        batch: &Batch,
        random: u64,
        grads: &mut Grads,
        objective: impl FnOnce(&Tensor, &mut Grads) -> Result<(T, Option<Tensor>)> + Send,
    ) -> Result<T> {
        on_worker(|| {
            let pass = self.pass(&batch.lengths, Weights::Tuned, Some(random))?;
            let (mut keep, rows) = (Keep::default(), predicting(batch, &pass));
            let x = self.hidden(&batch.ids, &pass, &mut keep)?;
            let predicting = x.index_select(&Tensor::new(rows.as_slice(), &self.device)?, 0)?;
            let h = self.norm.forward(&predicting, &pass, &mut keep)?;
            let (found, dh) = objective(&h, grads)?;
            if let Some(dh) = dh {
                let dh = self.norm.backward(dh, &pass, &mut keep, grads)?;
                let dx = kernels::scatter_rows(&dh, &rows, x.dim(0)?, 1.0)?;
                self.hidden_backward(&batch.ids, dx, &pass, &mut keep, grads)?;
            }
            Ok(found)
        })
    }

    /// Log probability of a target for each row of normalised h (rows, hidden).
    pub fn log_probs_of(&self, h: &Tensor, targets: &[u32]) -> Result<Vec<f32>> {
        let mut losses = self.head_loss(h, targets, Scale::All(1.0), 1.0, Gradients::None)?.losses;
        losses.iter_mut().for_each(|loss| *loss = -*loss);
        Ok(losses)
    }

    /// Log probability of a target, and the entropy, for each row of normalised h (rows, hidden), where logits are divided by
    /// `temperature`, as they are when tokens are sampled.
    pub fn outlook(&self, h: &Tensor, targets: &[u32], temperature: f32) -> Result<Outlook> {
        let (factor, cap) = self.head_at(temperature);
        time("head and loss", || outlook(&scaled(h, factor)?, &self.head.get(), targets, cap))
    }

    /// The head's loss with the gradient of normalised h (rows, hidden), and that of the head where it is trained.
    pub fn head_loss_backward(
        &self,
        h: &Tensor,
        targets: &[u32],
        scale: Scale,
        grads: &mut Grads,
    ) -> Result<CrossEntropy> {
        self.head_loss_backward_at(h, targets, scale, 1.0, grads)
    }

    /// The same where logits are divided by `temperature`.
    pub fn head_loss_backward_at(
        &self,
        h: &Tensor,
        targets: &[u32],
        scale: Scale,
        temperature: f32,
        grads: &mut Grads,
    ) -> Result<CrossEntropy> {
        let want = if self.head.trainable { Gradients::HiddenAndWeight } else { Gradients::Hidden };
        let mut found = self.head_loss(h, targets, scale, temperature, want)?;
        if let Some(dw) = found.weight.take() {
            grads.add(&self.head, dw)?;
        }
        Ok(found)
    }

    /// The head on normalised h (rows, hidden), for kernels that look at whole distributions. A gradient of its h is one of
    /// `h · logit_scale`.
    pub fn head_on(&self, h: &Tensor) -> Result<Head> {
        Ok(Head { h: scaled(h, self.config.logit_scale)?, w: self.head.get(), cap: self.config.logit_softcap })
    }

    /// Logits (vocab) after one more piece of the first sequence of a cache, which begins if there is none.
    pub fn step(&self, ids: &[u32], cache: &mut Cache) -> Result<Vec<f32>> {
        if cache.is_empty() {
            cache.begin(0);
        }
        let all = self.step_all(&[Piece { sequence: 0, ids, wanted: true }], cache)?;
        all.into_iter().flatten().next().ok_or_else(|| Error::Internal("a step of no sequence".into()))
    }

    /// Logits (vocab) behind each piece where they are wanted. All go through the model together; keys and values join the
    /// cache.
    pub fn step_all(&self, pieces: &[Piece], cache: &mut Cache) -> Result<Vec<Option<Vec<f32>>>> {
        if pieces.iter().any(|piece| piece.ids.is_empty()) {
            return Err(Error::Internal("a step needs a piece of each sequence".into()));
        }
        on_worker(|| {
            // Virtual tokens stand before what begins and before nothing else.
            let begins = |piece: &&Piece| self.virtual_tokens.is_some() && cache.length(piece.sequence) == 0;
            let (first, others): (Vec<&Piece>, Vec<&Piece>) = pieces.iter().partition(begins);
            let ahead = match &self.virtual_tokens {
                Some(tokens) if !first.is_empty() => {
                    let lengths: Vec<usize> = first.iter().map(|piece| piece.ids.len()).collect();
                    Some(Ahead::new(tokens, &lengths, None, &self.device)?)
                }
                _ => None,
            };
            let found = [self.step_here(&first, ahead, cache)?, self.step_here(&others, None, cache)?].concat();
            let places = first.iter().chain(&others).map(|piece| piece.sequence);
            let mut by_sequence: HashMap<usize, Option<Vec<f32>>> = places.zip(found).collect();
            Ok(pieces.iter().map(|piece| by_sequence.remove(&piece.sequence).flatten()).collect())
        })
    }

    /// Lets an empty sequence begin with what the cache knows of a prompt; how many of its tokens that is.
    pub fn share(&self, cache: &mut Cache, sequence: usize, prompt: &[u32]) -> Result<usize> {
        let ahead = self.virtual_tokens.as_ref().map_or(0, |tokens| tokens.count);
        let all: Vec<u32> = std::iter::repeat_n(VIRTUAL, ahead).chain(prompt.iter().copied()).collect();
        Ok(cache.share(sequence, &all, ahead + 1)?.saturating_sub(ahead))
    }

    fn step_here(&self, pieces: &[&Piece], ahead: Option<Ahead>, cache: &mut Cache) -> Result<Vec<Option<Vec<f32>>>> {
        if pieces.is_empty() {
            return Ok(Vec::new());
        }
        let mut pass = self.continuing(pieces, ahead, cache)?;
        pass.cache = Some(Cached { tables: cache.tables()?, cache });
        let wanted = pieces.iter().zip(&pass.spans).filter(|(piece, _)| piece.wanted);
        let last: Vec<u32> = wanted.map(|(_, span)| span.queries.end as u32 - 1).collect();
        let mut keep = Keep::nothing();
        let ids: Vec<u32> = pieces.iter().flat_map(|piece| piece.ids).copied().collect();
        let x = self.hidden(&ids, &pass, &mut keep)?;
        let mut logits = Vec::new();
        if !last.is_empty() {
            let x = x.index_select(&Tensor::new(last, &self.device)?, 0)?;
            logits = self.head_logits(&self.norm.forward(&x, &pass, &mut keep)?)?.to_vec2()?;
        }
        cache.advance()?;
        let mut logits = logits.into_iter();
        Ok(pieces.iter().map(|piece| if piece.wanted { logits.next() } else { None }).collect())
    }

    /// Every linear that an adapter may change, with its name, for example `model.layers.0.self_attn.q_proj`.
    pub fn linears(&self) -> impl Iterator<Item = (String, &Linear)> {
        let all = self.layers.iter().flat_map(Layer::linears);
        all.map(|linear| (linear.weight.name.trim_end_matches(".weight").to_string(), linear))
    }

    /// The base's parameters, each once.
    pub fn parameters(&self) -> Vec<&Parameter> {
        let mut all = vec![self.embedding.as_ref()];
        all.extend(self.positions.as_deref());
        all.extend(self.layers.iter().flat_map(Layer::parameters));
        all.extend(self.norm.parameters());
        all.extend((!Arc::ptr_eq(&self.embedding, &self.head)).then_some(self.head.as_ref()));
        all
    }

    /// Positions that a text may take.
    pub fn context(&self) -> usize {
        self.config.context.saturating_sub(self.virtual_tokens.as_ref().map_or(0, |tokens| tokens.count))
    }

    /// A pass over whole sequences of some lengths.
    fn pass(&self, lengths: &[usize], weights: Weights, random: Option<u64>) -> Result<Pass<'_>> {
        let tokens = self.virtual_tokens.as_ref().filter(|_| weights == Weights::Tuned);
        let count = tokens.map_or(0, |tokens| tokens.count);
        self.config.check_length(lengths.iter().copied().max().unwrap_or(0), count)?;
        let ahead = tokens.map(|tokens| Ahead::new(tokens, lengths, random, &self.device)).transpose()?;
        let (inputs, keys) = ahead.as_ref().map_or((0, 0), |ahead| (ahead.inputs(), ahead.keys()));
        let (mut query, mut key) = (0, 0);
        let spans = lengths.iter().map(|length| {
            let span = Span { queries: query..query + inputs + length, keys: key..key + count + length };
            (query, key) = (span.queries.end, span.keys.end);
            span
        });
        let spans = spans.collect();
        let sequences: Vec<_> = lengths.iter().map(|length| (keys, count + length)).collect();
        Ok(Pass { ahead, weights, random, ..self.pass_at(&sequences, spans)? })
    }

    /// A pass over one more piece of some sequences of a cache, with virtual tokens `ahead` of those that begin; keys among
    /// these join the cache at once.
    fn continuing<'a>(&self, pieces: &[&Piece], ahead: Option<Ahead<'a>>, cache: &mut Cache) -> Result<Pass<'a>> {
        let (inputs, keys) = ahead.as_ref().map_or((0, 0), |ahead| (ahead.inputs(), ahead.keys()));
        if let Some(ahead) = ahead.as_ref().filter(|_| keys > 0) {
            let virtual_keys = vec![VIRTUAL; keys];
            let each: Vec<_> = pieces.iter().map(|piece| (piece.sequence, virtual_keys.as_slice())).collect();
            cache.expect(&each)?;
            let all = |t: Tensor| Tensor::cat(&vec![t; pieces.len()], 0);
            for layer in 0..self.layers.len() {
                if let Some((k, v)) = ahead.layer(layer, self.compute)? {
                    cache.extend(layer, &all(k)?, &all(v)?)?;
                }
            }
            cache.advance()?;
        }
        let new: Vec<Vec<u32>> =
            pieces.iter().map(|piece| [vec![VIRTUAL; inputs], piece.ids.to_vec()].concat()).collect();
        let each: Vec<_> = pieces.iter().zip(&new).map(|(piece, new)| (piece.sequence, new.as_slice())).collect();
        let held = each.iter().map(|(sequence, _)| cache.length(*sequence));
        let sequences: Vec<(usize, usize)> = held.zip(&new).map(|(from, new)| (from, from + new.len())).collect();
        self.config.check_length(sequences.iter().map(|(_, to)| *to).max().unwrap_or(0), 0)?;
        cache.expect(&each)?;
        let ahead = ahead.filter(|_| inputs > 0);
        Ok(Pass { ahead, ..self.pass_at(&sequences, cache.spans()?)? })
    }

    /// A pass with the first and the last position (and one more) of each sequence.
    fn pass_at<'a>(&self, sequences: &[(usize, usize)], spans: Vec<Span>) -> Result<Pass<'a>> {
        let table = |rope: &Option<RopeConfig>| {
            rope.as_ref().map(|rope| RopeTable::new(rope, sequences, &self.device)).transpose()
        };
        let (rope, window_rope) = (table(&self.config.rope)?, table(&self.config.window_rope)?);
        let positions = sequences.iter().flat_map(|(from, to)| *from as u32..*to as u32).collect();
        Ok(Pass {
            spans,
            positions,
            rope,
            window_rope,
            cache: None,
            ahead: None,
            compute: self.compute,
            random: None,
            weights: Weights::Tuned,
        })
    }

    /// Output (tokens, hidden) of the last layer, before the norm.
    fn hidden(&self, ids: &[u32], pass: &Pass, keep: &mut Keep) -> Result<Tensor> {
        let mut x = cast(&self.embedding.rows(ids)?, DType::F32)?;
        if let (Some(alpha), Some(key)) = (self.noise, pass.random_at("embedding")) {
            let inputs = pass.ahead.as_ref().map_or(0, Ahead::inputs);
            let lengths = pass.spans.iter().map(|span| span.queries.len() - inputs);
            x = kernels::dropout::noise(&x, &noise_bounds(lengths, x.dim(1)?, alpha), key)?;
        }
        let scale = self.config.embedding_scale;
        x = match &pass.ahead {
            None => scaled(&x, scale)?,
            Some(ahead) if self.config.scales_virtual => scaled(&ahead.join_input(x)?, scale)?,
            Some(ahead) => ahead.join_input(scaled(&x, scale)?)?,
        };
        if let Some(positions) = &self.positions {
            let rows = Tensor::new(pass.positions.as_slice(), &self.device)?;
            x = kernels::add(x, &positions.get().index_select(&rows, 0)?)?;
        }
        let (below, above) = self.layers.split_at(self.lowest());
        for layer in below {
            x = layer.forward(&x, pass, &mut Keep::nothing())?;
        }
        for layer in above {
            x = match self.recompute && pass.random.is_some() {
                true => Recompute(layer).forward(&x, pass, keep)?,
                false => layer.forward(&x, pass, keep)?,
            };
        }
        Ok(x)
    }

    /// The first layer that the way back reaches: nothing below it is trained. Where nothing at all is, as a benchmark has it,
    /// it goes the whole way.
    fn lowest(&self) -> usize {
        let inputs = [Some(&self.embedding), self.positions.as_ref()];
        if self.virtual_tokens.is_some() || inputs.into_iter().flatten().any(|input| input.trainable) {
            return 0;
        }
        let only_above = self.head.trainable || self.norm.parameters().iter().any(|parameter| parameter.trainable);
        let none = if only_above { self.layers.len() } else { 0 };
        self.layers.iter().position(Layer::learns).unwrap_or(none)
    }

    fn hidden_backward(
        &self,
        ids: &[u32],
        mut dx: Tensor,
        pass: &Pass,
        keep: &mut Keep,
        grads: &mut Grads,
    ) -> Result<()> {
        for layer in self.layers[self.lowest()..].iter().rev() {
            dx = match self.recompute {
                true => Recompute(layer).backward(dx, pass, keep, grads)?,
                false => layer.backward(dx, pass, keep, grads)?,
            };
        }
        if let Some(positions) = self.positions.as_ref().filter(|p| p.trainable) {
            grads.add(positions, kernels::scatter_rows(&dx, &pass.positions, self.config.context, 1.0)?)?;
        }
        if let Some(ahead) = &pass.ahead {
            dx = ahead.backward(
                dx,
                if self.config.scales_virtual { self.config.embedding_scale } else { 1.0 },
                grads,
            )?;
        }
        if self.embedding.trainable {
            let table = kernels::scatter_rows(&dx, ids, self.config.vocab_size, self.config.embedding_scale)?;
            grads.add(&self.embedding, table)?;
        }
        Ok(())
    }

    /// Logits (rows, vocab) of normalised x (rows, hidden).
    fn head_logits(&self, x: &Tensor) -> Result<Tensor> {
        let x = Factor::new(&scaled(x, self.config.logit_scale)?, self.compute)?;
        let logits = time("head", || matmul::sum(&[self.head.value().across(&x)], DType::F32))?;
        self.config.logit_softcap.map_or(Ok(logits.clone()), |cap| softcap(logits, cap))
    }

    /// Loss of normalised x (rows, hidden) and the gradients of `scale` times it, where logits are divided by `temperature`.
    fn head_loss(
        &self,
        x: &Tensor,
        targets: &[u32],
        scale: Scale,
        temperature: f32,
        want: Gradients,
    ) -> Result<CrossEntropy> {
        let ((factor, cap), head) = (self.head_at(temperature), self.head.get());
        let x = scaled(x, factor)?;
        let mut found = time("head and loss", || cross_entropy(&x, &head, targets, scale, cap, want))?;
        if let Some(dh) = &found.hidden {
            found.hidden = Some(scaled(dh, factor)?);
        }
        Ok(found)
    }

    /// What the head's input is multiplied with and logits are capped at, where logits are divided by `temperature`.
    fn head_at(&self, temperature: f32) -> (f32, Option<f32>) {
        (self.config.logit_scale / temperature, self.config.logit_softcap.map(|cap| cap / temperature))
    }
}

/// The rows of the input that predict a trained token.
fn predicting(batch: &Batch, pass: &Pass) -> Vec<u32> {
    pass.ahead.as_ref().map_or_else(|| batch.rows.clone(), |ahead| ahead.moved(&batch.rows, &batch.lengths))
}

/// NEFTune's largest noise for each token: alpha / sqrt(tokens of its sequence x width) (Jain et al., 2023, algorithm 1).
fn noise_bounds(lengths: impl Iterator<Item = usize>, width: usize, alpha: f32) -> Vec<f32> {
    let bound = |length: usize| alpha / ((length * width) as f32).sqrt();
    lengths.flat_map(|length| std::iter::repeat_n(bound(length), length)).collect()
}

fn scaled(x: &Tensor, factor: f32) -> Result<Tensor> {
    Ok(if factor == 1.0 { x.clone() } else { (x * f64::from(factor))? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Attach, Source, Store, build, families::family};
    use serde_json::json;

    struct Trains(&'static str);

    impl Attach for Trains {
        fn trains(&self, name: &str) -> bool {
            name.starts_with(self.0)
        }
    }

    /// The way back ends at the lowest layer with something to train; what it gives is the same.
    #[test]
    fn layers_below_all_that_is_trained_keep_nothing() {
        let config = json!({
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 32, "hidden_size": 16,
            "intermediate_size": 24, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
            "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "tie_word_embeddings": true, "initializer_range": 0.1,
        });
        let config = family(&config).unwrap().config(&config).unwrap();
        let batch = Batch::new([(&[1u32, 5, 9, 2][..], &[true; 4][..])]);
        let learned = |trained: &'static str, recompute: bool| {
            let (source, mut store) = (Source::Random { seed: 1 }, Store::default());
            let mut model = build(&config, &source, &Trains(trained), &mut store, &Device::Cpu, DType::F32).unwrap();
            model.recompute = recompute;
            let mut grads = Grads::default();
            model.learn(&batch, 1.0, 1, &mut grads).unwrap();
            let (pass, mut keep) = (model.pass(&[4], Weights::Tuned, Some(1)).unwrap(), Keep::default());
            model.hidden(&batch.ids, &pass, &mut keep).unwrap();
            let mut kept = 0;
            while !keep.is_empty() {
                keep.pop().unwrap();
                kept += 1;
            }
            (grads, store.trainable().count(), kept)
        };
        for recompute in [false, true] {
            let (all, _, most) = learned("", recompute);
            let (.., least) = learned("model.embed", recompute);
            assert!(least > 0);
            // How many layers keep what a trained one needs, and how many above these only hand the gradient down.
            for (trained, own, above) in [
                ("model.embed", 0, 3),
                ("model.layers.1.", 1, 1),
                ("model.layers.2.", 1, 0),
                ("model.norm", 0, 0),
                ("nothing", 0, 3),
            ] {
                let (grads, count, kept) = learned(trained, recompute);
                assert_eq!(grads.iter().count(), count, "{trained}");
                for (name, gradient) in grads.iter() {
                    let values = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
                    assert_eq!(values(gradient), values(all.get(name).unwrap()), "{name}");
                }
                assert_eq!(kept, own * most / 3 + above * least / 3, "{trained}");
            }
        }
    }

    #[test]
    fn the_largest_noise_follows_the_length_of_the_sequence() {
        // 5 / sqrt(4 x 25) and 5 / sqrt(1 x 25).
        assert_eq!(noise_bounds([4, 1].into_iter(), 25, 5.0), [0.5, 0.5, 0.5, 0.5, 1.0]);
    }
}
