//! A lake made by hand, so that the reconciler is tested against what Lakeward did not write.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use lakeward_testkit::python;
use lakeward_testkit::reconcile::StreamName;
use serde_json::{Value, json};
use tempfile::TempDir;

/// A row of a log: its system columns and its values, as text.
#[derive(Clone, Debug)]
pub struct Row {
    pub op: &'static str,
    pub seq: String,
    pub unchanged: Option<Vec<&'static str>>,
    pub rescued: Option<Value>,
    pub values: Vec<Value>,
}

impl Row {
    pub fn new(op: &'static str, position: u64, ordinal: u64, values: Vec<Value>) -> Self {
        Row { op, seq: seq(position, ordinal), unchanged: None, rescued: None, values }
    }

    pub fn read(values: Vec<Value>) -> Self {
        Row::new("r", 100, 0, values)
    }
}

pub fn seq(position: u64, ordinal: u64) -> String {
    format!("{:06x}{position:016x}{ordinal:010x}", 1)
}

/// The files of one stream in a temporary directory.
pub struct Lake {
    root: TempDir,
    stream: StreamName,
    columns: Vec<(String, String)>,
}

impl Lake {
    pub fn new(stream: impl Into<StreamName>, columns: &[(&str, &str)]) -> Self {
        let columns = columns.iter().map(|(name, kind)| ((*name).to_owned(), (*kind).to_owned())).collect();
        Lake { root: tempfile::tempdir().unwrap(), stream: stream.into(), columns }
    }

    pub fn root(&self) -> &Path {
        self.root.path()
    }

    /// Writes one file; below a partition's directory if one is given.
    pub fn write(&self, partition: &str, number: u32, rows: &[Row]) -> PathBuf {
        let directory = self.stream.directory(self.root()).join(partition);
        let file = directory.join(format!("1-{number:012}-0123abcd-0.parquet"));
        let rows: Vec<Value> = rows
            .iter()
            .map(|row| {
                let rescued = row.rescued.as_ref().map(Value::to_string);
                let mut cells = vec![json!(row.op), json!(row.seq), json!(row.unchanged), json!(rescued)];
                cells.extend(row.values.iter().cloned());
                Value::Array(cells)
            })
            .collect();
        let request = json!({ "file": file, "columns": self.columns, "rows": rows });
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/lake/write.py");
        let mut python = Command::new(python::interpreter().unwrap());
        let mut child = python.arg("-B").arg(script).stdin(Stdio::piped()).spawn().unwrap();
        serde_json::to_writer(child.stdin.take().unwrap(), &request).unwrap();
        assert!(child.wait().unwrap().success());
        file
    }
}
