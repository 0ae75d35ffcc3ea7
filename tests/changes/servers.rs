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
