//! Tables that are rewritten, emptied or changed as a whole while their rows are read by their places.

use std::time::{Duration, Instant};

use lakeward_testkit::lakeward::Running;
use lakeward_testkit::on_both;
use lakeward_testkit::proxy::Proxy;
use lakeward_testkit::server::{PgServer, Version};
use serde_json::json;

use crate::scene::{How, Scene, TABLE, assert_refused, event};

on_both!(f23_rewritten_while_it_is_read, super::while_it_is_read);
on_both!(f23_rewritten_between_a_crash_and_the_next_run, super::across_a_crash);
on_both!(f23_a_lock_that_does_not_come_names_what_to_do, super::lock_timeout);
on_both!(f23_ddl_that_waits_for_a_backfill_gets_through, super::ddl_gets_through);
on_both!(f23_a_schema_that_is_renamed_while_it_is_read, super::another_of_its_name);
on_both!(f23_a_schema_of_partitions_that_is_renamed, super::other_partitions_of_their_names);
on_both!(f23_a_cursor_over_a_table_that_is_another_one, super::another_between_runs);

const ROWS: u64 = 30_000;

/// What an application or an administrator does to the table.
const CHANGES: [(&str, &str); 4] = [
    ("VACUUM FULL", "VACUUM FULL busy"),
    (
        "TRUNCATE and new rows",
        "BEGIN; TRUNCATE busy; INSERT INTO busy (id, version, amount, note) SELECT n, 7, n, 'new' FROM generate_series(1, 9000) n; COMMIT",
    ),
    ("a mass update", "UPDATE busy SET version = version + 1, note = repeat('u', (id % 300)::int)"),
    (
        "a mass update into freed pages",
        "DELETE FROM busy WHERE id % 3 = 0; VACUUM busy; UPDATE busy SET version = version + 1 WHERE id % 2 = 0",
    ),
];

async fn slow_run(scene: &Scene, chunks: usize) -> (Proxy, Running) {
    let proxy = Proxy::start(scene.db.server().port()).unwrap();
    proxy.throttle(Some(1 << 20));
    scene.source(json!({ "port": proxy.port(), "lock_timeout": "2s" }));
    let mut run = scene.start(&["--max-connections", "1"]);
    scene.wait_for_chunks(&mut run, chunks).await;
    (proxy, run)
}

/// Statements that each want a connection state of their own, VACUUM above all: by psql.
async fn change(scene: &Scene, statements: &str) {
    scene.db.psql(statements).await.unwrap();
}

async fn while_it_is_read(version: Version) {
    for (what, statements) in CHANGES {
        let scene = Scene::new(&PgServer::shared(version), ROWS, How::FullRefresh).await;
        let (proxy, mut run) = slow_run(&scene, 4).await;
        assert!(!run.has_ended().unwrap());
        let rows = scene.db.value("SELECT count(*) FROM busy").await.unwrap();
        assert_eq!(rows, Some(ROWS.to_string()));
        let start = Instant::now();
        let ((), output) = tokio::join!(change(&scene, statements), async {
            // The change gets its time, then the run may hurry.
            tokio::time::sleep(Duration::from_secs(1)).await;
            proxy.throttle(None);
            run.wait_timeout(Duration::from_secs(120)).await.unwrap()
        });
        output.assert_ok();
        // One snapshot, from before the change or after it, and whole: what the log says is visible is one of both.
        let generation = event(&output, "generation_visible")["rows"].as_u64().unwrap();
        let after: u64 = scene.db.value("SELECT count(*) FROM busy").await.unwrap().unwrap().parse().unwrap();
        assert!(
            generation == ROWS || generation == after,
            "{what}: {generation} rows are neither {ROWS} nor {after}"
        );
        eprintln!("{}: {what}: {generation} rows after {:?}", version.name(), start.elapsed());
        scene.sync(&[]).await.assert_ok();
        scene.assert_exact().await;
    }
}

/// The session that holds the table is in the way of DDL; readers that queued behind that would keep it there.
async fn ddl_gets_through(version: Version) {
    let scene = Scene::new(&PgServer::shared(version), ROWS, How::FullRefresh).await;
    let proxy = Proxy::start(scene.db.server().port()).unwrap();
    proxy.throttle(Some(1 << 20));
    scene.source(json!({ "port": proxy.port(), "lock_timeout": "60s" }));
    let mut run = scene.start(&[]);
    scene.wait_for_chunks(&mut run, 4).await;
    let start = Instant::now();
    change(&scene, "ALTER TABLE busy ALTER note SET DEFAULT 'none'").await;
    let waited = start.elapsed();
    assert!(!run.has_ended().unwrap(), "the run ended before anything was in its way");
    assert!(waited < Duration::from_secs(30), "it waited {waited:?}");
    proxy.throttle(None);
    run.wait_timeout(Duration::from_secs(120)).await.unwrap().assert_ok();
    scene.assert_exact().await;
}

async fn across_a_crash(version: Version) {
    for (what, statements) in CHANGES {
        let scene = Scene::new(&PgServer::shared(version), ROWS, How::FullRefresh).await;
        let (_proxy, run) = slow_run(&scene, 8).await;
        assert_eq!(run.kill9().await.unwrap().signal, Some(9), "it was not killed at work");
        let done = scene.chunks().len() as u64;
        change(&scene, statements).await;
        scene.source(json!({}));
        let output = scene.sync(&[]).await;
        output.assert_ok();
        let kept = event(&output, "stream_planned")["chunks_kept"].as_u64().unwrap();
        assert!(kept < done, "{what}: {kept} of {done} chunks were kept");
        scene.assert_exact().await;
    }
}

/// Someone alters the table in a transaction that does not end.
async fn lock_timeout(version: Version) {
    let scene = Scene::new(&PgServer::shared(version), 2_000, How::FullRefresh).await;
    scene.source(json!({ "lock_timeout": "700ms", "max_retries": 1 }));
    let blocker = scene.db.client().await.unwrap();
    blocker.batch_execute(&format!("BEGIN; ALTER TABLE {TABLE} ADD COLUMN later int")).await.unwrap();
    let pid: i32 = blocker.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
    let start = Instant::now();
    let output = scene.sync(&[]).await;
    assert!(start.elapsed() < Duration::from_secs(20), "it waited {:?}", start.elapsed());
    assert_refused(
        &output,
        3,
        &["could not be locked in time", &format!("pid {pid} on {TABLE}"), "lock_timeout"],
    );
    blocker.batch_execute("COMMIT").await.unwrap();
    scene.project.discover().await.unwrap().assert_ok();
    scene.sync(&[]).await.assert_ok();
    scene.assert_exact().await;
}

/// A table of the same name in another schema, each of whose rows differs.
const OTHER: &str = "CREATE SCHEMA stage; CREATE TABLE stage.busy (LIKE public.busy INCLUDING ALL);
    INSERT INTO stage.busy SELECT * FROM public.busy; UPDATE stage.busy SET note = 'other ' || id";
/// No lock is waited for, and one table stands for the other at once.
const SWAP: &str = "BEGIN; ALTER SCHEMA public RENAME TO former; ALTER SCHEMA stage RENAME TO public; COMMIT";
const SWAP_BACK: &str =
    "BEGIN; ALTER SCHEMA public RENAME TO stage; ALTER SCHEMA former RENAME TO public; COMMIT";

async fn another_of_its_name(version: Version) {
    for how in [How::FullRefresh, How::Incremental, How::Cdc] {
        for back in [false, true] {
            let scene = Scene::new(&PgServer::shared(version), 8_000, how).await;
            change(&scene, OTHER).await;
            let (proxy, mut run) = slow_run(&scene, 4).await;
            change(&scene, SWAP).await;
            if back {
                tokio::time::sleep(Duration::from_millis(300)).await;
                change(&scene, SWAP_BACK).await;
            }
            assert!(!run.has_ended().unwrap(), "the run ended before anything was renamed");
            proxy.throttle(None);
            run.wait_timeout(Duration::from_secs(120)).await.unwrap().assert_ok();
            if !back {
                scene.assert_exact().await;
            }
            scene.source(json!({}));
            scene.sync(&[]).await.assert_ok();
            scene.assert_exact().await;
        }
    }
}

async fn other_partitions_of_their_names(version: Version) {
    let sql = "CREATE SCHEMA parts; CREATE SCHEMA stage; CREATE TABLE busy (id int PRIMARY KEY, note text) PARTITION BY RANGE (id);
        CREATE TABLE parts.one PARTITION OF busy FOR VALUES FROM (0) TO (4000); CREATE TABLE parts.two PARTITION OF busy FOR VALUES FROM (4000) TO (9000);
        INSERT INTO busy SELECT n, repeat(md5(n::text), 8) FROM generate_series(1, 8000) n;
        CREATE TABLE stage.one (LIKE busy INCLUDING INDEXES); CREATE TABLE stage.two (LIKE busy INCLUDING INDEXES);
        INSERT INTO stage.one SELECT id, 'other' FROM parts.one; INSERT INTO stage.two SELECT id, 'other' FROM parts.two";
    for how in [How::FullRefresh, How::Cdc] {
        let db = PgServer::shared(version).create_database("renamed").await.unwrap();
        db.execute(sql).await.unwrap();
        let scene = Scene::over(db, how).await;
        let (proxy, mut run) = slow_run(&scene, 4).await;
        change(
            &scene,
            "BEGIN; ALTER SCHEMA parts RENAME TO former; ALTER SCHEMA stage RENAME TO parts; COMMIT",
        )
        .await;
        assert!(!run.has_ended().unwrap(), "the run ended before anything was renamed");
        proxy.throttle(None);
        run.wait_timeout(Duration::from_secs(120)).await.unwrap().assert_ok();
        scene.assert_exact().await;
    }
}

async fn another_between_runs(version: Version) {
    let scene = Scene::new(&PgServer::shared(version), 2_000, How::Incremental).await;
    change(&scene, OTHER).await;
    scene.sync(&[]).await.assert_ok();
    change(&scene, SWAP).await;
    let output = scene.sync(&[]).await;
    output.assert_ok();
    assert!(output.stderr.contains("its name stands for another table"), "{}", output.stderr);
    scene.assert_exact().await;
}
