//! Export: a model, with its adapter merged in or the adapter alone, for Lathe and others to load. Nothing is at its place
//! before it was loaded again and held against what it was made of ([`verify`]).

mod adapter;
mod card;
pub mod gguf;
mod merged;
mod modelfile;
pub mod verify;

use crate::{
    Error, Places, Result,
    adapters::{Base, Precision},
    files::{
        self,
        adapter::is_adapter,
        export::{self as folder, placed},
        write_atomically,
    },
    loaded::Loaded,
    run::Sink,
};
use api::{
    Event, Outcome, Problem, Problems, RunConfig, Text,
    params::{
        self, ComputeType, ExportFormat as Format, ExportParams, ExportQuantization as Quantization, ModelParams,
    },
};
use candle_core::DType;
use merged::Merged;
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
};
use verify::{Reference, Verification};

/// The file of an export as GGUF.
pub const GGUF: &str = "model.gguf";
/// That of a LoRA.
pub const GGUF_LORA: &str = "adapter.gguf";

/// Arguments of an export, checked; all problems at once.
pub fn arguments(config: &RunConfig) -> Result<(ModelParams, ExportParams)> {
    let schemas = [params::schema::<ModelParams>(), params::schema::<ExportParams>()];
    let mut problems = Problems(params::check_keys(config, &schemas, &["finetuning_type"]));
    let model = params::read::<ModelParams>(config).map_err(|p| problems.0.extend(p.0));
    let export = params::read::<ExportParams>(config).map_err(|p| problems.0.extend(p.0));
    let (Ok(model), Ok(export)) = (model, export) else { return Err(problems.into()) };
    problems.0.extend(contradiction(&model, &export));
    if export.export_legacy_format {
        problems.0.push(
            Problem::new(
                "legacy_format",
                "export_legacy_format is true, but Lathe writes no pickle files.",
                "export_legacy_format 为 true，但 Lathe 不写 pickle 文件。",
            )
            .hint("Take it out: transformers reads safetensors.", "请去掉它：transformers 可读取 safetensors。")
            .field("export_legacy_format"),
        );
    }
    if problems.is_empty() { Ok((model, export)) } else { Err(problems.into()) }
}

/// What formats can't be combined with.
fn contradiction(model: &ModelParams, export: &ExportParams) -> Option<Problem> {
    let named = |format: Format| match format {
        Format::Hf => "hf",
        Format::Adapter => "adapter",
        Format::Gguf => "gguf",
        Format::GgufLora => "gguf-lora",
    };
    let format = named(export.export_format);
    match (export.export_format, export.quantization()) {
        (Format::Hf, Some(asked)) if asked.dtype().is_none() => {
            let asked = asked.name();
            Some(
                Problem::new(
                    "quantization_of_gguf",
                    format!(
                        "export_quantization is {asked}, which model folders don't have: they take f32, f16, bf16."
                    ),
                    format!("export_quantization 为 {asked}，但模型文件夹不支持它，可用 f32、f16、bf16。"),
                )
                .hint(
                    "Set export_format: gguf, or another export_quantization.",
                    "请设置 export_format: gguf，或改用其他 export_quantization。",
                )
                .field("export_quantization"),
            )
        }
        (Format::Adapter | Format::GgufLora, Some(asked)) => {
            let asked = asked.name();
            Some(
                Problem::new(
                    "adapter_quantization",
                    format!("export_quantization is {asked}, but {format} keeps the adapter as it is."),
                    format!("export_quantization 为 {asked}，但 {format} 会原样保留适配器。"),
                )
                .hint("Take export_quantization out.", "请去掉 export_quantization。")
                .field("export_quantization"),
            )
        }
        (Format::Adapter | Format::GgufLora, None) if model.adapters().len() != 1 => {
            let count = model.adapters().len();
            Some(
                Problem::new(
                    "one_adapter",
                    format!("export_format is {format}, which takes one adapter; adapter_name_or_path names {count}."),
                    format!("export_format 为 {format}，需要一个适配器；adapter_name_or_path 给出了 {count} 个。"),
                )
                .hint("Name the adapter, or set export_format: hf.", "请指定适配器，或设置 export_format: hf。")
                .field("adapter_name_or_path"),
            )
        }
        _ => None,
    }
}

/// Exports and verifies; `id` names the folder where `export_dir` doesn't, and the report of an export that failed stays in
/// `run`. The figures of the verification, by name.
pub fn export(
    config: &RunConfig,
    id: &str,
    run: &Path,
    places: &Places,
    sink: Sink,
    stop: &AtomicBool,
) -> Result<(Outcome, BTreeMap<String, f64>)> {
    let (model, params) = arguments(config)?;
    let model = ModelParams { train_from_scratch: false, ..model };
    let dir = params.export_dir.as_deref().filter(|d| !d.is_empty());
    let dir = dir.map_or_else(|| places.exports().join(id), PathBuf::from);
    // Whole in the artifact: what reads the event stands elsewhere.
    let dir = std::path::absolute(&dir).unwrap_or(dir);
    refuse_existing(&dir)?;
    status(sink, "Loading the model", "正在加载模型")?;
    let loaded = Loaded::open_on(&model, places, ComputeType::Fp32, None)?;
    let quantization = params.quantization().unwrap_or(match folder::storage_type(&loaded.files) {
        DType::F32 => Quantization::F32,
        DType::F16 => Quantization::F16,
        _ => Quantization::Bf16,
    });
    let mut export = Export { model: &model, params: &params, quantization, places, sink, stop };
    let from = loaded.files.path().to_path_buf();
    let mut found = None;
    let made = placed(&dir, &from, |folder| {
        export.write(folder, &loaded)?;
        let verification = export.verify(folder, loaded)?;
        if let Some(problem) = verification.as_ref().and_then(Verification::problem) {
            // Kept for who wants to see how far they are apart; the problem says the most of it.
            let _ = verification.iter().try_for_each(|report| report.write(run));
            return Err(problem.into());
        }
        if let Some(report) = &verification {
            report.write(folder)?;
            card::complete(folder, report)?;
        }
        found = verification;
        Ok(())
    });
    if stop.load(Ordering::Relaxed) {
        return Ok((Outcome::Stopped, BTreeMap::new()));
    }
    made?;
    let bytes = crate::train::checkpoint::folder_bytes(&dir);
    (export.sink)(Event::Artifact { path: dir.display().to_string(), bytes })?;
    let figures = found.iter().flat_map(Verification::summary).map(|(name, value)| (name.to_string(), value));
    Ok((Outcome::Succeeded, figures.collect()))
}

struct Export<'a> {
    model: &'a ModelParams,
    params: &'a ExportParams,
    quantization: Quantization,
    places: &'a Places,
    sink: Sink<'a>,
    stop: &'a AtomicBool,
}

impl Export<'_> {
    /// Everything but the report, into the folder.
    fn write(&mut self, folder: &Path, loaded: &Loaded) -> Result<()> {
        let name = name_of(self.model);
        match self.params.export_format {
            Format::Hf => self.write_folder(folder, loaded)?,
            Format::Gguf => self.write_gguf(&folder.join(GGUF), loaded, &name)?,
            Format::Adapter => {
                let (tuning, base) = (self.tuning(loaded)?, self.base(loaded));
                tuning.save(folder, loaded.model.as_ref(), &loaded.store, &base, Precision::Storage)?;
                files::write_tokenizer(folder, &loaded.files)?;
                // The adapter has a card of its own.
                return Ok(());
            }
            Format::GgufLora => {
                let config = loaded.model.layout().decoder()?;
                let from = PathBuf::from(self.model.adapters().pop().unwrap_or_default());
                adapter::write_gguf(&folder.join(GGUF_LORA), &loaded.files, config, &from, &name)?;
            }
        }
        if let Ok(model) = loaded.model.decoder() {
            let from = match self.params.export_format {
                Format::Gguf => format!("./{GGUF}"),
                _ => ".".to_string(),
            };
            let made = modelfile::modelfile(&from, &loaded.encoder, model.config.context);
            if self.params.export_format != Format::GgufLora {
                write_atomically(&folder.join("Modelfile"), made)?;
            }
        }
        write_atomically(
            &folder.join("README.md"),
            card::card(self.model, self.params.export_format, self.quantization),
        )
    }

    fn write_folder(&mut self, to: &Path, loaded: &Loaded) -> Result<()> {
        self.check_merges(loaded)?;
        let dtype = match self.quantization {
            Quantization::F32 => DType::F32,
            Quantization::F16 => DType::F16,
            _ => DType::BF16,
        };
        let (merged, stop) = (Merged::new(loaded), self.stop);
        let tensor = |name: &str| unless_stopped(stop, || merged.tensor(name));
        let (weights, shard) = (folder::stored(&loaded.files)?, (self.params.export_size * 1e9) as u64);
        let mut told = Ok(());
        let mut progress = telling(self.sink, &mut told);
        folder::write_into(to, &loaded.files, &weights, shard, dtype, tensor, &mut progress)?;
        drop(progress);
        told?;
        files::write_tokenizer(to, &loaded.files)
    }

    fn write_gguf(&mut self, to: &Path, loaded: &Loaded, name: &str) -> Result<()> {
        self.check_merges(loaded)?;
        let (merged, stop) = (Merged::new(loaded), self.stop);
        let tensor = |name: &str| unless_stopped(stop, || merged.tensor(name));
        let config = loaded.model.layout().decoder()?;
        let mut told = Ok(());
        let mut progress = telling(self.sink, &mut told);
        gguf::write(to, &loaded.files, config, name, self.quantization, tensor, &mut progress)?;
        drop(progress);
        told
    }

    fn check_merges(&self, loaded: &Loaded) -> Result<()> {
        loaded.tuning.as_ref().map_or(Ok(()), |tuning| tuning.merges())
    }

    fn tuning<'b>(&self, loaded: &'b Loaded) -> Result<&'b dyn crate::adapters::Tuning> {
        loaded.tuning.as_deref().ok_or_else(|| Error::Internal("an adapter without a tuning".into()))
    }

    fn base<'b>(&'b self, loaded: &'b Loaded) -> Base<'b> {
        Base { files: &loaded.files, name: &self.model.model_name_or_path }
    }

    /// Loads the export again and holds it against the model that it was made of, which is let go of before. `None` for a LoRA
    /// as GGUF, whose tensors are read again one by one.
    fn verify(&mut self, folder: &Path, loaded: Loaded) -> Result<Option<Verification>> {
        status(self.sink, "Verifying: what it was made of", "正在校验：原模型的回答")?;
        if self.params.export_format == Format::GgufLora {
            let config = loaded.model.layout().decoder()?;
            let from = PathBuf::from(self.model.adapters().pop().unwrap_or_default());
            adapter::check(&folder.join(GGUF_LORA), &adapter::read(&loaded.files, config, &from)?)?;
            return Ok(None);
        }
        let reference = Reference::of(&loaded, self.stop)?;
        drop(loaded);
        status(self.sink, "Verifying: the export", "正在校验：导出结果的回答")?;
        let again = match self.params.export_format {
            Format::Gguf => verify::load(&folder.join(GGUF), self.places)?,
            _ if is_adapter(folder) => {
                let adapter_name_or_path = Some(folder.display().to_string());
                let params = ModelParams { adapter_name_or_path, ..self.model.clone() };
                Loaded::open_on(&params, self.places, ComputeType::Fp32, None)?
            }
            _ => verify::load(folder, self.places)?,
        };
        Ok(Some(reference.against(&again, self.quantization, self.stop)?))
    }
}

/// Hears how far the writing is, and keeps the first error of who is told.
fn telling<'a>(sink: Sink<'a>, told: &'a mut Result<()>) -> impl FnMut(u64, u64) + 'a {
    move |done, total| {
        if told.is_ok() {
            *told = sink(Event::Status { text: Text::new("Writing the model", "正在写出模型"), done, total });
        }
    }
}

fn status(sink: Sink, en: &str, zh: &str) -> Result<()> {
    sink(Event::Status { text: Text::new(en, zh), done: 0, total: 0 })
}

fn unless_stopped<T>(stop: &AtomicBool, f: impl FnOnce() -> Result<T>) -> Result<T> {
    if stop.load(Ordering::Relaxed) { Err(Error::Internal("stopped".into())) } else { f() }
}

/// A name for the model: the last part of the adapter's or the base's, with nothing of this machine.
fn name_of(model: &ModelParams) -> String {
    let path = model.adapters().pop().unwrap_or(&model.model_name_or_path);
    let last = path.trim_end_matches(['/', '\\']).rsplit(['/', '\\']).next().unwrap_or_default();
    last.trim_end_matches(".gguf").to_string()
}

fn refuse_existing(dir: &Path) -> Result<()> {
    let occupied = std::fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some());
    if !occupied {
        return Ok(());
    }
    let shown = dir.display();
    Err(Problem::new("export_exists", format!("{shown} is not empty."), format!("{shown} 不是空文件夹。"))
        .hint("Choose another export_dir, or delete it first.", "请换一个 export_dir，或先将其删除。")
        .field("export_dir")
        .into())
}
