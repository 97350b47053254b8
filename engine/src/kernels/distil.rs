//! The head fused with the divergence from a teacher's head: the logits of both exist for a chunk of rows only.

use super::{
    device::float,
    floats,
    head::{Head, by_chunks, softcap},
    lanes::{exponentials, largest},
    matmul, on_cpu,
    values::simd,
};
use crate::Result;
use candle_core::{D, DType, Tensor};
use rayon::prelude::*;

/// How divergence and cross-entropy make one loss: `alpha T² D + (1 - alpha) CE`, where D compares both distributions at
/// the temperature T.
#[derive(Clone, Copy, Debug)]
pub struct Blend {
    /// D is KL(student, teacher) rather than KL(teacher, student).
    pub reverse: bool,
    pub temperature: f32,
    pub alpha: f32,
}

pub struct Distilled {
    /// The loss of each row.
    pub losses: Vec<f32>,
    /// D of each row, in nats.
    pub divergences: Vec<f32>,
    /// Gradient of the student's h (rows, dim), of the scaled sum of losses.
    pub hidden: Option<Tensor>,
    /// Of its w (vocab, dim).
    pub weight: Option<Tensor>,
}

/// Compares student and teacher at the rows of their states, one target each; gradients of `scale` times the losses where
/// there is one, those of the student's weight only with `weight`.
pub fn distil(
    student: &Head,
    teacher: &Head,
    targets: &[u32],
    blend: Blend,
    scale: Option<f32>,
    weight: bool,
) -> Result<Distilled> {
    if !on_cpu(&student.h) {
        return on_device(student, teacher, targets, blend, scale, weight);
    }
    let vocab = student.w.dim(0)?;
    let (mut losses, mut divergences) = (Vec::new(), Vec::new());
    let (hidden, dw) =
        by_chunks(&student.h, &student.w, scale.is_some(), weight && scale.is_some(), |start, logits| {
            let n = logits.len() / vocab;
            let taught = teacher_logits(teacher, start, n)?;
            let taught = floats(&taught)?;
            let rows = logits.par_chunks_mut(vocab).zip(taught.par_chunks(vocab)).zip(&targets[start..start + n]);
            let found = rows.map(|((own, taught), target)| {
                row(own, taught, *target as usize, blend, scale.unwrap_or(1.0), student.cap)
            });
            let (more, divergence): (Vec<f32>, Vec<f32>) = found.unzip();
            losses.extend(more);
            divergences.extend(divergence);
            Ok(())
        })?;
    Ok(Distilled { losses, divergences, hidden, weight: dw })
}

/// The teacher's logits (n, vocab) of some rows, float32.
fn teacher_logits(teacher: &Head, start: usize, n: usize) -> Result<Tensor> {
    let h = teacher.h.narrow(0, start, n)?;
    let logits = matmul::linear(&h, &teacher.w, h.dtype(), DType::F32)?;
    teacher.cap.map_or(Ok(logits.clone()), |cap| softcap(logits, cap))
}

/// Loss and divergence of one row; the student's logits become the gradient of `scale` times the loss.
fn row(own: &mut [f32], taught: &[f32], target: usize, blend: Blend, scale: f32, cap: Option<f32>) -> (f32, f32) {
    if let Some(cap) = cap {
        own.iter_mut().for_each(|x| *x = cap * (*x / cap).tanh());
    }
    let capped = cap.map(|_| own.to_vec());
    let (t, alpha) = (blend.temperature, blend.alpha);
    let (mut soft, mut teacher, mut hard) = (own.to_vec(), taught.to_vec(), own.to_vec());
    let (log_z_soft, log_z_teacher) = (softmax(&mut soft, 1.0 / t), softmax(&mut teacher, 1.0 / t));
    let ce = softmax(&mut hard, 1.0) - own[target];
    // ln of the student's probability over the teacher's.
    let ratio = |own: f32, taught: f32| (own / t - log_z_soft) - (taught / t - log_z_teacher);
    let weights = if blend.reverse { (&soft, 1.0) } else { (&teacher, -1.0) };
    let parts = weights.0.iter().zip(own.iter()).zip(taught);
    let divergence =
        parts.map(|((p, own), taught)| f64::from(p * ratio(*own, *taught))).sum::<f64>() as f32 * weights.1;
    // T² D by the logits: T (student - teacher), or T student (ratio - D).
    for (i, x) in own.iter_mut().enumerate() {
        let d = match blend.reverse {
            true => soft[i] * (ratio(*x, taught[i]) - divergence),
            false => soft[i] - teacher[i],
        };
        *x = scale * (alpha * t * d + (1.0 - alpha) * hard[i]);
    }
    own[target] -= scale * (1.0 - alpha);
    if let (Some(cap), Some(capped)) = (cap, capped) {
        own.iter_mut().zip(capped).for_each(|(d, y)| *d *= 1.0 - (y / cap) * (y / cap));
    }
    (alpha * t * t * divergence + (1.0 - alpha) * ce, divergence)
}

simd! {
    /// The softmax of `factor` times a row, in its place; gives ln of its sum of exponentials.
    fn softmax[](row: &mut [f32], factor: f32) -> f32 {
        let most = largest(row) * factor;
        let z = exponentials(row, factor, most);
        row.iter_mut().for_each(|v| *v /= z);
        z.ln() + most
    }
}

/// The same in candle's operations.
fn on_device(
    student: &Head,
    teacher: &Head,
    targets: &[u32],
    blend: Blend,
    scale: Option<f32>,
    weight: bool,
) -> Result<Distilled> {
    let (rows, vocab) = (student.h.dim(0)?, student.w.dim(0)?);
    let chunk = (LOGITS / vocab.max(1)).clamp(16, 8192);
    let (t, alpha) = (f64::from(blend.temperature), f64::from(blend.alpha));
    let (mut losses, mut divergences, mut dh, mut dw) = (Vec::new(), Vec::new(), Vec::new(), None::<Tensor>);
    for start in (0..rows).step_by(chunk) {
        let n = chunk.min(rows - start);
        let (h, taught) = (student.h.narrow(0, start, n)?, teacher_logits(teacher, start, n)?);
        let w = student.w.to_dtype(h.dtype())?;
        let targets = Tensor::new(&targets[start..start + n], h.device())?.unsqueeze(1)?;
        let plain = float(&h.matmul(&w.t()?)?)?;
        let logits = student.cap.map_or(Ok(plain.clone()), |cap| softcap(plain, cap))?;
        let log = |x: &Tensor, t: f64| candle_nn::ops::log_softmax(&(x / t)?, D::Minus1);
        let (own, other, hard) = (log(&logits, t)?, log(&float(&taught)?, t)?, log(&logits, 1.0)?);
        let (ratio, soft) = ((&own - &other)?, own.exp()?);
        let divergence = match blend.reverse {
            true => (&soft * &ratio)?.sum_keepdim(1)?,
            false => (other.exp()? * &ratio)?.sum_keepdim(1)?.neg()?,
        };
        let ce = hard.gather(&targets, 1)?.neg()?;
        losses.push(((&divergence * (alpha * t * t))? + (ce * (1.0 - alpha))?)?.squeeze(1)?);
        divergences.push(divergence.squeeze(1)?);
        let Some(scale) = scale else { continue };
        let d = match blend.reverse {
            true => (soft * ratio.broadcast_sub(&divergence)?)?,
            false => (soft - other.exp()?)?,
        };
        let d = ((d * (alpha * t))? + (hard.exp()? * (1.0 - alpha))?)?;
        let ones = Tensor::full(-(1.0 - blend.alpha), (n, 1), h.device())?;
        d.scatter_add_set(&targets, &ones, 1)?;
        let d = (d * f64::from(scale))?;
        let d = match student.cap {
            Some(cap) => (d * (1.0 - (logits / f64::from(cap))?.sqr()?)?)?,
            None => d,
        };
        let d = d.to_dtype(h.dtype())?;
        dh.push(d.matmul(&w)?);
        if weight {
            let part = float(&d.t()?.matmul(&h)?)?;
            dw = Some(dw.map_or(Ok(part.clone()), |sum| sum + part)?);
        }
    }
    let read = |parts: Vec<Tensor>| if rows == 0 { Ok(Vec::new()) } else { Tensor::cat(&parts, 0)?.to_vec1::<f32>() };
    let hidden = (!dh.is_empty()).then(|| Tensor::cat(&dh, 0)).transpose()?;
    Ok(Distilled { losses: read(losses)?, divergences: read(divergences)?, hidden, weight: dw })
}

/// Logits that exist at a time on a device: 64 MB of each kind.
const LOGITS: usize = 1 << 24;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::kernels::device::gradients;
    use candle_core::Device;

    fn random(rows: usize, width: usize) -> Tensor {
        Tensor::randn(0f32, 1.0, (rows, width), &Device::Cpu).unwrap()
    }

    fn head(h: &Tensor, w: &Tensor, cap: Option<f32>) -> Head {
        Head { h: h.clone(), w: w.clone(), cap }
    }

    /// The loss as one expression that candle can differentiate: the sum over the rows.
    fn plain(h: &Tensor, w: &Tensor, taught: &Tensor, targets: &[u32], blend: Blend, cap: Option<f32>) -> Tensor {
        let t = f64::from(blend.temperature);
        let log = |x: &Tensor, t: f64| candle_nn::ops::log_softmax(&(x / t).unwrap(), D::Minus1).unwrap();
        let mut logits = h.matmul(&w.t().unwrap()).unwrap();
        if let Some(cap) = cap.map(f64::from) {
            logits = ((logits / cap).unwrap().tanh().unwrap() * cap).unwrap();
        }
        let (own, other) = (log(&logits, t), log(taught, t));
        let (p, q) = if blend.reverse { (&own, &other) } else { (&other, &own) };
        let kl = (p.exp().unwrap() * (p - q).unwrap()).unwrap().sum_all().unwrap();
        let targets = Tensor::new(targets, &Device::Cpu).unwrap().unsqueeze(1).unwrap();
        let ce = log(&logits, 1.0).gather(&targets, 1).unwrap().sum_all().unwrap();
        let alpha = f64::from(blend.alpha);
        ((kl * (alpha * t * t)).unwrap() - (ce * (1.0 - alpha)).unwrap()).unwrap()
    }

    #[test]
    fn losses_and_gradients_are_those_of_autograd() {
        // More rows than a chunk has.
        let (rows, vocab) = (300, 37);
        let (h, w, other_h, other_w) = (random(rows, 8), random(vocab, 8), random(rows, 6), random(vocab, 6));
        let targets: Vec<u32> = (0..rows as u32).map(|i| i * 7 % vocab as u32).collect();
        let taught = other_h.matmul(&other_w.t().unwrap()).unwrap();
        for (reverse, temperature, alpha, cap) in
            [(false, 1.0, 1.0, None), (true, 2.0, 0.7, None), (false, 0.5, 0.3, Some(3.0)), (true, 1.0, 1.0, Some(5.0))]
        {
            let blend = Blend { reverse, temperature, alpha };
            let (own, teacher) = (head(&h, &w, cap), head(&other_h, &other_w, None));
            let one = Tensor::ones((), DType::F32, &Device::Cpu).unwrap();
            let [dh, dw] = gradients([&h, &w], &one, |[h, w]| Ok(plain(h, w, &taught, &targets, blend, cap))).unwrap();
            let loss = plain(&h, &w, &taught, &targets, blend, cap).to_scalar::<f32>().unwrap();
            for form in [distil, on_device] {
                let found = form(&own, &teacher, &targets, blend, Some(0.5), true).unwrap();
                let sum: f32 = found.losses.iter().sum();
                assert!((sum / loss - 1.0).abs() < 1e-5, "{sum} and {loss}");
                for (found, expected) in [(found.hidden, &dh), (found.weight, &dw)] {
                    let off = ((found.unwrap() * 2.0).unwrap() - expected).unwrap().abs().unwrap().max_all().unwrap();
                    assert!(off.to_scalar::<f32>().unwrap() < 2e-4, "{off}");
                }
                let without = form(&own, &teacher, &targets, blend, None, true).unwrap();
                assert!(
                    without.hidden.is_none() && without.weight.is_none() && without.divergences == found.divergences
                );
            }
        }
        // Of a model from itself there is no divergence.
        let own = head(&h, &w, None);
        let blend = Blend { reverse: false, temperature: 1.0, alpha: 1.0 };
        let found = distil(&own, &own, &targets, blend, None, false).unwrap();
        assert!(found.divergences.iter().all(|kl| kl.abs() < 1e-5));
    }
}
