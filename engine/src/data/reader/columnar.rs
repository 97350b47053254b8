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
    let reader = builder.with_batch_size(batch).build().map_err(|e| broken(path, "Parquet", &e))?;
    batches(path, "Parquet", reader, give)
}

/// Rows of a Parquet file, as it says itself.
pub fn count_parquet(path: &Path) -> Result<u64> {
    Ok(parquet(path)?.metadata().file_metadata().num_rows().max(0).unsigned_abs())
}

/// Gives every row of an Arrow file or stream.
pub fn read_arrow(path: &Path, give: &mut Give) -> Result<()> {
    batches(path, "Arrow", arrow(path)?, give)
}

/// Rows of an Arrow file or stream.
pub fn count_arrow(path: &Path) -> Result<u64> {
    arrow(path)?.map(|batch| Ok(batch.map_err(|e| broken(path, "Arrow", &e))?.num_rows() as u64)).sum()
}

type Batches = Box<dyn Iterator<Item = std::result::Result<RecordBatch, ArrowError>>>;

fn arrow(path: &Path) -> Result<Batches> {
    let mut file = File::open(path).map_err(Error::io(path))?;
    let mut magic = [0; 6];
    let is_file = file.read_exact(&mut magic).is_ok() && &magic == b"ARROW1";
    file.rewind().map_err(Error::io(path))?;
    let broken = |e| broken(path, "Arrow", &e);
    Ok(match is_file {
        true => Box::new(FileReader::try_new_buffered(file, None).map_err(broken)?),
        false => Box::new(StreamReader::try_new(BufReader::new(file), None).map_err(broken)?),
    })
}

fn parquet(path: &Path) -> Result<ParquetRecordBatchReaderBuilder<File>> {
    let file = File::open(path).map_err(Error::io(path))?;
    ParquetRecordBatchReaderBuilder::try_new(file).map_err(|e| broken(path, "Parquet", &e))
}

fn batches(
    path: &Path,
    kind: &str,
    read: impl Iterator<Item = std::result::Result<RecordBatch, ArrowError>>,
    give: &mut Give,
) -> Result<()> {
    for batch in read {
        let batch = batch.map_err(|e| broken(path, kind, &e))?;
        for start in (0..batch.num_rows()).step_by(BATCH) {
            let mut writer = WriterBuilder::new().with_explicit_nulls(true).build::<_, LineDelimited>(Vec::new());
            let part = batch.slice(start, BATCH.min(batch.num_rows() - start));
            writer.write(&part).and_then(|()| writer.finish()).map_err(|e| broken(path, kind, &e))?;
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
