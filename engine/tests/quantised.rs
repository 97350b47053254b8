//! Quantised matrices against bitsandbytes; `fixtures/quantised/make.py` made the values.
#![allow(clippy::unwrap_used)]

mod common;

use candle_core::{DType, Device, Tensor};
use common::{distance, read_tensors};
use engine::kernels::quantised::{Quantisation, Quantised, codes};
use std::path::Path;

#[test]
fn values_are_those_of_bitsandbytes() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/quantised");
    let expected = read_tensors(&folder.join("expected.safetensors"));
    let kinds = [
        ("nf4", Quantisation::Nf4 { double: false }),
        ("nf4_double", Quantisation::Nf4 { double: true }),
        ("int8", Quantisation::Int8),
    ];
    let mut compared = 0;
    for name in ["even", "odd", "many"] {
        let matrix = expected[name].to_dtype(DType::F32).unwrap();
        for (kind, quantisation) in kinds {
            let Some(wanted) = expected.get(&format!("{name}.{kind}")) else { continue };
            let ours = Quantised::new(quantisation, &matrix, &Device::Cpu).unwrap().tensor().unwrap();
            // Of the largest, the fixture has the last rows.
            let (rows, last) = (ours.dim(0).unwrap(), wanted.dim(0).unwrap());
            let off = distance(&ours.narrow(0, rows - last, last).unwrap(), wanted);
            compared += 1;
            assert!(off < 1e-6, "{name} as {kind} is off by {off}");
        }
    }
    assert_eq!(compared, 7);
    for (name, table) in [("signed", &codes::SIGNED), ("unsigned", &codes::UNSIGNED)] {
        let table = Tensor::new(&table[..], &Device::Cpu).unwrap();
        assert!(distance(&table, &expected[name]) < 1e-7, "{name}");
    }
}
