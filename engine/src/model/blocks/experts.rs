//! A mixture of experts in the MLP's place (Shazeer et al., 2017): a router gives each token to its likeliest experts
//! and weighs what they answer.

use super::{Block, Linear, Mlp};
use crate::{
    Result,
    kernels::{add, floats, on_cpu, update, values::cast},
    model::{Grads, Keep, Pass},
};
use candle_core::{D, DType, Device, Tensor};

pub struct Experts {
    /// (experts, hidden)
    pub router: Linear,
    pub experts: Vec<Mlp>,
    /// Experts of a token.
    pub active: usize,
    /// Their weights are made to sum to 1.
    pub normalised: bool,
}

/// Which tokens an expert gets, and with which weights.
struct Share {
    rows: Vec<u32>,
    weights: Vec<f32>,
}

impl Experts {
    /// The share of each expert, from the probabilities (tokens, experts).
    fn shares(&self, probabilities: &[f32]) -> Vec<Share> {
        let mut shares: Vec<Share> =
            self.experts.iter().map(|_| Share { rows: Vec::new(), weights: Vec::new() }).collect();
        for (token, row) in probabilities.chunks(self.experts.len()).enumerate() {
            let chosen = self.chosen(row);
            let sum = if self.normalised { chosen.iter().map(|e| row[*e]).sum() } else { 1.0 };
            for expert in chosen {
                shares[expert].rows.push(token as u32);
                shares[expert].weights.push(row[expert] / sum);
            }
        }
        shares
    }

    /// The likeliest experts of a token; of equal ones the first.
    fn chosen(&self, row: &[f32]) -> Vec<usize> {
        let mut order: Vec<usize> = (0..row.len()).collect();
        order.sort_by(|a, b| row[*b].total_cmp(&row[*a]));
        order.truncate(self.active);
        order
    }

    /// Gradient of the router's logits, given that of the weights (tokens, experts), zero for experts not chosen.
    fn router_gradient(&self, probabilities: &[f32], dweights: &mut [f32]) {
        let n = self.experts.len();
        for (row, d) in probabilities.chunks(n).zip(dweights.chunks_mut(n)) {
            if self.normalised {
                // w = p / sum, over the chosen ones.
                let chosen = self.chosen(row);
                let sum: f32 = chosen.iter().map(|e| row[*e]).sum();
                let dot: f32 = chosen.iter().map(|e| d[*e] * row[*e]).sum::<f32>() / sum;
                chosen.iter().for_each(|e| d[*e] = (d[*e] - dot) / sum);
            }
            let dot: f32 = row.iter().zip(&*d).map(|(p, d)| p * d).sum();
            d.iter_mut().zip(row).for_each(|(d, p)| *d = p * (*d - dot));
        }
    }
}

impl Block for Experts {
    fn forward(&self, x: &Tensor, pass: &Pass, keep: &mut Keep) -> Result<Tensor> {
        let logits = cast(&self.router.forward(x, pass, keep)?, DType::F32)?;
        let probabilities = candle_nn::ops::softmax(&logits, D::Minus1)?.to_device(&Device::Cpu)?;
        let mut y = Tensor::zeros(x.shape(), DType::F32, x.device())?;
        for (share, expert) in self.shares(&floats(&probabilities)?).iter().zip(&self.experts) {
            if share.rows.is_empty() {
                continue;
            }
            let (rows, weights) = share.tensors(x.device())?;
            let part = expert.forward(&x.index_select(&rows, 0)?, pass, keep)?;
            y = share.add_rows(y, &cast(&part, DType::F32)?.broadcast_mul(&weights)?)?;
            keep.push(&part);
        }
        keep.push(&probabilities);
        Ok(y)
    }

    fn backward(&self, dy: Tensor, pass: &Pass, keep: &mut Keep, grads: &mut Grads) -> Result<Tensor> {
        let (dy, kept) = (cast(&dy, DType::F32)?, keep.pop()?);
        let probabilities = floats(&kept)?;
        let n = self.experts.len();
        let mut dweights = vec![0.0; probabilities.len()];
        let mut dx = dy.zeros_like()?;
        for (e, (share, expert)) in self.shares(&probabilities).iter().zip(&self.experts).enumerate().rev() {
            if share.rows.is_empty() {
                no_gradients(expert, grads)?;
                continue;
            }
            let part = cast(&keep.pop()?, DType::F32)?;
            let (rows, weights) = share.tensors(dy.device())?;
            let dpart = dy.index_select(&rows, 0)?;
            let along: Vec<f32> = (&dpart * &part)?.sum(1)?.to_vec1()?;
            share.rows.iter().zip(along).for_each(|(row, d)| dweights[*row as usize * n + e] = d);
            let part = expert.backward(dpart.broadcast_mul(&weights)?, pass, keep, grads)?;
            dx = share.add_rows(dx, &cast(&part, DType::F32)?)?;
        }
        self.router_gradient(&probabilities, &mut dweights);
        let dlogits = Tensor::from_vec(dweights, kept.shape(), dy.device())?;
        add(dx, &self.router.backward(dlogits, pass, keep, grads)?)
    }
}

/// Zeros for the parameters of an expert that no token came to: the optimizer moves them on as it does elsewhere.
fn no_gradients(expert: &Mlp, grads: &mut Grads) -> Result<()> {
    for linear in expert.linears() {
        for parameter in [Some(&linear.weight), linear.bias.as_ref()].into_iter().flatten().filter(|p| p.trainable) {
            grads.add(parameter, parameter.get().zeros_like()?)?;
        }
    }
    Ok(())
}

impl Share {
    /// Adds part (n, dim) to the rows of y (tokens, dim), both float32, in y's memory where it can.
    fn add_rows(&self, y: Tensor, part: &Tensor) -> Result<Tensor> {
        if !on_cpu(&y) {
            let rows = Tensor::from_vec(self.rows.clone(), self.rows.len(), y.device())?;
            return Ok(y.index_add(&rows, part, 0)?);
        }
        let (dim, part) = (y.dim(1)?, floats(part)?);
        update(&y, |y| {
            for (row, part) in self.rows.iter().zip(part.chunks(dim)) {
                y[*row as usize * dim..][..dim].iter_mut().zip(part).for_each(|(y, p)| *y += p);
            }
        })?;
        Ok(y)
    }

    /// Rows (n) and weights (n, 1), on `device`.
    fn tensors(&self, device: &Device) -> Result<(Tensor, Tensor)> {
        let weights = Tensor::from_vec(self.weights.clone(), (self.rows.len(), 1), device)?;
        Ok((Tensor::from_vec(self.rows.clone(), self.rows.len(), device)?, weights))
    }
}
