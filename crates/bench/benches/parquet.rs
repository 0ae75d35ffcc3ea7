//! What encoding costs: the writer of the Parquet destination, and Parquet's own with other settings.
#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout)]

use std::sync::Arc;

use arrow::array::RecordBatch;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use lakeward_bench::stream::{destination, run, stream, unit};
use lakeward_bench::trips::{Random, columns, rows};
use lakeward_core::{Batch, ColumnType, Destination};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterPropertiesBuilder};
use parquet::schema::types::ColumnPath;

const ROWS: i64 = 131_072;
const BATCH: i64 = 32_768;

fn batches() -> Vec<RecordBatch> {
    let mut random = Random(42);
    (0..ROWS / BATCH).map(|n| rows(n * BATCH..(n + 1) * BATCH, &mut random)).collect()
}

async fn ours(batches: &[RecordBatch]) -> u64 {
    let dir = tempfile::tempdir().unwrap();
    let stream = stream(columns());
    let lake = destination(dir.path());
    lake.prepare(&stream.target, &run("bench")).await.unwrap();
    let mut writer = lake.writer(unit(&stream, "bench")).await.unwrap();
    for batch in batches {
        writer.write(Batch::read(batch.clone())).await.unwrap();
    }
    writer.finish(true).await.unwrap().iter().map(|file| file.bytes).sum()
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

/// The same rows through Parquet's own writer, into memory.
fn theirs(batches: &[RecordBatch], compression: Compression, setting: Setting) -> u64 {
    let schema = batches[0].schema();
    let builder = WriterProperties::builder().set_compression(compression);
    let mut writer = ArrowWriter::try_new(Vec::new(), schema, Some(setting(builder).build())).unwrap();
    for batch in batches {
        writer.write(batch).unwrap();
    }
    writer.into_inner().unwrap().len() as u64
}

fn encode(criterion: &mut Criterion) {
    let batches = Arc::new(batches());
    let zstd = |level| Compression::ZSTD(ZstdLevel::try_new(level).unwrap());
    let mut group = criterion.benchmark_group("parquet");
    group.throughput(Throughput::Elements(ROWS as u64)).sample_size(10);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    println!("the destination's writer: {} bytes", runtime.block_on(ours(&batches)));
    group.bench_function("the destination's writer", |bencher| {
        bencher.to_async(&runtime).iter(|| ours(&batches));
    });
    for (name, setting) in SETTINGS {
        println!("{name}: {} bytes", theirs(&batches, zstd(1), setting));
        group
            .bench_function(name.trim_start(), |bencher| bencher.iter(|| theirs(&batches, zstd(1), setting)));
    }
    let compressions = [
        ("zstd 1", zstd(1)),
        ("zstd 3", zstd(3)),
        ("zstd 6", zstd(6)),
        ("snappy", Compression::SNAPPY),
        ("lz4", Compression::LZ4_RAW),
        ("none", Compression::UNCOMPRESSED),
    ];
    for (name, compression) in compressions {
        println!("{name}: {} bytes", theirs(&batches, compression, no_text_statistics));
        group.bench_function(format!("compression {name}"), |bencher| {
            bencher.iter(|| theirs(&batches, compression, no_text_statistics));
        });
    }
    group.finish();
}

criterion_group!(benches, encode);
criterion_main!(benches);
