//! One Parquet file on its way: encoded, hashed while it is written, synced when it is done.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch};
use arrow::datatypes::SchemaRef;
use lakeward_core::{Error, Result, failpoint};
use parquet::arrow::ArrowWriter;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use sha2::{Digest, Sha256};

use crate::commit::staging_gone;
use crate::durable::remove_file;
use crate::error::{io_error, parquet_error};
use crate::layout::hex;

/// A file that is being written. Dropped unfinished, it removes itself.
pub(crate) struct StagedFile {
    /// Absent once it is finished.
    writer: Option<ArrowWriter<Hashed>>,
    path: PathBuf,
    rows: u64,
    /// Bytes of all values as they are in memory.
    decoded: usize,
    finished: bool,
}

/// What the footer says of how many bytes all values take in memory: a reader has to know it beforehand, and Parquet has it
/// only of columns with statistics.
pub(crate) const DECODED: &str = "lakeward.decoded_bytes";

/// A file that is whole and synced.
pub(crate) struct Finished {
    pub(crate) path: PathBuf,
    pub(crate) rows: u64,
    pub(crate) bytes: u64,
    pub(crate) sha256: String,
}

struct Hashed {
    file: File,
    hash: Sha256,
    bytes: u64,
}

impl Write for Hashed {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let written = self.file.write(buffer)?;
        self.hash.update(&buffer[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl StagedFile {
    pub(crate) fn create(
        path: PathBuf,
        schema: &SchemaRef,
        properties: Arc<WriterProperties>,
    ) -> Result<Self> {
        let file =
            OpenOptions::new().write(true).create_new(true).open(&path).map_err(|e| match e.kind() {
                io::ErrorKind::NotFound => staging_gone(&path),
                _ => io_error("create a file", &path, e),
            })?;
        let target = Hashed { file, hash: Sha256::new(), bytes: 0 };
        let writer = ArrowWriter::try_new(target, schema.clone(), Some(properties.as_ref().clone()))
            .map_err(|e| parquet_error(&path, e))?;
        Ok(Self { writer: Some(writer), path, rows: 0, decoded: 0, finished: false })
    }

    pub(crate) fn write(&mut self, rows: &RecordBatch) -> Result<()> {
        self.rows += rows.num_rows() as u64;
        self.decoded += rows.columns().iter().map(slice_bytes).sum::<usize>();
        match &mut self.writer {
            Some(writer) => writer.write(rows).map_err(|e| parquet_error(&self.path, e)),
            None => Ok(()),
        }
    }

    /// Bytes that the file has, or would have if it were closed now.
    pub(crate) fn size(&self) -> u64 {
        self.writer.as_ref().map_or(0, |writer| (writer.bytes_written() + writer.in_progress_size()) as u64)
    }

    /// Bytes that the open row group takes in memory.
    pub(crate) fn memory(&self) -> usize {
        self.writer.as_ref().map_or(0, ArrowWriter::memory_size)
    }

    /// Closes the row group; `false` where none is open.
    pub(crate) fn flush(&mut self) -> Result<bool> {
        match &mut self.writer {
            Some(writer) if writer.in_progress_rows() > 0 => {
                writer.flush().map_err(|e| parquet_error(&self.path, e))?;
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    /// Adds an entry to the footer.
    pub(crate) fn note(&mut self, key: &str, value: String) {
        if let Some(writer) = &mut self.writer {
            writer.append_key_value_metadata(KeyValue::new(key.to_owned(), value));
        }
    }

    /// Writes the footer and syncs.
    pub(crate) fn finish(mut self) -> Result<Finished> {
        self.note(DECODED, self.decoded.to_string());
        let Some(writer) = self.writer.take() else {
            return Err(Error::bug("a file was finished twice"));
        };
        let target = writer.into_inner().map_err(|e| parquet_error(&self.path, e))?;
        failpoint::hit("parquet-stage-written")?;
        target.file.sync_all().map_err(|e| io_error("sync a file", &self.path, e))?;
        failpoint::hit("parquet-file-synced")?;
        self.finished = true;
        Ok(Finished {
            path: std::mem::take(&mut self.path),
            rows: self.rows,
            bytes: target.bytes,
            sha256: hex(&target.hash.finalize()),
        })
    }
}

fn slice_bytes(column: &ArrayRef) -> usize {
    // It fails for types alone that no column has.
    column.to_data().get_slice_memory_size().unwrap_or_else(|_| column.get_array_memory_size())
}

impl Drop for StagedFile {
    fn drop(&mut self) {
        if !self.finished {
            // Staging is swept at the next start if this fails.
            let _ = remove_file(&self.path);
        }
    }
}
