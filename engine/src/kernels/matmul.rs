//! Matrix products. A weight is (out, in), as Hugging Face stores a linear; rows of x are tokens.

#![allow(unsafe_code)]

use super::{floats, on_cpu, update};
use crate::Result;
use candle_core::Tensor;

/// A matrix inside a slice: element (i, j) stands at `i * rows + j * columns`.
#[derive(Clone, Copy)]
pub struct Matrix<'a> {
    pub values: &'a [f32],
    pub row_stride: usize,
    pub column_stride: usize,
}

impl<'a> Matrix<'a> {
    /// Row-major with `width` values between two rows.
    pub fn rows(values: &'a [f32], width: usize) -> Self {
        Self { values, row_stride: width, column_stride: 1 }
    }

    /// The transpose of [`Matrix::rows`].
    pub fn columns(values: &'a [f32], width: usize) -> Self {
        Self { values, row_stride: 1, column_stride: width }
    }

    fn reach(&self, rows: usize, columns: usize) -> usize {
        (rows - 1) * self.row_stride + (columns - 1) * self.column_stride + 1
    }
}

/// `c = scale * a b`, or `c += scale * a b` if `add`. Shapes: a (m, k), b (k, n), c (m, n) row-major with `width`
/// values between two rows. `parallel` spreads the work over the thread pool.
#[allow(clippy::too_many_arguments)]
pub fn gemm(
    m: usize,
    k: usize,
    n: usize,
    a: Matrix,
    b: Matrix,
    c: &mut [f32],
    width: usize,
    scale: f32,
    add: bool,
    parallel: bool,
) {
    if m == 0 || n == 0 {
        return;
    }
    assert!((m - 1) * width + n <= c.len(), "gemm would write past its result");
    if k == 0 {
        if !add {
            c.chunks_mut(width).take(m).for_each(|row| row[..n].fill(0.0));
        }
        return;
    }
    assert!(a.reach(m, k) <= a.values.len() && b.reach(k, n) <= b.values.len(), "gemm would read past its operands");
    let threads = if parallel && m * n * k > 32_768 { gemm::Parallelism::Rayon(0) } else { gemm::Parallelism::None };
    // SAFETY: the asserts above keep every access of the strided operands inside their slices, and `c` is borrowed
    // exclusively, so that it overlaps neither `a` nor `b`.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            c.as_mut_ptr(),
            1,
            width as isize,
            add,
            a.values.as_ptr(),
            a.column_stride as isize,
            a.row_stride as isize,
            b.values.as_ptr(),
            b.column_stride as isize,
            b.row_stride as isize,
            1.0,
            scale,
            false,
            false,
            false,
            threads,
        );
    }
}

/// `x wᵀ`: x (tokens, in), w (out, in) → (tokens, out).
pub fn linear(x: &Tensor, w: &Tensor) -> Result<Tensor> {
    let ((m, k), n) = (x.dims2()?, w.dim(0)?);
    if !on_cpu(x) {
        return Ok(x.matmul(&w.t()?)?);
    }
    let (xs, ws) = (floats(x)?, floats(w)?);
    let mut y = vec![0.0; m * n];
    gemm(m, k, n, Matrix::rows(&xs, k), Matrix::columns(&ws, k), &mut y, n, 1.0, false, true);
    Ok(Tensor::from_vec(y, (m, n), x.device())?)
}

/// `y += scale * x wᵀ`, in place where it can: y (tokens, out).
pub fn linear_add(y: Tensor, x: &Tensor, w: &Tensor, scale: f32) -> Result<Tensor> {
    let ((m, k), n) = (x.dims2()?, w.dim(0)?);
    if !on_cpu(x) {
        return Ok((y + (x.matmul(&w.t()?)? * scale as f64)?)?);
    }
    let (xs, ws) = (floats(x)?, floats(w)?);
    update(&y, |y| gemm(m, k, n, Matrix::rows(&xs, k), Matrix::columns(&ws, k), y, n, scale, true, true))?;
    Ok(y)
}

/// `dy w`: dy (tokens, out), w (out, in) → (tokens, in); the gradient of [`linear`]'s input.
pub fn linear_input(dy: &Tensor, w: &Tensor) -> Result<Tensor> {
    let ((m, k), n) = (dy.dims2()?, w.dim(1)?);
    if !on_cpu(dy) {
        return Ok(dy.matmul(w)?);
    }
    let (ds, ws) = (floats(dy)?, floats(w)?);
    let mut dx = vec![0.0; m * n];
    gemm(m, k, n, Matrix::rows(&ds, k), Matrix::rows(&ws, n), &mut dx, n, 1.0, false, true);
    Ok(Tensor::from_vec(dx, (m, n), dy.device())?)
}

/// `dx += scale * dy w`, in place where it can.
pub fn linear_input_add(dx: Tensor, dy: &Tensor, w: &Tensor, scale: f32) -> Result<Tensor> {
    let ((m, k), n) = (dy.dims2()?, w.dim(1)?);
    if !on_cpu(dy) {
        return Ok((dx + (dy.matmul(w)? * scale as f64)?)?);
    }
    let (ds, ws) = (floats(dy)?, floats(w)?);
    update(&dx, |dx| gemm(m, k, n, Matrix::rows(&ds, k), Matrix::rows(&ws, n), dx, n, scale, true, true))?;
    Ok(dx)
}

/// `scale * dyᵀ x`: dy (tokens, out), x (tokens, in) → (out, in); the gradient of [`linear`]'s weight.
pub fn linear_weight(dy: &Tensor, x: &Tensor, scale: f32) -> Result<Tensor> {
    let ((k, m), n) = (dy.dims2()?, x.dim(1)?);
    if !on_cpu(dy) {
        return Ok((dy.t()?.matmul(x)? * scale as f64)?);
    }
    let (ds, xs) = (floats(dy)?, floats(x)?);
    let mut dw = vec![0.0; m * n];
    gemm(m, k, n, Matrix::columns(&ds, m), Matrix::rows(&xs, n), &mut dw, n, scale, false, true);
    Ok(Tensor::from_vec(dw, (m, n), dy.device())?)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn products_agree_with_candle() {
        let random = |r, c| Tensor::randn(0f32, 1.0, (r, c), &Device::Cpu).unwrap();
        let near = |a: &Tensor, b: &Tensor| {
            let worst = (a - b).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
            assert!(worst < 1e-4, "{worst}");
        };
        for (m, k, n) in [(1, 1, 1), (3, 5, 7), (65, 33, 17), (128, 64, 130)] {
            let (x, w, dy) = (random(m, k), random(n, k), random(m, n));
            near(&linear(&x, &w).unwrap(), &x.matmul(&w.t().unwrap()).unwrap());
            near(&linear_input(&dy, &w).unwrap(), &dy.matmul(&w).unwrap());
            near(&linear_weight(&dy, &x, 2.0).unwrap(), &(dy.t().unwrap().matmul(&x).unwrap() * 2.0).unwrap());
            let y = random(m, n);
            let sum = (&y + (x.matmul(&w.t().unwrap()).unwrap() * 0.5).unwrap()).unwrap();
            near(&linear_add(y, &x, &w, 0.5).unwrap(), &sum);
            let dx = random(m, k);
            let sum = (&dx + (dy.matmul(&w).unwrap() * 3.0).unwrap()).unwrap();
            near(&linear_input_add(dx, &dy, &w, 3.0).unwrap(), &sum);
        }
    }
}
