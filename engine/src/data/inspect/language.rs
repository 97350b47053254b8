//! The language of a text, by its script and its commonest words: enough to see what a dataset is made of.

/// Characters of a text that are looked at.
const LOOKED_AT: usize = 2000;

/// Languages in Latin letters by words that every text of some length has, and few of the others have.
const WORDS: [(&str, &[&str]); 12] = [
    ("en", &["the", "and", "of", "to", "is", "in", "that", "what", "you", "for", "with", "this", "are", "it", "how"]),
    ("es", &["el", "los", "las", "que", "es", "una", "por", "con", "para", "del", "qué", "como", "está", "y"]),
    ("fr", &["le", "les", "des", "est", "une", "dans", "que", "pour", "qui", "sur", "vous", "et", "je", "du", "ce"]),
    ("de", &["der", "die", "das", "und", "ist", "nicht", "ein", "eine", "zu", "den", "mit", "ich", "wie", "für"]),
    ("it", &["il", "che", "è", "di", "una", "per", "gli", "della", "con", "sono", "non", "del", "come", "cosa"]),
    ("pt", &["o", "os", "uma", "não", "que", "em", "para", "com", "do", "da", "você", "é", "por", "como", "ao"]),
    ("nl", &["het", "een", "van", "dat", "niet", "zijn", "voor", "met", "op", "en", "wat", "ik", "hoe", "ook"]),
    ("pl", &["nie", "jest", "się", "na", "co", "jak", "że", "w", "z", "czy", "dla", "są", "przez"]),
    ("tr", &["bir", "ve", "bu", "için", "ne", "ile", "çok", "da", "mi", "nasıl", "olarak", "var", "değil"]),
    ("vi", &["là", "của", "và", "có", "không", "một", "cho", "người", "được", "trong", "những", "với", "các"]),
    ("id", &["yang", "dan", "di", "ini", "itu", "dengan", "untuk", "tidak", "dari", "apa", "adalah", "pada", "anda"]),
    ("sv", &["och", "att", "är", "det", "som", "en", "på", "jag", "inte", "för", "med", "av", "vad", "har"]),
];

/// ISO 639-1, `code` for program text, or `other`.
pub fn language(text: &str) -> &'static str {
    let text = &text[..text.char_indices().nth(LOOKED_AT).map_or(text.len(), |(at, _)| at)];
    if is_code(text) {
        return "code";
    }
    let mut counts = [0usize; SCRIPTS.len()];
    let mut letters = 0;
    for c in text.chars().filter(|c| c.is_alphabetic()) {
        letters += 1;
        if let Some(script) = SCRIPTS.iter().position(|(_, holds)| holds(c)) {
            counts[script] += 1;
        }
    }
    let of = |script: &str| SCRIPTS.iter().zip(counts).find(|((name, _), _)| *name == script).map_or(0, |(_, n)| n);
    // Japanese is written with kana among Han characters; a character of Han says as much as several letters.
    let (han, kana) = (of("zh"), of("ja"));
    if (han + kana) * 3 >= letters && han + kana > 0 {
        return if kana * 20 >= han { "ja" } else { "zh" };
    }
    let first = SCRIPTS.iter().zip(counts).max_by_key(|(_, n)| *n);
    match first {
        Some(((name, _), n)) if n > 0 && n * 2 >= letters => match *name {
            "la" => latin(text),
            "ru" if text.contains(['і', 'ї', 'є', 'ґ']) => "uk",
            "ar" if text.contains(['پ', 'چ', 'ژ', 'گ']) => "fa",
            name => name,
        },
        _ => "other",
    }
}

/// The language that most texts in a script are of, and whether a character belongs to it.
type Script = (&'static str, fn(char) -> bool);

const SCRIPTS: [Script; 11] = [
    ("la", |c| c.is_ascii_alphabetic() || matches!(c, '\u{C0}'..='\u{24F}' | '\u{1E00}'..='\u{1EFF}')),
    ("zh", |c| matches!(c, '\u{3400}'..='\u{4DBF}' | '\u{4E00}'..='\u{9FFF}' | '\u{20000}'..='\u{3FFFF}')),
    ("ja", |c| matches!(c, '\u{3040}'..='\u{30FF}')),
    ("ko", |c| matches!(c, '\u{1100}'..='\u{11FF}' | '\u{3130}'..='\u{318F}' | '\u{AC00}'..='\u{D7AF}')),
    ("ru", |c| matches!(c, '\u{400}'..='\u{52F}')),
    ("ar", |c| matches!(c, '\u{600}'..='\u{6FF}' | '\u{750}'..='\u{77F}')),
    ("he", |c| matches!(c, '\u{590}'..='\u{5FF}')),
    ("el", |c| matches!(c, '\u{370}'..='\u{3FF}')),
    ("hi", |c| matches!(c, '\u{900}'..='\u{97F}')),
    ("th", |c| matches!(c, '\u{E00}'..='\u{E7F}')),
    ("bn", |c| matches!(c, '\u{980}'..='\u{9FF}')),
];

/// The language in Latin letters with most of its words in the text. Texts of a few words may have none: those in plain
/// ASCII are taken for English, as nearly all of them are.
fn latin(text: &str) -> &'static str {
    let text = text.to_lowercase();
    let words: Vec<&str> = text.split(|c: char| !c.is_alphabetic()).filter(|word| !word.is_empty()).collect();
    let hits = |known: &[&str]| words.iter().filter(|word| known.contains(word)).count();
    // Of equal numbers the first wins.
    let best = WORDS.iter().rev().map(|(name, known)| (hits(known), *name)).max_by_key(|(hits, _)| *hits);
    match best {
        Some((hits, name)) if hits > 0 => name,
        _ if text.is_ascii() => "en",
        _ => "other",
    }
}

/// Whether most of the text's lines look like those of a program.
fn is_code(text: &str) -> bool {
    const BEGINNINGS: [&str; 22] = [
        "def ",
        "class ",
        "import ",
        "from ",
        "return",
        "if (",
        "for (",
        "while (",
        "else",
        "fn ",
        "let ",
        "const ",
        "var ",
        "function ",
        "public ",
        "private ",
        "#include",
        "//",
        "/*",
        "<?php",
        "SELECT ",
        "</",
    ];
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let is_line = |line: &&&str| {
        let ends = line.ends_with([';', '{', '}']) || line.ends_with("):") || line.ends_with("/>");
        ends || BEGINNINGS.iter().any(|start| line.starts_with(start)) || line.contains("();") || line.contains(" = ")
    };
    lines.len() > 2 && lines.iter().filter(is_line).count() * 5 >= lines.len() * 3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn languages_are_told_apart() {
        for (text, wanted) in [
            ("What is the capital of France? It is Paris.", "en"),
            ("写一首关于春天的诗。", "zh"),
            ("用 Python 写一个函数 add", "zh"),
            ("東京の天気はどうですか。", "ja"),
            ("서울의 날씨는 어때요?", "ko"),
            ("Какая погода в Москве?", "ru"),
            ("Яка погода в Києві?", "uk"),
            ("¿Qué es una base de datos y para qué sirve?", "es"),
            ("Quelle est la capitale de la France et que peut-on voir dans les musées ?", "fr"),
            ("Wie ist das Wetter und was ist nicht gut?", "de"),
            ("ما هي عاصمة فرنسا؟", "ar"),
            ("ประเทศไทย", "th"),
            ("fn main() {\n    let x = 3;\n    println!(\"{x}\");\n}", "code"),
            ("Paris", "en"),
            ("12 + 5 = 17", "other"),
            ("", "other"),
        ] {
            assert_eq!(language(text), wanted, "{text}");
        }
    }
}
