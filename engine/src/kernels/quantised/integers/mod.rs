//! Products of GGUF's blocks with activations of 8 bits: whole numbers are multiplied and added up within a block, and only the
//! sums of blocks meet their scales, as llama.cpp does it. No weight becomes a float.
//!
//! The blocks of 16 rows stand side by side ([`Panels`]), so that each lane of a vector is a row, and one value of x
//! meets 16 weights at a time. Nothing is lost: the codes and scales are those of the file.

#[cfg(target_arch = "x86_64")]
mod avx512;
mod eights;
mod panels;
mod portable;

pub use eights::{Eights, Width};
pub use panels::Panels;

use crate::kernels::packed::Target;
use panels::Panel;
use rayon::prelude::*;

/// Rows of w that are multiplied at a time, one in each lane.
const LANES: usize = 16;
/// Rows of x that meet a panel at a time.
const MOST: usize = 8;
/// Columns whose codes stand together.
const CELL: usize = 32;
/// Products for which another thread is worth waking.
const TASK: usize = 1 << 18;

/// Products of some rows of x with a panel.
type Sums = [[f32; LANES]; MOST];

impl Panels {
    /// `to (+)= x wᵀ` on all threads: x (tokens, columns), this being w (rows, columns).
    pub fn multiply(&self, x: &Eights, to: Target) {
        assert!(x.columns() == self.columns() && x.width() == self.width(), "an x of another width");
        let (tokens, rows) = (x.rows(), self.rows());
        let panels = rows.div_ceil(LANES);
        let wanted = (tokens * rows * self.columns() / TASK).clamp(1, rayon::current_num_threads() * 4);
        let each = panels.div_ceil(wanted);
        let run = |task: usize| {
            for panel in task * each..((task + 1) * each).min(panels) {
                self.multiply_panel(x, panel, to);
            }
        };
        match panels.div_ceil(each.max(1)) {
            1 => run(0),
            tasks => (0..tasks).into_par_iter().for_each(run),
        }
    }

    fn multiply_panel(&self, x: &Eights, number: usize, to: Target) {
        let panel = self.panel(number);
        let first = number * LANES;
        let width = LANES.min(self.rows() - first);
        let mut sums: Sums = [[0.0; LANES]; MOST];
        for row in (0..x.rows()).step_by(MOST) {
            let count = MOST.min(x.rows() - row);
            tile(panel, x, row, count, &mut sums);
            let to = to.part(row, first, count, width);
            match width {
                LANES => to.write(0..count, LANES, sums.as_flattened()),
                _ => (0..count).for_each(|i| to.part(i, 0, 1, width).write(0..1, width, &sums[i][..width])),
            }
        }
    }
}

/// Products of the rows `row..row + count` of x with a panel.
fn tile(panel: Panel, x: &Eights, row: usize, count: usize, sums: &mut Sums) {
    #[cfg(target_arch = "x86_64")]
    if avx512::available() {
        return avx512::tile(panel, x, row, count, sums);
    }
    portable::tile(panel, x, row, count, sums);
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
