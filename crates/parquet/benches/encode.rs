//! What encoding costs: rows shaped like the `trips` table (29 columns, 16 of them unconstrained numerics as text)
//! with the six system columns, through the writer of this crate and through Parquet's own with other settings.
//!
//! `cargo bench -p lakeward-parquet --bench encode [-- ROUNDS]` prints CPU seconds per million rows and the size
//! of the file, each as a median over rounds taken in turn, and the ratio to the writer of this crate.

#![allow(clippy::unwrap_used, reason = "a bench that cannot go on should stop where it stands")]

#[path = "../tests/support/mod.rs"]
mod support;

use std::fmt::Write as _;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Int32Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use lakeward_core::{Batch, Column, ColumnType, Destination, Sequence, StreamId, SystemColumns};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterPropertiesBuilder};
use parquet::schema::types::ColumnPath;

use support::{destination, run, stream_of, unit};

const ROWS: i64 = 1_000_000;
const BATCH: i64 = 32_768;

struct Random(u64);

impl Random {
    fn next(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as f64 / (1u64 << 53) as f64
    }
}

fn columns() -> Vec<Column> {
    let int = |name: &str| Column::new(name, ColumnType::Int32);
    let text = |name: &str| Column::new(name, ColumnType::Text);
    let time = |name: &str| Column::new(name, ColumnType::Timestamp);
    let mut columns = vec![
        Column::new("id", ColumnType::Int64),
        int("cab_type_id"),
        int("vendor_id"),
        time("pickup_datetime"),
        time("dropoff_datetime"),
        Column::new("store_and_fwd_flag", ColumnType::Boolean),
        int("rate_code_id"),
        text("pickup_longitude"),
        text("pickup_latitude"),
        text("dropoff_longitude"),
        text("dropoff_latitude"),
        int("passenger_count"),
        text("trip_distance"),
        text("fare_amount"),
        text("extra"),
        text("mta_tax"),
        text("tip_amount"),
        text("tolls_amount"),
        text("ehail_fee"),
        text("improvement_surcharge"),
        text("congestion_surcharge"),
        text("airport_fee"),
        text("total_amount"),
        int("payment_type"),
        int("trip_type"),
        int("pickup_nyct2010_gid"),
        int("dropoff_nyct2010_gid"),
        int("pickup_location_id"),
        int("dropoff_location_id"),
    ];
    columns[0].unique = true;
    columns
}

/// The rows of `trips.sql`.
fn trips(schema: &Arc<arrow::datatypes::Schema>, from: i64, random: &mut Random) -> RecordBatch {
    let g: Vec<i64> = (from..(from + BATCH).min(ROWS)).collect();
    let r: Vec<f64> = g.iter().map(|_| random.next()).collect();
    let r2: Vec<f64> = g.iter().map(|_| random.next()).collect();
    let rows =
        || g.iter().copied().zip(r.iter().copied()).zip(r2.iter().copied()).map(|((g, r), r2)| (g, r, r2));
    let int = |f: &dyn Fn(i64, f64, f64) -> i32| -> ArrayRef {
        Arc::new(Int32Array::from_iter_values(rows().map(|(g, r, r2)| f(g, r, r2))))
    };
    let maybe = |f: &dyn Fn(i64, f64, f64) -> Option<String>| -> ArrayRef {
        Arc::new(rows().map(|(g, r, r2)| f(g, r, r2)).collect::<StringArray>())
    };
    let start = 1_420_070_400_000_000i64;
    let pickup = |g: i64| start + g * 500_000;
    let time = |f: &dyn Fn(i64, f64) -> i64| -> ArrayRef {
        Arc::new(TimestampMicrosecondArray::from_iter_values(rows().map(|(g, r, _)| f(g, r))))
    };
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from(g.clone())),
        int(&|g, _, _| 1 + (g % 2) as i32),
        int(&|g, _, _| 1 + (g % 3) as i32),
        time(&|g, _| pickup(g)),
        time(&|g, r| pickup(g) + ((60.0 + r * 3000.0) * 1e6) as i64),
        Arc::new(BooleanArray::from_iter(g.iter().map(|g| Some(g % 97 == 0)))),
        int(&|g, _, _| 1 + (g % 6) as i32),
        maybe(&|_, r, _| Some(format!("{:.6}", -73.9 - r * 0.1))),
        maybe(&|_, _, r2| Some(format!("{:.6}", 40.7 + r2 * 0.1))),
        maybe(&|g, _, r2| (g % 4 == 0).then(|| format!("{:.6}", -73.9 - r2 * 0.1))),
        maybe(&|g, r, _| (g % 4 == 0).then(|| format!("{:.6}", 40.7 + r * 0.1))),
        int(&|g, _, _| 1 + (g % 5) as i32),
        maybe(&|_, r, _| Some(format!("{:.2}", r * 12.0))),
        maybe(&|_, r, _| Some(format!("{:.2}", 3.0 + r * 50.0))),
        maybe(&|_, _, _| Some("0.5".to_owned())),
        maybe(&|_, _, _| Some("0.5".to_owned())),
        maybe(&|_, _, r2| Some(format!("{:.2}", r2 * 10.0))),
        maybe(&|g, _, _| Some(if g % 10 == 0 { "6.55" } else { "0" }.to_owned())),
        maybe(&|_, _, _| None),
        maybe(&|_, _, _| Some("0.3".to_owned())),
        maybe(&|_, _, _| Some("2.5".to_owned())),
        maybe(&|g, _, _| (g % 20 == 0).then(|| "1.25".to_owned())),
        maybe(&|_, r, _| Some(format!("{:.2}", 7.0 + r * 60.0))),
        int(&|g, _, _| 1 + (g % 4) as i32),
        Arc::new(Int32Array::from_iter(g.iter().map(|g| (g % 3 == 0).then_some(1)))),
        int(&|_, r, _| (r * 2000.0) as i32),
        int(&|_, _, r2| (r2 * 2000.0) as i32),
        int(&|_, r, _| (r * 265.0) as i32),
        int(&|_, _, r2| (r2 * 265.0) as i32),
    ];
    RecordBatch::try_new(schema.clone(), columns).unwrap()
}

/// CPU time of the process, user and system, in seconds.
fn cpu() -> f64 {
    let mut total = 0u64;
    for task in std::fs::read_dir("/proc/self/task").unwrap().flatten() {
        let text = std::fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
        total += text.split(' ').next().and_then(|ns| ns.parse::<u64>().ok()).unwrap_or(0);
    }
    total as f64 / 1e9
}

fn ours(runtime: &tokio::runtime::Runtime, batches: &[RecordBatch]) -> u64 {
    let dir = tempfile::tempdir().unwrap();
    let id = StreamId::new("public", "trips");
    let stream = stream_of(&id, columns(), &[]);
    runtime.block_on(async {
        let lake = destination(dir.path());
        lake.prepare(&id, &run("bench")).await.unwrap();
        let mut writer = lake.writer(unit(&stream, 1, "bench")).await.unwrap();
        for batch in batches {
            writer.write(Batch::read(batch.clone())).await.unwrap();
        }
        writer.finish(true).await.unwrap().iter().map(|file| file.bytes).sum()
    })
}

type Setting = fn(WriterPropertiesBuilder) -> WriterPropertiesBuilder;

const INTS: [&str; 14] = [
    "id",
    "cab_type_id",
    "vendor_id",
    "pickup_datetime",
    "dropoff_datetime",
    "rate_code_id",
    "passenger_count",
    "payment_type",
    "trip_type",
    "pickup_nyct2010_gid",
    "dropoff_nyct2010_gid",
    "pickup_location_id",
    "dropoff_location_id",
    "_lw_synced_at",
];
/// Text whose values hardly repeat.
const WIDE: [&str; 4] = ["pickup_longitude", "pickup_latitude", "dropoff_longitude", "dropoff_latitude"];
const AMOUNTS: [&str; 4] = ["trip_distance", "fare_amount", "tip_amount", "total_amount"];

fn each(
    builder: WriterPropertiesBuilder,
    names: &[&str],
    set: impl Fn(WriterPropertiesBuilder, ColumnPath) -> WriterPropertiesBuilder,
) -> WriterPropertiesBuilder {
    names.iter().fold(builder, |builder, name| set(builder, ColumnPath::new(vec![(*name).to_owned()])))
}

fn delta(builder: WriterPropertiesBuilder) -> WriterPropertiesBuilder {
    each(builder, &INTS, |b, path| {
        b.set_column_encoding(path.clone(), Encoding::DELTA_BINARY_PACKED)
            .set_column_dictionary_enabled(path, false)
    })
}

fn wide_plain(builder: WriterPropertiesBuilder) -> WriterPropertiesBuilder {
    each(delta(builder), &WIDE, |b, path| b.set_column_dictionary_enabled(path, false))
}

fn chunk_statistics(builder: WriterPropertiesBuilder) -> WriterPropertiesBuilder {
    wide_plain(builder).set_statistics_enabled(EnabledStatistics::Chunk)
}

fn text_encoding(builder: WriterPropertiesBuilder, encoding: Encoding) -> WriterPropertiesBuilder {
    each(chunk_statistics(builder), &WIDE, |b, path| b.set_column_encoding(path, encoding))
}

const FEW: [&str; 9] = [
    "cab_type_id",
    "vendor_id",
    "rate_code_id",
    "passenger_count",
    "payment_type",
    "trip_type",
    "_lw_synced_at",
    "pickup_location_id",
    "dropoff_location_id",
];

fn few_in_dictionary(builder: WriterPropertiesBuilder) -> WriterPropertiesBuilder {
    each(chunk_statistics(builder), &FEW, |b, path| b.set_column_dictionary_enabled(path, true))
}

fn no_text_statistics(builder: WriterPropertiesBuilder) -> WriterPropertiesBuilder {
    let columns = columns();
    let text: Vec<&str> = columns
        .iter()
        .filter(|column| column.column_type == ColumnType::Text)
        .map(|column| column.name.as_str())
        .collect();
    each(few_in_dictionary(builder), &text, |b, path| {
        b.set_column_statistics_enabled(path, EnabledStatistics::None)
    })
}

const SETTINGS: [(&str, Setting); 15] = [
    ("parquet's defaults", |b| b),
    ("delta on ints", delta),
    ("+ no dictionary on wide text", wide_plain),
    ("+ statistics per chunk", chunk_statistics),
    ("  no statistics at all", |b| chunk_statistics(b).set_statistics_enabled(EnabledStatistics::None)),
    ("  no offset index", |b| chunk_statistics(b).set_offset_index_disabled(true)),
    ("  no dictionary on amounts", |b| {
        each(chunk_statistics(b), &AMOUNTS, |b, path| b.set_column_dictionary_enabled(path, false))
    }),
    ("  wide text delta-length", |b| text_encoding(b, Encoding::DELTA_LENGTH_BYTE_ARRAY)),
    ("  wide text delta", |b| text_encoding(b, Encoding::DELTA_BYTE_ARRAY)),
    ("  write batch 8192", |b| chunk_statistics(b).set_write_batch_size(8192)),
    ("  pages without a row limit", |b| chunk_statistics(b).set_data_page_row_count_limit(usize::MAX)),
    ("  pages of 100,000 rows", |b| chunk_statistics(b).set_data_page_row_count_limit(100_000)),
    ("  pages of 256 KiB", |b| chunk_statistics(b).set_data_page_size_limit(256 << 10)),
    ("+ few-valued ints in a dictionary", few_in_dictionary),
    ("+ no statistics on text", no_text_statistics),
];

fn theirs(batches: &[RecordBatch], setting: Setting) -> u64 {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("trips.parquet");
    let stream = stream_of(&StreamId::new("public", "trips"), columns(), &[]);
    let schema = SystemColumns::default().file_schema(&stream.schema).unwrap();
    let builder = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(1).unwrap()))
        .set_max_row_group_row_count(Some(1_000_000));
    let file = std::fs::File::create(&path).unwrap();
    let mut writer = ArrowWriter::try_new(file, schema.clone(), Some(setting(builder).build())).unwrap();
    for batch in batches {
        let rows = SystemColumns::attach(
            &schema,
            Batch::read(batch.clone()),
            &Sequence::read(1, 0),
            1_700_000_000_000_000,
        );
        writer.write(&rows.unwrap()).unwrap();
    }
    writer.close().unwrap();
    std::fs::metadata(&path).unwrap().len()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    let rounds: usize = std::env::args().filter_map(|text| text.parse().ok()).next_back().unwrap_or(3);
    let stream = stream_of(&StreamId::new("public", "trips"), columns(), &[]);
    let schema = Arc::new(stream.schema.arrow());
    let mut random = Random(0x9E37_79B9_7F4A_7C15);
    let batches: Vec<RecordBatch> =
        (0..ROWS).step_by(BATCH as usize).map(|from| trips(&schema, from, &mut random)).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();

    let mut seconds = vec![Vec::new(); SETTINGS.len() + 1];
    let mut bytes = vec![0; SETTINGS.len() + 1];
    for _ in 0..rounds {
        for index in 0..=SETTINGS.len() {
            let start = cpu();
            bytes[index] = match index.checked_sub(1) {
                None => ours(&runtime, &batches),
                Some(setting) => theirs(&batches, SETTINGS[setting].1),
            };
            seconds[index].push(cpu() - start);
        }
    }
    let seconds: Vec<f64> = seconds.into_iter().map(median).collect();
    let mut table = format!("{:<36} {:>12} {:>6} {:>10} {:>6}\n", "", "CPU s / M", "ratio", "MB", "ratio");
    let names = std::iter::once("lakeward").chain(SETTINGS.iter().map(|(name, _)| *name));
    for (index, name) in names.enumerate() {
        let _ = writeln!(
            table,
            "{name:<36} {:>12.3} {:>6.2} {:>10.2} {:>6.2}",
            seconds[index],
            seconds[index] / seconds[0],
            bytes[index] as f64 / 1e6,
            bytes[index] as f64 / bytes[0] as f64
        );
    }
    #[expect(clippy::print_stdout, reason = "this is a program that prints a table")]
    {
        print!("{table}");
    }
}
