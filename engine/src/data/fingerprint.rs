//! A hash of what is learned: the tokens of all samples in their order, and which of them have a loss.

use super::Samples;
use crate::{Result, files::digest::hex};
use sha2::{Digest, Sha256};

/// Samples that are read together.
const TOGETHER: u32 = 256;

/// SHA-256 in hexadecimal digits. The same rows give the same, wherever they stand; a changed, missing or moved row, another
/// tokenizer, template or length another one.
pub fn fingerprint(samples: &Samples) -> Result<String> {
    let mut hash = Sha256::new();
    let count = samples.len() as u32;
    for first in (0..count).step_by(TOGETHER as usize) {
        let indices: Vec<u32> = (first..count.min(first.saturating_add(TOGETHER))).collect();
        let batch = samples.batch(&indices)?;
        for numbers in [&batch.ids, &batch.rows, &batch.targets] {
            feed(&mut hash, numbers.iter().copied());
        }
        feed(&mut hash, batch.lengths.iter().map(|length| *length as u32));
        feed(&mut hash, batch.marks.iter().map(|mark| mark.to_bits()));
    }
    feed(&mut hash, [count].into_iter());
    Ok(hex(&hash.finalize()))
}

/// Numbers with their count before them.
fn feed(hash: &mut Sha256, numbers: impl ExactSizeIterator<Item = u32>) {
    let mut bytes = (numbers.len() as u64).to_le_bytes().to_vec();
    bytes.extend(numbers.flat_map(u32::to_le_bytes));
    hash.update(&bytes);
}
