//! Committed rows altered behind the commit log's back: what no check of a file's hash can find.

use std::path::Path;

use anyhow::Result;
use serde_json::{Value, json};

use crate::python::Script;

/// Sets columns of the only row of a stream's files that has these values.
pub async fn set(lake: &Path, stream: &str, row: &Value, columns: &Value) -> Result<()> {
    tamper(&json!({ "lake": lake, "stream": stream, "where": row, "set": columns })).await
}

/// Puts the only row of a stream's files that has these values there twice.
pub async fn repeat(lake: &Path, stream: &str, row: &Value) -> Result<()> {
    tamper(&json!({ "lake": lake, "stream": stream, "where": row, "twice": true })).await
}

async fn tamper(request: &Value) -> Result<()> {
    Script::start("tamper.py", request).await?.finish().await
}
