//! The 8-bit dynamic code (Dettmers, 2015): values of [-1, 1] or [0, 1], denser near 0, in blocks with the largest
//! absolute value of each as its scale. bitsandbytes quantises optimizer states and the scales of NF4 so.

use std::sync::LazyLock;

/// Values of one scale.
pub const BLOCK: usize = 256;

/// What each byte stands for, in rising order.
pub static SIGNED: LazyLock<[f32; 256]> = LazyLock::new(|| dynamic(true));
pub static UNSIGNED: LazyLock<[f32; 256]> = LazyLock::new(|| dynamic(false));

/// Decades of `2^i` fractions each (twice as many without a sign), with 0 and 1.
fn dynamic(signed: bool) -> [f32; 256] {
    let mut values = vec![0.0, 1.0];
    for decade in 0..7 {
        let fractions = if signed { 1 << decade } else { 2 << decade };
        let step = 0.9f32 / fractions as f32;
        // From whichever end is nearer, as PyTorch's linspace.
        let edge = |i: usize| match 2 * i <= fractions {
            true => 0.1 + step * i as f32,
            false => 1.0 - step * (fractions - i) as f32,
        };
        for i in 0..fractions {
            let value = 10f64.powi(decade - 6) as f32 * ((edge(i) + edge(i + 1)) / 2.0);
            values.push(value);
            if signed {
                values.push(-value);
            }
        }
    }
    values.sort_by(f32::total_cmp);
    let mut table = [0.0; 256];
    table.copy_from_slice(&values);
    table
}

/// The code of `table` (rising) nearest to x; of two as near the lower.
#[inline]
pub fn nearest(table: &[f32], x: f32) -> u8 {
    let above = table.partition_point(|v| *v < x).min(table.len() - 1);
    let below = above.saturating_sub(1);
    if x > (table[below] + table[above]) / 2.0 { above as u8 } else { below as u8 }
}

/// Largest absolute value.
pub fn largest(values: &[f32]) -> f32 {
    values.iter().fold(0.0, |most, v| most.max(v.abs()))
}

/// Codes of one block, and its scale.
pub fn encode(table: &[f32; 256], values: &[f32], out: &mut [u8]) -> f32 {
    let scale = largest(values);
    let inverse = 1.0 / scale.max(1e-38);
    values.iter().zip(out).for_each(|(v, out)| *out = nearest(table, v * inverse));
    scale
}

/// The values of one block.
pub fn decode(table: &[f32; 256], codes: &[u8], scale: f32, out: &mut [f32]) {
    codes.iter().zip(out).for_each(|(code, out)| *out = table[usize::from(*code)] * scale);
}
