//! The primary is lost and a standby takes its place.

use std::time::{Duration, Instant};

use lakeward_testkit::on_both;
use lakeward_testkit::private_server::{PrivateServer, Stop};
use lakeward_testkit::server::{TestDatabase, Version};
use serde_json::json;

use crate::followed::Followed;

on_both!(f06_a_standby_without_the_slot_stops_the_run, super::without_slot);

const CREATE: &str =
    "CREATE TABLE t (id int PRIMARY KEY, n int); INSERT INTO t SELECT g, g FROM generate_series(1, 1000) g";

async fn promote(standby: &PrivateServer, db: &TestDatabase) {
    assert_eq!(db.value("SELECT pg_promote()").await.unwrap().as_deref(), Some("t"));
    db.until("SELECT NOT pg_is_in_recovery()").await.unwrap();
    // The snapshot of a slot waits for what is running.
    standby.set_conf("hot_standby_feedback", "off").await.unwrap();
}

/// The scene goes on at the standby, which is the primary from now on.
async fn go_over(scene: Followed, standby: &PrivateServer) -> Followed {
    let db = TestDatabase::existing(standby.server(), scene.db.name());
    let scene = Followed { project: scene.project, db };
    scene.source(json!({}));
    scene
}

async fn without_slot(version: Version) {
    let primary = PrivateServer::start_new(version).await.unwrap();
    let scene = Followed::over(database(&primary).await, json!({}), &["t"]).await;
    let standby = primary.start_standby().await.unwrap();
    scene.sync().await;
    let replica = TestDatabase::existing(standby.server(), scene.db.name());
    scene.sql("UPDATE t SET n = -1 WHERE id < 100; DELETE FROM t WHERE id = 500").await;
    replica.catch_up_with(&scene.db).await.unwrap();
    primary.stop(Stop::Immediate).await.unwrap();
    promote(&standby, &replica).await;
    let scene = go_over(scene, &standby).await;
    scene.sql("INSERT INTO t VALUES (5000, 1)").await;
    let stopped = scene.run(&[]).await;
    stopped.assert_code(4);
    assert!(
        stopped.stderr.contains("is gone") && stopped.stderr.contains("on_slot_lost"),
        "{}",
        stopped.stderr
    );
    scene.source(json!({ "replication": { "on_slot_lost": "resnapshot" } }));
    scene.sync().await;
    scene.assert_same("t").await;
    scene.sql("DELETE FROM t WHERE id = 5000").await;
    scene.sync().await;
    scene.assert_same("t").await;
}

async fn database(primary: &PrivateServer) -> TestDatabase {
    let db = primary.create_database("failover").await.unwrap();
    db.execute(CREATE).await.unwrap();
    db
}

/// A standby that keeps the primary's failover slots in step.
async fn synchronized_standby(primary: &PrivateServer, db: &TestDatabase) -> PrivateServer {
    db.execute("SELECT pg_create_physical_replication_slot('standby', true)").await.unwrap();
    let standby = primary.start_standby().await.unwrap();
    let replica = TestDatabase::existing(standby.server(), db.name());
    let given = replica.value("SELECT current_setting('primary_conninfo')").await.unwrap().unwrap();
    for setting in [
        format!("primary_conninfo = '{} dbname=postgres'", given.replace('\'', "''")),
        "primary_slot_name = 'standby'".to_owned(),
        "hot_standby_feedback = on".to_owned(),
        "sync_replication_slots = on".to_owned(),
    ] {
        replica.execute(&format!("ALTER SYSTEM SET {setting}")).await.unwrap();
    }
    standby.restart().await.unwrap();
    standby
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f06_a_failover_slot_goes_on_at_the_standby() {
    let primary = PrivateServer::start_new(Version::Pg18).await.unwrap();
    let scene = Followed::over(database(&primary).await, json!({}), &["t"]).await;
    let standby = synchronized_standby(&primary, &scene.db).await;
    let replica = TestDatabase::existing(standby.server(), scene.db.name());
    scene.sync().await;
    assert_eq!(scene.slot("failover").await.as_deref(), Some("true"));
    let slot = scene.slot("slot_name").await.unwrap();
    let start = Instant::now();
    let in_step = format!(
        "SELECT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = '{slot}' AND synced AND NOT temporary)"
    );
    for n in 0.. {
        scene.sql(&format!("UPDATE t SET n = {n} WHERE id % 10 = {}", n % 10)).await;
        scene.sync().await;
        if replica.value(&in_step).await.unwrap().as_deref() == Some("t") {
            break;
        }
        assert!(start.elapsed() < Duration::from_secs(60), "the slot does not get to the standby");
    }
    // Changes that the pipeline has, and changes that it has not.
    scene.sql("UPDATE t SET id = id + 10000 WHERE id < 20").await;
    scene.sync().await;
    scene.sql("UPDATE t SET n = -1 WHERE id < 100; DELETE FROM t WHERE id = 500").await;
    replica.catch_up_with(&scene.db).await.unwrap();
    primary.stop(Stop::Immediate).await.unwrap();
    promote(&standby, &replica).await;
    let scene = go_over(scene, &standby).await;
    scene.sql("INSERT INTO t VALUES (5000, 1); UPDATE t SET n = -2 WHERE id = 700").await;
    let output = scene.sync().await;
    assert!(!output.stderr.contains("generation_visible"), "it was read anew:\n{}", output.stderr);
    scene.assert_same("t").await;
    scene.sql("DELETE FROM t WHERE id = 5000").await;
    scene.sync().await;
    scene.assert_same("t").await;

    // A standby of the new primary that lacks what is committed: the gap is named.
    drop(primary);
    let second = synchronized_standby(&standby, &scene.db).await;
    let replica = TestDatabase::existing(second.server(), scene.db.name());
    let start = Instant::now();
    while replica.value(&in_step).await.unwrap().as_deref() != Some("t") {
        assert!(start.elapsed() < Duration::from_secs(60), "the slot does not get to the second standby");
        scene.sql("UPDATE t SET n = n + 1 WHERE id = 1").await;
        scene.sync().await;
    }
    replica.catch_up_with(&scene.db).await.unwrap();
    second.stop(Stop::Fast).await.unwrap();
    scene.sql("UPDATE t SET n = -3 WHERE id = 800; INSERT INTO t VALUES (6000, 1)").await;
    scene.sync().await;
    scene.assert_same("t").await;
    standby.stop(Stop::Immediate).await.unwrap();
    second.start().await.unwrap();
    promote(&second, &replica).await;
    let scene = go_over(scene, &second).await;
    let stopped = scene.run(&[]).await;
    stopped.assert_code(4);
    for said in ["was promoted", "left timeline 2", "not in it", "on_slot_lost"] {
        assert!(stopped.stderr.contains(said), "{said}: {}", stopped.stderr);
    }
    scene.source(json!({ "replication": { "on_slot_lost": "resnapshot" } }));
    scene.sync().await;
    scene.assert_same("t").await;
}
