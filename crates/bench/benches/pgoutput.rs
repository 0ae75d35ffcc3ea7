//! Messages of the log to Arrow.
#![allow(missing_docs, clippy::unwrap_used)]

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use lakeward_bench::values::{Case, cases};
use lakeward_core::ColumnType;
use lakeward_postgres::decode::{CopyFormat, RowDecoder, WireColumn};
use lakeward_postgres::pgoutput::{Body, Tuple, Value, parse};

const ROWS: u64 = 8192;

#[derive(Clone, Copy, PartialEq)]
enum Change {
    Insert,
    /// Of rows whose text columns are stored apart and did not change: they are not sent.
    Update,
    /// The first column is the key.
    Delete,
}

/// Messages as the log has them, values as text, with a column of each type.
fn messages(cases: &[Case], change: Change) -> Vec<Vec<u8>> {
    let texts: Vec<Vec<Vec<u8>>> = cases.iter().map(|case| case.texts(ROWS)).collect();
    let sent = |text: &[u8]| {
        // The log escapes nothing.
        let plain = String::from_utf8_lossy(text.strip_suffix(b"\n").unwrap()).replace("\\\\", "\\");
        [b"t", (plain.len() as i32).to_be_bytes().as_slice(), plain.as_bytes()].concat()
    };
    let field = |row: usize, column: usize| match change {
        Change::Update if cases[column].target == ColumnType::Text => b"u".to_vec(),
        Change::Delete if column > 0 => b"n".to_vec(),
        _ => sent(&texts[column][row]),
    };
    let (tag, tuple) = match change {
        Change::Insert => (b"I", b"N"),
        Change::Update => (b"U", b"N"),
        Change::Delete => (b"D", b"K"),
    };
    (0..ROWS as usize)
        .map(|row| {
            let mut message = [tag, 16_384u32.to_be_bytes().as_slice(), tuple].concat();
            message.extend((cases.len() as i16).to_be_bytes());
            (0..cases.len()).for_each(|column| message.extend(field(row, column)));
            message
        })
        .collect()
}

fn row(message: &[u8]) -> Tuple<'_> {
    match parse(message, false).unwrap().body {
        Body::Insert { new, .. } | Body::Update { new, .. } => new,
        Body::Delete { old, .. } => old.tuple(),
        _ => panic!("no change"),
    }
}

fn decode(columns: &[WireColumn], messages: &[Vec<u8>]) -> usize {
    let mut decoder = RowDecoder::new(CopyFormat::Text, columns).unwrap();
    for message in messages {
        let mut values = row(message).values();
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
    let mut group = criterion.benchmark_group("pgoutput");
    group.throughput(Throughput::Elements(ROWS));
    for (change, name) in
        [(Change::Insert, "inserts"), (Change::Update, "updates"), (Change::Delete, "deletes")]
    {
        let messages = messages(&cases, change);
        assert_eq!(decode(&columns, &messages), ROWS as usize);
        group.bench_function(format!("{name}, {} columns", columns.len()), |bencher| {
            bencher.iter(|| decode(&columns, &messages));
        });
        group.bench_function(format!("{name}, parsed alone"), |bencher| {
            bencher.iter(|| messages.iter().map(|message| row(message).values().count()).sum::<usize>());
        });
    }
    group.finish();
}

criterion_group!(benches, changes);
criterion_main!(benches);
