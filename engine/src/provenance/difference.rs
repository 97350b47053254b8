//! What differs between two runs.

use super::{Provenance, hashes::settings};
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;

/// One thing that differs; `null` where a run hasn't it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Difference {
    /// `program`, `machine`, `config`, `input` or `result`.
    pub group: &'static str,
    /// A setting, a file, or what was hashed.
    pub name: String,
    pub values: [Value; 2],
}

/// Everything that differs between what two runs are made of, and in what they left.
pub fn difference(a: &Provenance, b: &Provenance) -> Vec<Difference> {
    let parts = [a, b].map(parts);
    let names: BTreeMap<&(&'static str, String), ()> =
        parts.iter().flat_map(|part| part.keys()).map(|k| (k, ())).collect();
    let value = |which: usize, name: &(&'static str, String)| parts[which].get(name).cloned().unwrap_or(Value::Null);
    let both = names.keys().map(|name| (*name, [value(0, name), value(1, name)]));
    let differs = both.filter(|(_, [a, b])| a != b);
    differs.map(|((group, name), values)| Difference { group, name: name.clone(), values }).collect()
}

fn parts(of: &Provenance) -> BTreeMap<(&'static str, String), Value> {
    let Provenance { program, machine, config, hashes, results } = of;
    let text = |group: &'static str, name: &str, text: &str| ((group, name.to_string()), Value::from(text));
    let mut parts = BTreeMap::from([
        text("program", "version", &program.version),
        text("program", "code", &program.code),
        text("machine", "device", &machine.device),
        text("machine", "compute", &machine.compute),
        (("machine", "threads".to_string()), Value::from(machine.threads)),
        text("input", "weights", &hashes.weights),
        text("input", "tokenizer", &hashes.tokenizer),
        text("input", "data", &hashes.data),
        text("input", "held_back", &hashes.held_back),
        text("input", "order", &hashes.order),
    ]);
    parts.extend(settings(config).map(|(key, value)| (("config", key.to_string()), value.clone())));
    parts.extend(results.iter().map(|(file, sum)| text("result", file, sum)));
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provenance::{Hashes, Machine};

    #[test]
    fn what_differs_is_named_with_both_values() {
        let mut one = Provenance { machine: Machine { threads: 2, ..Machine::default() }, ..Provenance::default() };
        one.config.set("seed", 1);
        one.config.set("run_name", "one");
        let mut two = one.clone();
        two.config.set("run_name", "two");
        assert_eq!(difference(&one, &two), []);
        two.machine.threads = 4;
        two.hashes = Hashes { data: "x".into(), ..Hashes::default() };
        two.config.remove("seed");
        two.results.insert("adapter_model.safetensors".into(), "y".into());
        let found: Vec<_> = difference(&one, &two).into_iter().map(|d| (d.group, d.name, d.values)).collect();
        assert_eq!(
            found,
            [
                ("config", "seed".to_string(), [Value::from(1), Value::Null]),
                ("input", "data".to_string(), [Value::from(""), Value::from("x")]),
                ("machine", "threads".to_string(), [Value::from(2), Value::from(4)]),
                ("result", "adapter_model.safetensors".to_string(), [Value::Null, Value::from("y")]),
            ]
        );
    }
}
