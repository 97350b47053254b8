//! What each reward gives for answers as models write them.

use super::*;
use serde_json::{Value, json};

fn scores(config: Value, answers: &[(&str, &str)]) -> Vec<f64> {
    let config: RunConfig = serde_json::from_value(config).unwrap();
    let mut rewards = Rewards::of(&config).unwrap();
    let attempts = answers.iter().map(|(text, reference)| Attempt {
        text: (*text).into(),
        reference: Some((*reference).into()),
        ids: text.split_whitespace().map(|_| 1).collect(),
        ..Attempt::default()
    });
    let stop = AtomicBool::new(false);
    rewards.score(&attempts.collect::<Vec<_>>(), &stop).unwrap().into_iter().map(|worth| worth.total).collect()
}

fn refused(config: Value) -> Problem {
    let config: RunConfig = serde_json::from_value(config).unwrap();
    let problems = Rewards::of(&config).err().unwrap();
    let problem = problems.0[0].clone();
    assert!(!problem.hint.is_empty() && problem.zh.is_some(), "{problem:?}");
    problem
}

#[test]
fn formats_are_those_of_the_whole_answer() {
    let answers = [
        ("<think>so\nso</think>\n<answer>4</answer>", ""),
        ("<think></think><answer></answer>", ""),
        ("Well: <think>a</think><answer>4</answer>", ""),
        ("<answer>4</answer>", ""),
        ("", ""),
    ];
    assert_eq!(scores(json!({"reward_funcs": "format"}), &answers), [1.0, 1.0, 0.0, 0.0, 0.0]);
    let own = json!({"reward_funcs": "format", "reward_format": "[a-z]+|\\d"});
    assert_eq!(scores(own, &[("abc", ""), ("7", ""), ("abc7", ""), ("A", "")]), [1.0, 1.0, 0.0, 0.0]);
}

#[test]
fn numbers_are_those_of_gsm8k() {
    let answers = [
        ("She has 3 + 4 = 7 eggs.\n#### 7", "so\n#### 7"),
        ("It costs $1,200.00.", "#### 1200"),
        ("The answer is -5", "#### -5"),
        ("about .5 of it", "#### 0.5"),
        ("\\boxed{42} and 7", "#### 42"),
        ("<answer>42</answer> 9", "42"),
        ("#### 8, not 7", "#### 7"),
        ("none", "#### 7"),
        ("-$3", "-3"),
        ("version 1.2.3", "3"),
    ];
    let found = scores(json!({"reward_funcs": "numeric"}), &answers);
    assert_eq!(found, [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 1.0, 0.0]);
}

/// A reward can't be had by words around the number, and lists, ranges and dates are not taken for another.
#[test]
fn numbers_are_not_made_of_lists_ranges_and_dates() {
    for (text, number) in [
        ("4,2", 2.0),
        ("between 3-42", 42.0),
        ("2020-21", 21.0),
        ("1,2000", 2000.0),
        ("1234,567", 567.0),
        ("12,345,678.50", 12_345_678.5),
        ("it is x=-5", -5.0),
        ("−7", -7.0),
        ("1, 2, 3", 3.0),
        ("3–4", 4.0),
    ] {
        assert_eq!(numeric::number(text), Some(number), "{text}");
    }
}

#[test]
fn exact_answers_may_stand_in_tags() {
    let answers = [(" Paris\n", "Paris"), ("<think>Rome?</think><answer>Paris</answer>", "Paris"), ("paris", "Paris")];
    assert_eq!(scores(json!({"reward_funcs": "exact"}), &answers), [1.0, 1.0, 0.0]);
    assert_eq!(exact::said("\\boxed{\\frac{1}{2}} x"), "\\frac{1}{2}");
    assert_eq!(exact::said("\\boxed{never closed"), "\\boxed{never closed");
}

#[test]
fn lengths_and_patterns_add_up_by_their_weights() {
    let config = json!({
        "reward_funcs": "length, regex, soft_overlong", "reward_weights": "1, 0.5, 2", "reward_length": 4,
        "reward_regex": "(?i)thanks", "soft_max_length": 6, "soft_cache_length": 2
    });
    let answers = [("a b c d", ""), ("Thanks to you", ""), ("a b c d e", ""), ("1 2 3 4 5 6 7 8 9", "")];
    assert_eq!(scores(config, &answers), [1.0, 0.75 + 0.5, 0.75 - 1.0, -2.0]);
}

/// Without lengths of its own it is about the last quarter of the longest answer that is sampled.
#[test]
fn overlong_answers_are_those_near_the_longest() {
    let config = json!({"reward_funcs": "soft_overlong", "max_new_tokens": 8});
    assert_eq!(
        scores(config, &[("1 2 3 4 5 6", ""), ("1 2 3 4 5 6 7", ""), ("1 2 3 4 5 6 7 8", "")]),
        [0.0, -0.5, -1.0]
    );
}

#[test]
fn a_reward_model_alone_is_the_reward() {
    let names = |config: Value| asked(&serde_json::from_value(config).unwrap()).unwrap();
    assert_eq!(names(json!({"reward_model": "/rm"})), ["model"]);
    assert_eq!(names(json!({"reward_funcs": "format"})), ["format"]);
    assert!(names(json!({"reward_model": " "})).is_empty());
    let addresses = ["http://localhost", "https://user@a.example:8000/v1?x=1", "http://[::1]:80/"];
    assert!(addresses.iter().all(|text| address("reward_url", text).is_ok()));
}

#[test]
fn nonsense_is_refused_with_its_field() {
    for (config, code, field) in [
        (json!({}), "no_reward", "reward_funcs"),
        (json!({"reward_funcs": "formt"}), "unknown_name", "reward_funcs"),
        (json!({"reward_funcs": "format,exact", "reward_weights": "1"}), "wrong_weights", "reward_weights"),
        (json!({"reward_funcs": "format", "reward_format": "a("}), "bad_pattern", "reward_format"),
        (json!({"reward_funcs": "regex"}), "no_pattern", "reward_regex"),
        (
            json!({"reward_funcs": "soft_overlong", "soft_max_length": 9, "soft_cache_length": 9}),
            "bad_value",
            "soft_cache_length",
        ),
        // No answer is ever that long.
        (json!({"reward_funcs": "soft_overlong", "soft_max_length": 400}), "bad_value", "soft_max_length"),
        (json!({"reward_funcs": "format,format"}), "named_twice", "reward_funcs"),
        (json!({"reward_funcs": "format,exact", "reward_weights": "0,0"}), "wrong_weights", "reward_weights"),
        (json!({"reward_funcs": "format", "reward_model": "/rm"}), "reward_model_unused", "reward_model"),
        (json!({"reward_funcs": "http", "reward_url": "localhost:8000"}), "bad_address", "reward_url"),
        (json!({"reward_funcs": "http", "reward_url": "http://:8000"}), "bad_address", "reward_url"),
        (json!({"reward_funcs": "model"}), "no_reward_model", "reward_model"),
        (json!({"reward_funcs": "http"}), "no_reward_url", "reward_url"),
        (json!({"reward_funcs": "judge"}), "no_judge", "judge_model"),
    ] {
        let problem = refused(config);
        assert_eq!((problem.code.as_str(), problem.field.as_deref()), (code, Some(field)));
    }
}
