//! Rows as a table: CSV, Parquet, Arrow. The columns and their types are those of all rows together.

use crate::{Error, Result};
use api::Problem;
use arrow::datatypes::{DataType, Field, Fields, Schema};
use arrow::ipc::writer::FileWriter;
use arrow::json::ReaderBuilder;
use arrow::record_batch::RecordBatch;
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;
use serde_json::{Map, Value};
use std::io::Write;
use std::sync::Arc;

/// More columns than any table of texts has.
const MOST: usize = 1000;
/// Rows of Parquet that are held in memory until a group of them is written, in bytes.
const GROUP: usize = 32 << 20;

/// A file that takes rows.
pub trait Table {
    fn add(&mut self, rows: &[Value]) -> Result<()>;
    fn end(self) -> Result<()>;
}

/// What the values of a column have in common.
#[derive(Clone, Debug, Default, PartialEq)]
enum Type {
    #[default]
    Null,
    Bool,
    Int,
    Float,
    Text,
    List(Box<Type>),
    Struct(Vec<(String, Type)>),
    /// Nothing: what is no text is written as JSON.
    Json,
}

/// Columns in the order in which they were first seen.
#[derive(Clone, Debug, Default)]
pub struct Columns(Vec<(String, Type)>);

impl Columns {
    pub fn add(&mut self, rows: &[Value]) -> Result<()> {
        for row in rows.iter().filter_map(Value::as_object) {
            join_fields(&mut self.0, fields_of(row));
            self.check()?;
        }
        Ok(())
    }

    /// A problem where a table can't hold them.
    pub fn check(&self) -> Result<()> {
        if self.0.len() <= MOST {
            return Ok(());
        }
        Err(Problem::new(
            "too_many_columns",
            format!("The rows have more than {MOST} columns, too many for a table."),
            format!("数据的列超过 {MOST} 个，无法写成表格。"),
        )
        .hint("Take json or jsonl.", "请改用 json 或 jsonl。")
        .into())
    }

    fn schema(&self) -> Arc<Schema> {
        Arc::new(Schema::new(fields(&self.0)))
    }

    fn batch(&self, schema: &Arc<Schema>, rows: &[Value]) -> Result<Option<RecordBatch>> {
        let whole = Type::Struct(self.0.clone());
        let rows: Vec<Value> = rows.iter().map(|row| fitted(row, &whole)).collect();
        let mut decoder =
            ReaderBuilder::new(schema.clone()).with_batch_size(rows.len().max(1)).build_decoder().map_err(internal)?;
        decoder.serialize(&rows).map_err(internal)?;
        decoder.flush().map_err(internal)
    }
}

impl Type {
    fn of(value: &Value) -> Self {
        match value {
            Value::Null => Self::Null,
            Value::Bool(_) => Self::Bool,
            Value::Number(n) if n.is_i64() => Self::Int,
            Value::Number(_) => Self::Float,
            Value::String(_) => Self::Text,
            Value::Array(items) => Self::List(Box::new(items.iter().map(Self::of).fold(Self::Null, Self::join))),
            Value::Object(row) => Self::Struct(fields_of(row)),
        }
    }

    fn join(self, other: Self) -> Self {
        match (self, other) {
            (a, b) if a == b => a,
            (Self::Null, one) | (one, Self::Null) => one,
            (Self::Int, Self::Float) | (Self::Float, Self::Int) => Self::Float,
            (Self::List(a), Self::List(b)) => Self::List(Box::new(a.join(*b))),
            (Self::Struct(mut a), Self::Struct(b)) => {
                join_fields(&mut a, b);
                if a.len() > MOST { Self::Json } else { Self::Struct(a) }
            }
            _ => Self::Json,
        }
    }

    fn arrow(&self) -> DataType {
        match self {
            Self::Bool => DataType::Boolean,
            Self::Int => DataType::Int64,
            Self::Float => DataType::Float64,
            Self::List(item) => DataType::List(Arc::new(Field::new("item", item.arrow(), true))),
            Self::Struct(of) if !of.is_empty() => DataType::Struct(fields(of)),
            Self::Null | Self::Text | Self::Struct(_) | Self::Json => DataType::Utf8,
        }
    }
}

fn fields_of(row: &Map<String, Value>) -> Vec<(String, Type)> {
    row.iter().map(|(name, value)| (name.clone(), Type::of(value))).collect()
}

fn join_fields(all: &mut Vec<(String, Type)>, more: Vec<(String, Type)>) {
    for (i, (name, kind)) in more.into_iter().enumerate() {
        // Nearly always the same columns in the same order.
        let place = if all.get(i).is_some_and(|(known, _)| *known == name) {
            Some(i)
        } else {
            all.iter().position(|(known, _)| *known == name)
        };
        match place.and_then(|place| all.get_mut(place)) {
            Some((_, known)) => *known = std::mem::take(known).join(kind),
            None => all.push((name, kind)),
        }
    }
}

fn fields(of: &[(String, Type)]) -> Fields {
    of.iter().map(|(name, kind)| Field::new(name, kind.arrow(), true)).collect()
}

/// The value as a column of this type takes it.
fn fitted(value: &Value, kind: &Type) -> Value {
    match (kind, value) {
        (_, Value::Null) => Value::Null,
        (Type::List(item), Value::Array(items)) => items.iter().map(|value| fitted(value, item)).collect(),
        (Type::Struct(of), Value::Object(row)) if !of.is_empty() => {
            let field = |(name, kind): &(String, Type)| {
                (name.clone(), row.get(name).map_or(Value::Null, |value| fitted(value, kind)))
            };
            Value::Object(of.iter().map(field).collect())
        }
        (Type::Bool | Type::Int | Type::Text, value) => value.clone(),
        (Type::Float, value) => value.as_f64().into(),
        (_, Value::String(text)) => text.as_str().into(),
        (_, other) => other.to_string().into(),
    }
}

/// CSV: the first line names the columns; what is no text is written as JSON, null as nothing.
pub struct Csv<'a, W: Write> {
    columns: &'a Columns,
    out: csv::Writer<W>,
}

impl<'a, W: Write> Csv<'a, W> {
    pub fn begin(out: W, columns: &'a Columns) -> Result<Self> {
        let mut out = csv::Writer::from_writer(out);
        out.write_record(columns.0.iter().map(|(name, _)| name)).map_err(csv_failed)?;
        Ok(Self { columns, out })
    }
}

impl<W: Write> Table for Csv<'_, W> {
    fn add(&mut self, rows: &[Value]) -> Result<()> {
        let cell = |value: Option<&Value>| match value {
            None | Some(Value::Null) => String::new(),
            Some(Value::String(text)) => text.clone(),
            Some(other) => other.to_string(),
        };
        let columns = &self.columns.0;
        rows.iter()
            .try_for_each(|row| self.out.write_record(columns.iter().map(|(name, _)| cell(row.get(name)))))
            .map_err(csv_failed)
    }

    fn end(mut self) -> Result<()> {
        self.out.flush().map_err(Error::io("stdout"))
    }
}

/// Parquet, compressed with Zstandard.
pub struct Parquet<'a, W: Write + Send> {
    columns: &'a Columns,
    schema: Arc<Schema>,
    out: ArrowWriter<W>,
}

impl<'a, W: Write + Send> Parquet<'a, W> {
    pub fn begin(out: W, columns: &'a Columns) -> Result<Self> {
        let schema = columns.schema();
        let settings = WriterProperties::builder().set_compression(Compression::ZSTD(Default::default())).build();
        let out = ArrowWriter::try_new(out, schema.clone(), Some(settings)).map_err(internal)?;
        Ok(Self { columns, schema, out })
    }
}

impl<W: Write + Send> Table for Parquet<'_, W> {
    fn add(&mut self, rows: &[Value]) -> Result<()> {
        if let Some(batch) = self.columns.batch(&self.schema, rows)? {
            self.out.write(&batch).map_err(internal)?;
        }
        if self.out.memory_size() > GROUP { self.out.flush().map_err(internal) } else { Ok(()) }
    }

    fn end(self) -> Result<()> {
        let mut out = self.out.into_inner().map_err(internal)?;
        out.flush().map_err(Error::io("stdout"))
    }
}

/// An Arrow file (Feather).
pub struct Arrow<'a, W: Write> {
    columns: &'a Columns,
    schema: Arc<Schema>,
    out: FileWriter<W>,
}

impl<'a, W: Write> Arrow<'a, W> {
    pub fn begin(out: W, columns: &'a Columns) -> Result<Self> {
        let schema = columns.schema();
        let out = FileWriter::try_new(out, &schema).map_err(internal)?;
        Ok(Self { columns, schema, out })
    }
}

impl<W: Write> Table for Arrow<'_, W> {
    fn add(&mut self, rows: &[Value]) -> Result<()> {
        let batch = self.columns.batch(&self.schema, rows)?;
        batch.map_or(Ok(()), |batch| self.out.write(&batch).map_err(internal))
    }

    fn end(mut self) -> Result<()> {
        self.out.finish().map_err(internal)
    }
}

fn csv_failed(error: csv::Error) -> Error {
    match error.into_kind() {
        csv::ErrorKind::Io(error) => Error::io("stdout")(error),
        other => Error::Internal(format!("CSV: {other:?}")),
    }
}

fn internal(error: impl std::fmt::Display) -> Error {
    Error::Internal(error.to_string())
}
