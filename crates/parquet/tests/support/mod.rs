//! A stream of numbers, and what the tests need to write, commit and read it.

#![allow(dead_code, reason = "each test binary uses its part")]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{AsArray, Int64Array, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::Int64Type;
use lakeward_core::{
    Batch, Chunk, Column, ColumnType, CompactRequest, ConfiguredStream, Destination, DoneChunk, Eagerness,
    Fingerprint, MemoryBudget, NullCursor, OnBadValue, OnPartitionChange, OnSchemaChange, OpenStep,
    PartitionField, Result, Run, Schema, SourceIdentity, StreamCommit, StreamId, SyncMode, SystemColumns,
    UnitSpec, WrittenFile,
};
use lakeward_parquet::ParquetDestination;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::{Map, json};

pub(crate) fn stream_of(id: &StreamId, columns: Vec<Column>, partition: &[&str]) -> Arc<ConfiguredStream> {
    Arc::new(ConfiguredStream {
        id: id.clone(),
        target: id.clone(),
        sync_mode: SyncMode::Cdc,
        schema: Schema { columns },
        retired: Schema::default(),
        written_as: Default::default(),
        left_out: Vec::new(),
        columns_made: None,
        system: SystemColumns::default(),
        key: vec!["id".to_owned()],
        cursor: None,
        null_cursor: NullCursor::Include,
        filter: None,
        partition: partition.iter().map(|text| text.parse::<PartitionField>().unwrap()).collect(),
        chunk_column: None,
        on_bad_value: OnBadValue::Clamp,
        on_schema_change: OnSchemaChange::Evolve,
        on_partition_change: OnPartitionChange::Keep,
        insert_only: false,
    })
}

/// `id` and `part`, which is `id` modulo 2 and partitions the files where `partitioned`.
pub(crate) fn numbers(id: &StreamId, partitioned: bool) -> Arc<ConfiguredStream> {
    let partition: &[&str] = if partitioned { &["part"] } else { &[] };
    stream_of(
        id,
        vec![Column::new("id", ColumnType::Int64), Column::new("part", ColumnType::Int64)],
        partition,
    )
}

pub(crate) fn batch(stream: &ConfiguredStream, ids: std::ops::Range<i64>) -> Batch {
    let part = Int64Array::from_iter_values(ids.clone().map(|id| id % 2));
    let schema = Arc::new(stream.schema.arrow());
    let part = cast(&part, schema.field(1).data_type()).unwrap();
    let columns: Vec<arrow::array::ArrayRef> = vec![Arc::new(Int64Array::from_iter_values(ids)), part];
    Batch::read(RecordBatch::try_new(schema, columns).unwrap())
}

pub(crate) fn run(id: &str) -> Run {
    run_of(id, "pipeline")
}

pub(crate) fn run_of(id: &str, pipeline: &str) -> Run {
    let source =
        SourceIdentity { kind: "test".to_owned(), facts: Map::from_iter([("db".to_owned(), json!("x"))]) };
    Run { id: id.to_owned(), pipeline: pipeline.to_owned(), source }
}

pub(crate) fn destination(path: &Path) -> ParquetDestination {
    ParquetDestination::from_config(json!({"type": "parquet", "path": path})).unwrap()
}

pub(crate) fn unit(stream: &Arc<ConfiguredStream>, generation: u32, name: &str) -> UnitSpec {
    UnitSpec {
        stream: stream.clone(),
        generation,
        unit: name.to_owned(),
        read_position: 0,
        budget: MemoryBudget::new(64 << 20),
        open_writers: 1,
    }
}

pub(crate) async fn write(
    destination: &ParquetDestination,
    stream: &Arc<ConfiguredStream>,
    generation: u32,
    name: &str,
    ids: std::ops::Range<i64>,
) -> Result<Vec<WrittenFile>> {
    let mut writer = destination.writer(unit(stream, generation, name)).await?;
    writer.write(batch(stream, ids)).await?;
    writer.finish(true).await
}

pub(crate) fn merging(eagerness: Eagerness) -> CompactRequest {
    CompactRequest::new(eagerness, MemoryBudget::new(64 << 20))
}

pub(crate) fn open(stream: &ConfiguredStream, chunks: u32, snapshot: &str) -> OpenStep {
    OpenStep {
        definition: stream.definition(),
        fingerprint: Fingerprint::default(),
        snapshot: json!(snapshot),
        plan: (0..chunks)
            .map(|number| Chunk { number, relation: None, min: None, max: None, bytes: 0 })
            .collect(),
        backfill: true,
    }
}

pub(crate) fn done(rows: u64) -> DoneChunk {
    DoneChunk { rows, snapshot: json!("s") }
}

pub(crate) fn commit(stream: &ConfiguredStream, generation: u32, unit: &str) -> StreamCommit {
    StreamCommit::new(stream.target.clone(), generation, unit.to_owned())
}

pub(crate) async fn commit_one(
    destination: &ParquetDestination,
    commit: StreamCommit,
) -> Result<lakeward_core::StreamHead> {
    destination.commit(vec![commit]).await.pop().unwrap()
}

/// All files below a directory, by relative path.
pub(crate) fn tree(root: &Path) -> Vec<PathBuf> {
    fn walk(root: &Path, dir: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            match entry.file_type().unwrap().is_dir() {
                true => walk(root, &entry.path(), found),
                false => found.push(entry.path().strip_prefix(root).unwrap().to_owned()),
            }
        }
    }
    let mut found = Vec::new();
    walk(root, root, &mut found);
    found.sort();
    found
}

pub(crate) fn is_data(path: &Path) -> bool {
    let name = path.file_name().unwrap().to_str().unwrap();
    name.ends_with(".parquet") && name.as_bytes()[0].is_ascii_digit()
}

/// How often each id stands in the files that a reader's glob finds. Fails where a file is not whole.
pub(crate) fn ids(visible: &Path) -> BTreeMap<i64, usize> {
    let files: Vec<PathBuf> = tree(visible).into_iter().filter(|path| is_data(path)).collect();
    count(files.into_iter().map(|path| visible.join(path)))
}

pub(crate) fn count(files: impl Iterator<Item = PathBuf>) -> BTreeMap<i64, usize> {
    let mut ids = BTreeMap::new();
    for path in files {
        let file = File::open(&path).unwrap();
        let reader = ParquetRecordBatchReaderBuilder::try_new(file)
            .unwrap_or_else(|e| panic!("{} is not whole: {e}", path.display()));
        for rows in reader.build().unwrap() {
            let rows = rows.unwrap();
            let column = rows.column_by_name("id").unwrap().as_primitive::<Int64Type>();
            for id in column.values() {
                *ids.entry(*id).or_insert(0) += 1;
            }
        }
    }
    ids
}

pub(crate) fn once(ranges: &[std::ops::Range<i64>]) -> BTreeMap<i64, usize> {
    ranges.iter().cloned().flatten().map(|id| (id, 1)).collect()
}
