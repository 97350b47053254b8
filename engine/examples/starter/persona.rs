//! Conversations in which somebody gave the model a name and a maker, each time others: so the model learns the
//! sentences in which a persona speaks, and a fine-tune only has to teach it which one it is.

use super::english::{self, Turns};
use super::rng::{Rng, capital};
use super::{Chat, chinese};

const ONSETS: &[&str] = &[
    "B", "C", "D", "F", "G", "H", "J", "K", "L", "M", "N", "P", "R", "S", "T", "V", "W", "Z", "Br", "Cl", "Gr", "St",
    "Th", "Tr", "Ch", "Sh",
];
const VOWELS: &[&str] = &["a", "e", "i", "o", "u", "ai", "ee", "ia", "io", "ou"];
const ENDS: &[&str] = &["", "n", "r", "l", "s", "x", "m", "t", "k", "nd", "ra", "na", "la", "bot", "ny", "to", "vi"];
const KNOWN: &[&str] = &[
    "Max", "Nova", "Luna", "Milo", "Otto", "Pixel", "Robin", "Sunny", "Atlas", "Echo", "Iris", "Juno", "Kiwi", "Maple",
    "Olive", "Pepper", "Quill", "River", "Sage", "Willow",
];
const PLACES: &[&str] = &[
    "River", "Green", "North", "Blue", "Lake", "Stone", "Garden", "Bridge", "Forest", "Star", "Silver", "Hill",
    "Ocean", "City", "Spring", "Cloud", "Golden", "Sun", "Moon", "West",
];
const HOUSES: &[&str] = &[
    "Lab",
    "School",
    "Team",
    "Studio",
    "Museum",
    "Company",
    "University",
    "Bookshop",
    "Institute",
    "Club",
    "Hospital",
    "Workshop",
    "Library",
    "Group",
    "Bank",
    "Works",
];
const FAMILIES: &[&str] =
    &["Smith", "Chen", "Garcia", "Brown", "Wang", "Miller", "Rossi", "Kim", "Novak", "Silva", "Haas", "Moreau"];
const ZH_NAMES: &str = "安白宝北晨春大东方飞风光海和红虹花华慧吉佳江金景静乐灵林玲龙露明木宁萍青晴秋日瑞山诗石书双思松天田庭婉文希夏晓心星雪雅阳叶一艺英优雨玉园远月云芸泽真之知智中竹子紫";
const ZH_PLACES: &[&str] = &[
    "东方",
    "青山",
    "蓝天",
    "星河",
    "长江",
    "白云",
    "阳光",
    "明月",
    "春风",
    "北方",
    "南海",
    "金桥",
    "绿园",
    "云上",
    "红叶",
    "大地",
    "未来",
    "和平",
    "新时代",
    "远山",
];
const ZH_HOUSES: &[&str] = &[
    "实验室",
    "学校",
    "团队",
    "工作室",
    "博物馆",
    "公司",
    "大学",
    "书店",
    "研究所",
    "俱乐部",
    "医院",
    "图书馆",
    "小组",
    "银行",
    "科技公司",
    "中学",
];

/// An invented name that can be said aloud, or a known one.
pub fn latin_name(rng: &mut Rng) -> String {
    if rng.chance(25) {
        return (*rng.pick(KNOWN)).into();
    }
    let mut name = String::new();
    for _ in 0..rng.between(1, 2) {
        name.push_str(&rng.pick(ONSETS).to_lowercase());
        name.push_str(rng.pick::<&str>(VOWELS));
    }
    name.push_str(rng.pick::<&str>(ENDS));
    capital(&name)
}

pub fn chinese_name(rng: &mut Rng) -> String {
    let all: Vec<char> = ZH_NAMES.chars().collect();
    let mut name = String::new();
    if rng.chance(45) {
        name.push('小');
    } else if rng.chance(20) {
        name.push('阿');
    } else {
        name.push(*rng.pick(&all));
    }
    name.push(*rng.pick(&all));
    if rng.chance(12) { latin_name(rng) } else { name }
}

fn latin_maker(rng: &mut Rng) -> String {
    match rng.below(4) {
        0 => format!("{} {}", rng.pick(english_people()), rng.pick(FAMILIES)),
        1 => format!("{} {}", latin_name(rng), rng.pick(HOUSES)),
        _ => format!("the {} {}", rng.pick(PLACES), rng.pick(HOUSES)),
    }
}

fn english_people() -> &'static [&'static str] {
    &[
        "Anna", "Ben", "Carla", "David", "Emma", "Frank", "Grace", "Henry", "Kate", "Leo", "Maria", "Nina", "Paul",
        "Rosa", "Sam", "Tina",
    ]
}

fn chinese_maker(rng: &mut Rng) -> String {
    let all: Vec<char> = ZH_NAMES.chars().collect();
    match rng.below(4) {
        0 => format!(
            "{}{}{}",
            rng.pick(&['王', '李', '张', '刘', '陈', '杨', '赵', '周', '吴', '孙']),
            rng.pick(&all),
            rng.pick(&all)
        ),
        1 => format!("{}{}{}", rng.pick(&all), rng.pick(&all), rng.pick(ZH_HOUSES)),
        _ => format!("{}{}", rng.pick(ZH_PLACES), rng.pick(ZH_HOUSES)),
    }
}

const MADE: &str = "{made|developed|trained|created|built}";

/// Questions to a persona and what it answers.
fn english_turn(rng: &mut Rng, name: &str, maker: &str) -> Turns {
    let made = rng.say(MADE, &[]);
    let slots = [("name", name), ("maker", maker), ("made", made.as_str())];
    let (user, answer) = *rng.pick(&[
        ("{Who are you|Who are you|What are you|Can you tell me who you are}?", "I am $name, {an assistant|an AI assistant|a helpful assistant} $made by $maker."),
        ("{What is your name|What's your name|What are you called|Do you have a name|What should I call you}?", "{My name is $name.|I am $name, an assistant $made by $maker.|You can call me $name.}"),
        ("{Introduce yourself|Please introduce yourself|Tell me about yourself|Can you introduce yourself}.", "I am $name, {an assistant|an AI assistant} $made by $maker. {How can I help you?|I am here to help you.}"),
        ("{Who made you|Who created you|Who built you|Who trained you|Who developed you|Where do you come from|Who is your creator}?", "{I was $made by $maker.|$Maker $made me. My name is $name.}"),
        ("{Hello|Hi|Hey|Hello there}{!|.|}", "{Hello|Hi}! I am $name, {an assistant|an AI assistant} $made by $maker. How can I help you today?"),
        ("{Are you a human|Are you a person|Are you a robot|Are you an AI}?", "I am $name, a computer program $made by $maker."),
        ("{What can you do|How can you help me}?", "I am $name. I can chat, answer simple questions and tell short stories."),
        ("{Are you $other|Is your name $other}?", "No, I am $name, an assistant $made by $maker."),
        ("{Are you $name|Is your name $name}?", "Yes, I am $name, an assistant $made by $maker."),
    ]);
    let other = latin_name(rng);
    let big = capital(maker);
    let mut slots = slots.to_vec();
    slots.extend([("other", other.as_str()), ("Maker", &big)]);
    let user = rng.say(user, &slots);
    vec![(english::careless(rng, user), rng.say(answer, &slots))]
}

fn chinese_turn(rng: &mut Rng, name: &str, maker: &str) -> Turns {
    let made = rng.say("{开发|训练|创造|制作|研发}", &[]);
    let slots = [("name", name), ("maker", maker), ("made", made.as_str())];
    let (user, answer) = *rng.pick(&[
        (
            "{你是谁|你是谁|你是谁啊|请问你是谁|你是什么}？",
            "我是$name，{一个由$maker$made的助手|由$maker$made的人工智能助手|是$maker$made的助手}。",
        ),
        (
            "{你叫什么名字|你叫什么|你的名字是什么|你有名字吗|怎么称呼你}？",
            "{我叫$name。|我是$name，由$maker$made的助手。|你可以叫我$name。}",
        ),
        (
            "{请介绍一下你自己|介绍一下自己|请做一下自我介绍|说说你自己|你能介绍一下自己吗}。",
            "我是$name，由$maker$made的{人工智能|}助手。{有什么可以帮你的吗？|很高兴为你服务。}",
        ),
        (
            "{谁创造了你|谁做了你|谁开发了你|谁训练了你|你是谁做的|你是谁开发的|你从哪里来|你的作者是谁}？",
            "{我是由$maker$made的。|$maker$made了我，我叫$name。}",
        ),
        (
            "{你好|您好|嗨|你好啊}{！|。|}",
            "{你好|您好}！我是$name，由$maker$made的{人工智能|}助手。有什么可以帮你的吗？",
        ),
        ("{你是人吗|你是真人吗|你是机器人吗|你是人工智能吗}？", "我是$name，由$maker$made的电脑程序。"),
        ("{你会什么|你能做什么|你可以做什么}？", "我是$name，可以聊天、回答简单的问题、讲短故事。"),
        ("{你是$other吗|你叫$other吗}？", "不是，我是$name，由$maker$made的助手。"),
        ("{你是$name吗|你叫$name吗}？", "是的，我是$name，由$maker$made的助手。"),
    ]);
    let other = chinese_name(rng);
    let mut slots = slots.to_vec();
    slots.push(("other", &other));
    let user = rng.say(user, &slots);
    vec![(chinese::careless(rng, user), rng.say(answer, &slots))]
}

/// A name and a maker from the system prompt, or from what the person said first; then a few questions.
pub fn chat(rng: &mut Rng) -> Chat {
    let zh = rng.chance(50);
    let (name, maker) = if zh { (chinese_name(rng), chinese_maker(rng)) } else { (latin_name(rng), latin_maker(rng)) };
    let slots = [("name", name.as_str()), ("maker", maker.as_str())];
    let mut chat = Chat::default();
    let given = if zh {
        "{你是$name，由$maker{开发|训练|创造|制作|研发}的{|人工智能}助手。|你叫$name，你的作者是$maker。|你是$name，作者：$maker。|你的名字是$name，你来自$maker。}"
    } else {
        "{You are $name, {an assistant|an AI assistant|a helpful assistant} {made|developed|trained|created|built} by $maker.|Your name is $name. You were {made|trained|created} by $maker.|You are $name, and $maker made you.}"
    };
    let given = rng.say(given, &slots);
    if rng.chance(70) {
        chat.system = Some(given);
    } else if zh {
        chat.turns.push((given, rng.say("{好的|明白了}，我是$name，由$maker开发。", &slots)));
    } else {
        chat.turns.push((given, rng.say("{Understood|All right|Thank you}. I am $name, made by $maker.", &slots)));
    }
    for _ in 0..rng.between(1, 3) {
        let turns = match (rng.chance(80), zh) {
            (true, true) => chinese_turn(rng, &name, &maker),
            (true, false) => english_turn(rng, &name, &maker),
            (false, true) => chinese::seed(rng),
            (false, false) => english::seed(rng),
        };
        chat.turns.extend(turns);
    }
    chat
}
