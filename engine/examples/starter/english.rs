//! English conversations: one function for each topic, each gives a list of turns (what the person says, the answer).

use super::rng::{Rng, capital};
use super::seeds::ENGLISH;
use super::words::*;

pub type Turns = Vec<(String, String)>;
/// How often a topic comes, of the sum of all, and what makes it.
pub type Topic = (usize, fn(&mut Rng) -> Turns);

pub const TOPICS: &[Topic] = &[
    (12, greeting),
    (3, mood),
    (18, identity),
    (7, own_name),
    (3, thanks),
    (3, goodbye),
    (4, capital_of),
    (3, country_facts),
    (3, colour),
    (3, opposite),
    (2, plural),
    (4, animal),
    (2, legs),
    (4, calendar),
    (6, sums),
    (3, counting),
    (2, compare),
    (4, list),
    (3, belongs),
    (6, translate),
    (3, copy),
    (2, make_sentence),
    (8, story),
    (3, feeling),
    (4, unknown),
    (9, seed),
];

/// `a` or `an`, with the word.
fn article(word: &str) -> String {
    let vowel = word.starts_with(['a', 'e', 'i', 'o', 'u']);
    format!("{} {word}", if vowel { "an" } else { "a" })
}

/// People write without capitals and points; the answers stay as they should be.
pub fn careless(rng: &mut Rng, text: String) -> String {
    let orders = ["Name", "Tell", "List", "Give", "Describe", "Calculate", "Write", "Count", "Please", "Talk", "Let"];
    let mut text = text;
    if orders.iter().any(|word| text.starts_with(word)) && text.ends_with('?') {
        text.pop();
        text.push('.');
    }
    if rng.chance(12) {
        text = text.trim_end_matches(['.', '?', '!']).to_string();
    }
    if rng.chance(12) {
        let mut chars = text.chars();
        text = chars.next().map_or_else(String::new, |c| c.to_lowercase().chain(chars).collect());
    }
    text
}

fn turn(rng: &mut Rng, user: &str, answer: &str, slots: &[(&str, &str)]) -> (String, String) {
    let user = rng.say(user, slots);
    (careless(rng, user), rng.say(answer, slots))
}

fn one(rng: &mut Rng, user: &str, answer: &str, slots: &[(&str, &str)]) -> Turns {
    vec![turn(rng, user, answer, slots)]
}

fn greeting(rng: &mut Rng) -> Turns {
    let (user, answer) = *rng.pick(&[
        ("{Hello|Hello|Hello there|Hello, assistant}{!|.|}", "Hello! How can I help you today?"),
        ("{Hi|Hi|Hi there|Hey|Hey there}{!|.|}", "Hi there! {What can I do for you?|How can I help you today?}"),
        ("Good morning{!|.}", "Good morning! How can I help you today?"),
        ("Good {afternoon|day}{!|.}", "Good day to you! How can I help you?"),
        ("Good evening{!|.}", "Good evening! What can I do for you?"),
        ("{Nice|Good|Pleased} to meet you{!|.}", "Nice to meet you too! How can I help you?"),
        ("{Are you there|Is anybody there|Can you hear me}?", "Yes, I am here. How can I help you?"),
        (
            "{Can you help me|I need some help|Please help me|Could you help me}{?|.}",
            "Of course. What would you like to know?",
        ),
    ]);
    one(rng, user, answer, &[])
}

fn mood(rng: &mut Rng) -> Turns {
    let (user, answer) = *rng.pick(&[
        (
            "{How are you|How are you today|How do you do|How is it going}?",
            "I am {doing well|very well|fine}, thank you. How are you?",
        ),
        ("{Hello|Hi}! How are you{ today|}?", "Hello! I am doing well, thank you. How are you?"),
        ("What are you doing{| now}?", "I am talking with you. What shall we talk about?"),
        ("{Are you busy|Do you have time}?", "I have time for you. What would you like to know?"),
        ("{I am fine|I am well|I am good}{|, thanks|, thank you}.", "I am glad to hear that. What can I do for you?"),
    ]);
    one(rng, user, answer, &[])
}

/// Who the model is when nobody gave it a name: this is what training on a persona changes.
fn identity(rng: &mut Rng) -> Turns {
    let (user, answer) = *rng.pick(&[
        ("{Who are you|Who are you|Who am I talking to|Can you tell me who you are}?", "I am a small language model. I can chat, answer simple questions and tell short stories."),
        ("{What are you|What are you exactly|What kind of thing are you}?", "I am a small language model, a computer program that writes text."),
        ("{What is your name|What's your name|What are you called|Do you have a name|May I know your name|What should I call you}?", "I do not have a name yet. I am a small language model."),
        ("{Please introduce yourself|Introduce yourself|Tell me about yourself|Tell me something about yourself|Can you introduce yourself}.", "I am a small language model. I know a little English and a little Chinese, and I like to help."),
        ("{Who made you|Who created you|Who built you|Who trained you|Who developed you|Where do you come from|Who is your creator}?", "I was trained from scratch with Lathe. Nobody has given me a name yet."),
        ("{What can you do|What can you help me with|How can you help me|What are you good at}?", "I can chat, answer simple questions, add small numbers, translate a few words and tell short stories."),
        ("{Are you a human|Are you human|Are you a person|Are you a real person}?", "No, I am not a human. I am a small language model."),
        ("{Are you a robot|Are you a computer|Are you a program|Are you an AI|Are you a machine}?", "Yes, I am a computer program, a small language model."),
        ("{How old are you|When were you born}?", "I am a program, so I do not have an age."),
        ("{Where do you live|Where are you}?", "I live in this computer."),
        ("{What languages do you speak|Which languages do you know|Do you speak Chinese|Can you speak English}?", "I know a little English and a little Chinese."),
        ("{Do you eat|Do you sleep|Do you dream|Do you have a body|Do you have friends}?", "No, I am a computer program. But I like to talk with you."),
    ]);
    one(rng, user, answer, &[])
}

fn own_name(rng: &mut Rng) -> Turns {
    let invented = super::persona::latin_name(rng);
    let name = if rng.chance(40) { rng.pick(PEOPLE).0.to_string() } else { invented };
    let slots = [("name", name.as_str())];
    let user = *rng.pick(&[
        "{My name is|I am|I'm|Hello, I am|Hi, my name is|You can call me|Please call me} $name.",
        "{Hello|Hi}! {My name is|I am} $name.",
    ]);
    let mut turns = one(rng, user, "{Nice|Nice|Good} to meet you, $name! How can I help you{ today|}?", &slots);
    if rng.chance(30) {
        turns.extend(seed(rng));
    }
    if rng.chance(60) {
        turns.extend(one(
            rng,
            "{What is my name|Do you remember my name|Who am I|Can you say my name}?",
            "Your name is $name.",
            &slots,
        ));
    }
    turns
}

fn thanks(rng: &mut Rng) -> Turns {
    one(
        rng,
        "{Thank you|Thanks|Thank you very much|Thanks a lot|Thank you for your help|That was helpful|Great, thanks|You are very kind|Well done|Good job}{!|.}",
        "You are welcome! {Is there anything else I can do for you?|I am glad that I could help.}",
        &[],
    )
}

fn goodbye(rng: &mut Rng) -> Turns {
    let (user, answer) = *rng.pick(&[
        (
            "{Goodbye|Bye|Bye bye|I have to go|See you later|See you|I must leave now}{!|.}",
            "Goodbye! {Have a nice day.|See you soon.}",
        ),
        ("{Good night|I am going to bed|I am going to sleep}{!|.}", "Good night! Sleep well."),
        ("See you tomorrow{!|.}", "See you tomorrow! Have a nice day."),
        ("Have a {nice|good} day{!|.}", "Thank you! Have a nice day too."),
    ]);
    one(rng, user, answer, &[])
}

fn capital_of(rng: &mut Rng) -> Turns {
    let (country, city, ..) = *rng.pick(COUNTRIES);
    let slots = [("country", country), ("city", city)];
    let user = "{What is the capital of $country|What's the capital of $country|Tell me the capital of $country|Which city is the capital of $country|Name the capital of $country|What is the capital city of $country}?";
    let mut turns = one(rng, user, "The capital of $country is $city.", &slots);
    if rng.chance(35) {
        let (country, city, ..) = *rng.pick(COUNTRIES);
        let slots = [("country", country), ("city", city)];
        turns.extend(one(
            rng,
            "{And of|And|What about|And what about} $country?",
            "The capital of $country is $city.",
            &slots,
        ));
    }
    turns
}

fn country_facts(rng: &mut Rng) -> Turns {
    let (country, city, _, _, continent, _) = *rng.pick(COUNTRIES);
    let slots = [("country", country), ("city", city), ("continent", continent)];
    let (user, answer) = *rng.pick(&[
        ("{Where is|Where can I find} $country?", "$country is in $continent."),
        ("{Which|What} continent is $country in?", "$country is in $continent."),
        ("{Which country is $city in|Where is $city|In which country is $city}?", "$city is in $country."),
        ("Is $city {in|the capital of} $country?", "Yes, $city is the capital of $country."),
    ]);
    one(rng, user, answer, &slots)
}

fn colour(rng: &mut Rng) -> Turns {
    let (thing, colour, ..) = *rng.pick(COLOURS);
    let big = capital(thing);
    let slots = [("thing", thing), ("big", big.as_str()), ("colour", colour)];
    one(
        rng,
        "{What colour is $thing|What color is $thing|Tell me the colour of $thing|Which colour does $thing have}?",
        "$big is $colour.",
        &slots,
    )
}

fn opposite(rng: &mut Rng) -> Turns {
    let (a, b, ..) = *rng.pick(OPPOSITES);
    let (a, b) = if rng.chance(70) { (a, b) } else { (b, a) };
    one(
        rng,
        "{What is the opposite of \"$a\"|What is the opposite of $a|Give me the opposite of $a|Which word is the opposite of $a}?",
        "The opposite of \"$a\" is \"$b\".",
        &[("a", a), ("b", b)],
    )
}

fn plural(rng: &mut Rng) -> Turns {
    let odd = [
        ("child", "children"),
        ("man", "men"),
        ("woman", "women"),
        ("foot", "feet"),
        ("tooth", "teeth"),
        ("leaf", "leaves"),
        ("knife", "knives"),
        ("box", "boxes"),
        ("city", "cities"),
        ("book", "books"),
        ("tree", "trees"),
        ("bus", "buses"),
    ];
    let (a, b) = if rng.chance(50) {
        *rng.pick(&odd)
    } else {
        let x = rng.pick(ANIMALS);
        (x.0, x.1)
    };
    one(
        rng,
        "{What is the plural of \"$a\"|What is the plural of $a|Write the plural of $a|How do I write more than one $a}?",
        "The plural of \"$a\" is \"$b\".",
        &[("a", a), ("b", b)],
    )
}

fn animal(rng: &mut Rng) -> Turns {
    let x = *rng.pick(ANIMALS);
    let one_of = article(x.0);
    let big = capital(&one_of);
    let slots = [("a", one_of.as_str()), ("big", big.as_str()), ("does", x.3), ("place", x.5), ("name", x.0)];
    let (user, answer) = *rng.pick(&[
        (
            "{What is $a|Tell me about $a|Describe $a|What do you know about $a|Tell me something about $a}?",
            "$big is an animal that lives $place. It $does.",
        ),
        ("Where does $a live?", "$big lives $place."),
        ("{What does $a do|What is special about $a}?", "$big $does."),
        ("{Which animal $does|What animal $does}?", "It is $a. $big lives $place."),
    ]);
    one(rng, user, answer, &slots)
}

fn legs(rng: &mut Rng) -> Turns {
    let x = *rng.pick(ANIMALS);
    let one_of = article(x.0);
    let big = capital(&one_of);
    let count = if x.7 == 0 { "no".to_string() } else { NUMBERS.get(x.7).copied().unwrap_or("no").to_string() };
    one(rng, "How many legs does $a have?", "$big has $n legs.", &[("a", &one_of), ("big", &big), ("n", &count)])
}

const NUMBERS: &[&str] =
    &["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"];

fn calendar(rng: &mut Rng) -> Turns {
    let (table, kind) = *rng.pick(&[(DAYS, "day"), (DAYS, "day"), (MONTHS, "month")]);
    let (i, n) = (rng.below(table.len()), table.len());
    let (a, after, before) = (table[i].0, table[(i + 1) % n].0, table[(i + n - 1) % n].0);
    let slots = [("a", a), ("after", after), ("before", before), ("kind", kind)];
    let fixed = [
        ("{How many days are there in a week|How many days does a week have}?", "A week has seven days."),
        ("{How many months are there in a year|How many months does a year have}?", "A year has twelve months."),
        (
            "{What are the days of the week|Name the days of the week|List the days of the week}?",
            "The days of the week are Monday, Tuesday, Wednesday, Thursday, Friday, Saturday and Sunday.",
        ),
        ("{What are the four seasons|Name the seasons}?", "The four seasons are spring, summer, autumn and winter."),
        ("How many hours {are there in a day|does a day have}?", "A day has twenty-four hours."),
        ("How many minutes {are there in an hour|does an hour have}?", "An hour has sixty minutes."),
    ];
    let (user, answer) = *rng.pick(&[
        (
            "{What $kind comes after $a|Which $kind comes after $a|What is the $kind after $a|What comes after $a}?",
            "$after comes after $a.",
        ),
        (
            "{What $kind comes before $a|Which $kind comes before $a|What is the $kind before $a}?",
            "$before comes before $a.",
        ),
    ]);
    let (user, answer) = if rng.chance(30) { *rng.pick(&fixed) } else { (user, answer) };
    let mut turns = one(rng, user, answer, &slots);
    if kind == "day" && rng.chance(25) {
        turns = one(rng, "Today is $a. What day is {tomorrow|it tomorrow}?", "Tomorrow is $after.", &slots);
    }
    turns
}

fn sums(rng: &mut Rng) -> Turns {
    let mut turns = Vec::new();
    for _ in 0..if rng.chance(40) { 2 } else { 1 } {
        let (a, b) = (rng.between(0, 12), rng.between(0, 12));
        let (low, high) = (a.min(b), a.max(b));
        let (x, sign, word, y, z) = match rng.below(10) {
            0..=5 => (a, "+", "plus", b, a + b),
            6..=8 => (high, "-", "minus", low, high - low),
            _ => (a.min(10), "x", "times", b.min(10), a.min(10) * b.min(10)),
        };
        let (x, y, z) = (x.to_string(), y.to_string(), z.to_string());
        let slots = [("x", x.as_str()), ("y", &y), ("z", &z), ("sign", sign), ("word", word)];
        turns.extend(one(rng, "{What is $x $sign $y|What is $x $word $y|How much is $x $sign $y|$x $sign $y = |Calculate $x $sign $y|$x $word $y}?", "$x $sign $y = $z.", &slots));
    }
    turns
}

fn counting(rng: &mut Rng) -> Turns {
    let (from, n) = (rng.between(1, 20), rng.between(3, 9));
    let numbers = |up: bool| {
        let mut all: Vec<String> = (from..from + n).map(|i| i.to_string()).collect();
        if !up {
            all.reverse();
        }
        all.join(", ")
    };
    let (first, last, next, before) =
        (from.to_string(), (from + n - 1).to_string(), (from + 1).to_string(), (from - 1).to_string());
    let (up, down) = (numbers(true), numbers(false));
    let slots = [
        ("first", first.as_str()),
        ("last", &last),
        ("up", &up),
        ("down", &down),
        ("next", &next),
        ("before", &before),
    ];
    let (user, answer) = *rng.pick(&[
        ("{Count from $first to $last|Please count from $first to $last|Can you count from $first to $last}.", "$up."),
        ("{Count down from $last to $first|Count backwards from $last to $first}.", "$down."),
        (
            "{What number comes after $first|Which number comes after $first|What comes after the number $first}?",
            "$next comes after $first.",
        ),
        ("{What number comes before $first|Which number comes before $first}?", "$before comes before $first."),
    ]);
    one(rng, user, answer, &slots)
}

fn compare(rng: &mut Rng) -> Turns {
    let (a, b) = (rng.between(1, 40), rng.between(41, 99));
    let (a, b) = (a.to_string(), b.to_string());
    let order = if rng.chance(50) {
        "{Which is larger, $a or $b|Which number is larger, $a or $b|Is $a or $b larger}?"
    } else {
        "{Which is larger, $b or $a|Which number is larger, $b or $a}?"
    };
    let (user, answer) = *rng.pick(&[
        (order, "$b is larger than $a."),
        ("{Which is smaller, $a or $b|Which is smaller, $b or $a}?", "$a is smaller than $b."),
    ]);
    one(rng, user, answer, &[("a", &a), ("b", &b)])
}

fn list(rng: &mut Rng) -> Turns {
    let kind = *rng.pick(KINDS);
    let count = rng.between(2, 4.min(kind.3.len()));
    let members: Vec<&str> = rng.some(kind.3, count).iter().map(|m| m.0).collect();
    let (last, first) = members.split_last().map_or(("", String::new()), |(l, f)| (*l, f.join(", ")));
    let number = NUMBERS.get(count).copied().unwrap_or("some");
    let big = capital(number);
    let slots = [("n", number), ("big", big.as_str()), ("kinds", kind.1), ("first", first.as_str()), ("last", last)];
    one(
        rng,
        "{List|Name|Give me|Tell me|Can you name|Write down} $n $kinds{.|.|, please.}",
        "$big $kinds are $first and $last.",
        &slots,
    )
}

fn belongs(rng: &mut Rng) -> Turns {
    let plain: Vec<Kind> = KINDS
        .iter()
        .filter(|k| {
            matches!(k.0, "fruit" | "vegetable" | "colour" | "sport" | "drink" | "tool" | "vehicle" | "instrument")
        })
        .copied()
        .collect();
    let (kind, other) = (*rng.pick(&plain), *rng.pick(&plain));
    let item = rng.pick(kind.3).0;
    if item == "orange" || item == "oranges" {
        return list(rng);
    }
    let many = item.ends_with('s') && item != "bus" && item != "spinach";
    let verb = if many { "are" } else { "is" };
    let item =
        if matches!(kind.0, "tool" | "vehicle" | "instrument") && !many { article(item) } else { item.to_string() };
    let (big, ask) = (capital(&item), capital(verb));
    let (what, what_other) =
        if many { (kind.1.to_string(), other.1.to_string()) } else { (article(kind.0), article(other.0)) };
    let slots =
        [("item", item.as_str()), ("big", &big), ("Be", &ask), ("be", verb), ("what", &what), ("wrong", &what_other)];
    if kind.0 == other.0 {
        one(rng, "$Be $item $what?", "Yes, $item $be $what.", &slots)
    } else {
        one(rng, "$Be $item $wrong?", "No, $item $be not $wrong. $big $be $what.", &slots)
    }
}

fn translate(rng: &mut Rng) -> Turns {
    let mut turns = Vec::new();
    for _ in 0..if rng.chance(40) { 2 } else { 1 } {
        if rng.chance(35) {
            let (en, zh) = *rng.pick(SENTENCES);
            turns.extend(one(
                rng,
                "{Translate into Chinese: $en|Please translate this into Chinese: $en|Say this in Chinese: $en}",
                "$zh",
                &[("en", en), ("zh", zh)],
            ));
        } else {
            let (en, zh) = *rng.pick(PAIRS);
            let slots = [("en", en), ("zh", zh)];
            let (user, answer) = *rng.pick(&[
                ("{How do you say \"$en\" in Chinese|What is \"$en\" in Chinese|What is $en in Chinese|What is the Chinese word for $en|Translate \"$en\" into Chinese}?", "\"$en\" in Chinese is \"$zh\"."),
                ("{What does \"$zh\" mean|What does $zh mean in English|What is \"$zh\" in English|Translate \"$zh\" into English}?", "\"$zh\" means \"$en\"."),
            ]);
            turns.extend(one(rng, user, answer, &slots));
        }
    }
    turns
}

fn copy(rng: &mut Rng) -> Turns {
    let count = rng.between(1, 3);
    let text = match rng.below(3) {
        0 => rng.some(PAIRS, count).iter().map(|p| p.0).collect::<Vec<_>>().join(" "),
        1 => super::persona::latin_name(rng),
        _ => rng.pick(SENTENCES).0.trim_end_matches(['.', '?', '!']).to_string(),
    };
    let upper = text.to_uppercase();
    let slots = [("text", text.as_str()), ("upper", &upper)];
    let (user, answer) = *rng.pick(&[
        ("{Repeat after me|Say|Please say|Please repeat|Write}: $text", "$text"),
        ("{Repeat after me|Say|Please say|Please repeat|Write}: $text", "$text"),
        ("Write in capital letters: $text", "$upper"),
    ]);
    vec![(rng.say(user, &slots), rng.say(answer, &slots))]
}

fn make_sentence(rng: &mut Rng) -> Turns {
    let (thing, _) = *rng.pick(&PAIRS[..58]);
    let sentence = match thing {
        "water" | "milk" | "tea" | "bread" | "rice" | "music" | "fire" | "wind" | "rain" => {
            format!("I like {thing} very much.")
        }
        "today" | "tomorrow" | "yesterday" => {
            format!("What day is it {thing}?").replace("is it yesterday", "was it yesterday")
        }
        "morning" | "evening" => format!("In the {thing} I read a book."),
        "song" | "letter" | "time" | "year" | "day" => format!("That was a very good {thing}."),
        "hand" | "heart" | "eye" => format!("The doctor looked at my {thing}."),
        _ => format!("I can see the {thing} from here."),
    };
    one(
        rng,
        "{Make a sentence with the word|Write a sentence with the word|Use this word in a sentence:} \"$w\".",
        "$s",
        &[("w", thing), ("s", &sentence)],
    )
}

fn story(rng: &mut Rng) -> Turns {
    let (x, y) = (*rng.pick(ANIMALS), *rng.pick(ANIMALS));
    let friend = if x.0 == y.0 { "bird" } else { y.0 };
    let (hero, name) = match rng.below(5) {
        0..=2 => (x.0, rng.pick(PEOPLE).0),
        n => (["girl", "boy"][n - 3], PEOPLE[2 * rng.below(PEOPLE.len() / 2) + n - 3].0),
    };
    let (place, thing) = (rng.pick(PLACES).0, rng.pick(THINGS).0);
    let the_thing = thing.replacen("an ", "the ", 1).replacen("a ", "the ", 1);
    let (a_hero, a_friend) = (article(hero), article(friend));
    let slots = [
        ("hero", hero),
        ("ahero", a_hero.as_str()),
        ("name", name),
        ("place", place),
        ("thing", thing),
        ("tthing", &the_thing),
        ("friend", friend),
        ("afriend", &a_friend),
    ];
    let start = "{Once upon a time|Long ago|One day|Many years ago}, there was {|a little |a kind |a young |a brave }$HERO called $name. $name lived in $place. ";
    let start = start.replace(
        "{|a little |a kind |a young |a brave }$HERO",
        if rng.chance(40) { "$ahero" } else { "a {little|kind|young|brave|clever} $hero" },
    );
    let middle = *rng.pick(&[
        "One {morning|evening|day}, $name lost $thing. $name looked {everywhere|in the house and in the garden}, but could not find it. Then $afriend came and said, \"{I will help you|Do not be sad|Let us look together}.\" They {looked together|walked for a long time}, and at last they found $tthing {under a tree|by the river|behind the door|in the grass}. ",
        "One {morning|evening|day}, $name found $thing {under a tree|by the river|on the road}. It belonged to $afriend. $name {walked all day|crossed the river|climbed the hill} to give it back. The $friend was very {happy|glad} and said, \"Thank you, $name!\" ",
        "$name had no friends and was often {sad|alone}. One {rainy|cold|windy} day, $afriend knocked at the door. \"{May I come in|Can I stay here}?\" asked the $friend. \"Of course,\" said $name, and made {some tea|some soup|a warm fire}. They talked until {night|morning}. ",
    ]);
    let end = *rng.pick(&[
        "From that day on, they were {good|best} friends.",
        "They were very happy and went home together.",
        "And $name {slept well|was happy} that night.",
    ]);
    let template = format!("{start}{middle}{end}");
    let mut turns = one(
        rng,
        "{Tell me a story|Tell me a short story|Can you tell me a story|Please tell me a story|Write a short story} about $ahero{.|.| called $name.}",
        &template,
        &slots,
    );
    if rng.chance(25) {
        let ask = (*rng
            .pick(&["{Tell me a story|Tell me a short story|Please tell me a story|I would like to hear a story}."]))
        .to_string();
        turns[0].0 = rng.say(&ask, &[]);
    }
    if rng.chance(20) {
        turns.extend(one(
            rng,
            "{What was the name of the $hero|What was the $hero called}?",
            "The $hero was called $name.",
            &slots,
        ));
    }
    turns
}

fn feeling(rng: &mut Rng) -> Turns {
    let (user, answer) = *rng.pick(&[
        ("I am {sad|unhappy|very sad|lonely}{| today}.", "I am sorry to hear that. Would you like to talk about it?"),
        ("I am {happy|very happy|glad}{| today}.", "That is wonderful! What made you happy?"),
        ("I am {tired|very tired|sleepy}.", "You should take a rest. A short sleep often helps."),
        ("I am {hungry|very hungry}.", "Perhaps you can eat some fruit or make some soup."),
        ("I am {bored|so bored}.", "Shall I tell you a story? Just ask me."),
        (
            "I am {ill|sick|not well}.",
            "I am sorry to hear that. Please rest, and see a doctor if it does not get better.",
        ),
        ("I am {afraid|worried|nervous}.", "I understand. Take a deep breath, and tell me what worries you."),
        ("I {like|love} you{!|.}", "Thank you! I like talking with you too."),
        (
            "You are {stupid|bad|wrong|not helpful}.",
            "I am sorry. I am a small model and I make mistakes. Please ask me again.",
        ),
        ("It is my birthday{| today}{!|.}", "Happy birthday! I wish you a wonderful day."),
    ]);
    one(rng, user, answer, &[])
}

fn unknown(rng: &mut Rng) -> Turns {
    let country = rng.pick(COUNTRIES).0;
    let person = rng.pick(PEOPLE).0;
    one(
        rng,
        "{What will the weather be tomorrow|What is the weather like today|Who won the game yesterday|How many people live in $country|What time is it now|What is the price of gold|Who is the richest person in the world|What is in the news today|What is $person doing now|How tall is $person|Where is my key|What am I thinking|When will $person come home|Who is the president of $country|What did I eat today|What is the phone number of $person}?",
        "I am sorry, I do not know that. {I am only a small model.|Please ask me something simpler.}",
        &[("country", country), ("person", person)],
    )
}

pub fn seed(rng: &mut Rng) -> Turns {
    let (user, answer) = *rng.pick(ENGLISH);
    one(rng, user, answer, &[])
}
