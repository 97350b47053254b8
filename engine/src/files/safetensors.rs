//! The header of a safetensors file, checked before anything uses it.
//! Format: <https://huggingface.co/docs/safetensors#format>.

use super::source::{Source, truncated};
use crate::Result;
use api::Problem;
use candle_core::DType;
use serde::{
    Deserialize,
    de::{Error as _, IgnoredAny, MapAccess, Visitor},
};
use std::{
    collections::{HashMap, hash_map::Entry},
    fmt,
    path::Path,
};

/// Where one tensor stands in the file.
#[derive(Clone, Debug, PartialEq)]
pub struct Location {
    pub name: String,
    pub dtype: String,
    pub shape: Vec<usize>,
    /// First byte, counted from the start of the file.
    pub offset: u64,
    /// Bytes.
    pub size: u64,
}

/// The reference implementation's bound on the header, in bytes.
const MAX_HEADER: u64 = 100_000_000;
const MAX_DIMS: usize = 8;

/// Reads and checks the header: sizes agree with types and shapes, ranges lie within the file and don't overlap.
pub fn read_header(source: &Source) -> Result<Vec<Location>> {
    let path = source.path();
    if source.len() < 8 {
        return Err(truncated(path, 8, source.len()).into());
    }
    let mut length = [0; 8];
    length.copy_from_slice(&source.read(0, 8)?);
    let length = u64::from_le_bytes(length);
    if length > MAX_HEADER {
        return Err(bad(path, format!("a header of {length} bytes"), format!("文件头长达 {length} 字节")).into());
    }
    let start = length.saturating_add(8);
    if start > source.len() {
        return Err(truncated(path, start, source.len()).into());
    }
    let Header(raw) = serde_json::from_slice(&source.read(8, length)?).map_err(|error| {
        bad(path, format!("a header that can't be read ({error})"), format!("文件头无法读取（{error}）"))
    })?;
    let mut entries =
        raw.into_iter().map(|(name, raw)| check_entry(path, name, raw, start)).collect::<Result<Vec<_>>>()?;
    check_ranges(source, &mut entries, start)?;
    Ok(entries)
}

/// The type of a tensor in candle, for the float types that weights have; `None` for the rest.
pub fn float_type(dtype: &str) -> Option<DType> {
    match dtype {
        "F64" => Some(DType::F64),
        "F32" => Some(DType::F32),
        "F16" => Some(DType::F16),
        "BF16" => Some(DType::BF16),
        "F8_E4M3" => Some(DType::F8E4M3),
        _ => None,
    }
}

/// Bytes of one element; `None` for types below a byte and unknown ones.
fn element_size(dtype: &str) -> Option<u64> {
    match dtype {
        "F64" | "I64" | "U64" => Some(8),
        "F32" | "I32" | "U32" => Some(4),
        "F16" | "BF16" | "I16" | "U16" => Some(2),
        "I8" | "U8" | "BOOL" | "F8_E4M3" | "F8_E5M2" | "F8_E8M0" => Some(1),
        _ => None,
    }
}

/// Tensors by name. Read straight into this form, so that a hostile header can't grow much in memory.
struct Header(HashMap<String, RawEntry>);

#[derive(Deserialize)]
struct RawEntry {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Tensors;
        impl<'de> Visitor<'de> for Tensors {
            type Value = Header;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
                let mut entries = HashMap::new();
                while let Some(name) = map.next_key::<String>()? {
                    if name == "__metadata__" {
                        map.next_value::<IgnoredAny>()?;
                    } else if let Entry::Vacant(place) = entries.entry(name) {
                        place.insert(map.next_value()?);
                    } else {
                        return Err(A::Error::custom("a tensor name stands there twice"));
                    }
                }
                Ok(Header(entries))
            }
        }
        deserializer.deserialize_map(Tensors)
    }
}

fn check_entry(path: &Path, name: String, raw: RawEntry, start: u64) -> Result<Location> {
    let RawEntry { dtype, shape, data_offsets: (from, to) } = raw;
    let wrong = |what: String| -> Problem {
        bad(path, format!("a wrong entry for the tensor {name:?}: {what}"), format!("张量 {name:?} 的条目有误：{what}"))
    };
    let mut size = element_size(&dtype).ok_or_else(|| wrong(format!("dtype {dtype:?}")))?;
    for dim in &shape {
        size = size.checked_mul(*dim).ok_or_else(|| wrong(format!("shape {shape:?}")))?;
    }
    if shape.len() > MAX_DIMS {
        return Err(wrong(format!("{} dimensions, {MAX_DIMS} at most", shape.len())).into());
    }
    if to.checked_sub(from) != Some(size) {
        return Err(wrong(format!("data_offsets [{from}, {to}], but {dtype} {shape:?} = {size} bytes")).into());
    }
    let offset = start.checked_add(from).ok_or_else(|| wrong(format!("data_offsets [{from}, {to}]")))?;
    let shape = shape.iter().map(|dim| usize::try_from(*dim)).collect::<Result<_, _>>();
    let shape = shape.map_err(|error| wrong(error.to_string()))?;
    Ok(Location { name, dtype, shape, offset, size })
}

fn check_ranges(source: &Source, entries: &mut [Location], start: u64) -> Result<()> {
    entries.sort_by_key(|entry| (entry.offset, entry.size));
    let mut end = start;
    for entry in entries.iter() {
        if entry.offset < end {
            let en = format!("the tensor {:?} lying over the one before it", entry.name);
            return Err(bad(source.path(), en, format!("张量 {:?} 与前一个张量重叠", entry.name)).into());
        }
        // Both are sums of u64 that were checked one by one against the header; saturation only serves the message.
        end = entry.offset.saturating_add(entry.size);
    }
    if end > source.len() {
        return Err(truncated(source.path(), end, source.len()).into());
    }
    Ok(())
}

fn bad(path: &Path, en: impl AsRef<str>, zh: impl AsRef<str>) -> Problem {
    let shown = path.display();
    Problem::new(
        "bad_safetensors",
        format!("{shown} is not a valid safetensors file: it has {}.", en.as_ref()),
        format!("{shown} 不是有效的 safetensors 文件：{}。", zh.as_ref()),
    )
    .hint("Download or copy it again.", "请重新下载或复制。")
}
