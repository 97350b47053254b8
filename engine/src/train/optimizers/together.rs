//! Many small tensors as one, so that a step on a device is a few launches.

use crate::{Result, kernels::device::float};
use candle_core::{DType, Tensor};

/// Values that are joined for one step on a device.
const JOINED: usize = 1 << 24;

/// Whether the values can be read and changed where they are.
pub fn in_place(t: &Tensor) -> bool {
    t.device().is_cpu() && t.dtype() == DType::F32
}

/// Neighbours with up to [`JOINED`] values together; a larger one alone.
pub fn groups<T>(all: &[T], count: impl Fn(&T) -> usize) -> Vec<&[T]> {
    let (mut groups, mut start, mut values) = (Vec::new(), 0, 0);
    for (i, one) in all.iter().enumerate() {
        if i > start && values + count(one) > JOINED {
            groups.push(&all[start..i]);
            (start, values) = (i, 0);
        }
        values += count(one);
    }
    groups.extend((start < all.len()).then(|| &all[start..]));
    groups
}

/// All values, one after another, in float32.
pub fn join<'a>(tensors: impl Iterator<Item = &'a Tensor>) -> Result<Tensor> {
    let flat: Vec<Tensor> = tensors.map(|t| float(&t.flatten_all()?)).collect::<Result<_>>()?;
    Ok(match flat.as_slice() {
        [one] => one.clone(),
        flat => Tensor::cat(flat, 0)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_keep_the_order_and_their_size() {
        let sizes = [JOINED - 1, 1, 1, JOINED + 5, 2];
        let found: Vec<_> = groups(&sizes, |n| *n).into_iter().map(<[usize]>::len).collect();
        assert_eq!(found, [2, 1, 1, 1]);
        assert!(groups(&[], |n: &usize| *n).is_empty());
    }
}
