//! Whether chunks of an earlier session are still what a new one would read.

use std::sync::Arc;

use lakeward_core::{Chunk, ConfiguredStream, DoneChunk, DriverInterface, Session};
use lakeward_postgres::PostgresDriver;
use serde_json::{Value, json};

use crate::support::{Database, VERSIONS, configured, read};

struct Read {
    plan: Vec<Chunk>,
    done: Vec<DoneChunk>,
    session: Session,
}

/// Reads a stream under a session that ends.
async fn read_once(driver: &PostgresDriver, stream: &Arc<ConfiguredStream>) -> Read {
    let session = driver.begin_backfill(stream).await.unwrap();
    let plan = driver.get_or_split_chunks(stream, &session, None, 256 << 10).await.unwrap();
    let mut done = Vec::new();
    for chunk in &plan {
        let rows = read(driver, stream, chunk, &session).await.unwrap().len() as u64;
        done.push(DoneChunk { rows, snapshot: session.snapshot.clone() });
    }
    driver.end_backfill(session.clone()).await;
    Read { plan, done, session }
}

/// Which chunks are still good under a new session.
async fn verify(driver: &PostgresDriver, stream: &Arc<ConfiguredStream>, read: &Read) -> Vec<bool> {
    let session = driver.begin_backfill(stream).await.unwrap();
    let plan = driver.get_or_split_chunks(stream, &session, Some(&read.plan), 256 << 10).await.unwrap();
    let mut result = Vec::new();
    for (chunk, done) in plan.iter().zip(&read.done) {
        result.push(driver.verify_chunk(stream, chunk, done, &session).await.unwrap());
    }
    driver.end_backfill(session).await;
    result
}

async fn table(db: &Database) {
    db.run(
        "DROP TABLE IF EXISTS t; CREATE TABLE t (id int PRIMARY KEY, pad text);
         INSERT INTO t SELECT g, repeat('x', 200) FROM generate_series(1, 10000) g",
    )
    .await;
    db.settle().await;
}

#[tokio::test]
async fn only_chunks_whose_rows_changed_are_read_again() {
    for version in VERSIONS {
        let db = Database::create(version, "verify").await;
        let driver = db.driver();
        for selection in [json!({}), json!({"chunk_column": "id"}), json!({"filter": "id > 100"})] {
            table(&db).await;
            let stream = configured(&driver, "t", selection.clone()).await;
            let first = read_once(&driver, &stream).await;
            assert!(first.plan.len() > 5);
            let last = first.plan.len() - 1;
            assert_eq!(verify(&driver, &stream, &first).await, vec![true; last + 1]);

            // A deleted row: its chunk only.
            db.run("DELETE FROM t WHERE id = 150").await;
            let good = verify(&driver, &stream, &first).await;
            assert!(!good[0] && good[1..].iter().all(|good| *good), "{good:?}");

            // An update moves a row: from one chunk to another by place, within one by key.
            table(&db).await;
            let stream = configured(&driver, "t", selection.clone()).await;
            let first = read_once(&driver, &stream).await;
            db.run("UPDATE t SET pad = 'y' || pad WHERE id BETWEEN 5000 AND 5010").await;
            let good = verify(&driver, &stream, &first).await;
            assert!(good.iter().filter(|good| !**good).count() <= 3, "{good:?}");
            assert!(good.contains(&false) && good[0], "{good:?}");

            // As many rows in as out: the count alone would not see it.
            table(&db).await;
            let stream = configured(&driver, "t", selection).await;
            let first = read_once(&driver, &stream).await;
            db.run("DELETE FROM t WHERE id = 10000; INSERT INTO t VALUES (10000, repeat('z', 200))").await;
            assert!(!verify(&driver, &stream, &first).await[last]);
        }
    }
}

#[tokio::test]
async fn transactions_open_at_the_first_snapshot_are_new_to_the_second() {
    for version in VERSIONS {
        let db = Database::create(version, "open").await;
        table(&db).await;
        let driver = db.driver();
        let stream = configured(&driver, "t", json!({})).await;
        let writer = db.connect().await;
        // Subtransactions within, one of them rolled back; later transactions end before the snapshot.
        writer
            .batch_execute("BEGIN; SAVEPOINT a; UPDATE t SET pad = 'open' WHERE id = 1; SAVEPOINT b; DELETE FROM t WHERE id = 2; ROLLBACK TO b; SAVEPOINT c; INSERT INTO t VALUES (20000, 'late')")
            .await
            .unwrap();
        db.run("INSERT INTO t VALUES (15000, 'done')").await;
        let first = read_once(&driver, &stream).await;
        writer.batch_execute("COMMIT").await.unwrap();
        let good = verify(&driver, &stream, &first).await;
        assert!(!good[0], "{good:?}");
        assert!(!good[good.len() - 1], "{good:?}");
        assert!(good[1..good.len() - 1].iter().all(|good| *good), "{good:?}");

        // One that rolls back changes nothing.
        table(&db).await;
        let stream = configured(&driver, "t", json!({})).await;
        writer.batch_execute("BEGIN; DELETE FROM t WHERE id < 5000").await.unwrap();
        let first = read_once(&driver, &stream).await;
        writer.batch_execute("ROLLBACK").await.unwrap();
        assert!(verify(&driver, &stream, &first).await.iter().all(|good| *good));
        // Freezing keeps a row's version.
        db.run("VACUUM (FREEZE) t").await;
        assert!(verify(&driver, &stream, &first).await.iter().all(|good| *good));
    }
}

#[tokio::test]
async fn what_was_rewritten_or_altered_has_another_fingerprint() {
    for version in VERSIONS {
        let db = Database::create(version, "fingerprint").await;
        db.run("CREATE TYPE mood AS ENUM ('a', 'b'); CREATE TABLE e (id int PRIMARY KEY, m mood, x text)")
            .await;
        let driver = db.driver();
        let print = async |selection: Value| {
            let stream = configured(&driver, "e", selection).await;
            let session = driver.begin_backfill(&stream).await.unwrap();
            driver.end_backfill(session.clone()).await;
            session.fingerprint
        };
        let first = print(json!({})).await;
        assert_eq!(print(json!({})).await, first);
        db.run("VACUUM FULL e").await;
        let rewritten = print(json!({})).await;
        assert_eq!(rewritten.schema, first.schema);
        assert_ne!(rewritten.relations, first.relations);
        assert_eq!(
            rewritten.relations.keys().collect::<Vec<_>>(),
            first.relations.keys().collect::<Vec<_>>()
        );
        let mut seen = vec![rewritten.schema];
        for change in [
            "ALTER TYPE mood RENAME VALUE 'a' TO 'c'",
            "ALTER TABLE e ADD COLUMN d int DEFAULT 5",
            "ALTER TABLE e DROP COLUMN d; ALTER TABLE e ADD COLUMN d int DEFAULT 6",
            "ALTER TABLE e ALTER x TYPE varchar(20)",
        ] {
            db.run(change).await;
            let schema = print(json!({})).await.schema;
            assert!(!seen.contains(&schema), "{change}");
            seen.push(schema);
        }
        let schema = print(json!({"columns": {"types": {"id": "text"}}})).await.schema;
        assert!(!seen.contains(&schema));
    }
}

#[tokio::test]
async fn snapshots_of_another_time_or_place_judge_nothing() {
    for version in VERSIONS {
        let db = Database::create(version, "judge").await;
        table(&db).await;
        let driver = db.driver();
        let stream = configured(&driver, "t", json!({})).await;
        let first = read_once(&driver, &stream).await;
        let session = driver.begin_backfill(&stream).await.unwrap();
        let with = |field: &str, value: Value| {
            let mut done = first.done[0].clone();
            done.snapshot[field] = value;
            done
        };
        let number = |field: &str| first.session.snapshot[field].as_str().unwrap().parse::<u64>().unwrap();
        for (done, expected) in [
            (first.done[0].clone(), true),
            (with("node", json!("primary 00000009")), false),
            (with("xmin", json!((number("xmin") + (1 << 32)).to_string())), false),
            (with("xmax", json!((number("xmax") + 1000).to_string())), false),
            (with("xmin", json!(null)), false),
            (DoneChunk { rows: first.done[0].rows + 1, ..first.done[0].clone() }, false),
        ] {
            let good = driver.verify_chunk(&stream, &first.plan[0], &done, &session).await.unwrap();
            assert_eq!(good, expected, "{done:?}");
        }
        driver.end_backfill(session).await;
    }
}
