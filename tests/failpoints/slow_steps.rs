//! A destination that takes its time.

use std::time::{Duration, Instant};

use lakeward_testkit::lakeward::{Output, Project, Signal};
use lakeward_testkit::on_both;
use lakeward_testkit::reconcile::{Options, reconcile};
use lakeward_testkit::server::{PgServer, Version};
use serde_json::json;

use crate::followed::Followed;
use crate::scene::LAKEWARD;

on_both!(f46_the_sink_stalls, super::in_a_backfill);
on_both!(f46_the_sink_stalls_while_changes_arrive, super::while_changes_arrive);

const MIB: u64 = 1 << 20;

const TABLE: &str = "CREATE TABLE wide (id int PRIMARY KEY, a text, b text);
    ALTER TABLE wide ALTER a SET STORAGE EXTERNAL, ALTER b SET STORAGE EXTERNAL";

/// Rows of 80 kB that do not compress, with these keys.
fn rows(first: u32, last: u32) -> String {
    format!(
        "INSERT INTO wide SELECT n, t, reverse(t) FROM generate_series({first}, {last}) n,
             LATERAL (SELECT string_agg(md5(n::text || i), '') AS t FROM generate_series(1, 1250) i) AS s"
    )
}

fn assert_bounded(version: Version, output: &Output, limit: u64) {
    let peak = output.peak_rss_bytes;
    eprintln!("{}: peak {} MiB of {} MiB", version.name(), peak / MIB, limit / MIB);
    assert!(peak > 10 * MIB && peak < limit, "resident memory reached {} MiB", peak / MIB);
}

/// The sink stands still for seconds, on every connection, while the source could send a multiple of the limit.
async fn in_a_backfill(version: Version) {
    let db = PgServer::shared(version).create_database("stalled").await.unwrap();
    db.execute(&format!("{TABLE}; {}", rows(1, 3000))).await.unwrap();
    let stalls: Vec<String> = (1..=8).map(|n| format!("parquet-stage-written:{n}=sleep(2500)")).collect();
    let mut project = Project::new(LAKEWARD, &db.source_config(json!({}))).unwrap();
    project.discover().await.unwrap().assert_ok();
    project.select_only(&["wide"], json!({ "sync_mode": "full_refresh" })).unwrap();
    project.set_failpoints(&stalls.join(";"));
    let start = Instant::now();
    let limits = ["--memory-limit", "128MiB", "--max-connections", "8", "--chunk-size", "4MiB"];
    let output = project.sync(&limits).await.unwrap();
    output.assert_ok();
    assert!(start.elapsed() > Duration::from_millis(2500), "the sink did not stall");
    assert_bounded(version, &output, 128 * MIB);
    reconcile(&db, &project.lake(), "wide", &Options::full_refresh()).await.unwrap().assert_same();
}

/// For longer than the server waits for a sign of life it cannot send what is there, and more comes.
async fn while_changes_arrive(version: Version) {
    const PATIENCE: Duration = Duration::from_secs(2);
    let mut scene = Followed::new(&PgServer::shared(version), TABLE, &["wide"]).await;
    let patience =
        format!("ALTER DATABASE \"{}\" SET wal_sender_timeout = {}", scene.db.name(), PATIENCE.as_millis());
    scene.sql(&patience).await;
    scene.sync().await;
    let begin = scene.value("SELECT pg_current_wal_insert_lsn()").await;
    for first in (1..2500).step_by(100) {
        scene.sql(&rows(first, first + 99)).await;
    }
    let stalls = "parquet-stage-written:1=sleep(9000);parquet-stage-written:3=sleep(3000)";
    scene.project.set_failpoints(stalls);
    let mut run = scene.start(&["--follow", "--memory-limit", "64MiB"]);
    let sender = stuck_for(&scene, PATIENCE * 2).await;
    for first in (2501..2900).step_by(100) {
        scene.sql(&rows(first, first + 99)).await;
    }
    scene.sql("UPDATE wide SET a = 'short' WHERE id % 10 = 0; DELETE FROM wide WHERE id % 100 = 1").await;
    let confirmed = scene.db.confirmed().await.unwrap();
    scene.until(&mut run, &confirmed).await;
    assert_eq!(scene.slot("active_pid").await, Some(sender), "the connection was lost");
    run.signal(Signal::TERM).unwrap();
    let output = run.wait_timeout(Duration::from_secs(10)).await.unwrap();
    output.assert_code(130);
    assert!(output.events_of("retrying").is_empty(), "{}", output.stderr);
    assert_bounded(version, &output, 64 * MIB);
    let log: u64 =
        scene.value(&format!("SELECT pg_current_wal_insert_lsn() - '{begin}'")).await.parse().unwrap();
    assert!(log > 200 * MIB, "only {} MiB of log", log / MIB);
    scene.assert_same("wide").await;
}

/// Waits until the server has not been able to send for so long, and says which process of it that is.
async fn stuck_for(scene: &Followed, wanted: Duration) -> String {
    let sql = "SELECT (SELECT pid FROM pg_stat_activity JOIN pg_replication_slots ON active_pid = pid
        WHERE database = current_database() AND wait_event = 'WalSenderWriteData')";
    let start = Instant::now();
    let (mut since, mut sender) = (Instant::now(), String::new());
    while sender.is_empty() || since.elapsed() < wanted {
        assert!(start.elapsed() < Duration::from_secs(60), "the server can send all the while");
        let now = scene.value(sql).await;
        if now != sender {
            (since, sender) = (Instant::now(), now);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    sender
}
