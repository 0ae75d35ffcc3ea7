//! The server goes away and comes back.

use std::time::Duration;

use lakeward_testkit::on_both;
use lakeward_testkit::private_server::{PrivateServer, Stop};
use lakeward_testkit::proxy::Proxy;
use lakeward_testkit::server::Version;
use serde_json::json;

use crate::scene::{How, Scene};

on_both!(f51_server_restarted_mid_run, super::restarted);
on_both!(a_run_that_begins_while_the_server_restarts_waits_for_it, super::begun_meanwhile);

async fn restarted(version: Version) {
    let server = PrivateServer::start_new(version).await.unwrap();
    for (how, mode) in
        [(Stop::Fast, How::FullRefresh), (Stop::Immediate, How::FullRefresh), (Stop::Immediate, How::Cdc)]
    {
        let scene = Scene::new(server.server(), 40_000, mode).await;
        let proxy = Proxy::start(server.port()).unwrap();
        proxy.throttle(Some(1 << 20));
        scene.source(json!({ "port": proxy.port() }));
        let mut run = scene.start(&[]);
        scene.wait_for_chunks(&mut run, 6).await;
        let before = scene.chunks().len();
        server.stop(how).await.unwrap();
        server.start().await.unwrap();
        proxy.throttle(None);
        let output = run.wait_timeout(Duration::from_secs(90)).await.unwrap();
        assert!(matches!(output.code, Some(0 | 3)), "{:?}\n{}", output.code, output.stderr);
        if output.code == Some(0) {
            assert!(!output.events_of("retrying").is_empty(), "the restart was not noticed");
            // A new snapshot, and what was committed before stands in it.
            let planned = output.events_of("stream_planned");
            let kept = planned.last().unwrap()["chunks_kept"].as_u64().unwrap();
            assert!(kept >= before as u64, "{kept} chunks kept, {before} were committed");
        } else {
            scene.sync(&[]).await.assert_ok();
        }
        scene.assert_exact().await;
        eprintln!("{}, {how:?}, {mode:?}: the run ended with {:?}", version.name(), output.code);
    }
}

async fn begun_meanwhile(version: Version) {
    let server = PrivateServer::start_new(version).await.unwrap();
    let scene = Scene::new(server.server(), 1_000, How::FullRefresh).await;
    server.stop(Stop::Fast).await.unwrap();
    let run = scene.start(&[]);
    tokio::time::sleep(Duration::from_millis(500)).await;
    server.start().await.unwrap();
    let output = run.wait_timeout(Duration::from_secs(60)).await.unwrap();
    output.assert_ok();
    let retrying = output.events_of("retrying");
    // It concerns the run, not one of its streams.
    assert!(!retrying.is_empty() && retrying.iter().all(|event| event.get("stream").is_none()));
    scene.assert_exact().await;
}
