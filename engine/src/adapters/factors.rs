//! Low-rank factors made of a weight: the principal triples of its singular value decomposition, and the first columns
//! of its QR decomposition. Both are computed in float64: what the frozen weight loses is then exact in float32.

use crate::{Result, random::Random};
use candle_core::{DType, Device, Tensor};

/// Directions that are followed besides those asked for, so that the last of these are exact, too.
const MORE: usize = 32;
/// Rounds after which the decomposition is taken as it is, and the change of the singular values that counts as none.
const MOST: usize = 200;
const SETTLED: f64 = 1e-7;

/// b (out, rank) and a (rank, in) with b a the best approximation of w (out, in), the singular values shared out to
/// both evenly: subspace iteration (Halko, Martinsson, Tropp, 2011) for `rounds`, or until it has settled.
pub fn principal(w: &Tensor, rank: usize, rounds: Option<usize>, seed: u64) -> Result<(Tensor, Tensor)> {
    let (out, inp) = w.dims2()?;
    let w = w.to_dtype(DType::F64)?;
    let width = (rank + MORE).min(out).min(inp);
    let mut random = Random::new(seed, 0);
    let mut right: Vec<f64> = (0..width * inp).map(|_| f64::from(random.normal())).collect();
    let mut sizes = vec![0.0; width];
    let mut left = Vec::new();
    for round in 0..=rounds.unwrap_or(MOST) {
        orthonormal_rows(&mut right, inp);
        left = times(&right, &w.t()?)?;
        let before = sizes;
        sizes = left.chunks(out).map(|row| dot(row, row).sqrt()).collect();
        orthonormal_rows(&mut left, out);
        right = times(&left, &w)?;
        let change = sizes.iter().zip(&before).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        if rounds.is_none() && round > 0 && change <= SETTLED * sizes.iter().fold(0.0, |m: f64, s| m.max(*s)) {
            break;
        }
    }
    // In the subspace that was found w is leftᵀ right; the eigenvectors of right rightᵀ turn that into triples.
    let (squares, vectors) = eigen(&gram(&right, width, inp), width);
    let (mut b, mut a) = (vec![0.0; out * rank], vec![0.0; rank * inp]);
    for (k, square) in squares.iter().enumerate().take(rank) {
        let root = square.max(0.0).sqrt().sqrt();
        for i in 0..width {
            let v = vectors[i * width + k];
            for o in 0..out {
                b[o * rank + k] += v * left[i * out + o] * root;
            }
            if root > 0.0 {
                for j in 0..inp {
                    a[k * inp + j] += v * right[i * inp + j] / root;
                }
            }
        }
    }
    Ok((single(b, (out, rank), w.device())?, single(a, (rank, inp), w.device())?))
}

/// b (out, rank) and a (rank, in): the first columns of Q and the first rows of R, where w = Q R.
pub fn leading(w: &Tensor, rank: usize) -> Result<(Tensor, Tensor)> {
    let (out, inp) = w.dims2()?;
    let w = w.to_dtype(DType::F64)?;
    let mut q = values(&w.narrow(1, 0, rank)?.t()?.contiguous()?)?;
    orthonormal_rows(&mut q, out);
    let a = times(&q, &w)?;
    Ok((single(q, (rank, out), w.device())?.t()?.contiguous()?, single(a, (rank, inp), w.device())?))
}

/// `rows m`, the rows as long as m (depth, columns) is deep.
fn times(rows: &[f64], m: &Tensor) -> Result<Vec<f64>> {
    let depth = m.dim(0)?;
    let rows = Tensor::from_slice(rows, (rows.len() / depth.max(1), depth), m.device())?;
    values(&rows.matmul(m)?)
}

fn values(t: &Tensor) -> Result<Vec<f64>> {
    Ok(t.to_device(&Device::Cpu)?.flatten_all()?.to_vec1()?)
}

/// In float32.
fn single(values: Vec<f64>, shape: (usize, usize), device: &Device) -> Result<Tensor> {
    Ok(Tensor::from_vec(values, shape, &Device::Cpu)?.to_dtype(DType::F32)?.to_device(device)?)
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Gram and Schmidt, twice for every row, whose length is n. A row that depends on those before it becomes 0.
fn orthonormal_rows(rows: &mut [f64], n: usize) {
    for i in 0..rows.len() / n.max(1) {
        let (before, rest) = rows.split_at_mut(i * n);
        let row = &mut rest[..n];
        let begun = dot(row, row).sqrt();
        for _ in 0..2 {
            for other in before.chunks(n) {
                let along = dot(row, other);
                row.iter_mut().zip(other).for_each(|(r, o)| *r -= along * o);
            }
        }
        let length = dot(row, row).sqrt();
        let factor = if length > 1e-12 * begun { 1.0 / length } else { 0.0 };
        row.iter_mut().for_each(|r| *r *= factor);
    }
}

fn gram(rows: &[f64], count: usize, n: usize) -> Vec<f64> {
    let row = |i: usize| &rows[i * n..][..n];
    (0..count * count).map(|k| dot(row(k / count), row(k % count))).collect()
}

/// Eigenvalues of a symmetric matrix (n, n), the largest first, and the eigenvectors as columns: Jacobi's rotations.
fn eigen(matrix: &[f64], n: usize) -> (Vec<f64>, Vec<f64>) {
    let (mut m, mut v) = (matrix.to_vec(), vec![0.0; n * n]);
    (0..n).for_each(|i| v[i * n + i] = 1.0);
    let all: f64 = m.iter().map(|x| x * x).sum();
    for _ in 0..60 {
        let off: f64 = (0..n * n).filter(|k| k / n != k % n).map(|k| m[k] * m[k]).sum();
        if off <= 1e-28 * all {
            break;
        }
        for (p, q) in (0..n).flat_map(|p| (p + 1..n).map(move |q| (p, q))) {
            let between = m[p * n + q];
            if between == 0.0 {
                continue;
            }
            let theta = (m[q * n + q] - m[p * n + p]) / (2.0 * between);
            let t = theta.signum() / (theta.abs() + (theta * theta + 1.0).sqrt());
            let t = if theta == 0.0 { 1.0 } else { t };
            let c = 1.0 / (t * t + 1.0).sqrt();
            let s = t * c;
            for k in 0..n {
                let (x, y) = (m[k * n + p], m[k * n + q]);
                (m[k * n + p], m[k * n + q]) = (c * x - s * y, s * x + c * y);
            }
            for k in 0..n {
                let (x, y) = (m[p * n + k], m[q * n + k]);
                (m[p * n + k], m[q * n + k]) = (c * x - s * y, s * x + c * y);
                let (x, y) = (v[k * n + p], v[k * n + q]);
                (v[k * n + p], v[k * n + q]) = (c * x - s * y, s * x + c * y);
            }
        }
    }
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|a, b| m[b * n + b].total_cmp(&m[a * n + a]));
    let values = order.iter().map(|i| m[i * n + i]).collect();
    let vectors = (0..n * n).map(|k| v[(k / n) * n + order[k % n]]).collect();
    (values, vectors)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    fn random(shape: &[usize]) -> Tensor {
        let mut random = Random::new(3, shape[0] as u64);
        let values: Vec<f32> = (0..shape.iter().product()).map(|_| random.normal()).collect();
        Tensor::from_vec(values, shape, &Device::Cpu).unwrap().to_dtype(DType::F64).unwrap()
    }

    fn length(t: &Tensor) -> f32 {
        t.to_dtype(DType::F32).unwrap().sqr().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap().sqrt()
    }

    /// A matrix of known singular values: what is left has those that were not taken.
    #[test]
    fn principal_factors_take_the_largest_singular_values() {
        let (out, inp) = (60, 45);
        let mut left = values(&random(&[45, out])).unwrap();
        let mut right = values(&random(&[46, inp]).narrow(0, 0, 45).unwrap().contiguous().unwrap()).unwrap();
        orthonormal_rows(&mut left, out);
        orthonormal_rows(&mut right, inp);
        let sizes: Vec<f64> = (0..45).map(|i| 10.0 / (1.0 + i as f64)).collect();
        let left = Tensor::from_vec(left, (45, out), &Device::Cpu).unwrap();
        let right = Tensor::from_vec(right, (45, inp), &Device::Cpu).unwrap();
        let diagonal = Tensor::from_vec(sizes.clone(), (45, 1), &Device::Cpu).unwrap();
        let w = left.t().unwrap().matmul(&right.broadcast_mul(&diagonal).unwrap()).unwrap();
        let w = w.to_dtype(DType::F32).unwrap();
        for (rank, rounds) in [(4, None), (4, Some(16)), (20, None)] {
            let (b, a) = principal(&w, rank, rounds, 7).unwrap();
            let rest = (&w - b.matmul(&a).unwrap()).unwrap();
            let expected = sizes[rank..].iter().map(|s| s * s).sum::<f64>().sqrt() as f32;
            assert!((length(&rest) / expected - 1.0).abs() < 1e-5, "{rank}: {} and {expected}", length(&rest));
            // Each triple's value stands in both factors evenly.
            let largest = length(&a.get(0).unwrap());
            assert!((f64::from(largest) - sizes[0].sqrt()).abs() < 1e-5, "{largest}");
        }
    }

    #[test]
    fn leading_factors_leave_the_first_columns_nothing() {
        let w = random(&[30, 20]).to_dtype(DType::F32).unwrap();
        let (b, a) = leading(&w, 5).unwrap();
        let rest = (&w - b.matmul(&a).unwrap()).unwrap();
        assert!(length(&rest.narrow(1, 0, 5).unwrap()) < 1e-5);
        let eye = b.t().unwrap().matmul(&b).unwrap();
        let off = (eye - Tensor::eye(5, DType::F32, &Device::Cpu).unwrap()).unwrap();
        assert!(length(&off) < 1e-5);
    }
}
