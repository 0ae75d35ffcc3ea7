//! Many small commits leave few files, whatever happens while these are merged.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use lakeward_testkit::lakeward::{Output, Running, Signal};
use lakeward_testkit::on_both;
use lakeward_testkit::server::{PgServer, Version};
use lakeward_testkit::workload::seed;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::json;

use crate::followed::Followed;

on_both!(f45_small_commits_leave_a_bounded_number_of_files, super::bounded);
on_both!(f45_bounded_runs_merge_what_has_gathered, super::gathered);
on_both!(f45_a_history_that_is_kept_is_few_files, super::history);

const FOLLOW: &[&str] = &["--follow", "--checkpoint-interval", "50ms"];
/// Half of what a partition directory may hold besides full files: no file gets large here.
const MOST_FILES: usize = 100;
const TABLES: [&str; 2] = ["plain", "parted"];

const CREATE: &str = "CREATE TABLE plain (id int PRIMARY KEY, part int, n int, note text);
    INSERT INTO plain SELECT g, g % 3, 0, repeat('x', g % 50) FROM generate_series(1, 500) g;
    CREATE TABLE parted (id int, part int, n int, note text, PRIMARY KEY (id, part));
    INSERT INTO parted SELECT * FROM plain";

async fn scene(version: Version) -> Followed {
    let scene = Followed::new(&PgServer::shared(version), CREATE, &["plain"]).await;
    scene.project.select("parted", json!({ "sync_mode": "cdc", "partition": ["part"] })).unwrap();
    scene.sync().await;
    scene
}

/// Files of each directory of a stream.
fn crowds(scene: &Followed, table: &str) -> BTreeMap<PathBuf, usize> {
    let mut crowds = BTreeMap::new();
    for file in scene.project.visible_files(table) {
        *crowds.entry(file.parent().unwrap().to_owned()).or_insert(0) += 1;
    }
    crowds
}

/// The most files that any directory holds now.
fn most(scene: &Followed) -> usize {
    TABLES.iter().flat_map(|table| crowds(scene, table).into_values()).max().unwrap_or(0)
}

/// The greatest number of files while a run goes on.
async fn watch(scene: &Followed, run: &mut Running, time: Duration) -> usize {
    let start = Instant::now();
    let mut greatest = 0;
    while start.elapsed() < time && !run.has_ended().unwrap() {
        greatest = greatest.max(most(scene));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    greatest
}

async fn compact(scene: &Followed, further: &[&str]) -> Output {
    let mut arguments = vec![
        "compact",
        "--destination",
        "destination.json",
        "--streams",
        "streams.json",
        "--state",
        "state.json",
    ];
    arguments.extend(further);
    scene.project.run(&arguments).await.unwrap()
}

async fn history(version: Version) {
    let scene = Followed::new(&PgServer::shared(version), CREATE, &["plain"]).await;
    scene.source(json!({ "replication": { "on_slot_lost": "resnapshot" } }));
    scene.sync().await;
    let (generations, changes) = (3, 5);
    for generation in 0..generations {
        for n in 0..changes {
            scene.sql(&format!("UPDATE plain SET n = n + 1 WHERE id = 1 + {generation} * 10 + {n}")).await;
            scene.sync().await;
        }
        scene.drop_slot().await;
        scene.sync().await;
        scene.assert_same("plain").await;
    }
    scene.sql("UPDATE plain SET n = -1 WHERE id = 100").await;
    scene.sync().await;
    scene.assert_same("plain").await;
    let files =
        scene.project.run(&["files", "public.plain", "--output", "json"]).await.unwrap().json().unwrap();
    let files = files.as_array().unwrap();
    // One of each generation that is history; of the newest one its rows, the end of the one before, and a change.
    assert!(files.len() <= generations + 3, "{files:?}");
    let rows: u64 = files.iter().map(|file| file["rows"].as_u64().unwrap()).sum();
    let all = (generations + 1) * 500 + generations * changes + 1;
    assert!(rows >= all as u64, "{rows} of {all} rows are left");
}

async fn bounded(version: Version) {
    let mut rng = StdRng::seed_from_u64(seed());
    let mut scene = scene(version).await;
    let writer = scene
        .keep_writing(Duration::from_millis(15), |n| {
            let (id, part, old) = (1000 + n, n % 3, 1 + n * 7 % 500);
            format!(
                "BEGIN; INSERT INTO plain VALUES ({id}, {part}, {n}, 'new'); UPDATE plain SET n = {n} WHERE id = {old};
                 INSERT INTO parted VALUES ({id}, {part}, {n}, 'new'); UPDATE parted SET n = {n}, note = note || 'y' WHERE id = {old}; COMMIT;
                 DELETE FROM plain WHERE id = {id} - 50 AND id % 5 = 0; DELETE FROM parted WHERE id = {id} - 50 AND id % 5 = 0"
            )
        })
        .await;
    let mut run = scene.start(FOLLOW);
    let mut greatest = watch(&scene, &mut run, Duration::from_secs(12)).await;
    // While a run follows, it is the one that merges.
    let refused = compact(&scene, &[]).await;
    refused.assert_code(7);
    assert!(refused.stderr.contains("by itself"), "{}", refused.stderr);
    let output = run.kill9().await.unwrap();
    let merged = output.events_of("files_merged").len();
    assert!(merged > 0, "nothing was merged:\n{}", output.stderr);

    if cfg!(feature = "failpoints") {
        for (place, nth) in
            [("parquet-merge-staged", 1), ("parquet-file-removed", 1), ("parquet-file-removed", 7)]
        {
            scene.project.abort_at(place, nth);
            let mut run = scene.start(FOLLOW);
            greatest = greatest.max(watch(&scene, &mut run, Duration::from_secs(30)).await);
            let output = run.wait_timeout(Duration::from_secs(1)).await.unwrap();
            assert_eq!(output.signal, Some(Signal::ABORT.as_raw()), "{place}:{nth}:\n{}", output.stderr);
        }
        scene.project.clear_failpoints();
    }
    for _ in 0..4 {
        let mut run = scene.start(FOLLOW);
        let time = Duration::from_millis(rng.random_range(300..2500));
        greatest = greatest.max(watch(&scene, &mut run, time).await);
        run.kill9().await.unwrap();
    }
    let mut run = scene.start(FOLLOW);
    greatest = greatest.max(watch(&scene, &mut run, Duration::from_secs(2)).await);
    run.signal(Signal::TERM).unwrap();
    run.wait_timeout(Duration::from_secs(15)).await.unwrap().assert_code(130);
    let transactions = writer.stop().await;
    scene.sync().await;
    let state = scene.project.state().unwrap();
    let commits =
        state["streams"].as_array().unwrap().iter().map(|stream| stream["commit"].as_u64().unwrap()).max();
    for table in TABLES {
        scene.assert_same(table).await;
    }
    assert!(greatest <= MOST_FILES, "{greatest} files in one directory");

    // The rest is merged on request, and then there is nothing more to do.
    let before = most(&scene);
    let output = compact(&scene, &["--output", "json"]).await;
    let result = output.assert_ok().json().unwrap();
    assert_eq!(result["streams"].as_array().unwrap().len(), 2, "{result}");
    for table in TABLES {
        let left: usize = crowds(&scene, table).into_values().sum();
        let told =
            result["streams"].as_array().unwrap().iter().find(|of| of["stream"] == format!("public.{table}"));
        assert_eq!(told.unwrap()["files_after"], left, "{result}");
        let listed = scene.project.run(&["files", table, "--output", "json"]).await.unwrap();
        assert_eq!(listed.assert_ok().json().unwrap().as_array().unwrap().len(), left);
        scene.assert_same(table).await;
    }
    let after = most(&scene);
    assert!(after <= 6, "{after} files are left in one directory: {result}");
    let again = compact(&scene, &["public.plain"]).await;
    assert!(again.assert_ok().stdout.contains("public.plain"), "{}", again.stdout);
    assert!(!again.stdout.contains("public.parted") && again.events_of("files_merged").is_empty());
    // What follows goes on as if nothing had happened.
    scene.sql("UPDATE plain SET n = -1 WHERE id % 2 = 0; UPDATE parted SET n = -1 WHERE id % 2 = 0").await;
    scene.sync().await;
    for table in TABLES {
        scene.assert_same(table).await;
    }
    eprintln!(
        "{}: {transactions} transactions, {} commits, at most {greatest} files in a directory, then {before}, then {after}",
        version.name(),
        commits.unwrap_or(0),
    );
}

async fn gathered(version: Version) {
    let scene = scene(version).await;
    for n in 0..18 {
        scene.sql(&format!("UPDATE plain SET n = {n} WHERE id = 7")).await;
        scene.sync().await;
    }
    assert!(most(&scene) < 18, "{:?}", crowds(&scene, "plain"));
    scene.assert_same("plain").await;
    // Without the state nothing says whose the files are.
    let refused = scene.project.run(&["compact", "--state", "other.json"]).await.unwrap();
    refused.assert_code(7);
    assert!(refused.stderr.contains("there is no state"), "{}", refused.stderr);
}
