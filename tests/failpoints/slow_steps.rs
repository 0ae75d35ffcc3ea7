//! A destination that takes its time.

use std::time::{Duration, Instant};

use lakeward_testkit::lakeward::{Project, Signal};
use lakeward_testkit::reconcile::{Options, reconcile};
use lakeward_testkit::server::{PgServer, Version};
use serde_json::json;

use crate::scene::{How, LAKEWARD, Scene};

const MIB: u64 = 1 << 20;

/// The sink stands still for seconds, on every connection, while the source could send a multiple of the limit.
#[tokio::test]
async fn f46_the_sink_stalls() {
    let server = PgServer::shared(Version::Pg18);
    let db = server.create_database("stalled").await.unwrap();
    db.execute(
        "CREATE TABLE wide (id int PRIMARY KEY, a text, b text);
         ALTER TABLE wide ALTER a SET STORAGE EXTERNAL, ALTER b SET STORAGE EXTERNAL;
         INSERT INTO wide SELECT n, t, reverse(t) FROM generate_series(1, 3000) n,
             LATERAL (SELECT string_agg(md5(n::text || i), '') AS t FROM generate_series(1, 1250) i) AS s",
    )
    .await
    .unwrap();
    let stalls: Vec<String> = (1..=8).map(|n| format!("parquet-stage-written:{n}=sleep(2500)")).collect();
    let project = Project::new(LAKEWARD, &db.source_config(json!({}))).unwrap();
    project.discover().await.unwrap().assert_ok();
    project.select_only(&["wide"], json!({ "sync_mode": "full_refresh" })).unwrap();
    let project = project.env("LAKEWARD_FAILPOINT", &stalls.join(";"));
    let start = Instant::now();
    let limits = ["--memory-limit", "128MiB", "--max-connections", "8", "--chunk-size", "4MiB"];
    let output = project.sync(&limits).await.unwrap();
    output.assert_ok();
    assert!(start.elapsed() > Duration::from_millis(2500), "the sink did not stall");
    let peak = output.peak_rss_bytes;
    eprintln!("peak {} MiB of 128 MiB", peak / MIB);
    assert!(peak > 10 * MIB && peak < 128 * MIB, "resident memory reached {} MiB", peak / MIB);
    reconcile(&db, &project.lake(), "wide", &Options::full_refresh()).await.unwrap().assert_same();
}

/// A commit that is under way is finished before a stop; a second signal does not wait for it.
#[tokio::test]
async fn f51_a_commit_is_finished_before_a_stop() {
    let scene = Scene::new(&PgServer::shared(Version::Pg18), 5_000, How::FullRefresh).await;
    let mut project = scene.over_same().env("LAKEWARD_FAILPOINT", "parquet-record-synced:3=sleep(3000)");
    let arguments = ["--chunk-size", "128KiB", "--max-connections", "1"];
    let run = project.spawn_sync(&arguments).unwrap();
    wait_for_record(&project, 2).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    run.signal(Signal::TERM).unwrap();
    let output = run.wait_timeout(Duration::from_secs(10)).await.unwrap();
    output.assert_code(130);
    let log = crate::scene::log(&project);
    // One more chunk may have been waiting to be committed: it is read while the one before it is.
    assert!((3..=4).contains(&log.len()), "the commit under way was not finished, or another was begun");
    assert_eq!(project.state().unwrap()["streams"][0]["commit"], log.len(), "the state was not saved");
    project.clear_failpoints();
    project.sync(&arguments).await.unwrap().assert_ok();
    reconcile(&scene.db, &project.lake(), "busy", &Options::full_refresh()).await.unwrap().assert_same();
}

#[tokio::test]
async fn f51_a_second_signal_leaves_at_once() {
    let scene = Scene::new(&PgServer::shared(Version::Pg18), 5_000, How::FullRefresh).await;
    for (first, second) in [(Signal::TERM, Signal::TERM), (Signal::INT, Signal::INT)] {
        let mut project = scene.over_same().env("LAKEWARD_FAILPOINT", "parquet-record-synced:3=sleep(9000)");
        let arguments = ["--chunk-size", "128KiB", "--max-connections", "1"];
        let mut run = project.spawn_sync(&arguments).unwrap();
        wait_for_record(&project, 2).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        run.signal(first).unwrap();
        tokio::time::sleep(Duration::from_millis(700)).await;
        assert!(!run.has_ended().unwrap(), "it did not wait for its commit");
        let sent = Instant::now();
        run.signal(second).unwrap();
        let output = run.wait_timeout(Duration::from_secs(8)).await.unwrap();
        output.assert_code(130);
        assert!(sent.elapsed() < Duration::from_secs(1), "it left only after {:?}", sent.elapsed());
        project.clear_failpoints();
        project.sync(&arguments).await.unwrap().assert_ok();
        reconcile(&scene.db, &project.lake(), "busy", &Options::full_refresh()).await.unwrap().assert_same();
    }
}

/// However long a commit takes, a stop does not take longer than it may.
#[tokio::test]
async fn f51_a_stop_has_a_limit() {
    let scene = Scene::new(&PgServer::shared(Version::Pg18), 5_000, How::FullRefresh).await;
    let mut project = scene.over_same().env("LAKEWARD_FAILPOINT", "parquet-record-synced:3=sleep(60000)");
    let arguments = ["--chunk-size", "128KiB", "--max-connections", "1"];
    let run = project.spawn_sync(&arguments).unwrap();
    wait_for_record(&project, 2).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let sent = Instant::now();
    run.signal(Signal::TERM).unwrap();
    let output = run.wait_timeout(Duration::from_secs(15)).await.unwrap();
    output.assert_code(130);
    assert!(sent.elapsed() < Duration::from_secs(11), "it left only after {:?}", sent.elapsed());
    project.clear_failpoints();
    project.sync(&arguments).await.unwrap().assert_ok();
    reconcile(&scene.db, &project.lake(), "busy", &Options::full_refresh()).await.unwrap().assert_same();
}

async fn wait_for_record(project: &Project, number: usize) {
    let start = Instant::now();
    while crate::scene::log(project).len() < number {
        assert!(start.elapsed() < Duration::from_secs(60), "commit {number} does not come");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
