//! Data: registering a file, and encoding it.

use super::Subject;
use crate::{
    Error, Places, Result,
    data::{self, Cache, LoadOptions, Loader, Needs, Reading},
    memory,
    prepare::encoder,
};
use api::{Problem, params::DataParams};
use serde::Serialize;
use std::{fs, path::PathBuf, time::Instant};

/// What is asked of [`data`].
#[derive(Clone, Debug)]
pub struct DataBench {
    pub subject: Subject,
    pub file: PathBuf,
    /// Take rows as texts, as the stage `pt` does.
    pub text: bool,
    /// Register the file only.
    pub register_only: bool,
}

/// What [`data`] found. Rates are in bytes of the file a second.
#[derive(Clone, Debug, Serialize)]
pub struct DataReport {
    pub model: String,
    pub threads: usize,
    pub bytes: u64,
    pub rows: u64,
    /// Recognising the format, counting the rows and looking at each of them.
    pub register_s: f64,
    pub register_mb_per_s: f64,
    /// Peak memory after that, and before anything was read, in bytes.
    pub register_memory: Option<u64>,
    pub idle_memory: Option<u64>,
    #[serde(flatten)]
    pub encoded: Option<EncodeReport>,
}

/// What encoding took.
#[derive(Clone, Debug, Serialize)]
pub struct EncodeReport {
    /// Reading, rendering, encoding and writing to the cache.
    pub encode_s: f64,
    pub encode_mb_per_s: f64,
    pub tokens: u64,
    pub tokens_per_s: f64,
    /// Finding it in the cache.
    pub again_s: f64,
    pub peak_memory: Option<u64>,
}

/// Registers and encodes a file, and measures.
pub fn data(bench: &DataBench, places: &Places) -> Result<DataReport> {
    let idle = memory::peak();
    let bytes = fs::metadata(&bench.file).map_err(Error::io(&bench.file))?.len();
    let started = Instant::now();
    let (registry, name) = data::preview::one_file(&bench.file)?;
    let described = data::preview::looked_through(&registry, &name)?;
    let (register, register_memory) = (started.elapsed().as_secs_f64(), memory::peak());
    if let Some(problem) = described.problem {
        return Err(problem.into());
    }
    let mut report = DataReport {
        model: bench.subject.name().into(),
        threads: rayon::current_num_threads(),
        bytes,
        rows: described.rows,
        register_s: register,
        register_mb_per_s: bytes as f64 / 1e6 / register,
        register_memory,
        idle_memory: idle,
        encoded: None,
    };
    if bench.register_only {
        return Ok(report);
    }
    let Some(opened) = bench.subject.open(places)?.opened else {
        return Err(Problem::new("no_tokenizer", "A shape has no tokenizer.", "仅有结构时没有分词器。")
            .hint("Give --model instead of --shape.", "请用 --model 代替 --shape。")
            .into());
    };
    let (encoder, cache) = (encoder(&opened, &DataParams::default())?, Cache::new(places.tokens()));
    let options = LoadOptions::plain(if bench.text { Needs::Text } else { Needs::Instructions });
    let load = || {
        let (reading, progress) = (Reading::Whole, &mut |_, _| Ok(()));
        let mut loader = Loader { registry: &registry, encoder: &encoder, cache: &cache, reading, progress };
        let started = Instant::now();
        let tokens = loader.load(std::slice::from_ref(&name), &options)?.datasets.iter().map(|d| d.tokens).sum::<u64>();
        Ok::<_, Error>((started.elapsed().as_secs_f64(), tokens))
    };
    let ((encode_s, tokens), (again_s, _)) = (load()?, load()?);
    report.encoded = Some(EncodeReport {
        encode_s,
        encode_mb_per_s: bytes as f64 / 1e6 / encode_s,
        tokens,
        tokens_per_s: tokens as f64 / encode_s,
        again_s,
        peak_memory: memory::peak(),
    });
    Ok(report)
}
