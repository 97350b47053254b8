//! The model card of an export, `README.md`: what it was made of, and how far it is from that.

use super::{GGUF, GGUF_LORA, verify::Verification};
use crate::{Error, Result, files::write_atomically};
use api::params::{ExportFormat as Format, ExportQuantization as Quantization, ModelParams};
use std::path::Path;

/// The card before the export was verified. Names of the model are as they were given, unless these are paths of this machine.
pub fn card(model: &ModelParams, format: Format, quantization: Quantization) -> String {
    let base = shown(&model.model_name_or_path);
    let adapters: Vec<String> = model.adapters().into_iter().map(shown).collect();
    let library = if format == Format::Hf { "transformers" } else { "gguf" };
    let mut out = format!("---\nbase_model: {base}\nlibrary_name: {library}\ntags:\n- lathe\n---\n\n# {base}");
    if !adapters.is_empty() {
        out += &format!(" with {}", adapters.join(", "));
    }
    let kind = quantization.name();
    out += &match format {
        Format::Hf => format!("\n\nWeights in {kind}, in the layout of transformers.\n"),
        Format::Gguf => format!(
            "\n\nWeights in {kind}, for llama.cpp and Ollama.\n\n```sh\nllama-cli -m {GGUF}\nollama create my-model -f Modelfile\n```\n"
        ),
        Format::GgufLora => {
            format!(
                "\n\nA LoRA for llama.cpp, to be put on a GGUF of the base: `llama-cli -m BASE.gguf --lora {GGUF_LORA}`.\n"
            )
        }
        Format::Adapter => "\n\nThe adapter alone, in PEFT's layout.\n".into(),
    };
    out
}

/// Adds to the card of a folder what the verification found.
pub fn complete(folder: &Path, found: &Verification) -> Result<()> {
    let path = folder.join("README.md");
    let card = match std::fs::read_to_string(&path) {
        Ok(card) => card,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Error::io(&path)(error)),
    };
    let rows = format!(
        "\n## Verification\n\nLoaded again and compared with the model that it was made of.\n\n| | before | after |\n|---|---|---|\n\
         | perplexity of a short sample | {:.4} | {:.4} |\n| greedy answers that are the same | | {} of {} |\n\
         | greatest difference of a logit | | {:.3e} |\n",
        found.perplexity_before, found.perplexity_after, found.same_answers, found.prompts, found.max_logit_difference,
    );
    write_atomically(&path, card + &rows)
}

/// A name of a hub stays; of a path its last part.
fn shown(name: &str) -> String {
    let is_path = Path::new(name).is_absolute() || name.starts_with('.') || name.matches(['/', '\\']).count() > 1;
    let last = name.trim_end_matches(['/', '\\']).rsplit(['/', '\\']).next().unwrap_or_default();
    if is_path { last.to_string() } else { name.to_string() }
}
