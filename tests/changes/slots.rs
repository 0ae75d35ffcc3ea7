//! The slot, lost between runs and while it is read.

use std::time::{Duration, Instant};

use lakeward_testkit::lakeward::Signal;
use lakeward_testkit::on_both;
use lakeward_testkit::private_server::PrivateServer;
use lakeward_testkit::proxy::Proxy;
use lakeward_testkit::server::{PgServer, Version};
use serde_json::json;

use crate::followed::Followed;
use crate::log::SQL;

on_both!(f04_a_lost_slot_stops_or_begins_anew, super::lost);
on_both!(f04_a_publication_that_was_away_for_a_while, super::publication_away);
on_both!(f04_killed_while_it_begins_anew, super::killed_while_beginning_anew);
on_both!(f04_a_slot_that_is_dropped_while_it_is_followed, super::lost_while_following);
on_both!(f04_a_slot_that_is_invalidated_while_it_is_followed, super::invalidated_while_following);

async fn lost(version: Version) {
    let scene = Followed::new(&PgServer::shared(version), SQL, &["t"]).await;
    scene.sync().await;
    scene.sql("UPDATE t SET n = -n WHERE id < 100").await;
    scene.sync().await;
    scene.drop_slot().await;
    scene.sql("DELETE FROM t WHERE id BETWEEN 10 AND 20; UPDATE t SET n = 0 WHERE id = 30; INSERT INTO t VALUES (5000, 0)").await;
    let output = scene.run(&[]).await;
    output.assert_code(4);
    assert!(output.stderr.contains("slot") && output.stderr.contains("on_slot_lost"), "{}", output.stderr);
    scene.source(json!({ "replication": { "on_slot_lost": "resnapshot" } }));
    let output = scene.sync().await;
    assert!(output.stderr.contains("history is kept"), "{}", output.stderr);
    scene.assert_same("t").await;
    scene.sql("UPDATE t SET n = 7 WHERE id > 900").await;
    scene.sync().await;
    scene.assert_same("t").await;
    // Nothing that was said before is unsaid.
    let files = scene.project.run(&["files", "public.t", "--output", "json"]).await.unwrap().json().unwrap();
    let rows: u64 = files.as_array().unwrap().iter().map(|file| file["rows"].as_u64().unwrap()).sum();
    assert!(rows > 2000, "{rows} rows are left of both generations");
}

/// Ends who reads the slot and drops it, before anybody reads it again.
const DROP_ACTIVE: &str = "DO $$ BEGIN
    FOR i IN 1..3000 LOOP BEGIN
        PERFORM pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE database = current_database() AND active;
        PERFORM pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = current_database();
        RETURN;
    EXCEPTION WHEN object_in_use THEN PERFORM pg_sleep(0.005); END; END LOOP;
    RAISE EXCEPTION 'the slot cannot be dropped'; END $$";

/// Waits until a generation of the only stream is whole.
async fn whole(scene: &Followed, generation: u64) {
    let start = Instant::now();
    loop {
        let state = scene.project.state().unwrap_or_default();
        let stream = &state["streams"][0];
        if stream["generation"] == generation && stream["chunks"].as_array().is_some_and(Vec::is_empty) {
            return;
        }
        assert!(start.elapsed() < Duration::from_secs(60), "generation {generation} is not read: {state}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Before PostgreSQL 18 the server cannot decode what was written without the publication, ever.
async fn publication_away(version: Version) {
    let back = |name: &str| format!("ALTER PUBLICATION away RENAME TO {name}");
    let anew = |name: &str| format!("DROP PUBLICATION away; CREATE PUBLICATION {name} FOR TABLE t");
    for follows in [false, true] {
        let scene = Followed::new(&PgServer::shared(version), SQL, &["t"]).await;
        scene.sync().await;
        let name = scene.value("SELECT pubname FROM pg_publication WHERE pubname !~ 'insert_only'").await;
        let again = if follows { anew(&name) } else { back(&name) };
        scene.sql(&format!("ALTER PUBLICATION {name} RENAME TO away")).await;
        scene.sql("DELETE FROM t WHERE id < 100; INSERT INTO t VALUES (5000, 0)").await;
        scene.sql(&again).await;
        scene.sql("UPDATE t SET n = 7 WHERE id BETWEEN 100 AND 200").await;
        let arguments: &[&str] = if follows { &["--follow", "--checkpoint-interval", "100ms"] } else { &[] };
        if version == Version::Pg15 {
            let output = scene.run(arguments).await;
            output.assert_code(4);
            for said in ["changes since", "was not there when it was written", "on_slot_lost"] {
                assert!(output.stderr.contains(said), "{said}: {}", output.stderr);
            }
        }
        scene.source(json!({ "replication": { "on_slot_lost": "resnapshot" } }));
        if follows {
            let mut run = scene.start(arguments);
            whole(&scene, 2).await;
            scene.caught_up(&mut run).await;
            run.signal(Signal::TERM).unwrap();
            run.wait_timeout(Duration::from_secs(15)).await.unwrap().assert_code(130);
        } else {
            scene.sync().await;
        }
        scene.assert_same("t").await;
        scene.sql("UPDATE t SET id = id + 10000 WHERE id > 900").await;
        scene.sync().await;
        scene.assert_same("t").await;
    }
}

async fn lost_while_following(version: Version) {
    let scene = Followed::new(&PgServer::shared(version), SQL, &["t"]).await;
    scene.sync().await;
    let follow = ["--follow", "--checkpoint-interval", "100ms"];
    let mut run = scene.start(&follow);
    scene.caught_up(&mut run).await;
    scene.sql("UPDATE t SET n = -n WHERE id < 100").await;
    scene.caught_up(&mut run).await;
    scene.assert_same("t").await;
    let gap = "DELETE FROM t WHERE id BETWEEN 10 AND 20; UPDATE t SET n = 0 WHERE id = 30; INSERT INTO t VALUES (5000, 0)";
    scene.sql(DROP_ACTIVE).await;
    scene.sql(gap).await;
    let output = run.wait_timeout(Duration::from_secs(60)).await.unwrap();
    output.assert_code(4);
    for said in ["changes since", "is gone", "on_slot_lost"] {
        assert!(output.stderr.contains(said), "{said}: {}", output.stderr);
    }
    // It stays so until somebody decides.
    scene.run(&follow).await.assert_code(4);
    scene.source(json!({ "replication": { "on_slot_lost": "resnapshot" } }));
    let mut run = scene.start(&follow);
    whole(&scene, 2).await;
    scene.caught_up(&mut run).await;
    scene.assert_same("t").await;
    // Decided beforehand, the run goes on by itself.
    scene.sql(DROP_ACTIVE).await;
    scene.sql("DELETE FROM t WHERE id BETWEEN 900 AND 910; UPDATE t SET n = 1 WHERE id = 5000").await;
    whole(&scene, 3).await;
    scene.caught_up(&mut run).await;
    scene.sql("UPDATE t SET id = id + 10000 WHERE id > 950; DELETE FROM t WHERE id = 5000").await;
    scene.caught_up(&mut run).await;
    run.signal(Signal::TERM).unwrap();
    let output = run.wait_timeout(Duration::from_secs(15)).await.unwrap();
    output.assert_code(130);
    assert_eq!(output.stderr.matches("changes are lost: slot").count(), 2, "{}", output.stderr);
    scene.assert_same("t").await;
    scene.assert_nothing_forgotten_early().await;
}

/// What is gone with the old slot stays known, whichever step towards the new one is the last.
async fn killed_while_beginning_anew(version: Version) {
    let mut scene = Followed::new(&PgServer::shared(version), SQL, &["t"]).await;
    scene.source(json!({ "replication": { "on_slot_lost": "resnapshot" } }));
    scene.sync().await;
    let places = [
        ("engine-log-followable", 1),
        ("state-renamed", 1),
        ("state-renamed", 2),
        ("parquet-record-linked", 1),
        ("parquet-record-linked", 2),
    ];
    for (round, (place, nth)) in places.into_iter().enumerate() {
        let change = format!(
            "UPDATE t SET n = n + 1 WHERE id < 10; DELETE FROM t WHERE id = (SELECT max(id) FROM t); INSERT INTO t VALUES (7000 + {round}, 0)"
        );
        scene.sql(&change).await;
        scene.drop_slot().await;
        scene.sql("DELETE FROM t WHERE id = (SELECT min(id) FROM t WHERE id > 100)").await;
        if cfg!(feature = "failpoints") {
            scene.project.abort_at(place, nth);
            let output = scene.run(&[]).await;
            assert_eq!(output.signal, Some(Signal::ABORT.as_raw()), "{place}:{nth}: {}", output.stderr);
            scene.project.clear_failpoints();
        }
        scene.sql("UPDATE t SET n = n + 1 WHERE id BETWEEN 5 AND 15").await;
        scene.sync().await;
        scene.assert_same("t").await;
        scene.assert_nothing_forgotten_early().await;
    }
}

async fn invalidated_while_following(version: Version) {
    let server = PrivateServer::start_new(version).await.unwrap();
    server.set_conf("max_slot_wal_keep_size", "16MB").await.unwrap();
    let mut limits = vec!["max_slot_wal_keep_size"];
    if version == Version::Pg18 {
        server.set_conf("idle_replication_slot_timeout", "1d").await.unwrap();
        limits.push("idle_replication_slot_timeout");
    }
    let db = server.create_database("invalidated").await.unwrap();
    db.execute(SQL).await.unwrap();
    let proxy = Proxy::start(server.port()).unwrap();
    let scene = Followed::over(db, json!({ "port": proxy.port() }), &["t"]).await;
    // Whoever asks is warned before it comes to that.
    let check = ["check", "--config", "source.json", "--streams", "streams.json", "--output", "json"];
    let findings = scene.project.run(&check).await.unwrap().json().unwrap();
    for limit in limits {
        let mut found = findings.as_array().unwrap().iter().filter(|finding| finding["subject"] == limit);
        assert!(found.next().is_some_and(|finding| finding["severity"] == "warning"), "{limit}: {findings}");
    }
    scene.sync().await;
    let mut run = scene.start(&["--follow", "--checkpoint-interval", "100ms"]);
    scene.caught_up(&mut run).await;
    // The log grows while nothing gets through.
    proxy.stall();
    scene.sql("UPDATE t SET n = 0 WHERE id < 50; DELETE FROM t WHERE id = 60").await;
    let lost = "SELECT wal_status = 'lost' FROM pg_replication_slots WHERE NOT temporary";
    let start = Instant::now();
    while scene.value(lost).await != "t" {
        assert!(start.elapsed() < Duration::from_secs(60), "the slot is not invalidated");
        scene.sql("SELECT pg_logical_emit_message(false, 'x', 'x')").await;
        scene.sql("SELECT pg_switch_wal()").await;
        scene.sql("CHECKPOINT").await;
    }
    proxy.resume();
    let output = run.wait_timeout(Duration::from_secs(60)).await.unwrap();
    output.assert_code(4);
    for said in ["changes since", "on_slot_lost", &scene.slot("slot_name").await.unwrap()] {
        assert!(output.stderr.contains(said), "{said}: {}", output.stderr);
    }
    scene.source(json!({ "replication": { "on_slot_lost": "resnapshot" } }));
    scene.sync().await;
    scene.assert_same("t").await;
    scene.sql("UPDATE t SET n = 8 WHERE id > 900").await;
    scene.sync().await;
    scene.assert_same("t").await;
}
