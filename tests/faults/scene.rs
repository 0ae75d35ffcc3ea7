//! One table, one lake, and what every test of faults asks of them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use lakeward_testkit::lakeward::{Output, Project, Running, Signal};
use lakeward_testkit::python;
use lakeward_testkit::reconcile::{Options, reconcile};
use lakeward_testkit::server::{PgServer, TestDatabase, Version};
use lakeward_testkit::workload::Workload;
use serde_json::{Value, json};

/// The program under test.
pub const LAKEWARD: &str = env!("CARGO_BIN_EXE_lakeward");

/// The table of most scenes.
pub const TABLE: &str = "busy";

/// How the table is replicated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    FullRefresh,
    Incremental,
    Cdc,
}

impl How {
    /// What streams.json says of the stream.
    pub fn options(self) -> Value {
        match self {
            How::FullRefresh => json!({ "sync_mode": "full_refresh" }),
            How::Incremental => json!({
                "sync_mode": "incremental", "cursor_field": "updated_at", "cursor_lookback": "10m",
            }),
            How::Cdc => json!({ "sync_mode": "cdc" }),
        }
    }
}

/// A database with a table, and a project that replicates it.
pub struct Scene {
    // First: a run that is still at work must be gone before its database is.
    pub project: Project,
    pub db: TestDatabase,
    pub how: How,
}

impl Scene {
    /// A table of `rows` rows such as [`Workload`] writes to, discovered and selected.
    pub async fn new(server: &PgServer, rows: u64, how: How) -> Self {
        let db = database(server, rows, how).await;
        Self::over(db, how).await
    }

    /// A project over a database that has the table.
    pub async fn over(db: TestDatabase, how: How) -> Self {
        let project = Project::new(LAKEWARD, &db.source_config(json!({}))).unwrap();
        project.discover().await.unwrap().assert_ok();
        project.select_only(&[TABLE], how.options()).unwrap();
        Self { project, db, how }
    }

    /// Another project that replicates the same table, from the beginning.
    pub fn over_same(&self) -> Project {
        let project = Project::new(LAKEWARD, &self.db.source_config(json!({}))).unwrap();
        fs::copy(self.project.file("streams.json"), project.file("streams.json")).unwrap();
        project
    }

    /// Merges fields into source.json.
    pub fn source(&self, overrides: Value) {
        self.project.write("source.json", &self.db.source_config(overrides)).unwrap();
    }

    /// A run with chunks so small that there are many.
    pub fn start(&self, further: &[&str]) -> Running {
        self.project.spawn_sync(&[&["--chunk-size", "128KiB"], further].concat()).unwrap()
    }

    /// Such a run, to its end.
    pub async fn sync(&self, further: &[&str]) -> Output {
        self.start(further).wait_timeout(Duration::from_secs(240)).await.unwrap()
    }

    /// A table that a run follows, which has caught up with a first change.
    pub async fn followed(version: Version) -> (Self, Running) {
        let scene = Self::new(&PgServer::shared(version), 2_000, How::Cdc).await;
        scene.sync(&[]).await.assert_ok();
        let run = scene.follow(&[]).await;
        scene.change(0).await;
        scene.caught_up().await;
        (scene, run)
    }

    /// Starts to follow the log, and waits until it is read.
    pub async fn follow(&self, further: &[&str]) -> Running {
        let run = self.start(&[&["--follow", "--checkpoint-interval", "100ms"], further].concat());
        self.db.until(&self.of_slot("active")).await.expect("the log is read");
        run
    }

    /// Waits until the source was told that all that is in it by now is safe.
    pub async fn caught_up(&self) {
        let confirmed = self.db.confirmed().await.unwrap();
        self.db.until(&confirmed).await.expect("what is written is followed");
    }

    /// Stops a run that follows.
    pub async fn stop(&self, run: Running) -> Output {
        run.signal(Signal::TERM).unwrap();
        let output = run.wait_timeout(Duration::from_secs(15)).await.unwrap();
        output.assert_code(130);
        output
    }

    /// Whether something is true of the pipeline's slot, as a query.
    pub fn of_slot(&self, what: &str) -> String {
        format!(
            "SELECT EXISTS (SELECT FROM pg_replication_slots
             WHERE database = current_database() AND NOT temporary AND {what})"
        )
    }

    /// A run that failed left whole files, and the slot where the state says that all is committed.
    pub async fn assert_unharmed(&self) {
        assert!(self.assert_visible_files_are_whole() > 0, "what was in sight is gone");
        assert_eq!(
            self.db.value(&self.of_slot("true")).await.unwrap().as_deref(),
            Some("t"),
            "the slot is gone"
        );
        self.project.assert_nothing_forgotten_early(&self.db).await;
    }

    /// Changes of all kinds, in one transaction that takes about 3 MB in the log; no two numbers change the same.
    pub async fn change(&self, number: i64) {
        let new = 1_000_000_000 + number * 10_000;
        self.db
            .execute(&format!(
                "BEGIN; UPDATE {TABLE} SET version = version + 1, note = repeat(md5((id + {number})::text), 30) WHERE id % 70 <> 0;
                 UPDATE {TABLE} SET id = id + 1 WHERE id % 500 = 10 * {number}; DELETE FROM {TABLE} WHERE id % 700 = 10 * {number};
                 INSERT INTO {TABLE} SELECT {new} + n * 10, {number}, n, repeat(md5(n::text), 30), NULL FROM generate_series(1, 100) n; COMMIT"
            ))
            .await
            .unwrap();
    }

    /// Every row and value is the source's. Where rows of an incremental stream were deleted at the source, they
    /// may be left over: `deletes` says whether there were such.
    pub async fn assert_exact_but_for(&self, deletes: Deletes) {
        let options = match self.how {
            How::FullRefresh => Options::full_refresh(),
            How::Incremental => Options::incremental(),
            How::Cdc => Options::cdc(),
        };
        let report = reconcile(&self.db, &self.project.lake(), TABLE, &options).await.unwrap();
        assert!(report.rows_source > 0, "nothing was compared");
        if self.how == How::Incremental && deletes == Deletes::Some {
            report.assert_complete();
            assert!(report.columns.is_empty(), "rows of keys that the source has differ: {report}");
        } else {
            report.assert_same();
        }
        if self.how == How::Incremental {
            assert_eq!(self.row_versions_that_stand_twice().await, 0, "row versions stand twice in the log");
        }
    }

    /// Every row and value is the source's, and nothing else is there.
    pub async fn assert_exact(&self) {
        self.assert_exact_but_for(Deletes::None).await;
    }

    /// Rows of the whole log, old versions included, that are the same in all of the source's columns.
    pub async fn row_versions_that_stand_twice(&self) -> u64 {
        let script = "
import sys, duckdb
files = ', '.join(\"'\" + name.replace(\"'\", \"''\") + \"'\" for name in sys.argv[1:])
system = '_lw_op, _lw_seq, _lw_commit_ts, _lw_synced_at, _lw_unchanged, _lw_rescued'
log = f'(SELECT * EXCLUDE ({system}) FROM read_parquet([{files}], union_by_name = true, hive_partitioning = false))'
print(duckdb.connect().execute(f'SELECT (SELECT count(*) FROM {log}) - (SELECT count(*) FROM (SELECT DISTINCT * FROM {log}))').fetchone()[0])";
        let files = self.project.visible_files(TABLE);
        let mut command = tokio::process::Command::new(python::interpreter().unwrap());
        let output = command.args(["-c", script]).args(files).output().await.unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        said.trim().parse().unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)))
    }

    /// Where the destination keeps its own records of the stream.
    pub fn meta(&self) -> PathBuf {
        self.project.stream_meta(TABLE)
    }

    /// The commit log, in its order.
    pub fn log(&self) -> Vec<Value> {
        self.project.commit_log(TABLE).unwrap()
    }

    /// By number, the rows of every chunk that stands committed in the newest generation.
    pub fn chunks(&self) -> BTreeMap<u64, u64> {
        let log = self.log();
        let newest = log.last().map(|record| record["generation"].clone());
        let chunks = log.iter().filter(|record| Some(&record["generation"]) == newest.as_ref());
        let chunks = chunks.filter(|record| !record["chunk"].is_null()).map(|record| {
            let chunk = &record["chunk"];
            (chunk["number"].as_u64().unwrap(), chunk["rows"].as_u64().unwrap())
        });
        chunks.collect()
    }

    fn newest_is_shown(&self) -> bool {
        let log = self.log();
        let newest = log.last().map(|record| &record["generation"]);
        log.iter().any(|record| Some(&record["generation"]) == newest && !record["swap"].is_null())
    }

    /// Waits until so many chunks stand committed of the generation that a run reads.
    pub async fn wait_for_chunks(&self, run: &mut Running, wanted: usize) {
        let start = Instant::now();
        // A generation that is shown already is of a run before this one.
        while self.newest_is_shown() || self.chunks().len() < wanted {
            assert!(!run.has_ended().unwrap(), "the run ended before {wanted} chunks were committed");
            assert!(start.elapsed() < Duration::from_secs(90), "{wanted} chunks take too long");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Every file that a reader finds has its footer: nothing half-written is in sight. Returns how many there are.
    pub fn assert_visible_files_are_whole(&self) -> usize {
        let files = self.project.visible_files(TABLE);
        for file in &files {
            match footer(file) {
                Ok(()) => {}
                // Replaced while we looked.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => panic!("{} is not whole: {error}", file.display()),
            }
        }
        files.len()
    }
}

/// Whether rows were deleted at the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deletes {
    None,
    Some,
}

/// A database with a table of `rows` rows, most of them a day or more old.
pub async fn database(server: &PgServer, rows: u64, how: How) -> TestDatabase {
    let db = server.create_database("faults").await.unwrap();
    Workload::new(TABLE, 0, 0).create_table(&db, rows).await.unwrap();
    if how == How::Incremental {
        // An application whose every write moves the cursor.
        db.execute(&format!(
            "UPDATE {TABLE} SET updated_at = now() - interval '1 day' * (1 + id % 5) WHERE id % 40 <> 0;
             CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS
                 $$ BEGIN NEW.updated_at := clock_timestamp(); RETURN NEW; END $$;
             CREATE TRIGGER touch BEFORE INSERT OR UPDATE ON {TABLE} FOR EACH ROW EXECUTE FUNCTION touch()"
        ))
        .await
        .unwrap();
    }
    db.execute(&format!("VACUUM ANALYZE {TABLE}")).await.unwrap();
    db
}

/// A Parquet file begins and ends with its mark, and its footer fits into it.
fn footer(path: &Path) -> std::io::Result<()> {
    let mut file = fs::File::open(path)?;
    let length = file.metadata()?.len();
    let wrong = |what: &str| Err(std::io::Error::other(format!("{what}, {length} bytes")));
    if length < 12 {
        return wrong("too short");
    }
    let (mut head, mut tail) = ([0; 4], [0; 8]);
    file.read_exact(&mut head)?;
    file.seek(SeekFrom::End(-8))?;
    file.read_exact(&mut tail)?;
    let (size, mark) = tail.split_at(4);
    let size = u64::from(u32::from_le_bytes(size.try_into().map_err(std::io::Error::other)?));
    if head != *b"PAR1" || mark != b"PAR1" || size + 12 > length {
        return wrong("no footer");
    }
    Ok(())
}

/// Copies a directory with all that is in it.
pub fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_tree(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// The one event of a kind.
pub fn event<'a>(output: &'a Output, kind: &str) -> &'a Value {
    let found = output.events_of(kind);
    assert_eq!(found.len(), 1, "events {kind} in:\n{}", output.stderr);
    found[0]
}

/// The run ended with this code, and all of these words are in what it said.
#[track_caller]
pub fn assert_refused(output: &Output, code: i32, words: &[&str]) {
    output.assert_code(code);
    for word in words {
        assert!(output.stderr.contains(word), "\"{word}\" is not in:\n{}", output.stderr);
    }
}

/// Lets a run come to its end, looking at all visible files all the while.
pub async fn footer_polls(scene: &Scene, mut run: Running) -> Output {
    let start = Instant::now();
    while !run.has_ended().unwrap() {
        scene.assert_visible_files_are_whole();
        assert!(start.elapsed() < Duration::from_secs(120), "the run does not end");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    run.wait_timeout(Duration::from_secs(10)).await.unwrap()
}

/// What is in sight is one generation and nothing of another, whole: as many files as the log says.
///
/// Where a pass of an incremental stream was committed and not published, its files may be missing.
pub fn assert_visible_generation(scene: &Scene) {
    scene.assert_visible_files_are_whole();
    let files = scene.project.visible_files(TABLE);
    let names = files.iter().filter_map(|file| file.file_name()?.to_str());
    let mut generations: Vec<&str> = names.filter_map(|name| Some(name.split_once('-')?.0)).collect();
    generations.dedup();
    assert!(generations.len() <= 1, "files of several generations are in sight: {files:?}");
    let Some(generation) = generations.first().and_then(|text| text.parse::<u64>().ok()) else { return };
    let mut committed = BTreeSet::new();
    let mut backfilled = BTreeSet::new();
    for record in scene.log().iter().filter(|record| record["generation"] == generation) {
        for path in record["remove"].as_array().into_iter().flatten() {
            committed.remove(path.as_str().unwrap());
            backfilled.remove(path.as_str().unwrap());
        }
        for file in record["add"].as_array().into_iter().flatten() {
            let path = file["path"].as_str().unwrap().to_owned();
            if !record["chunk"].is_null() {
                backfilled.insert(path.clone());
            }
            committed.insert(path);
        }
    }
    let root = scene.project.stream_directory(TABLE);
    let visible: BTreeSet<String> =
        files.iter().map(|file| file.strip_prefix(&root).unwrap().to_str().unwrap().to_owned()).collect();
    assert!(visible.is_subset(&committed), "files that no commit has are in sight: {visible:?}");
    assert!(
        backfilled.is_subset(&visible),
        "half of a generation is in sight: {visible:?} of {backfilled:?}"
    );
}
