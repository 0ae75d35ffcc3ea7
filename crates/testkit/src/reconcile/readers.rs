//! Do engines that are not ours read the same files as the same rows?

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::json;
use tokio::io::AsyncReadExt;

use super::StreamName;
use crate::python::Script;

/// What one engine read.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum Reading {
    /// All rows.
    Read {
        /// How many, deletes and older versions included.
        rows: u64,
        /// By column, how many are null, and a hash over all values that depends on no order.
        columns: BTreeMap<String, ColumnSum>,
    },
    /// It refused.
    Failed {
        /// Its words.
        error: String,
    },
}

/// All values of a column in short.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct ColumnSum {
    /// Nulls.
    pub nulls: u64,
    /// The sum of the hashes of the values' text.
    pub hash: String,
}

/// What each engine read.
#[derive(Clone, Debug)]
pub struct Readings(pub BTreeMap<String, Reading>);

impl Readings {
    /// What is not the same everywhere; empty where all engines agree.
    pub fn differences(&self) -> Vec<String> {
        let mut differences = vec![];
        let mut first: Option<(&String, u64, &BTreeMap<String, ColumnSum>)> = None;
        for (engine, reading) in &self.0 {
            match (reading, first) {
                (Reading::Failed { error }, _) => differences.push(format!("{engine} fails: {error}")),
                (Reading::Read { rows, columns }, None) => first = Some((engine, *rows, columns)),
                (Reading::Read { rows, columns }, Some((other, other_rows, other_columns))) => {
                    if *rows != other_rows {
                        differences.push(format!("{engine} reads {rows} rows, {other} {other_rows}"));
                    }
                    let names: std::collections::BTreeSet<_> =
                        columns.keys().chain(other_columns.keys()).collect();
                    for name in names.into_iter().filter(|&name| columns.get(name) != other_columns.get(name))
                    {
                        differences.push(format!("{engine} reads other values of {name} than {other}"));
                    }
                }
            }
        }
        differences
    }

    /// The number of rows that all engines read.
    ///
    /// # Panics
    /// Unless every engine read the same rows.
    #[track_caller]
    pub fn assert_same(&self) -> u64 {
        let differences = self.differences();
        assert!(differences.is_empty(), "the readers disagree: {}", differences.join("; "));
        match self.0.values().next() {
            Some(Reading::Read { rows, .. }) => *rows,
            _ => 0,
        }
    }
}

/// Reads all visible files of a stream below `root` with DuckDB, Polars and PyArrow.
pub async fn read_everywhere(root: &Path, stream: impl Into<StreamName>) -> Result<Readings> {
    let request = json!({ "directory": stream.into().directory(root) });
    let mut script = Script::start("readers.py", &request).await?;
    let mut answer = String::new();
    script.stdout.read_to_string(&mut answer).await?;
    script.finish().await?;
    Ok(Readings(serde_json::from_str(&answer).context("the readers gave no answer")?))
}

/// Rows of a query over all visible files of a stream below `root`, which it calls `log`; every value as text.
pub async fn ask(
    root: &Path,
    stream: impl Into<StreamName>,
    query: &str,
) -> Result<Vec<Vec<Option<String>>>> {
    let request = json!({ "directory": stream.into().directory(root), "query": query });
    let mut script = Script::start("ask.py", &request).await?;
    let mut answer = String::new();
    script.stdout.read_to_string(&mut answer).await?;
    script.finish().await?;
    serde_json::from_str(&answer).context("the query has no answer")
}
