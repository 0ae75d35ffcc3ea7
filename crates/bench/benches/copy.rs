//! COPY as text and binary to Arrow.
#![allow(missing_docs, clippy::unwrap_used)]

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use lakeward_bench::values::{Case, cases};
use lakeward_postgres::decode::{CopyFormat, RowDecoder, WireColumn};

const ROWS: u64 = 8192;

fn decode(format: CopyFormat, columns: &[WireColumn], messages: &[Vec<u8>]) -> usize {
    let mut decoder = RowDecoder::new(format, columns).unwrap();
    for message in messages {
        decoder.push(message).unwrap();
    }
    decoder.finish().unwrap().map_or(0, |batch| batch.rows.num_rows())
}

fn types(criterion: &mut Criterion) {
    for (format, name) in [(CopyFormat::Text, "copy text"), (CopyFormat::Binary, "copy binary")] {
        let mut group = criterion.benchmark_group(name);
        group.throughput(Throughput::Elements(ROWS));
        for case in cases() {
            let messages = match format {
                CopyFormat::Text => case.texts(ROWS),
                CopyFormat::Binary => case.tuples(ROWS),
            };
            let columns = [case.column()];
            assert_eq!(decode(format, &columns, &messages), ROWS as usize, "{}", case.name);
            group.bench_function(case.name, |bencher| bencher.iter(|| decode(format, &columns, &messages)));
        }
        group.finish();
    }
}

/// All types in one row: what a row costs beside its values.
fn rows(criterion: &mut Criterion) {
    let cases = cases();
    let columns: Vec<WireColumn> = cases.iter().map(Case::column).collect();
    let by_column: Vec<Vec<Vec<u8>>> = cases.iter().map(|case| case.texts(ROWS)).collect();
    let messages: Vec<Vec<u8>> = (0..ROWS as usize)
        .map(|row| {
            let fields: Vec<&[u8]> =
                by_column.iter().map(|texts| texts[row].strip_suffix(b"\n").unwrap()).collect();
            [fields.join(&b'\t').as_slice(), b"\n"].concat()
        })
        .collect();
    let mut group = criterion.benchmark_group("copy rows");
    group.throughput(Throughput::Elements(ROWS));
    group.bench_function(format!("text, {} columns", columns.len()), |bencher| {
        bencher.iter(|| decode(CopyFormat::Text, &columns, &messages));
    });
    group.finish();
}

criterion_group!(benches, types, rows);
criterion_main!(benches);
