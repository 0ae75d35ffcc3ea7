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
