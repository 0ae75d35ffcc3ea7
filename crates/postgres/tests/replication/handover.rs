//! From the snapshot to the log, and from one reading to the next.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::StreamExt;
use lakeward_core::{ChangeEvent, StreamPhase, Until};
use serde_json::json;

use super::support::{Pipeline, VERSIONS, changes, within};

const TABLE: &str = "CREATE TABLE t (id int PRIMARY KEY, n int, pad text);
    INSERT INTO t SELECT g, g, repeat('x', 100) FROM generate_series(1, 5000) g";

/// Writes without end: transactions of several rows, some of them rolled back.
async fn write(client: tokio_postgres::Client, worker: i32, stop: Arc<AtomicBool>) {
    let mut round = 0;
    while !stop.load(Ordering::SeqCst) {
        round += 1;
        let (new, old) = (100_000 + worker * 1_000_000 + round, (round * 37 + worker * 13) % 5000 + 1);
        let end = if round % 7 == 0 { "ROLLBACK" } else { "COMMIT" };
        client
            .batch_execute(&format!(
                "BEGIN; INSERT INTO t VALUES ({new}, {round}, 'new'); UPDATE t SET n = n + 1 WHERE id = {old};
                 SAVEPOINT a; DELETE FROM t WHERE id = {}; {} {end}",
                old + 1,
                if round % 3 == 0 { "ROLLBACK TO a;" } else { "" },
            ))
            .await
            .ok();
        if round % 5 == 0 {
            client.batch_execute("ROLLBACK").await.ok();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_or_doubled_between_snapshot_and_log() {
    for version in VERSIONS {
        let mut pipeline = Pipeline::new(version, "handover", TABLE).await;
        let stop = Arc::new(AtomicBool::new(false));
        let mut writers = Vec::new();
        for worker in 0..3 {
            writers.push(tokio::spawn(write(pipeline.db.connect().await, worker, stop.clone())));
        }
        let mut followers = pipeline.begin(&[("t", json!({}))]).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        // Several readings, each of which ends somewhere.
        for _ in 0..3 {
            pipeline.catch_up(&mut followers).await;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        stop.store(true, Ordering::SeqCst);
        for writer in writers {
            writer.await.unwrap();
        }
        pipeline.catch_up(&mut followers).await;
        let follower = &followers[0];
        assert!(follower.rows.iter().filter(|row| row.op != "r").count() > 100);
        pipeline.assert_same(follower, "t").await;
        let number = follower.session.sequence;
        assert!(number > 0 && follower.session.fingerprint.log.contains(':'));
        pipeline.close().await;
    }
}

#[tokio::test]
async fn a_reading_begins_exactly_where_the_last_boundary_was() {
    for version in VERSIONS {
        let mut pipeline = Pipeline::new(version, "resume", TABLE).await;
        let mut followers = pipeline.begin(&[("t", json!({}))]).await;
        let before = followers[0].rows.len();
        for n in 0..20 {
            pipeline
                .db
                .run(&format!(
                    "UPDATE t SET n = -{n} WHERE id <= 2; INSERT INTO t VALUES ({}, 1)",
                    10_000 + n
                ))
                .await;
        }
        let first = pipeline.position.clone();
        pipeline.catch_up(&mut followers).await;
        let once: Vec<_> = followers[0].rows[before..].to_vec();
        assert_eq!(once.len(), 60);

        pipeline.restarted();
        let stream = pipeline.stream("t", json!({})).await;
        pipeline.position = first;
        // What was released is gone for good, and that is said.
        let failed = pipeline.prepare(&[stream]).await;
        assert!(failed.unwrap_err().to_string().contains("are lost"));
        pipeline.position = followers[0].position.clone();

        // Read without being released: it comes again.
        pipeline.db.run("UPDATE t SET n = 7 WHERE id <= 10").await;
        let request = pipeline.request(&followers, Until::Now);
        let read = async |pipeline: &Pipeline, request| {
            let mut events = pipeline.read_with(request).await.unwrap();
            let mut rows = Vec::new();
            while let Some(event) = within(events.next()).await {
                if let ChangeEvent::Changes(_, batch) = event.unwrap() {
                    rows.extend(changes(&batch));
                }
            }
            rows
        };
        let one = read(&pipeline, request.clone()).await;
        pipeline.restarted();
        pipeline.stream("t", json!({})).await;
        let two = read(&pipeline, request.clone()).await;
        assert_eq!(one.len(), 10);
        assert_eq!(one, two);
        // A stream that is ahead of the global position drops what it has.
        let mut ahead = pipeline.request(&followers, Until::Now);
        let position = serde_json::json!({"lsn": pipeline.lsn().await});
        let position = lakeward_core::Position(position);
        ahead.streams[0].1 = StreamPhase::Open { position, generation: 1 };
        assert!(read(&pipeline, ahead).await.is_empty());
        pipeline.close().await;
    }
}

#[tokio::test]
async fn idle_boundaries_move_and_release_the_log() {
    for version in VERSIONS {
        let sql = format!("{TABLE}; CREATE TABLE other (id int PRIMARY KEY)");
        let mut pipeline = Pipeline::new(version, "idle", &sql).await;
        let followers = pipeline.begin(&[("t", json!({}))]).await;
        let request = pipeline.request(&followers, Until::Forever);
        let mut events = pipeline.read_with(request).await.unwrap();
        let mut last = pipeline.position.clone();
        for round in 0..3 {
            pipeline.db.run(&format!("INSERT INTO other SELECT g + {round} * 1000 FROM generate_series(1, 1000) g; SELECT pg_switch_wal()")).await;
            let reached = pipeline.lsn().await;
            let reached = lakeward_core::Position(json!({"lsn": reached}));
            loop {
                let Some(Ok(ChangeEvent::Boundary(boundary))) = within(events.next()).await else {
                    panic!("nothing of ours was written")
                };
                assert!(pipeline.cdc().compare(&boundary.position, &last).unwrap().is_gt());
                last = boundary.position.clone();
                pipeline.cdc().release(&last).await.unwrap();
                // A switch leaves the end of the log behind a page's header.
                if boundary.position.0["lsn"].as_str() >= reached.0["lsn"].as_str()
                    || boundary.lag.behind_bytes == 0
                {
                    break;
                }
            }
        }
        drop(events);
        pipeline.cdc().post_cdc().await.unwrap();
        let sql = "SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = $1";
        let confirmed: String = pipeline.db.client.query_one(sql, &[&pipeline.names.0]).await.unwrap().get(0);
        assert_eq!(last.0["lsn"], confirmed);
        let lag = pipeline.cdc().lag(&last).await.unwrap();
        assert!(lag.retained_bytes.is_some());
        pipeline.close().await;
    }
}

#[tokio::test]
async fn the_reader_rests_while_a_stream_opens() {
    for version in VERSIONS {
        let sql = format!(
            "{TABLE}; CREATE TABLE late (id int PRIMARY KEY, n int); INSERT INTO late SELECT g, g FROM generate_series(1, 100) g"
        );
        let mut pipeline = Pipeline::new(version, "phases", &sql).await;
        let mut followers = pipeline.begin(&[("t", json!({}))]).await;
        let late = pipeline.stream("late", json!({})).await;
        let mut request = pipeline.request(&followers, Until::Forever);
        request.streams.push((late.clone(), StreamPhase::Queued));
        let mut events = pipeline.read_with(request).await.unwrap();
        pipeline.db.run("UPDATE t SET n = 0 WHERE id = 1; UPDATE late SET n = 0 WHERE id = 1").await;

        let cdc = pipeline.cdc();
        let ticket = cdc.enter_phase(&late.id, StreamPhase::Opening).await.unwrap().unwrap();
        let mut seen = Vec::new();
        loop {
            match within(events.next()).await.unwrap().unwrap() {
                ChangeEvent::Resting(rested) if rested >= ticket => break,
                event => seen.push(event),
            }
        }
        // At rest nothing comes, however much is written, and the connection lives.
        pipeline.db.run("UPDATE t SET n = 1 WHERE id = 1; UPDATE late SET n = 1 WHERE id = 2").await;
        let (session, rows) = pipeline.snapshot(&late).await;
        pipeline.db.run("UPDATE late SET n = 2 WHERE id = 3").await;
        assert!(tokio::time::timeout(Duration::from_millis(300), events.next()).await.is_err());
        let position = session.position.clone().unwrap();
        let open = StreamPhase::Open { position: position.clone(), generation: 1 };
        cdc.enter_phase(&late.id, open).await.unwrap();
        let mut follower = super::support::Follower { stream: late.clone(), position, rows, session };
        let mut of_t = 0;
        while follower.rows.len() == 100 || of_t < 2 {
            match within(events.next()).await.unwrap().unwrap() {
                ChangeEvent::Changes(id, batch) if id == late.id => follower.rows.extend(changes(&batch)),
                ChangeEvent::Changes(_, batch) => of_t += batch.rows.num_rows(),
                _ => {}
            }
            of_t += seen
                .drain(..)
                .map(
                    |event| {
                        if let ChangeEvent::Changes(_, batch) = event { batch.rows.num_rows() } else { 0 }
                    },
                )
                .sum::<usize>();
        }
        // What was before the snapshot is in it, and only there.
        assert_eq!(follower.ops(100), "u");
        pipeline.assert_same(&follower, "late").await;
        drop(events);
        followers.clear();
        pipeline.close().await;
    }
}

#[tokio::test]
async fn a_strict_stream_has_changes_and_no_rows() {
    for version in VERSIONS {
        let mut pipeline = Pipeline::new(version, "strict", TABLE).await;
        let mut followers = pipeline.begin(&[("t", json!({"sync_mode": "strict_cdc"}))]).await;
        assert!(followers[0].rows.is_empty());
        pipeline.db.run("DELETE FROM t WHERE id = 1; INSERT INTO t VALUES (0, 0)").await;
        pipeline.catch_up(&mut followers).await;
        assert_eq!(followers[0].ops(0), "dc");
        pipeline.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn f21_a_stream_that_opens_while_the_log_is_read_loses_and_doubles_nothing() {
    for version in VERSIONS {
        let sql = format!("{TABLE}; CREATE TABLE mark (id int PRIMARY KEY)");
        let mut pipeline = Pipeline::new(version, "late", &sql).await;
        let followers = pipeline.begin(&[("mark", json!({}))]).await;
        let stop = Arc::new(AtomicBool::new(false));
        let mut writers = Vec::new();
        for worker in 0..3 {
            writers.push(tokio::spawn(write(pipeline.db.connect().await, worker, stop.clone())));
        }
        let late = pipeline.stream("t", json!({})).await;
        let mut request = pipeline.request(&followers, Until::Forever);
        request.streams.push((late.clone(), StreamPhase::Queued));
        let mut events = pipeline.read_with(request).await.unwrap();
        let (sender, mut taken) = tokio::sync::mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Some(event) = events.next().await {
                if sender.send(event.unwrap()).is_err() {
                    break;
                }
            }
        });
        let mut follower: Option<super::support::Follower> = None;
        // Opened twice: the second time it is among what is published already.
        for generation in 1..3 {
            tokio::time::sleep(Duration::from_millis(300)).await;
            let ticket = pipeline.cdc().enter_phase(&late.id, StreamPhase::Opening).await.unwrap().unwrap();
            loop {
                match within(taken.recv()).await.unwrap() {
                    ChangeEvent::Resting(rested) if rested >= ticket => break,
                    ChangeEvent::Changes(..) if follower.is_none() => panic!("queued, and emitted"),
                    _ => {}
                }
            }
            let (session, rows) = pipeline.snapshot(&late).await;
            let position = session.position.clone().unwrap();
            let open = StreamPhase::Open { position: position.clone(), generation };
            within(pipeline.cdc().enter_phase(&late.id, open)).await.unwrap();
            follower = Some(super::support::Follower { stream: late.clone(), position, rows, session });
        }
        let mut follower = follower.unwrap();
        tokio::time::sleep(Duration::from_millis(500)).await;
        stop.store(true, Ordering::SeqCst);
        for writer in writers {
            writer.await.unwrap();
        }
        pipeline.db.run("INSERT INTO mark VALUES (1)").await;
        loop {
            match within(taken.recv()).await.unwrap() {
                ChangeEvent::Changes(id, batch) if id == late.id => follower.rows.extend(changes(&batch)),
                ChangeEvent::Changes(..) => break,
                ChangeEvent::Boundary(_) | ChangeEvent::Resting(_) => {}
                ChangeEvent::Changed { what, .. } => panic!("{what}"),
            }
        }
        // Of the same transaction as the mark is nothing; batches of other streams may come behind it.
        loop {
            match within(taken.recv()).await.unwrap() {
                ChangeEvent::Changes(id, batch) if id == late.id => follower.rows.extend(changes(&batch)),
                ChangeEvent::Boundary(_) => break,
                other => panic!("{other:?}"),
            }
        }
        assert!(follower.rows.iter().filter(|row| row.op != "r").count() > 100);
        pipeline.assert_same(&follower, "t").await;
        pipeline.close().await;
    }
}
