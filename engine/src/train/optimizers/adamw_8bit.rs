//! AdamW with both moments in 8 bits (Dettmers et al., 2022): blocks of 256 values, each with a scale, in the dynamic code
//! of bitsandbytes. Tensors of fewer than 4096 values keep float32.

use super::{
    Entry,
    each::{At, Each, Moments, Rule, State, zeros},
};
use crate::{
    Error, Result,
    kernels::{
        floats,
        quantised::codes::{BLOCK, SIGNED, UNSIGNED, decode, encode},
    },
};
use api::params;
use candle_core::{DType, Device, Tensor};
use rayon::prelude::*;

pub const ENTRY: Entry = Entry {
    optim: params::Optimizer::Adamw8bit,
    start: |train, _| Box::new(Each::new(train, AdamW8bit(Moments::new(train)))),
    bytes: |trainable| trainable * 2 + trainable / 32,
    whole: false,
};

/// Values from which on a tensor's moments are quantised.
const LARGE: usize = 4096;

struct AdamW8bit(Moments);

/// One block of everything, and the numbers of a step.
struct Block<'a> {
    value: &'a mut [f32],
    gradient: &'a [f32],
    m: (&'a mut [u8], &'a mut f32),
    v: (&'a mut [u8], &'a mut f32),
}

impl Rule for AdamW8bit {
    /// Codes `m` and `v`, scales `ms` and `vs`.
    fn begin(&self, _: &str, value: &Tensor) -> Result<State> {
        let count = value.elem_count();
        if count < LARGE {
            return Moments::begin(value, value.dims());
        }
        let codes = || Tensor::zeros(count, DType::U8, &Device::Cpu);
        let scales = || zeros(&Tensor::zeros(0, DType::F32, &Device::Cpu)?, count.div_ceil(BLOCK));
        Ok(State::from([("m", codes()?), ("ms", scales()?), ("v", codes()?), ("vs", scales()?)]))
    }

    fn next(&self, at: &At, value: &Tensor, gradient: &Tensor, state: &mut State) -> Result<Tensor> {
        if !state.contains_key("ms") {
            return at.less(value, &self.0.direction(at.step, gradient, state)?, at.rate);
        }
        // On a device too the codes are made by the processor.
        let gradient = gradient.to_device(&Device::Cpu)?.flatten_all()?;
        let here = value.to_device(&Device::Cpu)?.flatten_all()?;
        let (gradient, mut new) = (floats(&gradient)?, floats(&here)?.to_vec());
        let (mut m, mut ms) = (take::<u8>(state, "m")?, take::<f32>(state, "ms")?);
        let (mut v, mut vs) = (take::<u8>(state, "v")?, take::<f32>(state, "vs")?);
        let moments = (m.par_chunks_mut(BLOCK).zip(&mut ms)).zip(v.par_chunks_mut(BLOCK).zip(&mut vs));
        let blocks = new.par_chunks_mut(BLOCK).zip(gradient.par_chunks(BLOCK)).zip(moments);
        blocks.for_each(|((value, gradient), (m, v))| self.block(at, Block { value, gradient, m, v }));
        let (codes, scales) = (m.len(), ms.len());
        for (kind, values) in [("m", m), ("v", v)] {
            state.insert(kind, Tensor::from_vec(values, codes, &Device::Cpu)?);
        }
        for (kind, values) in [("ms", ms), ("vs", vs)] {
            state.insert(kind, Tensor::from_vec(values, scales, &Device::Cpu)?);
        }
        Ok(Tensor::from_vec(new, value.shape(), &Device::Cpu)?.to_device(value.device())?)
    }
}

impl AdamW8bit {
    fn block(&self, at: &At, block: Block) {
        let Moments { beta1, beta2, eps } = self.0;
        let power = i32::try_from(at.step).unwrap_or(i32::MAX);
        let size = (at.rate / (1.0 - beta1.powi(power))) as f32;
        let root = (1.0 - beta2.powi(power)).sqrt() as f32;
        let (keep, eps) = ((1.0 - at.rate * at.decay) as f32, eps as f32);
        let (beta1, beta2) = (beta1 as f32, beta2 as f32);
        let (mut m, mut v) = ([0.0; BLOCK], [0.0; BLOCK]);
        let n = block.value.len();
        let (m, v) = (&mut m[..n], &mut v[..n]);
        decode(&SIGNED, block.m.0, *block.m.1, m);
        decode(&UNSIGNED, block.v.0, *block.v.1, v);
        for ((value, g), (m, v)) in block.value.iter_mut().zip(block.gradient).zip(m.iter_mut().zip(v.iter_mut())) {
            *m = beta1 * *m + (1.0 - beta1) * g;
            *v = beta2 * *v + (1.0 - beta2) * g * g;
            *value = *value * keep - size * *m / (v.sqrt() / root + eps);
        }
        *block.m.1 = encode(&SIGNED, m, block.m.0);
        *block.v.1 = encode(&UNSIGNED, v, block.v.0);
    }
}

fn take<T: candle_core::WithDType>(state: &mut State, kind: &'static str) -> Result<Vec<T>> {
    let tensor = state.remove(kind).ok_or_else(|| Error::Internal(format!("no state {kind}")))?;
    Ok(tensor.to_vec1()?)
}
