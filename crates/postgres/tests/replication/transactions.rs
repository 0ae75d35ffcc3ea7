//! Transactions large and small, committed and not.

use std::time::Duration;

use arrow::array::AsArray;
use arrow::datatypes::Int32Type;
use futures::StreamExt;
use lakeward_core::{ChangeEvent, ErrorKind, StreamPhase, Until};
use serde_json::json;

use super::support::{Pipeline, VERSIONS, changes, small_context, within};

const TABLE: &str =
    "CREATE TABLE t (id int PRIMARY KEY, n int, pad text); CREATE TABLE u (LIKE t INCLUDING ALL);
    INSERT INTO t SELECT g, g, 'x' FROM generate_series(1, 1000) g";

#[tokio::test]
async fn what_was_rolled_back_leaves_nothing_in_streamed_transactions() {
    for version in VERSIONS {
        let mut pipeline = Pipeline::new(version, "streamed", TABLE).await;
        pipeline.db.set("logical_decoding_work_mem", "64kB").await;
        let mut followers = pipeline.begin(&[("t", json!({})), ("u", json!({}))]).await;
        let large = |from: i32, to: i32, pad: &str| {
            format!("INSERT INTO t SELECT g, g, repeat('{pad}', 50) FROM generate_series({from}, {to}) g;")
        };
        let other = pipeline.db.connect().await;
        // Two at once, one of which is never committed; tables seen first in a part that is rolled back.
        other
            .batch_execute(&format!(
                "BEGIN; {} SAVEPOINT a; UPDATE t SET n = 0 WHERE id > 55000;",
                large(50_000, 60_000, "o")
            ))
            .await
            .unwrap();
        pipeline
            .db
            .run(&format!(
                "BEGIN; SAVEPOINT a; INSERT INTO u SELECT g, g, repeat('u', 50) FROM generate_series(1, 5000) g; {} ROLLBACK TO a;
                 {} SAVEPOINT b; {} SAVEPOINT c; {} ROLLBACK TO b; UPDATE t SET n = -n WHERE id <= 5000; SAVEPOINT d; {} RELEASE d;
                 INSERT INTO u SELECT g, g, repeat('v', 50) FROM generate_series(1, 3000) g; DELETE FROM t WHERE id % 10 = 0; COMMIT",
                large(2000, 9000, "a"), large(2000, 8000, "b"), large(20_000, 26_000, "c"), large(30_000, 36_000, "d"), large(10_000, 14_000, "e"),
            ))
            .await;
        let before = pipeline.position.clone();
        let mut request = pipeline.request(&followers, Until::Now);
        // Memory for next to nothing: it goes to a file, and comes back.
        request.context = small_context(1 << 20);
        pipeline.read_into(request, &mut followers).await;
        for (follower, table) in followers.iter().zip(["t", "u"]) {
            pipeline.assert_same(follower, table).await;
        }
        let once: Vec<_> = followers[0].rows.clone();
        assert!(once.iter().all(|row| row.values[2].as_deref() != Some(&"c".repeat(50))));
        other.batch_execute("ROLLBACK").await.unwrap();

        // With and without being streamed the rows and their order are the same.
        pipeline.db.set("logical_decoding_work_mem", "1GB").await;
        let reads = followers[0].rows.iter().filter(|row| row.op == "r").count();
        followers[0].rows.truncate(reads);
        pipeline.position = before;
        followers.iter_mut().for_each(|f| f.position = f.session.position.clone().unwrap());
        let request = pipeline.request(&followers, Until::Now);
        pipeline.read_into(request, &mut followers[..]).await;
        assert!(followers[0].rows == once, "read twice, it is not the same");
        pipeline.close().await;
    }
}

#[tokio::test]
async fn many_small_transactions_and_one_that_stays_open() {
    for version in VERSIONS {
        let mut pipeline = Pipeline::new(version, "small", TABLE).await;
        let mut followers = pipeline.begin(&[("t", json!({}))]).await;
        let open = pipeline.db.connect().await;
        open.batch_execute("BEGIN; INSERT INTO t VALUES (-1, 0)").await.unwrap();
        for n in 0..300 {
            pipeline.db.run(&format!("UPDATE t SET n = n + 1 WHERE id = {}", n % 50 + 1)).await;
        }
        pipeline.catch_up(&mut followers).await;
        pipeline.assert_same(&followers[0], "t").await;
        // It commits after the last boundary, however early it began.
        open.batch_execute("COMMIT").await.unwrap();
        pipeline.catch_up(&mut followers).await;
        pipeline.assert_same(&followers[0], "t").await;
        let prepared = "BEGIN; INSERT INTO t VALUES (-2, 0); PREPARE TRANSACTION 'lw_small'";
        pipeline.db.run(prepared).await;
        pipeline.catch_up(&mut followers).await;
        pipeline.assert_same(&followers[0], "t").await;
        pipeline.db.run("COMMIT PREPARED 'lw_small'").await;
        pipeline.catch_up(&mut followers).await;
        pipeline.assert_same(&followers[0], "t").await;
        pipeline.close().await;
    }
}

#[tokio::test]
async fn f14_transactions_in_progress_at_once_are_told_apart() {
    for version in VERSIONS {
        let mut pipeline = Pipeline::new(version, "interleaved", TABLE).await;
        pipeline.db.set("logical_decoding_work_mem", "64kB").await;
        let mut followers = pipeline.begin(&[("t", json!({})), ("u", json!({}))]).await;
        let mut writers = Vec::new();
        for _ in 0..4 {
            let writer = pipeline.db.connect().await;
            writer.batch_execute("BEGIN").await.unwrap();
            writers.push(writer);
        }
        // Turn by turn, each with parts that are rolled back, at several depths.
        for round in 0..6 {
            for (n, writer) in writers.iter().enumerate() {
                let first = (n * 1_000_000 + round * 10_000) + 10_000;
                let insert = |table: &str, from: usize, pad: &str| {
                    format!(
                        "INSERT INTO {table} SELECT g, g, repeat('{pad}', 60) FROM generate_series({from}, {}) g;",
                        from + 1500
                    )
                };
                let sql = format!(
                    "{} SAVEPOINT a; {} SAVEPOINT b; {} RELEASE b; SAVEPOINT c; {} ROLLBACK TO c; SAVEPOINT d; UPDATE t SET n = {round} WHERE id BETWEEN {} AND {};",
                    insert("t", first, "k"),
                    insert("u", first, "m"),
                    insert("t", first + 2000, "n"),
                    insert("t", first + 4000, "lost"),
                    first,
                    first + 700,
                );
                let end = match round % 3 {
                    0 => "ROLLBACK TO a; RELEASE a",
                    1 => "RELEASE a",
                    _ => "ROLLBACK TO d",
                };
                writer.batch_execute(&format!("{sql} {end}")).await.unwrap();
            }
        }
        for (n, end) in [(2, "COMMIT"), (0, "ROLLBACK"), (3, "COMMIT"), (1, "COMMIT")] {
            writers[n].batch_execute(end).await.unwrap();
        }
        let mut request = pipeline.request(&followers, Until::Now);
        request.context = small_context(2 << 20);
        let budget = request.context.budget.clone();
        pipeline.read_into(request, &mut followers).await;
        for (follower, table) in followers.iter().zip(["t", "u"]) {
            assert!(follower.rows.len() > 10_000);
            pipeline.assert_same(follower, table).await;
        }
        pipeline.cdc().post_cdc().await.unwrap();
        assert_eq!(budget.available(), budget.total());
        pipeline.close().await;
    }
}

/// What the process has in memory, in MiB.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() >> 10
}

#[tokio::test]
async fn f14_a_large_transaction_takes_no_more_memory_than_there_is() {
    for version in VERSIONS {
        for (streaming, memory) in [(true, "64kB"), (false, "1GB")] {
            let mut pipeline = Pipeline::alone(version, "large", TABLE, json!({})).await;
            pipeline.db.set("logical_decoding_work_mem", memory).await;
            let followers = pipeline.begin(&[("t", json!({}))]).await;
            pipeline.db.run("INSERT INTO t SELECT g, g, repeat(md5(g::text), 16) FROM generate_series(10001, 310000) g").await;
            let mut request = pipeline.request(&followers, Until::Now);
            request.context = small_context(4 << 20);
            let budget = request.context.budget.clone();
            let before = resident();
            let mut events = pipeline.read_with(request).await.unwrap();
            let (mut rows, mut most, mut last) = (0, 0, 10_000);
            while let Some(event) = within(events.next()).await {
                if let ChangeEvent::Changes(_, batch) = event.unwrap() {
                    let ids = batch.rows.column(0).as_primitive::<Int32Type>();
                    assert_eq!(ids.value(0), last + 1);
                    last = ids.value(ids.len() - 1);
                    rows += batch.rows.num_rows();
                }
                most = most.max(resident().saturating_sub(before));
            }
            assert_eq!(rows, 300_000);
            // It is 160 MB in the log.
            assert!(most < 48, "{version}, streaming {streaming}: {most} MiB");
            drop(events);
            pipeline.cdc().post_cdc().await.unwrap();
            assert_eq!(budget.available(), budget.total());
            pipeline.close().await;
        }
    }
}

#[tokio::test]
async fn f55_a_slow_consumer_is_not_taken_for_dead() {
    let work = VERSIONS.map(|version| async move {
        let mut pipeline = Pipeline::new(version, "slow", TABLE).await;
        pipeline.db.set("wal_sender_timeout", "2s").await;
        let mut followers = pipeline.begin(&[("t", json!({})), ("u", json!({}))]).await;
        for n in 0..20 {
            let sql = format!(
                "INSERT INTO t SELECT g, g, repeat('x', 200) FROM generate_series({0}, {0} + 4999) g",
                10_000 * (n + 1)
            );
            pipeline.db.run(&sql).await;
        }
        let mut request = pipeline.request(&followers, Until::Now);
        request.context = small_context(1 << 20);
        let mut events = pipeline.read_with(request).await.unwrap();
        let mut slept = 0;
        while let Some(event) = within(events.next()).await {
            match event.unwrap() {
                ChangeEvent::Changes(_, batch) => followers[0].rows.extend(changes(&batch)),
                ChangeEvent::Boundary(boundary) => {
                    // One of the waits is longer than the server's patience.
                    if slept < 2 {
                        slept += 1;
                        tokio::time::sleep(Duration::from_secs(5)).await;
                    }
                    pipeline.cdc().release(&boundary.position).await.unwrap();
                    followers.iter_mut().for_each(|f| f.position = boundary.position.clone());
                    pipeline.position = boundary.position;
                }
                ChangeEvent::Resting(_) => {}
                ChangeEvent::Changed { what, .. } => panic!("{what}"),
            }
        }
        assert_eq!(slept, 2);
        pipeline.assert_same(&followers[0], "t").await;
        // At rest for longer than that, too.
        let mut events = pipeline.read_with(pipeline.request(&followers, Until::Forever)).await.unwrap();
        let id = followers[1].stream.id.clone();
        pipeline.cdc().enter_phase(&id, StreamPhase::Opening).await.unwrap();
        tokio::time::sleep(Duration::from_secs(5)).await;
        let position = followers[1].position.clone();
        pipeline.cdc().enter_phase(&id, StreamPhase::Open { position, generation: 1 }).await.unwrap();
        pipeline.db.run("INSERT INTO u VALUES (1, 1, 'x')").await;
        loop {
            if let ChangeEvent::Changes(stream, batch) = within(events.next()).await.unwrap().unwrap()
                && stream == id
            {
                assert_eq!(batch.rows.num_rows(), 1);
                break;
            }
        }
        drop(events);
        pipeline.close().await;
    });
    futures::future::join_all(work).await;
}

#[tokio::test]
async fn f51_a_session_that_is_ended_may_be_tried_again() {
    for version in VERSIONS {
        let mut pipeline = Pipeline::new(version, "ended", TABLE).await;
        let mut followers = pipeline.begin(&[("t", json!({}))]).await;
        pipeline.db.run("UPDATE t SET n = 0 WHERE id = 1").await;
        let mut events = pipeline.read_with(pipeline.request(&followers, Until::Forever)).await.unwrap();
        // A boundary may come first: the commit is written out a moment after it was answered.
        while let ChangeEvent::Boundary(_) = within(events.next()).await.unwrap().unwrap() {}
        let sql = "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = $1";
        pipeline.db.client.query(sql, &[&pipeline.names.0]).await.unwrap();
        let error = loop {
            match within(events.next()).await.expect("it ends with an error") {
                Ok(ChangeEvent::Boundary(_)) => {}
                Ok(other) => panic!("{other:?}"),
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), ErrorKind::Connection, "{error}");
        assert!(within(events.next()).await.is_none());
        drop(events);
        // Nothing of it was committed: it comes again.
        pipeline.catch_up(&mut followers).await;
        assert_eq!(followers[0].ops(1000), "u");
        pipeline.assert_same(&followers[0], "t").await;
        pipeline.close().await;
    }
}

#[tokio::test]
async fn a_reading_that_nobody_takes_from_ends_when_it_is_cancelled() {
    for version in VERSIONS {
        let mut pipeline = Pipeline::new(version, "cancelled", TABLE).await;
        let followers = pipeline.begin(&[("t", json!({}))]).await;
        pipeline
            .db
            .run("INSERT INTO t SELECT g, g, repeat('x', 200) FROM generate_series(10000, 60000) g")
            .await;
        for drops in [false, true] {
            let mut request = pipeline.request(&followers, Until::Forever);
            request.context = small_context(1 << 20);
            let (cancel, budget) = (request.context.cancel.clone(), request.context.budget.clone());
            let mut events = pipeline.read_with(request).await.unwrap();
            within(events.next()).await.unwrap().unwrap();
            if drops {
                drop(events);
            } else {
                cancel.cancel();
                let error = loop {
                    match within(events.next()).await.expect("it says why it ends") {
                        Ok(_) => {}
                        Err(error) => break error,
                    }
                };
                assert_eq!(error.kind(), ErrorKind::Cancelled);
                drop(events);
            }
            within(pipeline.cdc().post_cdc()).await.unwrap();
            within(async {
                while budget.available() < budget.total() {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            })
            .await;
        }
        pipeline.close().await;
    }
}
