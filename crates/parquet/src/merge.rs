//! Reads small files and writes one of them into staging, in bounded memory.
//!
//! The merged file has every column of any of its inputs, null where an input lacks it, in a wider type where one is
//! asked for. Inputs are verified against the hashes that the log has of them, so that a damaged file is not made to
//! look whole.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions, new_null_array};
use arrow::compute::{CastOptions, cast_with_options, concat_batches};
use arrow::datatypes::{Field, Schema, SchemaRef};
use lakeward_core::{
    ColumnType, Error, FileKind, MemoryBudget, Reservation, Result, Schema as Columns, StreamId, WrittenFile,
    failpoint,
};
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder,
};
use parquet::basic::Type;
use parquet::file::metadata::{KeyValue, ParquetMetaData};
use tokio_util::sync::CancellationToken;

use crate::commit::Held;
use crate::compact::{Choice, Input};
use crate::config::Settings;
use crate::durable::{remove_file, sync_dir};
use crate::encoding::{Encoder, OP, SEQ};
use crate::read::{damaged, open, read_error, verify};
use crate::staged::{DECODED, StagedFile};

/// Decoded bytes that are read, or handed to the encoder, at once.
const BATCH_BYTES: u64 = 1 << 20;
/// Rows that are read at once. Few, because the rows of a file may differ much in size.
const BATCH_ROWS: u64 = 1024;
/// Rows that are handed to the encoder at once, at least, unless they are large.
const ENCODED_ROWS: usize = 8192;
/// What a column takes while a page of it is read: the page, and its dictionary.
const COLUMN_BYTES: u64 = 2 << 20;
/// The most that the open row group takes: a program that follows for long merges ever larger files, and must not need
/// more memory for it than at the beginning.
const MAX_ROW_GROUP_BYTES: usize = 16 << 20;
/// The share of the memory budget that the open row group takes at most.
const BUDGET_SHARE: usize = 8;
/// What the encoder takes for a column that holds next to nothing.
const ENCODER_BYTES: u64 = 16 << 10;

const POSITION: &str = "lakeward.position";

/// A merged file in staging. Dropped without being kept, it removes itself.
pub(crate) struct Merged {
    file: WrittenFile,
    keep: bool,
}

impl Merged {
    pub(crate) fn file(&self) -> &WrittenFile {
        &self.file
    }

    /// Leaves the file where it is: a record may name it.
    pub(crate) fn keep(&mut self) {
        self.keep = true;
    }

    /// Leaves the file to whoever commits it.
    pub(crate) fn into_file(mut self) -> WrittenFile {
        self.keep();
        self.file.clone()
    }
}

impl Drop for Merged {
    fn drop(&mut self) {
        if !self.keep {
            // Staging is swept at the next start if this fails.
            let _ = remove_file(Path::new(&self.file.staged));
        }
    }
}

/// Where a merge reads and writes.
#[derive(Clone)]
pub(crate) struct Places {
    pub(crate) visible: PathBuf,
    pub(crate) staging: PathBuf,
    /// The stream's name, for the file's footer.
    pub(crate) stream: String,
}

impl Places {
    pub(crate) fn of(held: &Held, stream: &StreamId) -> Self {
        Self {
            visible: held.paths.visible.clone(),
            staging: held.staging.clone(),
            stream: stream.to_string(),
        }
    }
}

/// Files that are to become one, looked at but not yet read.
pub(crate) struct Merge {
    choice: Choice,
    places: Places,
    schema: SchemaRef,
    /// By their first rows: a file that was merged before is younger than its rows.
    order: Vec<Input>,
    /// Bytes that reading one of them takes.
    reading: usize,
    /// Bytes that the open row group takes at most.
    share: usize,
    /// The last one's position, as its footer has it.
    position: Option<String>,
    /// Whether a column gets another type than it has in the files.
    rewrites: bool,
}

impl Merge {
    /// Looks at the chosen files. What they have of `columns` becomes of the type that it has there.
    ///
    /// # Errors
    /// `Cancelled` where it was asked to stop. `Destination` where a file is missing or damaged.
    pub(crate) fn survey(
        choice: Choice,
        places: Places,
        columns: &Columns,
        budget: &MemoryBudget,
        cancel: &CancellationToken,
    ) -> Result<Self> {
        let mut fields: Vec<Field> = Vec::new();
        let (mut reading, mut row, mut encoding) = (0, 0, 0);
        let mut order = Vec::with_capacity(choice.inputs.len());
        // The newest first: its columns come in the order of now, and what only older ones have comes behind.
        for input in choice.inputs.iter().rev() {
            if cancel.is_cancelled() {
                return Err(Error::cancelled());
            }
            let path = places.visible.join(&input.path);
            let read = ArrowReaderMetadata::load(&open(&path)?, ArrowReaderOptions::new())
                .map_err(|error| read_error(&path, error))?;
            for field in read.schema().fields() {
                match fields.iter().find(|known| known.name() == field.name()) {
                    None => fields.push(field.as_ref().clone()),
                    Some(known) if known.data_type() == field.data_type() => {}
                    Some(_) => {
                        return Err(Error::bug("two files of one generation have a column in two types")
                            .at("column", field.name())
                            .at("path", path.display()));
                    }
                }
            }
            let metadata = read.metadata();
            let columns = metadata.file_metadata().schema_descr().num_columns() as u64;
            let pages = metadata
                .row_groups()
                .iter()
                .map(|group| u64::try_from(group.total_byte_size()).unwrap_or(0).min(columns * COLUMN_BYTES));
            // A page has a value at least, and is held beside what is decoded of it.
            row = row.max(row_bytes(metadata));
            reading = reading.max(pages.max().unwrap_or(0)).max(row);
            encoding += decoded_bytes(metadata);
            order.push((first_sequence(metadata), input.clone(), noted(metadata, POSITION)));
        }
        let mut rewrites = false;
        for field in &mut fields {
            let column = columns.column(field.name()).map(|column| &column.column_type);
            let Some(wider) = column.filter(|wider| wider.arrow() != *field.data_type()) else { continue };
            if !ColumnType::of_arrow(field.data_type()).is_some_and(|known| known.widens_to(wider)) {
                return Err(Error::bug("a column is to be rewritten in a type that has not all its values")
                    .at("column", field.name())
                    .at("type", wider));
            }
            *field = wider.field(field.name());
            rewrites = true;
        }
        // Rows of one snapshot have one sequence: they stay in the order of their commits.
        order.reverse();
        order.sort_by(|(a, ..), (b, ..)| a.cmp(b));
        let position = order.last().and_then(|(_, _, position)| position.clone());
        let order = order.into_iter().map(|(_, input, _)| input).collect();
        encoding += fields.len() as u64 * ENCODER_BYTES;
        // A batch as it is read, those that wait for the encoder, and both as one.
        reading += 4 * BATCH_BYTES.max(row).min(encoding);
        let share = (budget.total() / BUDGET_SHARE).clamp(1, MAX_ROW_GROUP_BYTES);
        let share = usize::try_from(encoding).unwrap_or(usize::MAX).min(share);
        let reading = usize::try_from(reading).unwrap_or(usize::MAX);
        let schema = Arc::new(Schema::new(fields));
        Ok(Self { choice, places, schema, order, reading, share, position, rewrites })
    }

    /// Whether a column gets another type than it has in the files.
    pub(crate) fn rewrites(&self) -> bool {
        self.rewrites
    }

    /// Bytes that it takes at most.
    pub(crate) fn memory(&self) -> usize {
        self.share.saturating_add(self.reading)
    }

    /// Merges the files, in memory that was taken for it.
    ///
    /// # Errors
    /// `Cancelled` where it was asked to stop. `Destination` where a file is missing, damaged, or cannot be written.
    pub(crate) fn run(
        &self,
        settings: &Settings,
        _memory: Reservation,
        cancel: &CancellationToken,
    ) -> Result<Merged> {
        let mut output = Output::new(&self.choice, &self.places, settings, self.schema.clone(), self.share);
        for input in &self.order {
            let path = self.places.visible.join(&input.path);
            let file = open(&path)?;
            verify(&file, &input.sha256, &path, cancel)?;
            let fail = |error| read_error(&path, error);
            let builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(fail)?;
            let rows = batch_rows(builder.metadata());
            let mut read = 0;
            for batch in builder.with_batch_size(rows).build().map_err(fail)? {
                if cancel.is_cancelled() {
                    return Err(Error::cancelled());
                }
                let batch = batch.map_err(|error| read_error(&path, error.into()))?;
                read += batch.num_rows() as u64;
                output.write(completed(&self.schema, &batch)?)?;
            }
            if read != input.rows {
                return Err(damaged("a committed file does not hold the rows that its record says", &path));
            }
        }
        let merged = output.finish(self.position.clone())?;
        failpoint::hit("parquet-merge-staged")?;
        Ok(merged)
    }
}

/// The least sequence of a file's rows; `None` where its statistics do not tell.
fn first_sequence(metadata: &ParquetMetaData) -> Option<Vec<u8>> {
    let columns = metadata.row_groups().iter().filter_map(|group| group.columns().get(SEQ));
    columns.filter_map(|column| column.statistics()?.min_bytes_opt().map(<[u8]>::to_vec)).min()
}

/// Bytes of all values as they are in memory, at least as far as the file tells.
fn decoded_bytes(metadata: &ParquetMetaData) -> u64 {
    if let Some(noted) = noted(metadata, DECODED).and_then(|bytes| bytes.parse().ok()) {
        return noted;
    }
    let columns = metadata.row_groups().iter().flat_map(|group| group.columns());
    columns
        .map(|column| {
            let values = u64::try_from(column.num_values()).unwrap_or(0);
            let of_each: u64 = match column.column_type() {
                Type::BOOLEAN => 1,
                Type::INT32 | Type::FLOAT => 4,
                Type::INT64 | Type::DOUBLE => 8,
                Type::INT96 => 12,
                Type::BYTE_ARRAY => 4,
                Type::FIXED_LEN_BYTE_ARRAY => u64::try_from(column.column_descr().type_length()).unwrap_or(0),
            };
            let text = column.unencoded_byte_array_data_bytes().unwrap_or_else(|| column.uncompressed_size());
            values * of_each + u64::try_from(text).unwrap_or(0)
        })
        .sum()
}

/// Bytes of a row of average size in memory.
fn row_bytes(metadata: &ParquetMetaData) -> u64 {
    let rows = u64::try_from(metadata.file_metadata().num_rows()).unwrap_or(0);
    decoded_bytes(metadata) / rows.max(1)
}

/// Rows of a file that take about [`BATCH_BYTES`] in memory.
pub(crate) fn batch_rows(metadata: &ParquetMetaData) -> usize {
    let rows = u64::try_from(metadata.file_metadata().num_rows()).unwrap_or(0);
    let fitting = rows.saturating_mul(BATCH_BYTES) / decoded_bytes(metadata).max(1);
    usize::try_from(fitting.clamp(1, BATCH_ROWS)).unwrap_or(1)
}

fn noted(metadata: &ParquetMetaData, key: &str) -> Option<String> {
    let notes = metadata.file_metadata().key_value_metadata()?;
    notes.iter().find(|note| note.key == key)?.value.clone()
}

/// A batch with all columns of the merged file, in its types.
fn completed(schema: &SchemaRef, batch: &RecordBatch) -> Result<RecordBatch> {
    let rows = batch.num_rows();
    let exact = CastOptions { safe: false, ..CastOptions::default() };
    let columns: Result<Vec<ArrayRef>> = schema
        .fields()
        .iter()
        .map(|field| match batch.column_by_name(field.name()) {
            Some(column) if column.data_type() == field.data_type() => Ok(column.clone()),
            Some(column) => cast_with_options(column, field.data_type(), &exact)
                .map_err(|_| Error::bug("a column cannot be given a wider type").at("column", field.name())),
            None => Ok(new_null_array(field.data_type(), rows)),
        })
        .collect();
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    RecordBatch::try_new_with_options(schema.clone(), columns?, &options)
        .map_err(|e| Error::bug("a file's rows do not fit the merged file").source(e))
}

/// The file that is being written.
struct Output<'a> {
    choice: &'a Choice,
    places: &'a Places,
    settings: &'a Settings,
    schema: SchemaRef,
    /// The most that the open row group takes.
    share: usize,
    waiting: Vec<RecordBatch>,
    waiting_rows: usize,
    waiting_bytes: usize,
    file: Option<StagedFile>,
}

impl<'a> Output<'a> {
    fn new(
        choice: &'a Choice,
        places: &'a Places,
        settings: &'a Settings,
        schema: SchemaRef,
        share: usize,
    ) -> Self {
        let (waiting, file) = (Vec::new(), None);
        Self { choice, places, settings, schema, share, waiting, waiting_rows: 0, waiting_bytes: 0, file }
    }

    fn write(&mut self, batch: RecordBatch) -> Result<()> {
        self.waiting_rows += batch.num_rows();
        self.waiting_bytes += batch.get_array_memory_size();
        self.waiting.push(batch);
        if self.waiting_rows >= ENCODED_ROWS || self.waiting_bytes as u64 >= BATCH_BYTES {
            self.encode()?;
        }
        Ok(())
    }

    /// Hands over what waits: the encoder chooses by the first rows, and many small batches cost.
    fn encode(&mut self) -> Result<()> {
        let waiting = std::mem::take(&mut self.waiting);
        (self.waiting_rows, self.waiting_bytes) = (0, 0);
        let rows = match <[RecordBatch; 1]>::try_from(waiting) {
            Ok([batch]) => batch,
            Err(several) => concat_batches(&self.schema, &several)
                .map_err(|e| Error::bug("rows of merged files cannot be joined").source(e))?,
        };
        let mut file = match self.file.take() {
            Some(file) => file,
            None => self.begin(&rows)?,
        };
        if rows.num_rows() > 0 {
            file.write(&rows)?;
        }
        if file.memory() > self.share {
            file.flush()?;
        }
        self.file = Some(file);
        Ok(())
    }

    fn begin(&self, first: &RecordBatch) -> Result<StagedFile> {
        let index = |name: &String| self.schema.index_of(name).ok();
        let mut sought: Vec<usize> = self.choice.sought.iter().filter_map(index).collect();
        sought.extend([OP, SEQ]);
        let encoder = Encoder {
            compression: self.settings.compression,
            row_group_rows: self.settings.row_group_rows,
            // A key is distinct in what a backfill read, not in what came after it: the first rows tell.
            unique: Vec::new(),
            sought,
        };
        let note = |key: &str, value: String| KeyValue::new(key.to_owned(), value);
        let notes = vec![
            note("lakeward.stream", self.places.stream.clone()),
            note("lakeward.generation", self.choice.generation.to_string()),
            note("lakeward.unit", self.choice.unit.clone()),
            note("lakeward.merged", self.choice.inputs.len().to_string()),
        ];
        let path = self.places.staging.join(format!("{}-merged.parquet.part", ulid::Ulid::new()));
        StagedFile::create(path, &self.schema, encoder.properties(&self.schema, Some(first), notes))
    }

    fn finish(mut self, position: Option<String>) -> Result<Merged> {
        if self.file.is_none() || !self.waiting.is_empty() {
            self.encode()?;
        }
        let Some(mut file) = self.file.take() else { return Err(Error::bug("a merge has written nothing")) };
        if let Some(position) = position {
            file.note(POSITION, position);
        }
        let finished = file.finish()?;
        let merged = Merged {
            file: WrittenFile {
                staged: finished.path.to_string_lossy().into_owned(),
                kind: FileKind::Data,
                partition: self.choice.partition.clone(),
                rows: finished.rows,
                bytes: finished.bytes,
                sha256: finished.sha256,
            },
            keep: false,
        };
        if finished.rows != self.choice.rows() {
            return Err(Error::bug("a merged file does not have the rows of those it is made of"));
        }
        sync_dir(&self.places.staging)?;
        failpoint::hit("parquet-stage-synced")?;
        Ok(merged)
    }
}
