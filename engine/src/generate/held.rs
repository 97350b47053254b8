//! What sequences hold between two tokens: of a decoder a cache, of an encoder-decoder what it read of the source.

use crate::{
    Error, Result,
    model::{Cache, Network, Piece, encoder_decoder::Answering},
};
use api::chat::CacheUse;

/// The sequences of an engine. Models of one engine differ only in what is attached to them.
pub enum Held {
    Decoder(Cache),
    EncoderDecoder(Vec<Option<Answering>>),
}

impl Held {
    pub fn new(model: &dyn Network) -> Result<Self> {
        Ok(match model.encoder_decoder() {
            Some(_) => Self::EncoderDecoder(Vec::new()),
            None => Self::Decoder(Cache::new(model.decoder()?.config.layers)),
        })
    }

    /// Lets go of all sequences and of what is kept of earlier ones.
    pub fn clear(&mut self) {
        match self {
            Self::Decoder(cache) => *cache = Cache::new(cache.layers()),
            Self::EncoderDecoder(slots) => slots.clear(),
        }
    }

    /// A new sequence for a prompt, and how many of its tokens are there already.
    pub fn begin(&mut self, model: &dyn Network, number: usize, prompt: &[u32]) -> Result<(usize, usize)> {
        match self {
            Self::Decoder(cache) => {
                let id = cache.begin(number);
                Ok((id, model.decoder()?.share(cache, id, prompt)?))
            }
            Self::EncoderDecoder(slots) => {
                let reader = model.encoder_decoder().ok_or_else(other_model)?;
                Ok((place(slots, reader.answering(prompt)?), 0))
            }
        }
    }

    /// Another sequence that goes on from where one is.
    pub fn fork(&mut self, id: usize) -> Result<usize> {
        match self {
            Self::Decoder(cache) => cache.fork(id),
            Self::EncoderDecoder(slots) => {
                let same = slots.get(id).cloned().flatten().ok_or_else(other_model)?;
                Ok(place(slots, same))
            }
        }
    }

    pub fn release(&mut self, id: usize) {
        match self {
            Self::Decoder(cache) => cache.release(id),
            Self::EncoderDecoder(slots) => drop(slots.get_mut(id).and_then(Option::take)),
        }
    }

    /// Logits (vocab) behind each piece where they are wanted.
    pub fn step(&mut self, model: &dyn Network, pieces: &[Piece]) -> Result<Vec<Option<Vec<f32>>>> {
        match self {
            Self::Decoder(cache) => model.decoder()?.step_all(pieces, cache),
            Self::EncoderDecoder(slots) => {
                let reader = model.encoder_decoder().ok_or_else(other_model)?;
                let taken =
                    pieces.iter().map(|p| slots.get_mut(p.sequence).and_then(Option::take).ok_or_else(other_model));
                let mut taken = taken.collect::<Result<Vec<_>>>()?;
                let last: Vec<u32> = pieces.iter().filter_map(|piece| piece.ids.last().copied()).collect();
                let logits = reader.step_all(&last, &mut taken);
                for (piece, answering) in pieces.iter().zip(taken) {
                    slots[piece.sequence] = Some(answering);
                }
                Ok(logits?.into_iter().map(Some).collect())
            }
        }
    }

    /// Pages and memory; what an encoder-decoder holds is not in pages.
    pub fn usage(&self) -> CacheUse {
        match self {
            Self::Decoder(cache) => cache.usage(),
            Self::EncoderDecoder(_) => CacheUse::default(),
        }
    }
}

fn place(slots: &mut Vec<Option<Answering>>, answering: Answering) -> usize {
    let id = slots.iter().position(Option::is_none).unwrap_or(slots.len());
    if id == slots.len() {
        slots.push(None);
    }
    slots[id] = Some(answering);
    id
}

fn other_model() -> Error {
    Error::Internal("a sequence of another model".into())
}
