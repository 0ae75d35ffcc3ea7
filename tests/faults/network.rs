//! Connections that are cut, silent, or refused.

use std::time::{Duration, Instant};

use lakeward_testkit::lakeward::Signal;
use lakeward_testkit::on_both;
use lakeward_testkit::private_server::PrivateServer;
use lakeward_testkit::proxy::Proxy;
use lakeward_testkit::server::{PgServer, Version};
use lakeward_testkit::workload::{rounds, seed};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::json;

use crate::scene::{How, Scene, TABLE};

on_both!(f50_cut_at_random_bytes, super::cut_at_random_bytes);
on_both!(f50_cut_for_good, super::cut_for_good);
on_both!(f50_half_open, super::half_open);
on_both!(f50_changes_cut_at_random_bytes, super::changes_cut_at_random_bytes);
on_both!(f50_changes_cut_for_good, super::changes_cut_for_good);
on_both!(f50_changes_wait_for_a_server_that_is_away, super::changes_wait);
on_both!(f50_changes_that_end_before_their_end, super::changes_that_end_early);
on_both!(f50_half_open_while_changes_are_read, super::changes_half_open);
on_both!(f50_a_log_without_changes_is_not_silent, super::idle_log);

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

/// A table that is followed through a proxy.
async fn followed(version: Version, source: serde_json::Value) -> (Scene, Proxy) {
    let server = PgServer::shared(version);
    let scene = Scene::new(&server, 3_000, How::Cdc).await;
    scene.sync(&[]).await.assert_ok();
    let proxy = Proxy::start(server.port()).unwrap();
    let mut overrides = json!({ "port": proxy.port() });
    overrides.as_object_mut().unwrap().extend(source.as_object().unwrap().clone());
    scene.source(overrides);
    (scene, proxy)
}

async fn changes_cut_at_random_bytes(version: Version) {
    let seed = seed();
    let mut rng = StdRng::seed_from_u64(seed);
    let (scene, proxy) = followed(version, json!({})).await;
    scene.change(0).await;
    let before = proxy.bytes_to_client();
    scene.sync(&[]).await.assert_ok();
    let whole = proxy.bytes_to_client() - before;
    assert!(whole > 1 << 20, "there is little to cut: {whole} bytes");
    scene.assert_exact().await;
    let mut retried = 0;
    for number in 1..=i64::from(rounds(1)) * 5 {
        scene.change(number).await;
        proxy.cut_after_bytes(rng.random_range(1..whole));
        let output = scene.sync(&[]).await;
        assert!(matches!(output.code, Some(0 | 3)), "seed {seed}: {:?}:\n{}", output.code, output.stderr);
        retried += usize::from(!output.events_of("retrying").is_empty());
        // A run that ends well has read to its end.
        if output.code == Some(0) {
            scene.assert_exact().await;
        }
        scene.assert_unharmed().await;
    }
    assert!(retried > 0, "seed {seed}: no cut was noticed");
    proxy.cut_after_bytes(u64::MAX);
    scene.sync(&[]).await.assert_ok();
    scene.assert_exact().await;
}

async fn changes_cut_for_good(version: Version) {
    let (scene, proxy) = followed(version, json!({ "max_retries": 2 })).await;
    for (number, further) in [(0, &[][..]), (1, &["--follow"])] {
        scene.change(number).await;
        proxy.throttle(Some(256 << 10));
        let run = scene.start(further);
        scene.db.until(&scene.of_slot("active")).await.unwrap();
        proxy.refuse_new(true);
        proxy.cut();
        let start = Instant::now();
        let output = run.wait_timeout(Duration::from_secs(60)).await.unwrap();
        output.assert_code(3);
        assert!(start.elapsed() < Duration::from_secs(30), "it took {:?} to give up", start.elapsed());
        scene.assert_unharmed().await;
        proxy.refuse_new(false);
        proxy.throttle(None);
        scene.sync(&[]).await.assert_ok();
        scene.assert_exact().await;
    }
}

/// Longer than a run that is to end would wait.
async fn changes_wait(version: Version) {
    let (scene, proxy) = followed(version, json!({})).await;
    let run = scene.start(&["--follow"]);
    scene.db.until(&scene.of_slot("active")).await.unwrap();
    proxy.refuse_new(true);
    proxy.cut();
    scene.change(0).await;
    tokio::time::sleep(Duration::from_secs(12)).await;
    proxy.refuse_new(false);
    let confirmed = scene.db.confirmed().await.unwrap();
    scene.db.until(&confirmed).await.unwrap();
    run.signal(Signal::TERM).unwrap();
    let output = run.wait_timeout(Duration::from_secs(30)).await.unwrap();
    output.assert_code(130);
    assert!(output.events_of("retrying").len() > 5, "{}", output.stderr);
    scene.assert_exact().await;
}

/// Somebody ends the server's session again and again, in good order: the end of what it sends is not the end.
async fn changes_that_end_early(version: Version) {
    let (scene, _proxy) = followed(version, json!({ "max_retries": 2 })).await;
    for (number, further) in [(0, &[][..]), (1, &["--follow"])] {
        // More than any buffer on the way holds.
        let large = format!(
            "INSERT INTO {TABLE} SELECT 2000000000 + {number} * 100000 + n, 0, n, repeat(md5(n::text), 30), NULL FROM generate_series(1, 40000) n"
        );
        scene.db.execute(&large).await.unwrap();
        let administrator = scene.db.client().await.unwrap();
        let ending = tokio::spawn(async move {
            let sql = "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots
                WHERE database = current_database() AND NOT temporary AND active";
            while administrator.batch_execute(sql).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        let output = scene.sync(further).await;
        ending.abort();
        output.assert_code(3);
        assert!(output.events_of("retrying").len() >= 2, "{}", output.stderr);
        scene.assert_unharmed().await;
        scene.sync(&[]).await.assert_ok();
        scene.assert_exact().await;
    }
}

async fn changes_half_open(version: Version) {
    let limits = json!({ "silence_limit": "3s", "connect_timeout": "3s" });
    let (scene, proxy) = followed(version, limits).await;
    // What the server's end of such a connection takes to be noticed.
    let name = scene.db.name();
    scene.db.execute(&format!("ALTER DATABASE \"{name}\" SET wal_sender_timeout = '4s'")).await.unwrap();
    // Amid a transaction of a run that is to end.
    scene.change(0).await;
    proxy.throttle(Some(256 << 10));
    let run = scene.start(&[]);
    scene.db.until(&scene.of_slot("active")).await.unwrap();
    proxy.half_open();
    proxy.throttle(None);
    let output = run.wait_timeout(Duration::from_secs(60)).await.unwrap();
    output.assert_ok();
    let noticed = ["nothing came from the server for 3 s", "the server did not answer in time"];
    assert!(noticed.iter().any(|said| output.stderr.contains(said)), "{}", output.stderr);
    scene.assert_exact().await;
    // While nothing happens, and then something does.
    let run = scene.follow(&[]).await;
    scene.caught_up().await;
    proxy.half_open();
    scene.change(1).await;
    let start = Instant::now();
    scene.caught_up().await;
    eprintln!("{}: followed again after {:?}", version.name(), start.elapsed());
    assert!(start.elapsed() < Duration::from_secs(20), "it took {:?} to notice", start.elapsed());
    let output = scene.stop(run).await;
    assert!(!output.events_of("retrying").is_empty(), "{}", output.stderr);
    scene.assert_exact().await;
}

/// A server that has nothing to say is asked, in time.
async fn idle_log(version: Version) {
    let server = PrivateServer::start_new(version).await.unwrap();
    let scene = Scene::new(server.server(), 100, How::Cdc).await;
    scene.sync(&[]).await.assert_ok();
    scene.source(json!({ "silence_limit": "1500ms" }));
    let run = scene.follow(&[]).await;
    scene.caught_up().await;
    tokio::time::sleep(Duration::from_secs(6)).await;
    scene.db.execute(&format!("UPDATE {TABLE} SET version = 7")).await.unwrap();
    scene.caught_up().await;
    let output = scene.stop(run).await;
    assert!(output.events_of("retrying").is_empty(), "{}", output.stderr);
    scene.assert_exact().await;
}
