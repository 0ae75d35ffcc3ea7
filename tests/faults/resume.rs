//! What a resumed backfill reads again: only what it must.

use std::collections::BTreeMap;

use lakeward_testkit::lakeward::Output;
use lakeward_testkit::on_both;
use lakeward_testkit::proxy::Proxy;
use lakeward_testkit::server::{PgServer, Version};

use crate::scene::{How, Scene, TABLE, event};

const ROWS: u64 = 60_000;
const CONNECTIONS: &str = "3";

on_both!(f22_killed_at_10_50_and_90_percent, super::at_10_50_and_90_percent);
on_both!(f22_changed_chunks_alone_are_read_again, super::changed_chunks_alone);
on_both!(f22_a_followed_backfill_goes_on_after_changes, super::followed);

/// Kills a slowed backfill when this share of its chunks is committed; returns those with their rows.
async fn kill_at(scene: &Scene, percent: usize, chunks: usize) -> BTreeMap<u64, u64> {
    let proxy = Proxy::start(scene.db.server().port()).unwrap();
    proxy.throttle(Some(1 << 20));
    scene.source(serde_json::json!({ "port": proxy.port() }));
    let mut run = scene.start(&["--max-connections", CONNECTIONS]);
    scene.wait_for_chunks(&mut run, (chunks * percent / 100).max(1)).await;
    let killed = run.kill9().await.unwrap();
    assert_eq!(killed.signal, Some(9), "it was not killed at work");
    scene.source(serde_json::json!({}));
    scene.chunks()
}

async fn chunks_of_the_table(scene: &Scene) -> usize {
    // Rows that are younger than a transaction which is still open, in any database of the server, cannot be told from
    // those that come later.
    let settled =
        format!("SELECT txid_snapshot_xmin(txid_current_snapshot()) > max(xmin::text::bigint) FROM {TABLE}");
    scene.db.until(&settled).await.unwrap();
    let output =
        scene.project.sync(&["--chunk-size", "128KiB", "--dry-run", "--output", "json"]).await.unwrap();
    let plan = output.assert_ok().json().unwrap();
    let streams = if plan.is_array() { &plan } else { &plan["streams"] };
    let chunks = usize::try_from(streams[0]["chunks"].as_u64().unwrap()).unwrap();
    assert!(chunks >= 20, "too few chunks to tell percents: {chunks}");
    chunks
}

fn rows_read(output: &Output) -> u64 {
    event(output, "stream_finished")["rows"].as_u64().unwrap()
}

async fn at_10_50_and_90_percent(version: Version) {
    for percent in [10, 50, 90] {
        let scene = Scene::new(&PgServer::shared(version), ROWS, How::FullRefresh).await;
        let chunks = chunks_of_the_table(&scene).await;
        let done = kill_at(&scene, percent, chunks).await;
        let resumed = scene.sync(&["--max-connections", CONNECTIONS]).await;
        resumed.assert_ok();
        // All that was committed is kept: what is read again are those that were being read, one per connection.
        let planned = event(&resumed, "stream_planned");
        assert_eq!(planned["chunks_kept"], done.len(), "at {percent} %: {planned}");
        assert_eq!(planned["chunks"], chunks);
        let kept: u64 = done.values().sum();
        assert_eq!(rows_read(&resumed), ROWS - kept, "at {percent} %");
        scene.assert_exact().await;
    }
}

async fn changed_chunks_alone(version: Version) {
    let scene = Scene::new(&PgServer::shared(version), ROWS, How::FullRefresh).await;
    let chunks = chunks_of_the_table(&scene).await;
    let done = kill_at(&scene, 60, chunks).await;
    // A chunk in the middle of the table, by the plan of the last open record.
    let log = scene.log();
    let open = log.iter().rev().find(|record| !record["open"].is_null()).unwrap();
    let plan = open["open"]["plan"].as_array().unwrap();
    let changed = plan.iter().filter(|chunk| done.contains_key(&chunk["number"].as_u64().unwrap()));
    let changed =
        changed.filter(|chunk| chunk["min"].is_string() && chunk["max"].is_string()).nth(3).unwrap();
    let (min, max) = (changed["min"].as_str().unwrap(), changed["max"].as_str().unwrap());
    // Too long for their pages: the new versions go to the end of the table.
    let moved = scene
        .db
        .value(&format!(
            "WITH moved AS (UPDATE {TABLE} SET note = repeat('m', 2000), version = version + 1
                 WHERE ctid >= '{min}' AND ctid < '{max}' AND id % 3 = 0 RETURNING ctid)
             SELECT count(*) FROM moved WHERE NOT (ctid >= '{min}' AND ctid < '{max}')"
        ))
        .await
        .unwrap();
    assert!(moved.unwrap().parse::<u64>().unwrap() > 10, "no row moved to another range");

    let resumed = scene.sync(&["--max-connections", CONNECTIONS]).await;
    resumed.assert_ok();
    let kept = event(&resumed, "stream_planned")["chunks_kept"].as_u64().unwrap();
    // The changed one goes; so does the last one, if it was done, since rows came to it.
    let done_count = done.len() as u64;
    assert!((done_count - 2..done_count).contains(&kept), "{kept} of {done_count} kept");
    scene.assert_exact().await;
}

/// Changes before a kill, which stand committed in the hidden generation, and after it.
async fn followed(version: Version) {
    for percent in [10, 50, 90] {
        let scene = Scene::new(&PgServer::shared(version), ROWS, How::Cdc).await;
        let chunks = chunks_of_the_table(&scene).await;
        let proxy = Proxy::start(scene.db.server().port()).unwrap();
        proxy.throttle(Some(1 << 20));
        scene.source(serde_json::json!({ "port": proxy.port() }));
        let mut run = scene.start(&["--max-connections", CONNECTIONS, "--checkpoint-interval", "100ms"]);
        scene.wait_for_chunks(&mut run, 1).await;
        change_a_few(&scene, 0).await;
        let committed =
            |record: &serde_json::Value| record["unit"].as_str().is_some_and(|unit| unit.starts_with("cdc/"));
        while !scene.log().iter().any(committed) {
            assert!(!run.has_ended().unwrap(), "the run ended before a change was committed");
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        scene.wait_for_chunks(&mut run, chunks * percent / 100).await;
        let done = scene.chunks().len();
        assert_eq!(run.kill9().await.unwrap().signal, Some(9), "it was not killed at work");
        scene.source(serde_json::json!({}));
        change_a_few(&scene, 1).await;
        let resumed = scene.sync(&["--max-connections", CONNECTIONS]).await;
        resumed.assert_ok();
        // The rows that were changed lie in few of them, if there are others yet.
        let kept = event(&resumed, "stream_planned")["chunks_kept"].as_u64().unwrap();
        assert!(kept > 0 || done < 8, "nothing of {done} chunks was kept at {percent} %");
        scene.assert_exact().await;
        change_a_few(&scene, 2).await;
        scene.sync(&[]).await.assert_ok();
        scene.assert_exact().await;
        scene.project.assert_nothing_forgotten_early(&scene.db).await;
    }
}

/// Updates, key changes, deletes and inserts of rows that lie together; no two numbers change the same.
async fn change_a_few(scene: &Scene, number: u64) {
    let nth = |n: u64| format!("(SELECT id FROM {TABLE} ORDER BY id OFFSET {n} LIMIT 1)");
    let (first, last) = (nth(number * 500), nth(number * 500 + 300));
    let new = 2_000_000_000 + number * 1_000;
    let sql = format!(
        "BEGIN; CREATE TEMPORARY TABLE few ON COMMIT DROP AS SELECT id FROM {TABLE} WHERE id BETWEEN {first} AND {last};
         UPDATE {TABLE} SET version = version + 1 WHERE id IN (SELECT id FROM few WHERE id % 3 = 0);
         UPDATE {TABLE} SET id = id + 100000000 WHERE id IN (SELECT id FROM few WHERE id % 3 = 1);
         DELETE FROM {TABLE} WHERE id IN (SELECT id FROM few WHERE id % 30 = 20);
         INSERT INTO {TABLE} SELECT {new} + n, {number}, n, 'new', NULL FROM generate_series(1, 20) n; COMMIT"
    );
    scene.db.execute(&sql).await.unwrap();
}
