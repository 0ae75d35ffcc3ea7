//! What the writer puts into files: types, bounds of memory and size, partitions.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::single_range_in_vec_init,
    reason = "a test that cannot go on should stop where it stands"
)]

mod support;

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::*;
use arrow::datatypes::{Int64Type, Schema as ArrowSchema};
use lakeward_core::{
    Batch, ChangeColumns, Column, ColumnType, Destination, MemoryBudget, Result, Schema, StreamId, SwapStep,
    WrittenFile,
};
use parquet::file::reader::FileReader;
use parquet::file::serialized_reader::SerializedFileReader;
use serde_json::json;

use support::*;

fn id() -> StreamId {
    StreamId::new("public", "t")
}

fn all_types() -> Vec<Column> {
    let decimal = |precision, scale| ColumnType::Decimal { precision, scale };
    [
        ("id", ColumnType::Int64),
        ("boolean", ColumnType::Boolean),
        ("int8", ColumnType::Int8),
        ("int16", ColumnType::Int16),
        ("int32", ColumnType::Int32),
        ("uint8", ColumnType::UInt8),
        ("uint16", ColumnType::UInt16),
        ("uint32", ColumnType::UInt32),
        ("uint64", ColumnType::UInt64),
        ("float", ColumnType::Float32),
        ("double", ColumnType::Float64),
        ("money", decimal(18, 2)),
        ("wide", decimal(38, 10)),
        ("text", ColumnType::Text),
        ("json", ColumnType::Json),
        ("uuid", ColumnType::Uuid),
        ("binary", ColumnType::Binary),
        ("date", ColumnType::Date),
        ("time", ColumnType::Time),
        ("wall", ColumnType::Timestamp),
        ("instant", ColumnType::TimestampTz),
        ("list", ColumnType::List(Box::new(ColumnType::Int32))),
    ]
    .into_iter()
    .map(|(name, kind)| Column::new(name, kind))
    .collect()
}

/// One row for each id, every value made from it; an odd id has nulls.
fn row_of_every_type(columns: &[Column], ids: &[i64]) -> RecordBatch {
    let even = |id: &i64| (id % 2 == 0).then_some(*id);
    let value = || ids.iter().map(even);
    let arrays: Vec<ArrayRef> = columns
        .iter()
        .map(|column| -> ArrayRef {
            let kind = column.column_type.arrow();
            match &column.column_type {
                ColumnType::Int64 => Arc::new(Int64Array::from(ids.to_vec())),
                ColumnType::Text => {
                    Arc::new(value().map(|v| v.map(|v| format!("é{v}"))).collect::<StringArray>())
                }
                ColumnType::Json => {
                    Arc::new(value().map(|v| v.map(|v| format!("{{\"n\": {v}}}"))).collect::<StringArray>())
                }
                ColumnType::Uuid => {
                    let bytes = value().map(|v| v.map(|v| u128::from(v as u64).to_be_bytes()));
                    Arc::new(FixedSizeBinaryArray::try_from_sparse_iter_with_size(bytes, 16).unwrap())
                }
                ColumnType::Binary => {
                    Arc::new(value().map(|v| v.map(|v| v.to_le_bytes().to_vec())).collect::<BinaryArray>())
                }
                ColumnType::List(_) => {
                    let mut list =
                        ListBuilder::new(Int32Builder::new()).with_field(ColumnType::Int32.field("element"));
                    for v in value() {
                        list.append_option(v.map(|v| vec![Some(v as i32), None]));
                    }
                    Arc::new(list.finish())
                }
                ColumnType::Boolean => {
                    Arc::new(value().map(|v| v.map(|v| v % 4 == 0)).collect::<BooleanArray>())
                }
                ColumnType::Decimal { precision, scale } => {
                    let array = Decimal128Array::from_iter(value().map(|v| v.map(i128::from)));
                    Arc::new(array.with_precision_and_scale(*precision, *scale as i8).unwrap())
                }
                ColumnType::Date => Arc::new(Date32Array::from_iter(value().map(|v| v.map(|v| v as i32)))),
                ColumnType::Time => Arc::new(Time64MicrosecondArray::from_iter(value())),
                ColumnType::Timestamp => Arc::new(TimestampMicrosecondArray::from_iter(value())),
                ColumnType::TimestampTz => {
                    Arc::new(TimestampMicrosecondArray::from_iter(value()).with_timezone("UTC"))
                }
                _ => arrow::compute::cast(&Int64Array::from_iter(value()), &kind).unwrap(),
            }
        })
        .collect();
    let schema = Arc::new(Schema { columns: columns.to_vec() }.arrow());
    RecordBatch::try_new(schema, arrays).unwrap()
}

/// The same rows, the first without its text, as where the source did not send it.
fn without_text(rows: &RecordBatch) -> RecordBatch {
    let index = rows.schema().index_of("text").unwrap();
    let mut columns = rows.columns().to_vec();
    let text = columns[index].as_string::<i32>().iter().enumerate();
    columns[index] = Arc::new(text.map(|(row, text)| text.filter(|_| row > 0)).collect::<StringArray>());
    RecordBatch::try_new(rows.schema(), columns).unwrap()
}

fn changes(ops: &[&str], lsn: u64, unchanged: &[Option<&str>]) -> ChangeColumns {
    let mut list = ListBuilder::new(StringBuilder::new()).with_field(ColumnType::Text.field("element"));
    for name in unchanged {
        list.append_option(name.map(|name| vec![Some(name)]));
    }
    let seq = (1..=ops.len()).map(|ordinal| format!("{:06x}{lsn:016x}{ordinal:010x}", 1));
    ChangeColumns {
        op: StringArray::from(ops.to_vec()),
        seq: seq.collect::<Vec<_>>().into(),
        commit_ts: TimestampMicrosecondArray::from(vec![1_700_000_000_000_000; ops.len()]),
        unchanged: Some(list.finish()),
    }
}

/// A change stream of every type, one of whose columns came later. `LAKEWARD_TEST_DIR` keeps it for other readers.
#[tokio::test]
async fn every_type_and_a_column_that_came_later() -> Result<()> {
    let temporary = tempfile::tempdir().unwrap();
    let dir = std::env::var_os("LAKEWARD_TEST_DIR").map_or(temporary.path().to_owned(), PathBuf::from);
    let lake = destination(&dir);
    let columns = all_types();
    let stream = stream_of(&id(), columns.clone(), &["month(instant)"]);
    lake.prepare(&id(), &run("a")).await?;
    let mut first = commit(&stream, 1, "backfill");
    first.open = Some(open(&stream, 1, "s"));
    first.chunk = Some((0, done(6)));
    first.swap = Some(SwapStep::Replace);
    let mut writer = lake.writer(unit(&stream, 1, "backfill")).await?;
    writer.write(Batch::read(row_of_every_type(&columns, &[1, 2, 3, 4, 5, 6]))).await?;
    first.files = writer.finish(true).await?;
    commit_one(&lake, first).await?;

    let mut wider = columns.clone();
    wider.push(Column::new("added", ColumnType::Text));
    let stream = stream_of(&id(), wider.clone(), &["month(instant)"]);
    let mut second = commit(&stream, 1, "cdc");
    let mut writer = lake.writer(unit(&stream, 1, "cdc")).await?;
    // The text of 4 is not sent, 2 is deleted, 8 comes and goes, 10 comes.
    let mut batch = Batch::read(without_text(&row_of_every_type(&wider, &[4, 2, 8, 8, 10])));
    batch.changes = Some(changes(&["u", "d", "c", "d", "c"], 7, &[Some("text"), None, None, None, None]));
    writer.write(batch).await?;
    second.files = writer.finish(false).await?;
    let mut widened = open(&stream, 0, "s");
    widened.backfill = false;
    second.open = Some(widened);
    commit_one(&lake, second).await?;

    let file = &lake.files(&id()).await?[0].path;
    let reader = SerializedFileReader::new(File::open(file).unwrap()).unwrap();
    let metadata = reader.metadata().file_metadata();
    let logical = |name: &str| {
        let columns = metadata.schema_descr();
        let found = columns.columns().iter().find(|column| column.name() == name);
        format!("{:?}", found.unwrap().logical_type_ref())
    };
    assert!(logical("uuid").contains("Uuid"), "{}", logical("uuid"));
    assert!(logical("json").contains("Json"), "{}", logical("json"));
    assert!(logical("instant").contains("is_adjusted_to_u_t_c: true"), "{}", logical("instant"));
    let notes: BTreeMap<String, String> = metadata
        .key_value_metadata()
        .unwrap()
        .iter()
        .filter(|entry| entry.key.starts_with("lakeward."))
        .map(|entry| (entry.key.clone(), entry.value.clone().unwrap()))
        .collect();
    assert_eq!(notes["lakeward.stream"], "public.t");
    assert_eq!(notes["lakeward.generation"], "1");
    assert_eq!(notes["lakeward.unit"], "backfill");
    assert_eq!(notes["lakeward.position"], "0");
    for engine in ["duckdb", "spark", "polars"] {
        let query = lake.view(&id(), engine).await?;
        std::fs::write(dir.join(format!("view.{engine}")), query).unwrap();
    }
    assert!(lake.view(&id(), "excel").await.is_err());
    Ok(())
}

/// A table without a key is a multiset: of 1, 1, 2 one 1 goes and 3 comes; before that a truncate ended 7.
#[tokio::test]
async fn changes_without_a_key() -> Result<()> {
    let temporary = tempfile::tempdir().unwrap();
    let dir = std::env::var_os("LAKEWARD_TEST_DIR").map_or(temporary.path().to_owned(), PathBuf::from);
    let lake = destination(&dir);
    let id = StreamId::new("public", "keyless");
    let mut stream = (*numbers(&id, false)).clone();
    stream.key = Vec::new();
    let stream = Arc::new(stream);
    lake.prepare(&id, &run("a")).await?;
    let mut whole = commit(&stream, 1, "backfill");
    whole.open = Some(open(&stream, 1, "s"));
    whole.chunk = Some((0, done(1)));
    whole.swap = Some(SwapStep::Replace);
    whole.files = write(&lake, &stream, 1, "backfill", 7..8).await?;
    commit_one(&lake, whole).await?;
    let ids = [0, 1, 1, 2, 1, 3];
    let rows = RecordBatch::try_new(
        Arc::new(stream.schema.arrow()),
        vec![Arc::new(Int64Array::from(ids.to_vec())), Arc::new(Int64Array::from(vec![0; 6]))],
    );
    let mut batch = Batch::read(rows.unwrap());
    batch.changes = Some(changes(&["t", "c", "c", "c", "d", "c"], 9, &[None; 6]));
    let mut writer = lake.writer(unit(&stream, 1, "cdc")).await?;
    writer.write(batch).await?;
    let mut next = commit(&stream, 1, "cdc");
    next.files = writer.finish(false).await?;
    commit_one(&lake, next).await?;
    for engine in ["duckdb", "polars"] {
        std::fs::write(dir.join(format!("keyless.{engine}")), lake.view(&id, engine).await?).unwrap();
    }
    Ok(())
}

#[tokio::test]
async fn memory_is_bounded_and_given_back() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let lake = destination(dir.path());
    let stream = numbers(&id(), true);
    lake.prepare(&id(), &run("a")).await?;
    let budget = MemoryBudget::new(4 << 20);
    let mut spec = unit(&stream, 1, "u");
    (spec.budget, spec.open_writers) = (budget.clone(), 4);
    let mut writer = lake.writer(spec).await?;
    for n in 0..40 {
        let mut batch = batch(&stream, n * 20_000..(n + 1) * 20_000);
        batch.reservation = Some(budget.reserve(batch.rows.get_array_memory_size()).await?);
        writer.write(batch).await?;
        let held = budget.total() - budget.available();
        assert!(held <= (512 << 10) + 2048, "{held} bytes held after batch {n}");
    }
    // With nothing left of the budget the writer goes on too.
    let rest = budget.reserve(budget.available()).await?;
    writer.write(batch(&stream, 800_000..900_000)).await?;
    drop(rest);
    let files = writer.finish(false).await?;
    assert_eq!(files.iter().map(|file| file.rows).sum::<u64>(), 900_000);
    assert_eq!(budget.available(), budget.total());
    assert_eq!(staged(&files), once(&[0..900_000]));
    Ok(())
}

fn staged(files: &[WrittenFile]) -> BTreeMap<i64, usize> {
    count(files.iter().map(|file| PathBuf::from(&file.staged)))
}

#[tokio::test]
async fn files_are_closed_at_their_size() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let config = json!({"type": "parquet", "path": dir.path(), "target_file_size": "1MiB", "compression": "uncompressed", "row_group_rows": 50_000});
    let lake = lakeward_parquet::ParquetDestination::from_config(config)?;
    let columns = vec![Column::new("id", ColumnType::Int64), Column::new("part", ColumnType::Int64)];
    let stream = stream_of(&id(), columns, &[]);
    lake.prepare(&id(), &run("a")).await?;
    let mut writer = lake.writer(unit(&stream, 1, "u")).await?;
    let mut scattered = 1i64;
    let mut seen = HashSet::new();
    for _ in 0..20 {
        let ids: Vec<i64> = (0..20_000)
            .map(|_| {
                scattered = scattered.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                scattered
            })
            .collect();
        seen.extend(ids.iter().copied());
        let schema: Arc<ArrowSchema> = Arc::new(stream.schema.arrow());
        let part = Int64Array::from(vec![0; ids.len()]);
        let rows =
            RecordBatch::try_new(schema, vec![Arc::new(Int64Array::from(ids)), Arc::new(part)]).unwrap();
        writer.write(Batch::read(rows)).await?;
    }
    let files = writer.finish(false).await?;
    assert!(files.len() >= 3, "{} files", files.len());
    for file in &files[..files.len() - 1] {
        assert!((1 << 20..3 << 20).contains(&file.bytes), "{} bytes", file.bytes);
        assert_eq!(file.bytes, std::fs::metadata(&file.staged).unwrap().len());
    }
    assert_eq!(staged(&files).len(), seen.len());
    Ok(())
}

#[tokio::test]
async fn many_partitions_make_few_files() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let lake = destination(dir.path());
    let stream = stream_of(
        &id(),
        vec![Column::new("id", ColumnType::Int64), Column::new("day", ColumnType::Date)],
        &["day(day)"],
    );
    lake.prepare(&id(), &run("a")).await?;
    let mut writer = lake.writer(unit(&stream, 1, "u")).await?;
    for n in 0..50i64 {
        let ids = n * 4_000..(n + 1) * 4_000;
        // 365 days in every batch.
        let day = Date32Array::from_iter_values(ids.clone().map(|id| (id * 7 % 365) as i32));
        let schema = Arc::new(stream.schema.arrow());
        let rows =
            RecordBatch::try_new(schema, vec![Arc::new(Int64Array::from_iter_values(ids)), Arc::new(day)])
                .unwrap();
        writer.write(Batch::read(rows)).await?;
    }
    let files = writer.finish(false).await?;
    let partitions: HashSet<_> = files.iter().map(|file| file.partition.clone()).collect();
    assert_eq!(partitions.len(), 365);
    assert!(files.len() <= 4 * 365, "{} files", files.len());
    assert_eq!(staged(&files), once(&[0..200_000]));
    Ok(())
}

#[tokio::test]
async fn columns_that_the_source_lost_are_null() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let lake = destination(dir.path());
    let mut stream = (*numbers(&id(), false)).clone();
    stream.retired = Schema { columns: vec![Column::new("gone", ColumnType::Text)] };
    let stream = Arc::new(stream);
    lake.prepare(&id(), &run("a")).await?;
    let files = write(&lake, &stream, 1, "u", 0..10).await?;
    let file = File::open(&files[0].staged).unwrap();
    let rows = parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(file).unwrap();
    let rows = rows.build().unwrap().next().unwrap().unwrap();
    assert_eq!(rows.column_by_name("gone").unwrap().null_count(), 10);
    assert_eq!(rows.column_by_name("id").unwrap().as_primitive::<Int64Type>().value(9), 9);
    Ok(())
}

#[tokio::test]
async fn an_empty_unit_gives_a_file_only_where_one_is_wanted() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let lake = destination(dir.path());
    let stream = numbers(&id(), true);
    lake.prepare(&id(), &run("a")).await?;
    let writer = lake.writer(unit(&stream, 1, "u")).await?;
    assert!(writer.finish(false).await?.is_empty());
    let writer = lake.writer(unit(&stream, 1, "u")).await?;
    let files = writer.finish(true).await?;
    assert_eq!((files.len(), files[0].rows), (1, 0));
    assert_eq!(files[0].partition, vec![("part_value".to_owned(), None)]);
    Ok(())
}
