//! Which type can become which.

use lakeward_core::ColumnType;

use super::PgType;

/// Whether a value of the type can become the target, from text output at least.
pub(super) fn supports(pg_type: &PgType, target: &ColumnType) -> bool {
    match (pg_type, target) {
        (_, ColumnType::Text) => true,
        (PgType::Array(item), ColumnType::List(element)) => {
            !matches!(**item, PgType::Array(_)) && supports(item, element)
        }
        (PgType::Bool, ColumnType::Boolean)
        | (PgType::Int2, ColumnType::Int16)
        | (PgType::Int2 | PgType::Int4, ColumnType::Int32 | ColumnType::Float64)
        | (PgType::Int2 | PgType::Int4 | PgType::Int8 | PgType::Oid | PgType::Numeric, ColumnType::Int64)
        | (PgType::Oid, ColumnType::UInt32)
        | (PgType::Float4, ColumnType::Float32)
        | (PgType::Float8 | PgType::Numeric, ColumnType::Float64)
        | (PgType::Date, ColumnType::Date)
        | (PgType::Time, ColumnType::Time)
        | (PgType::Timestamp, ColumnType::Timestamp)
        | (PgType::Timestamptz, ColumnType::TimestampTz)
        | (PgType::Uuid, ColumnType::Uuid)
        | (PgType::Bytea, ColumnType::Binary)
        | (PgType::Json | PgType::Jsonb, ColumnType::Json) => true,
        (
            PgType::Int2 | PgType::Int4 | PgType::Int8 | PgType::Oid | PgType::Numeric,
            ColumnType::Decimal { precision, scale },
        ) => (1..=ColumnType::MAX_DECIMAL_PRECISION).contains(precision) && scale <= precision,
        _ => false,
    }
}

/// Whether the type has a binary form at all.
pub(super) fn has_binary(pg_type: &PgType) -> bool {
    match pg_type {
        PgType::TextOnly => false,
        PgType::Array(item) => has_binary(item),
        _ => true,
    }
}
