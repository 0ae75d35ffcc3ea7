//! Killed, stopped, cut off and left by a server that crashes, at random moments, while all kinds of transactions are
//! written and a table joins that is written to.

use std::time::{Duration, Instant};

use lakeward_testkit::churn::{Churn, TABLES};
use lakeward_testkit::lakeward::Signal;
use lakeward_testkit::on_both;
use lakeward_testkit::private_server::{PrivateServer, Stop};
use lakeward_testkit::proxy::Proxy;
use lakeward_testkit::server::Version;
use lakeward_testkit::workload::{rounds, seed};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::json;

use crate::followed::Followed;

/// Runs of a round that are disturbed.
const DISTURBANCES: u32 = 15;
/// Before this one of them a table is added.
const ADDED_BEFORE: u32 = 5;
const ADDED: &str = "pairs";

on_both!(f42_followed_through_kills_and_cuts, super::disturbed);

async fn disturbed(version: Version) {
    let seed = seed();
    let server = PrivateServer::start_new(version).await.unwrap();
    // What a crash of the server loses must not have been released: nothing is, before it is durable there too.
    server.set_conf("fsync", "on").await.unwrap();
    server.set_conf("synchronous_commit", "on").await.unwrap();
    for round in 0..rounds(1) {
        let mut rng = StdRng::seed_from_u64(seed.wrapping_add(u64::from(round)));
        let churn = Churn { slow: true, ..Churn::new(rng.random(), 80) };
        let db = server.create_database("disturbed").await.unwrap();
        churn.create_tables(&db).await.unwrap();
        let proxy = Proxy::start(db.server().port()).unwrap();
        let first: Vec<&str> = TABLES.into_iter().filter(|table| *table != ADDED).collect();
        let scene = Followed::over(db, json!({ "port": proxy.port() }), &first).await;
        // Parts of transactions are sent while they are in progress.
        scene
            .sql(&format!("ALTER DATABASE \"{}\" SET logical_decoding_work_mem = '64kB'", scene.db.name()))
            .await;
        let writers = churn.start(&scene.db).await.unwrap();
        let (mut killed, mut stopped, mut cut, mut crashed, mut ended) = (0, 0, 0, 0, 0);
        for disturbance in 0..DISTURBANCES {
            if disturbance == ADDED_BEFORE {
                scene.project.select(ADDED, json!({ "sync_mode": "cdc" })).unwrap();
            }
            let moment = Duration::from_millis(rng.random_range(50..2500));
            let follow = rng.random_ratio(1, 2);
            let mode = ["concurrent", "parallel", "sequential"][rng.random_range(0..3)];
            let mut arguments =
                vec!["--chunk-size", "128KiB", "--cdc-mode", mode, "--checkpoint-interval", "150ms,256KiB"];
            if follow {
                arguments.push("--follow");
            }
            let mut run = scene.start(&arguments);
            let start = Instant::now();
            while start.elapsed() < moment && !run.has_ended().unwrap() {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            match rng.random_range(0..4) {
                0 => {
                    run.signal(Signal::TERM).ok();
                    let output = run.wait_timeout(Duration::from_secs(15)).await.unwrap();
                    assert!(matches!(output.code, Some(0 | 130)), "{:?} {}", output.code, output.stderr);
                    stopped += 1;
                }
                1 => {
                    if rng.random_ratio(1, 3) {
                        server.stop(Stop::Immediate).await.unwrap();
                        server.start().await.unwrap();
                        crashed += 1;
                    } else {
                        proxy.cut();
                        cut += 1;
                    }
                    // It comes back by itself; what does not end is then killed.
                    tokio::time::sleep(Duration::from_millis(rng.random_range(200..1500))).await;
                    if run.has_ended().unwrap() {
                        // Cut off before it had begun, it says so.
                        let output = run.wait_timeout(Duration::from_secs(1)).await.unwrap();
                        assert!(matches!(output.code, Some(0 | 3)), "{:?} {}", output.code, output.stderr);
                    } else {
                        run.kill9().await.unwrap();
                    }
                }
                _ => {
                    let output = run.kill9().await.unwrap();
                    if output.signal.is_some() {
                        killed += 1;
                    } else {
                        output.assert_ok();
                        ended += 1;
                    }
                }
            }
            scene.assert_nothing_forgotten_early().await;
        }
        let committed = writers.stop().await.unwrap();
        scene.run(&[]).await.assert_ok();
        for table in TABLES {
            scene.assert_same(table).await;
        }
        eprintln!(
            "{}: seed {seed}, round {round}: {killed} killed, {stopped} stopped, {cut} cut off, {crashed} servers crashed, \
             {ended} ended by themselves, {committed} transactions",
            version.name(),
        );
    }
}
