//! The server crashes and comes back while its log is followed.

use std::time::Duration;

use lakeward_testkit::churn::{Churn, TABLES};
use lakeward_testkit::lakeward::Signal;
use lakeward_testkit::on_both;
use lakeward_testkit::private_server::{PrivateServer, Stop};
use lakeward_testkit::server::Version;
use lakeward_testkit::workload::{rounds, seed};
use serde_json::json;

use crate::followed::Followed;

on_both!(f03_f51_the_server_crashes_while_it_is_followed, super::crashes);

on_both!(streams_take_turns_at_the_slots_there_are_and_are_told_where_none_is, super::few_slots);

async fn few_slots(version: Version) {
    let server = PrivateServer::start_new(version).await.unwrap();
    server.set_conf("max_replication_slots", "2").await.unwrap();
    server.restart().await.unwrap();
    let db = server.create_database("slots").await.unwrap();
    let tables: Vec<String> = (0..6).map(|n| format!("a{n}")).collect();
    for table in &tables {
        let sql = format!(
            "CREATE TABLE {table} (id int PRIMARY KEY); INSERT INTO {table} SELECT generate_series(1, 500)"
        );
        db.execute(&sql).await.unwrap();
    }
    let names: Vec<&str> = tables.iter().map(String::as_str).collect();
    let (first, later) = names.split_at(3);
    let scene = Followed::over(db, json!({}), first).await;
    // One slot is the pipeline's own and one is left, which the snapshots take in turn.
    for mode in ["concurrent", "parallel"] {
        scene.run(&["--cdc-mode", mode]).await.assert_ok();
        for table in first {
            scene.assert_same(table).await;
        }
        scene.project.run(&["clear", "--all", "--yes"]).await.unwrap().assert_ok();
    }
    scene.run(&[]).await.assert_ok();

    // None is left: what is new is told, and the others go on.
    scene.sql("SELECT pg_create_physical_replication_slot('taken'); INSERT INTO a0 VALUES (1000)").await;
    for table in later {
        scene.project.select(*table, json!({ "sync_mode": "cdc" })).unwrap();
    }
    let output = scene.run(&[]).await;
    output.assert_code(4);
    assert_eq!(output.events_of("stream_failed").len(), later.len(), "{}", output.stderr);
    assert!(output.stderr.contains("raise max_replication_slots"), "{}", output.stderr);
    scene.assert_same("a0").await;
    // A run that never ends tells it at once.
    let run = scene.start(&["--follow"]);
    tokio::time::sleep(Duration::from_secs(4)).await;
    run.signal(Signal::TERM).unwrap();
    let output = run.wait_timeout(Duration::from_secs(20)).await.unwrap();
    assert!(output.stderr.contains("the others are followed without it"), "{}", output.stderr);
    scene.sql("SELECT pg_drop_replication_slot('taken')").await;
    scene.run(&[]).await.assert_ok();
    for table in names {
        scene.assert_same(table).await;
    }
}

async fn crashes(version: Version) {
    let seed = seed();
    let server = PrivateServer::start_new(version).await.unwrap();
    // What a crash of the server loses must not have been released: nothing is, before it is durable there too.
    server.set_conf("fsync", "on").await.unwrap();
    server.set_conf("synchronous_commit", "on").await.unwrap();
    let db = server.create_database("crashes").await.unwrap();
    let churn = Churn { ddl: false, ..Churn::new(seed, 60) };
    churn.create_tables(&db).await.unwrap();
    let scene = Followed::over(db, json!({}), &TABLES).await;
    for round in 0..rounds(2) {
        let writers = churn.start(&scene.db).await.unwrap();
        let mut run = scene.start(&["--follow", "--chunk-size", "128KiB", "--checkpoint-interval", "100ms"]);
        for how in [Stop::Immediate, Stop::Fast, Stop::Immediate] {
            tokio::time::sleep(Duration::from_millis(1200)).await;
            server.stop(how).await.unwrap();
            server.start().await.unwrap();
        }
        tokio::time::sleep(Duration::from_millis(1500)).await;
        let ended = run.has_ended().unwrap();
        if !ended {
            run.signal(Signal::TERM).unwrap();
        }
        let output = run.wait_timeout(Duration::from_secs(30)).await.unwrap();
        // It comes back by itself, or gives up after its retries; it never says that all is well.
        assert!(matches!(output.code, Some(130 | 3)), "{:?} {}", output.code, output.stderr);
        let committed = writers.stop().await.unwrap();
        scene.assert_nothing_forgotten_early().await;
        scene.run(&[]).await.assert_ok();
        for table in TABLES {
            scene.assert_same(table).await;
        }
        eprintln!(
            "{}: seed {seed}, round {round}: {committed} transactions, ended {:?}",
            version.name(),
            output.code
        );
    }
}
