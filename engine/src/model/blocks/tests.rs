//! The oracle: every block gives the output and the gradients of its plain form under candle's autograd, and the
//! gradients are the slopes of the plain form in float64, by finite differences.

#![allow(clippy::unwrap_used)]

use super::*;
use crate::{
    kernels::{
        self,
        activation::Activation,
        attention::{Shape, Span},
        composed,
        head::{Gradients, Scale, cross_entropy},
        plain,
    },
    model::{
        Batch, Cache, Model, PAGE, Parameter, Piece, Source, Store, Weights, build,
        families::family,
        rope::{RopeConfig, RopeScaling, RopeTable},
    },
};
use candle_core::{DType, Device, Var};
use serde_json::json;
use std::{collections::BTreeMap, sync::Arc};

/// Normal numbers, others at each call, the same in each run.
fn random(shape: &[usize]) -> Tensor {
    thread_local!(static CALLS: std::cell::Cell<u64> = const { std::cell::Cell::new(0) });
    let mut numbers = crate::random::Random::new(7, CALLS.replace(CALLS.get() + 1));
    let values: Vec<f32> = (0..shape.iter().product()).map(|_| numbers.normal()).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
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
    let rope = RopeConfig { theta: 100.0, dim, interleaved: false, scaling: RopeScaling::None };
    let sequences: Vec<_> = lengths.iter().map(|n| (0, *n)).collect();
    let spans = spans.collect();
    let rope = Some(RopeTable::new(&rope, &sequences, &Device::Cpu).unwrap());
    let compute = DType::F32;
    Pass {
        spans,
        positions: Vec::new(),
        rope,
        window_rope: None,
        cache: None,
        ahead: None,
        compute,
        random: None,
        weights: Weights::Tuned,
    }
}

/// Compares gradients of a scalar function with its slopes along random directions in float64.
fn check_slopes(what: &str, inputs: &[&Tensor], gradients: &[&Tensor], f: impl Fn(&[Tensor]) -> Tensor) {
    let wide = |t: &Tensor| t.to_dtype(DType::F64).unwrap();
    let value = |t: Tensor| t.sum_all().unwrap().to_scalar::<f64>().unwrap();
    for (i, gradient) in gradients.iter().enumerate() {
        let (gradient, direction) = (wide(gradient), wide(&random(inputs[i].dims())));
        let at = |step: f64| {
            let mut moved: Vec<Tensor> = inputs.iter().map(|t| wide(t)).collect();
            moved[i] = (&moved[i] + (&direction * step).unwrap()).unwrap();
            value(f(&moved))
        };
        let measured = (at(1e-5) - at(-1e-5)) / 2e-5;
        let (slope, norm) = (value((&gradient * &direction).unwrap()), value(gradient.sqr().unwrap()).sqrt());
        assert!((measured - slope).abs() <= 1e-5 * norm.max(1.0), "{what}, input {i}: slope {measured}, not {slope}");
    }
}

/// Compares a block with `f(x, parameters)`: output, gradient of x, gradient of each parameter.
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
    let oracle = (plain * &dy).unwrap().sum_all().unwrap().backward().unwrap();
    near("gradient of x", &dx, oracle.get(&x).unwrap());
    for (p, v) in parameters.iter().zip(&vars) {
        near(
            &p.name,
            grads.get(&p.name).unwrap_or_else(|| panic!("{} got no gradient", p.name)),
            oracle.get(v).unwrap(),
        );
    }
    let inputs: Vec<&Tensor> = [x.as_tensor()].into_iter().chain(&tensors).collect();
    let found: Vec<&Tensor> = [&dx].into_iter().chain(parameters.iter().map(|p| grads.get(&p.name).unwrap())).collect();
    check_slopes("block", &inputs, &found, |inputs| {
        (f(&inputs[0], &inputs[1..]) * dy.to_dtype(DType::F64).unwrap()).unwrap()
    });
}

fn linear(name: &str, inp: usize, out: usize, bias: bool) -> Linear {
    let bias = bias.then(|| parameter(&format!("{name}.bias"), &[out]));
    Linear::new(parameter(&format!("{name}.weight"), &[out, inp]), bias)
}

fn apply(x: &Tensor, w: &Tensor) -> Tensor {
    x.matmul(&w.t().unwrap()).unwrap()
}

fn rms(weight: Arc<Parameter>) -> RmsNorm {
    RmsNorm { weight, eps: 1e-5, plus_one: false }
}

#[test]
fn rms_norm() {
    for dims in [vec![7, 33], vec![5, 3, 16]] {
        for plus_one in [false, true] {
            let norm = RmsNorm { plus_one, ..rms(parameter("w", &dims[dims.len() - 1..])) };
            check(&norm, random(&dims), &pass(&[7], 4), &[&norm.weight], |x, p| {
                let w = if plus_one { (&p[0] + 1.0).unwrap() } else { p[0].clone() };
                plain::rms_norm(x, &w, 1e-5).unwrap()
            });
        }
    }
}

#[test]
fn layer_norm() {
    for dims in [vec![7, 33], vec![5, 3, 16]] {
        let dim = &dims[dims.len() - 1..];
        let norm = LayerNorm { weight: parameter("w", dim), bias: parameter("b", dim), eps: 1e-5 };
        check(&norm, (random(&dims) + 3.0).unwrap(), &pass(&[7], 4), &[&norm.weight, &norm.bias], |x, p| {
            composed::layer_norm(x, &p[0], &p[1], 1e-5).unwrap()
        });
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
fn linear_with_low_rank_branch() {
    for dropout in [0.0, 0.4] {
        let branch = LowRank::new("l", parameter("a", &[3, 17]), parameter("b", &[9, 3]), 0.5, dropout);
        let (a, b) = (branch.a.clone(), branch.b.clone());
        let block = Linear { branch: Some(branch), ..linear("l", 17, 9, true) };
        let bias = block.bias.clone().unwrap();
        let pass = Pass { random: Some(5), ..pass(&[6], 4) };
        let ones = Tensor::ones((6, 17), DType::F32, &Device::Cpu).unwrap();
        let mask = kernels::dropout::dropout(&ones, dropout, pass.random_at("l").unwrap()).unwrap();
        let dropped =
            mask.eq(0.0).unwrap().to_dtype(DType::F32).unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap();
        assert!(if dropout == 0.0 { dropped == 0.0 } else { (20.0..60.0).contains(&dropped) }, "{dropped} of 102");
        check(&block, random(&[6, 17]), &pass, &[&block.weight, &bias, &a, &b], |x, p| {
            let seen = (x * mask.to_dtype(x.dtype()).unwrap()).unwrap();
            let low = (apply(&apply(&seen, &p[2]), &p[3]) * 0.5).unwrap();
            (apply(x, &p[0]).broadcast_add(&p[1]).unwrap() + low).unwrap()
        });
    }
}

/// The lengths count as constants, and what dropout takes from the branch the plain weight still sees.
#[test]
fn linear_with_dora() {
    for dropout in [0.0, 0.4] {
        let branch = LowRank::new("l", parameter("a", &[3, 17]), parameter("b", &[9, 3]), 0.5, dropout);
        let (a, b) = (branch.a.clone(), branch.b.clone());
        let plain = Linear { branch: Some(branch), ..linear("l", 17, 9, true) };
        let magnitude = parameter("m", &[9]);
        let lengths = plain.sum().unwrap().sqr().unwrap().sum(1).unwrap().sqrt().unwrap();
        near("lengths", &Dora::lengths_of(&plain).unwrap(), &lengths);
        let patch = Dora::new(&plain, magnitude.clone()).unwrap();
        let weight = Parameter::new("l.weight", plain.weight.get(), false);
        let block = Linear { patch: Some(Box::new(patch)), weight: weight.clone(), ..plain };
        let bias = block.bias.clone().unwrap();
        let pass = Pass { random: Some(5), ..pass(&[6], 4) };
        let ones = Tensor::ones((6, 17), DType::F32, &Device::Cpu).unwrap();
        let mask = kernels::dropout::dropout(&ones, dropout, pass.random_at("l").unwrap()).unwrap();
        check(&block, random(&[6, 17]), &pass, &[&bias, &a, &b, &magnitude], |x, p| {
            let [mask, w, lengths] = [&mask, &weight.get(), &lengths].map(|t| t.to_dtype(x.dtype()).unwrap());
            let seen = (x * mask).unwrap();
            let low = (apply(&apply(&seen, &p[1]), &p[2]) * 0.5).unwrap();
            let directed = (apply(&seen, &w) + low).unwrap();
            let turned = directed.broadcast_mul(&(&p[3] / lengths).unwrap()).unwrap();
            let rest = (apply(x, &w) - apply(&seen, &w)).unwrap();
            (turned + rest).unwrap().broadcast_add(&p[0]).unwrap()
        });
    }
}

#[test]
fn linear_with_singular_values() {
    let branch = LowRank::new("l", parameter("a", &[3, 17]), parameter("b", &[9, 3]), 0.5, 0.0);
    let branch = LowRank { sizes: Some(parameter("e", &[3, 1])), ..branch };
    let (a, b, e) = (branch.a.clone(), branch.b.clone(), branch.sizes.clone().unwrap());
    let block = Linear { branch: Some(branch), ..linear("l", 17, 9, false) };
    check(&block, random(&[6, 17]), &pass(&[6], 4), &[&block.weight, &a, &b, &e], |x, p| {
        let low = apply(&apply(x, &p[1].broadcast_mul(&p[3]).unwrap()), &p[2]);
        (apply(x, &p[0]) + (low * 0.5).unwrap()).unwrap()
    });
}

#[test]
fn rescaled_linear() {
    for of_input in [false, true] {
        let vector = parameter("v", &if of_input { [1, 17] } else { [9, 1] });
        let patch = Rescale { vector: vector.clone(), of_input };
        let block = Linear { patch: Some(Box::new(patch)), ..linear("l", 17, 9, true) };
        let bias = block.bias.clone().unwrap();
        check(&block, random(&[6, 17]), &pass(&[6], 4), &[&block.weight, &bias, &vector], |x, p| {
            let v = p[2].flatten_all().unwrap();
            let x = if of_input { x.broadcast_mul(&v).unwrap() } else { x.clone() };
            let y = apply(&x, &p[0]).broadcast_add(&p[1]).unwrap();
            if of_input { y } else { y.broadcast_mul(&v).unwrap() }
        });
    }
}

/// Each block of inputs with a rotation of its own, or one for all, made of 2, 3, 5 and 6 terms.
#[test]
fn rotated_linear() {
    for (terms, shared) in [(2, false), (3, true), (5, false), (6, false)] {
        let triangles = parameter("r", &[if shared { 1 } else { 3 }, 6]);
        let patch = Rotate { triangles: triangles.clone(), size: 4, terms };
        let block = Linear { patch: Some(Box::new(patch)), ..linear("l", 12, 9, true) };
        let bias = block.bias.clone().unwrap();
        check(&block, random(&[5, 12]), &pass(&[5], 4), &[&block.weight, &bias, &triangles], |x, p| {
            let kind = x.dtype();
            let mut parts = Vec::new();
            for block in 0..3 {
                let row = p[2].get(if shared { 0 } else { block }).unwrap();
                let mut q = Tensor::zeros((4, 4), kind, &Device::Cpu).unwrap();
                let pairs = (0..4).flat_map(|i| (i + 1..4).map(move |j| (i, j)));
                for (k, (i, j)) in pairs.enumerate() {
                    let mut turn = vec![0f32; 16];
                    (turn[4 * i + j], turn[4 * j + i]) = (1.0, -1.0);
                    let turn = Tensor::from_vec(turn, (4, 4), &Device::Cpu).unwrap().to_dtype(kind).unwrap();
                    q = (q + turn.broadcast_mul(&row.get(k).unwrap()).unwrap()).unwrap();
                }
                let mut sum = Tensor::eye(4, kind, &Device::Cpu).unwrap();
                let mut power = q.clone();
                let last = if terms == 2 { 1 } else { (terms - 1).max(3) };
                for n in 1..=last {
                    let factor = if n == last && terms > 2 { 1.0 } else { 2.0 };
                    sum = (sum + (&power * factor).unwrap()).unwrap();
                    power = power.matmul(&q).unwrap();
                }
                parts.push(x.narrow(1, 4 * block, 4).unwrap().matmul(&sum).unwrap());
            }
            apply(&Tensor::cat(&parts, 1).unwrap(), &p[0]).broadcast_add(&p[1]).unwrap()
        });
    }
}

/// In an MLP the last linear's input is made again on the way back, unless a patch keeps what it wants.
#[test]
fn mlp_with_patches() {
    let vector = |name: &str, shape: [usize; 2], of_input: bool| {
        let vector = parameter(name, &shape);
        (vector.clone(), Box::new(Rescale { vector, of_input }) as Box<dyn Patch>)
    };
    let ((u, up_patch), (d, down_patch)) = (vector("u", [20, 1], false), vector("d", [1, 20], true));
    let up = Linear { patch: Some(up_patch), ..linear("up", 8, 20, false) };
    let down = Linear { patch: Some(down_patch), ..linear("down", 20, 8, false) };
    let gate = linear("gate", 8, 20, false);
    let weights = [gate.weight.clone(), up.weight.clone(), down.weight.clone()];
    let block = Mlp { first: MlpInput::Gated { gate, up }, activation: Activation::Silu, down };
    let p = [&weights[0], &weights[1], &weights[2], &u, &d];
    check(&block, random(&[6, 8]), &pass(&[6], 4), &p, |x, p| {
        let [u, d] = [&p[3], &p[4]].map(|v| v.flatten_all().unwrap());
        let hidden = gated(Activation::Silu, &apply(x, &p[0]), &apply(x, &p[1]).broadcast_mul(&u).unwrap());
        apply(&hidden.broadcast_mul(&d).unwrap(), &p[2])
    });
}

const ACTIVATIONS: [Activation; 4] = [Activation::Relu, Activation::Silu, Activation::Gelu, Activation::GeluTanh];

fn gated(kind: Activation, gate: &Tensor, up: &Tensor) -> Tensor {
    (composed::activate(kind, gate).unwrap() * up).unwrap()
}

#[test]
fn gated_mlp() {
    for activation in ACTIVATIONS {
        let (gate, up) = (linear("g", 8, 20, false), linear("u", 8, 20, false));
        let weights = [gate.weight.clone(), up.weight.clone()];
        let block = Mlp { first: MlpInput::Gated { gate, up }, activation, down: linear("d", 20, 8, false) };
        let p = [&weights[0], &weights[1], &block.down.weight];
        check(&block, random(&[6, 8]), &pass(&[6], 4), &p, |x, p| {
            apply(&gated(activation, &apply(x, &p[0]), &apply(x, &p[1])), &p[2])
        });
    }
}

#[test]
fn mlps_with_one_linear_before_the_activation() {
    for (activation, fused) in ACTIVATIONS.into_iter().flat_map(|a| [(a, true), (a, false)]) {
        let first = linear("f", 8, 40, true);
        let weights = [first.weight.clone(), first.bias.clone().unwrap()];
        let down = linear("d", if fused { 20 } else { 40 }, 8, false);
        let first = if fused { MlpInput::Fused(first) } else { MlpInput::Plain(first) };
        let block = Mlp { first, activation, down };
        let p = [&weights[0], &weights[1], &block.down.weight];
        check(&block, random(&[6, 8]), &pass(&[6], 4), &p, |x, p| {
            let y = apply(x, &p[0]).broadcast_add(&p[1]).unwrap();
            let y = match fused {
                true => gated(activation, &y.narrow(1, 0, 20).unwrap(), &y.narrow(1, 20, 20).unwrap()),
                false => composed::activate(activation, &y).unwrap(),
            };
            apply(&y, &p[2])
        });
    }
}

/// Sequences longer than a tile, grouped queries, windows, norms on heads and over their width, biases, capped scores,
/// neighbours or a part of each head rotated, q, k and v in one linear.
#[test]
fn attention() {
    let (heads, kv_heads, dim, hidden) = (4, 2, 8, 12);
    let (q, kv) = (heads * dim, kv_heads * dim);
    for case in 0..10 {
        let lengths = [vec![5], vec![3, 70, 1], vec![130, 9]][case % 3].clone();
        let norm_size = [None, Some([dim, dim]), Some([q, kv])][case / 3 % 3];
        let softcap = (case % 2 == 1).then_some(1.5);
        let window = (case % 4 == 2).then_some(8);
        let (interleaved, rotated) = (case % 5 > 2, [dim, dim / 2][case % 2]);
        let shape = Shape { heads, kv_heads, dim, scale: 0.3, window, softcap };
        let norm = |name: &str, size: usize| Norm::Rms(rms(parameter(name, &[size])));
        let one = linear("one", hidden, q + 2 * kv, true);
        let (qp, kp, vp) =
            (linear("q", hidden, q, false), linear("k", hidden, kv, true), linear("v", hidden, kv, false));
        let weights: Vec<_> = match case % 3 {
            0 => vec![qp.weight.clone(), kp.weight.clone(), kp.bias.clone().unwrap(), vp.weight.clone()],
            _ => vec![one.weight.clone(), one.bias.clone().unwrap()],
        };
        let block = Attention {
            qkv: match case % 3 {
                0 => Qkv::Separate { q: qp, k: kp, v: vp },
                1 => Qkv::Fused(one),
                _ => Qkv::Grouped(one),
            },
            out: linear("o", q, hidden, false),
            q_norm: norm_size.map(|[n, _]| norm("qn", n)),
            k_norm: norm_size.map(|[_, n]| norm("kn", n)),
            shape,
            interleaved,
            layer: 0,
        };
        let (tokens, pass) = (lengths.iter().sum::<usize>(), pass(&lengths, rotated));
        let rope = pass.rope.clone().unwrap();
        let mut parameters: Vec<&Arc<Parameter>> = vec![&block.out.weight];
        parameters.extend(block.q_norm.iter().chain(&block.k_norm).map(|n| match n {
            Norm::Rms(norm) => &norm.weight,
            Norm::Layer(norm) => &norm.weight,
        }));
        let first = parameters.len();
        parameters.extend(&weights);
        check(&block, random(&[tokens, hidden]), &pass, &parameters, |x, p| {
            let head = |x: &Tensor, n: usize, norm: usize| {
                let x = match norm_size.map(|sizes| sizes[norm - 1]) {
                    Some(size) => {
                        let x = x.reshape((tokens, n * dim / size, size)).unwrap();
                        plain::rms_norm(&x, &p[norm], 1e-5).unwrap()
                    }
                    None => x.clone(),
                };
                let x = x.reshape((tokens, n, dim)).unwrap();
                let [cos, sin] = [&rope.cos, &rope.sin].map(|t| t.to_dtype(x.dtype()).unwrap());
                composed::rope(&x, &cos, &sin, interleaved).unwrap()
            };
            let w = &p[first..];
            let part = |x: &Tensor, start, n| x.narrow(1, start, n).unwrap();
            let [q, k, v] = match case % 3 {
                0 => [apply(x, &w[0]), apply(x, &w[1]).broadcast_add(&w[2]).unwrap(), apply(x, &w[3])],
                1 => {
                    let y = apply(x, &w[0]).broadcast_add(&w[1]).unwrap();
                    [part(&y, 0, q), part(&y, q, kv), part(&y, q + kv, kv)]
                }
                _ => {
                    let y = apply(x, &w[0]).broadcast_add(&w[1]).unwrap();
                    // Of each key/value head 4 pieces of a head's size: two queries, key, value.
                    let pieces = |which: &[usize]| {
                        let all: Vec<_> = (0..kv_heads)
                            .flat_map(|h| which.iter().map(move |i| (4 * h + i) * dim))
                            .map(|start| part(&y, start, dim))
                            .collect();
                        Tensor::cat(&all, 1).unwrap()
                    };
                    [pieces(&[0, 1]), pieces(&[2]), pieces(&[3])]
                }
            };
            let v = v.reshape((tokens, kv_heads, dim)).unwrap();
            let (q, k) = (head(&q, heads, 1), head(&k, kv_heads, 2));
            apply(&plain::attention(&q, &k, &v, &pass.spans, shape).unwrap(), &p[0])
        });
    }
}

/// The weights of the chosen experts are a function of x, too.
#[test]
fn experts() {
    for (active, normalised) in [(2, true), (3, false), (1, false), (1, true)] {
        let (count, tokens) = (5, 9);
        let expert = |e: usize| {
            let (gate, up) = (linear(&format!("g{e}"), 8, 12, false), linear(&format!("u{e}"), 8, 12, false));
            let down = linear(&format!("d{e}"), 12, 8, false);
            Mlp { first: MlpInput::Gated { gate, up }, activation: Activation::Silu, down }
        };
        let router = linear("r", 8, count, false);
        let block = Experts { router, experts: (0..count).map(expert).collect(), active, normalised };
        let mut parameters = vec![&block.router.weight];
        let experts: Vec<_> = block.experts.iter().flat_map(Mlp::linears).map(|l| l.weight.clone()).collect();
        parameters.extend(&experts);
        let pass = pass(&[tokens], 4);
        // One expert alone with weight 1 has a router without gradient, which autograd doesn't name.
        if active == 1 && normalised {
            parameters.remove(0);
        }
        let start = parameters.len() - 3 * count;
        let fixed = block.router.weight.get();
        check(&block, random(&[tokens, 8]), &pass, &parameters, |x, p| {
            let router = if start == 0 { fixed.to_dtype(x.dtype()).unwrap() } else { p[0].clone() };
            let probabilities = candle_nn::ops::softmax(&apply(x, &router), 1).unwrap();
            let chosen: Vec<f64> = probabilities
                .to_dtype(DType::F64)
                .unwrap()
                .to_vec2::<f64>()
                .unwrap()
                .iter()
                .flat_map(|row| {
                    let mut sorted = row.clone();
                    sorted.sort_by(|a, b| b.total_cmp(a));
                    let least = sorted[active - 1];
                    row.iter().map(move |p| if *p >= least { 1.0 } else { 0.0 }).collect::<Vec<f64>>()
                })
                .collect();
            let mask = Tensor::from_vec(chosen, (tokens, count), &Device::Cpu).unwrap().to_dtype(x.dtype()).unwrap();
            let mut weights = (&probabilities * mask).unwrap();
            if normalised {
                weights = weights.broadcast_div(&weights.sum_keepdim(1).unwrap()).unwrap();
            }
            let mut y = (x * 0.0).unwrap();
            for e in 0..count {
                let w = &p[start + 3 * e..];
                let part = apply(&gated(Activation::Silu, &apply(x, &w[0]), &apply(x, &w[1])), &w[2]);
                y = (y + part.broadcast_mul(&weights.narrow(1, e, 1).unwrap()).unwrap()).unwrap();
            }
            y
        });
    }
}

#[test]
fn head() {
    let (h, w) = (random(&[300, 16]), random(&[50, 16]));
    let targets: Vec<u32> = (0..300).map(|i| i * 7 % 50).collect();
    let scales: Vec<f32> = (0..300).map(|i| (i % 5) as f32 * 0.25 - 0.5).collect();
    let each = Tensor::new(scales.as_slice(), &Device::Cpu).unwrap();
    for (cap, scale) in [(None, Scale::All(0.25)), (Some(3.0), Scale::All(0.25)), (Some(3.0), Scale::Rows(&scales))] {
        let ours = cross_entropy(&h, &w, &targets, scale, cap, Gradients::HiddenAndWeight).unwrap();
        let oracle = plain::cross_entropy(&h, &w, &targets, scale, cap).unwrap();
        assert!((ours.sum() / oracle.sum() - 1.0).abs() < 1e-6);
        let (dh, dw) = (ours.hidden.unwrap(), ours.weight.unwrap());
        near("dh", &dh, &oracle.hidden.unwrap());
        near("dw", &dw, &oracle.weight.unwrap());
        check_slopes("head", &[&h, &w], &[&dh, &dw], |p| {
            let losses = plain::losses(&p[0], &p[1], &targets, cap).unwrap();
            let scaled = match scale {
                Scale::All(scale) => losses * f64::from(scale),
                Scale::Rows(_) => losses.broadcast_mul(&each.to_dtype(p[0].dtype()).unwrap()),
            };
            scaled.unwrap().sum_all().unwrap()
        });
    }
}

/// Configurations that between them take each turn of the decoder.
fn families() -> Vec<serde_json::Value> {
    let with = |more: serde_json::Value| {
        let mut config = serde_json::json!({
            "vocab_size": 40, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": true, "initializer_range": 0.3
        });
        for (key, value) in more.as_object().unwrap() {
            config[key] = value.clone();
        }
        config
    };
    vec![
        with(json!({"model_type": "llama"})),
        with(json!({
            "model_type": "gemma2", "head_dim": 6, "sliding_window": 3, "query_pre_attn_scalar": 5,
            "attn_logit_softcapping": 2.0, "final_logit_softcapping": 4.0
        })),
        with(json!({"model_type": "gemma3_text", "head_dim": 6, "sliding_window": 3, "sliding_window_pattern": 2})),
        with(json!({"model_type": "phi3", "tie_word_embeddings": false})),
        with(json!({"model_type": "glm4", "head_dim": 8})),
        with(json!({"model_type": "internlm2", "bias": true})),
        with(json!({"model_type": "olmo2"})),
        with(
            json!({"model_type": "granite", "residual_multiplier": 0.7, "logits_scaling": 3, "embedding_multiplier": 2}),
        ),
        with(json!({"model_type": "gpt2", "n_embd": 16, "n_positions": 20})),
        with(json!({"model_type": "gpt_neox", "rotary_pct": 0.5})),
        with(json!({"model_type": "mixtral", "num_local_experts": 3, "num_experts_per_tok": 2})),
        with(json!({
            "model_type": "qwen3_moe", "head_dim": 6, "num_experts": 3, "num_experts_per_tok": 2,
            "moe_intermediate_size": 12, "mlp_only_layers": [1]
        })),
    ]
}

fn tiny(config: &serde_json::Value, recompute: bool, seed: u64) -> (Model, Store) {
    tiny_in(config, recompute, seed, DType::F32)
}

fn tiny_in(config: &serde_json::Value, recompute: bool, seed: u64, compute: DType) -> (Model, Store) {
    struct All;
    impl crate::model::Attach for All {
        fn trains(&self, _: &str) -> bool {
            true
        }
    }
    let config = family(config).unwrap().config(config).unwrap();
    let mut store = Store::default();
    let mut model = build(&config, &Source::Random { seed }, &All, &mut store, &Device::Cpu, compute).unwrap();
    assert_eq!(store.count(), config.parameters());
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
    for mut config in families() {
        // All experts: where a small step changes the choice, the loss jumps.
        config["num_experts_per_tok"] = json!(3);
        let (model, store) = tiny(&config, false, 3);
        let mut grads = Grads::default();
        model.learn(&batch(), 1.0, 0, &mut grads).unwrap();
        for p in store.trainable() {
            let (value, gradient) = (p.get(), grads.get(&p.name).unwrap());
            let direction = random(value.dims());
            let slope = (gradient * &direction).unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap();
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
                "{}, {}: {measured} and {slope}",
                config["model_type"],
                p.name
            );
        }
    }
}

#[test]
fn recomputing_changes_nothing() {
    for config in families() {
        let gradients = |recompute: bool| {
            let (model, _) = tiny(&config, recompute, 9);
            let mut grads = Grads::default();
            let loss = model.learn(&batch(), 0.5, 7, &mut grads).unwrap();
            let all: BTreeMap<String, Vec<f32>> =
                grads.iter().map(|(n, g)| (n.to_string(), g.flatten_all().unwrap().to_vec1().unwrap())).collect();
            (loss.to_bits(), all)
        };
        assert_eq!(gradients(false), gradients(true), "{}", config["model_type"]);
    }
}

/// Packed sequences do not see each other, and the cache gives what a whole pass gives.
#[test]
fn packing_and_cache_change_nothing() {
    for config in families() {
        let (model, _) = tiny(&config, false, 5);
        let (a, b) = ([1u32, 5, 9, 2, 7, 7], [3u32, 3, 8]);
        let joined = model.logits(&[&a[..], &b[..]].concat(), &[6, 3]).unwrap();
        near("first", &joined.narrow(0, 0, 6).unwrap(), &model.logits(&a, &[6]).unwrap());
        near("second", &joined.narrow(0, 6, 3).unwrap(), &model.logits(&b, &[3]).unwrap());
        let trained = [true; 6];
        let of = |sequences: &[&[u32]]| Batch::new(sequences.iter().map(|ids| (*ids, &trained[..ids.len()])));
        let (both, alone) =
            (model.losses(&of(&[&a, &b])).unwrap(), [&a[..], &b].map(|ids| model.loss(&of(&[ids])).unwrap()));
        assert!(both.iter().zip(alone).all(|(packed, alone)| (packed - alone).abs() < 1e-4), "{both:?} {alone:?}");
        let mut cache = Cache::new(2);
        model.step(&a[..3], &mut cache).unwrap();
        model.step(&a[3..5], &mut cache).unwrap();
        let last = Tensor::from_vec(model.step(&a[5..], &mut cache).unwrap(), 40, &Device::Cpu).unwrap();
        near("cached", &last, &model.logits(&a, &[6]).unwrap().get(5).unwrap());
        assert_eq!(last.dtype(), DType::F32);
    }
}

fn piece(sequence: usize, ids: &[u32]) -> Piece<'_> {
    Piece { sequence, ids, wanted: true }
}

/// Sequences that advance together, begin and end at their own time and share what they have in common get the logits of
/// each alone.
#[test]
fn several_sequences_in_a_cache_are_each_for_itself() {
    for config in families() {
        let (model, _) = tiny(&config, false, 5);
        let (a, b) = (vec![1u32, 5, 9, 2, 7, 7], vec![3u32, 3, 8]);
        let check = |ids: &[u32], logits: &[f32]| {
            let last = model.logits(ids, &[ids.len()]).unwrap().get(ids.len() - 1).unwrap();
            near("logits", &Tensor::new(logits, &Device::Cpu).unwrap(), &last);
        };
        let mut cache = Cache::new(2);
        let step = |cache: &mut Cache, pieces: &[(usize, &[u32])]| -> Vec<Vec<f32>> {
            let pieces: Vec<_> = pieces.iter().map(|(sequence, ids)| piece(*sequence, ids)).collect();
            model.step_all(&pieces, cache).unwrap().into_iter().flatten().collect()
        };
        let (first, second) = (cache.begin(0), cache.begin(0));
        let logits = step(&mut cache, &[(first, &a), (second, &b)]);
        check(&a, &logits[0]);
        check(&b, &logits[1]);
        // Two that go on from a, one from b.
        let third = cache.fork(first).unwrap();
        let mut texts = [a.clone(), b, a];
        for tokens in [[4u32, 6, 2], [1, 1, 9], [9, 0, 3]] {
            let pieces: Vec<(usize, &[u32])> =
                [first, second, third].into_iter().zip(tokens.iter().map(std::slice::from_ref)).collect();
            let logits = step(&mut cache, &pieces);
            for ((text, token), logits) in texts.iter_mut().zip(tokens).zip(&logits) {
                text.push(token);
                check(text, logits);
            }
        }
        // The first ends, the others go on in another order, one of them by several tokens, and another joins.
        cache.release(first);
        let mut texts = [texts[2].clone(), texts[1].clone()];
        for _ in 0..3 {
            let logits = step(&mut cache, &[(third, &[8, 1, 4]), (second, &[5])]);
            texts[0].extend([8, 1, 4]);
            texts[1].push(5);
            texts.iter().zip(&logits).for_each(|(text, logits)| check(text, logits));
        }
        assert_eq!((cache.length(third), cache.length(second)), (texts[0].len(), texts[1].len()));
        // One that begins like another takes over its pages and is none the worse for it.
        let alike = cache.begin(0);
        let shared = cache.share(alike, &texts[0], 0).unwrap();
        assert_eq!(shared, PAGE);
        let logits = step(&mut cache, &[(second, &[7]), (alike, &texts[0][shared..])]);
        texts[1].push(7);
        check(&texts[1], &logits[0]);
        check(&texts[0], &logits[1]);
        cache.release(alike);
        assert!(model.step_all(&[piece(alike, &[1])], &mut cache).is_err(), "it is gone");
        assert!(model.step_all(&[piece(second, &[])], &mut cache).is_err());
        assert_eq!(cache.length(second), texts[1].len());
    }
}

/// Any loss of the log probabilities has the gradient that the same loss has when the head computes it.
#[test]
fn losses_of_log_probabilities_have_their_gradients() {
    for config in families() {
        let (model, store) = tiny(&config, false, 5);
        let (mut by, mut direct) = (Grads::default(), Grads::default());
        let sum = model.learn(&batch(), 0.5, 1, &mut direct).unwrap();
        let judge = |log_probs: &[f32]| Ok((log_probs.to_vec(), vec![-0.5; log_probs.len()]));
        let log_probs = model.learn_by(&batch(), 1, &mut by, judge).unwrap();
        assert_eq!(-log_probs.iter().copied().map(f64::from).sum::<f64>(), sum);
        assert_eq!(log_probs, model.log_probs(&batch(), Weights::Tuned).unwrap());
        for p in store.trainable() {
            near(&p.name, by.get(&p.name).unwrap(), direct.get(&p.name).unwrap());
        }
    }
}

/// Log probabilities and entropies at a temperature are those of the logits divided by it, also where these are capped, and
/// the gradient there is the slope.
#[test]
fn an_outlook_is_that_of_the_divided_logits() {
    for config in families() {
        let (model, _) = tiny(&config, false, 5);
        let (batch, temperature) = (batch(), 0.7f32);
        let h = model.states(&batch, Weights::Tuned).unwrap();
        let found = model.outlook(&h, &batch.targets, temperature).unwrap();
        let rows = Tensor::new(batch.rows.as_slice(), &Device::Cpu).unwrap();
        let logits = model.logits(&batch.ids, &batch.lengths).unwrap().index_select(&rows, 0).unwrap();
        let logits = (logits / f64::from(temperature)).unwrap();
        let log_probs = candle_nn::ops::log_softmax(&logits, 1).unwrap();
        let targets = Tensor::new(batch.targets.as_slice(), &Device::Cpu).unwrap().unsqueeze(1).unwrap();
        let chosen = log_probs.gather(&targets, 1).unwrap().flatten_all().unwrap();
        let entropies = (log_probs.exp().unwrap() * &log_probs).unwrap().sum(1).unwrap().neg().unwrap();
        let tensor = |values: Vec<f32>| Tensor::new(values, &Device::Cpu).unwrap();
        near("log probabilities", &tensor(found.log_probs), &chosen);
        near("entropies", &tensor(found.entropies), &entropies);

        let mut grads = Grads::default();
        let gradient = model
            .head_loss_backward_at(&h, &batch.targets, Scale::All(1.0), temperature, &mut grads)
            .unwrap()
            .hidden
            .unwrap();
        let (along, width) = (random(h.dims()), 1e-2);
        let loss = |sign: f64| -> f64 {
            let h = (&h + (&along * (sign * width)).unwrap()).unwrap();
            let seen = model.outlook(&h, &batch.targets, temperature).unwrap();
            -seen.log_probs.iter().copied().map(f64::from).sum::<f64>()
        };
        let slope = (loss(1.0) - loss(-1.0)) / (2.0 * width);
        let expected = f64::from((gradient * &along).unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap());
        assert!((slope - expected).abs() < 2e-2 * expected.abs().max(1.0), "{slope}, not {expected}");
    }
}

/// A pass through the base alone is that of a model to which nothing was attached.
#[test]
fn the_base_speaks_as_if_nothing_were_attached() {
    struct Branches;
    impl crate::model::Attach for Branches {
        fn linear(&self, name: &str, linear: Linear, store: &mut Store) -> crate::Result<Linear> {
            let (inp, out) = linear.dims()?;
            let (a, b) = (store.add(format!("{name}.a"), random(&[2, inp])), store.add(name, random(&[out, 2])));
            Ok(Linear { branch: Some(LowRank::new(name, a, b, 1.0, 0.0)), ..linear })
        }
    }
    for config in families() {
        let config = family(&config).unwrap().config(&config).unwrap();
        let [with, without]: [Model; 2] = [&Branches as &dyn crate::model::Attach, &()].map(|attach| {
            build(&config, &Source::Random { seed: 1 }, attach, &mut Store::default(), &Device::Cpu, DType::F32)
                .unwrap()
        });
        let base = with.log_probs(&batch(), Weights::Base).unwrap();
        assert_eq!(base, without.log_probs(&batch(), Weights::Tuned).unwrap());
        assert_ne!(base, with.log_probs(&batch(), Weights::Tuned).unwrap());
    }
}

/// NEFTune: noise in training alone, of the size that each sequence's length says, the same for the same key.
#[test]
fn noise_is_for_training_and_by_the_length_of_each_sequence() {
    let (mut model, _) = tiny(&families()[0], false, 5);
    let learned = |model: &Model, random: u64| model.learn(&batch(), 1.0, random, &mut Grads::default()).unwrap();
    let (plain, evaluated) = (learned(&model, 1), model.loss(&batch()).unwrap());
    model.noise = Some(5.0);
    assert_eq!(model.loss(&batch()).unwrap().to_bits(), evaluated.to_bits());
    assert_ne!(learned(&model, 1), plain);
    assert_eq!(learned(&model, 1).to_bits(), learned(&model, 1).to_bits());
    assert_ne!(learned(&model, 1), learned(&model, 2));

    let (bounds, width) = ([0.5f32, 0.5, 0.1], 4096);
    let noisy =
        kernels::dropout::noise(&Tensor::ones((3, width), DType::F32, &Device::Cpu).unwrap(), &bounds, 3).unwrap();
    for (row, bound) in noisy.to_vec2::<f32>().unwrap().iter().zip(bounds) {
        let noise: Vec<f32> = row.iter().map(|x| x - 1.0).collect();
        let (mean, square) =
            (noise.iter().sum::<f32>() / width as f32, noise.iter().map(|n| n * n).sum::<f32>() / width as f32);
        assert!(noise.iter().all(|n| n.abs() <= bound * 1.001));
        // A uniform number in ±b has the variance b² / 3.
        assert!(mean.abs() < 0.03 * bound && (square * 3.0 / (bound * bound) - 1.0).abs() < 0.06, "{mean} {square}");
    }
}

/// Learned positions end somewhere.
#[test]
fn more_tokens_than_learned_positions_are_a_problem() {
    let gpt2 = families().into_iter().find(|c| c["model_type"] == "gpt2").unwrap();
    let (model, _) = tiny(&gpt2, false, 1);
    let ids: Vec<u32> = (0..21).collect();
    assert!(model.logits(&ids[..20], &[20]).is_ok());
    let problem = model.logits(&ids, &[21]).unwrap_err().to_string();
    assert!(problem.contains("21") && problem.contains("20"), "{problem}");
}

/// bf16 keeps 8 bits of a value: gradients point the same way as those in float32, on every family.
#[test]
fn bf16_is_near_float32() {
    for config in families() {
        let kind = config["model_type"].as_str().unwrap_or_default();
        // A token's experts may be others after rounding.
        if kind.contains("moe") || kind == "mixtral" {
            continue;
        }
        let learn = |compute| {
            let (model, store) = tiny_in(&config, false, 3, compute);
            let mut grads = Grads::default();
            let loss = model.learn(&batch(), 1.0, 0, &mut grads).unwrap();
            let all = store.trainable().map(|p| grads.get(&p.name).unwrap().flatten_all().unwrap());
            (loss, Tensor::cat(&all.collect::<Vec<_>>(), 0).unwrap())
        };
        let ((loss, g), (loss16, g16)) = (learn(DType::F32), learn(DType::BF16));
        assert!((loss / loss16 - 1.0).abs() < 0.01, "{kind}: {loss} and {loss16}");
        let dot = |a: &Tensor, b: &Tensor| (a * b).unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap();
        let cosine = dot(&g, &g16) / (dot(&g, &g) * dot(&g16, &g16)).sqrt();
        assert!(cosine > 0.995, "{kind}: the cosine of the gradients is {cosine}");
    }
}
