//! How fast COPY data in memory becomes Arrow, on one core, for the `trips` table (29 columns, 16 of them
//! unconstrained numerics). `cargo bench -p lakeward-postgres --bench decode [-- ROWS]`
#![allow(missing_docs, clippy::print_stdout, clippy::unwrap_used)]

use lakeward_core::{ColumnType, OnBadValue};
use lakeward_postgres::decode::{CopyFormat, PgType, RowDecoder, WireColumn};

/// Columns as `trips` has them.
const SHAPE: &str = "l i i t t b i n n n n i n n n n n n n n n n n i i i i i i";
const BATCH_BYTES: usize = 8 << 20;

fn columns(numeric: &ColumnType) -> Vec<WireColumn> {
    let column = |(index, letter): (usize, &str)| {
        let (pg_type, target) = match letter {
            "l" => (PgType::Int8, ColumnType::Int64),
            "i" => (PgType::Int4, ColumnType::Int32),
            "t" => (PgType::Timestamp, ColumnType::Timestamp),
            "b" => (PgType::Bool, ColumnType::Boolean),
            _ => (PgType::Numeric, numeric.clone()),
        };
        WireColumn { name: format!("c{index}"), pg_type, target, on_bad_value: OnBadValue::Clamp }
    };
    SHAPE.split(' ').enumerate().map(column).collect()
}

/// One value in both formats; `None` is null.
fn value(letter: &str, column: usize, row: u64) -> Option<(String, Vec<u8>)> {
    let random = (row * 31 + column as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33;
    Some(match letter {
        "l" => (row.to_string(), (row as i64).to_be_bytes().to_vec()),
        "i" if column == 24 && !row.is_multiple_of(3) => return None,
        "i" => ((random % 2000).to_string(), ((random % 2000) as i32).to_be_bytes().to_vec()),
        "t" => {
            let micros = (row / 2 % 86_400) * 1_000_000;
            let seconds = micros / 1_000_000;
            let text =
                format!("2015-01-01 {:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60);
            (text, (473_385_600_000_000 + micros as i64).to_be_bytes().to_vec())
        }
        "b" => (
            if row.is_multiple_of(97) { "t" } else { "f" }.to_owned(),
            vec![u8::from(row.is_multiple_of(97))],
        ),
        _ if matches!(column, 9 | 10) && !row.is_multiple_of(4) || column == 18 || column == 21 => {
            return None;
        }
        _ if column < 11 => {
            let (whole, fraction) = (random % 100, random % 1_000_000);
            let digits = [whole as u16, (fraction / 100) as u16, (fraction % 100 * 100) as u16];
            (format!("-{whole}.{fraction:06}"), numeric(&digits, 0x4000, 6))
        }
        _ => {
            let (whole, fraction) = (random % 60, random % 100);
            (format!("{whole}.{fraction:02}"), numeric(&[whole as u16, (fraction * 100) as u16], 0, 2))
        }
    })
}

fn numeric(digits: &[u16], sign: u16, scale: u16) -> Vec<u8> {
    let header = [digits.len() as u16, 0, sign, scale];
    header.iter().chain(digits).flat_map(|word| word.to_be_bytes()).collect()
}

/// Payloads of one row each, as the server sends them, end to end as a receive buffer has them.
#[derive(Default)]
struct Payloads {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Payloads {
    fn push(&mut self, payload: &[u8]) {
        self.bytes.extend_from_slice(payload);
        self.ends.push(self.bytes.len());
    }
}

fn generate(rows: u64) -> (Payloads, Payloads) {
    let letters: Vec<&str> = SHAPE.split(' ').collect();
    let (mut texts, mut tuples) = (Payloads::default(), Payloads::default());
    for row in 0..rows {
        let mut text = Vec::new();
        let mut tuple = if row == 0 { b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0".to_vec() } else { Vec::new() };
        tuple.extend_from_slice(&(letters.len() as i16).to_be_bytes());
        for (column, letter) in letters.iter().enumerate() {
            let (field, bytes) = match value(letter, column, row) {
                Some((field, bytes)) => (field, Some(bytes)),
                None => ("\\N".to_owned(), None),
            };
            text.extend_from_slice(field.as_bytes());
            text.push(b'\t');
            tuple.extend_from_slice(&bytes.as_ref().map_or(-1, |bytes| bytes.len() as i32).to_be_bytes());
            tuple.extend_from_slice(&bytes.unwrap_or_default());
        }
        *text.last_mut().unwrap() = b'\n';
        texts.push(&text);
        tuples.push(&tuple);
    }
    tuples.push(&(-1i16).to_be_bytes());
    (texts, tuples)
}

/// Seconds that this thread was on a core: other work on the machine does not count.
fn on_cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    stat.split(' ').next().unwrap().parse::<f64>().unwrap() / 1e9
}

fn run(name: &str, format: CopyFormat, columns: &[WireColumn], payloads: &Payloads, rows: u64) {
    let mut best = f64::INFINITY;
    for _ in 0..5 {
        let mut decoder = RowDecoder::new(format, columns).unwrap();
        let mut decoded = 0;
        let start = on_cpu();
        let mut from = 0;
        for end in &payloads.ends {
            decoder.push(&payloads.bytes[from..*end]).unwrap();
            from = *end;
            if decoder.rows().is_multiple_of(64) && decoder.bytes() >= BATCH_BYTES {
                decoded += decoder.finish_batch().unwrap().rows.num_rows();
            }
        }
        decoded += decoder.finish().unwrap().map_or(0, |batch| batch.rows.num_rows());
        best = best.min(on_cpu() - start);
        assert_eq!(decoded as u64, rows);
    }
    println!(
        "{name:32} {:.3} s per million rows, {:6.2} M rows/s, {:6.0} MB/s",
        best * 1e6 / rows as f64,
        rows as f64 / best / 1e6,
        payloads.bytes.len() as f64 / best / 1e6,
    );
}

fn main() {
    // Cargo passes `--bench` too.
    let rows = std::env::args().filter_map(|argument| argument.parse().ok()).next().unwrap_or(500_000);
    let (texts, tuples) = generate(rows);
    let exact = columns(&ColumnType::Text);
    let decimal = columns(&ColumnType::Decimal { precision: 18, scale: 6 });
    run("text, numerics as text", CopyFormat::Text, &exact, &texts, rows);
    run("text, numerics as decimal(18,6)", CopyFormat::Text, &decimal, &texts, rows);
    run("binary, numerics as text", CopyFormat::Binary, &exact, &tuples, rows);
    run("binary, numerics as decimal(18,6)", CopyFormat::Binary, &decimal, &tuples, rows);
}
