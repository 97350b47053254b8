//! One step of AdamW (Loshchilov and Hutter, 2019) on float32 slices, in one pass over memory.

use super::{
    lanes::finite,
    values::{room, simd},
};
use rayon::prelude::*;

/// Values that a task changes.
const TASK: usize = 1 << 14;

/// The numbers of one step.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    pub beta1: f32,
    pub beta2: f32,
    pub eps: f32,
    /// Factor on the gradients.
    pub scale: f32,
    /// Factor on the weights, for their decay.
    pub keep: f32,
    /// Learning rate over the first moment's correction.
    pub size: f32,
    /// Root of the second moment's correction.
    pub root: f32,
}

/// Changes both moments along the gradients and gives the new weights, and whether all of them are finite; on all threads.
/// All slices have one length.
pub fn adamw(w: &[f32], m: &mut [f32], v: &mut [f32], g: &[f32], step: Step) -> (Vec<f32>, bool) {
    let mut new = room(w.len());
    let state = m.par_chunks_mut(TASK).zip(v.par_chunks_mut(TASK));
    let all = new.par_chunks_mut(TASK).zip(state).zip(w.par_chunks(TASK).zip(g.par_chunks(TASK)));
    let all_finite = all.map(|((new, (m, v)), (w, g))| part(new, w, m, v, g, step)).reduce(|| true, |a, b| a && b);
    (new, all_finite)
}

simd! {
    fn part[](new: &mut [f32], w: &[f32], m: &mut [f32], v: &mut [f32], g: &[f32], step: Step) -> bool {
        let Step { beta1, beta2, eps, scale, keep, size, root } = step;
        for ((new, (w, g)), (m, v)) in new.iter_mut().zip(w.iter().zip(g)).zip(m.iter_mut().zip(v)) {
            let g = g * scale;
            *m += (g - *m) * (1.0 - beta1);
            *v = beta2 * *v + (1.0 - beta2) * g * g;
            *new = w * keep - size * *m / (v.sqrt() / root + eps);
        }
        // While they are in the cache.
        finite(new)
    }
}
