//! Ids and loss masks of conversations against transformers and a rule for each template (`fixtures/masks.py` made
//! `fixtures/masks.json`, and says what the masks are). The models' own templates stand beside the repository; the others
//! are part of it.
#![allow(clippy::unwrap_used)]

use engine::data::{ChatTemplate, EncodeOptions, Encoder, Example, Sequence, SpecialTokens, format, info, template};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    sync::{Arc, LazyLock},
};
use tokenizers::Tokenizer;

static FIXTURE: LazyLock<Value> = LazyLock::new(|| serde_json::from_str(include_str!("fixtures/masks.json")).unwrap());

static TOKENIZERS: LazyLock<HashMap<String, Arc<Tokenizer>>> = LazyLock::new(|| {
    let tokenizers = FIXTURE["tokenizers"].as_object().unwrap().iter();
    tokenizers.map(|(name, json)| (name.clone(), Arc::new(json.to_string().parse().unwrap()))).collect()
});

/// A row in OpenAI's form, as a dataset gives it.
fn example(name: &str, tools: Option<&Value>) -> Example {
    let mut row = FIXTURE["conversations"][name].as_object().unwrap().clone();
    if let Some(tools) = tools {
        row.entry("tools").or_insert_with(|| tools.clone());
    }
    let entry = info::Entry::parse("a", &json!({ "file_name": "a.json", "formatting": "openai" }));
    format("openai").unwrap().example(&row, &entry).unwrap()
}

fn digest(ids: &[u32]) -> String {
    let ids: Vec<String> = ids.iter().map(u32::to_string).collect();
    Sha256::digest(ids.join(",").as_bytes()).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// Lengths of the parts that aren't and are trained, in turns.
fn runs(trained: &[bool]) -> Vec<usize> {
    let (mut lengths, mut last) = (vec![0], false);
    for bit in trained {
        if *bit != last {
            lengths.push(0);
            last = *bit;
        }
        *lengths.last_mut().unwrap() += 1;
    }
    lengths
}

/// What is trained, as text, for the message of a failure.
fn shown(tokenizer: &Tokenizer, sequence: &Sequence) -> String {
    let parts = sequence.ids.iter().zip(&sequence.trained).map(|(id, trained)| {
        let token = tokenizer.id_to_token(*id).unwrap();
        if *trained { format!("⟦{token}⟧") } else { token }
    });
    parts.collect()
}

/// Compares every case of a template; what differs, in words.
fn differences(source: &str, expected: &Value) -> Vec<String> {
    let word = |key: &str| expected[key].as_str();
    let tokenizer = &TOKENIZERS[word("tokenizer").unwrap()];
    let template = ChatTemplate::new(source, word("bos"), word("eos")).unwrap();
    let mut found = Vec::new();
    for variant in expected["variants"].as_array().unwrap() {
        let mut extra: Map<String, Value> = variant["variant"].as_object().unwrap().clone();
        let tools = extra.remove("tools").map(|_| &FIXTURE["tools"]);
        extra.insert("date_string".into(), "26 Jul 2024".into());
        let encoder = |options: EncodeOptions| {
            let options = EncodeOptions { extra: extra.clone(), ..options };
            Encoder::new(tokenizer.clone(), template.clone(), SpecialTokens::default(), options).unwrap()
        };
        let plain = encoder(EncodeOptions::default());
        let whole = encoder(EncodeOptions { train_on_prompt: true, ..EncodeOptions::default() });
        let newest = encoder(EncodeOptions { mask_history: true, ..EncodeOptions::default() });
        for (name, wanted) in variant["cases"].as_object().unwrap() {
            let example = example(name, tools);
            let mut differs =
                |what: &str, seen: String| found.push(format!("{name} {}: {what}: {seen}", variant["variant"]));
            let [length, ids, mask, last, prompt] = wanted.as_array().map_or(&[][..], Vec::as_slice) else {
                // transformers refuses, and so does Lathe, with and without a mask.
                for encoder in [&plain, &whole] {
                    match encoder.conversation(&example) {
                        Ok(sequence) => differs("not refused", shown(tokenizer, &sequence)),
                        Err(error) => {
                            let problem = error.into_problem();
                            assert!(!problem.hint.is_empty() && problem.zh.is_some(), "{problem:?}");
                        }
                    }
                }
                continue;
            };
            let all = whole.conversation(&example).unwrap_or_else(|e| panic!("{name}: {e}"));
            if (Some(all.len() as u64), Some(&*digest(&all.ids))) != (length.as_u64(), ids.as_str()) {
                differs("ids", shown(tokenizer, &all));
                continue;
            }
            assert_eq!(runs(&all.trained), [1, all.len() - 1]);
            for (encoder, wanted) in [(&plain, mask), (&newest, last)] {
                match (encoder.conversation(&example), wanted.is_null()) {
                    (Ok(sequence), false) => {
                        assert_eq!(sequence.ids, all.ids);
                        if json!(runs(&sequence.trained)) != *wanted {
                            differs("mask", format!("{wanted}\n   {}", shown(tokenizer, &sequence)));
                        }
                    }
                    (Ok(_), true) if !mask.is_null() => {}
                    (Ok(sequence), true) => differs("a guess", shown(tokenizer, &sequence)),
                    (Err(error), false) => differs("no mask", error.to_string()),
                    (Err(error), true) => assert_eq!(error.into_problem().code, "template_mask"),
                }
            }
            if let (Some(prompt), None) = (prompt.as_str(), &example.given) {
                let before = &example.messages[..example.messages.len() - 1];
                let ids = plain.prompt(before, example.tools.as_ref()).unwrap();
                if digest(&ids) != prompt {
                    differs("prompt", format!("{:?}", tokenizer.decode(&ids, false)));
                }
            }
        }
    }
    found
}

/// Compares the templates of a group and counts their cases.
fn compare(group: &str, source: impl Fn(&str) -> Option<String>) -> usize {
    let (mut found, mut cases) = (Vec::new(), 0);
    for (name, expected) in FIXTURE[group].as_object().unwrap() {
        let Some(source) = source(name) else { continue };
        found.extend(differences(&source, expected).into_iter().map(|difference| format!("{name}: {difference}")));
        cases += expected["variants"]
            .as_array()
            .unwrap()
            .iter()
            .map(|v| v["cases"].as_object().unwrap().len())
            .sum::<usize>();
    }
    assert!(found.is_empty(), "{} of {cases} cases differ:\n{}", found.len(), found.join("\n"));
    cases
}

#[test]
fn the_models_own_templates() {
    // Beside the repository, or where LATHE_DATA says.
    let data = std::env::var_os("LATHE_DATA").map(PathBuf::from);
    let data = data.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data"));
    let folder = data.join("templates");
    compare("real", |name| fs::read_to_string(folder.join(format!("{name}.jinja"))).ok());
}

#[test]
fn templates_in_the_style_of_further_models() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/styles");
    let cases = compare("styles", |name| Some(fs::read_to_string(folder.join(format!("{name}.jinja"))).unwrap()));
    assert!(cases >= 20 * 20, "{cases}");
}

#[test]
fn named_templates() {
    assert!(compare("named", |name| template::named(name).map(String::from)) >= 14 * 19);
}
