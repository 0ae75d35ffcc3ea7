//! Connections that are cut, silent, or refused.

use std::time::{Duration, Instant};

use lakeward_testkit::on_both;
use lakeward_testkit::proxy::Proxy;
use lakeward_testkit::server::{PgServer, Version};
use lakeward_testkit::workload::{rounds, seed};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::json;

use crate::scene::{How, Scene};

on_both!(f50_cut_at_random_bytes, super::cut_at_random_bytes);
on_both!(f50_cut_for_good, super::cut_for_good);
on_both!(f50_half_open, super::half_open);

async fn cut_at_random_bytes(version: Version) {
    let seed = seed();
    let mut rng = StdRng::seed_from_u64(seed);
    let server = PgServer::shared(version);
    let scene = Scene::new(&server, 20_000, How::FullRefresh).await;
    let proxy = Proxy::start(server.port()).unwrap();
    scene.source(json!({ "port": proxy.port() }));
    let before = proxy.bytes_to_client();
    scene.sync(&[]).await.assert_ok();
    let whole = proxy.bytes_to_client() - before;
    let (mut cuts, mut retried) = (0, 0);
    for _ in 0..rounds(1) * 6 {
        proxy.cut_after_bytes(rng.random_range(1..whole));
        let output = scene.sync(&[]).await;
        assert!(matches!(output.code, Some(0 | 3)), "seed {seed}: {:?}:\n{}", output.code, output.stderr);
        cuts += 1;
        retried += usize::from(!output.events_of("retrying").is_empty());
        // Success with fewer rows is the one thing that must not be; a failure leaves what was there whole.
        scene.assert_exact().await;
    }
    assert!(retried > 0, "seed {seed}: no cut was noticed");
    eprintln!("{}: seed {seed}: {cuts} cuts, {retried} runs retried", version.name());
    proxy.cut_after_bytes(u64::MAX);
    scene.sync(&[]).await.assert_ok();
    scene.assert_exact().await;
}

/// The end of the data comes before the end of the rows, and nobody answers any more.
async fn cut_for_good(version: Version) {
    let server = PgServer::shared(version);
    let scene = Scene::new(&server, 20_000, How::FullRefresh).await;
    let proxy = Proxy::start(server.port()).unwrap();
    proxy.throttle(Some(1 << 20));
    scene.source(json!({ "port": proxy.port(), "max_retries": 2 }));
    let mut run = scene.start(&[]);
    scene.wait_for_chunks(&mut run, 3).await;
    proxy.refuse_new(true);
    proxy.cut();
    let start = Instant::now();
    let output = run.wait_timeout(Duration::from_secs(60)).await.unwrap();
    output.assert_code(3);
    assert!(start.elapsed() < Duration::from_secs(45), "it took {:?} to give up", start.elapsed());
    assert_eq!(scene.assert_visible_files_are_whole(), 0, "half a generation is in sight");
    proxy.refuse_new(false);
    proxy.throttle(None);
    scene.sync(&[]).await.assert_ok();
    scene.assert_exact().await;
}

/// The network between is gone and nobody says so.
async fn half_open(version: Version) {
    let server = PgServer::shared(version);
    let scene = Scene::new(&server, 20_000, How::FullRefresh).await;
    let proxy = Proxy::start(server.port()).unwrap();
    proxy.throttle(Some(1 << 20));
    scene.source(json!({ "port": proxy.port(), "silence_limit": "3s", "connect_timeout": "3s" }));
    let mut run = scene.start(&[]);
    scene.wait_for_chunks(&mut run, 3).await;
    proxy.half_open();
    proxy.throttle(None);
    let start = Instant::now();
    let output = run.wait_timeout(Duration::from_secs(90)).await.unwrap();
    assert!(matches!(output.code, Some(0 | 3)), "{:?}:\n{}", output.code, output.stderr);
    assert!(!output.events_of("retrying").is_empty(), "the silence was not noticed:\n{}", output.stderr);
    eprintln!("{}: ended with {:?} after {:?}", version.name(), output.code, start.elapsed());
    if output.code == Some(3) {
        scene.sync(&[]).await.assert_ok();
    }
    scene.assert_exact().await;
}
