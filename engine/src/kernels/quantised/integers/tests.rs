use super::*;
use crate::{kernels::values::Values, random::Random};
use candle_core::{
    Device, Tensor,
    quantized::{GgmlDType, QTensor},
};

const KINDS: [GgmlDType; 8] = [
    GgmlDType::Q4_0,
    GgmlDType::Q4_1,
    GgmlDType::Q5_0,
    GgmlDType::Q5_1,
    GgmlDType::Q8_0,
    GgmlDType::Q4K,
    GgmlDType::Q5K,
    GgmlDType::Q6K,
];

fn normal(n: usize, seed: u64) -> Vec<f32> {
    let mut random = Random::new(seed, 0);
    (0..n).map(|_| random.normal()).collect()
}

/// Panels of a random matrix, and what candle reads from its blocks.
fn matrix(kind: GgmlDType, rows: usize, columns: usize) -> (Panels, Vec<f32>) {
    let w = Tensor::from_vec(normal(rows * columns, 7), (rows, columns), &Device::Cpu).unwrap();
    let packed = QTensor::quantize(&w, kind).unwrap();
    let dense = packed.dequantize(&Device::Cpu).unwrap().flatten_all().unwrap().to_vec1().unwrap();
    (Panels::new(kind, &packed.data().unwrap(), (rows, columns)).unwrap(), dense)
}

/// Every value is candle's, to the bit.
#[test]
fn panels_keep_every_value() {
    for kind in KINDS {
        let (panels, dense) = matrix(kind, 35, 512);
        let mut row = vec![0.0; 512];
        for (i, expected) in dense.chunks(512).enumerate() {
            panels.read_row(i, 0..512, &mut row);
            assert_eq!(row, expected, "{kind:?}, row {i}");
        }
    }
}

/// Products in every form equal those of the dense values with the rounded x, in float64.
#[test]
fn products_are_those_of_the_values() {
    for kind in KINDS {
        let (columns, rows) = (512, 35);
        let (panels, dense) = matrix(kind, rows, columns);
        for tokens in [1, 2, 5, 8, 11] {
            let x = normal(tokens * columns, 3);
            let x = Eights::new(Values::F32(&x), columns, panels.width());
            let mut y = vec![1.0; tokens * rows];
            panels.multiply(&x, Target::f32(&mut y, rows, true));
            for token in 0..tokens {
                let (row, block) = (x.row(token), panels.width().columns());
                for (i, w) in dense.chunks(columns).enumerate() {
                    let value = |j: usize| f64::from(row.codes[j]) * f64::from(row.scales[j / block]);
                    let exact: f64 = (0..columns).map(|j| value(j) * f64::from(w[j])).sum();
                    let found = f64::from(y[token * rows + i]) - 1.0;
                    // Minima meet a sum in float16's steps.
                    let most = if matches!(kind, GgmlDType::Q4_1 | GgmlDType::Q5_1) { 0.05 } else { 2e-4 };
                    assert!((found - exact).abs() < most, "{kind:?} {tokens}: {found}, not {exact}");
                }
                let mut sums: Sums = [[0.0; LANES]; MOST];
                portable::tile(panels.panel(1), &x, token, 1, &mut sums);
                for (i, sum) in sums[0].iter().enumerate() {
                    let found = y[token * rows + LANES + i] - 1.0;
                    assert!((sum - found).abs() < 1e-4, "{kind:?}: {sum}, not {found}");
                }
            }
        }
    }
}

/// Rounded as ggml does: by hand for a block of each kind.
#[test]
fn activations_are_rounded_as_ggml_rounds() {
    let mut x = [0f32; 256];
    (x[0], x[1], x[2], x[40]) = (12.7, -6.35, 0.05, 3.0);
    let of_32 = Eights::new(Values::F32(&x), 256, Width::Of32);
    let row = of_32.row(0);
    assert_eq!((&row.codes[..4], row.codes[40]), (&[127, -64, 0, 0][..], 127));
    assert_eq!(row.scales[..2], [half::f16::from_f32(0.1).to_f32(), half::f16::from_f32(3.0 / 127.0).to_f32()]);
    assert_eq!(row.sums[..3], [63, 127, 0]);
    assert_eq!(row.weighted[0], half::f16::from_f32(6.3).to_f32());
    let of_256 = Eights::new(Values::F32(&x), 256, Width::Of256);
    let row = of_256.row(0);
    assert_eq!((&row.codes[..4], row.codes[40]), (&[-127, 64, 0, 0][..], -30));
    assert!((row.scales[0] + 0.1).abs() < 1e-7);
    assert_eq!(row.sums[..4], [-63, 0, -30, 0]);
}

#[test]
fn other_kinds_and_rows_that_are_no_whole_blocks_have_no_panels() {
    assert!(Panels::new(GgmlDType::Q2K, &[0; 84], (1, 256)).is_none());
    assert!(Panels::new(GgmlDType::Q4_0, &[0; 18], (1, 16)).is_none());
    assert!(Panels::new(GgmlDType::Q4_0, &[0; 17], (1, 32)).is_none());
}
