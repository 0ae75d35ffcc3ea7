//! Resident memory stays below the limit, whatever the rows and however many readers.

use lakeward_testkit::lakeward::{Output, Project};
use lakeward_testkit::on_both;
use lakeward_testkit::proxy::Proxy;
use lakeward_testkit::reconcile::{Options, reconcile};
use lakeward_testkit::server::{PgServer, TestDatabase, Version};
use serde_json::json;

use crate::scene::LAKEWARD;

on_both!(f46_wide_rows_on_16_connections, super::wide_rows);
on_both!(f46_an_ordinary_table_on_8_connections, super::ordinary);
on_both!(f46_many_columns_on_16_connections, super::many_columns);
on_both!(f20_large_values, super::large_values);

const MIB: u64 = 1 << 20;

async fn project(db: &TestDatabase) -> Project {
    let project = Project::new(LAKEWARD, &db.source_config(json!({}))).unwrap();
    project.discover().await.unwrap().assert_ok();
    project.select_only(&["wide"], json!({ "sync_mode": "full_refresh" })).unwrap();
    project
}

async fn assert_bounded(db: &TestDatabase, project: &Project, output: &Output, limit: u64) {
    output.assert_ok();
    let peak = output.peak_rss_bytes;
    eprintln!("{}: peak {} MiB of {} MiB", db.server().version().name(), peak / MIB, limit / MIB);
    assert!(peak > 10 * MIB, "the memory was not measured: {peak} bytes");
    assert!(peak < limit, "resident memory reached {} MiB of {} MiB", peak / MIB, limit / MIB);
    reconcile(db, &project.lake(), "wide", &Options::full_refresh()).await.unwrap().assert_same();
}

async fn wide_rows(version: Version) {
    let server = PgServer::shared(version);
    let db = server.create_database("memory").await.unwrap();
    // 160 MB of text that does not compress.
    db.execute(
        "CREATE TABLE wide (id int PRIMARY KEY, a text, b text);
         ALTER TABLE wide ALTER a SET STORAGE EXTERNAL, ALTER b SET STORAGE EXTERNAL;
         INSERT INTO wide SELECT n, t, reverse(t) FROM generate_series(1, 2000) n,
             LATERAL (SELECT string_agg(md5(n::text || i), '') AS t FROM generate_series(1, 1250) i) AS s",
    )
    .await
    .unwrap();
    let project = project(&db).await;
    let limit = ["--memory-limit", "192MiB", "--max-connections", "16", "--chunk-size", "4MiB"];
    let output = project.sync(&limit).await.unwrap();
    assert_bounded(&db, &project, &output, 192 * MIB).await;
}

async fn ordinary(version: Version) {
    let server = PgServer::shared(version);
    let db = server.create_database("memory").await.unwrap();
    db.execute(
        "CREATE TABLE wide (id int PRIMARY KEY, at timestamptz, a numeric, b numeric, c numeric, d int, e int, f text, g text, h bool);
         INSERT INTO wide SELECT n, to_timestamp(n), n / 7.0, round(n / 3.0, 2), 0.5, n % 5, n * 3, md5(n::text), 'k' || n % 100, n % 2 = 0
         FROM generate_series(1, 600000) n",
    )
    .await
    .unwrap();
    let project = project(&db).await;
    // Where each thread's arena keeps what it once had, 70 MiB and more are taken.
    let limit = ["--memory-limit", "64MiB", "--max-connections", "8", "--chunk-size", "4MiB"];
    let output = project.sync(&limit).await.unwrap();
    assert_bounded(&db, &project, &output, 64 * MIB).await;
}

async fn many_columns(version: Version) {
    let server = PgServer::shared(version);
    let db = server.create_database("memory").await.unwrap();
    let columns: String = (0..300).map(|n| format!(", c{n} bigint")).collect();
    let values: String = (0..300).map(|n| format!(", n * {n}")).collect();
    db.execute(&format!(
        "CREATE TABLE wide (id int PRIMARY KEY{columns});
         INSERT INTO wide SELECT n{values} FROM generate_series(1, 6000) AS s(n)"
    ))
    .await
    .unwrap();
    let project = project(&db).await;
    // A reader that is faster than the network and writers that wait for it: buffers fill where they can.
    let proxy = Proxy::start(server.port()).unwrap();
    proxy.throttle(Some(2 * MIB));
    project.write("source.json", &db.source_config(json!({ "port": proxy.port() }))).unwrap();
    // One compressor per column and open file is outside of the budget: with 4,800 of them it needs some room.
    let limit = ["--memory-limit", "256MiB", "--max-connections", "16", "--chunk-size", "512KiB"];
    let output = project.sync(&limit).await.unwrap();
    assert_bounded(&db, &project, &output, 256 * MIB).await;
}

async fn large_values(version: Version) {
    let server = PgServer::shared(version);
    let db = server.create_database("memory").await.unwrap();
    db.execute(
        "CREATE TABLE wide (id int PRIMARY KEY, a text);
         INSERT INTO wide SELECT n, repeat(md5(n::text), n * 1000) FROM generate_series(1, 20) n;
         INSERT INTO wide VALUES (100, repeat('0123456789abcdef', 100000000 / 16))",
    )
    .await
    .unwrap();
    let project = project(&db).await;
    let output = project.sync(&["--memory-limit", "1GiB"]).await.unwrap();
    assert_bounded(&db, &project, &output, 1024 * MIB).await;
}
