//! Low-rank views of gradients, which GaLore and APOLLO keep their moments in.

use super::muon::is_matrix;
use crate::{
    Result,
    kernels::device::float,
    random::{Random, name_key},
};
use candle_core::{DType, Device, Tensor};

/// Which matrices are projected, how narrow, and for how many steps.
pub struct Subspaces {
    pub targets: Vec<String>,
    pub rank: usize,
    pub interval: u64,
}

impl Subspaces {
    /// The shape of a matrix's view: the larger side of it stays. None if the parameter has none.
    pub fn shape(&self, name: &str, value: &Tensor) -> Option<[usize; 2]> {
        let chosen = self.targets.iter().any(|t| matches!(t.as_str(), "all" | "all-linear") || name.contains(t));
        let &[rows, columns] = value.dims() else { return None };
        let rank = self.rank.min(rows.min(columns));
        (chosen && is_matrix(name, value)).then_some(if rows >= columns { [rows, rank] } else { [rank, columns] })
    }

    /// Shape of the projection of a matrix: (rank, smaller side).
    pub fn projection(&self, value: &Tensor) -> [usize; 2] {
        let side = value.dims().iter().copied().min().unwrap_or_default();
        [self.rank.min(side), side]
    }

    /// Whether the projection is renewed at a step.
    pub fn renews(&self, step: u64) -> bool {
        (step - 1).is_multiple_of(self.interval)
    }

    /// How often it was renewed before a step.
    pub fn renewals(&self, step: u64) -> u64 {
        (step - 1) / self.interval
    }
}

/// The view of a matrix through a projection p (rank, smaller side).
pub fn project(matrix: &Tensor, p: &Tensor) -> Result<Tensor> {
    let (rows, columns) = matrix.dims2()?;
    Ok(if rows >= columns { matrix.matmul(&p.t()?)? } else { p.matmul(matrix)? })
}

/// A matrix of the shape of `like` from its view.
pub fn project_back(view: &Tensor, p: &Tensor, like: &Tensor) -> Result<Tensor> {
    let (rows, columns) = like.dims2()?;
    Ok(if rows >= columns { view.matmul(p)? } else { p.t()?.matmul(view)? })
}

/// Normal numbers over the root of the rank, (rank, smaller side).
pub fn random(shape: [usize; 2], seed: u64, name: &str, renewal: u64, device: &Device) -> Result<Tensor> {
    let (mut random, root) = (Random::new(seed, name_key(renewal, name)), (shape[0] as f32).sqrt());
    let values: Vec<f32> = (0..shape[0] * shape[1]).map(|_| random.normal() / root).collect();
    Ok(Tensor::from_vec(values, shape.as_slice(), device)?)
}

/// The leading singular vectors of a matrix along its smaller side, (rank, smaller side); in each the value of largest
/// size is positive. By subspace iteration (Halko et al., 2011) on the smaller Gram matrix, exact where the rank is
/// nearly the side.
pub fn leading(matrix: &Tensor, rank: usize) -> Result<Tensor> {
    let (rows, columns) = matrix.dims2()?;
    let m = matrix.to_device(&Device::Cpu)?.to_dtype(DType::F64)?;
    let gram = if rows >= columns { m.t()?.matmul(&m)? } else { m.matmul(&m.t()?.contiguous()?)? };
    let side = rows.min(columns);
    let width = (rank + OVERSAMPLES).min(side);
    let mut random = Random::new(0, side as u64);
    let mut basis: Vec<Vec<f64>> =
        (0..width).map(|_| (0..side).map(|_| f64::from(random.normal())).collect()).collect();
    orthonormalise(&mut basis);
    for _ in 0..ITERATIONS {
        basis = stacked(&basis, side)?.matmul(&gram)?.to_vec2()?;
        orthonormalise(&mut basis);
    }
    let q = stacked(&basis, side)?;
    let (values, vectors) = eigen(q.matmul(&gram)?.matmul(&q.t()?)?.to_vec2()?);
    let mut order: Vec<usize> = (0..width).collect();
    order.sort_by(|a, b| values[*b].total_cmp(&values[*a]));
    let chosen: Vec<Vec<f64>> = order.iter().take(rank).map(|i| vectors.iter().map(|v| v[*i]).collect()).collect();
    let mut found: Vec<Vec<f64>> = stacked(&chosen, width)?.matmul(&q)?.to_vec2()?;
    for vector in &mut found {
        let largest = vector.iter().copied().fold(0.0, |a: f64, b| if b.abs() > a.abs() { b } else { a });
        vector.iter_mut().for_each(|v| *v *= if largest < 0.0 { -1.0 } else { 1.0 });
    }
    Ok(float(&stacked(&found, side)?)?.to_device(matrix.device())?)
}

/// Vectors beyond the rank that make the iteration sure, and how often it is made.
const OVERSAMPLES: usize = 8;
const ITERATIONS: usize = 6;

fn stacked(rows: &[Vec<f64>], width: usize) -> Result<Tensor> {
    Ok(Tensor::from_vec(rows.concat(), (rows.len(), width), &Device::Cpu)?)
}

/// Gram and Schmidt, twice over, in place; what has no direction left becomes 0.
fn orthonormalise(rows: &mut [Vec<f64>]) {
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    for i in 0..rows.len() {
        let (before, rest) = rows.split_at_mut(i);
        let Some(row) = rest.first_mut() else { return };
        let size = dot(row, row).sqrt();
        for other in before.iter().chain(before.iter()) {
            let along = dot(row, other);
            row.iter_mut().zip(other).for_each(|(r, o)| *r -= along * o);
        }
        let left = dot(row, row).sqrt();
        let factor = if left > 1e-12 * size { 1.0 / left } else { 0.0 };
        row.iter_mut().for_each(|r| *r *= factor);
    }
}

/// Eigenvalues and eigenvectors (columns) of a symmetric matrix, by Jacobi's rotations.
fn eigen(mut a: Vec<Vec<f64>>) -> (Vec<f64>, Vec<Vec<f64>>) {
    let n = a.len();
    let mut v: Vec<Vec<f64>> = (0..n).map(|i| (0..n).map(|j| f64::from(u8::from(i == j))).collect()).collect();
    for _ in 0..SWEEPS {
        let squares = |row: &Vec<f64>| row.iter().map(|x| x * x).sum::<f64>();
        let all: f64 = a.iter().map(squares).sum();
        let off = all - a.iter().enumerate().map(|(i, row)| row[i] * row[i]).sum::<f64>();
        // As far as the difference of such sums is exact.
        if off <= 1e-16 * all {
            break;
        }
        for p in 0..n {
            for q in p + 1..n {
                if a[p][q] == 0.0 {
                    continue;
                }
                let theta = (a[q][q] - a[p][p]) / (2.0 * a[p][q]);
                let t = theta.signum() / (theta.abs() + (theta * theta + 1.0).sqrt());
                let c = 1.0 / (t * t + 1.0).sqrt();
                let s = t * c;
                for row in a.iter_mut().chain(v.iter_mut()) {
                    let (x, y) = (row[p], row[q]);
                    (row[p], row[q]) = (c * x - s * y, s * x + c * y);
                }
                let (above, below) = a.split_at_mut(q);
                for (x, y) in above[p].iter_mut().zip(&mut below[0]) {
                    (*x, *y) = (c * *x - s * *y, s * *x + c * *y);
                }
            }
        }
    }
    ((0..n).map(|i| a[i][i]).collect(), v)
}

const SWEEPS: usize = 30;
