//! Turns the compiled front end into the files that the server embeds: `index.html`, the script, the WebAssembly and the
//! style sheet, the last three named by their content so that a browser may keep them for ever.
//!
//! ```text
//! cargo build -p frontend --profile wasm --target wasm32-unknown-unknown
//! cargo run -p bundle -- target/wasm32-unknown-unknown/wasm/frontend.wasm static/dist
//! ```

use anyhow::{Context, Result, bail, ensure};
use sha2::{Digest, Sha256};
use std::{
    env, fs,
    path::{Path, PathBuf},
};
use wasm_bindgen_cli_support::Bindgen;

const INDEX: &str = include_str!("../../assets/index.html");
const STYLE: &str = include_str!("../../assets/lathe.css");
const ICON: &str = include_str!("../../assets/favicon.svg");
const BOOT: &str = include_str!("../../assets/boot.js");

fn main() -> Result<()> {
    let arguments: Vec<PathBuf> = env::args_os().skip(1).map(PathBuf::from).collect();
    let [wasm, dist] = arguments.as_slice() else {
        bail!("usage: bundle FRONTEND.wasm DIST");
    };
    let mut output = Bindgen::new()
        .input_path(wasm)
        .out_name("app")
        .web(true)?
        .typescript(false)
        .omit_default_module_path(true)
        .remove_name_section(true)
        .remove_producers_section(true)
        .generate_output()
        .with_context(|| format!("cannot bind {}", wasm.display()))?;
    ensure!(
        output.snippets().values().all(Vec::is_empty) && output.local_modules().is_empty(),
        "a dependency brings a script of its own, which the bundle has no place for"
    );
    let script = output.js().to_owned();
    let bytes = output.wasm_mut().emit_wasm();
    let names = write(dist, &script, &bytes)?;
    for name in names {
        let size = fs::metadata(dist.join(&name))?.len();
        println!("{size:>9} {name}");
    }
    Ok(())
}

/// Writes the files to `dist`, removes those of an earlier build, and returns their names.
fn write(dist: &Path, script: &str, wasm: &[u8]) -> Result<Vec<String>> {
    fs::create_dir_all(dist).with_context(|| format!("cannot make {}", dist.display()))?;
    for entry in fs::read_dir(dist)? {
        let entry = entry?;
        if entry.file_name() != ".gitkeep" && entry.file_type()?.is_file() {
            fs::remove_file(entry.path())?;
        }
    }
    let wasm_name = named("app_bg", "wasm", wasm);
    ensure!(script.contains("function __wbg_init("), "the script has no __wbg_init to start with");
    let script =
        format!("{BOOT}{script}\n__wbg_init({{ module_or_path: new URL(\"{wasm_name}\", import.meta.url) }});\n");
    let script_name = named("app", "js", script.as_bytes());
    let style_name = named("app", "css", STYLE.as_bytes());
    let mut index = INDEX.to_owned();
    for (mark, name) in [("{{script}}", &script_name), ("{{wasm}}", &wasm_name), ("{{style}}", &style_name)] {
        ensure!(index.contains(mark), "index.html has no {mark}");
        index = index.replace(mark, name);
    }
    let files: [(&str, &[u8]); 5] = [
        ("index.html", index.as_bytes()),
        (&script_name, script.as_bytes()),
        (&wasm_name, wasm),
        (&style_name, STYLE.as_bytes()),
        ("favicon.svg", ICON.as_bytes()),
    ];
    for (name, bytes) in files {
        fs::write(dist.join(name), bytes).with_context(|| format!("cannot write {name}"))?;
    }
    Ok(files.iter().map(|(name, _)| (*name).to_owned()).collect())
}

/// `app-0123456789abcdef.js`: the first 8 bytes of the content's SHA-256.
fn named(stem: &str, extension: &str, content: &[u8]) -> String {
    let hash: String = Sha256::digest(content).iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    format!("{stem}-{hash}.{extension}")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn every_reference_of_the_index_is_a_file_and_nothing_is_inline() {
        let dist = tempfile::tempdir().unwrap();
        fs::write(dist.path().join("app-old.js"), "old").unwrap();
        let names = write(dist.path(), "async function __wbg_init(options) {}", b"\0asm").unwrap();
        assert!(!dist.path().join("app-old.js").exists());
        let index = fs::read_to_string(dist.path().join("index.html")).unwrap();
        for name in names.iter().filter(|name| *name != "index.html") {
            assert!(index.contains(&format!("\"/{name}\"")), "{name} isn't referred to");
        }
        let script = fs::read_to_string(dist.path().join(&names[1])).unwrap();
        assert!(script.contains(&format!("__wbg_init({{ module_or_path: new URL(\"{}\"", names[2])));
        // The Content-Security-Policy allows neither inline scripts nor inline styles.
        assert!(!index.contains("style=") && !index.contains("<style") && !index.contains("<script>"));
    }
}
