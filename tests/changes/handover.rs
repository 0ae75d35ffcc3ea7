//! From the snapshot to the log, in each mode, under writers.

use std::time::{Duration, Instant};

use lakeward_testkit::churn::{Churn, TABLES};
use lakeward_testkit::on_both;
use lakeward_testkit::reconcile::Options;
use lakeward_testkit::server::{PgServer, Version, lsn};
use lakeward_testkit::workload::seed;
use serde_json::{Value, json};

use crate::followed::Followed;

on_both!(f21_concurrent, |version| super::under_writers(version, "concurrent"));
on_both!(f21_parallel, |version| super::under_writers(version, "parallel"));
on_both!(f21_sequential, |version| super::under_writers(version, "sequential"));
on_both!(f21_a_stream_added_later, super::added_later);
on_both!(a_transaction_that_alters_a_stream_that_is_added_waits_for_nobody, super::altered_while_added);
on_both!(f05_a_table_that_is_made_anew_while_it_is_opened, super::made_anew_while_opened);
on_both!(f02_the_slot_moves_on_during_a_backfill, super::moves_on);
on_both!(follows_until_it_is_stopped, super::follow);
on_both!(where_it_stands_is_told, super::told);
on_both!(strict_cdc_reads_no_rows, super::strict);
on_both!(a_stream_keeps_its_name_at_the_destination, super::renamed);

/// Transactions that are written while a stream is handed over.
const ENOUGH: u64 = 100;

async fn under_writers(version: Version, mode: &str) {
    let seed = seed();
    let churn = Churn { ddl: false, ..Churn::new(seed, 60) };
    let db = PgServer::shared(version).create_database("handover").await.unwrap();
    churn.create_tables(&db).await.unwrap();
    let scene = Followed::over(db, json!({}), &TABLES).await;
    let writers = churn.start(&scene.db).await.unwrap();
    // Many chunks; then what the log says; then nothing but the log, for as long as it takes until that is much.
    let mut runs = 0;
    while runs < 3 || runs < 100 && writers.committed() <= ENOUGH {
        runs += 1;
        scene.run(&["--cdc-mode", mode, "--chunk-size", "128KiB"]).await.assert_ok();
        scene.assert_nothing_forgotten_early().await;
    }
    let committed = writers.stop().await.unwrap();
    assert!(committed > ENOUGH, "only {committed} transactions were written");
    scene.run(&["--cdc-mode", mode]).await.assert_ok();
    for table in TABLES {
        let report = scene.assert_same(table).await;
        assert!(report.rows_source > 0, "nothing was compared");
    }
    eprintln!("{}, {mode}: seed {seed}, {committed} transactions", version.name());
}

async fn added_later(version: Version) {
    let sql = "CREATE TABLE a (id int PRIMARY KEY, v text); INSERT INTO a SELECT g, 'a' FROM generate_series(1, 1000) g;
        CREATE TABLE b (id int PRIMARY KEY, v text); INSERT INTO b SELECT g, 'b' FROM generate_series(1, 1000) g";
    let scene = Followed::new(&PgServer::shared(version), sql, &["a"]).await;
    scene.sync().await;
    scene.sql("UPDATE a SET v = 'x' WHERE id < 10; UPDATE b SET v = 'x' WHERE id < 10").await;
    // A transaction that is open while the table joins: all of it must arrive.
    let open = scene.db.client().await.unwrap();
    open.batch_execute("BEGIN; INSERT INTO b VALUES (5000, 'open'); UPDATE b SET v = 'open' WHERE id = 500")
        .await
        .unwrap();
    scene.project.select("b", json!({ "sync_mode": "cdc" })).unwrap();
    let mut run = scene.start(&[]);
    let waits =
        "SELECT count(*) > 0 FROM pg_publication_tables WHERE tablename = 'b' AND pubname LIKE 'lakeward%'";
    scene.until(&mut run, waits).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    open.batch_execute("INSERT INTO b VALUES (5001, 'open'); COMMIT").await.unwrap();
    run.wait_timeout(Duration::from_secs(60)).await.unwrap().assert_ok();
    scene.sync().await;
    scene.assert_same("a").await;
    scene.assert_same("b").await;
    // Taken out it is let go of; back again it is new, and what was deleted meanwhile is gone.
    scene.project.select_only(&["a"], json!({ "sync_mode": "cdc" })).unwrap();
    scene.sync().await;
    let published =
        "SELECT count(*) FROM pg_publication_tables WHERE tablename = 'b' AND pubname LIKE 'lakeward%'";
    assert_eq!(scene.value(published).await, "0");
    scene.sql("DELETE FROM b WHERE id < 300; INSERT INTO b VALUES (6000, 'meanwhile')").await;
    scene.project.select("b", json!({ "sync_mode": "cdc" })).unwrap();
    let output = scene.sync().await;
    assert!(output.stderr.contains("history is kept"), "{}", output.stderr);
    scene.sql("UPDATE b SET v = 'after' WHERE id > 900").await;
    scene.sync().await;
    scene.assert_same("a").await;
    scene.assert_same("b").await;
}

async fn altered_while_added(version: Version) {
    let sql =
        "CREATE TABLE a (id int PRIMARY KEY); INSERT INTO a VALUES (0); CREATE TABLE b (id int PRIMARY KEY);
        INSERT INTO b VALUES (1); CREATE TABLE c (id int PRIMARY KEY); INSERT INTO c VALUES (1), (2)";
    let scene = Followed::new(&PgServer::shared(version), sql, &["a"]).await;
    scene.sync().await;
    // What a column has that comes after its table was described, and before its rows are read, no change will bring.
    for (table, alter) in [
        ("b", "ALTER TABLE b ADD n int DEFAULT 7"),
        ("c", "ALTER TABLE c ADD n int; UPDATE c SET n = 5 WHERE id = 1"),
    ] {
        scene.project.select(table, json!({ "sync_mode": "cdc" })).unwrap();
        let application = scene.db.client().await.unwrap();
        application.batch_execute("BEGIN; INSERT INTO a SELECT max(id) + 1 FROM a").await.unwrap();
        let mut run = scene.start(&[]);
        // The snapshot waits for the transaction, behind a lock of the table.
        scene
            .until(
                &mut run,
                "SELECT count(*) > 0 FROM pg_stat_activity WHERE query LIKE 'CREATE_REPLICATION_SLOT%' AND state = 'active'
                 AND wait_event_type = 'Lock' AND pg_blocking_pids(pid) = (SELECT array_agg(pid) FROM pg_stat_activity
                 WHERE datname = current_database() AND backend_xid IS NOT NULL)",
            )
            .await;
        let began = Instant::now();
        application.batch_execute(&format!("{alter}; COMMIT")).await.unwrap();
        assert!(began.elapsed() < Duration::from_secs(5), "the application waited for {:?}", began.elapsed());
        run.wait_timeout(Duration::from_secs(60)).await.unwrap().assert_ok();
        scene.sync().await;
        scene.assert_same("a").await;
        scene.assert_same(table).await;
    }
}

/// A table that takes another's name while the log rests for its snapshot: the reading knows the one before.
async fn made_anew_while_opened(version: Version) {
    let rows = "SELECT g, repeat('x', 300) FROM generate_series(1, 6000) g";
    let make = format!("CREATE TABLE t (id int PRIMARY KEY, pad text); INSERT INTO t {rows}");
    let sql = format!("CREATE TABLE u (id int PRIMARY KEY, n int); INSERT INTO u VALUES (1, 0); {make}");
    let scene = Followed::new(&PgServer::shared(version), &sql, &["u"]).await;
    scene.sync().await;
    scene.project.select("t", json!({ "sync_mode": "cdc" })).unwrap();
    let proxy = lakeward_testkit::proxy::Proxy::start(scene.db.server().port()).unwrap();
    proxy.throttle(Some(1 << 20));
    scene.source(json!({ "port": proxy.port() }));
    // A slot waits for the transactions that write when it is made, and the reading has begun by then.
    let writer = scene.db.client().await.unwrap();
    writer.batch_execute("BEGIN; INSERT INTO u VALUES (2, 0)").await.unwrap();
    let mut run = scene.start(&["--chunk-size", "128KiB", "--max-connections", "1"]);
    let waits =
        "SELECT count(*) = 2 FROM pg_replication_slots WHERE database = current_database() AND active";
    scene.until(&mut run, waits).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    scene.sql(&format!("DROP TABLE t; {make}")).await;
    writer.batch_execute("COMMIT").await.unwrap();
    let log = scene.project.lake().join("_lakeward/public/t/commits");
    let committed = || std::fs::read_dir(&log).map_or(0, Iterator::count);
    while committed() < 2 {
        assert!(!run.has_ended().unwrap(), "the run ended before it read a chunk");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    scene.sql("DELETE FROM t WHERE id % 10 = 0; UPDATE t SET pad = 'new' WHERE id % 10 = 1").await;
    run.wait_timeout(Duration::from_secs(90)).await.unwrap().assert_ok();
    scene.source(json!({}));
    scene.sync().await;
    scene.assert_same("t").await;
    scene.assert_same("u").await;
}

async fn moves_on(version: Version) {
    let sql = "CREATE TABLE big (id int PRIMARY KEY, pad text); INSERT INTO big SELECT g, repeat('x', 200) FROM generate_series(1, 60000) g;
        CREATE TABLE small (id int PRIMARY KEY, n int); INSERT INTO small SELECT g, 0 FROM generate_series(1, 100) g";
    let scene = Followed::new(&PgServer::shared(version), sql, &["small"]).await;
    scene.sync().await;
    scene.project.select("big", json!({ "sync_mode": "cdc" })).unwrap();
    let proxy = lakeward_testkit::proxy::Proxy::start(scene.db.server().port()).unwrap();
    proxy.throttle(Some(1 << 20));
    scene.source(json!({ "port": proxy.port() }));
    let mut run =
        scene.start(&["--cdc-mode", "concurrent", "--chunk-size", "512KiB", "--max-connections", "1"]);
    let (mut since, mut moved) = (None, false);
    let mut committed_while_reading = false;
    let log = scene.project.lake().join("_lakeward/public/big/commits");
    for round in 0..400 {
        if run.has_ended().unwrap() {
            break;
        }
        scene.sql(&format!("UPDATE small SET n = {round}; UPDATE big SET pad = 'c{round}' WHERE id = {round} + 1; CHECKPOINT")).await;
        let restart = scene.slot("restart_lsn").await.unwrap();
        let records: Vec<String> = std::fs::read_dir(&log)
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| std::fs::read_to_string(entry.path()).unwrap_or_default())
            .collect();
        let committed = |what: &str| records.iter().any(|record| record.contains(what));
        // Only what happens between the first chunk and the swap counts.
        if committed("\"chunk\":") && !committed("\"swap\":{") {
            moved |= *since.get_or_insert(restart.clone()) != restart;
            committed_while_reading |= committed("\"cdc/public.big/");
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    run.wait_timeout(Duration::from_secs(60)).await.unwrap().assert_ok();
    assert!(moved, "the slot stood still while the table was read");
    assert!(committed_while_reading, "no change of the table was committed while it was read");
    scene.source(json!({}));
    scene.sync().await;
    scene.assert_same("big").await;
    scene.assert_same("small").await;
}

async fn follow(version: Version) {
    let sql = "CREATE TABLE t (id int PRIMARY KEY, n int); INSERT INTO t SELECT g, g FROM generate_series(1, 100) g";
    let scene = Followed::new(&PgServer::shared(version), sql, &["t"]).await;
    let run = scene.start(&["--follow", "--checkpoint-interval", "200ms"]);
    let mut run = run;
    for round in 0..20 {
        scene
            .sql(&format!("INSERT INTO t VALUES (1000 + {round}, 0); UPDATE t SET n = n + 1 WHERE id <= 50"))
            .await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    scene.caught_up(&mut run).await;
    run.signal(lakeward_testkit::lakeward::Signal::TERM).unwrap();
    let output = run.wait_timeout(Duration::from_secs(10)).await.unwrap();
    output.assert_code(130);
    let checkpoints = output.events_of("checkpoint");
    assert!(checkpoints.len() > 3, "{}", output.stderr);
    scene.assert_same("t").await;

    // How far it is, and how far behind, each checkpoint tells.
    let lsn = |text: &Value| text.as_str().and_then(lsn).expect("a place in the log");
    for event in &checkpoints {
        let behind = lsn(&event["source"]) - lsn(&event["position"]);
        assert_eq!(event["behind_bytes"], behind, "{event}");
        assert!(
            behind == 0 || event["behind_seconds"].as_f64().is_some_and(|seconds| seconds < 60.0),
            "{event}"
        );
    }
    for event in &checkpoints {
        assert!(event["retained_bytes"].as_u64() >= event["behind_bytes"].as_u64(), "{event}");
    }
}

/// Where a pipeline stands that does not run, by its state and the source.
async fn told(version: Version) {
    let sql = "CREATE TABLE t (id int PRIMARY KEY, n int); INSERT INTO t SELECT g, g FROM generate_series(1, 100) g";
    let scene = Followed::new(&PgServer::shared(version), sql, &["t"]).await;
    let status = async |further: &[&str]| {
        let arguments = [&["status", "--config", "source.json"], further].concat();
        scene.project.run(&arguments).await.unwrap()
    };
    scene.sync().await;
    scene.sql("UPDATE t SET n = 0").await;
    scene.sync().await;
    let began = Instant::now();
    scene.sql("INSERT INTO t SELECT g, g FROM generate_series(1000, 20000) g").await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let said = status(&["--output", "json"]).await.json().unwrap();
    let lag = &said["lag"];
    let committed = said["global"]["position"]["lsn"].as_str().unwrap().to_owned();
    // Also what no server process has written out yet.
    let sql = format!("SELECT pg_current_wal_insert_lsn() - '{committed}'");
    let behind: u64 = scene.value(&sql).await.parse().unwrap();
    let told = lag["behind_bytes"].as_u64().unwrap();
    assert!(told > 1_000_000 && told <= behind, "{told} of {behind}");
    assert!(lag["retained_bytes"].as_u64().unwrap() >= told, "{lag}");
    // From the last thing that was committed on: the sync before the insert.
    let seconds = lag["behind_seconds"].as_f64().unwrap();
    assert!(seconds >= began.elapsed().as_secs_f64() - 1.0 && seconds < 60.0, "{lag}");
    assert!(lag["source"]["lsn"].as_str() > Some(&committed), "{lag}");
    let text = status(&[]).await.stdout;
    assert!(
        text.contains(&committed) && text.contains(" s behind, ") && text.contains(" kept at the source"),
        "{text}"
    );

    // A time that brings nothing of ours is no lag: the log goes on, and the position with it.
    scene.sync().await;
    let began = Instant::now();
    scene.sql("CREATE TABLE other AS SELECT g FROM generate_series(1, 20000) g").await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    scene.sync().await;
    let synced = began.elapsed().as_secs_f64();
    scene.sql("INSERT INTO other SELECT g FROM generate_series(1, 20000) g").await;
    let said = status(&["--output", "json"]).await.json().unwrap();
    let seconds = said["lag"]["behind_seconds"].as_f64().unwrap();
    assert!(seconds < synced, "{seconds} s, the last change was committed {synced} s and more ago");
    scene.assert_same("t").await;
    assert!(said["lag"]["lost"].is_null(), "{said}");

    // What cannot be had any more is no lag.
    scene.sql("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = current_database()").await;
    let said = status(&["--output", "json"]).await.json().unwrap();
    assert!(said["lag"]["lost"].as_str().unwrap().contains("is gone"), "{said}");
    let text = status(&[]).await.stdout;
    assert!(text.contains("what follows is lost: slot ") && !text.contains("behind"), "{text}");
}

async fn strict(version: Version) {
    let sql = "CREATE TABLE t (id int PRIMARY KEY, n int); INSERT INTO t SELECT g, g FROM generate_series(1, 100) g";
    let scene = Followed::new(&PgServer::shared(version), sql, &[]).await;
    scene.project.select("t", json!({ "sync_mode": "strict_cdc" })).unwrap();
    scene.sync().await;
    scene.sql("INSERT INTO t VALUES (200, 1); UPDATE t SET n = 5 WHERE id = 7; DELETE FROM t WHERE id <> 7 AND id <> 200").await;
    scene.sync().await;
    scene.assert_same("t").await;
    let output = scene.project.run(&["files", "public.t", "--output", "json"]).await.unwrap();
    let rows: u64 =
        output.json().unwrap().as_array().unwrap().iter().map(|file| file["rows"].as_u64().unwrap()).sum();
    assert_eq!(rows, 101, "one insert, one update, 99 deletes and no row that was read");
}

async fn renamed(version: Version) {
    let sql =
        "CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1); CREATE TABLE u (id int PRIMARY KEY)";
    let scene = Followed::new(&PgServer::shared(version), sql, &["t", "u"]).await;
    scene.project.select("t", json!({ "destination_table": "first" })).unwrap();
    scene.sync().await;
    scene.project.select("t", json!({ "destination_table": "second" })).unwrap();
    scene.sql("INSERT INTO u VALUES (7)").await;
    let foreseen = scene.run(&["--dry-run"]).await;
    foreseen.assert_ok();
    assert!(
        foreseen.stdout.contains("it would fail: Config: a stream keeps its name"),
        "{}",
        foreseen.stdout
    );
    for command in ["sync", "compact"] {
        let run = if command == "sync" {
            scene.run(&[]).await
        } else {
            scene.project.run(&[command]).await.unwrap()
        };
        run.assert_code(2);
        for word in ["public.t", "public.first", "public.second", "lakeward clear public.t"] {
            assert!(run.stderr.contains(word), "{command}: {word}: {}", run.stderr);
        }
    }
    // The other stream of the log went on, and nothing was begun for this one.
    scene.assert_same("u").await;
    assert!(!scene.project.stream_directory("second").exists());
    scene.sql("INSERT INTO t VALUES (2)").await;
    scene.project.select("t", json!({ "destination_table": "first" })).unwrap();
    let output = scene.sync().await;
    assert!(output.events_of("stream_planned").is_empty(), "nothing is read again: {}", output.stderr);
    scene.assert_same_as("t", &Options::cdc().directory(scene.project.stream_directory("first"))).await;
    scene.project.run(&["clear", "public.t", "--yes"]).await.unwrap().assert_ok();
    scene.project.select("t", json!({ "destination_table": "second" })).unwrap();
    scene.sync().await;
    let directory = scene.project.stream_directory("second");
    scene.assert_same_as("t", &Options::cdc().directory(directory)).await;
    assert!(scene.project.visible_files("first").is_empty());
}
