//! Stopped at every step while a log is followed: what was committed for one stream and not for the other, saved and
//! not released, made at the source and not saved. Every row is there in the end, and no change stands twice.

use std::fs::File;
use std::time::{Duration, Instant};

use lakeward_testkit::lakeward::{Project, Signal};
use lakeward_testkit::on_both;
use lakeward_testkit::reconcile::{Options, read_everywhere, reconcile};
use lakeward_testkit::server::{PgServer, Version};
use lakeward_testkit::workload::rounds;
use serde_json::Value;

use crate::every_step::{COMMIT, FILES, LOG_BEGUN, LOG_FOLLOWED, is_of_taking_over};
use crate::followed::Followed;

on_both!(f42_aborted_while_a_log_is_followed, super::while_a_log_is_followed);
on_both!(f42_aborted_between_two_streams_commits, super::between_two_streams_commits);
on_both!(f42_aborted_while_a_history_is_rewritten, super::while_a_history_is_rewritten);
on_both!(f42_aborted_while_a_log_is_begun, super::while_a_log_is_begun);

pub const TABLES: [&str; 2] = ["a", "b"];

const SQL: &str = "CREATE TABLE a (id int PRIMARY KEY, n int); INSERT INTO a SELECT g, g FROM generate_series(1, 200) g;
    CREATE TABLE b (n int, t text); ALTER TABLE b REPLICA IDENTITY FULL; INSERT INTO b SELECT g % 20, 'b' FROM generate_series(1, 200) g";

/// Two transactions, each in both tables.
pub const CHANGES: &str = "BEGIN; UPDATE a SET id = -id WHERE id = 7; UPDATE a SET n = n + 1 WHERE id % 9 = 0; INSERT INTO a SELECT max(id) + 1, 0 FROM a;
        DELETE FROM b WHERE ctid = (SELECT min(ctid) FROM b); INSERT INTO b VALUES (3, 'b'), (3, 'b'); COMMIT;
    BEGIN; UPDATE a SET id = -id WHERE id = -7; UPDATE b SET t = t || '.' WHERE n = 5; COMMIT";

/// One transaction in both tables.
pub const CHANGE: &str = "UPDATE a SET n = n + 1 WHERE id % 9 = 0; UPDATE b SET t = t || '.' WHERE n = 5";

/// All there is at once in one checkpoint: a bounded run has no other then.
pub const ONE_CHECKPOINT: [&str; 2] = ["--checkpoint-interval", "60s,64MiB"];

/// A checkpoint behind each transaction, and no other.
pub const FOLLOW: [&str; 3] = ["--follow", "--checkpoint-interval", "60s,1B"];

/// Both tables, followed from now on.
pub async fn followed(version: Version) -> Followed {
    let scene = Followed::new(&PgServer::shared(version), SQL, &TABLES).await;
    scene.sync().await;
    scene
}

/// How far the commit logs of both tables had come.
pub struct Logs([usize; 2]);

impl Logs {
    pub fn now(project: &Project) -> Self {
        Self(TABLES.map(|table| project.commit_log(table).unwrap().len()))
    }

    /// What each record since then is.
    pub fn since(&self, project: &Project) -> [Vec<String>; 2] {
        let of = |n: usize| {
            let log = project.commit_log(TABLES[n]).unwrap();
            log[self.0[n]..].iter().map(|record| kinds(&record["kind"])).collect()
        };
        [of(0), of(1)]
    }

    /// How many records of this kind there are since then.
    pub fn count(&self, project: &Project, kind: &str) -> usize {
        self.since(project).iter().flatten().filter(|kinds| kinds.contains(kind)).count()
    }
}

fn kinds(kinds: &Value) -> String {
    let kinds: Vec<&str> = kinds.as_array().unwrap().iter().filter_map(Value::as_str).collect();
    kinds.join(" ")
}

/// A run that aborts where it is told to. Says whether it came there.
async fn aborts(project: &mut Project, name: &str, passage: u32) -> bool {
    project.abort_at(name, passage);
    let output = project.sync(&ONE_CHECKPOINT).await.unwrap();
    project.clear_failpoints();
    if output.signal.is_none() {
        output.assert_ok();
    }
    output.signal.is_some()
}

pub async fn assert_exact(scene: &Followed, at: &str) {
    for table in TABLES {
        let report = reconcile(&scene.db, &scene.project.lake(), table, &Options::cdc()).await.unwrap();
        assert!(report.is_same(), "{at}: {report}");
    }
}

/// Which passages of a place are worth it. Before a run reads anything it takes both streams over, with a record each,
/// and saves where the log is. Its one checkpoint has a file and a record for each stream.
fn passages(name: &str) -> &'static [u32] {
    match name {
        _ if is_of_taking_over(name) => &[1, 3, 4],
        "parquet-claim-linked" | "state-written" | "state-renamed" => &[1, 2],
        _ if FILES.contains(&name) => &[1, 2],
        _ => &[1],
    }
}

async fn while_a_log_is_followed(version: Version) {
    let mut scene = followed(version).await;
    for _ in 0..rounds(1) {
        for name in [&["parquet-claim-linked"], COMMIT, FILES, LOG_FOLLOWED].concat() {
            for passage in passages(name) {
                let at = format!("{name}:{passage}");
                eprintln!("{at}");
                scene.sql(CHANGES).await;
                let logs = Logs::now(&scene.project);
                assert!(aborts(&mut scene.project, name, *passage).await, "{at} is not passed");
                let early = is_of_taking_over(name) && *passage == 1 || name == "parquet-claim-linked";
                if !early {
                    assert_eq!(logs.count(&scene.project, "claim"), 2, "{at} is not in the checkpoint");
                }
                scene.assert_nothing_forgotten_early().await;
                // More happens before it comes back.
                scene.sql(CHANGES).await;
                scene.sync().await;
                assert_exact(&scene, &at).await;
            }
        }
    }
}

/// A checkpoint is committed for one stream and not for the other: the log is read from before both, and who has it
/// drops it.
async fn between_two_streams_commits(version: Version) {
    let mut scene = followed(version).await;
    for (late, arguments) in [(0, &ONE_CHECKPOINT[..]), (1, &ONE_CHECKPOINT), (0, &FOLLOW), (1, &FOLLOW)] {
        let at = format!("{} is late, {arguments:?}", TABLES[late]);
        scene.sql(CHANGE).await;
        let logs = Logs::now(&scene.project);
        // The third record is the first of the checkpoint.
        scene.project.set_failpoints("engine-log-followable=sleep(1500);parquet-commits-synced:3=abort");
        let mut run = scene.start(arguments);
        let start = Instant::now();
        while logs.count(&scene.project, "claim") < 2 {
            assert!(
                !run.has_ended().unwrap() && start.elapsed() < Duration::from_secs(30),
                "no claims, {at}"
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        // As another process does that moves the stream's files: its commit waits, for longer than the other's takes.
        let lock = File::options().write(true).open(scene.project.stream_meta(TABLES[late]).join("lock"));
        let lock = lock.unwrap();
        lock.lock().unwrap();
        assert_eq!(logs.count(&scene.project, "data"), 0, "it was too fast, {at}");
        let output = run.wait_timeout(Duration::from_secs(25)).await.unwrap();
        drop(lock);
        scene.project.clear_failpoints();
        assert_eq!(output.signal, Some(Signal::ABORT.as_raw()), "{at}:\n{}", output.stderr);
        let mut expected = [["claim", "data"].as_slice(), &["claim", "data"]];
        expected[late] = &["claim"];
        assert_eq!(logs.since(&scene.project), expected, "{at}");
        scene.assert_nothing_forgotten_early().await;

        let logs = Logs::now(&scene.project);
        scene.sync().await;
        expected.reverse();
        assert_eq!(logs.since(&scene.project), expected, "{at}: not what was missing was committed");
        assert_exact(&scene, &at).await;
        scene.sql(CHANGES).await;
        scene.sync().await;
        assert_exact(&scene, &at).await;
    }
}

/// A type gets wider: a new generation is shown in one commit with all that was before it, written anew.
async fn while_a_history_is_rewritten(version: Version) {
    let mut scene = followed(version).await;
    let (mut round, mut history) = (0, 0);
    // The destination's own crash tests go through all the others.
    for name in
        ["parquet-merge-staged", "parquet-record-linked", "parquet-file-renamed", "parquet-file-removed"]
    {
        // Each is passed several times: by the commits before the one that shows the new generation, and for each file
        // that is rewritten. It is long: the versions take turns.
        let first = if version == Version::Pg15 { 1 } else { 2 };
        let mut aborted = 0;
        for passage in (first..=rounds(4).max(2)).step_by(Version::ALL.len()) {
            let at = format!("{name}:{passage}");
            eprintln!("{at}");
            round += 1;
            scene.sql(&format!("ALTER TABLE a ADD COLUMN w{round} smallint")).await;
            for _ in 0..2 {
                scene.sync().await;
                scene.sql(&format!("{CHANGES}; UPDATE a SET w{round} = 1 WHERE id % 9 = 1")).await;
            }
            scene.sync().await;
            let widen = format!(
                "ALTER TABLE a ALTER w{round} TYPE int; UPDATE a SET w{round} = 100000 WHERE id % 9 = 0"
            );
            scene.sql(&widen).await;
            let ended_there = aborts(&mut scene.project, name, passage).await;
            aborted += u32::from(ended_there);
            scene.assert_nothing_forgotten_early().await;
            scene.sync().await;
            assert_exact(&scene, &at).await;
            let rows = read_everywhere(&scene.project.lake(), "a").await.unwrap().assert_same();
            assert!(rows > history + 200, "{at}: {rows} rows, {history} before");
            history = rows;
            if !ended_there {
                break;
            }
        }
        assert!(aborted > 0, "{name} is never passed while a history is rewritten");
    }
}

async fn while_a_log_is_begun(version: Version) {
    let mut scene = Followed::new(&PgServer::shared(version), SQL, &TABLES).await;
    for name in [LOG_BEGUN, COMMIT, FILES].concat() {
        assert!(aborts(&mut scene.project, name, 1).await, "{name} is never passed when a log is begun");
        scene.sql(CHANGES).await;
        scene.sync().await;
        scene.sql(CHANGES).await;
        scene.sync().await;
        assert_exact(&scene, name).await;
        let slots =
            "SELECT count(*) FROM pg_replication_slots WHERE database = current_database() AND NOT temporary";
        assert_eq!(scene.value(slots).await, "1", "{name}: a slot is left behind");
        scene.project.run(&["clear", "--all", "--yes"]).await.unwrap().assert_ok();
        assert_eq!(scene.value(slots).await, "0", "{name}: cleared, and a slot is left");
    }
}
