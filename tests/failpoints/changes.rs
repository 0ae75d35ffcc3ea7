//! Stopped at every step while a log is followed: what was committed for one stream and not for the other, saved and
//! not released, made at the source and not saved. Every row is there in the end, and no change stands twice.

use lakeward_testkit::lakeward::Project;
use lakeward_testkit::reconcile::{Options, read_everywhere, reconcile};
use lakeward_testkit::server::{PgServer, TestDatabase, Version};
use lakeward_testkit::workload::rounds;
use serde_json::json;

use crate::every_step::{COMMIT, FILES, LOG_BEGUN, LOG_FOLLOWED};
use crate::scene::LAKEWARD;

const TABLES: [&str; 2] = ["a", "b"];

const SQL: &str = "CREATE TABLE a (id int PRIMARY KEY, n int); INSERT INTO a SELECT g, g FROM generate_series(1, 200) g;
    CREATE TABLE b (n int, t text); ALTER TABLE b REPLICA IDENTITY FULL; INSERT INTO b SELECT g % 20, 'b' FROM generate_series(1, 200) g";

/// Two transactions, each in both tables.
const CHANGES: &str = "BEGIN; UPDATE a SET id = -id WHERE id = 7; UPDATE a SET n = n + 1 WHERE id % 9 = 0; INSERT INTO a SELECT max(id) + 1, 0 FROM a;
        DELETE FROM b WHERE ctid = (SELECT min(ctid) FROM b); INSERT INTO b VALUES (3, 'b'), (3, 'b'); COMMIT;
    BEGIN; UPDATE a SET id = -id WHERE id = -7; UPDATE b SET t = t || '.' WHERE n = 5; COMMIT";

async fn database(version: Version) -> TestDatabase {
    let db = PgServer::shared(version).create_database("failpoints").await.unwrap();
    db.execute(SQL).await.unwrap();
    db
}

async fn project(db: &TestDatabase) -> Project {
    let project = Project::new(LAKEWARD, &db.source_config(json!({}))).unwrap();
    project.discover().await.unwrap().assert_ok();
    project.select_only(&TABLES, json!({ "sync_mode": "cdc" })).unwrap();
    project
}

/// A run that aborts where it is told to. Says whether it came there.
async fn aborts(project: &mut Project, name: &str, passage: u32) -> bool {
    project.abort_at(name, passage);
    let output = project.sync(&[]).await.unwrap();
    project.clear_failpoints();
    if output.signal.is_none() {
        output.assert_ok();
    }
    output.signal.is_some()
}

async fn assert_exact(db: &TestDatabase, project: &Project, at: &str) {
    for table in TABLES {
        let report = reconcile(db, &project.lake(), table, &Options::cdc()).await.unwrap();
        assert!(report.is_same(), "{at}: {report}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f42_aborted_while_a_log_is_followed() {
    let version = Version::Pg18;
    let db = database(version).await;
    let mut project = project(&db).await;
    project.sync(&[]).await.unwrap().assert_ok();
    for name in [COMMIT, FILES, LOG_FOLLOWED].concat() {
        let mut aborted = 0;
        for passage in 1..=rounds(2) {
            let at = format!("{name}:{passage}");
            eprintln!("{at}");
            db.execute(CHANGES).await.unwrap();
            aborted += u32::from(aborts(&mut project, name, passage).await);
            project.assert_nothing_forgotten_early(&db).await;
            // More happens before it comes back.
            db.execute(CHANGES).await.unwrap();
            project.sync(&[]).await.unwrap().assert_ok();
            assert_exact(&db, &project, &at).await;
        }
        assert!(aborted > 0, "{name} is never passed while a log is followed");
    }
}

/// A type gets wider: a new generation is shown in one commit with all that was before it, written anew.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f42_aborted_while_a_history_is_rewritten() {
    let db = database(Version::Pg18).await;
    let mut project = project(&db).await;
    let (mut round, mut history) = (0, 0);
    // The destination's own crash tests go through all the others.
    for name in
        ["parquet-merge-staged", "parquet-record-linked", "parquet-file-renamed", "parquet-file-removed"]
    {
        // Each is passed several times: by the commits before the one that shows the new generation, and for each file
        // that is rewritten.
        let mut aborted = 0;
        for passage in 1.. {
            let at = format!("{name}:{passage}");
            eprintln!("{at}");
            round += 1;
            db.execute(&format!("ALTER TABLE a ADD COLUMN w{round} smallint")).await.unwrap();
            for _ in 0..2 {
                project.sync(&[]).await.unwrap().assert_ok();
                db.execute(&format!("{CHANGES}; UPDATE a SET w{round} = 1 WHERE id % 9 = 1")).await.unwrap();
            }
            project.sync(&[]).await.unwrap().assert_ok();
            let widen = format!(
                "ALTER TABLE a ALTER w{round} TYPE int; UPDATE a SET w{round} = 100000 WHERE id % 9 = 0"
            );
            db.execute(&widen).await.unwrap();
            let ended_there = aborts(&mut project, name, passage).await;
            aborted += u32::from(ended_there);
            project.assert_nothing_forgotten_early(&db).await;
            project.sync(&[]).await.unwrap().assert_ok();
            assert_exact(&db, &project, &at).await;
            let rows = read_everywhere(&project.lake(), "a").await.unwrap().assert_same();
            assert!(rows > history + 200, "{at}: {rows} rows, {history} before");
            history = rows;
            if !ended_there || passage >= rounds(4) {
                break;
            }
        }
        assert!(aborted > 0, "{name} is never passed while a history is rewritten");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f42_aborted_while_a_log_is_begun() {
    let db = database(Version::Pg15).await;
    for name in [LOG_BEGUN, COMMIT, FILES].concat() {
        let mut project = project(&db).await;
        assert!(aborts(&mut project, name, 1).await, "{name} is never passed when a log is begun");
        db.execute(CHANGES).await.unwrap();
        project.sync(&[]).await.unwrap().assert_ok();
        db.execute(CHANGES).await.unwrap();
        project.sync(&[]).await.unwrap().assert_ok();
        assert_exact(&db, &project, name).await;
        let slots =
            "SELECT count(*) FROM pg_replication_slots WHERE database = current_database() AND NOT temporary";
        assert_eq!(db.value(slots).await.unwrap().as_deref(), Some("1"), "{name}: a slot is left behind");
        project.run(&["clear", "--all", "--yes"]).await.unwrap().assert_ok();
        assert_eq!(
            db.value(slots).await.unwrap().as_deref(),
            Some("0"),
            "{name}: cleared, and a slot is left"
        );
    }
}
