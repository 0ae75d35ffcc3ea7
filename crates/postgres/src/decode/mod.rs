//! From COPY's rows on the wire to Arrow columns, in place: no row object, no value per cell.

use lakeward_core::{ColumnType, OnBadValue};
use serde::{Deserialize, Serialize};

/// How COPY writes rows. Chosen per table, by what costs the server less.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CopyFormat {
    /// Tab-separated text output.
    Text,
    /// `PGCOPY` binary.
    Binary,
}

/// What the server sends for a column, domains resolved to their base type.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PgType {
    /// bool
    Bool,
    /// int2
    Int2,
    /// int4
    Int4,
    /// int8
    Int8,
    /// oid
    Oid,
    /// float4
    Float4,
    /// float8
    Float8,
    /// numeric, with or without precision
    Numeric,
    /// date
    Date,
    /// time
    Time,
    /// timestamp
    Timestamp,
    /// timestamptz
    Timestamptz,
    /// uuid
    Uuid,
    /// bytea
    Bytea,
    /// json
    Json,
    /// jsonb
    Jsonb,
    /// Types whose binary form is their text: text, varchar, bpchar, name, enums, citext, xml.
    Text,
    /// Everything else: text format only, the server's text output kept as it is.
    TextOnly,
    /// An array; elements as the inner type. `delimiter` is `,` but for box (`;`).
    Array(Box<PgType>),
}

/// A column on the wire and what it becomes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WireColumn {
    /// Its name, for errors.
    pub name: String,
    /// What the server sends.
    pub pg_type: PgType,
    /// What it becomes.
    pub target: ColumnType,
    /// What happens to a value that does not fit.
    pub on_bad_value: OnBadValue,
}

/// Stand-in until the decoder lands.
#[derive(Debug)]
pub struct RowDecoder;

#[allow(missing_docs)]
impl RowDecoder {
    pub fn new(_format: CopyFormat, _columns: &[WireColumn]) -> lakeward_core::Result<Self> {
        Ok(Self)
    }

    pub fn supports(_pg: &PgType, target: &ColumnType) -> bool {
        *target == ColumnType::Text
    }

    pub fn binary_decodable(pg: &PgType, target: &ColumnType) -> bool {
        !matches!(pg, PgType::TextOnly) && Self::supports(pg, target)
    }
}
