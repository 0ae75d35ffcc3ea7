//! Reading from a hot standby.

use std::time::Duration;

use lakeward_testkit::on_both;
use lakeward_testkit::private_server::PrivateServer;
use lakeward_testkit::proxy::Proxy;
use lakeward_testkit::server::{TestDatabase, Version};
use serde_json::json;

use crate::scene::{How, Scene, TABLE, database};

on_both!(f24_read_from_a_hot_standby, super::hot_standby);

async fn hot_standby(version: Version) {
    let primary = PrivateServer::start_new(version).await.unwrap();
    // Its snapshots would keep alive what VACUUM is to take away below.
    primary.set_conf("autovacuum", "off").await.unwrap();
    let db = database(primary.server(), 40_000, How::FullRefresh).await;
    let standby = primary.start_standby().await.unwrap();
    standby.set_conf("max_standby_streaming_delay", "300ms").await.unwrap();
    let replica = TestDatabase::existing(standby.server(), db.name());
    assert_eq!(replica.value("SELECT pg_is_in_recovery()").await.unwrap().as_deref(), Some("t"));
    let scene = Scene::over(db, How::FullRefresh).await;
    replica.catch_up_with(&scene.db).await.unwrap();

    // Without any conflict.
    scene.source(json!({ "port": standby.port() }));
    scene.project.discover().await.unwrap().assert_ok();
    scene.sync(&[]).await.assert_ok();
    scene.assert_exact().await;

    // Rows that the snapshot still needs are vacuumed away at the primary: recovery cancels what stands in its way.
    let proxy = Proxy::start(standby.port()).unwrap();
    proxy.throttle(Some(1 << 20));
    scene.source(json!({ "port": proxy.port() }));
    let mut run = scene.start(&["--max-connections", "2"]);
    scene.wait_for_chunks(&mut run, 4).await;
    scene.db.execute(&format!("UPDATE {TABLE} SET version = version + 1 WHERE id % 3 = 0")).await.unwrap();
    scene.db.execute(&format!("DELETE FROM {TABLE} WHERE id % 7 = 0")).await.unwrap();
    scene.db.execute(&format!("VACUUM {TABLE}")).await.unwrap();
    replica.catch_up_with(&scene.db).await.unwrap();
    proxy.throttle(None);
    let output = run.wait_timeout(Duration::from_secs(120)).await.unwrap();
    output.assert_ok();
    // A server counts its conflicts with a delay.
    let conflict =
        "SELECT confl_snapshot > 0 FROM pg_stat_database_conflicts WHERE datname = current_database()";
    replica.until(conflict).await.expect("recovery was in somebody's way");
    assert!(!output.events_of("retrying").is_empty(), "the conflict was not noticed:\n{}", output.stderr);
    scene.assert_exact().await;

    // Killed, changed and resumed there.
    proxy.throttle(Some(1 << 20));
    let mut run = scene.start(&["--max-connections", "2"]);
    scene.wait_for_chunks(&mut run, 5).await;
    assert_eq!(run.kill9().await.unwrap().signal, Some(9));
    scene.db.execute(&format!("UPDATE {TABLE} SET note = repeat('s', 500) WHERE id % 11 = 0")).await.unwrap();
    replica.catch_up_with(&scene.db).await.unwrap();
    proxy.throttle(None);
    scene.sync(&[]).await.assert_ok();
    scene.assert_exact().await;
}
