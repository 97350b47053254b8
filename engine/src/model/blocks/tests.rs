//! The oracle: every block gives the output and the gradients of its plain form under candle's autograd.

#![allow(clippy::unwrap_used)]

use super::*;
use crate::{
    kernels::{
        attention::{Shape, Span},
        head::{Gradients, cross_entropy},
        plain,
    },
    model::{
        Batch, DecoderConfig, Model, Parameter, Source, Store, build, config::RopeConfig, config::RopeScaling,
        rope::RopeTable,
    },
};
use candle_core::{DType, Device, Var};
use std::{collections::BTreeMap, sync::Arc};

fn random(shape: &[usize]) -> Tensor {
    Tensor::randn(0f32, 1.0, shape, &Device::Cpu).unwrap()
}

fn near(what: &str, ours: &Tensor, oracle: &Tensor) {
    assert_eq!(ours.shape(), oracle.shape(), "{what}");
    let worst = (ours - oracle).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
    let size = oracle.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
    assert!(worst <= 2e-5 * size.max(1.0), "{what}: {worst} off, values up to {size}");
}

fn parameter(name: &str, shape: &[usize]) -> Arc<Parameter> {
    Parameter::new(name, random(shape), true)
}

fn pass<'a>(lengths: &[usize], dim: usize) -> Pass<'a> {
    let mut start = 0;
    let spans = lengths.iter().map(|n| {
        let span = start..start + n;
        start += n;
        Span { queries: span.clone(), keys: span }
    });
    let rope = RopeConfig { theta: 100.0, scaling: RopeScaling::None };
    let sequences: Vec<_> = lengths.iter().map(|n| (0, *n)).collect();
    let spans = spans.collect();
    let compute = DType::F32;
    Pass {
        spans,
        compute,
        rope: RopeTable::new(&rope, dim, &sequences, &Device::Cpu).unwrap(),
        cache: None,
        random: None,
    }
}

/// Compares a block with `f(x, parameters)` under autograd: output, gradient of x, gradient of each parameter.
fn check(
    block: &dyn Block,
    x: Tensor,
    pass: &Pass,
    parameters: &[&Arc<Parameter>],
    f: impl Fn(&Tensor, &[Tensor]) -> Tensor,
) {
    let (mut keep, mut grads) = (Keep::default(), Grads::default());
    let y = block.forward(&x, pass, &mut keep).unwrap();
    let dy = random(y.dims());
    let dx = block.backward(dy.clone(), pass, &mut keep, &mut grads).unwrap();
    assert!(keep.is_empty(), "backward left something of forward's");

    let x = Var::from_tensor(&x).unwrap();
    let vars: Vec<Var> = parameters.iter().map(|p| Var::from_tensor(&p.get()).unwrap()).collect();
    let tensors: Vec<Tensor> = vars.iter().map(|v| v.as_tensor().clone()).collect();
    let plain = f(x.as_tensor(), &tensors);
    near("output", &y, &plain);
    let oracle = (plain * dy).unwrap().sum_all().unwrap().backward().unwrap();
    near("gradient of x", &dx, oracle.get(&x).unwrap());
    for (p, v) in parameters.iter().zip(&vars) {
        near(
            &p.name,
            grads.get(&p.name).unwrap_or_else(|| panic!("{} got no gradient", p.name)),
            oracle.get(v).unwrap(),
        );
    }
}

fn linear(name: &str, inp: usize, out: usize, bias: bool) -> Linear {
    let bias = bias.then(|| parameter(&format!("{name}.bias"), &[out]));
    Linear { weight: parameter(&format!("{name}.weight"), &[out, inp]), bias, branch: None }
}

fn apply(x: &Tensor, w: &Tensor) -> Tensor {
    x.matmul(&w.t().unwrap()).unwrap()
}

#[test]
fn rms_norm() {
    for dims in [vec![7, 33], vec![5, 3, 16]] {
        let norm = RmsNorm { weight: parameter("w", &dims[dims.len() - 1..]), eps: 1e-5 };
        check(&norm, random(&dims), &pass(&[7], 4), &[&norm.weight], |x, p| plain::rms_norm(x, &p[0], 1e-5).unwrap());
    }
}

#[test]
fn linear_with_bias() {
    let block = linear("l", 17, 9, true);
    let bias = block.bias.clone().unwrap();
    check(&block, random(&[6, 17]), &pass(&[6], 4), &[&block.weight, &bias], |x, p| {
        apply(x, &p[0]).broadcast_add(&p[1]).unwrap()
    });
}

#[test]
fn gated_mlp() {
    let block =
        GatedMlp { gate: linear("g", 8, 20, false), up: linear("u", 8, 20, false), down: linear("d", 20, 8, false) };
    let p = [&block.gate.weight, &block.up.weight, &block.down.weight];
    check(&block, random(&[6, 8]), &pass(&[6], 4), &p, |x, p| {
        apply(&plain::swiglu(&apply(x, &p[0]), &apply(x, &p[1])).unwrap(), &p[2])
    });
}

/// Sequences longer than a tile, grouped queries, windows, norms on heads, biases.
#[test]
fn attention() {
    for (lengths, window, norms) in
        [(vec![5], None, false), (vec![3, 70, 1], None, true), (vec![130, 9], Some(8), true)]
    {
        let (heads, kv_heads, dim, hidden) = (4, 2, 8, 12);
        let shape = Shape { heads, kv_heads, dim, scale: 0.3, window, softcap: None };
        let norm = |name: &str| norms.then(|| RmsNorm { weight: parameter(name, &[dim]), eps: 1e-6 });
        let block = Attention {
            q: linear("q", hidden, heads * dim, false),
            k: linear("k", hidden, kv_heads * dim, true),
            v: linear("v", hidden, kv_heads * dim, false),
            out: linear("o", heads * dim, hidden, false),
            q_norm: norm("qn"),
            k_norm: norm("kn"),
            shape,
            layer: 0,
        };
        let (tokens, pass) = (lengths.iter().sum(), pass(&lengths, dim));
        let bias = block.k.bias.clone().unwrap();
        let mut parameters = vec![&block.q.weight, &block.k.weight, &bias, &block.v.weight, &block.out.weight];
        parameters.extend(block.q_norm.iter().chain(&block.k_norm).map(|n| &n.weight));
        check(&block, random(&[tokens, hidden]), &pass, &parameters, |x, p| {
            let head = |x: Tensor, n: usize, norm: usize| {
                let x = x.reshape((tokens, n, dim)).unwrap();
                let x = if norms { plain::rms_norm(&x, &p[norm], 1e-6).unwrap() } else { x };
                plain::rope(&x, &pass.rope.cos, &pass.rope.sin).unwrap()
            };
            let q = head(apply(x, &p[0]), heads, 5);
            let k = head(apply(x, &p[1]).broadcast_add(&p[2]).unwrap(), kv_heads, 6);
            let v = apply(x, &p[3]).reshape((tokens, kv_heads, dim)).unwrap();
            apply(&plain::attention(&q, &k, &v, &pass.spans, shape).unwrap(), &p[4])
        });
    }
}

#[test]
fn head() {
    let (h, w) = (random(&[300, 16]), random(&[50, 16]));
    let targets: Vec<u32> = (0..300).map(|i| i * 7 % 50).collect();
    let ours = cross_entropy(&h, &w, &targets, 0.25, Gradients::HiddenAndWeight).unwrap();
    let oracle = plain::cross_entropy(&h, &w, &targets, 0.25, Gradients::HiddenAndWeight).unwrap();
    assert!((ours.sum / oracle.sum - 1.0).abs() < 1e-6);
    near("dh", &ours.hidden.unwrap(), &oracle.hidden.unwrap());
    near("dw", &ours.weight.unwrap(), &oracle.weight.unwrap());
}

fn tiny(recompute: bool, seed: u64) -> (Model, Store) {
    struct All;
    impl crate::model::Attach for All {
        fn trains(&self, _: &str) -> bool {
            true
        }
    }
    let config = DecoderConfig::read(&serde_json::json!({
        "vocab_size": 40, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "tie_word_embeddings": true, "initializer_range": 0.3
    }));
    let mut store = Store::default();
    let mut model =
        build(&config.unwrap(), &Source::Random { seed }, &All, &mut store, &Device::Cpu, DType::F32).unwrap();
    model.recompute = recompute;
    (model, store)
}

fn batch() -> Batch {
    let (a, b): (Vec<u32>, Vec<u32>) = ((0..9).map(|i| i * 5 % 40).collect(), (0..4).map(|i| i * 11 % 40).collect());
    Batch::new([(&*a, &[true; 9][..]), (&*b, &[false, true, false, true][..])])
}

/// Gradients of the whole model against finite differences of its loss, along random directions in float64 sums.
#[test]
fn the_whole_model_against_finite_differences() {
    let (model, store) = tiny(false, 3);
    let mut grads = Grads::default();
    model.learn(&batch(), 1.0, 0, &mut grads).unwrap();
    for p in store.trainable() {
        let value = p.get();
        let direction = random(value.dims());
        let slope = (grads.get(&p.name).unwrap() * &direction).unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap();
        let norm = direction.sqr().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap().sqrt();
        let step = f64::from(2e-2 / norm);
        let at = |factor: f64| {
            p.set((&value + (&direction * factor).unwrap()).unwrap());
            let loss = model.loss(&batch()).unwrap();
            p.set(value.clone());
            loss
        };
        let measured = (at(step) - at(-step)) / (2.0 * step);
        assert!(
            (measured - f64::from(slope)).abs() < 2e-2 * measured.abs().max(1.0),
            "{}: {measured} and {slope}",
            p.name
        );
    }
}

#[test]
fn recomputing_changes_nothing() {
    let gradients = |recompute: bool| {
        let (model, _) = tiny(recompute, 9);
        let mut grads = Grads::default();
        let loss = model.learn(&batch(), 0.5, 7, &mut grads).unwrap();
        let all: BTreeMap<String, Vec<f32>> =
            grads.iter().map(|(n, g)| (n.to_string(), g.flatten_all().unwrap().to_vec1().unwrap())).collect();
        (loss.to_bits(), all)
    };
    assert_eq!(gradients(false), gradients(true));
}

/// Packed sequences do not see each other, and the cache gives what a whole pass gives.
#[test]
fn packing_and_cache_change_nothing() {
    let (model, _) = tiny(false, 5);
    let (a, b) = ([1u32, 5, 9, 2, 7, 7], [3u32, 3, 8]);
    let joined = model.logits(&[&a[..], &b[..]].concat(), &[6, 3]).unwrap();
    near("first", &joined.narrow(0, 0, 6).unwrap(), &model.logits(&a, &[6]).unwrap());
    near("second", &joined.narrow(0, 6, 3).unwrap(), &model.logits(&b, &[3]).unwrap());
    let mut cache = crate::model::Cache::new(2);
    model.step(&a[..3], &mut cache).unwrap();
    model.step(&a[3..5], &mut cache).unwrap();
    let last = Tensor::from_vec(model.step(&a[5..], &mut cache).unwrap(), 40, &Device::Cpu).unwrap();
    near("cached", &last, &model.logits(&a, &[6]).unwrap().get(5).unwrap());
    assert_eq!(last.dtype(), DType::F32);
}
