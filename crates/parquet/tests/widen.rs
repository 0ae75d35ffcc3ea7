//! A column's type gets wider: what there was before is written anew in it, and all files read together.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::single_range_in_vec_init,
    reason = "a test that cannot go on should stop where it stands"
)]

mod support;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Array, ArrayRef, Int64Array, ListArray, RecordBatch, StringArray};
use arrow::buffer::OffsetBuffer;
use arrow::compute::cast;
use arrow::datatypes::DataType;
use arrow::util::display::array_value_to_string;
use lakeward_core::{
    Batch, Column, ColumnType, ConfiguredStream, Destination, Eagerness, ErrorKind, MemoryBudget, Result,
    Rewritten, Schema, StreamId, SwapStep,
};
use lakeward_parquet::ParquetDestination;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use tokio_util::sync::CancellationToken;

use support::*;

const ROWS: i64 = 100;

fn id() -> StreamId {
    StreamId::new("public", "t")
}

/// `id`, and a column of each of these types.
fn stream(types: &[&str], partition: &[&str]) -> Arc<ConfiguredStream> {
    let others =
        types.iter().enumerate().map(|(n, name)| Column::new(format!("c{n}"), name.parse().unwrap()));
    let columns = [Column::new("id", ColumnType::Int64)].into_iter().chain(others).collect();
    stream_of(&id(), columns, partition)
}

/// Values that `narrow` has, as text: its extremes among them.
fn extremes(narrow: &ColumnType) -> Vec<String> {
    let nines = |digits: u8| "9".repeat(usize::from(digits));
    let of_integers: (i128, i128) = match narrow {
        ColumnType::Int8 => (i8::MIN.into(), i8::MAX.into()),
        ColumnType::Int16 => (i16::MIN.into(), i16::MAX.into()),
        ColumnType::Int32 => (i32::MIN.into(), i32::MAX.into()),
        ColumnType::Int64 => (i64::MIN.into(), i64::MAX.into()),
        ColumnType::UInt8 => (0, u8::MAX.into()),
        ColumnType::UInt16 => (0, u16::MAX.into()),
        ColumnType::UInt32 => (0, u32::MAX.into()),
        ColumnType::UInt64 => (0, u64::MAX.into()),
        // Powers of two, and the greatest float: the same number as a double.
        ColumnType::Float32 | ColumnType::Float64 => {
            return vec!["-1.5".into(), "0.0625".into(), "340282346638528859811704183484516925440".into()];
        }
        ColumnType::Decimal { precision, scale } => {
            let whole = nines(precision - scale);
            let greatest = if *scale > 0 { format!("{whole}.{}", nines(*scale)) } else { whole };
            return vec![format!("-{greatest}"), "0".into(), greatest];
        }
        ColumnType::List(item) => return extremes(item),
        _ => return vec!["text".into()],
    };
    vec![of_integers.0.to_string(), "1".to_owned(), of_integers.1.to_string()]
}

/// Rows with the extremes of `narrow` in the columns of `stream`, which are no narrower, and with nulls.
fn rows_of(narrow: &ConfiguredStream, stream: &ConfiguredStream) -> Batch {
    let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(0..ROWS));
    let others = narrow.schema.columns.iter().zip(&stream.schema.columns).skip(1).map(|(of, column)| {
        let values = extremes(&of.column_type);
        let value = |n: usize| (!n.is_multiple_of(5)).then(|| values[n % values.len()].as_str());
        let texts: ArrayRef = Arc::new(StringArray::from_iter((0..ROWS as usize).map(value)));
        match column.column_type.arrow() {
            DataType::List(item) => {
                let items = cast(&texts, item.data_type()).unwrap();
                // Lists of none, one and two, and some that are null.
                let lengths = (0..ROWS as usize).map(|n| n % 3);
                let offsets = OffsetBuffer::<i32>::from_lengths(lengths);
                let nulls = (0..ROWS).map(|n| n % 7 > 0).collect::<Vec<bool>>().into();
                let used = items.slice(0, offsets.last() as usize);
                Arc::new(ListArray::new(item, offsets, used, Some(nulls))) as ArrayRef
            }
            other => cast(&texts, &other).unwrap(),
        }
    });
    let columns: Vec<ArrayRef> = [ids].into_iter().chain(others).collect();
    let nulls = |column: &ArrayRef| column.null_count();
    assert!(columns.iter().skip(1).all(|column| nulls(column) <= ROWS as usize / 5), "a cast made nulls");
    Batch::read(RecordBatch::try_new(Arc::new(stream.schema.arrow()), columns).unwrap())
}

/// Commits a generation of one chunk, beside what there is.
async fn show(
    lake: &ParquetDestination,
    stream: &Arc<ConfiguredStream>,
    generation: u32,
    rows: Batch,
    rewritten: Vec<Rewritten>,
) -> Result<()> {
    let name = format!("begin/{generation}");
    let mut writer = lake.writer(unit(stream, generation, &name)).await?;
    writer.write(rows).await?;
    let mut all = commit(stream, generation, &name);
    all.open = Some(open(stream, 1, "s"));
    all.chunk = Some((0, done(ROWS as u64)));
    all.files = writer.finish(true).await?;
    all.swap = Some(if generation == 1 { SwapStep::Replace } else { SwapStep::KeepHistory });
    all.rewritten = rewritten;
    commit_one(lake, all).await.map(|_| ())
}

async fn rewrite(lake: &ParquetDestination, columns: &Schema) -> Result<Vec<Rewritten>> {
    lake.rewrite(&id(), columns, &MemoryBudget::new(64 << 20), &CancellationToken::new()).await
}

/// A commit of a few changes: with others of its kind worth merging.
async fn change(lake: &ParquetDestination, stream: &Arc<ConfiguredStream>, generation: u32) -> Result<()> {
    let name = format!("change/{generation}");
    let mut writer = lake.writer(unit(stream, generation, &name)).await?;
    writer.write(rows_of(stream, stream)).await?;
    let mut more = commit(stream, generation, &name);
    more.files = writer.finish(false).await?;
    commit_one(lake, more).await.map(|_| ())
}

/// How often each row of data stands there, as text, and the types of the columns, which must be those of `stream`.
fn rows(visible: &Path, stream: &ConfiguredStream) -> BTreeMap<Vec<String>, usize> {
    let mut found = BTreeMap::new();
    for path in tree(visible).into_iter().filter(|path| is_data(path)) {
        let file = File::open(visible.join(path)).unwrap();
        for batch in ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap() {
            let batch = batch.unwrap();
            let columns: Vec<&ArrayRef> = stream
                .schema
                .columns
                .iter()
                .map(|column| {
                    let found = batch.column_by_name(&column.name).unwrap();
                    assert_eq!(*found.data_type(), column.column_type.arrow(), "{}", column.name);
                    found
                })
                .collect();
            for row in 0..batch.num_rows() {
                let text = |column: &&ArrayRef| array_value_to_string(column, row).unwrap();
                *found.entry(columns.iter().map(text).collect()).or_insert(0) += 1;
            }
        }
    }
    found
}

#[tokio::test]
async fn every_type_that_widens_is_rewritten_to_the_value() -> Result<()> {
    let all = [
        "int8",
        "int16",
        "int32",
        "int64",
        "uint8",
        "uint16",
        "uint32",
        "uint64",
        "float",
        "double",
        "decimal(3,0)",
        "decimal(20,0)",
        "decimal(25,5)",
        "decimal(50,5)",
        "list<int16>",
        "list<int64>",
    ];
    let parse = |name: &str| name.parse::<ColumnType>().unwrap();
    let pairs: Vec<(&str, &str)> = all
        .iter()
        .flat_map(|from| all.iter().map(move |to| (*from, *to)))
        .filter(|(from, to)| from != to && parse(from).widens_to(&parse(to)))
        .collect();
    assert!(pairs.len() > 40, "{pairs:?}");
    let (from, to): (Vec<&str>, Vec<&str>) = pairs.iter().copied().unzip();
    let dir = tempfile::tempdir().unwrap();
    let (lake, visible) = (destination(dir.path()), dir.path().join("public/t"));
    lake.prepare(&id(), &run("a")).await?;
    let (narrow, wide) = (stream(&from, &[]), stream(&to, &[]));
    show(&lake, &narrow, 1, rows_of(&narrow, &narrow), Vec::new()).await?;
    let files = rewrite(&lake, &wide.schema).await?;
    assert_eq!(files.len(), 1);
    show(&lake, &wide, 2, rows_of(&narrow, &wide), files).await?;
    // What was rewritten is the same as what the new generation was given, row for row.
    let rows = rows(&visible, &wide);
    assert_eq!(rows.len(), ROWS as usize);
    assert!(rows.values().all(|count| *count == 2), "{rows:?}");
    assert_eq!(lake.files(&id()).await?.iter().map(|file| file.rows).sum::<u64>(), 2 * ROWS as u64);
    Ok(())
}

#[tokio::test]
async fn all_generations_and_partitions_are_rewritten_once_and_nothing_else_is() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let (lake, visible) = (destination(dir.path()), dir.path().join("public/t"));
    lake.prepare(&id(), &run("a")).await?;
    let (narrow, wide) = (stream(&["int16", "int8"], &["c1"]), stream(&["int32", "int8"], &["c1"]));
    show(&lake, &narrow, 1, rows_of(&narrow, &narrow), Vec::new()).await?;
    assert_eq!(rewrite(&lake, &narrow.schema).await?, Vec::new());
    show(&lake, &narrow, 2, rows_of(&narrow, &narrow), Vec::new()).await?;
    let before = rows(&visible, &narrow);
    let places = || async {
        let place = |file: lakeward_core::VisibleFile| {
            (Path::new(&file.path).parent().unwrap().to_owned(), file.rows)
        };
        let mut places: Vec<_> = lake.files(&id()).await.unwrap().into_iter().map(place).collect();
        places.sort();
        places
    };
    let narrow_places = places().await;
    let files = rewrite(&lake, &wide.schema).await?;
    assert_eq!(files.len(), narrow_places.len());
    // Until they are committed nothing is changed.
    assert_eq!(rows(&visible, &narrow), before);
    show(&lake, &wide, 3, rows_of(&narrow, &wide), files).await?;
    let after = rows(&visible, &wide);
    assert!(after.values().all(|count| *count == 3), "{after:?}");
    let wide_places = places().await;
    assert_eq!(wide_places.len(), narrow_places.len() / 2 * 3);
    assert!(wide_places.iter().all(|place| narrow_places.contains(place)), "{wide_places:?}");
    assert_eq!(rewrite(&lake, &wide.schema).await?, Vec::new());

    // Another run finds the same.
    let lake = destination(dir.path());
    lake.prepare(&id(), &run("b")).await?;
    assert_eq!(rows(&visible, &wide), after);
    Ok(())
}

#[tokio::test]
async fn files_that_were_merged_meanwhile_are_not_taken_away() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let (lake, visible) = (destination(dir.path()), dir.path().join("public/t"));
    lake.prepare(&id(), &run("a")).await?;
    let (narrow, wide) = (stream(&["int16"], &[]), stream(&["int32"], &[]));
    show(&lake, &narrow, 1, rows_of(&narrow, &narrow), Vec::new()).await?;
    change(&lake, &narrow, 1).await?;
    let before = rows(&visible, &narrow);
    let files = rewrite(&lake, &wide.schema).await?;
    assert!(lake.compact(&id(), merging(Eagerness::Any)).await?.is_some());
    let error = show(&lake, &wide, 2, rows_of(&narrow, &wide), files).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::SessionLost);
    assert_eq!(rows(&visible, &narrow), before);
    let files = rewrite(&lake, &wide.schema).await?;
    show(&lake, &wide, 2, rows_of(&narrow, &wide), files).await?;
    let after = rows(&visible, &wide);
    assert!(after.values().all(|count| *count == 3), "{after:?}");
    Ok(())
}

#[tokio::test]
async fn what_is_damaged_is_told_and_no_value_is_ever_cut() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let lake = destination(dir.path());
    lake.prepare(&id(), &run("a")).await?;
    let (narrow, wide) = (stream(&["int32"], &[]), stream(&["int64"], &[]));
    show(&lake, &narrow, 1, rows_of(&narrow, &narrow), Vec::new()).await?;
    let before = tree(dir.path());
    let error = rewrite(&lake, &stream(&["int16"], &[]).schema).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Bug);
    let stopped = CancellationToken::new();
    stopped.cancel();
    let budget = MemoryBudget::new(64 << 20);
    let error = lake.rewrite(&id(), &wide.schema, &budget, &stopped).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    let path = lake.files(&id()).await?.remove(0).path;
    let mut bytes = fs::read(&path).unwrap();
    bytes[10] ^= 1;
    fs::write(&path, bytes).unwrap();
    let error = rewrite(&lake, &wide.schema).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Destination);
    assert!(error.to_string().contains("damaged"), "{error}");
    assert_eq!(tree(dir.path()), before);
    Ok(())
}

#[tokio::test]
async fn memory_that_others_hold_until_the_next_checkpoint_is_not_waited_for() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let lake = destination(dir.path());
    lake.prepare(&id(), &run("a")).await?;
    let types = vec!["int16"; 40];
    let (narrow, wide) = (stream(&types, &[]), stream(&vec!["int32"; 40], &[]));
    show(&lake, &narrow, 1, rows_of(&narrow, &narrow), Vec::new()).await?;
    // Far less than reading a file of so many columns may take.
    let budget = MemoryBudget::new(1 << 20);
    let held = budget.reserve(budget.total() - budget.sure()).await?;
    let (stream, stop) = (id(), CancellationToken::new());
    let files = lake.rewrite(&stream, &wide.schema, &budget, &stop);
    assert_eq!(
        tokio::time::timeout(Duration::from_secs(60), files).await.expect("it waits for ever")?.len(),
        1
    );
    drop(held);
    Ok(())
}
