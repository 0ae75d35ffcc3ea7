//! From COPY's rows on the wire to Arrow columns, in place: no row object, no value per cell.
//!
//! Guaranteed: text and binary of the same row become the same columns, a value is exact or it is replaced as
//! its column's policy says, counted and kept in `_lw_rescued` in the server's own text, and no input, whole or
//! torn, makes the decoder panic or report fewer rows than it was given.

mod array;
mod binary;
mod cell;
mod columns;
pub(crate) mod moment;
mod numeric;
mod output;
mod plan;
mod rescue;
mod rows;
mod scalar;
#[cfg(test)]
mod tests;
mod text;
mod time;

pub use rows::RowDecoder;

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
    /// An array of scalars, separated by commas in its text. `box[]` (semicolons) and the vectors `int2vector` and
    /// `oidvector` (spaces, from 0) print otherwise and are [`TextOnly`](Self::TextOnly).
    Array(Box<PgType>),
}

/// A column on the wire and what it becomes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WireColumn {
    /// The source's name for it.
    pub name: String,
    /// Its name in the files.
    pub written_as: String,
    /// What the server sends.
    pub pg_type: PgType,
    /// What it becomes.
    pub target: ColumnType,
    /// What happens to a value that does not fit.
    pub on_bad_value: OnBadValue,
}

impl WireColumn {
    /// A column that is called in the files as it is at the source.
    pub fn new(
        name: impl Into<String>,
        pg_type: PgType,
        target: ColumnType,
        on_bad_value: OnBadValue,
    ) -> Self {
        let name = name.into();
        Self { written_as: name.clone(), name, pg_type, target, on_bad_value }
    }
}
