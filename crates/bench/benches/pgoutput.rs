//! Messages of the log to Arrow.
#![allow(missing_docs, clippy::unwrap_used)]

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use lakeward_bench::values::{Case, cases};
use lakeward_postgres::decode::{CopyFormat, RowDecoder, WireColumn};
use lakeward_postgres::pgoutput::{Body, Value, parse};

const ROWS: u64 = 8192;

/// Inserts of rows with a value of each type, as the log has them: values as text.
fn inserts(cases: &[Case]) -> Vec<Vec<u8>> {
    let texts: Vec<Vec<Vec<u8>>> = cases.iter().map(|case| case.texts(ROWS)).collect();
    let field = |text: &[u8]| {
        // The log escapes nothing.
        let plain = String::from_utf8_lossy(text.strip_suffix(b"\n").unwrap()).replace("\\\\", "\\");
        [b"t", (plain.len() as i32).to_be_bytes().as_slice(), plain.as_bytes()].concat()
    };
    (0..ROWS as usize)
        .map(|row| {
            let mut message = [b"I", 16_384u32.to_be_bytes().as_slice(), b"N"].concat();
            message.extend((texts.len() as i16).to_be_bytes());
            texts.iter().for_each(|column| message.extend(field(&column[row])));
            message
        })
        .collect()
}

fn decode(columns: &[WireColumn], messages: &[Vec<u8>]) -> usize {
    let mut decoder = RowDecoder::new(CopyFormat::Text, columns).unwrap();
    for message in messages {
        let Body::Insert { new, .. } = parse(message, false).unwrap().body else { panic!("not an insert") };
        let mut values = new.values();
        let text = |value| match value {
            Some(Value::Text(text)) => Some(text),
            _ => None,
        };
        decoder.push_values(|_| text(values.next())).unwrap();
    }
    decoder.finish().unwrap().map_or(0, |batch| batch.rows.num_rows())
}

fn changes(criterion: &mut Criterion) {
    let cases = cases();
    let columns: Vec<WireColumn> = cases.iter().map(Case::column).collect();
    let messages = inserts(&cases);
    assert_eq!(decode(&columns, &messages), ROWS as usize);
    let mut group = criterion.benchmark_group("pgoutput");
    group.throughput(Throughput::Elements(ROWS));
    group.bench_function(format!("inserts, {} columns", columns.len()), |bencher| {
        bencher.iter(|| decode(&columns, &messages));
    });
    group.bench_function("inserts, parsed alone", |bencher| {
        let values = |message: &Vec<u8>| match parse(message, false).unwrap().body {
            Body::Insert { new, .. } => new.values().count(),
            _ => 0,
        };
        bencher.iter(|| messages.iter().map(values).sum::<usize>());
    });
    group.finish();
}

criterion_group!(benches, changes);
criterion_main!(benches);
