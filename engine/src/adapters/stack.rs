//! Several adapters on one model: those below are merged into the base, the last one is trained or read on top of them.

use super::{Base, Precision, Tuning};
use crate::{
    Result,
    model::{
        Attach, DecoderConfig, Grads, Layout, Network, Parameter, Store, VirtualTokens,
        blocks::{Bottleneck, Linear},
    },
};
use candle_core::Device;
use std::path::Path;
use tokenizers::Tokenizer;

pub struct Stack {
    below: Vec<Box<dyn Tuning>>,
    top: Box<dyn Tuning>,
}

impl Stack {
    /// Refuses adapters below that can't be merged.
    pub fn new(below: Vec<Box<dyn Tuning>>, top: Box<dyn Tuning>) -> Result<Self> {
        below.iter().try_for_each(|tuning| tuning.merges())?;
        Ok(Self { below, top })
    }
}

impl Attach for Stack {
    fn meet(&self, layout: &dyn Layout) -> Result<()> {
        self.below.iter().chain([&self.top]).try_for_each(|tuning| tuning.meet(layout))
    }

    fn trains(&self, name: &str) -> bool {
        self.top.trains(name)
    }

    fn linear(&self, name: &str, mut linear: Linear, store: &mut Store) -> Result<Linear> {
        for tuning in &self.below {
            linear = tuning.linear(name, linear, &mut Store::default())?.settled()?;
        }
        self.top.linear(name, linear, store)
    }

    fn bottleneck(&self, name: &str, width: usize, device: &Device, store: &mut Store) -> Result<Option<Bottleneck>> {
        self.top.bottleneck(name, width, device, store)
    }

    fn virtual_tokens(
        &self,
        config: &DecoderConfig,
        embedding: &Parameter,
        store: &mut Store,
    ) -> Result<Option<VirtualTokens>> {
        self.top.virtual_tokens(config, embedding, store)
    }
}

impl Tuning for Stack {
    fn tokenize(&mut self, tokenizer: &Tokenizer) -> Result<()> {
        self.top.tokenize(tokenizer)
    }

    fn tokens_ahead(&self) -> usize {
        self.top.tokens_ahead()
    }

    fn switches_off(&self) -> bool {
        self.top.switches_off()
    }

    fn changes_base(&self) -> Option<&'static str> {
        Some("adapter_name_or_path")
    }

    fn count(&self, layout: &dyn Layout) -> Result<(u64, Vec<String>)> {
        self.below.iter().try_for_each(|tuning| tuning.count(layout).map(|_| ()))?;
        self.top.count(layout)
    }

    fn place(&self, model: &dyn Network) -> Result<()> {
        self.below.iter().chain([&self.top]).try_for_each(|tuning| tuning.place(model))
    }

    fn merges(&self) -> Result<()> {
        self.top.merges()
    }

    fn saves_model(&self) -> bool {
        self.top.saves_model()
    }

    fn rate_factor(&self, parameter: &Parameter) -> f64 {
        self.top.rate_factor(parameter)
    }

    fn begin(&self, steps: u64) -> Result<()> {
        self.top.begin(steps)
    }

    fn penalise(&self, store: &Store, grads: &mut Grads) -> Result<f64> {
        self.top.penalise(store, grads)
    }

    fn after_step(&self, store: &Store, grads: &Grads, scale: f64, step: u64) -> Result<()> {
        self.top.after_step(store, grads, scale, step)
    }

    fn save(&self, dir: &Path, model: &dyn Network, store: &Store, base: &Base, precision: Precision) -> Result<()> {
        self.top.save(dir, model, store, base, precision)
    }

    fn restore(&self, store: &Store, checkpoint: &Path) -> Result<()> {
        self.top.restore(store, checkpoint)
    }
}
