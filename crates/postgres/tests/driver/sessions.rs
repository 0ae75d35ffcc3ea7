//! Snapshots, chunks and what may happen to them.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use lakeward_core::{Chunk, DriverInterface, ErrorKind};
use serde_json::json;

use crate::support::{Database, VERSIONS, configured, read, read_all};

#[tokio::test]
async fn a_session_reads_its_snapshot_whole_whatever_happens_meanwhile() {
    for version in VERSIONS {
        let db = Database::create(version, "snapshot").await;
        db.run("CREATE TABLE t (id int PRIMARY KEY, pad text); INSERT INTO t SELECT g, repeat('x', 200) FROM generate_series(1, 20000) g").await;
        let driver = db.driver();
        let stream = configured(&driver, "t", json!({})).await;
        let session = driver.begin_backfill(&stream).await.unwrap();
        let plan = driver.get_or_split_chunks(&stream, &session, None, 256 << 10).await.unwrap();
        assert!(plan.len() > 10, "{}", plan.len());
        assert!(plan.iter().all(|chunk| chunk.bytes > 0 && chunk.bytes <= 300 << 10));
        assert!(plan[0].min.is_none() && plan.last().unwrap().max.is_none());
        let half = plan.len() / 2;
        let mut ids = read_all(&driver, &stream, &plan[..half], &session).await.unwrap();
        db.run("UPDATE t SET pad = 'moved' WHERE id % 3 = 0; DELETE FROM t WHERE id % 7 = 0; INSERT INTO t SELECT g FROM generate_series(30000, 31000) g").await;
        ids.extend(read_all(&driver, &stream, &plan[half..], &session).await.unwrap());
        ids.sort_unstable();
        assert_eq!(ids, (1..=20_000).collect::<Vec<i64>>());
        // The lock keeps the file in place.
        let other = db.connect().await;
        other.batch_execute("SET lock_timeout = 100").await.unwrap();
        assert!(other.batch_execute("TRUNCATE t").await.is_err());
        driver.end_backfill(session.clone()).await;
        other.batch_execute("TRUNCATE t").await.unwrap();
        let error = read(&driver, &stream, &plan[0], &session).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::SessionLost, "{error:?}");
        driver.end_backfill(session).await;
    }
}

/// Whoever queued behind DDL, which waits for the session, would keep it there, and with it the application.
#[tokio::test]
async fn nothing_queues_behind_ddl_that_waits_for_the_session() {
    for version in VERSIONS {
        let db = Database::create(version, "ddl_waits").await;
        db.run("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t SELECT generate_series(1, 1000)").await;
        let driver = db.driver();
        let stream = configured(&driver, "t", json!({})).await;
        let session = driver.begin_backfill(&stream).await.unwrap();
        let other = db.connect().await;
        let ddl = tokio::spawn(async move { other.batch_execute("ALTER TABLE t ADD COLUMN n int").await });
        let waiting =
            "SELECT count(*) FROM pg_locks WHERE relation = 't'::regclass AND mode = 'AccessExclusiveLock'";
        while db.number(waiting).await == 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let start = Instant::now();
        let plan = driver.get_or_split_chunks(&stream, &session, None, 1 << 10).await.unwrap();
        assert!(plan.len() > 1, "{plan:?}");
        assert_eq!(driver.produce_schema(std::slice::from_ref(&stream.id)).await.unwrap().len(), 1);
        let error = read(&driver, &stream, &plan[0], &session).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::SessionLost, "{error:?}");
        assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
        driver.end_backfill(session).await;
        tokio::time::timeout(Duration::from_secs(10), ddl).await.unwrap().unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_holder_that_is_killed_is_a_lost_session() {
    for version in VERSIONS {
        let db = Database::create(version, "killed").await;
        db.run("CREATE TABLE t (id int); INSERT INTO t VALUES (1)").await;
        let driver = db.driver();
        let stream = configured(&driver, "t", json!({})).await;
        let session = driver.begin_backfill(&stream).await.unwrap();
        let plan = driver.get_or_split_chunks(&stream, &session, None, 1 << 20).await.unwrap();
        assert_eq!(read_all(&driver, &stream, &plan, &session).await.unwrap(), [1]);
        let killed = db
            .number("SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity WHERE application_name = 'lakeward' AND state = 'idle in transaction' AND datname = current_database()")
            .await;
        assert!(killed >= 1);
        let error = read(&driver, &stream, &plan[0], &session).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::SessionLost, "{error:?}");
        tokio::time::sleep(Duration::from_millis(300)).await;
        let error = driver.get_or_split_chunks(&stream, &session, None, 1).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::SessionLost, "{error:?}");
        driver.end_backfill(session).await;
        let again = driver.begin_backfill(&stream).await.unwrap();
        assert_eq!(read_all(&driver, &stream, &plan, &again).await.unwrap(), [1]);
        driver.end_backfill(again).await;
    }
}

#[tokio::test]
async fn a_reader_notices_that_the_file_changed_behind_a_dead_holder() {
    for version in VERSIONS {
        let db = Database::create(version, "guard").await;
        db.run("CREATE TABLE t (id int); INSERT INTO t VALUES (1)").await;
        let driver = db.driver();
        let stream = configured(&driver, "t", json!({})).await;
        let mut session = driver.begin_backfill(&stream).await.unwrap();
        let plan = driver.get_or_split_chunks(&stream, &session, None, 1 << 20).await.unwrap();
        // As if the table had been rewritten between snapshot and reader: the file is another than was noted.
        session.detail["relations"][0]["filenode"] = json!(1);
        let error = read(&driver, &stream, &plan[0], &session).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::SessionLost, "{error:?}");
        driver.end_backfill(session).await;
    }
}

#[tokio::test]
async fn a_rewrite_while_the_lock_is_awaited_does_not_show_fewer_rows() {
    for version in VERSIONS {
        let db = Database::create(version, "rewrite").await;
        db.run("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t SELECT generate_series(1, 1000)").await;
        db.run("CREATE MATERIALIZED VIEW m AS SELECT * FROM t").await;
        for (name, rewrite) in [("t", "CLUSTER t USING t_pkey"), ("m", "REFRESH MATERIALIZED VIEW m")] {
            let driver = db.driver();
            let stream = configured(&driver, name, json!({})).await;
            let rewriter = db.connect().await;
            rewriter.batch_execute(&format!("BEGIN; {rewrite}")).await.unwrap();
            let (session, ()) = tokio::join!(driver.begin_backfill(&stream), async {
                tokio::time::sleep(Duration::from_millis(300)).await;
                rewriter.batch_execute("COMMIT").await.unwrap();
            });
            let session = session.unwrap();
            let plan = driver.get_or_split_chunks(&stream, &session, None, 1 << 20).await.unwrap();
            assert_eq!(read_all(&driver, &stream, &plan, &session).await.unwrap().len(), 1000, "{name}");
            driver.end_backfill(session).await;
        }
    }
}

#[tokio::test]
async fn a_lock_that_is_not_given_names_who_has_it() {
    for version in VERSIONS {
        let db = Database::create(version, "locked").await;
        db.run("CREATE TABLE t (id int)").await;
        let driver = db.driver_with(json!({"lock_timeout": "300ms"}));
        let stream = configured(&driver, "t", json!({})).await;
        let blocker = db.connect().await;
        let pid: i32 = blocker.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
        blocker.batch_execute("BEGIN; ALTER TABLE t ADD COLUMN x int").await.unwrap();
        let error = driver.begin_backfill(&stream).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Connection);
        assert!(error.to_string().contains(&format!("pid {pid}")), "{error:?}");
        // Discovery goes on without exact sizes.
        assert_eq!(driver.produce_schema(&driver.stream_names().await.unwrap()).await.unwrap().len(), 1);
        blocker.batch_execute("COMMIT").await.unwrap();
        // A new column is taken at the next run; one that is gone or changed is not read over.
        let session = driver.begin_backfill(&stream).await.unwrap();
        driver.end_backfill(session).await;
        db.run("ALTER TABLE t ALTER id TYPE bigint").await;
        let error = driver.begin_backfill(&stream).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Schema, "{error:?}");
    }
}

#[tokio::test]
async fn partitioned_tables_are_read_by_leaf() {
    for version in VERSIONS {
        let db = Database::create(version, "leaves").await;
        db.run(
            "CREATE TABLE root (id int, region text) PARTITION BY LIST (region);
             CREATE TABLE mid PARTITION OF root FOR VALUES IN ('eu') PARTITION BY RANGE (id);
             CREATE TABLE leaf1 PARTITION OF mid FOR VALUES FROM (0) TO (1000);
             CREATE TABLE leaf2 (region text, dropped int, id int); ALTER TABLE leaf2 DROP COLUMN dropped;
             ALTER TABLE mid ATTACH PARTITION leaf2 FOR VALUES FROM (1000) TO (20000);
             CREATE TABLE other PARTITION OF root DEFAULT;
             INSERT INTO root SELECT g, CASE WHEN g % 2 = 0 THEN 'eu' ELSE 'us' END FROM generate_series(0, 9999) g;
             CREATE TABLE hollow (id int) PARTITION BY RANGE (id);
             CREATE TABLE parent (id int); CREATE TABLE child () INHERITS (parent);
             INSERT INTO parent VALUES (1); INSERT INTO child VALUES (2)",
        )
        .await;
        let driver = db.driver();
        let stream = configured(&driver, "root", json!({})).await;
        let session = driver.begin_backfill(&stream).await.unwrap();
        let plan = driver.get_or_split_chunks(&stream, &session, None, 64 << 10).await.unwrap();
        let leaves: BTreeSet<_> = plan.iter().map(|chunk| chunk.relation.clone()).collect();
        assert_eq!(leaves.len(), 3);
        let numbers: Vec<u32> = plan.iter().map(|chunk| chunk.number).collect();
        assert_eq!(numbers, (0..plan.len() as u32).collect::<Vec<_>>());
        assert_eq!(
            read_all(&driver, &stream, &plan, &session).await.unwrap(),
            (0..10_000).collect::<Vec<_>>()
        );
        driver.end_backfill(session.clone()).await;

        // Resumed: a leaf is gone, another came, and a bound of the earlier plan was closed.
        db.run("ALTER TABLE root DETACH PARTITION other; CREATE TABLE late PARTITION OF root FOR VALUES IN ('us');
                INSERT INTO root VALUES (50000, 'us')").await;
        let mut earlier = plan.clone();
        earlier.last_mut().unwrap().max = Some("(9,0)".to_owned());
        earlier[0].min = Some("(0,0)".to_owned());
        let resumed = driver.begin_backfill(&stream).await.unwrap();
        assert_eq!(resumed.fingerprint.schema, session.fingerprint.schema);
        let again = driver.get_or_split_chunks(&stream, &resumed, Some(&earlier), 64 << 10).await.unwrap();
        let new: Vec<&Chunk> = again.iter().filter(|chunk| chunk.number >= plan.len() as u32).collect();
        assert_eq!(new.len(), 1);
        assert!(again.iter().filter(|chunk| chunk.number < plan.len() as u32).all(|chunk| plan.iter().any(
            |old| { old.number == chunk.number && old.relation == chunk.relation && old.min == chunk.min }
        )));
        let mut expected: Vec<i64> = (0..10_000).filter(|id| id % 2 == 0).collect();
        expected.push(50_000);
        assert_eq!(read_all(&driver, &stream, &again, &resumed).await.unwrap(), expected);
        driver.end_backfill(resumed).await;

        for (name, expected) in [("hollow", vec![]), ("parent", vec![1]), ("child", vec![2])] {
            let stream = configured(&driver, name, json!({})).await;
            let session = driver.begin_backfill(&stream).await.unwrap();
            let plan = driver.get_or_split_chunks(&stream, &session, None, 1 << 20).await.unwrap();
            assert_eq!(plan.len(), 1);
            assert_eq!(read_all(&driver, &stream, &plan, &session).await.unwrap(), expected);
            driver.end_backfill(session).await;
        }
    }
}

#[tokio::test]
async fn key_ranges_cover_every_row_once() {
    for version in VERSIONS {
        let db = Database::create(version, "ranges").await;
        db.run(
            "CREATE TABLE t (id int PRIMARY KEY, word text, stamp timestamptz);
             INSERT INTO t SELECT g, CASE WHEN g % 10 = 0 THEN NULL ELSE chr(65 + g % 26) || '''\\' || g END,
               '2024-01-01'::timestamptz + g * interval '1.000001 s' FROM generate_series(1, 30000) g;
             CREATE VIEW v AS SELECT * FROM t; ANALYZE t",
        )
        .await;
        let driver = db.driver();
        for (name, column) in [("t", "id"), ("t", "word"), ("t", "stamp"), ("v", "word"), ("v", "id")] {
            let stream = configured(&driver, name, json!({"chunk_column": column})).await;
            let session = driver.begin_backfill(&stream).await.unwrap();
            let plan = driver.get_or_split_chunks(&stream, &session, None, 128 << 10).await.unwrap();
            assert!(plan.len() > 8, "{name}.{column}: {}", plan.len());
            let mut sizes = Vec::new();
            for chunk in &plan {
                sizes.push(read(&driver, &stream, chunk, &session).await.unwrap().len());
            }
            assert!(sizes.iter().all(|size| *size < 10_000), "{name}.{column}: {sizes:?}");
            let ids = read_all(&driver, &stream, &plan, &session).await.unwrap();
            assert_eq!(ids, (1..=30_000).collect::<Vec<_>>(), "{name}.{column}");
            driver.end_backfill(session).await;
        }
    }
}

#[tokio::test]
async fn filters_excluded_columns_and_tables_without_columns() {
    for version in VERSIONS {
        let db = Database::create(version, "filters").await;
        db.run(
            "CREATE TABLE t (id int, secret text, ok bool, at date); CREATE TABLE none ();
             INSERT INTO none SELECT FROM generate_series(1, 3);
             INSERT INTO t SELECT g, 'it''s \\ ' || g, g % 2 = 0, '2024-01-01'::date + g FROM generate_series(1, 10) g",
        )
        .await;
        let driver = db.driver();
        for (filter, expected) in [
            ("secret = 'it''s \\ 3'", vec![3]),
            ("ok = true AND id > 7.5", vec![8, 10]),
            ("NOT (at >= '2024-01-03') OR id IN (9, -1)", vec![1, 9]),
            ("secret LIKE '%1%' AND secret IS NOT NULL", vec![1, 10]),
        ] {
            let selection = json!({"filter": filter, "columns": {"exclude": ["secret"]}});
            let stream = configured(&driver, "t", selection).await;
            let session = driver.begin_backfill(&stream).await.unwrap();
            let plan = driver.get_or_split_chunks(&stream, &session, None, 1 << 20).await.unwrap();
            assert_eq!(read_all(&driver, &stream, &plan, &session).await.unwrap(), expected, "{filter}");
            driver.end_backfill(session).await;
        }
        let stream = configured(&driver, "none", json!({})).await;
        let session = driver.begin_backfill(&stream).await.unwrap();
        let plan = driver.get_or_split_chunks(&stream, &session, None, 1 << 20).await.unwrap();
        let batches = driver
            .chunk_iterator(stream.clone(), plan[0].clone(), &session, crate::support::context())
            .await
            .unwrap();
        assert_eq!(crate::support::rows(batches).await.unwrap().len(), 3);
        driver.end_backfill(session).await;
    }
}
