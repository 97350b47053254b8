//! The header of a GGUF file, checked in full before anything uses it.
//! Format: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.
//!
//! Every count and length is compared with the bytes that are left before memory is taken, and all arithmetic is
//! checked, so that a hostile file is refused with a [`Problem`] and costs no more memory than a few times its size.
#![deny(clippy::arithmetic_side_effects)]

use super::source::Source;
use crate::Result;
use api::Problem;
use candle_core::quantized::GgmlDType;
use std::{collections::HashMap, path::Path};

/// A checked header.
#[derive(Debug)]
pub struct Header {
    pub metadata: HashMap<String, Value>,
    pub tensors: Vec<TensorInfo>,
}

/// A metadata value. Numbers of arrays are widened; arrays of arrays are not supported (no model has them).
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Uint(u64),
    Int(i64),
    Float(f64),
    /// Kept apart from `Float`: 1e-5 as float32 must become 0.00001 in a configuration, not 9.99999974e-6.
    Float32(f32),
    Bool(bool),
    Text(String),
    Texts(Vec<String>),
    Ints(Vec<i64>),
    Floats(Vec<f32>),
}

/// One tensor: shape as PyTorch has it (slowest dimension first; the file has it the other way round).
#[derive(Clone, Debug, PartialEq)]
pub struct TensorInfo {
    pub name: String,
    pub dtype: GgmlDType,
    pub shape: Vec<usize>,
    /// First byte, counted from the start of the file.
    pub offset: u64,
    /// Bytes.
    pub size: u64,
}

const MAX_DIMS: u32 = 4;
/// Elements of all arrays together; the largest vocabularies have half a million merges.
const MAX_ELEMENTS: u64 = 8_000_000;
const MAX_NAME: u64 = 65_535;
/// Bytes fetched from the file at once.
const WINDOW: u64 = 1 << 20;

/// Reads and checks everything before the tensor data.
pub fn read_header(source: &Source) -> Result<Header> {
    let mut cursor = Cursor { source, at: 0, window: Vec::new(), window_at: 0 };
    let magic = cursor.bytes::<4>("the magic number")?;
    if &magic != b"GGUF" {
        return Err(cursor.bad("it does not begin with GGUF", "开头不是 GGUF").into());
    }
    let version = cursor.u32("the version")?;
    if !(2..=3).contains(&version) {
        let (en, zh) =
            (format!("its version is {version}, 2 and 3 are known"), format!("版本为 {version}，仅支持 2 和 3"));
        return Err(cursor.bad(en, zh).into());
    }
    // The smallest tensor entry: name length, one letter, no dimensions, type, offset. The smallest value: a byte.
    let tensor_count = cursor.count("the number of tensors", 8 + 1 + 4 + 4 + 8)?;
    let value_count = cursor.count("the number of metadata values", 8 + 4 + 1)?;
    let metadata = read_metadata(&mut cursor, value_count)?;
    let alignment = match metadata.get("general.alignment") {
        None => 32,
        Some(Value::Uint(n)) if n.is_power_of_two() && *n <= 1 << 20 => *n,
        Some(other) => {
            let what = format!("general.alignment is {other:?}");
            return Err(cursor.bad(format!("{what}, must be a power of two"), format!("{what}，必须是 2 的幂")).into());
        }
    };
    let tensors = read_tensors(&mut cursor, tensor_count, alignment)?;
    Ok(Header { metadata, tensors })
}

impl Header {
    pub fn text(&self, key: &str) -> Option<&str> {
        match self.metadata.get(key)? {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// A whole number that isn't negative.
    pub fn number(&self, key: &str) -> Option<u64> {
        match self.metadata.get(key)? {
            Value::Uint(n) => Some(*n),
            Value::Int(n) => u64::try_from(*n).ok(),
            _ => None,
        }
    }

    /// A fraction; float32 goes by its shortest decimal form.
    pub fn float(&self, key: &str) -> Option<f64> {
        match self.metadata.get(key)? {
            Value::Float32(x) => x.to_string().parse().ok(),
            Value::Float(x) => Some(*x),
            Value::Uint(n) => Some(*n as f64),
            Value::Int(n) => Some(*n as f64),
            _ => None,
        }
        .filter(|x: &f64| x.is_finite())
    }

    pub fn flag(&self, key: &str) -> Option<bool> {
        match self.metadata.get(key)? {
            Value::Bool(flag) => Some(*flag),
            _ => None,
        }
    }

    pub fn texts(&self, key: &str) -> Option<&[String]> {
        match self.metadata.get(key)? {
            Value::Texts(texts) => Some(texts),
            _ => None,
        }
    }

    pub fn ints(&self, key: &str) -> Option<&[i64]> {
        match self.metadata.get(key)? {
            Value::Ints(ints) => Some(ints),
            _ => None,
        }
    }

    pub fn floats(&self, key: &str) -> Option<&[f32]> {
        match self.metadata.get(key)? {
            Value::Floats(floats) => Some(floats),
            _ => None,
        }
    }
}

fn read_metadata(cursor: &mut Cursor, count: u64) -> Result<HashMap<String, Value>> {
    let mut metadata = HashMap::new();
    let mut elements_left = MAX_ELEMENTS;
    for _ in 0..count {
        let key = cursor.name("a metadata key")?;
        let kind = cursor.u32(&key)?;
        let value = read_value(cursor, &key, kind, &mut elements_left)?;
        if metadata.contains_key(&key) {
            let (en, zh) = (format!("the key {key:?} stands there twice"), format!("键 {key:?} 重复"));
            return Err(cursor.bad(en, zh).into());
        }
        metadata.insert(key, value);
    }
    Ok(metadata)
}

fn read_value(cursor: &mut Cursor, key: &str, kind: u32, elements_left: &mut u64) -> Result<Value> {
    Ok(match kind {
        0 | 2 | 4 | 10 => Value::Uint(cursor.integer(key, kind)? as u64),
        1 | 3 | 5 | 11 => Value::Int(cursor.integer(key, kind)? as i64),
        6 => Value::Float32(f32::from_le_bytes(cursor.bytes(key)?)),
        12 => Value::Float(f64::from_le_bytes(cursor.bytes(key)?)),
        7 => Value::Bool(cursor.bytes::<1>(key)? != [0]),
        8 => Value::Text(cursor.text(key, u64::MAX)?),
        9 => {
            let of = cursor.u32(key)?;
            let Some(size) = smallest(of) else {
                let (en, zh) = (format!("the array {key:?} is of type {of}"), format!("数组 {key:?} 的类型为 {of}"));
                return Err(cursor.bad(format!("{en}, which is not supported"), format!("{zh}，不受支持")).into());
            };
            let count = cursor.count(key, size)?;
            *elements_left = elements_left.checked_sub(count).ok_or_else(|| {
                let en = format!("its metadata arrays have more than {MAX_ELEMENTS} elements at {key:?} ({count})");
                cursor.bad(en, format!("元数据数组在 {key:?} 处超过 {MAX_ELEMENTS} 个元素（{count}）"))
            })?;
            read_array(cursor, key, of, count)?
        }
        other => {
            let (en, zh) = (format!("the value of {key:?} is of type {other}"), format!("{key:?} 的值类型为 {other}"));
            return Err(cursor.bad(format!("{en}, 0 to 12 are known"), format!("{zh}，已知类型为 0 到 12")).into());
        }
    })
}

fn read_array(cursor: &mut Cursor, key: &str, of: u32, count: u64) -> Result<Value> {
    Ok(match of {
        8 => Value::Texts((0..count).map(|_| cursor.text(key, u64::MAX)).collect::<Result<_>>()?),
        6 => Value::Floats((0..count).map(|_| Ok(f32::from_le_bytes(cursor.bytes(key)?))).collect::<Result<_>>()?),
        12 => {
            Value::Floats((0..count).map(|_| Ok(f64::from_le_bytes(cursor.bytes(key)?) as f32)).collect::<Result<_>>()?)
        }
        _ => Value::Ints((0..count).map(|_| Ok(cursor.integer(key, of)? as i64)).collect::<Result<_>>()?),
    })
}

/// Bytes that an array element of this type takes at least; `None` if arrays of it are not supported.
fn smallest(kind: u32) -> Option<u64> {
    match kind {
        0 | 1 | 7 => Some(1),
        2 | 3 => Some(2),
        4..=6 => Some(4),
        8 | 10..=12 => Some(8),
        _ => None,
    }
}

fn read_tensors(cursor: &mut Cursor, count: u64, alignment: u64) -> Result<Vec<TensorInfo>> {
    let mut tensors = Vec::new();
    let mut names = std::collections::HashSet::new();
    for _ in 0..count {
        let name = cursor.name("a tensor name")?;
        if !names.insert(name.clone()) {
            let (en, zh) = (format!("the tensor {name:?} stands there twice"), format!("张量 {name:?} 重复"));
            return Err(cursor.bad(en, zh).into());
        }
        tensors.push(read_tensor(cursor, name, alignment)?);
    }
    let too_long = || cursor.bad("its header is too long", "文件头过长");
    let start = cursor.at.checked_next_multiple_of(alignment).ok_or_else(too_long)?;
    let mut ranges = Vec::new();
    for tensor in &mut tensors {
        tensor.offset = tensor.offset.checked_add(start).ok_or_else(|| {
            let what = format!("{:?}: offset {}", tensor.name, tensor.offset);
            cursor.bad(format!("the tensor {what}"), format!("张量 {what}"))
        })?;
        let end = tensor.offset.checked_add(tensor.size).filter(|end| *end <= cursor.source.len());
        let end = end.ok_or_else(|| cursor.tensor_beyond_end(tensor))?;
        ranges.push((tensor.offset, end, &tensor.name));
    }
    ranges.sort_unstable();
    for pair in ranges.windows(2) {
        if let [(_, end, first), (begin, _, second)] = pair
            && begin < end
        {
            let (en, zh) =
                (format!("the tensors {first:?} and {second:?} overlap"), format!("张量 {first:?} 与 {second:?} 重叠"));
            return Err(cursor.bad(en, zh).into());
        }
    }
    Ok(tensors)
}

fn read_tensor(cursor: &mut Cursor, name: String, alignment: u64) -> Result<TensorInfo> {
    let wrong = |cursor: &Cursor, what: String| {
        cursor.bad(format!("the tensor {name:?} has {what}"), format!("张量 {name:?} 有误：{what}"))
    };
    let dims = cursor.u32("the dimensions of a tensor")?;
    if !(1..=MAX_DIMS).contains(&dims) {
        return Err(wrong(cursor, format!("{dims} dimensions, must be 1 to {MAX_DIMS}")).into());
    }
    let mut shape = Vec::new();
    let mut elements = 1_u64;
    for _ in 0..dims {
        let dim = u64::from_le_bytes(cursor.bytes(&name)?);
        elements = elements
            .checked_mul(dim)
            .filter(|n| *n > 0 && *n <= i64::MAX as u64)
            .ok_or_else(|| wrong(cursor, format!("dimension {dim}, which makes no size")))?;
        shape.push(usize::try_from(dim).map_err(|_| wrong(cursor, format!("dimension {dim}")))?);
    }
    let kind = cursor.u32(&name)?;
    let dtype = known_type(kind).ok_or_else(|| unsupported(cursor.source.path(), &name, kind))?;
    let (block, bytes) = (dtype.block_size() as u64, dtype.type_size() as u64);
    // Blocks run along the first dimension of the file, the row.
    let row = shape.first().map_or(0, |row| *row as u64);
    let blocks = if row.checked_rem(block) == Some(0) { elements.checked_div(block) } else { None };
    let size = blocks
        .and_then(|blocks| blocks.checked_mul(bytes))
        .ok_or_else(|| wrong(cursor, format!("rows of {row}, which blocks of {block} ({dtype:?}) don't fill")))?;
    let offset = u64::from_le_bytes(cursor.bytes(&name)?);
    if offset.checked_rem(alignment) != Some(0) {
        return Err(wrong(cursor, format!("offset {offset}, must be a multiple of {alignment}")).into());
    }
    shape.reverse();
    Ok(TensorInfo { name, dtype, shape, offset, size })
}

fn known_type(kind: u32) -> Option<GgmlDType> {
    Some(match kind {
        0 => GgmlDType::F32,
        1 => GgmlDType::F16,
        2 => GgmlDType::Q4_0,
        3 => GgmlDType::Q4_1,
        6 => GgmlDType::Q5_0,
        7 => GgmlDType::Q5_1,
        8 => GgmlDType::Q8_0,
        9 => GgmlDType::Q8_1,
        10 => GgmlDType::Q2K,
        11 => GgmlDType::Q3K,
        12 => GgmlDType::Q4K,
        13 => GgmlDType::Q5K,
        14 => GgmlDType::Q6K,
        15 => GgmlDType::Q8K,
        30 => GgmlDType::BF16,
        _ => return None,
    })
}

/// Types that other programs read and this one doesn't, by their number.
const OTHER_TYPES: [(u32, &str); 21] = [
    (4, "Q4_2"),
    (5, "Q4_3"),
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (20, "IQ4_NL"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (23, "IQ4_XS"),
    (24, "I8"),
    (25, "I16"),
    (26, "I32"),
    (27, "I64"),
    (28, "F64"),
    (29, "IQ1_M"),
    (34, "TQ1_0"),
    (35, "TQ2_0"),
    (39, "MXFP4"),
    (40, "NVFP4"),
    (41, "Q1_0"),
];

fn unsupported(path: &Path, tensor: &str, kind: u32) -> Problem {
    let name = OTHER_TYPES.iter().find(|(number, _)| *number == kind);
    let name = name.map_or_else(|| format!("number {kind}"), |(_, name)| (*name).to_string());
    let shown = path.display();
    Problem::new(
        "gguf_type",
        format!("{shown}: the tensor {tensor} has the type {name}, which can't be read."),
        format!("{shown}：张量 {tensor} 的类型 {name} 无法读取。"),
    )
    .hint(
        "Take the same model as Q8_0, Q6_K, Q5_K_M, Q4_K_M or F16, or its safetensors.",
        "请改用同一模型的 Q8_0、Q6_K、Q5_K_M、Q4_K_M 或 F16 版本，或其 safetensors 版本。",
    )
}

/// Reads the file from its start, a window at a time.
struct Cursor<'a> {
    source: &'a Source,
    /// Next byte, counted from the start of the file.
    at: u64,
    window: Vec<u8>,
    window_at: u64,
}

impl Cursor<'_> {
    fn left(&self) -> u64 {
        self.source.len().saturating_sub(self.at)
    }

    /// The next `size` bytes; `what` they are, for the message.
    fn take(&mut self, size: u64, what: &str) -> Result<&[u8]> {
        if size > self.left() {
            return Err(self.cut(size, what).into());
        }
        let end = self.at.saturating_add(size);
        if self.at < self.window_at || end > self.window_at.saturating_add(self.window.len() as u64) {
            self.window = self.source.read(self.at, size.max(WINDOW).min(self.left()))?;
            self.window_at = self.at;
        }
        let from = usize::try_from(self.at.saturating_sub(self.window_at)).unwrap_or(usize::MAX);
        let to = from.saturating_add(usize::try_from(size).unwrap_or(usize::MAX));
        self.at = end;
        match self.window.get(from..to) {
            Some(bytes) => Ok(bytes),
            None => Err(crate::Error::Internal(format!("window {from}..{to} of {}", self.window.len()))),
        }
    }

    fn bytes<const N: usize>(&mut self, what: &str) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        bytes.copy_from_slice(self.take(N as u64, what)?);
        Ok(bytes)
    }

    fn u32(&mut self, what: &str) -> Result<u32> {
        Ok(u32::from_le_bytes(self.bytes(what)?))
    }

    /// An integer (or bool) of the metadata type `kind`, widened.
    fn integer(&mut self, what: &str, kind: u32) -> Result<i128> {
        Ok(match kind {
            0 | 7 => u8::from_le_bytes(self.bytes(what)?).into(),
            1 => i8::from_le_bytes(self.bytes(what)?).into(),
            2 => u16::from_le_bytes(self.bytes(what)?).into(),
            3 => i16::from_le_bytes(self.bytes(what)?).into(),
            4 => u32::from_le_bytes(self.bytes(what)?).into(),
            5 => i32::from_le_bytes(self.bytes(what)?).into(),
            10 => u64::from_le_bytes(self.bytes(what)?).into(),
            _ => i64::from_le_bytes(self.bytes(what)?).into(),
        })
    }

    /// A count of things that take `size` bytes each at least.
    fn count(&mut self, what: &str, size: u64) -> Result<u64> {
        let count = u64::from_le_bytes(self.bytes(what)?);
        match count.checked_mul(size) {
            Some(bytes) if bytes <= self.left() => Ok(count),
            bytes => Err(self.cut(bytes.unwrap_or(u64::MAX), what).into()),
        }
    }

    fn text(&mut self, what: &str, max: u64) -> Result<String> {
        let length = u64::from_le_bytes(self.bytes(what)?);
        if length > max {
            let (en, zh) = (format!("{what} has {length} bytes"), format!("{what} 长 {length} 字节"));
            return Err(self.bad(format!("{en}, {max} at most"), format!("{zh}，最多 {max}")).into());
        }
        Ok(String::from_utf8_lossy(self.take(length, what)?).into_owned())
    }

    fn name(&mut self, what: &str) -> Result<String> {
        let name = self.text(what, MAX_NAME)?;
        if name.is_empty() || name.contains(char::REPLACEMENT_CHARACTER) {
            let (en, zh) = (format!("{what} is {name:?}"), format!("{what} 为 {name:?}"));
            return Err(self.bad(en, zh).into());
        }
        Ok(name)
    }

    fn bad(&self, en: impl AsRef<str>, zh: impl AsRef<str>) -> Problem {
        let (shown, at) = (self.source.path().display(), self.at);
        Problem::new(
            "bad_gguf",
            format!("{shown} is not a valid GGUF file: {} (before byte {at}).", en.as_ref()),
            format!("{shown} 不是有效的 GGUF 文件：{}（字节 {at} 之前）。", zh.as_ref()),
        )
        .hint("Download or copy it again.", "请重新下载或复制。")
    }

    fn cut(&self, size: u64, what: &str) -> Problem {
        let (shown, at, len) = (self.source.path().display(), self.at, self.source.len());
        Problem::new(
            "file_truncated",
            format!("{shown} is cut short: {what} at byte {at} needs {size} bytes, the file has {len}."),
            format!("{shown} 不完整：字节 {at} 处的 {what} 需要 {size} 字节，文件只有 {len} 字节。"),
        )
        .hint("Download or copy it again.", "请重新下载或复制。")
    }

    fn tensor_beyond_end(&self, tensor: &TensorInfo) -> Problem {
        let (shown, len) = (self.source.path().display(), self.source.len());
        let TensorInfo { name, offset, size, .. } = tensor;
        Problem::new(
            "file_truncated",
            format!("{shown} is cut short: the tensor {name} at byte {offset} needs {size} bytes, the file has {len}."),
            format!("{shown} 不完整：字节 {offset} 处的张量 {name} 需要 {size} 字节，文件只有 {len} 字节。"),
        )
        .hint("Download or copy it again.", "请重新下载或复制。")
    }
}
