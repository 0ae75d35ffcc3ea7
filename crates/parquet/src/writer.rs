//! Writes the files of one unit into staging.
//!
//! Encoding runs on the blocking pool, one batch at a time. Memory is bounded: what the open row groups hold is
//! reserved in the run's budget, and where that is used up, or the unit's share of it, the largest open file
//! closes its row group. A writer therefore never waits for memory.

use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use lakeward_core::{
    Batch, Column, Error, FileKind, PartitionField, Position, Reservation, Result, Sequence, SystemColumns,
    UnitSpec, Writer, WrittenFile, failpoint,
};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use tokio::task::spawn_blocking;

use crate::commit::staging_gone;
use crate::config::Settings;
use crate::durable::{remove_file, sync_dir};
use crate::encoding::{Encoder, OP, SEQ};
use crate::partition::{PartitionKey, Partitioner};
use crate::staged::StagedFile;

/// Partitions whose files are open at once. Beyond that rows are gathered and sorted first.
const MAX_OPEN_FILES: usize = 64;
/// The most that the open row groups of a unit take.
const MAX_ROW_GROUP_BYTES: usize = 64 << 20;
/// The most that the open row groups of all units take: more of it makes files hardly smaller.
const MAX_OPEN_BYTES: usize = 160 << 20;

/// A unit's writer.
pub(crate) struct ParquetWriter {
    /// Absent only while a batch is being encoded, or after one failed.
    unit: Option<Unit>,
}

impl ParquetWriter {
    pub(crate) fn open(spec: UnitSpec, settings: &Settings, staging: PathBuf) -> Result<Self> {
        Ok(Self { unit: Some(Unit::new(spec, settings, staging)?) })
    }

    fn take(&mut self) -> Result<Unit> {
        self.unit.take().ok_or_else(|| Error::bug("a writer was used after it failed"))
    }
}

#[async_trait]
impl Writer for ParquetWriter {
    async fn write(&mut self, batch: Batch) -> Result<()> {
        let mut unit = self.take()?;
        // If this future is dropped the unit ends with its task, and its drop removes the files.
        let written = spawn_blocking(move || unit.write(batch).map(|()| unit)).await;
        self.unit = Some(written.map_err(task_failed)??);
        Ok(())
    }

    async fn finish(mut self: Box<Self>, keep_empty: bool) -> Result<Vec<WrittenFile>> {
        let unit = self.take()?;
        spawn_blocking(move || unit.finish(keep_empty)).await.map_err(task_failed)?
    }

    async fn abort(mut self: Box<Self>) {
        let unit = self.unit.take();
        // The drop removes the files; whether that worked matters to nobody, since staging is swept.
        let _ = spawn_blocking(move || drop(unit)).await;
    }
}

fn task_failed(error: tokio::task::JoinError) -> Error {
    Error::bug("writing a batch ended unexpectedly").source(error)
}

/// The files of one unit, and what they share.
struct Unit {
    spec: UnitSpec,
    encoder: Encoder,
    target_file_size: u64,
    staging: PathBuf,
    prefix: String,
    file_schema: SchemaRef,
    partitioner: Partitioner,
    read: Sequence,
    synced_at: i64,
    /// Chosen from the first batch.
    properties: Option<Arc<WriterProperties>>,
    position: Option<Position>,
    open: Vec<(PartitionKey, StagedFile)>,
    crowd: Crowd,
    written: Vec<WrittenFile>,
    share: Share,
    files_begun: usize,
    committed: bool,
}

/// Rows kept back because they belong to more partitions than may be open.
#[derive(Default)]
struct Crowd {
    /// Set once a unit has shown too many partitions.
    sorting: bool,
    rows: Vec<RecordBatch>,
    bytes: usize,
}

impl Unit {
    fn new(spec: UnitSpec, settings: &Settings, staging: PathBuf) -> Result<Self> {
        let columns = spec.stream.file_columns();
        let file_schema = spec.stream.system.file_schema(&columns)?;
        let system = file_schema.fields().len() - columns.columns.len();
        // Retired columns come last, and are neither.
        let indices = |wanted: &dyn Fn(&Column) -> bool| {
            let columns = spec.stream.schema.columns.iter().enumerate();
            columns.filter(|(_, column)| wanted(column)).map(|(index, _)| index + system).collect::<Vec<_>>()
        };
        let unique = indices(&|column| column.unique);
        let mut sought = indices(&|column| spec.stream.is_strict(&column.name));
        sought.extend([OP, SEQ]);
        Ok(Self {
            encoder: Encoder {
                compression: settings.compression,
                row_group_rows: settings.row_group_rows,
                unique,
                sought,
            },
            target_file_size: settings.target_file_size,
            staging,
            prefix: ulid::Ulid::new().to_string(),
            partitioner: Partitioner::new(&spec.stream.file_partition(), &file_schema)?,
            file_schema,
            read: Sequence::read(spec.generation, spec.read_position),
            synced_at: jiff::Timestamp::now().as_microsecond(),
            properties: None,
            position: None,
            open: Vec::new(),
            crowd: Crowd::default(),
            written: Vec::new(),
            share: Share::default(),
            files_begun: 0,
            committed: false,
            spec,
        })
    }

    /// What open row groups and rows kept back may take of the budget: half of it goes to writers, so that
    /// readers always have the other half.
    fn cap(&self) -> usize {
        let all = (self.spec.budget.total() / 2).min(MAX_OPEN_BYTES);
        (all / self.spec.open_writers.max(1)).min(MAX_ROW_GROUP_BYTES)
    }

    fn write(&mut self, mut batch: Batch) -> Result<()> {
        if batch.position.is_some() {
            self.position = batch.position.take();
        }
        // Kept until the rows are encoded: it covers both forms while both exist.
        if let Some(reservation) = batch.reservation.take() {
            self.share.add(reservation);
        }
        let rows = SystemColumns::attach(&self.file_schema, batch, &self.read, self.synced_at)?;
        if rows.num_rows() > 0 {
            if self.crowd.sorting {
                self.crowd.bytes += rows.get_array_memory_size();
                self.crowd.rows.push(rows);
                // Sorting takes a copy.
                if self.crowd.bytes > self.cap() / 2 {
                    self.sort_crowd()?;
                }
            } else {
                self.route(rows)?;
            }
        }
        self.settle_memory()
    }

    fn route(&mut self, rows: RecordBatch) -> Result<()> {
        if self.properties.is_none() {
            self.properties = Some(self.encoder.properties(&self.file_schema, Some(&rows), self.metadata()));
        }
        for (key, rows) in self.partitioner.split(rows)? {
            let index = match self.open.iter().position(|(open, _)| *open == key) {
                Some(index) => index,
                None => self.begin_file(key)?,
            };
            let file = &mut self.open[index].1;
            file.write(&rows)?;
            if file.size() >= self.target_file_size {
                self.end_file(index)?;
            }
        }
        Ok(())
    }

    fn sort_crowd(&mut self) -> Result<()> {
        let rows = std::mem::take(&mut self.crowd.rows);
        self.crowd.bytes = 0;
        let all = arrow::compute::concat_batches(&self.file_schema, &rows)
            .map_err(|e| Error::bug("batches of one unit have two schemas").source(e))?;
        drop(rows);
        self.route(all)
    }

    fn begin_file(&mut self, key: PartitionKey) -> Result<usize> {
        if self.open.len() >= MAX_OPEN_FILES {
            self.crowd.sorting = true;
            let largest = self.largest(|file| file.size());
            self.end_file(largest.unwrap_or(0))?;
        }
        let properties = match &self.properties {
            Some(properties) => properties.clone(),
            None => self.encoder.properties(&self.file_schema, None, self.metadata()),
        };
        let path = self.staging.join(format!("{}-{}.parquet.part", self.prefix, self.files_begun));
        self.files_begun += 1;
        self.open.push((key, StagedFile::create(path, &self.file_schema, properties)?));
        Ok(self.open.len() - 1)
    }

    fn metadata(&self) -> Vec<KeyValue> {
        let entry = |key: &str, value: String| KeyValue::new(key.to_owned(), value);
        vec![
            entry("lakeward.stream", self.spec.stream.target.to_string()),
            entry("lakeward.generation", self.spec.generation.to_string()),
            entry("lakeward.unit", self.spec.unit.clone()),
        ]
    }

    fn end_file(&mut self, index: usize) -> Result<()> {
        let (key, mut file) = self.open.swap_remove(index);
        let position = match &self.position {
            Some(position) => position.0.to_string(),
            None => self.spec.read_position.to_string(),
        };
        file.note("lakeward.position", position);
        let finished = file.finish()?;
        let fields = self.spec.stream.file_partition();
        let partition = fields.iter().map(PartitionField::directory_name).zip(key);
        self.written.push(WrittenFile {
            staged: finished.path.to_string_lossy().into_owned(),
            kind: FileKind::Data,
            partition: partition.collect(),
            rows: finished.rows,
            bytes: finished.bytes,
            sha256: finished.sha256,
        });
        Ok(())
    }

    fn largest<T: Ord>(&self, size: impl Fn(&StagedFile) -> T) -> Option<usize> {
        let sizes = self.open.iter().enumerate().map(|(index, (_, file))| (size(file), index));
        sizes.max().map(|(_, index)| index)
    }

    fn held(&self) -> usize {
        self.crowd.bytes + self.open.iter().map(|(_, file)| file.memory()).sum::<usize>()
    }

    /// Brings what is held below the unit's cap and into the budget.
    fn settle_memory(&mut self) -> Result<()> {
        let cap = self.cap();
        if !self.crowd.rows.is_empty() && (self.held() > cap || !self.share.cover(self.held(), &self.spec)) {
            self.sort_crowd()?;
        }
        let mut held = self.held();
        while held > cap || !self.share.cover(held, &self.spec) {
            let Some(index) = self.largest(StagedFile::memory) else { break };
            if !self.open[index].1.flush()? {
                break;
            }
            held = self.held();
        }
        self.share.shrink_to(held);
        Ok(())
    }

    fn finish(mut self, keep_empty: bool) -> Result<Vec<WrittenFile>> {
        if !self.crowd.rows.is_empty() {
            self.sort_crowd()?;
        }
        if keep_empty && self.written.is_empty() && self.open.is_empty() {
            self.begin_file(vec![None; self.spec.stream.partition.len()])?;
        }
        while !self.open.is_empty() {
            self.end_file(0)?;
        }
        if !self.written.is_empty() {
            // A run that took the stream over has emptied this one's staging.
            sync_dir(&self.staging).map_err(|error| match self.staging.is_dir() {
                true => error,
                false => staging_gone(&self.staging),
            })?;
            failpoint::hit("parquet-stage-synced")?;
        }
        self.committed = true;
        Ok(std::mem::take(&mut self.written))
    }
}

impl Drop for Unit {
    fn drop(&mut self) {
        if !self.committed {
            for file in &self.written {
                // Staging is swept at the next start if this fails.
                let _ = remove_file(std::path::Path::new(&file.staged));
            }
        }
    }
}

/// A unit's share of the memory budget.
///
/// It grows out of the reservations that batches bring, so that encoding rows never has to wait for the memory
/// that the same rows held before.
#[derive(Default)]
struct Share(Vec<Reservation>);

impl Share {
    fn add(&mut self, reservation: Reservation) {
        self.0.push(reservation);
    }

    fn bytes(&self) -> usize {
        self.0.iter().map(Reservation::bytes).sum()
    }

    /// Whether `bytes` are reserved, if need be by taking more.
    fn cover(&mut self, bytes: usize, spec: &UnitSpec) -> bool {
        let missing = bytes.saturating_sub(self.bytes());
        if missing == 0 {
            return true;
        }
        match spec.budget.try_reserve(missing) {
            Some(more) => {
                self.add(more);
                true
            }
            None => false,
        }
    }

    fn shrink_to(&mut self, bytes: usize) {
        let mut kept = 0;
        self.0.retain_mut(|reservation| {
            let room = bytes.saturating_sub(kept);
            reservation.shrink_to(room);
            kept += reservation.bytes();
            room > 0
        });
    }
}
