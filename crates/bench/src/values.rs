//! Values of PostgreSQL's types, as text and in binary.

use lakeward_core::{ColumnType, OnBadValue};
use lakeward_postgres::decode::{PgType, WireColumn};

/// A value of a row: its text without escapes, and its binary form.
type Make = fn(u64) -> (String, Vec<u8>);

/// A type, what it is decoded to, and its values.
pub struct Case {
    /// What it is called.
    pub name: &'static str,
    /// The type at the source.
    pub pg_type: PgType,
    /// The type of the column.
    pub target: ColumnType,
    make: Make,
}

impl Case {
    /// The column on the wire.
    pub fn column(&self) -> WireColumn {
        WireColumn::new(self.name, self.pg_type.clone(), self.target.clone(), OnBadValue::Clamp)
    }

    /// The rows as COPY sends them as text, a message each.
    pub fn texts(&self, rows: u64) -> Vec<Vec<u8>> {
        (0..rows).map(|row| [(self.make)(row).0.replace('\\', "\\\\").as_bytes(), b"\n"].concat()).collect()
    }

    /// The rows as COPY sends them in binary, a message each; the first begins with the header.
    pub fn tuples(&self, rows: u64) -> Vec<Vec<u8>> {
        let mut messages: Vec<Vec<u8>> = (0..rows).map(|row| tuple(&[(self.make)(row).1])).collect();
        if let Some(first) = messages.first_mut() {
            first.splice(0..0, *b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0");
        }
        messages.push((-1i16).to_be_bytes().to_vec());
        messages
    }
}

/// A row in binary.
fn tuple(fields: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = (fields.len() as i16).to_be_bytes().to_vec();
    for field in fields {
        bytes.extend((field.len() as i32).to_be_bytes());
        bytes.extend(field);
    }
    bytes
}

fn scattered(row: u64) -> u64 {
    row.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20
}

fn moment(row: u64) -> (String, i64) {
    let seconds = (scattered(row) % (20 * 365 * 86_400)) as i64;
    let (day, second) = (seconds / 86_400, seconds % 86_400);
    // Days of months of 28 are all there are here: any date will do.
    let (year, month, date) = (2000 + day / 336, day % 336 / 28 + 1, day % 28 + 1);
    let days = days_since_2000(year, month, date);
    let text = format!(
        "{year:04}-{month:02}-{date:02} {:02}:{:02}:{:02}.123456",
        second / 3600,
        second / 60 % 60,
        second % 60
    );
    (text, (days * 86_400 + second) * 1_000_000 + 123_456)
}

fn days_since_2000(year: i64, month: i64, day: i64) -> i64 {
    let (y, m) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    365 * y + y / 4 - y / 100 + y / 400 + (153 * m + 2) / 5 + day - 1 - 730_425
}

fn numeric(row: u64) -> (String, Vec<u8>) {
    let (whole, fraction) = (scattered(row) % 10_000, row % 100);
    let words = [2u16, 0, 0, 2, whole as u16, (fraction * 100) as u16];
    (format!("{whole}.{fraction:02}"), words.iter().flat_map(|word| word.to_be_bytes()).collect())
}

fn json(row: u64) -> String {
    format!(r#"{{"id": {row}, "name": "name of {row}", "tags": ["a", "b"]}}"#)
}

fn list(row: u64) -> (String, Vec<u8>) {
    let items: Vec<i32> = (0..5).map(|n| (scattered(row + n) % 100_000) as i32).collect();
    let text: Vec<String> = items.iter().map(i32::to_string).collect();
    let mut bytes: Vec<u8> =
        [1, 0, 23, items.len() as i32, 1].iter().flat_map(|word: &i32| word.to_be_bytes()).collect();
    for item in items {
        bytes.extend(4i32.to_be_bytes());
        bytes.extend(item.to_be_bytes());
    }
    (format!("{{{}}}", text.join(",")), bytes)
}

/// Every type that has a decoder of its own.
pub fn cases() -> Vec<Case> {
    use ColumnType as C;
    use PgType as P;
    let case = |name, pg_type, target, make| Case { name, pg_type, target, make };
    vec![
        case("bool", P::Bool, C::Boolean, |row| {
            (if row % 3 == 0 { "t" } else { "f" }.to_owned(), vec![u8::from(row % 3 == 0)])
        }),
        case("int2", P::Int2, C::Int16, |row| {
            let value = (scattered(row) % 30_000) as i16;
            (value.to_string(), value.to_be_bytes().to_vec())
        }),
        case("int4", P::Int4, C::Int32, |row| {
            let value = scattered(row) as i32;
            (value.to_string(), value.to_be_bytes().to_vec())
        }),
        case("int8", P::Int8, C::Int64, |row| {
            let value = scattered(row) as i64;
            (value.to_string(), value.to_be_bytes().to_vec())
        }),
        case("float4", P::Float4, C::Float32, |row| {
            let value = scattered(row) as f32 / 7.0;
            (value.to_string(), value.to_be_bytes().to_vec())
        }),
        case("float8", P::Float8, C::Float64, |row| {
            let value = scattered(row) as f64 / 7.0;
            (value.to_string(), value.to_be_bytes().to_vec())
        }),
        case("numeric as text", P::Numeric, C::Text, numeric),
        case("numeric as decimal", P::Numeric, C::Decimal { precision: 12, scale: 2 }, numeric),
        case("date", P::Date, C::Date, |row| {
            let (text, micros) = moment(row);
            (text[..10].to_owned(), ((micros / 86_400_000_000) as i32).to_be_bytes().to_vec())
        }),
        case("time", P::Time, C::Time, |row| {
            let (text, micros) = moment(row);
            (text[11..].to_owned(), (micros % 86_400_000_000).to_be_bytes().to_vec())
        }),
        case("timestamp", P::Timestamp, C::Timestamp, |row| {
            let (text, micros) = moment(row);
            (text, micros.to_be_bytes().to_vec())
        }),
        case("timestamptz", P::Timestamptz, C::TimestampTz, |row| {
            let (text, micros) = moment(row);
            (text + "+00", micros.to_be_bytes().to_vec())
        }),
        case("uuid", P::Uuid, C::Uuid, |row| {
            let bytes = (u128::from(scattered(row)) << 64 | u128::from(row)).to_be_bytes();
            let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            let parts = [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]];
            (parts.join("-"), bytes.to_vec())
        }),
        case("bytea", P::Bytea, C::Binary, |row| {
            let bytes: Vec<u8> = scattered(row).to_be_bytes().repeat(4);
            let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            (format!("\\x{hex}"), bytes)
        }),
        case("text", P::Text, C::Text, |row| {
            let text = format!("text number {row} of some length");
            (text.clone(), text.into_bytes())
        }),
        case("json", P::Json, C::Json, |row| (json(row), json(row).into_bytes())),
        case("jsonb", P::Jsonb, C::Json, |row| (json(row), [b"\x01", json(row).as_bytes()].concat())),
        case("int4[]", P::Array(Box::new(P::Int4)), C::List(Box::new(C::Int32)), list),
    ]
}
