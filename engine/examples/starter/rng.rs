//! Seeded random numbers and the small template language of the corpus: `{a|b|}` picks one of its parts, nested as
//! deep as one likes, and `$name` is replaced by what the topic filled in.

/// SplitMix64 (Steele, Lea and Flood 2014): the same seed gives the same corpus on every machine.
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number under `n`; 0 if `n` is 0.
    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }

    /// A number from `low` to `high`, both included.
    pub fn between(&mut self, low: usize, high: usize) -> usize {
        low + self.below(high + 1 - low)
    }

    /// True `percent` times in a hundred.
    pub fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len())]
    }

    /// `count` different items in random order.
    pub fn some<T: Copy>(&mut self, items: &[T], count: usize) -> Vec<T> {
        let mut order: Vec<usize> = (0..items.len()).collect();
        for i in 0..count.min(order.len()) {
            let j = i + self.below(order.len() - i);
            order.swap(i, j);
        }
        order.iter().take(count).map(|&i| items[i]).collect()
    }

    /// One text of a template.
    pub fn say(&mut self, template: &str, slots: &[(&str, &str)]) -> String {
        let mut text = self.expand(template);
        // Longest first: `$a` is the beginning of `$after`.
        let mut slots = slots.to_vec();
        slots.sort_by_key(|(name, _)| std::cmp::Reverse(name.len()));
        for (name, value) in slots {
            text = text.replace(&format!("${name}"), value);
        }
        text
    }

    fn expand(&mut self, template: &str) -> String {
        let mut out = String::new();
        let mut rest = template;
        while let Some(open) = rest.find('{') {
            out.push_str(&rest[..open]);
            let (mut depth, mut start, mut end) = (0usize, open + 1, rest.len());
            let mut parts = Vec::new();
            for (i, c) in rest.char_indices().skip_while(|(i, _)| *i < open) {
                match c {
                    '{' => depth += 1,
                    '|' if depth == 1 => {
                        parts.push(&rest[start..i]);
                        start = i + 1;
                    }
                    '}' if depth == 1 => {
                        parts.push(&rest[start..i]);
                        end = i + 1;
                        break;
                    }
                    '}' => depth -= 1,
                    _ => {}
                }
            }
            let part = parts.get(self.below(parts.len())).copied().unwrap_or_default();
            out.push_str(&self.expand(part));
            rest = &rest[end..];
        }
        out.push_str(rest);
        out
    }
}

/// First letter in upper case.
pub fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |c| c.to_uppercase().chain(chars).collect())
}
