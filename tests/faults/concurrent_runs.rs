//! Two runs at once.

use std::time::{Duration, Instant};

use lakeward_testkit::lakeward::Project;
use lakeward_testkit::on_both;
use lakeward_testkit::proxy::Proxy;
use lakeward_testkit::server::{PgServer, Version};
use serde_json::json;

use crate::scene::{How, LAKEWARD, Scene, assert_refused};

on_both!(f48_two_runs_on_one_state, super::on_one_state);
on_both!(f48_two_runs_with_copied_states, super::with_copied_states);

fn slowed(scene: &Scene) -> Proxy {
    let proxy = Proxy::start(scene.db.server().port()).unwrap();
    proxy.throttle(Some(1 << 20));
    scene.source(json!({ "port": proxy.port() }));
    proxy
}

async fn on_one_state(version: Version) {
    let scene = Scene::new(&PgServer::shared(version), 30_000, How::FullRefresh).await;
    let proxy = slowed(&scene);
    let mut first = scene.start(&[]);
    scene.wait_for_chunks(&mut first, 2).await;
    let start = Instant::now();
    let second = scene.sync(&[]).await;
    assert!(start.elapsed() < Duration::from_secs(5), "the second run did not leave at once");
    assert_refused(&second, 7, &["another run holds this state", &first.pid().to_string()]);
    proxy.throttle(None);
    first.wait_timeout(Duration::from_secs(120)).await.unwrap().assert_ok();
    scene.assert_exact().await;
}

async fn with_copied_states(version: Version) {
    let scene = Scene::new(&PgServer::shared(version), 60_000, How::FullRefresh).await;
    let proxy = slowed(&scene);
    let mut earlier = scene.start(&[]);
    scene.wait_for_chunks(&mut earlier, 3).await;

    let copy = Project::new(LAKEWARD, &scene.db.source_config(json!({}))).unwrap();
    let copy = copy.destination(json!({ "path": scene.project.lake() })).unwrap();
    for file in ["streams.json", "state.json"] {
        std::fs::copy(scene.project.file(file), copy.file(file)).unwrap();
    }
    assert!(!earlier.has_ended().unwrap(), "there is no earlier run any more");
    copy.sync(&["--chunk-size", "128KiB"]).await.unwrap().assert_ok();
    scene.assert_exact().await;
    proxy.throttle(None);
    let earlier = earlier.wait_timeout(Duration::from_secs(120)).await.unwrap();
    assert_refused(&earlier, 6, &["another run has taken this stream over"]);
    scene.assert_exact().await;

    // The earlier one's state is behind now; it goes on all the same, and so does the copy.
    scene.source(json!({}));
    scene.sync(&[]).await.assert_ok();
    scene.assert_exact().await;
}
