//! Chinese conversations: one function for each topic, each gives a list of turns (what the person says, the answer).

use super::english::{Topic, Turns};
use super::rng::Rng;
use super::seeds::CHINESE;
use super::words::*;

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

/// People leave out the last sign, or type the half-width one.
pub fn careless(rng: &mut Rng, text: String) -> String {
    match rng.below(10) {
        0 => text.trim_end_matches(['。', '？', '！']).to_string(),
        1 => text.replace('？', "?").replace('！', "!"),
        _ => text,
    }
}

fn one(rng: &mut Rng, user: &str, answer: &str, slots: &[(&str, &str)]) -> Turns {
    let user = rng.say(user, slots);
    vec![(careless(rng, user), rng.say(answer, slots))]
}

fn greeting(rng: &mut Rng) -> Turns {
    let (user, answer) = *rng.pick(&[
        ("{你好|你好|您好|你好啊|嗨|哈喽|你好呀}{！|。|}", "你好！{请问有什么可以帮你？|有什么可以帮你的吗？}"),
        ("{你好|您好|大家好}{！|。|}", "你好！很高兴见到你。有什么可以帮你的吗？"),
        ("{早上好|早|早安}{！|。|}", "早上好！今天有什么可以帮你的吗？"),
        ("{下午好|中午好}{！|。|}", "你好！今天有什么可以帮你的吗？"),
        ("晚上好{！|。|}", "晚上好！有什么可以帮你的吗？"),
        ("{很高兴认识你|见到你很高兴}{！|。|}", "我也很高兴认识你！有什么可以帮你的吗？"),
        ("{你在吗|有人吗|在不在|你听得到吗}？", "我在。请问有什么可以帮你？"),
        ("{你能帮我吗|可以帮我一下吗|帮帮我|我需要帮助|请帮我一个忙}{？|。}", "当然可以。你想知道什么？"),
    ]);
    one(rng, user, answer, &[])
}

fn mood(rng: &mut Rng) -> Turns {
    let (user, answer) = *rng.pick(&[
        ("{你好吗|你今天好吗|你还好吗|最近怎么样|近来好吗}？", "我很好，谢谢！你呢？"),
        ("你好，{最近怎么样|今天过得好吗}？", "你好！我很好，谢谢。你呢？"),
        ("{你在做什么|你在干什么|你在忙什么}？", "我在和你聊天。我们聊点什么呢？"),
        ("{你忙吗|你有空吗|你有时间吗}？", "我有时间。你想知道什么？"),
        ("{我很好|我也很好|我还不错}{，谢谢|}。", "那太好了。有什么可以帮你的吗？"),
    ]);
    one(rng, user, answer, &[])
}

/// Who the model is when nobody gave it a name: this is what training on a persona changes.
fn identity(rng: &mut Rng) -> Turns {
    let (user, answer) = *rng.pick(&[
        (
            "{你是谁|你是谁|你是谁啊|请问你是谁|告诉我你是谁|你到底是谁}？",
            "我是一个小型语言模型，可以聊天、回答简单的问题、讲短故事。",
        ),
        ("{你是什么|你是什么东西|你是个什么}？", "我是一个小型语言模型，是会写字的电脑程序。"),
        (
            "{你叫什么名字|你叫什么|你的名字是什么|你有名字吗|怎么称呼你|我该怎么叫你|请问你的名字}？",
            "我还没有名字。我是一个小型语言模型。",
        ),
        (
            "{请介绍一下你自己|介绍一下自己|请做一下自我介绍|说说你自己|自我介绍一下|你能介绍一下自己吗}。",
            "我是一个小型语言模型，懂一点中文和英文，很愿意帮忙。",
        ),
        (
            "{谁创造了你|谁做了你|谁开发了你|谁训练了你|你是谁做的|你是谁开发的|你从哪里来|你的作者是谁}？",
            "我是用 Lathe 从零训练的，还没有人给我起名字。",
        ),
        (
            "{你会什么|你能做什么|你可以做什么|你会做什么|你有什么本领|你能帮我什么}？",
            "我可以聊天、回答简单的问题、算小数目、翻译几个词，还会讲短故事。",
        ),
        ("{你是人吗|你是真人吗|你是人类吗}？", "我不是人，我是一个小型语言模型。"),
        ("{你是机器人吗|你是电脑吗|你是程序吗|你是人工智能吗|你是机器吗}？", "是的，我是电脑程序，一个小型语言模型。"),
        ("{你多大了|你几岁了|你是什么时候出生的}？", "我是程序，没有年龄。"),
        ("{你住在哪里|你在哪里|你家在哪儿}？", "我住在这台电脑里。"),
        ("{你会说什么语言|你会说英文吗|你懂中文吗|你会几种语言}？", "我懂一点中文，也懂一点英文。"),
        ("{你吃饭吗|你睡觉吗|你会做梦吗|你有身体吗|你有朋友吗}？", "没有，我只是电脑程序。不过我很喜欢和你聊天。"),
    ]);
    one(rng, user, answer, &[])
}

fn own_name(rng: &mut Rng) -> Turns {
    let invented = super::persona::chinese_name(rng);
    let name = if rng.chance(30) { rng.pick(PEOPLE).1.to_string() } else { invented };
    let slots = [("name", name.as_str())];
    let user = "{我叫|我的名字是|我是|你好，我叫|你好，我是|叫我|你可以叫我}$name{。|。|！|}";
    let mut turns = one(rng, user, "你好，$name！很高兴认识你。有什么可以帮你的吗？", &slots);
    if rng.chance(30) {
        turns.extend(seed(rng));
    }
    if rng.chance(60) {
        turns.extend(one(
            rng,
            "{我叫什么名字|我叫什么|你记得我的名字吗|我是谁|你知道我叫什么吗}？",
            "你叫$name。",
            &slots,
        ));
    }
    turns
}

fn thanks(rng: &mut Rng) -> Turns {
    one(
        rng,
        "{谢谢|谢谢你|多谢|非常感谢|太感谢了|谢谢你的帮助|你真好|你真棒|做得好|太好了，谢谢}{！|。|}",
        "不客气！{还有什么可以帮你的吗？|能帮到你我很高兴。}",
        &[],
    )
}

fn goodbye(rng: &mut Rng) -> Turns {
    let (user, answer) = *rng.pick(&[
        ("{再见|拜拜|我走了|我要走了|下次见|回头见|我得走了}{！|。|}", "再见！祝你今天愉快。"),
        ("{晚安|我要睡觉了|我去睡了}{！|。|}", "晚安！做个好梦。"),
        ("明天见{！|。|}", "明天见！祝你一切顺利。"),
        ("祝你{愉快|开心|一切顺利}{！|。|}", "谢谢！也祝你愉快。"),
    ]);
    one(rng, user, answer, &[])
}

fn capital_of(rng: &mut Rng) -> Turns {
    let (_, _, country, city, ..) = *rng.pick(COUNTRIES);
    let slots = [("country", country), ("city", city)];
    let user = "{$country的首都是哪里|$country的首都是什么|$country的首都在哪里|请问$country的首都是哪里|哪座城市是$country的首都|告诉我$country的首都}？";
    let mut turns = one(rng, user, "$country的首都是$city。", &slots);
    if rng.chance(35) {
        let (_, _, country, city, ..) = *rng.pick(COUNTRIES);
        let slots = [("country", country), ("city", city)];
        turns.extend(one(rng, "{$country呢|那$country呢|那么$country的呢}？", "$country的首都是$city。", &slots));
    }
    turns
}

fn country_facts(rng: &mut Rng) -> Turns {
    let (_, _, country, city, _, continent) = *rng.pick(COUNTRIES);
    let slots = [("country", country), ("city", city), ("continent", continent)];
    let (user, answer) = *rng.pick(&[
        ("{$country在哪里|$country在哪个洲|$country在哪个大洲}？", "$country在$continent。"),
        ("{$city在哪个国家|$city是哪个国家的城市|$city在哪里}？", "$city在$country。"),
        ("$city是$country的首都吗？", "是的，$city是$country的首都。"),
    ]);
    one(rng, user, answer, &slots)
}

fn colour(rng: &mut Rng) -> Turns {
    let (_, _, thing, colour) = *rng.pick(COLOURS);
    one(
        rng,
        "{$thing是什么颜色|$thing是什么颜色的|$thing的颜色是什么|请问$thing是什么颜色}？",
        "$thing是$colour的。",
        &[("thing", thing), ("colour", colour)],
    )
}

fn opposite(rng: &mut Rng) -> Turns {
    let (_, _, a, b) = *rng.pick(OPPOSITES);
    let (a, b) = if rng.chance(70) { (a, b) } else { (b, a) };
    one(
        rng,
        "{“$a”的反义词是什么|$a的反义词是什么|和“$a”相反的词是什么|请说出“$a”的反义词}？",
        "“$a”的反义词是“$b”。",
        &[("a", a), ("b", b)],
    )
}

fn animal(rng: &mut Rng) -> Turns {
    let x = *rng.pick(ANIMALS);
    let slots = [("name", x.2), ("does", x.4), ("place", x.6)];
    let (user, answer) = *rng.pick(&[
        (
            "{$name是什么|介绍一下$name|说说$name|请描述一下$name|你知道$name吗}？",
            "$name是一种动物，生活在$place。它$does。",
        ),
        ("{$name住在哪里|$name生活在哪里}？", "$name生活在$place。"),
        ("{$name有什么特点|$name有什么特别的地方}？", "$name$does。"),
        ("{什么动物$does|哪种动物$does}？", "是$name。$name生活在$place。"),
    ]);
    one(rng, user, answer, &slots)
}

fn legs(rng: &mut Rng) -> Turns {
    let x = *rng.pick(ANIMALS);
    let answer = match x.7 {
        0 => "$name没有腿。",
        2 => "$name有两条腿。",
        4 => "$name有四条腿。",
        6 => "$name有六条腿。",
        _ => "$name有八条腿。",
    };
    one(rng, "{$name有几条腿|一只$name有几条腿}？", answer, &[("name", x.2)])
}

fn calendar(rng: &mut Rng) -> Turns {
    let table = *rng.pick(&[DAYS, DAYS, MONTHS]);
    let (i, n) = (rng.below(table.len()), table.len());
    let slots = [("a", table[i].1), ("b", table[(i + 1) % n].1), ("c", table[(i + n - 1) % n].1)];
    let (user, answer) = if n == 7 {
        *rng.pick(&[
            ("{$a的后一天是星期几|$a之后是星期几|$a的第二天是星期几}？", "$a的后一天是$b。"),
            ("{$a的前一天是星期几|$a之前是星期几}？", "$a的前一天是$c。"),
            ("今天是$a，明天{是星期几|星期几}？", "明天是$b。"),
            ("今天是$a，昨天{是星期几|星期几}？", "昨天是$c。"),
        ])
    } else {
        *rng.pick(&[
            ("{$a的下一个月是几月|$a之后是几月}？", "$a的下一个月是$b。"),
            ("{$a的上一个月是几月|$a之前是几月}？", "$a的上一个月是$c。"),
        ])
    };
    let fixed = [
        ("{一个星期有几天|一周有几天|一星期有多少天}？", "一个星期有七天。"),
        ("{一年有几个月|一年有多少个月}？", "一年有十二个月。"),
        ("{一年有哪四个季节|四季是什么|有哪些季节}？", "四季是春天、夏天、秋天和冬天。"),
        ("{一天有多少小时|一天有几个小时}？", "一天有二十四个小时。"),
        ("一小时有多少分钟？", "一小时有六十分钟。"),
        (
            "{一个星期有哪几天|请列出一个星期的七天}？",
            "一个星期有星期一、星期二、星期三、星期四、星期五、星期六和星期日。",
        ),
    ];
    let (user, answer) = if rng.chance(30) { *rng.pick(&fixed) } else { (user, answer) };
    one(rng, user, answer, &slots)
}

fn sums(rng: &mut Rng) -> Turns {
    let mut turns = Vec::new();
    for _ in 0..if rng.chance(40) { 2 } else { 1 } {
        let (a, b) = (rng.between(0, 12), rng.between(0, 12));
        let (low, high) = (a.min(b), a.max(b));
        let (x, sign, word, y, z) = match rng.below(10) {
            0..=5 => (a, "+", "加", b, a + b),
            6..=8 => (high, "-", "减", low, high - low),
            _ => (a.min(10), "x", "乘", b.min(10), a.min(10) * b.min(10)),
        };
        let (x, y, z) = (x.to_string(), y.to_string(), z.to_string());
        let slots = [("x", x.as_str()), ("y", &y), ("z", &z), ("sign", sign), ("word", word)];
        turns.extend(one(rng, "{$x $sign $y 等于多少|$x $word $y 等于几|$x$word$y等于多少|$x $sign $y = |算一下 $x $sign $y|请计算 $x $word $y}？", "$x $sign $y = $z。", &slots));
    }
    turns
}

fn counting(rng: &mut Rng) -> Turns {
    let (from, n) = (rng.between(1, 20), rng.between(3, 9));
    let mut all: Vec<String> = (from..from + n).map(|i| i.to_string()).collect();
    let up = all.join("、");
    all.reverse();
    let down = all.join("、");
    let (first, last, next, before) =
        (from.to_string(), (from + n - 1).to_string(), (from + 1).to_string(), (from - 1).to_string());
    let slots = [
        ("first", first.as_str()),
        ("last", &last),
        ("up", &up),
        ("down", &down),
        ("next", &next),
        ("before", &before),
    ];
    let (user, answer) = *rng.pick(&[
        ("{从 $first 数到 $last|请从 $first 数到 $last|你能从 $first 数到 $last 吗}。", "$up。"),
        ("{从 $last 倒数到 $first|请从 $last 倒着数到 $first}。", "$down。"),
        ("$first {后面是几|的后面是什么数|之后是几}？", "$first 的后面是 $next。"),
        ("$first {前面是几|的前面是什么数|之前是几}？", "$first 的前面是 $before。"),
    ]);
    one(rng, user, answer, &slots)
}

fn compare(rng: &mut Rng) -> Turns {
    let (a, b) = (rng.between(1, 40).to_string(), rng.between(41, 99).to_string());
    let (user, answer) = *rng.pick(&[
        ("{$a 和 $b 哪个大|$b 和 $a 哪个更大}？", "$b 比 $a 大。"),
        ("{$a 和 $b 哪个小|$b 和 $a 哪个更小}？", "$a 比 $b 小。"),
    ]);
    one(rng, user, answer, &[("a", &a), ("b", &b)])
}

fn list(rng: &mut Rng) -> Turns {
    let kind = *rng.pick(KINDS);
    let count = rng.between(2, 4.min(kind.3.len()));
    let members: Vec<&str> = rng.some(kind.3, count).iter().map(|m| m.1).collect();
    let (last, first) = members.split_last().map_or(("", String::new()), |(l, f)| (*l, f.join("、")));
    let number = ["", "一", "两", "三", "四"].get(count).copied().unwrap_or("几");
    let measure = if kind.2 == "城市" { "座" } else { "种" };
    let slots = [("n", number), ("kind", kind.2), ("m", measure), ("first", first.as_str()), ("last", last)];
    one(rng, "{列出|说出|请说出|请列举|告诉我|举出}$n$m$kind。", "$n$m$kind：$first和$last。", &slots)
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
    let slots = [("item", rng.pick(kind.3).1), ("what", kind.2), ("wrong", other.2)];
    if kind.0 == other.0 {
        one(rng, "{$item是$what吗|$item算不算$what}？", "是的，$item是$what。", &slots)
    } else {
        one(rng, "{$item是$wrong吗|$item算不算$wrong}？", "不是，$item不是$wrong，是$what。", &slots)
    }
}

fn translate(rng: &mut Rng) -> Turns {
    let mut turns = Vec::new();
    for _ in 0..if rng.chance(40) { 2 } else { 1 } {
        if rng.chance(35) {
            let (en, zh) = *rng.pick(SENTENCES);
            turns.extend(one(
                rng,
                "{翻译成英文：$zh|请把这句话翻译成英文：$zh|用英文怎么说：$zh}",
                "$en",
                &[("en", en), ("zh", zh)],
            ));
        } else {
            let (en, zh) = *rng.pick(PAIRS);
            let slots = [("en", en), ("zh", zh)];
            let (user, answer) = *rng.pick(&[
                ("{“$zh”用英文怎么说|“$zh”的英文是什么|$zh的英文怎么说|把“$zh”翻译成英文}？", "“$zh”的英文是 $en。"),
                ("{$en 是什么意思|“$en”是什么意思|$en 用中文怎么说|把 $en 翻译成中文}？", "$en 的意思是“$zh”。"),
            ]);
            turns.extend(one(rng, user, answer, &slots));
        }
    }
    turns
}

fn copy(rng: &mut Rng) -> Turns {
    let text = match rng.below(3) {
        0 => rng.some(PAIRS, 3).iter().map(|p| p.1).collect::<Vec<_>>().join("、"),
        1 => super::persona::chinese_name(rng),
        _ => rng.pick(SENTENCES).1.trim_end_matches(['。', '？', '！']).to_string(),
    };
    let user = rng.say("{跟我说|请跟我说|重复一遍|请重复|请说}：$text", &[("text", &text)]);
    vec![(user, text)]
}

fn make_sentence(rng: &mut Rng) -> Turns {
    let (_, thing) = *rng.pick(&PAIRS[..44]);
    let answer = *rng.pick(&["我画了一幅画，上面有$w。", "这个故事里写到了$w。"]);
    one(rng, "{用“$w”造句|请用“$w”造一个句子|用“$w”写一句话}。", answer, &[("w", thing)])
}

fn story(rng: &mut Rng) -> Turns {
    let (x, y) = (*rng.pick(ANIMALS), *rng.pick(ANIMALS));
    let friend = if x.2 == y.2 { "小鸟" } else { y.2 };
    let (hero, name) = match rng.below(6) {
        0..=3 => (x.2, rng.pick(PEOPLE).1),
        n => (["女孩", "男孩"][n - 4], PEOPLE[2 * rng.below(PEOPLE.len() / 2) + n - 4].1),
    };
    let kind = if hero.ends_with('孩') { "个" } else { "只" };
    let (place, thing) = (rng.pick(PLACES).1, rng.pick(THINGS).1);
    let slots = [("hero", hero), ("k", kind), ("name", name), ("place", place), ("thing", thing), ("friend", friend)];
    let start = "{从前|很久以前|有一天|许多年前}，有一$k{可爱的|善良的|勇敢的|聪明的|}$hero，名叫$name，住在$place。";
    let middle = *rng.pick(&[
        "一天{早上|晚上|下午}，$name的$thing不见了。$name{到处找|找了很久}，可是没有找到。这时来了一只$friend，说：“{我来帮你|别难过|我们一起找吧}。”它们{一起找|走了很远的路}，终于在{大树下|河边|门后面|草地上}找到了$thing。",
        "一天{早上|晚上|下午}，$name在{大树下|河边|路上}捡到了$thing。那是一只$friend丢的。$name{走了一整天|过了河|翻过小山}，把它还了回去。$friend非常{高兴|开心}，说：“谢谢你，$name！”",
        "$name没有朋友，常常觉得{孤单|难过}。一个{下雨|寒冷|刮风}的日子，一只$friend来敲门。“{我可以进来吗|我能在这里休息一下吗}？”$friend问。“当然可以。”$name说，还{泡了热茶|煮了热汤|生起了火}。它们一直聊到{天黑|天亮}。",
    ]);
    let end =
        *rng.pick(&["从那以后，它们成了{好|最好的}朋友。", "它们高高兴兴地一起回家了。", "那天晚上，$name睡得很香。"]);
    let mut template = format!("{start}{middle}{end}");
    if kind == "个" {
        template = template.replace("它们", "他们").replace("把它还", "把东西还");
    }
    let mut turns = one(rng, "{讲一个|给我讲一个|请讲一个|写一个|我想听一个}关于$hero的{|小}故事。", &template, &slots);
    if rng.chance(25) {
        turns[0].0 = rng.say("{讲个故事|给我讲个故事|请讲一个故事|我想听故事|讲一个小故事}{。|吧。|}", &[]);
    }
    if rng.chance(20) {
        turns.extend(one(rng, "故事里的$hero叫什么名字？", "故事里的$hero叫$name。", &slots));
    }
    turns
}

fn feeling(rng: &mut Rng) -> Turns {
    let (user, answer) = *rng.pick(&[
        ("我{今天|}{很难过|不开心|很伤心|觉得孤单}。", "听到这个我很难过。你愿意和我说说吗？"),
        ("我{今天|}{很高兴|很开心|非常高兴}。", "太好了！是什么让你这么高兴？"),
        ("我{累了|很累|好累啊|困了}。", "那就休息一下吧。睡一会儿会好很多。"),
        ("我{饿了|很饿|肚子饿了}。", "可以吃一点水果，或者煮一碗面。"),
        ("我{很无聊|好无聊|觉得无聊}。", "要不要听一个故事？跟我说一声就好。"),
        ("我{生病了|不舒服|感冒了}。", "希望你早日康复。请多休息，如果不见好就去看医生。"),
        ("我{很害怕|很担心|很紧张}。", "我明白。先深呼吸一下，再告诉我你在担心什么。"),
        ("我{喜欢你|爱你}{！|。|}", "谢谢你！我也喜欢和你聊天。"),
        ("你{真笨|说错了|不对|没有用}。", "对不起，我是个小模型，会犯错。请再问我一次。"),
        ("今天是我的生日{！|。|}", "生日快乐！祝你天天开心。"),
    ]);
    one(rng, user, answer, &[])
}

fn unknown(rng: &mut Rng) -> Turns {
    let (country, person) = (rng.pick(COUNTRIES).2, rng.pick(PEOPLE).1);
    one(
        rng,
        "{明天天气怎么样|今天天气如何|昨天的比赛谁赢了|$country有多少人|现在几点了|金子多少钱|世界上谁最有钱|今天有什么新闻|$person现在在做什么|$person有多高|我的钥匙在哪里|我在想什么|$person什么时候回家|$country的总统是谁|我今天吃了什么|$person的电话是多少}？",
        "对不起，这个我不知道。{我只是一个小模型。|请问我简单一点的问题吧。}",
        &[("country", country), ("person", person)],
    )
}

pub fn seed(rng: &mut Rng) -> Turns {
    let (user, answer) = *rng.pick(CHINESE);
    one(rng, user, answer, &[])
}
