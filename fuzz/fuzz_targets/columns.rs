//! A column of a type and a policy that the first bytes of an input choose.

use lakeward_core::{ColumnType, OnBadValue};
use lakeward_postgres::decode::{CopyFormat, PgType, RowDecoder, WireColumn};

fn types() -> Vec<(PgType, ColumnType)> {
    let named = |name: &str| name.parse::<ColumnType>();
    let mut types = Vec::new();
    for (pg_type, targets) in [
        (PgType::Bool, &["boolean"][..]),
        (PgType::Int2, &["int16", "int64", "text"]),
        (PgType::Int4, &["int32", "int64"]),
        (PgType::Int8, &["int64", "decimal(20,0)"]),
        (PgType::Oid, &["uint32", "int64"]),
        (PgType::Float4, &["float32"]),
        (PgType::Float8, &["float64", "text"]),
        (PgType::Numeric, &["decimal(12,2)", "decimal(38,10)", "decimal(76,20)", "text"]),
        (PgType::Date, &["date"]),
        (PgType::Time, &["time"]),
        (PgType::Timestamp, &["timestamp"]),
        (PgType::Timestamptz, &["timestamptz"]),
        (PgType::Uuid, &["uuid", "text"]),
        (PgType::Bytea, &["binary"]),
        (PgType::Json, &["json"]),
        (PgType::Jsonb, &["json"]),
        (PgType::Text, &["text"]),
        (PgType::TextOnly, &["text"]),
        (PgType::Array(Box::new(PgType::Int4)), &["list<int32>"]),
        (PgType::Array(Box::new(PgType::Text)), &["list<text>"]),
        (PgType::Array(Box::new(PgType::Numeric)), &["list<decimal(12,2)>"]),
        (PgType::Array(Box::new(PgType::Timestamptz)), &["list<timestamptz>"]),
    ] {
        for target in targets.iter().filter_map(|name| named(name).ok()) {
            if RowDecoder::supports(&pg_type, &target) {
                types.push((pg_type.clone(), target));
            }
        }
    }
    types
}

/// Decodes messages of rows of two columns, and says how many rows they were. What is refused ends the input; nothing
/// may panic, and the batch has just these rows.
pub fn decode(format: CopyFormat, data: &[u8], messages: impl FnOnce(&[u8]) -> Vec<&[u8]>) -> Option<usize> {
    let (chosen, rest) = data.split_first_chunk::<3>()?;
    let types = types();
    assert!(types.len() > 15, "types are missing");
    let column = |name: &str, at: u8| {
        let (pg_type, target) = types[usize::from(at) % types.len()].clone();
        let on_bad_value = [OnBadValue::Clamp, OnBadValue::Null, OnBadValue::Fail][usize::from(chosen[2]) % 3];
        WireColumn::new(name, pg_type, target, on_bad_value)
    };
    let mut decoder = RowDecoder::new(format, &[column("a", chosen[0]), column("b", chosen[1])]).ok()?;
    for message in messages(rest) {
        decoder.push(message).ok()?;
    }
    let rows = decoder.rows();
    let batch = decoder.finish().ok()?;
    assert_eq!(batch.map_or(0, |batch| batch.rows.num_rows()), rows);
    Some(rows)
}
