//! Keys and values of earlier positions, in pages (Kwon et al., 2023): a sequence holds a table of pages that it gets as
//! it grows, so that at most one of them has room left. Sequences with the same beginning hold the same pages; one that
//! goes on in a page that others hold gets a copy of it. Full pages that no sequence holds any more are kept for a while
//! and found again by their tokens.

use crate::{
    Error, Result,
    kernels::attention::{Paged, Span},
};
use api::chat::CacheUse;
use candle_core::Tensor;
use std::{
    collections::{BTreeMap, HashMap},
    ops::Range,
    sync::{Mutex, PoisonError},
};

/// Positions of a page.
pub const PAGE: usize = 16;
/// Pages that are kept for sequences to come.
const KEPT: usize = 256;
/// Pages that are set aside at first.
const FIRST: usize = 8;
/// Stands for a virtual token among the tokens of a sequence.
pub const VIRTUAL: u32 = u32::MAX;

/// The cache of all sequences of a model, and of those models that differ from it only in what is attached.
pub struct Cache {
    /// Each (pages x PAGE, kv_heads, dim); of a layer that no pass has reached yet, none.
    layers: Vec<Mutex<Option<(Tensor, Tensor)>>>,
    sequences: Vec<Option<Sequence>>,
    pages: Vec<Page>,
    free: Vec<usize>,
    /// Pages that are kept, by when they were let go.
    kept: BTreeMap<u64, usize>,
    /// Full pages by what is in them.
    known: HashMap<Content, usize>,
    clock: u64,
    /// The sequences of the pass at hand, and where its rows go: first row, first place, how many.
    joining: Vec<usize>,
    moves: Vec<(usize, usize, usize)>,
}

#[derive(Clone, Debug)]
struct Sequence {
    pages: Vec<usize>,
    tokens: Vec<u32>,
    /// Tokens whose keys and values are in the pages: all but those of the pass at hand.
    length: usize,
    /// Number of the model that made them.
    model: u64,
}

#[derive(Clone, Debug, Default)]
struct Page {
    holders: usize,
    /// Number of what is in it and in all pages before it, once it is full.
    content: Option<u64>,
    known: Option<Content>,
    /// Place in `kept`.
    kept: Option<u64>,
}

/// What is in a full page: its tokens, and the number of what is before it (of a first page, of its model).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Content {
    before: u64,
    tokens: Vec<u32>,
}

/// Numbers of models are below this, those of contents above.
const CONTENTS: u64 = 1 << 32;

impl Cache {
    pub fn new(layers: usize) -> Self {
        Self {
            layers: (0..layers).map(|_| Mutex::new(None)).collect(),
            sequences: Vec::new(),
            pages: Vec::new(),
            free: Vec::new(),
            kept: BTreeMap::new(),
            known: HashMap::new(),
            clock: CONTENTS,
            joining: Vec::new(),
            moves: Vec::new(),
        }
    }

    /// A new sequence, for the model of this number.
    pub fn begin(&mut self, model: usize) -> usize {
        self.place(Sequence { pages: Vec::new(), tokens: Vec::new(), length: 0, model: model as u64 })
    }

    /// Lets an empty sequence, which will get these tokens, begin with pages that are known; how many tokens that is. At
    /// least one token is left for a pass, and fewer than `least` are not taken.
    pub fn share(&mut self, id: usize, tokens: &[u32], least: usize) -> Result<usize> {
        let sequence = self.sequence(id)?;
        let (mut before, mut found) = (sequence.model, Vec::new());
        for page in tokens[..tokens.len().saturating_sub(1)].chunks_exact(PAGE) {
            let content = Content { before, tokens: page.to_vec() };
            let Some(page) = self.known.get(&content) else { break };
            found.push(*page);
            before = self.pages[*page].content.unwrap_or_default();
        }
        if found.len() * PAGE < least.max(1) {
            return Ok(0);
        }
        found.iter().for_each(|page| self.hold(*page));
        let length = found.len() * PAGE;
        let sequence = self.sequence_mut(id)?;
        (sequence.pages, sequence.tokens, sequence.length) = (found, tokens[..length].to_vec(), length);
        Ok(length)
    }

    /// Another sequence that goes on from where one is.
    pub fn fork(&mut self, id: usize) -> Result<usize> {
        let sequence = self.sequence(id)?.clone();
        sequence.pages.iter().for_each(|page| self.hold(*page));
        Ok(self.place(sequence))
    }

    /// Ends a sequence.
    pub fn release(&mut self, id: usize) {
        let Some(sequence) = self.sequences.get_mut(id).and_then(Option::take) else { return };
        // The last pages first, so that what begins like it finds the first ones longest.
        for page in sequence.pages.into_iter().rev() {
            self.let_go(page);
        }
    }

    /// Positions held of a sequence.
    pub fn length(&self, id: usize) -> usize {
        self.sequences.get(id).and_then(Option::as_ref).map_or(0, |sequence| sequence.length)
    }

    pub fn layers(&self) -> usize {
        self.layers.len()
    }

    /// Sequences.
    pub fn len(&self) -> usize {
        self.sequences.iter().flatten().count()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How full it is.
    pub fn usage(&self) -> CacheUse {
        let mut filled = vec![0; self.pages.len()];
        for sequence in self.sequences.iter().flatten() {
            for (i, page) in sequence.pages.iter().enumerate() {
                filled[*page] = filled[*page].max(sequence.length.saturating_sub(i * PAGE).min(PAGE));
            }
        }
        let pages = self.pages.iter().filter(|page| page.holders > 0).count();
        let bytes = self.layers.iter().map(|layer| {
            let slot = layer.lock().unwrap_or_else(PoisonError::into_inner);
            let size = |t: &Tensor| t.elem_count() * t.dtype().size_in_bytes();
            slot.as_ref().map_or(0, |(k, v)| size(k) + size(v))
        });
        CacheUse {
            pages: pages as u64,
            places: (pages * PAGE) as u64,
            tokens: filled.iter().sum::<usize>() as u64,
            bytes: bytes.sum::<usize>() as u64,
        }
    }

    /// Places that are set aside for `sequences` of `length` tokens each, at most.
    pub fn room(sequences: usize, length: usize) -> usize {
        let pages = sequences * length.div_ceil(PAGE);
        // What ended is kept besides.
        grown(pages + pages.min(KEPT)) * PAGE
    }

    /// Makes room for more tokens of some sequences; what [`tables`](Self::tables) and [`extend`](Self::extend) go by.
    pub(crate) fn expect(&mut self, pieces: &[(usize, &[u32])]) -> Result<()> {
        self.joining = pieces.iter().map(|(id, _)| *id).collect();
        self.moves.clear();
        let mut row = 0;
        for (id, tokens) in pieces {
            self.make_own(*id)?;
            let sequence = self.sequence_mut(*id)?;
            // What a pass that failed has left.
            sequence.tokens.truncate(sequence.length);
            sequence.tokens.extend(*tokens);
            let (from, to) = (sequence.length, sequence.tokens.len());
            while self.sequence(*id)?.pages.len() * PAGE < to {
                let page = self.take()?;
                self.sequence_mut(*id)?.pages.push(page);
            }
            let ranges = places(&self.sequence(*id)?.pages, from..to);
            for range in ranges {
                self.moves.push((row, range.start, range.len()));
                row += range.len();
            }
        }
        Ok(())
    }

    /// The sequences of the pass at hand with the places of their keys, in the order of the pass.
    pub(crate) fn tables(&self) -> Result<Vec<Paged>> {
        let mut start = 0;
        let table = |id: &usize| {
            let sequence = self.sequence(*id)?;
            let queries = start..start + sequence.tokens.len() - sequence.length;
            start = queries.end;
            Ok(Paged { queries, keys: places(&sequence.pages, 0..sequence.tokens.len()) })
        };
        self.joining.iter().map(table).collect()
    }

    /// The same sequences as if their keys stood one after another.
    pub(crate) fn spans(&self) -> Result<Vec<Span>> {
        let (mut start, mut first) = (0, 0);
        let span = |id: &usize| {
            let sequence = self.sequence(*id)?;
            let queries = start..start + sequence.tokens.len() - sequence.length;
            let keys = first..first + sequence.tokens.len();
            (start, first) = (queries.end, keys.end);
            Ok(Span { queries, keys })
        };
        self.joining.iter().map(span).collect()
    }

    /// Puts the new keys and values (tokens, kv_heads, dim) of a layer in place and gives those of all pages.
    pub(crate) fn extend(&self, layer: usize, k: &Tensor, v: &Tensor) -> Result<(Tensor, Tensor)> {
        let mut slot = self.layers[layer].lock().unwrap_or_else(PoisonError::into_inner);
        let (all_k, all_v) = match slot.take() {
            Some(pair) => pair,
            None => (self.empty(k)?, self.empty(v)?),
        };
        for (new, all) in [(k.contiguous()?, &all_k), (v.contiguous()?, &all_v)] {
            for (row, place, count) in &self.moves {
                all.slice_set(&new.narrow(0, *row, *count)?, 0, *place)?;
            }
        }
        *slot = Some((all_k.clone(), all_v.clone()));
        Ok((all_k, all_v))
    }

    /// What was expected is held now.
    pub(crate) fn advance(&mut self) -> Result<()> {
        for id in std::mem::take(&mut self.joining) {
            let sequence = self.sequence_mut(id)?;
            let full = sequence.length / PAGE..sequence.tokens.len() / PAGE;
            sequence.length = sequence.tokens.len();
            for i in full {
                self.learn(id, i)?;
            }
        }
        Ok(())
    }

    /// Remembers what is in page `i` of a sequence, which has just become full.
    fn learn(&mut self, id: usize, i: usize) -> Result<()> {
        let sequence = self.sequence(id)?;
        let before = match i.checked_sub(1) {
            None => sequence.model,
            Some(last) => self.pages[sequence.pages[last]].content.unwrap_or_default(),
        };
        let (page, tokens) = (sequence.pages[i], sequence.tokens[i * PAGE..(i + 1) * PAGE].to_vec());
        let content = Content { before, tokens };
        match self.known.get(&content) {
            Some(other) => self.pages[page].content = self.pages[*other].content,
            None => {
                self.clock += 1;
                self.pages[page].content = Some(self.clock);
                self.pages[page].known = Some(content.clone());
                self.known.insert(content, page);
            }
        }
        Ok(())
    }

    /// Gives a sequence a copy of its last page if it goes on in it and others hold it too.
    fn make_own(&mut self, id: usize) -> Result<()> {
        let sequence = self.sequence(id)?;
        let filled = sequence.length % PAGE;
        let Some(page) = sequence.pages.get(sequence.length / PAGE).copied() else { return Ok(()) };
        if filled == 0 || self.pages[page].holders < 2 {
            return Ok(());
        }
        let own = self.take()?;
        for layer in &self.layers {
            let slot = layer.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some((k, v)) = slot.as_ref() {
                for all in [k, v] {
                    all.slice_set(&all.narrow(0, page * PAGE, filled)?.copy()?, 0, own * PAGE)?;
                }
            }
        }
        let sequence = self.sequence_mut(id)?;
        if let Some(last) = sequence.pages.get_mut(sequence.length / PAGE) {
            *last = own;
        }
        self.let_go(page);
        Ok(())
    }

    /// A page that nobody holds, with one holder now.
    fn take(&mut self) -> Result<usize> {
        let page = match self.free.pop() {
            Some(page) => page,
            None if self.kept.len() > KEPT => self.forget_oldest(),
            None => {
                self.grow()?;
                self.free.pop().ok_or_else(|| Error::Internal("no page is free".into()))?
            }
        };
        self.pages[page] = Page { holders: 1, ..Page::default() };
        Ok(page)
    }

    fn forget_oldest(&mut self) -> usize {
        let page = self.kept.pop_first().map_or(0, |(_, page)| page);
        if let Some(content) = self.pages[page].known.take() {
            self.known.remove(&content);
        }
        page
    }

    fn hold(&mut self, page: usize) {
        let page = &mut self.pages[page];
        page.holders += 1;
        if let Some(at) = page.kept.take() {
            self.kept.remove(&at);
        }
    }

    fn let_go(&mut self, number: usize) {
        let page = &mut self.pages[number];
        page.holders -= 1;
        if page.holders > 0 {
            return;
        }
        if page.known.is_none() {
            return self.free.push(number);
        }
        self.clock += 1;
        page.kept = Some(self.clock);
        self.kept.insert(self.clock, number);
    }

    /// Sets more pages aside.
    fn grow(&mut self) -> Result<()> {
        let (old, new) = (self.pages.len(), grown(self.pages.len() + 1));
        self.pages.resize(new, Page::default());
        for layer in &self.layers {
            let mut slot = layer.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some((k, v)) = slot.take() {
                let larger = |t: Tensor| -> Result<Tensor> {
                    let all = self.empty(&t)?;
                    all.slice_set(&t, 0, 0)?;
                    Ok(all)
                };
                *slot = Some((larger(k)?, larger(v)?));
            }
        }
        self.free.extend((old..new).rev());
        Ok(())
    }

    /// All places, empty, for keys or values like these (…, kv_heads, dim).
    fn empty(&self, like: &Tensor) -> Result<Tensor> {
        let (_, heads, dim) = like.dims3()?;
        Ok(Tensor::zeros((self.pages.len() * PAGE, heads, dim), like.dtype(), like.device())?)
    }

    fn place(&mut self, sequence: Sequence) -> usize {
        let id = self.sequences.iter().position(Option::is_none).unwrap_or(self.sequences.len());
        if id == self.sequences.len() {
            self.sequences.push(None);
        }
        self.sequences[id] = Some(sequence);
        id
    }

    fn sequence(&self, id: usize) -> Result<&Sequence> {
        self.sequences.get(id).and_then(Option::as_ref).ok_or_else(|| no_sequence(id))
    }

    fn sequence_mut(&mut self, id: usize) -> Result<&mut Sequence> {
        self.sequences.get_mut(id).and_then(Option::as_mut).ok_or_else(|| no_sequence(id))
    }
}

/// Pages that are set aside where so many are needed: an eighth more, so that not each page copies all.
fn grown(pages: usize) -> usize {
    (pages + pages / 8).max(FIRST)
}

/// Where positions of a sequence with these pages lie; pages that follow one another give one range.
fn places(pages: &[usize], positions: Range<usize>) -> Vec<Range<usize>> {
    let mut ranges: Vec<Range<usize>> = Vec::new();
    let mut at = positions.start;
    while at < positions.end {
        let end = positions.end.min((at / PAGE + 1) * PAGE);
        let place = pages[at / PAGE] * PAGE + at % PAGE;
        match ranges.last_mut() {
            Some(range) if range.end == place => range.end += end - at,
            _ => ranges.push(place..place + end - at),
        }
        at = end;
    }
    ranges
}

fn no_sequence(id: usize) -> Error {
    Error::Internal(format!("the cache has no sequence {id}"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn add(cache: &mut Cache, id: usize, tokens: &[u32]) {
        cache.expect(&[(id, tokens)]).unwrap();
        cache.advance().unwrap();
    }

    #[test]
    fn pages_are_shared_until_one_goes_on_in_them() {
        let mut cache = Cache::new(0);
        let tokens: Vec<u32> = (0..40).collect();
        let a = cache.begin(0);
        add(&mut cache, a, &tokens);
        assert_eq!((cache.usage().pages, cache.usage().tokens), (3, 40));
        let b = cache.fork(a).unwrap();
        assert_eq!(cache.usage().pages, 3);
        add(&mut cache, b, &[7]);
        assert_eq!((cache.usage().pages, cache.usage().tokens, cache.length(a), cache.length(b)), (4, 49, 40, 41));
        // Two full pages in common; the half one isn't known.
        let c = cache.begin(0);
        assert_eq!(cache.share(c, &tokens, 0).unwrap(), 32);
        assert_eq!(cache.usage().pages, 4);
        // Another model has nothing in common, and a token is always left to compute.
        let d = cache.begin(1);
        assert_eq!(cache.share(d, &tokens, 0).unwrap(), 0);
        let e = cache.begin(0);
        assert_eq!(cache.share(e, &tokens[..32], 0).unwrap(), 16);
        assert_eq!(cache.share(e, &tokens[..32], 20).unwrap(), 0);
        for id in [a, b, c, d, e] {
            cache.release(id);
        }
        assert_eq!((cache.usage().pages, cache.len()), (0, 0));
        // They are found again although nobody held them.
        let f = cache.begin(0);
        assert_eq!(cache.share(f, &tokens, 0).unwrap(), 32);
    }

    #[test]
    fn waste_is_at_most_one_page_of_a_sequence_and_free_pages_come_back() {
        let mut cache = Cache::new(0);
        let mut random = crate::random::Random::new(1, 0);
        let mut open = Vec::new();
        for i in 0..2000u32 {
            let id = cache.begin(0);
            let length = 1 + random.below(90);
            add(&mut cache, id, &(0..length as u32).map(|j| i * 100 + j).collect::<Vec<_>>());
            open.push(id);
            if open.len() > 20 {
                let id = open.swap_remove(random.below(open.len()));
                cache.release(id);
            }
            let usage = cache.usage();
            assert!(usage.places - usage.tokens < (open.len() * PAGE) as u64, "{usage:?}");
        }
        assert!(cache.pages.len() < 600, "{} pages", cache.pages.len());
    }

    #[test]
    fn what_a_cache_will_take_is_known_before() {
        for (sequences, length) in [(1, 1), (3, 40), (16, 333)] {
            let mut cache = Cache::new(0);
            let ids: Vec<usize> = (0..sequences).map(|_| cache.begin(0)).collect();
            for step in 0..length {
                for id in &ids {
                    add(&mut cache, *id, &[step as u32 * 100 + *id as u32]);
                }
            }
            let places = cache.pages.len() * PAGE;
            assert!(places <= Cache::room(sequences, length) && places >= sequences * length, "{sequences} {length}");
        }
    }
}
