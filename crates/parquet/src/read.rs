//! Reads committed files back, each verified against the hash that the log has of it.

use std::fs::File;
use std::io::{ErrorKind as IoKind, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions, new_null_array};
use arrow::datatypes::{Schema as ArrowSchema, SchemaRef};
use futures::StreamExt;
use lakeward_core::{ColumnType, CommittedRows, Error, ErrorKind, Result, Schema, SystemColumns};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder,
};
use parquet::errors::ParquetError;
use parquet::file::metadata::ParquetMetaData;
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

use crate::destination::places;
use crate::error::io_error;
use crate::fold::Fold;
use crate::layout::{StreamPaths, hex};
use crate::merge::batch_rows;

/// Batches that are read ahead of whoever takes them.
const BATCHES_AHEAD: usize = 4;

/// One committed file.
struct Committed {
    /// Where it lies, or will lie in a moment.
    places: [PathBuf; 3],
    rows: u64,
    sha256: String,
}

impl Committed {
    /// It may be moved to its place just while it is looked for.
    fn open(&self) -> Result<(File, PathBuf)> {
        for path in self.places.iter().chain(&self.places) {
            if let Ok(file) = File::open(path) {
                return Ok((file, path.clone()));
            }
        }
        let [place, ..] = &self.places;
        open(place).map(|file| (file, place.clone()))
    }
}

/// The rows that readers of a stream see at the log's last commit.
pub(crate) fn rows(paths: &StreamPaths, fold: &Fold, columns: &Schema) -> Result<CommittedRows> {
    let [op, seq, _, _, unchanged, _] = SystemColumns::default().names();
    let mut fields = vec![
        ColumnType::Text.field(&op),
        ColumnType::Text.field(&seq),
        ColumnType::List(Box::new(ColumnType::Text)).field(&unchanged),
    ];
    fields.extend(columns.arrow().fields().iter().map(|field| field.as_ref().clone()));
    let schema = Arc::new(ArrowSchema::new(fields));
    let files: Vec<Committed> = fold
        .files
        .iter()
        .filter(|(_, file)| fold.is_visible(file.generation))
        .map(|(path, file)| Committed {
            places: places(paths, path, file),
            rows: file.facts.rows,
            sha256: file.facts.sha256.clone(),
        })
        .collect();
    let mut partial = false;
    for file in &files {
        let (opened, path) = file.open()?;
        let footer = ArrowReaderMetadata::load(&opened, ArrowReaderOptions::new());
        partial |= has_values(footer.map_err(|error| read_error(&path, error))?.metadata(), &unchanged);
    }
    let (sender, receiver) = mpsc::channel(BATCHES_AHEAD);
    spawn_blocking(move || {
        for file in &files {
            if let Err(error) = send(file, &schema, &sender) {
                // Nobody waits for it any more where it cannot be sent.
                let _ = sender.blocking_send(Err(error));
                return;
            }
            if sender.is_closed() {
                return;
            }
        }
    });
    let batches = futures::stream::unfold(receiver, |mut receiver| async move {
        receiver.recv().await.map(|batch| (batch, receiver))
    });
    Ok(CommittedRows { partial, batches: batches.boxed() })
}

fn send(file: &Committed, schema: &SchemaRef, sender: &mpsc::Sender<Result<RecordBatch>>) -> Result<()> {
    let (opened, path) = file.open()?;
    let path = path.as_path();
    let fail = |error| read_error(path, error);
    verify(&opened, &file.sha256, path, &CancellationToken::new())?;
    let builder = ParquetRecordBatchReaderBuilder::try_new(opened).map_err(fail)?;
    let wanted: Vec<usize> = (0..builder.schema().fields().len())
        .filter(|index| schema.index_of(builder.schema().field(*index).name()).is_ok())
        .collect();
    let mask = ProjectionMask::roots(builder.parquet_schema(), wanted);
    let rows = batch_rows(builder.metadata());
    let mut read = 0;
    for batch in builder.with_projection(mask).with_batch_size(rows).build().map_err(fail)? {
        let batch = batch.map_err(|error| read_error(path, error.into()))?;
        read += batch.num_rows() as u64;
        let batch = completed(schema, &batch).map_err(|error| error.at("path", path.display()))?;
        if sender.blocking_send(Ok(batch)).is_err() {
            return Ok(());
        }
    }
    match read == file.rows {
        true => Ok(()),
        false => Err(damaged("a committed file does not hold the rows that its record says", path)),
    }
}

/// A file's rows with every column that is asked for; what the file has not is null.
fn completed(schema: &SchemaRef, batch: &RecordBatch) -> Result<RecordBatch> {
    let columns: Result<Vec<ArrayRef>> = schema
        .fields()
        .iter()
        .map(|field| match batch.column_by_name(field.name()) {
            None => Ok(new_null_array(field.data_type(), batch.num_rows())),
            Some(column) if column.data_type() == field.data_type() => Ok(column.clone()),
            Some(column) => arrow::compute::cast(column, field.data_type()).map_err(|_| {
                Error::new(ErrorKind::Schema, "a committed file has a column in another type")
                    .at("column", field.name())
                    .hint("run `lakeward sync`: it follows what changed in the table or in streams.json")
            }),
        })
        .collect();
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(schema.clone(), columns?, &options)
        .map_err(|error| Error::bug("rows of a file cannot be read back").source(error))
}

/// Whether a list column may hold anything; where statistics do not tell it may.
fn has_values(metadata: &ParquetMetaData, column: &str) -> bool {
    metadata.row_groups().iter().any(|group| {
        let found = group
            .columns()
            .iter()
            .find(|chunk| chunk.column_path().parts().first().is_some_and(|root| root == column));
        found.is_some_and(|chunk| {
            let nulls = chunk.statistics().and_then(|statistics| statistics.null_count_opt());
            nulls.is_none_or(|nulls| nulls < u64::try_from(chunk.num_values()).unwrap_or(u64::MAX))
        })
    })
}

/// Opens a file that is, or just was, part of a stream.
pub(crate) fn open(path: &Path) -> Result<File> {
    File::open(path).map_err(|error| match error.kind() {
        IoKind::NotFound => damaged("a committed file is missing", path),
        _ => io_error("open a file", path, error),
    })
}

/// Whether a file is what was committed.
pub(crate) fn verify(mut file: &File, sha256: &str, path: &Path, cancel: &CancellationToken) -> Result<()> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 256 << 10];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => hash.update(&buffer[..read]),
            Err(error) if error.kind() == IoKind::Interrupted => {}
            Err(error) => return Err(io_error("read a file", path, error)),
        }
        if cancel.is_cancelled() {
            return Err(Error::cancelled());
        }
    }
    match hex(&hash.finalize()) == sha256 {
        true => Ok(()),
        false => Err(damaged("a committed file is damaged: its hash differs", path)),
    }
}

pub(crate) fn damaged(what: &str, path: &Path) -> Error {
    Error::new(ErrorKind::Destination, what)
        .at("path", path.display())
        .hint("restore the file from a backup, or clear the stream with `lakeward clear`")
}

pub(crate) fn read_error(path: &Path, error: ParquetError) -> Error {
    Error::new(ErrorKind::Destination, "could not read a Parquet file")
        .at("path", path.display())
        .source(error)
}
