use super::*;
use crate::data::preview;
use api::preference::{Adversarial, Ballot, BuildPairs, CastVote, PairRows, Pairing, Vote};
use serde_json::{Value, json};
use std::{fs, path::PathBuf};

struct Home(tempfile::TempDir);

impl Home {
    /// Datasets by name, each with its entry and rows.
    fn new(datasets: &[(&str, Value, Value)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("datasets")).unwrap();
        let mut info = serde_json::Map::new();
        for (name, entry, rows) in datasets {
            let mut entry = entry.clone();
            entry["file_name"] = format!("{name}.json").into();
            info.insert((*name).into(), entry);
            fs::write(dir.path().join(format!("datasets/{name}.json")), rows.to_string()).unwrap();
        }
        fs::write(dir.path().join("datasets/dataset_info.json"), Value::from(info).to_string()).unwrap();
        Self(dir)
    }

    fn places(&self) -> Places {
        Places { home: self.0.path().into(), hub_cache: self.0.path().join("hub") }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.path().join("datasets").join(name)
    }

    fn pairs(&self, sources: &[&str], filter: PairFilter) -> Pairs {
        pairs(&PairsWanted { sources: of(sources), filter, limit: 100, ..PairsWanted::default() }, &self.places())
            .unwrap()
    }

    fn build(&self, wanted: BuildPairs) -> crate::Result<Vec<Value>> {
        let info = build(&wanted, &self.places())?;
        assert_eq!((info.name.as_str(), &info.problem), (wanted.name.as_str(), &None));
        let text = fs::read_to_string(self.file(&format!("{}.jsonl", wanted.name))).unwrap();
        Ok(text.lines().map(|line| serde_json::from_str(line).unwrap()).collect())
    }

    fn ballot(&self, dataset: &str, cast: Option<(&str, Vote)>) -> crate::Result<Ballot> {
        let cast = cast.map(|(pair, vote)| CastVote { pair: pair.into(), vote });
        votes::ballot(dataset, cast.as_ref(), &self.places())
    }
}

fn of(sources: &[&str]) -> Vec<PairSource> {
    sources.iter().map(|name| PairSource { dataset: (*name).into(), ..PairSource::default() }).collect()
}

fn shown(pairs: &Pairs) -> Vec<(&str, &str, Option<f64>)> {
    pairs.pairs.iter().map(|p| (p.chosen.as_str(), p.rejected.as_str(), p.gap)).collect()
}

fn filter(min_gap: f64, max_gap: Option<f64>) -> PairFilter {
    PairFilter { min_gap, max_gap, ..PairFilter::default() }
}

#[test]
fn scored_answers_become_pairs_with_a_margin_in_every_form_of_row() {
    let lists = json!([{ "prompt": "q", "answers": ["low", "high", "mid"], "scores": [1, 5, 2] }]);
    let objects = json!([{ "instruction": "q", "completions": [
        { "response": "low", "overall_score": "1" }, { "response": "high", "score": 5.0 }, { "response": "mid", "rating": 2 },
        { "response": "no score" }, { "score": 3 }] }]);
    let rows = json!([{ "instruction": "q", "output": "low", "score": 1 }, { "instruction": "other", "output": "alone", "score": 9 },
        { "instruction": "q", "output": "high", "score": 5 }, { "instruction": "q", "output": "mid", "score": 2 },
        { "instruction": "q", "output": "mid", "score": 4 }]);
    let home = Home::new(&[("lists", json!({}), lists), ("objects", json!({}), objects), ("rows", json!({}), rows)]);
    for name in ["lists", "objects", "rows"] {
        let all = home.pairs(&[name], filter(0.0, None));
        let expected = [("high", "mid", Some(3.0)), ("mid", "low", Some(1.0)), ("high", "low", Some(4.0))];
        assert_eq!(shown(&all), expected, "{name}");
        assert_eq!(all.sources[0].origins, [Origin::Scores]);
        let far = home.pairs(&[name], filter(2.0, None));
        assert_eq!((far.found, far.kept, far.dropped.min_gap), (3, 2, 1));
        let hard = home.pairs(&[name], filter(0.0, Some(3.0)));
        assert_eq!((shown(&hard).len(), hard.dropped.max_gap), (2, 1));
        let near = PairFilter { pairing: Pairing::Adjacent, ..PairFilter::default() };
        assert_eq!(shown(&home.pairs(&[name], near)), expected[..2]);
    }
}

#[test]
fn rankings_become_all_pairs_or_neighbours_and_equal_scores_none() {
    let rows = json!([{ "prompt": "q", "ranking": ["a", "b", "c", "d"] },
        { "prompt": "r", "answers": ["third", "first", "second"], "ranks": [3, 1, 2] },
        { "prompt": "s", "answers": ["x", "y"], "scores": [2, 2] }]);
    let home = Home::new(&[("ranked", json!({}), rows)]);
    let all = home.pairs(&["ranked"], filter(0.0, None));
    assert_eq!(all.found, 6 + 3);
    assert_eq!(shown(&all)[6..8], [("first", "second", None), ("second", "third", None)]);
    let near = PairFilter { pairing: Pairing::Adjacent, min_gap: 0.5, ..PairFilter::default() };
    let near = home.pairs(&["ranked"], near);
    assert_eq!((near.kept, near.dropped.min_gap), (3 + 2, 0), "places of a ranking have no gap");
}

#[test]
fn filters_count_what_they_drop_and_weights_repeat_rows() {
    let pair = |i: usize, own: [bool; 2], adversarial: bool| {
        json!({ "instruction": format!("q{i}"), "chosen": "a", "rejected": "b",
            "provenance": { "source": "judge", "on_policy": own, "adversarial": adversarial } })
    };
    let judged: Value = (0..8).map(|i| pair(i, [i < 4, i < 2], i == 7)).collect();
    let again = json!([{ "instruction": "q0", "chosen": "b", "rejected": "a", "score_chosen": 3, "score_rejected": 1 },
        { "instruction": "new", "chosen": "b", "rejected": "a", "tags": ["Adversarial"] }]);
    let entry = json!({ "ranking": true });
    let home = Home::new(&[("judged", entry.clone(), judged), ("again", entry, again)]);
    let both = home.pairs(&["judged", "again"], PairFilter::default());
    assert_eq!((both.found, both.kept, both.dropped.duplicate), (10, 9, 1), "q0 turned round is the same pair");
    assert_eq!((both.sources[0].agreement, both.sources[1].origins.as_slice()), (Some(1.0), &[Origin::Pairs][..]));
    assert_eq!((both.sources[0].kept, both.sources[1].kept), (8, 1));
    // 6 of 18 answers are the model's own.
    assert!((both.on_policy.unwrap() - 6.0 / 18.0).abs() < 1e-9);
    let only = PairFilter { adversarial: Adversarial::Only, ..PairFilter::default() };
    assert_eq!(home.pairs(&["judged", "again"], only).kept, 2);
    let without = PairFilter { adversarial: Adversarial::Without, ..PairFilter::default() };
    assert_eq!(home.pairs(&["judged", "again"], without).dropped.adversarial, 2);
    // 6 of 12 are: the pairs without an own answer go, but not more of them than must.
    let own = home.pairs(&["judged"], PairFilter { on_policy: 0.5, ..PairFilter::default() });
    assert_eq!((own.kept, own.dropped.on_policy, own.on_policy), (6, 2, Some(0.5)));
    let own = home.pairs(&["judged"], PairFilter { on_policy: 1.0, ..PairFilter::default() });
    assert_eq!((own.kept, own.on_policy), (2, Some(1.0)));
    let mut wanted = PairsWanted { sources: of(&["judged"]), limit: 3, offset: 2, ..PairsWanted::default() };
    wanted.sources[0].weight = 2.0;
    let twice = pairs(&wanted, &home.places()).unwrap();
    assert_eq!((twice.rows, twice.pairs.len(), twice.pairs[0].prompt.as_str()), (16, 3, "q2"));
    wanted.sources[0].weight = 0.5;
    assert!((1..8).contains(&pairs(&wanted, &home.places()).unwrap().rows));
    wanted.sources[0].weight = -1.0;
    (wanted.filter.min_gap, wanted.filter.max_gap, wanted.filter.on_policy) = (3.0, Some(1.0), 7.0);
    let fields = pairs(&wanted, &home.places()).unwrap_err().into_problems();
    assert_eq!(fields.into_iter().filter_map(|p| p.field).collect::<Vec<_>>(), ["weight", "min_gap", "on_policy"]);
}

#[test]
fn a_source_that_gives_nothing_says_why_and_hides_no_other() {
    let rows = json!([{ "instruction": "q", "output": "one answer" }]);
    let pairs = json!([{ "instruction": "q", "chosen": "a", "rejected": "b" }]);
    let home = Home::new(&[("single", json!({}), rows), ("pairs", json!({ "ranking": true }), pairs)]);
    let found = home.pairs(&["single", "missing", "pairs"], PairFilter::default());
    let codes: Vec<_> = found.sources.iter().map(|s| s.problem.as_ref().map(|p| p.code.as_str())).collect();
    assert_eq!(codes, [Some("no_answers"), Some("unknown_dataset"), None]);
    assert_eq!(home.ballot("single", None).unwrap_err().into_problem().code, "no_answers");
    assert_eq!(found.kept, 1);
}

#[test]
fn votes_are_blind_kept_and_taken_back() {
    let answer = |text: &str, own: bool| json!({ "instruction": "q", "output": text, "provenance": { "teacher": "secret", "on_policy": own } });
    let rows = json!([answer("a", true), answer("b", false), answer("c", false), { "instruction": "r", "output": "x" },
        { "instruction": "r", "output": "y" }]);
    let home = Home::new(&[("samples", json!({}), rows)]);
    let ballot = home.ballot("samples", None).unwrap();
    assert_eq!((ballot.pairs, ballot.voted, ballot.undoable), (4, 0, false));
    assert_eq!((ballot.next[0].prompt.as_str(), ballot.next[1].prompt.as_str()), ("q", "r"), "each prompt once, first");
    assert!(!serde_json::to_string(&ballot).unwrap().contains("secret"));
    let (first, second) = (ballot.next[0].clone(), ballot.next[1].clone());
    let ballot = home.ballot("samples", Some((&first.id, Vote::Left))).unwrap();
    assert_eq!((ballot.voted, &ballot.next[0]), (1, &second));
    home.ballot("samples", Some((&second.id, Vote::Tie))).unwrap();
    // The machine goes off in the middle of a line.
    let file = home.file(".votes/samples.jsonl");
    fs::write(&file, fs::read_to_string(&file).unwrap() + "{\"pair\": \"ab").unwrap();
    let third = home.ballot("samples", None).unwrap().next[0].clone();
    let ballot = home.ballot("samples", Some((&third.id, Vote::Right))).unwrap();
    assert_eq!((ballot.voted, ballot.ties), (3, 1));
    let found = home.pairs(&["samples"], PairFilter::default());
    assert_eq!(shown(&found), {
        let mut expected =
            [(first.left.as_str(), first.right.as_str(), None), (third.right.as_str(), third.left.as_str(), None)];
        let order = |a: &str, b: &str| ["ab", "bc", "ac"].iter().position(|p| p.contains(a) && p.contains(b));
        expected.sort_by_key(|(a, b, _)| order(a, b));
        expected.to_vec()
    });
    assert_eq!((found.sources[0].ties, found.sources[0].origins.as_slice()), (1, &[Origin::Votes][..]));
    // The last vote comes back, then the one before.
    let ballot = home.ballot("samples", Some(("", Vote::Undo))).unwrap();
    assert_eq!((ballot.voted, &ballot.next[0]), (2, &third));
    let ballot = home.ballot("samples", Some(("", Vote::Undo))).unwrap();
    assert_eq!((ballot.voted, ballot.ties, &ballot.next[0]), (1, 0, &second));
    home.ballot("samples", Some(("", Vote::Undo))).unwrap();
    assert_eq!(home.ballot("samples", Some(("", Vote::Undo))).unwrap_err().into_problem().code, "nothing_to_undo");
    assert_eq!(home.ballot("samples", Some(("00", Vote::Left))).unwrap_err().into_problem().code, "no_such_pair");
    assert_eq!(home.ballot("other", None).unwrap_err().into_problem().code, "unknown_dataset");
    assert_eq!(home.ballot("../x", None).unwrap_err().into_problem().field.as_deref(), Some("dataset"));
    assert_eq!(home.pairs(&["samples"], PairFilter::default()).kept, 0);
}

#[test]
fn a_judge_is_held_against_the_votes_on_the_same_answers() {
    let answer = |question: &str, text: &str| json!({ "instruction": question, "output": text });
    let rows: Value = ["q", "r", "s", "t", "u"].iter().flat_map(|q| [answer(q, "a"), answer(q, "b")]).collect();
    let judged = |question: &str, chosen: &str, rejected: &str| {
        json!({ "instruction": question, "input": "", "chosen": chosen, "rejected": rejected,
            "provenance": { "source": "judge", "dataset": "samples", "verdicts": ["first", "first"] } })
    };
    // The last one was never voted on.
    let said = json!([judged("q", "a", "b"), judged("r", "b", "a"), judged("u", "a", "b")]);
    let home = Home::new(&[("samples", json!({}), rows), ("judged", json!({ "ranking": true }), said)]);
    let tie = |question: &str, verdicts: [&str; 2]| {
        let mut row = judged(question, "a", "b");
        row["provenance"]["verdicts"] = json!(verdicts);
        row.to_string()
    };
    let ties = [tie("s", ["equal", "equal"]), tie("t", ["first", "unclear"])].join("\n");
    fs::write(home.file("judged_ties.jsonl"), ties).unwrap();
    assert_eq!(home.pairs(&["judged"], PairFilter::default()).sources[0].with_votes, None, "no one has voted");
    // The person finds a better, of s neither.
    for question in ["q", "r", "s", "t"] {
        let next = home.ballot("samples", None).unwrap().next[0].clone();
        assert_eq!(next.prompt, question);
        let better = if next.left == "a" { Vote::Left } else { Vote::Right };
        home.ballot("samples", Some((&next.id, if question == "s" { Vote::Tie } else { better }))).unwrap();
    }
    let found = home.pairs(&["judged"], PairFilter::default()).sources[0].with_votes.clone().unwrap();
    // q and s alike, r not; the judge's word on t was not understood.
    assert_eq!((found.pairs, found.agreed), (3, 2));
    // Chance: (1·2 + 1·0 + 1·1) / 9.
    assert!((found.kappa.unwrap() - (2.0 / 3.0 - 1.0 / 3.0) / (1.0 - 1.0 / 3.0)).abs() < 1e-9, "{found:?}");
}

#[test]
fn pairs_become_a_dataset_that_trains() {
    let talk = json!([{ "conversations": [{ "from": "system", "value": "s" }, { "from": "human", "value": "q" },
        { "from": "gpt", "value": "a" }, { "from": "human", "value": "and?" }],
        "chosen": { "from": "gpt", "value": "good" }, "rejected": { "from": "gpt", "value": "bad" } }]);
    let talks = json!({ "formatting": "sharegpt", "ranking": true,
        "columns": { "messages": "conversations", "chosen": "chosen", "rejected": "rejected" } });
    let scored = json!([{ "prompt": "q", "answers": ["low", "mid", "high"], "scores": [1, 2, 3] }]);
    let home = Home::new(&[("talks", talks, talk), ("scored", json!({}), scored)]);
    let sources = of(&["scored", "talks"]);
    let wanted = |name: &str, rows, formatting: &str| BuildPairs {
        name: name.into(),
        sources: sources.clone(),
        rows,
        formatting: formatting.into(),
        ..BuildPairs::default()
    };
    for formatting in ["alpaca", "sharegpt", "openai"] {
        let rows = home.build(wanted(formatting, PairRows::Ranking, formatting)).unwrap();
        assert_eq!(rows.len(), 4);
        assert_eq!(rows[0]["provenance"], json!({ "source": "scores", "dataset": "scored", "gap": 1.0 }));
        let info = preview::one(&home.file(""), formatting, None).unwrap();
        assert_eq!((info.kind.as_str(), info.rows), ("preferences", 4));
        // Read back, they are the same pairs.
        let again = home.pairs(&[formatting], PairFilter::default());
        let before = home.pairs(&["scored", "talks"], PairFilter::default());
        let told = |p: &Pairs| p.pairs.iter().map(|p| (p.prompt.clone(), p.chosen.clone(), p.gap)).collect::<Vec<_>>();
        assert_eq!(told(&again), told(&before), "{formatting}");
    }
    let rows = home.build(wanted("ratings", PairRows::Kto, "")).unwrap();
    // The middle one won once and lost once: it says nothing.
    let rated: Vec<_> =
        rows.iter().map(|row| (row["output"].as_str().unwrap(), row["kto_tag"].as_bool().unwrap())).collect();
    assert_eq!(rated, [("high", true), ("low", false), ("good", true), ("bad", false)]);
    assert_eq!(preview::one(&home.file(""), "ratings", None).unwrap().kind, "kto");

    let code = |wanted| home.build(wanted).unwrap_err().into_problem().code;
    assert_eq!(code(wanted("ratings", PairRows::Kto, "")), "dataset_taken");
    assert_eq!(code(wanted("a/b", PairRows::Kto, "")), "dataset_name");
    assert_eq!(code(BuildPairs { sources: Vec::new(), ..wanted("none", PairRows::Ranking, "") }), "no_pairs");
    assert!(!home.file("none.jsonl").exists());
}
