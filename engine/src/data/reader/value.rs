//! JSON values whose objects name each key once: of two the first would be lost unseen.

use super::{fault, row_not_json};
use api::Problem;
use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use std::fmt;

/// The value in `text`. `at` gives the place in the file (line and column, from 1) of a place in `text`.
pub fn parse(text: &[u8], at: impl Fn(usize, usize) -> (usize, usize)) -> Result<Value, Box<Problem>> {
    serde_json::from_slice::<Once>(text).map(|Once(value)| value).map_err(|e| {
        let (line, column) = at(e.line(), e.column());
        let said = e.to_string();
        match said.strip_prefix(TWICE).and_then(|rest| rest.rsplit_once(" at line ")) {
            Some((key, _)) => fault(
                "row_key_twice",
                format!("the key {key} stands in it twice: line {line}, column {column} of the file."),
                format!("键 {key} 出现了两次：文件第 {line} 行第 {column} 列。"),
            ),
            None => row_not_json(line, column, &said),
        }
    })
}

/// What the message of a key that stands twice begins with.
const TWICE: &str = "key twice: ";

struct Once(Value);

impl<'de> Deserialize<'de> for Once {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Values).map(Once)
    }
}

struct Values;

impl<'de> Visitor<'de> for Values {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E: Error>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(Once(item)) = items.next_element()? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut pairs: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(key) = pairs.next_key::<String>()? {
            if object.contains_key(&key) {
                return Err(A::Error::custom(format!("{TWICE}{key:?}")));
            }
            let Once(value) = pairs.next_value()?;
            object.insert(key, value);
        }
        Ok(Value::Object(object))
    }
}
