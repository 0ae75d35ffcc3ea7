//! Merging small files: no row is lost, doubled or changed, whatever happens meanwhile.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::single_range_in_vec_init,
    reason = "a test that cannot go on should stop where it stands"
)]

mod support;

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arrow::array::{
    Array, ArrayRef, FixedSizeBinaryArray, Int64Array, ListArray, RecordBatch, StringArray,
    TimestampMicrosecondArray,
};
use arrow::buffer::OffsetBuffer;
use arrow::compute::cast;
use arrow::datatypes::DataType;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use lakeward_core::{
    Batch, ChangeColumns, Column, ColumnType, CompactRequest, ConfiguredStream, Destination, Eagerness,
    ErrorKind, MemoryBudget, Position, Progress, Result, StreamId, SwapStep,
};
use lakeward_parquet::ParquetDestination;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::json;

use support::*;

fn id() -> StreamId {
    StreamId::new("public", "t")
}

fn visible(dir: &Path) -> PathBuf {
    dir.join("public/t")
}

/// Instants as numbers: their text would need a table of time zones.
fn plain(column: &ArrayRef) -> ArrayRef {
    match column.data_type() {
        DataType::Timestamp(..) => cast(column, &DataType::Int64).unwrap(),
        _ => column.clone(),
    }
}

/// Every row with all its columns as text, and how often it stands there. What a file lacks is null.
fn rows(files: impl IntoIterator<Item = PathBuf>, columns: &[String]) -> BTreeMap<Vec<String>, usize> {
    let mut found = BTreeMap::new();
    let options = FormatOptions::new().with_null("∅");
    for path in files {
        let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(&path).unwrap()).unwrap();
        for batch in reader.build().unwrap() {
            let batch = batch.unwrap();
            let columns: Vec<Option<ArrayRef>> =
                columns.iter().map(|name| Some(plain(batch.column_by_name(name)?))).collect();
            let cells: Vec<Option<ArrayFormatter<'_>>> = columns
                .iter()
                .map(|column| Some(ArrayFormatter::try_new(column.as_ref()?, &options).unwrap()))
                .collect();
            for row in 0..batch.num_rows() {
                let text = |cell: &Option<ArrayFormatter<'_>>| match cell {
                    Some(cell) => cell.value(row).to_string(),
                    None => "∅".to_owned(),
                };
                *found.entry(cells.iter().map(text).collect()).or_insert(0) += 1;
            }
        }
    }
    found
}

async fn listed(lake: &ParquetDestination) -> Result<Vec<PathBuf>> {
    Ok(lake.files(&id()).await?.into_iter().map(|file| PathBuf::from(file.path)).collect())
}

fn columns_of(stream: &ConfiguredStream) -> Vec<String> {
    let data = stream.schema.columns.iter().map(|column| column.name.clone());
    stream.system.names().into_iter().chain(data).collect()
}

/// A visible generation of one chunk with these ids.
async fn begin(
    lake: &ParquetDestination,
    stream: &Arc<ConfiguredStream>,
    generation: u32,
    swap: SwapStep,
) -> Result<()> {
    let name = format!("begin/{generation}");
    let mut all = commit(stream, generation, &name);
    all.open = Some(open(stream, 1, "s"));
    all.chunk = Some((0, done(10)));
    all.swap = Some(swap);
    all.progress = Some(Progress { position: Some(Position(json!("0/1"))), cursor: None, pass: 0 });
    all.files = write(lake, stream, generation, &name, 0..10).await?;
    commit_one(lake, all).await.map(|_| ())
}

/// Changes with every system column set somewhere: operations, columns that were not sent, rescued values.
fn changes(stream: &ConfiguredStream, generation: u32, position: u64, count: i64) -> Batch {
    let rows = 0..count;
    let data: Vec<ArrayRef> = stream
        .schema
        .columns
        .iter()
        .map(|column| -> ArrayRef {
            match column.column_type {
                ColumnType::Int64 => {
                    Arc::new(Int64Array::from_iter(rows.clone().map(|n| (n % 5 > 0).then_some(n))))
                }
                _ => Arc::new(StringArray::from_iter(rows.clone().map(|n| {
                    (n % 3 > 0).then(|| format!("{} {position} {n}", "ö".repeat(n as usize % 40)))
                }))),
            }
        })
        .collect();
    let schema = Arc::new(stream.schema.arrow());
    let mut batch = Batch::read(RecordBatch::try_new(schema, data).unwrap());
    let seq = rows.clone().map(|n| format!("{generation:06x}{position:016x}{:010x}", n + 1));
    let names = rows.clone().map(|n| (n % 4 == 0).then(|| vec![Some("text"), Some("other")]));
    let mut unchanged = arrow::array::ListBuilder::new(arrow::array::StringBuilder::new())
        .with_field(ColumnType::Text.field("element"));
    for list in names {
        match list {
            Some(list) => unchanged.append_value(list),
            None => unchanged.append_null(),
        }
    }
    let unchanged: ListArray = unchanged.finish();
    batch.changes = Some(ChangeColumns {
        op: StringArray::from_iter_values(rows.clone().map(|n| ["c", "u", "d"][n as usize % 3])),
        seq: StringArray::from_iter_values(seq),
        commit_ts: TimestampMicrosecondArray::from_iter_values(rows.clone().map(|n| n * 1_000_003)),
        unchanged: Some(unchanged),
    });
    batch.rescued = Some(StringArray::from_iter(
        rows.map(|n| (n % 7 == 0).then(|| format!("{{\"text\":\"{position}\"}}"))),
    ));
    batch
}

async fn change(
    lake: &ParquetDestination,
    stream: &Arc<ConfiguredStream>,
    generation: u32,
    position: u64,
    count: i64,
) -> Result<()> {
    let name = format!("cdc/{generation}/{position}");
    let mut writer = lake.writer(unit(stream, generation, &name)).await?;
    writer.write(changes(stream, generation, position, count)).await?;
    let mut next = commit(stream, generation, &name);
    next.files = writer.finish(false).await?;
    next.progress =
        Some(Progress { position: Some(Position(json!(format!("0/{position}")))), cursor: None, pass: 0 });
    next.global = Some(Position(json!({ "global": position })));
    commit_one(lake, next).await.map(|_| ())
}

fn several_types() -> Vec<Column> {
    vec![
        Column::new("id", ColumnType::Int64),
        Column::new("text", ColumnType::Text),
        Column::new("doc", ColumnType::Json),
    ]
}

async fn merge_all(lake: &ParquetDestination, eagerness: Eagerness) -> Result<usize> {
    let mut merges = 0;
    while let Some((compacted, _)) = lake.compact(&id(), merging(eagerness)).await? {
        assert!(compacted.merged > compacted.files);
        merges += 1;
    }
    Ok(merges)
}

#[tokio::test]
async fn every_row_and_column_is_what_it_was_and_so_is_all_that_the_log_says() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let lake = destination(dir.path());
    let stream = stream_of(&id(), several_types(), &[]);
    lake.prepare(&id(), &run("a")).await?;
    first_rows(&lake, &stream).await?;
    for position in 2..40 {
        change(&lake, &stream, 1, position, position as i64 % 30 + 1).await?;
    }
    let columns = columns_of(&stream);
    let before = rows(listed(&lake).await?, &columns);
    let (_, head) = lake.heads().await?.remove(0);
    assert!(merge_all(&lake, Eagerness::Any).await? > 0);
    let files = listed(&lake).await?;
    assert!(files.len() <= 2, "{files:?}");
    assert_eq!(rows(files.clone(), &columns), before);
    assert_eq!(
        rows(tree(&visible(dir.path())).iter().map(|path| visible(dir.path()).join(path)), &columns),
        before
    );
    // Only the number of the commit is another.
    let (_, after) = lake.heads().await?.remove(0);
    assert!(after.commit > head.commit);
    assert_eq!(lakeward_core::StreamHead { commit: head.commit, ..after }, head);
    // What follows it is committed as ever, by this run and by the next.
    change(&lake, &stream, 1, 50, 3).await?;
    let later = destination(dir.path());
    let head = later.prepare(&id(), &run("b")).await?;
    assert_eq!(head.progress.position, Some(Position(json!("0/50"))));
    assert_eq!(
        rows(listed(&later).await?, &columns).values().sum::<usize>(),
        before.values().sum::<usize>() + 3
    );
    Ok(())
}

/// A first generation whose only chunk has no rows.
async fn first_rows(lake: &ParquetDestination, stream: &Arc<ConfiguredStream>) -> Result<()> {
    let mut all = commit(stream, 1, "begin");
    all.open = Some(open(stream, 1, "s"));
    all.chunk = Some((0, done(0)));
    all.swap = Some(SwapStep::Replace);
    all.progress = Some(Progress { position: Some(Position(json!("0/1"))), cursor: None, pass: 0 });
    all.files = lake.writer(unit(stream, 1, "begin")).await?.finish(true).await?;
    commit_one(lake, all).await.map(|_| ())
}

#[tokio::test]
async fn rows_keep_their_order_and_the_footer_says_whose_they_are() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let lake = destination(dir.path());
    let stream = stream_of(&id(), several_types(), &[]);
    lake.prepare(&id(), &run("a")).await?;
    first_rows(&lake, &stream).await?;
    for position in 2..30 {
        change(&lake, &stream, 1, position, 5).await?;
    }
    merge_all(&lake, Eagerness::Any).await?;
    let [path] = <[PathBuf; 1]>::try_from(listed(&lake).await?).unwrap();
    let builder = ParquetRecordBatchReaderBuilder::try_new(File::open(path).unwrap()).unwrap();
    let notes = builder.metadata().file_metadata().key_value_metadata().unwrap().clone();
    let note =
        |key: &str| notes.iter().find(|note| note.key == key).and_then(|note| note.value.clone()).unwrap();
    assert_eq!(note("lakeward.stream"), "public.t");
    assert_eq!(note("lakeward.generation"), "1");
    assert!(note("lakeward.unit").starts_with("merge/public.t/1/"));
    assert_eq!(builder.schema().as_ref().metadata().get("ARROW:schema"), None);
    let field = builder.schema().field_with_name("doc").unwrap().clone();
    assert_eq!(field.metadata().get("ARROW:extension:name").map(String::as_str), Some("arrow.json"));
    let mut seqs = Vec::new();
    for batch in builder.build().unwrap() {
        let batch = batch.unwrap();
        let seq = batch.column(1).as_any().downcast_ref::<StringArray>().unwrap().clone();
        seqs.extend(seq.iter().map(|seq| seq.unwrap().to_owned()));
    }
    assert_eq!(seqs.len(), 28 * 5);
    assert!(seqs.is_sorted());
    Ok(())
}

/// `rows` values of a type, some of them null.
fn values(column_type: &ColumnType, rows: i64) -> ArrayRef {
    let numbers = Int64Array::from_iter((0..rows).map(|n| (n % 4 > 0).then_some(n % 100)));
    let text = || StringArray::from_iter((0..rows).map(|n| (n % 4 > 0).then(|| format!("é{n}"))));
    match column_type {
        ColumnType::Text | ColumnType::Json => Arc::new(text()),
        ColumnType::Binary => cast(&text(), &DataType::Binary).unwrap(),
        ColumnType::Date => cast(&cast(&numbers, &DataType::Int32).unwrap(), &DataType::Date32).unwrap(),
        ColumnType::Uuid => {
            let ids = (0..rows).map(|n| (n % 4 > 0).then_some([n as u8; 16]));
            Arc::new(FixedSizeBinaryArray::try_from_sparse_iter_with_size(ids, 16).unwrap())
        }
        ColumnType::List(item) => {
            let lengths = (0..rows).map(|n| if n % 4 == 0 { 0 } else { 1 });
            let offsets: OffsetBuffer<i32> = OffsetBuffer::from_lengths(lengths);
            let inner = values(item, i64::from(offsets.last()));
            let nulls = (0..rows).map(|n| n % 8 > 0).collect::<Vec<bool>>();
            Arc::new(ListArray::new(Arc::new(item.field("element")), offsets, inner, Some(nulls.into())))
        }
        other => cast(&numbers, &other.arrow()).unwrap(),
    }
}

#[tokio::test]
async fn values_of_every_type_are_the_same_to_the_bit() -> Result<()> {
    let types = "boolean int8 int16 int32 int64 uint8 uint16 uint32 uint64 float double decimal(9,2) decimal(38,10) decimal(60,5) \
        text json uuid binary date time timestamp timestamptz list<text> list<json> list<list<int32>> list<decimal(38,4)>";
    let columns: Vec<Column> = types
        .split_whitespace()
        .enumerate()
        .map(|(n, text)| Column::new(format!("c{n}"), text.parse().unwrap()))
        .collect();
    let dir = tempfile::tempdir().unwrap();
    let lake = destination(dir.path());
    let stream = stream_of(&id(), columns, &[]);
    lake.prepare(&id(), &run("a")).await?;
    first_rows(&lake, &stream).await?;
    for n in 1..=20 {
        let name = format!("step/{n}");
        let data = stream.schema.columns.iter().map(|column| values(&column.column_type, n * 37));
        let rows = RecordBatch::try_new(Arc::new(stream.schema.arrow()), data.collect()).unwrap();
        let spec = lakeward_core::UnitSpec { read_position: n as u64, ..unit(&stream, 1, &name) };
        let mut writer = lake.writer(spec).await?;
        writer.write(Batch::read(rows)).await?;
        let mut next = commit(&stream, 1, &name);
        next.files = writer.finish(false).await?;
        next.progress = Some(Progress::default());
        commit_one(&lake, next).await?;
    }
    // Names sort as commits do.
    let whole = |files: Vec<PathBuf>| {
        let batches: Vec<RecordBatch> = files
            .iter()
            .flat_map(|path| {
                let builder = ParquetRecordBatchReaderBuilder::try_new(File::open(path).unwrap()).unwrap();
                builder.build().unwrap().map(|batch| batch.unwrap()).collect::<Vec<_>>()
            })
            .collect();
        arrow::compute::concat_batches(batches[0].schema_ref(), &batches).unwrap()
    };
    let before = whole(listed(&lake).await?);
    merge_all(&lake, Eagerness::Any).await?;
    let files = listed(&lake).await?;
    assert_eq!(files.len(), 1);
    let after = whole(files);
    assert_eq!(after.schema().fields(), before.schema().fields());
    assert_eq!(after.num_rows(), 37 * 210);
    for (name, (after, before)) in stream
        .schema
        .columns
        .iter()
        .map(|column| &column.name)
        .zip(after.columns()[6..].iter().zip(&before.columns()[6..]))
    {
        assert!(after == before, "{name}");
    }
    assert!(after == before);
    Ok(())
}

#[tokio::test]
async fn each_partition_is_merged_by_itself() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let lake = destination(dir.path());
    let stream = numbers(&id(), true);
    lake.prepare(&id(), &run("a")).await?;
    begin(&lake, &stream, 1, SwapStep::Replace).await?;
    for n in 1..20 {
        let name = format!("step/{n}");
        let mut next = commit(&stream, 1, &name);
        next.files = write(&lake, &stream, 1, &name, n * 100..n * 100 + 1 + n % 4).await?;
        next.progress = Some(Progress::default());
        commit_one(&lake, next).await?;
    }
    let before = ids(&visible(dir.path()));
    merge_all(&lake, Eagerness::Any).await?;
    assert_eq!(ids(&visible(dir.path())), before);
    for part in [0, 1] {
        let dir = visible(dir.path()).join(format!("part_value={part}"));
        let files = tree(&dir);
        assert_eq!(files.len(), 1, "{files:?}");
        assert!(ids(&dir).keys().all(|id| id % 2 == part));
    }
    Ok(())
}

#[tokio::test]
async fn generations_are_merged_apart_and_only_when_the_newest_is_visible() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let lake = destination(dir.path());
    let stream = stream_of(&id(), several_types(), &[]);
    let columns = columns_of(&stream);
    lake.prepare(&id(), &run("a")).await?;
    first_rows(&lake, &stream).await?;
    for position in 2..6 {
        change(&lake, &stream, 1, position, 4).await?;
    }
    // The next generation is being filled: neither is touched.
    let mut next = commit(&stream, 2, "open");
    next.open = Some(open(&stream, 1, "s2"));
    next.progress = Some(Progress { position: Some(Position(json!("0/9"))), cursor: None, pass: 0 });
    commit_one(&lake, next).await?;
    for position in 10..14 {
        change(&lake, &stream, 2, position, 4).await?;
    }
    assert_eq!(lake.compact(&id(), merging(Eagerness::Any)).await?, None);
    let mut shown = commit(&stream, 2, "shown");
    shown.chunk = Some((0, done(0)));
    shown.swap = Some(SwapStep::KeepHistory);
    shown.files = lake.writer(unit(&stream, 2, "shown")).await?.finish(true).await?;
    commit_one(&lake, shown).await?;
    let before = rows(listed(&lake).await?, &columns);
    merge_all(&lake, Eagerness::Gathered).await?;
    let files = listed(&lake).await?;
    let of = |files: &[PathBuf], generation: &str| {
        let name = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().to_owned();
        files.iter().filter(|path| name(path).starts_with(generation)).count()
    };
    // To what is history nothing comes any more; of the newest too little has gathered.
    assert_eq!((of(&files, "1-"), of(&files, "2-")), (1, 5), "{files:?}");
    assert_eq!(rows(files, &columns), before);
    merge_all(&lake, Eagerness::Any).await?;
    let files = listed(&lake).await?;
    assert_eq!((of(&files, "1-"), of(&files, "2-")), (1, 1), "{files:?}");
    assert_eq!(rows(files.clone(), &columns), before);
    // The swap's witness went into the merged file: a start must not do the swap again.
    let later = destination(dir.path());
    later.prepare(&id(), &run("b")).await?;
    assert_eq!(listed(&later).await?, files);
    assert_eq!(rows(files, &columns), before);
    Ok(())
}

#[tokio::test]
async fn columns_that_came_later_are_null_before() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let lake = destination(dir.path());
    lake.prepare(&id(), &run("a")).await?;
    let first = stream_of(&id(), several_types(), &[]);
    first_rows(&lake, &first).await?;
    change(&lake, &first, 1, 2, 9).await?;
    let mut wider = several_types();
    wider.insert(1, Column::new("added", ColumnType::Int64));
    let second = stream_of(&id(), wider.clone(), &[]);
    let mut widen = commit(&second, 1, "widen");
    widen.open = Some(lakeward_core::OpenStep { backfill: false, plan: Vec::new(), ..open(&second, 0, "s") });
    commit_one(&lake, widen).await?;
    change(&lake, &second, 1, 3, 9).await?;
    wider.remove(2);
    let third = stream_of(&id(), wider, &[]);
    change(&lake, &third, 1, 4, 9).await?;
    let mut columns = columns_of(&first);
    columns.push("added".to_owned());
    let before = rows(listed(&lake).await?, &columns);
    merge_all(&lake, Eagerness::Any).await?;
    let files = listed(&lake).await?;
    assert_eq!(files.len(), 1);
    assert_eq!(rows(files, &columns), before);
    assert_eq!(before.values().sum::<usize>(), 27);
    Ok(())
}

#[tokio::test]
async fn what_was_damaged_or_lost_is_told_and_not_hidden() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let lake = destination(dir.path());
    let stream = numbers(&id(), false);
    lake.prepare(&id(), &run("a")).await?;
    begin(&lake, &stream, 1, SwapStep::Replace).await?;
    change(&lake, &stream, 1, 2, 50).await?;
    let file = listed(&lake).await?.remove(1);
    let whole = std::fs::read(&file).unwrap();
    let mut damaged = whole.clone();
    damaged[10] ^= 1;
    std::fs::write(&file, &damaged).unwrap();
    let error = lake.compact(&id(), merging(Eagerness::Any)).await.unwrap_err();
    assert!(error.to_string().contains("hash"), "{error:?}");
    std::fs::remove_file(&file).unwrap();
    let error = lake.compact(&id(), merging(Eagerness::Any)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Destination);
    assert!(error.to_string().contains("missing"), "{error:?}");
    // Nothing was committed, and nothing is left in staging.
    std::fs::write(&file, &whole).unwrap();
    assert!(tree(&dir.path().join("_lakeward/public/t/staging")).is_empty());
    assert_eq!(merge_all(&lake, Eagerness::Any).await?, 1);
    Ok(())
}

#[tokio::test]
async fn without_memory_or_when_stopped_nothing_happens() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let lake = destination(dir.path());
    let stream = numbers(&id(), false);
    lake.prepare(&id(), &run("a")).await?;
    begin(&lake, &stream, 1, SwapStep::Replace).await?;
    change(&lake, &stream, 1, 2, 50).await?;
    let budget = MemoryBudget::new(64 << 20);
    let all = budget.reserve(64 << 20).await?;
    assert_eq!(lake.compact(&id(), CompactRequest::new(Eagerness::Any, budget)).await?, None);
    drop(all);
    let stopped = merging(Eagerness::Any);
    stopped.cancel.cancel();
    assert_eq!(lake.compact(&id(), stopped).await.unwrap_err().kind(), ErrorKind::Cancelled);
    assert_eq!(listed(&lake).await?.len(), 2);
    assert!(tree(&dir.path().join("_lakeward/public/t/staging")).is_empty());
    // Fewer than sixteen of one size are left to gather.
    assert_eq!(merge_all(&lake, Eagerness::Gathered).await?, 0);
    Ok(())
}

/// A reader that globs while files are merged and changes are committed: rows twice at most, and none missing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_globs_meanwhile_misses_no_row() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let lake = Arc::new(destination(dir.path()));
    let stream = numbers(&id(), true);
    lake.prepare(&id(), &run("a")).await?;
    begin(&lake, &stream, 1, SwapStep::Replace).await?;
    let over = Arc::new(AtomicBool::new(false));
    let reader = {
        let (over, visible) = (over.clone(), visible(dir.path()));
        std::thread::spawn(move || {
            let (mut looks, mut least) = (0, 10);
            while !over.load(Ordering::SeqCst) {
                // Opened before anything is read, as an engine does; what went in between is listed again.
                let files: Vec<PathBuf> = tree(&visible)
                    .into_iter()
                    .filter(|path| is_data(path))
                    .map(|path| visible.join(path))
                    .collect();
                let Ok(opened) = files.iter().map(File::open).collect::<std::io::Result<Vec<File>>>() else {
                    continue;
                };
                let mut found = std::collections::BTreeSet::new();
                for file in opened {
                    for batch in ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap() {
                        let batch = batch.unwrap();
                        let column = batch.column_by_name("id").unwrap();
                        let column = column.as_any().downcast_ref::<Int64Array>().unwrap().clone();
                        found.extend(column.iter().flatten());
                    }
                }
                // What was once seen is seen ever after, and without a gap.
                assert!(found.len() >= least, "{} of {least}", found.len());
                assert_eq!(found.len() as i64, found.last().unwrap() + 1);
                least = found.len();
                looks += 1;
            }
            looks
        })
    };
    let merger = {
        let (lake, over) = (lake.clone(), over.clone());
        tokio::spawn(async move {
            let mut merges = 0;
            while !over.load(Ordering::SeqCst) {
                merges += merge_all(&lake, Eagerness::Any).await?;
            }
            Result::Ok(merges)
        })
    };
    for n in 1..150 {
        let name = format!("step/{n}");
        let mut next = commit(&stream, 1, &name);
        // One id after another: each commit is of one file.
        next.files = write(&lake, &stream, 1, &name, n + 9..n + 10).await?;
        next.progress = Some(Progress::default());
        commit_one(&lake, next).await?;
    }
    over.store(true, Ordering::SeqCst);
    let merges = merger.await.unwrap()?;
    let looks = reader.join().unwrap();
    assert!(merges > 5 && looks > 5, "{merges} merges, {looks} looks");
    merge_all(&lake, Eagerness::Any).await?;
    assert_eq!(ids(&visible(dir.path())), once(&[0..159]));
    Ok(())
}

/// A later run takes the stream over, or a new generation begins, while files are being merged.
#[tokio::test]
async fn what_changes_meanwhile_wins() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let lake = destination(dir.path());
    let stream = numbers(&id(), false);
    lake.prepare(&id(), &run("a")).await?;
    begin(&lake, &stream, 1, SwapStep::Replace).await?;
    for position in 2..200 {
        change(&lake, &stream, 1, position, 2).await?;
    }
    let stream_id = id();
    let merging = lake.compact(&stream_id, merging(Eagerness::Any));
    let replaced = async {
        // Polled first: the merge has chosen its files, and reads them.
        tokio::task::yield_now().await;
        begin(&lake, &stream, 2, SwapStep::Replace).await
    };
    let (merged, replaced) = tokio::join!(merging, replaced);
    replaced?;
    // Either it was done before, or it came to nothing; never to an error.
    merged?;
    assert_eq!(ids(&visible(dir.path())), once(&[0..10]));
    assert!(tree(&dir.path().join("_lakeward/public/t/staging")).is_empty());

    change(&lake, &stream, 2, 300, 2).await?;
    let other = destination(dir.path());
    other.prepare(&id(), &run("b")).await?;
    let refused = lake.compact(&id(), support::merging(Eagerness::Any)).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Conflict);
    assert_eq!(merge_all(&other, Eagerness::Any).await?, 1);
    Ok(())
}
