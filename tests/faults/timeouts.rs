//! Time-outs of the server and administrators who end sessions.

use std::time::{Duration, Instant};

use lakeward_testkit::on_both;
use lakeward_testkit::proxy::Proxy;
use lakeward_testkit::server::{PgServer, Version};
use serde_json::json;

use crate::scene::{How, Scene};

on_both!(f55_time_outs_of_the_database_and_the_role, super::time_outs);
on_both!(f55_the_snapshot_holder_is_ended, super::holder_ended);
on_both!(f55_readers_that_are_always_ended_are_given_up, super::readers_ended);

async fn time_outs(version: Version) {
    let server = PgServer::shared(version);
    let scene = Scene::new(&server, 30_000, How::FullRefresh).await;
    let mut settings = vec![
        "idle_in_transaction_session_timeout = '1s'",
        "statement_timeout = '1s'",
        "idle_session_timeout = '1s'",
    ];
    if version == Version::Pg18 {
        settings.push("transaction_timeout = '1s'");
    }
    for setting in &settings {
        // Of the role in this database: it goes with it.
        let name = scene.db.name();
        scene.db.execute(&format!("ALTER DATABASE \"{name}\" SET {setting}")).await.unwrap();
        scene.db.execute(&format!("ALTER ROLE postgres IN DATABASE \"{name}\" SET {setting}")).await.unwrap();
    }
    let shown = scene.db.value("SHOW idle_in_transaction_session_timeout").await.unwrap();
    assert_eq!(shown.as_deref(), Some("1s"), "the settings do not take effect");
    let proxy = Proxy::start(server.port()).unwrap();
    proxy.throttle(Some(500 << 10));
    scene.source(json!({ "port": proxy.port() }));
    let start = Instant::now();
    // Chunks so large that each of them takes longer than the time-outs.
    let output = scene.project.sync(&["--chunk-size", "2MiB", "--max-connections", "2"]).await.unwrap();
    output.assert_ok();
    assert!(start.elapsed() > Duration::from_secs(4), "it was over too soon: {:?}", start.elapsed());
    assert!(output.events_of("retrying").is_empty(), "a time-out ended something:\n{}", output.stderr);
    for setting in &settings {
        let (setting, _) = setting.split_once(' ').unwrap();
        let name = scene.db.name();
        scene.db.execute(&format!("ALTER DATABASE \"{name}\" RESET {setting}")).await.unwrap();
        scene
            .db
            .execute(&format!("ALTER ROLE postgres IN DATABASE \"{name}\" RESET {setting}"))
            .await
            .unwrap();
    }
    scene.assert_exact().await;
}

async fn holder_ended(version: Version) {
    let server = PgServer::shared(version);
    let scene = Scene::new(&server, 40_000, How::FullRefresh).await;
    let proxy = Proxy::start(server.port()).unwrap();
    proxy.throttle(Some(1 << 20));
    scene.source(json!({ "port": proxy.port() }));
    let mut run = scene.start(&["--max-connections", "2"]);
    scene.wait_for_chunks(&mut run, 4).await;
    // Readers are active; who waits in a transaction holds the snapshot.
    let ended = scene
        .db
        .value(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
             WHERE datname = current_database() AND application_name = 'lakeward' AND state = 'idle in transaction'",
        )
        .await
        .unwrap();
    assert_ne!(ended.as_deref(), Some("0"), "nobody holds the snapshot");
    // A write that a new snapshot sees.
    scene.db.execute("UPDATE busy SET version = version + 1 WHERE id % 1000 = 0").await.unwrap();
    proxy.throttle(None);
    let output = run.wait_timeout(Duration::from_secs(90)).await.unwrap();
    output.assert_ok();
    assert!(
        !output.events_of("retrying").is_empty(),
        "the end of the session was not noticed:\n{}",
        output.stderr
    );
    assert!(output.events_of("stream_planned").len() >= 2, "no new session was begun:\n{}", output.stderr);
    scene.assert_exact().await;
}

/// Every attempt begins a generation, or resumes it, and commits that: none of it is progress.
async fn readers_ended(version: Version) {
    let server = PgServer::shared(version);
    let scene = Scene::new(&server, 20_000, How::FullRefresh).await;
    // Chunks so large that no buffer on the way holds one.
    scene.db.psql("UPDATE busy SET note = repeat('x', 1500); VACUUM FULL busy").await.unwrap();
    let proxy = Proxy::start(server.port()).unwrap();
    proxy.throttle(Some(1 << 20));
    scene.source(json!({ "port": proxy.port(), "max_retries": 2 }));
    let administrator = scene.db.client().await.unwrap();
    let ending = tokio::spawn(async move {
        let sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
            WHERE datname = current_database() AND query LIKE 'COPY %' AND state = 'active'";
        while administrator.batch_execute(sql).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    let run = scene.project.spawn_sync(&["--chunk-size", "16MiB", "--max-connections", "1"]).unwrap();
    let output = run.wait_timeout(Duration::from_secs(90)).await.unwrap();
    ending.abort();
    output.assert_code(3);
    assert!(output.events_of("stream_planned").len() >= 3, "no session was begun anew:\n{}", output.stderr);
    proxy.throttle(None);
    scene.sync(&[]).await.assert_ok();
    scene.assert_exact().await;
}
