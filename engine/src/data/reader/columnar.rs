//! Tables by column: Parquet and Arrow (a file or a stream, as `datasets` writes it), some rows at a time.

use super::{Give, Raw, shown};
use crate::{Error, Result};
use api::Problem;
use arrow::{
    array::RecordBatch,
    error::ArrowError,
    ipc::reader::{FileReader, StreamReader},
    json::{WriterBuilder, writer::LineDelimited},
};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use std::{
    fs::File,
    io::{BufReader, Read, Seek},
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
};

/// Rows that are converted at a time, and about how many bytes they may have.
const BATCH: usize = 1024;
const BATCH_BYTES: i64 = 16 << 20;

/// Gives every row of a Parquet file.
pub fn read_parquet(path: &Path, give: &mut Give) -> Result<()> {
    let builder = parquet(path)?;
    let (rows, bytes) =
        builder.metadata().row_groups().iter().fold((0, 0), |(rows, bytes), group| {
            (rows + group.num_rows().max(0), bytes + group.total_byte_size().max(0))
        });
    // Fewer of large rows.
    let batch = (BATCH_BYTES / (bytes / rows.max(1)).max(1)).clamp(1, BATCH as i64) as usize;
    let reader = guarded(path, "Parquet", || builder.with_batch_size(batch).build())?;
    let (mut found, mut stopped) = (0, false);
    batches(path, "Parquet", reader, &mut |row| {
        found += 1;
        stopped = !give(row)?;
        Ok(!stopped)
    })?;
    if !stopped && found != rows {
        return Err(broken(path, "Parquet", &format!("it has {found} rows and says {rows}")));
    }
    Ok(())
}

/// Rows of a Parquet file, as its parts say.
pub fn count_parquet(path: &Path) -> Result<u64> {
    Ok(parquet(path)?.metadata().row_groups().iter().map(|group| group.num_rows().max(0).unsigned_abs()).sum())
}

/// Gives every row of an Arrow file or stream.
pub fn read_arrow(path: &Path, give: &mut Give) -> Result<()> {
    batches(path, "Arrow", arrow(path)?, give)
}

/// Rows of an Arrow file or stream.
pub fn count_arrow(path: &Path) -> Result<u64> {
    let (mut batches, mut rows) = (arrow(path)?, 0);
    while let Some(batch) = guarded(path, "Arrow", || batches.next().transpose())? {
        rows += batch.num_rows() as u64;
    }
    Ok(rows)
}

type Batches = Box<dyn Iterator<Item = std::result::Result<RecordBatch, ArrowError>>>;

fn arrow(path: &Path) -> Result<Batches> {
    let mut file = File::open(path).map_err(Error::io(path))?;
    let mut magic = [0; 6];
    let is_file = file.read_exact(&mut magic).is_ok() && &magic == b"ARROW1";
    file.rewind().map_err(Error::io(path))?;
    guarded(path, "Arrow", || -> std::result::Result<Batches, ArrowError> {
        Ok(match is_file {
            true => Box::new(FileReader::try_new_buffered(file, None)?),
            false => Box::new(StreamReader::try_new(BufReader::new(file), None)?),
        })
    })
}

fn parquet(path: &Path) -> Result<ParquetRecordBatchReaderBuilder<File>> {
    let file = File::open(path).map_err(Error::io(path))?;
    guarded(path, "Parquet", || ParquetRecordBatchReaderBuilder::try_new(file))
}

fn batches(
    path: &Path,
    kind: &str,
    mut read: impl Iterator<Item = std::result::Result<RecordBatch, ArrowError>>,
    give: &mut Give,
) -> Result<()> {
    while let Some(batch) = guarded(path, kind, || read.next().transpose())? {
        for start in (0..batch.num_rows()).step_by(BATCH) {
            let mut writer = WriterBuilder::new().with_explicit_nulls(true).build::<_, LineDelimited>(Vec::new());
            let part = batch.slice(start, BATCH.min(batch.num_rows() - start));
            guarded(path, kind, || writer.write(&part).and_then(|()| writer.finish()))?;
            for line in writer.into_inner().split(|b| *b == b'\n').filter(|line| !line.is_empty()) {
                let row = serde_json::from_slice(line).map_err(|e| broken(path, kind, &e))?;
                if !give(Raw { text: None, value: Ok(row) })? {
                    return Ok(());
                }
            }
        }
    }
    Ok(())
}

/// What a library makes of the file. It panics where the numbers in a file contradict each other.
fn guarded<T, E: std::fmt::Display>(
    path: &Path,
    kind: &str,
    work: impl FnOnce() -> std::result::Result<T, E>,
) -> Result<T> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(result) => result.map_err(|e| broken(path, kind, &e)),
        Err(_) => Err(broken(path, kind, &"its numbers contradict each other")),
    }
}

fn broken(path: &Path, kind: &str, error: &dyn std::fmt::Display) -> Error {
    let shown = shown(path);
    Problem::new(
        "dataset_broken",
        format!("{shown} can't be read as {kind}: {error}."),
        format!("无法按 {kind} 读取 {shown}：{error}。"),
    )
    .hint("Get or make the file again.", "请重新获取或生成该文件。")
    .into()
}
