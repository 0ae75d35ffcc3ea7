//! A database whose tables are followed, and questions to source, state and destination.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use lakeward_testkit::lakeward::{Output, Project, Running};
use lakeward_testkit::python;
use lakeward_testkit::reconcile::{Options, Report, reconcile};
use lakeward_testkit::server::{PgServer, TestDatabase};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

const LAKEWARD: &str = env!("CARGO_BIN_EXE_lakeward");

/// A database and a project in which its streams are of mode cdc.
pub struct Followed {
    // First: a run that is still at work must be gone before its database is.
    pub project: Project,
    pub db: TestDatabase,
}

impl Followed {
    /// A new database made by this SQL; these of its tables are followed.
    pub async fn new(server: &PgServer, sql: &str, tables: &[&str]) -> Self {
        let db = server.create_database("changes").await.unwrap();
        db.execute(sql).await.unwrap();
        Self::over(db, json!({}), tables).await
    }

    /// The same over a database that is there, with fields of source.json.
    pub async fn over(db: TestDatabase, overrides: Value, tables: &[&str]) -> Self {
        let project = Project::new(LAKEWARD, &db.source_config(overrides)).unwrap();
        project.discover().await.unwrap().assert_ok();
        project.select_only(tables, json!({ "sync_mode": "cdc" })).unwrap();
        Self { project, db }
    }

    /// Merges fields into source.json.
    pub fn source(&self, overrides: Value) {
        self.project.write("source.json", &self.db.source_config(overrides)).unwrap();
    }

    pub async fn sql(&self, sql: &str) {
        self.db.execute(sql).await.unwrap();
    }

    pub async fn value(&self, sql: &str) -> String {
        self.db.value(sql).await.unwrap().unwrap_or_default()
    }

    pub fn start(&self, further: &[&str]) -> Running {
        self.project.spawn_sync(further).unwrap()
    }

    /// A run to its end, whatever that is.
    pub async fn run(&self, further: &[&str]) -> Output {
        self.start(further).wait_timeout(Duration::from_secs(180)).await.unwrap()
    }

    /// A run to its end, which must be good.
    pub async fn sync(&self) -> Output {
        let output = self.run(&[]).await;
        output.assert_ok();
        output
    }

    /// Every row and value of a table is in the latest view of its log, nothing else is, and nothing stands twice.
    pub async fn assert_same(&self, table: &str) -> Report {
        self.assert_same_as(table, &Options::cdc()).await
    }

    pub async fn assert_same_as(&self, table: &str, options: &Options) -> Report {
        let report = reconcile(&self.db, &self.project.lake(), table, options).await.unwrap();
        report.assert_same();
        report
    }

    /// What DuckDB selects of a table's printed view.
    pub async fn asked_of_view(&self, table: &str, what: &str) -> String {
        let view = self.project.run(&["view", table, "--engine", "duckdb"]).await.unwrap();
        let python = python::interpreter().unwrap();
        let ask = "import duckdb, sys; print(duckdb.connect().execute(f'SELECT {sys.argv[2]} FROM ({sys.argv[1]})').fetchall())";
        let mut command = tokio::process::Command::new(python);
        let found = command.args(["-c", ask, &view.stdout, what]).output().await.unwrap();
        String::from_utf8_lossy(&found.stdout).trim().to_owned()
    }

    /// The pipeline's slot, where it has one: a column of `pg_replication_slots` as text.
    pub async fn slot(&self, column: &str) -> Option<String> {
        let sql = format!(
            "SELECT (SELECT {column}::text FROM pg_replication_slots WHERE database = current_database() AND NOT temporary)"
        );
        self.db.value(&sql).await.unwrap()
    }

    /// Drops the pipeline's slot, as somebody may who frees the disk.
    pub async fn drop_slot(&self) {
        for _ in 0..100 {
            let sql = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = current_database()";
            if self.db.execute(sql).await.is_ok() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("the slot cannot be dropped");
    }

    pub async fn assert_nothing_forgotten_early(&self) {
        self.project.assert_nothing_forgotten_early(&self.db).await;
    }

    /// Runs statements again and again, each time those that come of the next number, with a pause behind each.
    pub async fn keep_writing(
        &self,
        pause: Duration,
        sql: impl Fn(i32) -> String + Send + 'static,
    ) -> KeptWriting {
        let over = Arc::new(AtomicBool::new(false));
        let (ends, client) = (over.clone(), self.db.client().await.unwrap());
        let task = tokio::spawn(async move {
            let mut n = 0;
            while !ends.load(Ordering::SeqCst) {
                client.batch_execute(&sql(n)).await.unwrap();
                tokio::time::sleep(pause).await;
                n += 1;
            }
            n
        });
        KeptWriting { over, task }
    }

    /// Waits until this query says `t`, while the run goes on.
    pub async fn until(&self, run: &mut Running, sql: &str) {
        let start = Instant::now();
        while self.value(sql).await != "t" {
            assert!(!run.has_ended().unwrap(), "the run ended before: {sql}");
            assert!(start.elapsed() < Duration::from_secs(60), "it takes too long: {sql}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits until a run has confirmed all that is in the log by now.
    pub async fn caught_up(&self, run: &mut Running) {
        let confirmed = self.db.confirmed().await.unwrap();
        self.until(run, &confirmed).await;
    }
}

/// Statements that are run until they are stopped.
pub struct KeptWriting {
    over: Arc<AtomicBool>,
    task: JoinHandle<i32>,
}

impl KeptWriting {
    /// Lets the last ones end, and says how often they ran.
    pub async fn stop(self) -> i32 {
        self.over.store(true, Ordering::SeqCst);
        self.task.await.unwrap()
    }
}
