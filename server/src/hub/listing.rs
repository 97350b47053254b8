//! Which files of a repository Lathe downloads. Names come from the network and are hostile until checked.

use super::problems;
use api::{Problem, hub::is_repo_word};
use serde::Deserialize;

/// What was asked for: a repository, and perhaps one GGUF file in it.
#[derive(Clone, Debug, PartialEq)]
pub struct Wanted {
    /// `owner/name`, or `name` for the few that have no owner.
    pub repo: String,
    /// Path of a GGUF file in the repository.
    pub file: Option<String>,
}

impl Wanted {
    /// Reads `owner/name` or `owner/name/path/file.gguf`.
    pub fn parse(id: &str) -> Result<Self, Problem> {
        let parts: Vec<&str> = id.split('/').collect();
        let bad = || problems::bad_id(id);
        if parts.iter().any(|part| !is_repo_word(part)) {
            return Err(bad());
        }
        match parts.as_slice() {
            [_] | [_, _] => Ok(Self { repo: id.into(), file: None }),
            [owner, name, rest @ ..] if rest.last().is_some_and(|f| is_gguf(f)) => {
                Ok(Self { repo: format!("{owner}/{name}"), file: Some(rest.join("/")) })
            }
            _ => Err(bad()),
        }
    }
}

/// The part of `GET /api/models/ID/revision/REV` (or `datasets`) that matters here.
#[derive(Debug, Deserialize)]
pub struct Listing {
    #[serde(default)]
    pub sha: String,
    #[serde(default)]
    pub siblings: Vec<Sibling>,
}

impl Listing {
    pub fn commit(&self) -> Option<String> {
        Some(self.sha.clone()).filter(|sha| super::is_commit(sha))
    }

    /// Names that can't leave a folder; one that could refuses the repository `id`.
    pub fn check(&self, id: &str) -> Result<(), Problem> {
        let hostile = self.siblings.iter().find(|s| !is_safe(&s.name));
        hostile.map_or(Ok(()), |s| Err(problems::bad_name(id, &s.name)))
    }
}

#[derive(Debug, Deserialize)]
pub struct Sibling {
    #[serde(rename = "rfilename")]
    pub name: String,
    /// Bytes, where the hub says so.
    #[serde(default)]
    pub size: Option<u64>,
    /// What ModelScope says of the content; Hugging Face tells it with each file.
    #[serde(skip)]
    pub etag: String,
}

/// The files to download, each with its size where known: weights (safetensors, otherwise one GGUF file) and what
/// stands beside them (configuration, tokenizer, chat template, licence). Never pickle, never anything in subfolders
/// but a GGUF file that was named.
pub fn choose<'a>(wanted: &Wanted, listing: &'a Listing) -> Result<Vec<&'a Sibling>, Problem> {
    let id = &wanted.repo;
    listing.check(id)?;
    let top = || listing.siblings.iter().filter(|s| !s.name.contains('/'));
    let mut chosen: Vec<&Sibling> = top().filter(|s| is_beside(&s.name)).collect();
    if let Some(file) = &wanted.file {
        let named = listing.siblings.iter().find(|s| s.name == *file).ok_or_else(|| problems::no_file(id, file))?;
        chosen.push(named);
        return Ok(chosen);
    }
    let mut weights: Vec<&Sibling> = top().filter(|s| s.name.ends_with(".safetensors")).collect();
    // Mistral ships the same weights twice, as model*.safetensors and consolidated*.safetensors.
    if weights.iter().any(|s| s.name.starts_with("model")) {
        weights.retain(|s| s.name.starts_with("model") || s.name.starts_with("adapter"));
    }
    if weights.is_empty() {
        weights.extend(best_gguf(top()));
    } else {
        chosen.extend(top().filter(|s| s.name.ends_with(".safetensors.index.json")));
    }
    if weights.is_empty() {
        let pickled = top().any(|s| [".bin", ".pt", ".pth", ".ckpt"].iter().any(|end| s.name.ends_with(end)));
        return Err(problems::no_weights(id, pickled));
    }
    chosen.extend(weights);
    Ok(chosen)
}

/// A relative path without `..`, backslash, drive, control character or empty part: it can't leave the folder it is
/// joined to.
pub fn is_safe(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 512
        && !name.contains(['\\', ':'])
        && !name.chars().any(char::is_control)
        && name.split('/').all(|part| !part.is_empty() && part != "." && part != ".." && part.len() <= 200)
}

/// A branch, tag or commit as git allows it, safe as a path below `refs/`.
pub fn is_revision(revision: &str) -> bool {
    is_safe(revision) && !revision.contains(['?', '#', '*', '~', '^', '[', ' '])
}

/// Configuration, tokenizer, template and licence.
fn is_beside(name: &str) -> bool {
    const NAMES: [&str; 7] = [
        "config.json",
        "generation_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "vocab.json",
        "merges.txt",
        "adapter_config.json",
    ];
    let start = |word: &str| name.starts_with(word);
    NAMES.contains(&name)
        || (start("tokenizer") && name.ends_with(".json"))
        || start("chat_template")
        || name.ends_with(".jinja")
        || start("README")
        || start("LICENSE")
}

/// The GGUF file that most people want: four to eight bits before larger ones; parts of split files are left out.
fn best_gguf<'a>(files: impl Iterator<Item = &'a Sibling>) -> Option<&'a Sibling> {
    const LIKED: [&str; 10] = ["q4_k_m", "q8_0", "q5_k_m", "q6_k", "q4_0", "q4_1", "q4_k_s", "bf16", "f16", "f32"];
    let rank = |s: &Sibling| {
        let name = s.name.to_ascii_lowercase();
        (LIKED.iter().position(|word| name.contains(word)).unwrap_or(LIKED.len()), name)
    };
    files
        .filter(|s| is_gguf(&s.name) && !s.name.contains("-of-") && !s.name.starts_with("mmproj"))
        .min_by_key(|s| rank(s))
}

fn is_gguf(name: &str) -> bool {
    name.len() > 5 && name.ends_with(".gguf")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn listing(names: &[&str]) -> Listing {
        let siblings = names.iter().map(|n| Sibling { name: n.to_string(), size: None, etag: String::new() }).collect();
        Listing { sha: String::new(), siblings }
    }

    fn chosen(id: &str, names: &[&str]) -> Result<Vec<String>, String> {
        let listing = listing(names);
        let files = choose(&Wanted::parse(id).unwrap(), &listing).map_err(|p| p.code)?;
        Ok(files.iter().map(|s| s.name.clone()).collect())
    }

    #[test]
    fn ids_are_read_or_refused() {
        assert_eq!(Wanted::parse("gpt2").unwrap().repo, "gpt2");
        let gguf = Wanted::parse("a/b/q4/x.gguf").unwrap();
        assert_eq!((gguf.repo.as_str(), gguf.file.as_deref()), ("a/b", Some("q4/x.gguf")));
        for bad in
            ["", "/", "a/", "a/b/c", "../b", "a/..", "a b/c", "a/b?x", "-a/b", "a/.gguf", "a--b/c", "a/b/../x.gguf"]
        {
            assert!(Wanted::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn only_what_lathe_reads_is_chosen() {
        let names = [
            ".gitattributes",
            "README.md",
            "config.json",
            "model.safetensors",
            "consolidated.safetensors",
            "onnx/model.safetensors",
            "pytorch_model.bin",
            "tokenizer.json",
            "x-q8_0.gguf",
        ];
        assert_eq!(chosen("a/b", &names).unwrap(), ["README.md", "config.json", "tokenizer.json", "model.safetensors"]);
        let shards =
            ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json"];
        assert_eq!(chosen("a/b", &shards).unwrap().len(), 3);
        assert_eq!(chosen("a/b", &["x-f16.gguf", "x-Q4_K_M.gguf", "x-Q2_K.gguf"]).unwrap(), ["x-Q4_K_M.gguf"]);
        assert_eq!(chosen("a/b/x-f16.gguf", &["x-f16.gguf", "model.safetensors"]).unwrap(), ["x-f16.gguf"]);
        assert_eq!(chosen("a/b", &["pytorch_model.bin"]).unwrap_err(), "hub_no_weights");
        assert_eq!(chosen("a/b/c.gguf", &["x-f16.gguf"]).unwrap_err(), "hub_no_file");
    }

    #[test]
    fn names_that_leave_the_folder_refuse_the_repository() {
        for name in ["../x.json", "/etc/passwd", "a\\..\\b.json", "a//b", "a/../b", "./config.json", "C:x", "a\0b", ""]
        {
            assert_eq!(chosen("a/b", &["model.safetensors", name]).unwrap_err(), "hub_bad_name", "{name:?}");
        }
    }
}
