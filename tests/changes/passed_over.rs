//! Streams that are to be read again and cannot be, while the log is read on for the others.

use lakeward_testkit::on_both;
use lakeward_testkit::server::{PgServer, Version};
use serde_json::json;

use crate::followed::Followed;

on_both!(f10_a_truncated_partition_is_remembered_until_all_rows_are_read, super::truncated);
on_both!(f11_a_change_that_is_taken_back_is_remembered_until_all_rows_are_read, super::taken_back);

const MODES: [&str; 3] = ["concurrent", "parallel", "sequential"];

/// The followed table `t` and another one, `u`.
async fn scene(version: Version, table: &str) -> Followed {
    let others = "CREATE TABLE u (id int PRIMARY KEY, n int); INSERT INTO u SELECT g, 0 FROM generate_series(1, 10) g; CREATE TABLE w (id int)";
    Followed::new(&PgServer::shared(version), &format!("{table}; {others}"), &["t", "u"]).await
}

/// A run for which no snapshot of `t` can be taken, because of a transaction that stays open. The log is read, and
/// released, past all that was committed before.
async fn run_without_snapshots(scene: &Followed, mode: &str) {
    scene.sql("UPDATE u SET n = n + 1").await;
    let end = scene.value("SELECT pg_current_wal_lsn()").await;
    let open = scene.db.client().await.unwrap();
    open.batch_execute("BEGIN; INSERT INTO w VALUES (1)").await.unwrap();
    scene.source(json!({ "lock_timeout": "1s", "max_retries": 1 }));
    let output = scene.run(&["--cdc-mode", mode]).await;
    output.assert_code(3);
    // Other tests have such transactions too, which later runs wait for.
    scene.source(json!({}));
    let failed = output.events_of("stream_failed");
    assert_eq!((failed.len(), &failed[0]["stream"]), (1, &json!("public.t")), "{failed:?}");
    open.batch_execute("COMMIT").await.unwrap();
    let saved = scene.project.state().unwrap()["global"]["position"]["lsn"].as_str().unwrap().to_owned();
    assert_eq!(
        scene.value(&format!("SELECT '{saved}'::pg_lsn >= '{end}'")).await,
        "t",
        "the log was not read on"
    );
    scene.assert_same("u").await;
}

async fn truncated(version: Version) {
    let table = "CREATE TABLE t (id int, r int, PRIMARY KEY (id, r)) PARTITION BY LIST (r);
        CREATE TABLE t_1 PARTITION OF t FOR VALUES IN (1); CREATE TABLE t_2 PARTITION OF t FOR VALUES IN (2);
        INSERT INTO t SELECT g, g % 2 + 1 FROM generate_series(1, 40) g";
    let scene = scene(version, table).await;
    scene.project.select("t", json!({ "on_partition_change": "resnapshot" })).unwrap();
    scene.sync().await;
    for mode in MODES {
        scene.sql("DELETE FROM t WHERE id = (SELECT max(id) FROM t); TRUNCATE t_1; INSERT INTO t SELECT max(id) + 1, 1 FROM t").await;
        run_without_snapshots(&scene, mode).await;
        let foreseen = scene.run(&["--dry-run"]).await;
        assert!(foreseen.stdout.contains("all rows again"), "{}", foreseen.stdout);
        // Before it is read again there is more to come.
        scene.sql("UPDATE t SET id = id + 100 WHERE r = 1").await;
        run_without_snapshots(&scene, mode).await;
        scene.sync().await;
        scene.assert_same("t").await;
    }
}

async fn taken_back(version: Version) {
    let table =
        "CREATE TABLE t (id int PRIMARY KEY, n int); INSERT INTO t SELECT g, g FROM generate_series(1, 40) g";
    let scene = scene(version, table).await;
    scene.sync().await;
    for mode in MODES {
        scene.project.select("t", json!({ "filter": "n > 5" })).unwrap();
        scene
            .sql(
                "UPDATE t SET n = n + 100 WHERE id % 3 = 0; DELETE FROM t WHERE id = (SELECT max(id) FROM t)",
            )
            .await;
        run_without_snapshots(&scene, mode).await;
        scene.project.select("t", json!({ "filter": null })).unwrap();
        scene.sync().await;
        scene.assert_same("t").await;
    }
}
