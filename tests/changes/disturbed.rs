//! Killed, stopped, cut off and left by a server that crashes, at random moments, while all kinds of transactions are
//! written and a table joins that is written to, beside a stream that stops.

use std::time::{Duration, Instant};

use lakeward_testkit::churn::{Churn, TABLES};
use lakeward_testkit::lakeward::{Output, Signal};
use lakeward_testkit::on_both;
use lakeward_testkit::private_server::{PrivateServer, Stop};
use lakeward_testkit::proxy::Proxy;
use lakeward_testkit::server::Version;
use lakeward_testkit::workload::{rounds, seed};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use serde_json::json;

use crate::followed::Followed;

/// What happens to the runs of a round, in a random order.
const DISTURBANCES: [Disturbance; 15] = {
    use Disturbance::{Crash, Cut, Kill, Stop};
    [Kill, Kill, Kill, Kill, Kill, Kill, Kill, Stop, Stop, Stop, Cut, Cut, Cut, Crash, Crash]
};
/// After so many of them all tables are compared.
const COMPARED_AFTER: usize = 5;
const ADDED: &str = "pairs";
/// Its stream refuses a value while the table joins, and as long as it does the log is kept for it.
const REFUSING: &str = "strict";
/// How runs end meanwhile.
const REFUSED: i32 = 5;

/// What ends a run, or befalls it before it is killed.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Disturbance {
    /// By `kill -9`.
    Kill,
    /// By SIGTERM.
    Stop,
    /// All connections are cut.
    Cut,
    /// The server is stopped without a word, and started again.
    Crash,
}

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
        db.execute(&format!("CREATE TABLE {REFUSING} (id int PRIMARY KEY, at timestamp)")).await.unwrap();
        let proxy = Proxy::start(db.server().port()).unwrap();
        let mut tables: Vec<&str> = TABLES.into_iter().filter(|table| *table != ADDED).collect();
        let scene = Followed::over(db, json!({ "port": proxy.port() }), &tables).await;
        let choose = |on_bad_value: &str| {
            let choices = json!({ "sync_mode": "cdc", "on_bad_value": on_bad_value });
            scene.project.select(REFUSING, choices).unwrap();
        };
        choose("fail");
        // Parts of transactions are sent while they are in progress.
        scene
            .sql(&format!("ALTER DATABASE \"{}\" SET logical_decoding_work_mem = '64kB'", scene.db.name()))
            .await;
        let writers = churn.start(&scene.db).await.unwrap();
        let mut disturbances = DISTURBANCES;
        disturbances.shuffle(&mut rng);
        let (mut killed, mut code) = (0, 0);
        for (number, disturbance) in disturbances.into_iter().enumerate() {
            if number == COMPARED_AFTER {
                scene.sql(&format!("INSERT INTO {REFUSING} VALUES (1, 'infinity'), (2, '2020-01-01')")).await;
                code = REFUSED;
                scene.project.select(ADDED, json!({ "sync_mode": "cdc" })).unwrap();
                tables.push(ADDED);
            } else if number == 2 * COMPARED_AFTER {
                scene.sql(&format!("DELETE FROM {REFUSING} WHERE id = 1")).await;
                choose("clamp");
                code = 0;
                tables.push(REFUSING);
            }
            killed += u32::from(disturb(&scene, &server, &proxy, disturbance, code, &mut rng).await);
            scene.assert_nothing_forgotten_early().await;
            if (number + 1) % COMPARED_AFTER == 0 {
                let _pause = writers.pause().await;
                catch_up(&scene, &proxy, code).await;
                for table in &tables {
                    scene.assert_same(table).await;
                }
            }
        }
        let committed = writers.stop().await.unwrap();
        assert!(killed > 0, "every run had ended by itself before it was killed");
        eprintln!(
            "{}: seed {seed}, round {round}: {killed} killed while at work, of {} disturbed, {committed} transactions",
            version.name(),
            DISTURBANCES.len(),
        );
    }
}

/// A run in a random mode that is disturbed at a random moment, and would end with this code. Whether it was killed
/// before it had ended.
async fn disturb(
    scene: &Followed,
    server: &PrivateServer,
    proxy: &Proxy,
    disturbance: Disturbance,
    code: i32,
    rng: &mut StdRng,
) -> bool {
    let moment = Duration::from_millis(rng.random_range(50..2500));
    let mode = ["concurrent", "parallel", "sequential"][rng.random_range(0..3)];
    let mut arguments =
        vec!["--chunk-size", "128KiB", "--cdc-mode", mode, "--checkpoint-interval", "150ms,256KiB"];
    if rng.random_ratio(1, 2) {
        arguments.push("--follow");
    }
    let mut run = scene.start(&arguments);
    let start = Instant::now();
    while start.elapsed() < moment && !run.has_ended().unwrap() {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    match disturbance {
        Disturbance::Kill => {}
        Disturbance::Stop => {
            run.signal(Signal::TERM).ok();
            let output = run.wait_timeout(Duration::from_secs(15)).await.unwrap();
            let fine = [Some(code), Some(130)].contains(&output.code) || is_undecodable(&output);
            assert!(fine, "{:?} {}", output.code, output.stderr);
            return false;
        }
        Disturbance::Cut => proxy.cut(),
        Disturbance::Crash => {
            server.stop(Stop::Immediate).await.unwrap();
            server.start().await.unwrap();
        }
    }
    if disturbance != Disturbance::Kill {
        // It comes back by itself; what does not end is then killed.
        tokio::time::sleep(Duration::from_millis(rng.random_range(200..1500))).await;
        if run.has_ended().unwrap() {
            // Cut off before it had begun, it says so.
            let output = run.wait_timeout(Duration::from_secs(1)).await.unwrap();
            assert!([Some(code), Some(3)].contains(&output.code), "{:?} {}", output.code, output.stderr);
            return false;
        }
    }
    let output = run.kill9().await.unwrap();
    if output.signal.is_none() && !is_undecodable(&output) {
        output.assert_code(code);
    }
    output.signal.is_some()
}

/// A run to the end of the log, which ends with this code, by way of what it says itself where the server cannot decode
/// its own log any more: PostgreSQL comes to that, seldom (15 more often than 18), with tables that are truncated while
/// transactions stay open.
async fn catch_up(scene: &Followed, proxy: &Proxy, code: i32) {
    let output = scene.run(&[]).await;
    if !is_undecodable(&output) {
        output.assert_code(code);
        return;
    }
    assert!(output.stderr.contains("drop the slot and set replication.on_slot_lost"), "{}", output.stderr);
    eprintln!("the server cannot decode its log: all rows are read again");
    scene.drop_slot().await;
    scene.source(json!({ "port": proxy.port(), "replication": { "on_slot_lost": "resnapshot" } }));
    scene.run(&[]).await.assert_code(code);
    scene.source(json!({ "port": proxy.port() }));
}

fn is_undecodable(output: &Output) -> bool {
    output.code == Some(3) && output.stderr.contains("could not map filen")
}
