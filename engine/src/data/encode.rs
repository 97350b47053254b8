//! Examples as tokens: the only code that turns a conversation or a text into ids and a loss mask. Preview, training, chat
//! and export all call it.

mod answers;

use super::{ChatTemplate, Example, cache, example};
use crate::{Error, Result};
use answers::Answers;
use api::{Problem, data::Message};
use serde_json::{Map, Value};
use std::sync::Arc;
use tokenizers::{PostProcessorWrapper, Tokenizer};

/// Tokens of one sample.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sequence {
    /// (len)
    pub ids: Vec<u32>,
    /// (len): whether the model learns to predict this token from those before it. The first token never is.
    pub trained: Vec<bool>,
}

/// The tokens that begin and end a text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SpecialTokens {
    pub bos: Option<(String, u32)>,
    pub eos: Option<(String, u32)>,
}

/// How conversations become tokens.
#[derive(Clone, Debug, Default)]
pub struct EncodeOptions {
    /// Every token is trained, not only the answers.
    pub train_on_prompt: bool,
    /// Only the last answer is trained.
    pub mask_history: bool,
    /// Variables for the template, for example `enable_thinking`.
    pub extra: Map<String, Value>,
    /// A prompt is a source that ends with a token of its own, and the last answer its target: what encoder-decoders read
    /// and write.
    pub sources: bool,
}

/// A tokenizer, a chat template and the rules of the loss mask.
#[derive(Clone, Debug)]
pub struct Encoder {
    tokenizer: Arc<Tokenizer>,
    template: ChatTemplate,
    special: SpecialTokens,
    options: EncodeOptions,
}

impl Encoder {
    /// Truncation and padding that the tokenizer's file may ask for are switched off, and places of tokens count the spaces
    /// in them.
    pub fn new(
        tokenizer: Arc<Tokenizer>,
        template: ChatTemplate,
        special: SpecialTokens,
        options: EncodeOptions,
    ) -> Result<Self> {
        let mut tokenizer = tokenizer;
        if tokenizer.get_truncation().is_some() || tokenizer.get_padding().is_some() {
            let plain = Arc::make_mut(&mut tokenizer);
            plain.with_padding(None);
            plain.with_truncation(None).map_err(|e| Error::Internal(e.to_string()))?;
        }
        if let Some(processor) = tokenizer.get_post_processor().and_then(untrimmed) {
            Arc::make_mut(&mut tokenizer).with_post_processor(Some(processor));
        }
        Ok(Self { tokenizer, template, special, options })
    }

    pub fn tokenizer(&self) -> &Arc<Tokenizer> {
        &self.tokenizer
    }

    pub fn template(&self) -> &ChatTemplate {
        &self.template
    }

    pub fn special(&self) -> &SpecialTokens {
        &self.special
    }

    pub fn options(&self) -> &EncodeOptions {
        &self.options
    }

    /// Says in few letters what ids and masks depend on besides the example.
    pub fn fingerprint(&self) -> Result<String> {
        let tokenizer = self.tokenizer.to_string(false).map_err(|e| Error::Internal(e.to_string()))?;
        let EncodeOptions { train_on_prompt, mask_history, extra, sources } = &self.options;
        let rest = format!("{train_on_prompt} {mask_history} {sources} {extra:?} {:?}", self.special);
        Ok(cache::key([tokenizer.as_str(), &self.template.fingerprint(), &rest]))
    }

    /// The conversation of an example. The ids are those of transformers' `apply_chat_template`.
    /// Trained are the answers with the token that ends each, not the headers before them; a template whose answers can't
    /// be told from the rest is a problem. A row with [`Example::text`] instead is encoded as text.
    pub fn conversation(&self, example: &Example) -> Result<Sequence> {
        if self.options.sources {
            return self.source_and_target(example);
        }
        if let Some(text) = &example.text {
            return self.text(text);
        }
        if self.options.train_on_prompt {
            return self.whole(&self.rendered(example)?);
        }
        self.answered(example, self.options.mask_history)
    }

    /// The conversation so far as a source and its last answer as what is trained; nothing is trained where there is none.
    fn source_and_target(&self, example: &Example) -> Result<Sequence> {
        match &example.text {
            None if example.messages.last().is_some_and(example::is_answer) => self.question(example),
            text => {
                let text = text.iter().map(|text| Message::new("user", text.clone()));
                let messages: Vec<_> = example.messages.iter().cloned().chain(text).collect();
                let ids = self.prompt(&messages, example.tools.as_ref())?;
                Ok(Sequence { trained: vec![false; ids.len()], ids })
            }
        }
    }

    /// The conversation as a prompt and its last answer: that alone is trained, and nothing stands behind the token that ends
    /// it. What answers are compared and judged by.
    pub fn last_answer(&self, example: &Example) -> Result<Sequence> {
        let mut sequence = self.answered(example, true)?;
        let end = sequence.trained.iter().rposition(|trained| *trained).map_or(0, |last| last + 1);
        sequence.ids.truncate(end);
        sequence.trained.truncate(end);
        if let Some(start) = sequence.trained.iter().position(|trained| *trained) {
            sequence.trained[start..].fill(true);
        }
        Ok(sequence)
    }

    /// The conversation with its answers, or the last one, trained.
    fn answered(&self, example: &Example, last: bool) -> Result<Sequence> {
        let template = self.template.of(example.tools.as_ref());
        let values = example::values(example, template.takes_calls());
        let answers = Answers::find(template, &values, example.tools.as_ref(), &self.options.extra)?;
        let spans = if last { answers.last() } else { &answers.spans };
        let encoding = self.encode(&answers.text, false)?;
        let trained = trained(encoding.get_offsets(), spans);
        Ok(Sequence { ids: encoding.get_ids().to_vec(), trained })
    }

    /// The conversation with every token trained: an instruction row for the stage `pt`.
    pub fn conversation_as_text(&self, example: &Example) -> Result<Sequence> {
        match &example.text {
            Some(text) => self.text(text),
            None => self.whole(&self.rendered(example)?),
        }
    }

    /// The ids that a model answers to: the conversation so far and the beginning of an answer.
    pub fn prompt(&self, messages: &[Message], tools: Option<&Value>) -> Result<Vec<u32>> {
        self.prompt_with(messages, tools, &Map::new())
    }

    /// As [`Encoder::prompt`], with more variables for the template.
    pub fn prompt_with(
        &self,
        messages: &[Message],
        tools: Option<&Value>,
        variables: &Map<String, Value>,
    ) -> Result<Vec<u32>> {
        let mut extra = self.options.extra.clone();
        extra.extend(variables.clone());
        let text = self.template.of(tools).render(messages, tools, true, &extra)?;
        match self.options.sources {
            true => Ok(self.text(&text)?.ids),
            false => Ok(self.encode(&text, false)?.get_ids().to_vec()),
        }
    }

    /// The beginning of the last answer of an example, as chat gives it to a model, and behind it as what is trained the answer
    /// that the row has, in plain words with a last token; of a row without one, the last token alone.
    pub fn question(&self, example: &Example) -> Result<Sequence> {
        let mut messages = example.messages.clone();
        let mut answer = example.chosen.clone();
        match &example.text {
            Some(text) => messages = vec![Message::new("user", text.clone())],
            None if answer.is_none() => answer = messages.pop_if(|last| example::is_answer(last)),
            None => {}
        }
        let mut ids = self.prompt(&messages, example.tools.as_ref())?;
        let asked = ids.len();
        if let Some(answer) = answer {
            ids.extend(self.encode(&answer.content, false)?.get_ids());
        }
        let last = self.special.eos.as_ref().map(|(_, id)| *id).or(ids.last().copied());
        ids.extend(last);
        let trained = (0..ids.len()).map(|i| i >= asked && i > 0).collect();
        Ok(Sequence { ids, trained })
    }

    /// The ids of a text that says its special tokens itself, such as a rendered conversation.
    pub fn rendered_ids(&self, text: &str) -> Result<Vec<u32>> {
        Ok(self.encode(text, false)?.get_ids().to_vec())
    }

    /// A plain text to go on with: with what the tokenizer puts before a text (often a first token), not with what it puts
    /// behind it.
    pub fn plain_ids(&self, text: &str) -> Result<Vec<u32>> {
        let mut ids = self.encode(text, true)?.get_ids().to_vec();
        let ends = self.special.eos.as_ref().is_some_and(|(_, eos)| ids.last() == Some(eos));
        if ends && !self.rendered_ids(text)?.ends_with(&ids[ids.len() - 1..]) {
            ids.pop();
        }
        Ok(ids)
    }

    /// A plain text, whole, all trained: with what the tokenizer puts around a text (often a first token), and a last token
    /// that ends it.
    pub fn text(&self, text: &str) -> Result<Sequence> {
        let mut ids = self.encode(text, true)?.get_ids().to_vec();
        if let Some((_, eos)) = &self.special.eos
            && ids.last() != Some(eos)
        {
            ids.push(*eos);
        }
        Ok(Sequence::all(ids))
    }

    fn rendered(&self, example: &Example) -> Result<String> {
        let template = self.template.of(example.tools.as_ref());
        let values = example::values(example, template.takes_calls());
        let rendered = template.render_fitting(&values, example.tools.as_ref(), false, &self.options.extra)?;
        Ok(rendered.1)
    }

    fn whole(&self, text: &str) -> Result<Sequence> {
        Ok(Sequence::all(self.encode(text, false)?.get_ids().to_vec()))
    }

    fn encode(&self, text: &str, add_special_tokens: bool) -> Result<tokenizers::Encoding> {
        self.tokenizer.encode(text, add_special_tokens).map_err(|e| {
            Problem::new(
                "tokenizer_failed",
                format!("The tokenizer can't encode this text: {e}."),
                format!("分词器无法编码这段文本：{e}。"),
            )
            .hint("Check that the tokenizer belongs to this model.", "请检查分词器是否属于该模型。")
            .into()
        })
    }
}

impl Sequence {
    /// Every token but the first is trained.
    pub fn all(ids: Vec<u32>) -> Self {
        let trained = (0..ids.len()).map(|i| i > 0).collect();
        Self { ids, trained }
    }

    pub fn len(&self) -> usize {
        self.ids.len()
    }

    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// Number of tokens with a loss.
    pub fn targets(&self) -> usize {
        self.trained.iter().filter(|t| **t).count()
    }
}

/// A token is trained if any of its characters belongs to an answer, as in transformers' `assistant_masks`.
fn trained(offsets: &[(usize, usize)], spans: &[std::ops::Range<usize>]) -> Vec<bool> {
    let inside = |(start, end): (usize, usize)| spans.iter().any(|s| start < s.end && end > s.start && end > start);
    offsets.iter().enumerate().map(|(i, offset)| i > 0 && inside(*offset)).collect()
}

/// The same post-processor with `trim_offsets` off, which it may have in any depth; `None` where it is off already. The ids
/// are the same, but a token of spaces alone has no place where it is on.
fn untrimmed(processor: &PostProcessorWrapper) -> Option<PostProcessorWrapper> {
    let json = serde_json::to_string(processor).ok().filter(|json| json.contains("\"trim_offsets\":true"))?;
    serde_json::from_str(&json.replace("\"trim_offsets\":true", "\"trim_offsets\":false")).ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::data::template::named;

    /// A byte-level tokenizer with single bytes as tokens, and the special tokens that the templates here use.
    fn tokenizer() -> Arc<Tokenizer> {
        let bytes = tokenizers::pre_tokenizers::byte_level::ByteLevel::alphabet();
        let mut bytes: Vec<char> = bytes.into_iter().collect();
        bytes.sort_unstable();
        let vocab: Map<String, Value> = bytes.iter().enumerate().map(|(i, c)| (c.to_string(), i.into())).collect();
        let added: Vec<Value> = ["<|im_start|>", "<|im_end|>", "</s>", "<|end|>", "<|endoftext|>"]
            .iter()
            .enumerate()
            .map(|(i, content)| {
                serde_json::json!({"id": 256 + i, "content": content, "special": true, "single_word": false,
                    "lstrip": false, "rstrip": false, "normalized": false})
            })
            .collect();
        let level = serde_json::json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
        let json = serde_json::json!({"version": "1.0", "added_tokens": added, "pre_tokenizer": level,
            "post_processor": level, "decoder": level,
            "truncation": {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0},
            "model": {"type": "BPE", "vocab": vocab, "merges": []}});
        Arc::new(json.to_string().parse().unwrap())
    }

    fn encoder(source: &str, options: EncodeOptions) -> Encoder {
        let template = ChatTemplate::new(source, None, Some("</s>")).unwrap();
        let special = SpecialTokens { bos: None, eos: Some(("</s>".into(), 258)) };
        Encoder::new(tokenizer(), template, special, options).unwrap()
    }

    fn learned(encoder: &Encoder, sequence: &Sequence) -> String {
        let ids: Vec<u32> =
            sequence.ids.iter().zip(&sequence.trained).filter(|(_, t)| **t).map(|(id, _)| *id).collect();
        encoder.tokenizer.decode(&ids, false).unwrap()
    }

    fn talk(turns: &[(&str, &str)]) -> Example {
        let messages = turns.iter().map(|(role, content)| Message::new(role, *content)).collect();
        Example { messages, ..Example::default() }
    }

    #[test]
    fn answers_and_their_ends_are_trained() {
        let example =
            talk(&[("system", "s"), ("user", "Hi"), ("assistant", " 你好 "), ("user", "2?"), ("assistant", "4")]);
        let chatml = named("chatml").unwrap();
        let encoder_of = |options| encoder(chatml, options);
        let plain = encoder_of(EncodeOptions::default());
        let sequence = plain.conversation(&example).unwrap();
        assert_eq!(learned(&plain, &sequence), " 你好 <|im_end|>4<|im_end|>");
        let text = "<|im_start|>system\ns<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n 你好 <|im_end|>\n\
                    <|im_start|>user\n2?<|im_end|>\n<|im_start|>assistant\n4<|im_end|>\n";
        assert_eq!(plain.tokenizer.decode(&sequence.ids, false).unwrap(), text);
        let last = encoder_of(EncodeOptions { mask_history: true, ..EncodeOptions::default() });
        assert_eq!(learned(&last, &last.conversation(&example).unwrap()), "4<|im_end|>");
        let all = encoder_of(EncodeOptions { train_on_prompt: true, ..EncodeOptions::default() });
        let sequence = all.conversation(&example).unwrap();
        assert_eq!((sequence.targets(), sequence.trained[0]), (sequence.len() - 1, false));
    }

    #[test]
    fn the_answer_alone_counts_whatever_the_question() {
        let encoder = encoder(named("alpaca").unwrap(), EncodeOptions::default());
        for question in ["What is 2 + 2?", "4", "4</s>", ""] {
            let sequence = encoder.conversation(&talk(&[("user", question), ("assistant", "4")])).unwrap();
            assert_eq!(learned(&encoder, &sequence), "4</s>", "{question}");
        }
    }

    #[test]
    fn prompts_are_the_beginning_of_samples() {
        for name in ["chatml", "alpaca", "vicuna", "llama2", "mistral", "qwen", "gemma"] {
            let encoder = encoder(named(name).unwrap(), EncodeOptions::default());
            let example = talk(&[("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")]);
            let sequence = encoder.conversation(&example).unwrap();
            let prompt = encoder.prompt(&example.messages[..3], None).unwrap();
            assert_eq!(sequence.ids[..prompt.len()], prompt, "{name}");
            assert!(sequence.trained[prompt.len()] && !sequence.trained[prompt.len() - 1], "{name}");
        }
    }

    #[test]
    fn questions_are_prompts_with_the_answer_behind() {
        let encoder = encoder(named("chatml").unwrap(), EncodeOptions::default());
        let asked = [("user", "a"), ("assistant", "b"), ("user", "c")];
        let prompt = encoder.prompt(&talk(&asked).messages, None).unwrap();
        let answered = talk(&[&asked[..], &[("assistant", "d")]].concat());
        let chosen = Example { chosen: Some(Message::new("assistant", "d")), ..talk(&asked) };
        for (example, reference) in [(talk(&asked), "</s>"), (answered, "d</s>"), (chosen, "d</s>")] {
            let sequence = encoder.question(&example).unwrap();
            assert_eq!(sequence.ids[..prompt.len()], prompt);
            assert_eq!(learned(&encoder, &sequence), reference);
        }
        let text = encoder.question(&Example { text: Some("Hi".into()), ..Example::default() }).unwrap();
        let whole = encoder.tokenizer.decode(&text.ids, false).unwrap();
        assert_eq!(whole, "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n</s>");
    }

    #[test]
    fn a_last_answer_is_trained_alone_and_ends_its_sequence() {
        let encoder =
            encoder(named("chatml").unwrap(), EncodeOptions { train_on_prompt: true, ..EncodeOptions::default() });
        let asked = talk(&[("user", "a"), ("assistant", "b"), ("user", "c")]);
        let sequence =
            |answer: &str| encoder.last_answer(&asked.answered_by(&Message::new("assistant", answer))).unwrap();
        let (good, bad) = (sequence("good"), sequence("no"));
        assert_eq!(
            (learned(&encoder, &good).as_str(), learned(&encoder, &bad).as_str()),
            ("good<|im_end|>", "no<|im_end|>")
        );
        assert!(good.trained.last().unwrap() & bad.trained.last().unwrap());
        let prompt = good.len() - good.targets();
        assert_eq!(good.ids[..prompt], bad.ids[..bad.len() - bad.targets()]);
        assert_eq!(good.ids[..prompt], encoder.prompt(&asked.messages, None).unwrap());
        // Another answer takes the place of the one that stands there.
        let again = asked.answered_by(&Message::new("assistant", "x")).answered_by(&Message::new("assistant", "good"));
        assert_eq!(encoder.last_answer(&again).unwrap(), good);
    }

    #[test]
    fn texts_end_with_a_last_token() {
        let encoder = encoder(named("chatml").unwrap(), EncodeOptions::default());
        let text = encoder.text("abcdef").unwrap();
        assert_eq!((text.len(), text.ids[6], text.targets()), (7, 258, 6));
    }

    #[test]
    fn fingerprints_tell_encoders_apart() {
        let of = |source: &str, options: EncodeOptions| encoder(source, options).fingerprint().unwrap();
        let chatml = named("chatml").unwrap();
        let all = [
            of(chatml, EncodeOptions::default()),
            of(named("alpaca").unwrap(), EncodeOptions::default()),
            of(chatml, EncodeOptions { mask_history: true, ..EncodeOptions::default() }),
            of(chatml, EncodeOptions { extra: Map::from_iter([("x".into(), 1.into())]), ..EncodeOptions::default() }),
        ];
        let different: std::collections::BTreeSet<&String> = all.iter().collect();
        assert_eq!(different.len(), all.len());
        assert_eq!(all[0], of(chatml, EncodeOptions::default()));
    }
}
