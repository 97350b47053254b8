//! The command line.

use crate::load;
use api::{
    data::FileType,
    hub::HubName,
    preference::{Adversarial, PairRows, PairSource, Pairing},
};
use clap::{
    Parser, Subcommand,
    builder::{PossibleValuesParser, TypedValueParser},
};
use serde::de::DeserializeOwned;
use std::net::IpAddr;
use std::path::PathBuf;

/// Fine-tune language models: a studio in the browser, and the same on the command line.
#[derive(Debug, Parser)]
#[command(name = "lathe", version, max_term_width = 100)]
pub struct Args {
    #[command(subcommand)]
    pub command: Option<Command>,
    #[command(flatten)]
    pub webui: Webui,
    /// Data folder: datasets, models, runs [default: $LATHE_HOME, or ~/.lathe]
    #[arg(long, global = true, value_name = "DIR")]
    pub home: Option<PathBuf>,
    /// One JSON object, or one a line, on stdout; everything else goes to stderr
    #[arg(long, global = true)]
    pub json: bool,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// The studio in the browser (the default)
    Webui(Webui),
    /// Train a model in the foreground; the studio lists the run as well
    Train {
        /// A YAML file with LLaMA-Factory's argument names, and key=value words that change it
        #[arg(value_name = "RUN.yaml | key=value")]
        words: Vec<String>,
        /// Go on with a run though its settings or rows changed; the same as accept_changes=true
        #[arg(long)]
        accept_changes: bool,
        /// Make two steps, keep nothing, and say what the run would take: memory, time, disk
        #[arg(long)]
        dry_run: bool,
    },
    /// Make a run again and say whether its files come out the same to the bit
    Rerun {
        /// Its id, or its folder
        #[arg(value_name = "RUN")]
        run: String,
    },
    /// What differs between two runs: settings, model, data, program, machine, results
    Diff {
        /// Their ids, or their folders
        #[arg(value_name = "RUN", num_args = 2, required = true)]
        runs: Vec<String>,
    },
    /// Talk to a model
    Chat {
        /// A YAML file and key=value words: model_name_or_path, adapter_name_or_path, template, temperature …
        #[arg(value_name = "CHAT.yaml | key=value")]
        words: Vec<String>,
        /// Answer this and end
        #[arg(long, value_name = "TEXT")]
        prompt: Option<String>,
        /// The system message
        #[arg(long, value_name = "TEXT")]
        system: Option<String>,
    },
    /// Merge an adapter into its model and write a Hugging Face folder
    Export {
        /// A YAML file and key=value words: model_name_or_path, adapter_name_or_path, export_dir …
        #[arg(value_name = "EXPORT.yaml | key=value")]
        words: Vec<String>,
    },
    /// Download models from a hub, list those on this computer
    Models {
        #[command(subcommand)]
        command: Models,
    },
    /// Look at datasets
    Data {
        #[command(subcommand)]
        command: Data,
    },
    /// Look at the checkpoints of a run
    Checkpoint {
        #[command(subcommand)]
        command: Checkpoint,
    },
    /// Do the work of a run folder; the studio starts these
    Worker(Worker),
    /// All arguments, stages, formats and presets, as JSON
    Catalog,
    /// Measure training steps or generation on this computer
    Bench {
        #[command(subcommand)]
        command: Bench,
    },
    /// What this computer offers, and where things stand
    Env,
    /// The version
    Version,
}

#[derive(Debug, clap::Args)]
pub struct Webui {
    /// Address to listen on [default: 127.0.0.1]; another one needs a token
    #[arg(long, value_name = "ADDRESS")]
    pub host: Option<IpAddr>,
    /// Port to listen on [default: 7860]
    #[arg(long)]
    pub port: Option<u16>,
    /// Secret that the browser must show, 16 characters or more; better given as LATHE_TOKEN
    #[arg(long)]
    pub token: Option<String>,
    /// Further host name under which the studio is reached
    #[arg(long, value_name = "HOST")]
    pub name: Vec<String>,
    /// How often an interrupted job is started without getting further, its first start among them; 0: never again by itself [default: 5]
    #[arg(long, value_name = "N")]
    pub restarts: Option<u32>,
    /// Is told of every change of a job's state; better given as LATHE_WEBHOOK, with LATHE_WEBHOOK_SECRET to sign it
    #[arg(long, value_name = "URL")]
    pub webhook: Option<String>,
    /// What log lines on stderr look like [default: text]
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<LogFormat>,
}

/// For people, or one JSON object a line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    #[default]
    Text,
    Json,
}

impl Webui {
    pub fn is_given(&self) -> bool {
        let is_served = self.host.is_some() || self.port.is_some() || self.token.is_some() || !self.name.is_empty();
        is_served || self.restarts.is_some() || self.webhook.is_some() || self.log_format.is_some()
    }
}

#[derive(Debug, Subcommand)]
pub enum Models {
    /// Download a model into the Hugging Face cache, going on where an earlier download stopped
    Pull {
        /// owner/name, or owner/name/file.gguf
        id: String,
        /// Branch, tag or commit
        #[arg(long, default_value = "main")]
        revision: String,
    },
    /// Models on this computer
    List,
}

#[derive(Debug, Subcommand)]
pub enum Checkpoint {
    /// Read every byte of a checkpoint, or of all of a run, and name each damaged file; ends with 1 if there is one
    Verify(CheckpointPlace),
    /// The checkpoints of a run in the order in which they were saved
    List(CheckpointPlace),
}

#[derive(Debug, clap::Args)]
pub struct CheckpointPlace {
    /// Folder of a checkpoint or of a run, or the id of a run
    #[arg(value_name = "DIR | RUN")]
    pub place: PathBuf,
}

#[derive(Debug, Subcommand)]
pub enum Data {
    /// The datasets of the data folder, with what is wrong with them
    List,
    /// Some rows of a dataset as they are read; with --row one of them, and the tokens that a run makes of it
    Show(DataShow),
    /// What a dataset holds and what is wrong with it, row by row, counted with a run's model and settings
    Check(DataRun),
    /// Write a dataset as another kind of file
    Export(DataExport),
    /// Download a dataset of a hub and register it, going on where an earlier download stopped
    Pull(DataPull),
    /// Make rows: new tasks after seeds, answers to rows without one, several answers to compare, or a judge's pairs of them
    Make {
        /// A YAML file and key=value words: task, dataset, model_name_or_path, or base_url and teacher, num_rows …
        #[arg(value_name = "MAKE.yaml | key=value")]
        words: Vec<String>,
        /// Go on with a job that was stopped or killed
        #[arg(long, value_name = "JOB", conflicts_with = "words")]
        resume: Option<String>,
    },
    /// Pairs of answers from votes, a judge, scores and rankings: how many there are, and with --name a dataset of them
    Pairs(DataPairs),
    /// What a chat template makes of a conversation: its text, and nothing after it
    Render(DataRender),
}

#[derive(Debug, clap::Args)]
pub struct DataPairs {
    /// Datasets that pairs come from, each with how often its pairs come: scored, or voted=2
    #[arg(value_name = "DATASET[=WEIGHT]", required = true, value_parser = pair_source)]
    pub sources: Vec<PairSource>,
    /// Make a dataset of this name; without it pairs are only counted
    #[arg(long)]
    pub name: Option<String>,
    /// ranking (both answers, for dpo and rm) or kto (an answer with its mark)
    #[arg(long, default_value = "ranking", value_parser = choice::<PairRows>(["ranking", "kto"]))]
    pub rows: PairRows,
    /// Columns of the rows: alpaca, sharegpt, openai [default: alpaca]
    #[arg(long, value_name = "FORMAT")]
    pub formatting: Option<String>,
    /// Which of several scored or ranked answers are compared: all with all, or adjacent ones
    #[arg(long, default_value = "all", value_parser = choice::<Pairing>(["all", "adjacent"]))]
    pub pairing: Pairing,
    /// Drop pairs whose scores lie closer
    #[arg(long, default_value_t = 0.0)]
    pub min_gap: f64,
    /// Hard pairs only: drop those whose scores lie farther apart
    #[arg(long)]
    pub max_gap: Option<f64>,
    /// Prompts with the tag adversarial: any, only, without
    #[arg(long, default_value = "any", value_parser = choice::<Adversarial>(["any", "only", "without"]))]
    pub adversarial: Adversarial,
    /// At least this share of the answers comes from the model that is trained, 0 to 1
    #[arg(long, value_name = "SHARE", default_value_t = 0.0)]
    pub on_policy: f64,
}

/// `NAME`, or `NAME=WEIGHT`.
fn pair_source(word: &str) -> Result<PairSource, String> {
    let (dataset, weight) = match word.rsplit_once('=') {
        None => (word, 1.0),
        Some((name, weight)) => {
            (name, weight.parse().map_err(|_| format!("{weight} is no weight; 2 is twice each pair"))?)
        }
    };
    Ok(PairSource { dataset: dataset.to_owned(), weight })
}

/// One of the names by which the API knows a choice.
fn choice<T: DeserializeOwned + Clone + Send + Sync + 'static>(
    names: impl IntoIterator<Item = &'static str>,
) -> impl TypedValueParser<Value = T> {
    PossibleValuesParser::new(names).try_map(|name| serde_json::from_value(name.into()))
}

#[derive(Debug, clap::Args)]
pub struct DataPull {
    /// owner/name on a hub, or the name of a dataset in dataset_info.json that is on one
    #[arg(value_name = "ID | NAME")]
    pub id: String,
    /// hf (Hugging Face or a mirror) or ms (ModelScope) [default: as the environment prefers]
    #[arg(long)]
    pub hub: Option<HubName>,
    /// One of its configurations
    #[arg(long)]
    pub subset: Option<String>,
    /// train, test … [default: train]
    #[arg(long)]
    pub split: Option<String>,
    /// What the dataset will be called [default: made from the id]
    #[arg(long)]
    pub name: Option<String>,
}

#[derive(Debug, clap::Args)]
pub struct DataShow {
    #[command(flatten)]
    pub of: DataRun,
    /// Show this row, from 1, with its ids and loss mask as the trainer makes them
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..), conflicts_with_all = ["offset", "rows"])]
    pub row: Option<u64>,
    /// Rows to pass over
    #[arg(long, default_value_t = 0)]
    pub offset: u64,
    /// Rows to show
    #[arg(long, default_value_t = 3)]
    pub rows: u64,
}

/// A dataset as a run reads it.
#[derive(Debug, clap::Args)]
pub struct DataRun {
    /// Name in dataset_info.json
    #[arg(value_name = "DATASET")]
    pub name: String,
    /// Arguments of the run: model_name_or_path=starter, template=…, cutoff_len=…
    #[arg(value_name = "key=value")]
    pub words: Vec<String>,
    /// A YAML file with the run's arguments
    #[arg(long, value_name = "RUN.yaml")]
    pub config: Option<String>,
}

#[derive(Debug, clap::Args)]
pub struct DataExport {
    /// Name in dataset_info.json
    #[arg(value_name = "DATASET")]
    pub name: String,
    /// json, jsonl, csv, parquet, arrow [default: by the ending of --output, or json]
    #[arg(long = "type", value_name = "TYPE", value_parser = file_type)]
    pub file_type: Option<FileType>,
    /// Rows in the columns of this format: alpaca, sharegpt, openai [default: as they stand]
    #[arg(long, value_name = "FORMAT")]
    pub formatting: Option<String>,
    /// File to write; without it, stdout
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,
}

/// A type by its name in the API.
fn file_type(name: &str) -> Result<FileType, String> {
    serde_json::from_value(name.into()).map_err(|_| "known are json, jsonl, csv, parquet and arrow".into())
}

impl DataExport {
    /// The type asked for, or that of the output's ending.
    pub fn file_type(&self) -> FileType {
        let ending = self.output.as_ref().and_then(|path| path.extension()).and_then(|ending| ending.to_str());
        self.file_type.or_else(|| file_type(ending?).ok()).unwrap_or_default()
    }
}

#[derive(Debug, clap::Args)]
pub struct DataRender {
    /// A file with the template's Jinja source
    #[arg(long, value_name = "FILE")]
    pub template: PathBuf,
    /// A JSON list of messages, as transformers' apply_chat_template takes it
    #[arg(long, value_name = "FILE")]
    pub messages: PathBuf,
    /// A JSON list of tools
    #[arg(long, value_name = "FILE")]
    pub tools: Option<PathBuf>,
    /// What bos_token stands for
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub bos: Option<String>,
    /// What eos_token stands for
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub eos: Option<String>,
    /// End with the beginning of an answer
    #[arg(long)]
    pub add_generation_prompt: bool,
}

#[derive(Debug, Subcommand)]
pub enum Bench {
    /// Tokens a second, milliseconds of a step, memory, and the time to the first step
    Train(BenchTrain),
    /// Tokens a second of reading a prompt and of writing an answer
    Generate(BenchGenerate),
    /// Losses and tokens a second of rows one by one and packed together
    Packing(BenchTrain),
    /// Tokens a second that a policy samples, and the share of a step that this takes
    Rollouts(BenchRollouts),
    /// Bytes a second of registering and of encoding a data file
    Data(BenchData),
    /// Accuracy, trained parameters, memory and time of tuning methods on rows with labels, each in a process of its own
    Methods(BenchMethods),
    /// What a studio of its own holds while a model trains in it: chats, pages, uploads, requests, hostile connections
    Load(BenchLoad),
}

#[derive(Debug, clap::Args)]
pub struct BenchLoad {
    /// Rows of the table, L01 to L09 and R18 [default: all]
    #[arg(long, value_name = "ROW,…", value_delimiter = ',', value_parser = PossibleValuesParser::new(load::ROWS))]
    pub rows: Vec<String>,
    /// How long each load lasts
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(5..=86_400))]
    pub seconds: u32,
    /// Pages that follow a run
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub subscribers: u32,
    /// Size of the files that are uploaded and read
    #[arg(long, default_value_t = 1.0)]
    pub gigabytes: f64,
    /// Jobs of the long history
    #[arg(long, default_value_t = 10_000)]
    pub jobs: u64,
    /// Points of their curves, in all
    #[arg(long, default_value_t = 10_000_000)]
    pub points: u64,
}

#[derive(Debug, clap::Args)]
pub struct BenchMethods {
    /// A model of this computer, as model_name_or_path names it
    #[arg(long, value_name = "MODEL")]
    pub model: String,
    /// A data file whose answers are a few labels; a tenth of its rows is held back
    #[arg(long, value_name = "FILE")]
    pub data: PathBuf,
    /// Tuning types, and qlora [default: all]
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    pub methods: Vec<String>,
    /// Steps of each
    #[arg(long, default_value_t = 90, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub steps: u32,
    /// Measure the one method in this process
    #[arg(long, hide = true)]
    pub alone: bool,
    /// Arguments of the runs, for example learning_rate=1e-3
    #[arg(value_name = "KEY=VALUE")]
    pub words: Vec<String>,
}

#[derive(Debug, clap::Args)]
pub struct BenchTrain {
    #[command(flatten)]
    pub subject: BenchSubject,
    /// Rows in a step
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub batch: u32,
    /// Tokens in a row; with --data at most
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u32).range(4..=131_072))]
    pub length: u32,
    /// Steps that are measured
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub steps: u32,
    /// Steps before these that are not measured
    #[arg(long, default_value_t = 2)]
    pub warmup: u32,
    /// lora, full, or none: no parameter is trained
    #[arg(long, default_value = "lora")]
    pub adapter: String,
    /// Width of the LoRA
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub rank: u32,
    /// Keep the frozen model in 4 or 8 bits
    #[arg(long, value_name = "BITS", value_parser = PossibleValuesParser::new(["4", "8"]))]
    pub quantization_bit: Option<String>,
    /// The optimizer, as optim names it
    #[arg(long, default_value = "adamw_torch")]
    pub optim: String,
    /// Recompute activations in the backward pass
    #[arg(long, default_value_t = false, action = clap::ArgAction::Set)]
    pub recompute: bool,
    /// A data file to take rows from; without it rows are full, of random tokens
    #[arg(long, value_name = "FILE")]
    pub data: Option<PathBuf>,
    /// Pack the rows of --data together up to --length tokens
    #[arg(long)]
    pub packing: bool,
}

#[derive(Debug, clap::Args)]
pub struct BenchGenerate {
    #[command(flatten)]
    pub subject: BenchSubject,
    /// Tokens of the prompt
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..=131_072))]
    pub prompt: u32,
    /// Tokens to write after it
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=131_072))]
    pub new: u32,
    /// How often both are measured
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub rounds: u32,
    /// Chats at once and in a row; 0 leaves them and the mixed load out
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(0..=64))]
    pub chats: u32,
}

#[derive(Debug, clap::Args)]
pub struct BenchRollouts {
    #[command(flatten)]
    pub subject: BenchSubject,
    /// Prompts in a step
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub prompts: u32,
    /// Answers to each prompt
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub answers: u32,
    /// Tokens of a prompt
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=131_072))]
    pub prompt: u32,
    /// Tokens of an answer
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=131_072))]
    pub new: u32,
    /// Steps that are measured
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub steps: u32,
    /// Answers that are learned from together
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub batch: u32,
    /// Width of the LoRA
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub rank: u32,
}

#[derive(Debug, clap::Args)]
pub struct BenchData {
    #[command(flatten)]
    pub subject: BenchSubject,
    /// The data file
    #[arg(long, value_name = "FILE")]
    pub data: PathBuf,
    /// Take rows as texts, as the stage pt does
    #[arg(long)]
    pub text: bool,
    /// Register the file only
    #[arg(long)]
    pub register_only: bool,
}

#[derive(Debug, clap::Args)]
pub struct BenchSubject {
    /// A model: starter, a folder, a .gguf file, or a hub id that was pulled
    #[arg(long, value_name = "NAME", required_unless_present = "shape", conflicts_with = "shape")]
    pub model: Option<String>,
    /// Random weights of this shape instead: smollm2-135m, qwen2.5-1.5b, llama-3.1-8b
    #[arg(long, value_name = "NAME")]
    pub shape: Option<String>,
    /// Numbers to compute in: auto, bf16, fp32
    #[arg(long, value_name = "TYPE", default_value = "auto")]
    pub compute_type: String,
    /// Threads to compute on [default: one for each core]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub threads: Option<u32>,
    /// Show the share of each operation
    #[arg(long)]
    pub profile: bool,
}

#[derive(Debug, clap::Args)]
pub struct Worker {
    #[command(flatten)]
    pub task: Task,
    /// Compute on this device where a run doesn't ask for the CPU
    #[arg(long, value_name = "cuda:N")]
    pub device: Option<String>,
}

#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
pub struct Task {
    /// Folder with a spec.json
    #[arg(value_name = "RUN_DIR")]
    pub run: Option<PathBuf>,
    /// Answer one question, JSON on stdin
    #[arg(long)]
    pub ask: bool,
    /// Load one model and chat, JSON lines on stdin and stdout
    #[arg(long)]
    pub chat: bool,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn home_and_json_go_before_or_after_the_command() {
        for line in ["lathe --home x --json env", "lathe env --json --home x"] {
            let args = Args::try_parse_from(line.split(' ')).unwrap();
            assert!(args.json && args.home == Some("x".into()), "{line}");
        }
        let args = Args::try_parse_from(["lathe", "--port", "8000"]).unwrap();
        assert!(args.command.is_none() && args.webui.port == Some(8000));
    }
}
