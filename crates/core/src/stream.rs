//! Streams: the tables, views and collections of a source.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Column, Error, ErrorKind, Schema};

/// The name of a stream: a namespace (schema, database) and a name within it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamId {
    /// PostgreSQL's schema; MySQL's and MongoDB's database.
    pub namespace: String,
    /// Table, view or collection.
    pub name: String,
}

impl StreamId {
    /// A stream's name from its two parts.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.namespace, self.name)
    }
}

/// How a stream is replicated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SyncMode {
    /// Every row, at every sync, into a new generation.
    FullRefresh,
    /// Every row once, then the rows at and after the greatest cursor.
    Incremental,
    /// Every row once, then every change from the source's log.
    Cdc,
    /// Every change from the source's log, without the rows that were there before.
    StrictCdc,
}

impl SyncMode {
    /// The word for it in streams.json and state.json.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::FullRefresh => "full_refresh",
            Self::Incremental => "incremental",
            Self::Cdc => "cdc",
            Self::StrictCdc => "strict_cdc",
        }
    }

    /// Whether it follows the source's log.
    pub fn follows_log(self) -> bool {
        match self {
            Self::FullRefresh | Self::Incremental => false,
            Self::Cdc | Self::StrictCdc => true,
        }
    }
}

impl fmt::Display for SyncMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for SyncMode {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        [Self::FullRefresh, Self::Incremental, Self::Cdc, Self::StrictCdc]
            .into_iter()
            .find(|mode| mode.as_str() == text)
            .ok_or_else(|| {
                Error::new(ErrorKind::Config, format!("no sync mode is called \"{text}\""))
                    .hint("sync_mode is one of full_refresh, incremental, cdc, strict_cdc")
            })
    }
}

/// A stream as the source describes it at this moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Stream {
    /// Its name.
    pub id: StreamId,
    /// All columns that can be read, in the source's order.
    pub schema: Schema,
    /// The columns of the primary key, in key order; empty where there is none that identifies rows.
    pub primary_key: Vec<String>,
    /// The columns by which the source's log names a row that was changed or deleted, in key order; empty where it
    /// gives whole rows; `None` where changes cannot be followed.
    pub log_key: Option<Vec<String>>,
    /// Why no more than its inserts can be followed, where that is so.
    pub inserts_only: Option<InsertsOnly>,
    /// Why the log has nothing of it, where that is so.
    pub unlogged: Option<String>,
    /// Columns whose order can serve as a cursor.
    pub cursor_fields: Vec<String>,
    /// Modes that the source offers for this stream; the first is the default.
    pub sync_modes: Vec<SyncMode>,
    /// The source's own estimate; `None` where it has none.
    pub estimated_rows: Option<u64>,
    /// Bytes as stored at the source, TOAST included; `None` where unknown.
    pub estimated_bytes: Option<u64>,
    /// The comment that the source keeps with the stream.
    pub comment: Option<String>,
    /// How many columns it was ever given, those that were dropped included; `None` where the source does not count.
    pub columns_made: Option<u32>,
}

/// Why the log does not tell which row was changed or deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InsertsOnly {
    /// What is the matter.
    pub why: String,
    /// What the operator can do about it at the source.
    pub remedy: String,
}

impl Stream {
    /// The column of that name.
    pub fn column(&self, name: &str) -> Option<&Column> {
        self.schema.column(name)
    }
}
