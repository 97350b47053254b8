use super::*;
use crate::{
    kernels::{
        matmul::{Factor, Times, sum},
        values::cast,
    },
    random::Random,
};

fn normal(rows: usize, columns: usize) -> Tensor {
    let mut random = Random::new(3, 0);
    let values: Vec<f32> = (0..rows * columns).map(|_| random.normal() * 0.05).collect();
    Tensor::from_vec(values, (rows, columns), &Device::Cpu).unwrap()
}

fn distance(a: &Tensor, b: &Tensor) -> f32 {
    (a - b).unwrap().abs().unwrap().max_all().unwrap().to_scalar().unwrap()
}

/// Every form of blocks, with a shape whose rows are no whole blocks where the form allows it.
fn all() -> Vec<Quantised> {
    let (odd, even) = (normal(37, 75), normal(40, 512));
    let mut all = Vec::new();
    for kind in [Quantisation::Nf4 { double: true }, Quantisation::Nf4 { double: false }, Quantisation::Int8] {
        all.push(Quantised::new(kind, &odd, &Device::Cpu).unwrap());
    }
    for kind in [GgmlDType::Q4_0, GgmlDType::Q8_0, GgmlDType::Q4K, GgmlDType::Q5K, GgmlDType::Q6K] {
        let packed = candle_core::quantized::QTensor::quantize(&even, kind).unwrap();
        let ours = Quantised::from_ggml(kind, &packed.data().unwrap(), (40, 512), &Device::Cpu).unwrap();
        assert_eq!(ours.bytes(), packed.storage_size_in_bytes());
        assert_eq!(distance(&ours.tensor().unwrap(), &packed.dequantize(&Device::Cpu).unwrap()), 0.0, "{kind:?}");
        all.push(ours);
    }
    all
}

#[test]
fn parts_are_parts_of_the_whole() {
    for matrix in all() {
        let (rows, columns) = matrix.dims();
        let whole = matrix.tensor().unwrap();
        for (r, c) in [(0..1, 0..1), (3..9, 5..columns), (rows - 1..rows, 13..14), (2..5, 0..columns), (7..8, 63..70)] {
            let (mut part, expected) = (Vec::new(), whole.narrow(0, r.start, r.len()).unwrap());
            matrix.read(r, c.clone(), &mut part);
            let expected = expected.narrow(1, c.start, c.len()).unwrap().flatten_all().unwrap();
            assert_eq!(part, expected.to_vec1::<f32>().unwrap(), "{matrix:?}");
        }
    }
}

/// Forward and backward, for many tokens and for a few, in float32 and in bf16.
#[test]
fn products_are_those_of_the_dense_matrix() {
    for matrix in all() {
        let ((rows, columns), dense) = (matrix.dims(), matrix.tensor().unwrap());
        for tokens in [1, 3, 50] {
            for compute in [DType::F32, DType::BF16] {
                let (x, dy) = (cast(&normal(tokens, columns), compute).unwrap(), normal(tokens, rows));
                let dy = cast(&dy, compute).unwrap();
                let (x, dy) = (Factor::new(&x, compute).unwrap(), Factor::new(&dy, compute).unwrap());
                let pairs = [
                    (Times::AcrossQuantised(&x, &matrix), Times::Across(&x, &dense)),
                    (Times::DownQuantised(&dy, &matrix), Times::Down(&dy, &dense)),
                ];
                for (ours, expected) in pairs {
                    let [ours, expected] = [ours, expected].map(|times| sum(&[times], DType::F32).unwrap());
                    assert!(distance(&ours, &expected) < 1e-6, "{tokens} {compute:?} {matrix:?}");
                }
            }
        }
    }
}

/// What a GPU computes, by the same operations on the CPU.
#[test]
fn other_devices_make_the_same_values() {
    for matrix in all() {
        let Place::Cpu(blocks) = &matrix.place else { panic!("not here") };
        let there = blocks.on(matrix.dims(), &Device::Cpu).unwrap();
        assert!(distance(&there.tensor(matrix.dims()).unwrap(), &matrix.tensor().unwrap()) < 1e-7);
        assert!(there.bytes() >= matrix.bytes());
    }
}

#[test]
fn zeros_stay_zeros_and_memory_is_what_was_promised() {
    let zeros = Tensor::zeros((3, 64), DType::F32, &Device::Cpu).unwrap();
    for kind in [Quantisation::Nf4 { double: false }, Quantisation::Int8] {
        assert_eq!(distance(&Quantised::new(kind, &zeros, &Device::Cpu).unwrap().tensor().unwrap(), &zeros), 0.0);
    }
    for kind in [Quantisation::Nf4 { double: true }, Quantisation::Nf4 { double: false }, Quantisation::Int8] {
        let (bytes, promised) = (
            Quantised::new(kind, &normal(128, 256), &Device::Cpu).unwrap().bytes() as f64,
            kind.bytes(128 * 256) as f64,
        );
        assert!((bytes / promised - 1.0).abs() < 0.02, "{kind:?}: {bytes}, {promised}");
    }
}
