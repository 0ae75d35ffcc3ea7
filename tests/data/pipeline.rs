//! A database, a project that replicates it, and questions to what arrived.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Stdio;

use lakeward_testkit::lakeward::{Output, Project};
use lakeward_testkit::reconcile::{Options, Reading, Report, StreamName, ask, read_everywhere, reconcile};
use lakeward_testkit::server::{PgServer, TestDatabase, Version};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

/// The program under test.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_lakeward");

/// One database, and one project whose source it is.
pub(crate) struct Pipeline {
    pub(crate) db: TestDatabase,
    pub(crate) project: Project,
}

impl Pipeline {
    /// A new database made by this SQL, with all its streams discovered.
    pub(crate) async fn new(version: Version, sql: &str) -> Self {
        Self::with(version, json!({}), sql).await
    }

    /// The same, with fields of `source.json`.
    pub(crate) async fn with(version: Version, overrides: Value, sql: &str) -> Self {
        let db = database(version, sql).await;
        let project = Project::new(PROGRAM, &db.source_config(overrides)).unwrap();
        project.discover().await.unwrap().assert_ok();
        Self { db, project }
    }

    /// Runs SQL at the source.
    pub(crate) async fn sql(&self, sql: &str) {
        self.db.execute(sql).await.unwrap();
    }

    /// Syncs, which must go well.
    pub(crate) async fn sync(&self) -> Output {
        let output = self.project.sync(&[]).await.unwrap();
        output.assert_ok();
        output
    }

    /// Selects only this stream with these choices, and syncs.
    pub(crate) async fn sync_as(&self, stream: impl Into<StreamName>, choices: Value) -> Output {
        self.choose(stream, choices);
        self.sync().await
    }

    /// Selects only this stream with exactly these choices.
    pub(crate) fn choose(&self, stream: impl Into<StreamName>, choices: Value) {
        self.project.select_only(&[], json!({})).unwrap();
        self.project.select(stream, choices).unwrap();
    }

    /// Compares a stream with its table.
    pub(crate) async fn report(&self, stream: impl Into<StreamName>, options: &Options) -> Report {
        reconcile(&self.db, &self.project.lake(), stream, options).await.unwrap()
    }

    /// Every row of the table stands in the lake, every value the same, and nothing else does.
    pub(crate) async fn assert_same(&self, stream: impl Into<StreamName>, options: &Options) -> Report {
        let report = self.report(stream, options).await;
        report.assert_same();
        report
    }

    /// DuckDB, Polars and PyArrow read the same rows. What each read of the data columns.
    pub(crate) async fn readings(&self, stream: impl Into<StreamName>) -> (u64, BTreeMap<String, String>) {
        let readings = read_everywhere(&self.project.lake(), stream).await.unwrap();
        let rows = readings.assert_same();
        let mut sums = BTreeMap::new();
        for reading in readings.0.values() {
            if let Reading::Read { columns, .. } = reading {
                let data = columns.iter().filter(|(name, _)| *name != "_lw_synced_at");
                sums.extend(data.map(|(name, sum)| (name.clone(), format!("{} {}", sum.nulls, sum.hash))));
            }
        }
        (rows, sums)
    }

    /// Rows of a query over all visible files of a stream, which it calls `log`; every value as text.
    pub(crate) async fn ask(&self, stream: impl Into<StreamName>, query: &str) -> Vec<Vec<Option<String>>> {
        ask(&self.project.lake(), stream, query).await.unwrap()
    }

    /// The one value of such a query.
    pub(crate) async fn ask_one(&self, stream: impl Into<StreamName>, query: &str) -> Option<String> {
        let rows = self.ask(stream, query).await;
        assert!(rows.len() == 1 && rows[0].len() == 1, "one value: {rows:?}");
        rows[0][0].clone()
    }

    /// How many rows the visible files of a stream hold.
    pub(crate) async fn rows(&self, stream: impl Into<StreamName>) -> u64 {
        self.ask_one(stream, "SELECT count(*) FROM log").await.unwrap().parse().unwrap()
    }

    /// What the state says of a stream.
    pub(crate) fn state_of(&self, stream: &str) -> Value {
        let (namespace, name) = stream.split_once('.').unwrap_or(("public", stream));
        let state = self.project.state().unwrap();
        let streams = state["streams"].as_array().unwrap();
        let found = streams.iter().find(|entry| entry["namespace"] == namespace && entry["stream"] == name);
        found.unwrap_or_else(|| panic!("{stream} is not in the state")).clone()
    }

    /// The number of a stream's generation.
    pub(crate) fn generation(&self, stream: &str) -> u64 {
        self.state_of(stream)["generation"].as_u64().unwrap()
    }
}

/// A new database made by this SQL.
pub(crate) async fn database(version: Version, sql: &str) -> TestDatabase {
    let db = PgServer::shared(version).create_database("data").await.unwrap();
    if !sql.is_empty() {
        db.execute(sql).await.unwrap();
    }
    db
}

/// What a run's summary says of a stream.
pub(crate) fn summary_of(output: &Output, stream: &str) -> Value {
    let summary = output.events.iter().find(|event| event["event"] == "summary");
    let summary = summary.unwrap_or_else(|| panic!("no summary in {}", output.stderr));
    let found = summary["streams"].as_array().unwrap().iter().find(|entry| entry["stream"] == stream);
    found.unwrap_or_else(|| panic!("{stream} is not in the summary: {summary}")).clone()
}

/// The counts of replaced values in a run's summary, by column.
pub(crate) fn bad_values(output: &Output, stream: &str) -> BTreeMap<String, u64> {
    serde_json::from_value::<Vec<(String, u64)>>(summary_of(output, stream)["bad_values"].clone())
        .unwrap()
        .into_iter()
        .collect()
}

/// Runs a Python script with a JSON request on its standard input; what it prints.
pub(crate) async fn python(script: &str, request: &Value) -> String {
    let mut command = tokio::process::Command::new(lakeward_testkit::python::interpreter().unwrap());
    command.args(["-B", "-c", script]).env("TZ", "UTC").kill_on_drop(true);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let request = request.to_string();
    let write = async move {
        let _ = stdin.write_all(request.as_bytes()).await;
    };
    let ((), output) = tokio::join!(write, child.wait_with_output());
    let output = output.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Every file below a directory, hidden ones too.
pub(crate) fn all_files(directory: &Path) -> Vec<std::path::PathBuf> {
    let (mut found, mut directories) = (vec![], vec![directory.to_owned()]);
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            match entry.path() {
                path if path.is_dir() => directories.push(path),
                path => found.push(path),
            }
        }
    }
    found.sort();
    found
}
