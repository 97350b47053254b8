//! Tokens that the corpus never used: training pushes all their embeddings to one place, where an adapter, which leaves
//! the embedding alone, couldn't tell them apart, and a name learned later would come out as any of them. Each gets a
//! vector of its own around that place.

use crate::Failure;
use candle_core::{DType, Device, Tensor};
use engine::{
    files::{ModelFiles, export},
    random::Random,
};
use serde_json::Value;
use std::{fs, path::Path};

const EMBEDDING: &str = "model.embed_tokens.weight";
/// Length of the random part, as a share of the mean length of the used tokens' vectors.
const SHARE: f32 = 0.5;

/// Reads the model folder `from` and the corpus that it was trained on, and writes the model with the unused rows spread
/// to `to`.
pub fn spread(from: &Path, corpus: &Path, to: &Path) -> Result<(), Failure> {
    let files = ModelFiles::open(from)?;
    let table: Vec<Vec<f32>> = files.tensor(EMBEDDING, DType::F32, &Device::Cpu)?.to_vec2()?;
    let used = used(&files, corpus, table.len())?;
    let length = |row: &[f32]| row.iter().map(|x| x * x).sum::<f32>().sqrt();
    let (of_used, unused): (Vec<usize>, Vec<usize>) = (0..table.len()).partition(|i| used[*i]);
    let mean_length = of_used.iter().map(|i| length(&table[*i])).sum::<f32>() / of_used.len().max(1) as f32;
    let dim = table.first().map_or(0, Vec::len);
    let count = unused.len().max(1) as f32;
    let centre: Vec<f32> = (0..dim).map(|j| unused.iter().map(|i| table[*i][j]).sum::<f32>() / count).collect();

    let mut new = table;
    for &i in &unused {
        let mut random = Random::new(1, i as u64);
        let direction: Vec<f32> = (0..dim).map(|_| random.normal()).collect();
        let scale = SHARE * mean_length / length(&direction).max(1e-6);
        new[i] = centre.iter().zip(&direction).map(|(c, d)| c + d * scale).collect();
    }
    let new = Tensor::new(new, &Device::Cpu)?;
    let tensor = |name: &str| match name {
        EMBEDDING => Ok(new.clone()),
        _ => files.tensor(name, DType::F32, &Device::Cpu),
    };
    export::write_model(to, &files, &export::stored(&files)?, u64::MAX, DType::BF16, tensor, &mut |_, _| {})?;
    println!("{} of {} tokens were never used and got vectors of their own", unused.len(), new.dim(0)?);
    Ok(())
}

/// Which tokens stand in the corpus.
fn used(files: &ModelFiles, corpus: &Path, tokens: usize) -> Result<Vec<bool>, Failure> {
    let tokenizer = files.tokenizer()?.tokenizer;
    let mut used = vec![false; tokens];
    for line in fs::read_to_string(corpus)?.lines() {
        let row: Value = serde_json::from_str(line)?;
        let text = row["text"].as_str().unwrap_or_default();
        for id in tokenizer.encode(text, false).map_err(|e| e.to_string())?.get_ids() {
            used[*id as usize] = true;
        }
    }
    used.iter_mut().take(3).for_each(|special| *special = true);
    Ok(used)
}
