//! On the CPU, each form gives what the CPU's own kernel gives: in float32 nearly to the bit, in bf16 to the last of
//! its 8 digits.

#![allow(clippy::unwrap_used)]

use super::*;
use crate::kernels::{
    activation, attention as cpu_attention,
    attention::{Shape, Span},
    head, norm, rope as cpu_rope,
};
use candle_core::Device;

/// Random values that bf16 holds exactly, so that both types start from the same.
fn random(shape: &[usize]) -> Tensor {
    let t = Tensor::randn(0f32, 1.0, shape, &Device::Cpu).unwrap();
    t.to_dtype(DType::BF16).unwrap().to_dtype(DType::F32).unwrap()
}

fn near(what: &str, found: &Tensor, expected: &Tensor, like: DType) {
    assert_eq!((found.dtype(), found.shape()), (like, expected.shape()), "{what}");
    let worst = (float(found).unwrap() - expected).unwrap().abs().unwrap().max_all().unwrap();
    let size = expected.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
    let (worst, bound) = (worst.to_scalar::<f32>().unwrap(), bound(like) * size.max(1.0));
    assert!(worst <= bound, "{what} in {like:?}: {worst} off, {bound} allowed");
}

/// Relative: of bf16 a rounding of the result, and one of a value that was needed for it.
fn bound(like: DType) -> f32 {
    if like == DType::F32 { 1e-5 } else { 1.0 / 128.0 }
}

const TYPES: [DType; 2] = [DType::F32, DType::BF16];

fn typed<const N: usize>(tensors: [&Tensor; N], like: DType) -> [Tensor; N] {
    tensors.map(|t| t.to_dtype(like).unwrap())
}

#[test]
fn norms_gates_and_rotations() {
    let (x, w, dy) = (random(&[7, 3, 16]), random(&[16]), random(&[7, 3, 16]));
    let (cos, sin) = (random(&[7, 8]), random(&[7, 8]));
    for like in TYPES {
        let [tx, tdy] = typed([&x, &dy], like);
        near("norm", &rms_norm(&tx, &w, 1e-5).unwrap(), &norm::rms_norm(&x, &w, 1e-5, DType::F32).unwrap(), like);
        let (dx, dw) = rms_norm_backward(&tx, &w, &tdy, 1e-5, true).unwrap();
        let (expected, expected_dw) = norm::rms_norm_backward(&x, &w, &dy, 1e-5, true).unwrap();
        near("norm's dx", &dx, &expected, like);
        near("norm's dw", &dw.unwrap(), &expected_dw.unwrap(), DType::F32);
        assert!(rms_norm_backward(&tx, &w, &tdy, 1e-5, false).unwrap().1.is_none());

        for kind in [Activation::Relu, Activation::Silu, Activation::Gelu, Activation::GeluTanh] {
            near("gate", &gated(kind, &tx, &tdy).unwrap(), &activation::gated(kind, &x, &dy).unwrap(), like);
            let (dg, du) = gated_backward(kind, &tx, &tdy, &tx).unwrap();
            let (expected_dg, expected_du) = activation::gated_backward(kind, &x, &dy, &x).unwrap();
            near("gate's dg", &dg, &expected_dg, like);
            near("gate's du", &du, &expected_du, like);
        }

        for (n, interleaved) in [(8, false), (8, true), (3, false), (3, true)] {
            let [cos, sin] = [&cos, &sin].map(|t| t.narrow(1, 0, n).unwrap().contiguous().unwrap());
            let expected = |backward| cpu_rope::rope(&x, &cos, &sin, interleaved, backward).unwrap();
            near("rotation", &rope(&tx, &cos, &sin, interleaved).unwrap(), &expected(false), like);
            let back = rope(&tx, &cos, &sin.neg().unwrap(), interleaved).unwrap();
            near("rotation back", &back, &expected(true), like);
        }
    }
}

#[test]
fn attention_by_tiles() {
    // Lengths of the packed sequences, a window, a cap of the scores, and how many scores may exist at a time.
    for (lengths, window, softcap, scores) in [
        (vec![5], None, None, 1 << 20),
        (vec![70, 70, 3], None, Some(2.0), 1 << 20),
        (vec![200, 9], None, None, 1),
        (vec![150, 150], Some(20), Some(5.0), 1),
        (vec![8, 8, 8], Some(3), None, 1 << 20),
    ] {
        let shape = Shape { heads: 6, kv_heads: 2, dim: 8, scale: 0.4, window, softcap };
        let mut start = 0;
        let spans: Vec<Span> = lengths
            .iter()
            .map(|n| {
                start += n;
                Span { queries: start - n..start, keys: start - n..start }
            })
            .collect();
        let (q, k, v, dy) =
            (random(&[start, 6, 8]), random(&[start, 2, 8]), random(&[start, 2, 8]), random(&[start, 48]));
        let expected = cpu_attention::attention(&q, &k, &v, &spans, shape).unwrap();
        let (dq, dk, dv) = cpu_attention::attention_backward(&q, &k, &v, &dy, &spans, shape).unwrap();
        for like in TYPES {
            let [q, k, v, dy] = typed([&q, &k, &v, &dy], like);
            near("output", &attention::attention_by(&q, &k, &v, &spans, shape, scores).unwrap(), &expected, like);
            let found = attention::attention_backward_by(&q, &k, &v, &dy, &spans, shape, scores).unwrap();
            near("dq", &found.0, &dq, like);
            near("dk", &found.1, &dk, like);
            near("dv", &found.2, &dv, like);
        }
    }
}

/// More keys than queries, as with a cache.
#[test]
fn attention_to_earlier_keys() {
    for (queries, window) in [(1, None), (1, Some(4)), (3, None), (3, Some(4))] {
        let shape = Shape { heads: 4, kv_heads: 4, dim: 8, scale: 0.4, window, softcap: None };
        let (q, k, v) = (random(&[queries, 4, 8]), random(&[11, 4, 8]), random(&[11, 4, 8]));
        let spans = [Span { queries: 0..queries, keys: 0..11 }];
        let expected = cpu_attention::attention(&q, &k, &v, &spans, shape).unwrap();
        near("output", &attention(&q, &k, &v, &spans, shape).unwrap(), &expected, DType::F32);
    }
}

#[test]
fn cross_entropy_by_chunks() {
    let (h, w) = (random(&[50, 16]), (random(&[30, 16]) * 0.25).unwrap());
    let targets: Vec<u32> = (0..50).map(|i| i * 7 % 30).collect();
    let want = Gradients::HiddenAndWeight;
    for (like, cap) in TYPES.into_iter().flat_map(|like| [(like, None), (like, Some(2.0))]) {
        let expected = head::cross_entropy(&h, &w, &targets, Scale::All(0.5), cap, want).unwrap();
        let [th, tw] = typed([&h, &w], like);
        for chunk in [7, 50, 1000] {
            let found = cross_entropy_by(&th, &tw, &targets, Scale::All(0.5), cap, want, chunk).unwrap();
            let off = (found.sum() / expected.sum() - 1.0).abs();
            assert!(off < if like == DType::F32 { 1e-6 } else { 2e-3 }, "loss in {like:?}: {off}");
            near("dh", found.hidden.as_ref().unwrap(), expected.hidden.as_ref().unwrap(), like);
            let dw = found.weight.unwrap();
            assert_eq!(dw.dtype(), DType::F32);
            near("dw", &dw.to_dtype(like).unwrap(), expected.weight.as_ref().unwrap(), like);
        }
        let none = cross_entropy(&th, &tw, &targets, Scale::All(0.5), cap, Gradients::None).unwrap();
        assert!(none.hidden.is_none() && none.weight.is_none());
    }
    // A loss beyond what exp can say stays finite.
    let sure = Tensor::new(&[[200f32], [-200.0]], &Device::Cpu).unwrap();
    let one = Tensor::ones((1, 1), DType::F32, &Device::Cpu).unwrap();
    assert!(
        (cross_entropy(&one, &sure, &[1], Scale::All(1.0), None, Gradients::None).unwrap().sum() - 400.0).abs() < 1e-3
    );
}
