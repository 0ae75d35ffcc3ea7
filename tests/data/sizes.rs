//! Large values and bounded memory.

use lakeward_testkit::reconcile::Options;
use lakeward_testkit::server::Version;
use serde_json::json;

use crate::pipeline::Pipeline;

const MIB: u64 = 1 << 20;

on_each_version!(f20_values_of_100_megabytes, f20_changes_of_100_megabytes);

async fn f20_values_of_100_megabytes(version: Version) {
    let size = 100_000_000;
    let sql = format!(
        "CREATE TABLE huge (id int PRIMARY KEY, t text, b bytea, j json);
         ALTER TABLE huge ALTER t SET STORAGE EXTERNAL, ALTER b SET STORAGE EXTERNAL;
         INSERT INTO huge VALUES (1, repeat('é\\n', {size} / 4), NULL, NULL), (2, 'small', '\\x00', '1');
         INSERT INTO huge SELECT g, repeat('x', 1000000), NULL, NULL FROM generate_series(4, 6) g"
    );
    // A value stands in memory as it comes, as a column and as a page of the file: a few times its size.
    let limit = 1024;
    for format in ["text", "binary"] {
        let pipeline = Pipeline::with(version, json!({ "copy_format": format }), &sql).await;
        if format == "binary" {
            let bytes = format!(
                "INSERT INTO huge VALUES (3, NULL, decode(repeat('00ff5c0a', {size} / 4), 'hex'), NULL)"
            );
            pipeline.sql(&bytes).await;
        }
        let output = pipeline.project.sync(&["--memory-limit", &format!("{limit}MiB")]).await.unwrap();
        output.assert_ok();
        assert!(
            output.peak_rss_bytes < limit * MIB,
            "{} MiB of memory for one value of 100 MB",
            output.peak_rss_bytes / MIB
        );
        pipeline.assert_same("huge", &Options::full_refresh()).await;
    }
}

async fn f20_changes_of_100_megabytes(version: Version) {
    let size = 100_000_000;
    let sql = "CREATE TABLE huge (id int PRIMARY KEY, n int, t text, b bytea); ALTER TABLE huge ALTER t SET STORAGE EXTERNAL, ALTER b SET STORAGE EXTERNAL;
        INSERT INTO huge VALUES (1, 0, 'small', NULL), (2, 0, 'small', '\\x00')";
    let pipeline = Pipeline::new(version, sql).await;
    pipeline.choose("huge", json!({ "sync_mode": "cdc" }));
    pipeline.sync().await;
    // Sent as twice as many digits; the last one leaves what is large where it is.
    pipeline
        .sql(&format!(
            "INSERT INTO huge VALUES (3, 0, NULL, decode(repeat('00ff5c0a', {size} / 4), 'hex')); UPDATE huge SET t = repeat('é\\n', {size} / 4) WHERE id = 1;
             INSERT INTO huge SELECT g, 0, repeat('x', 1000000), NULL FROM generate_series(4, 6) g; UPDATE huge SET n = 1"
        ))
        .await;
    let output = pipeline.project.sync(&["--memory-limit", "1GiB"]).await.unwrap();
    output.assert_ok();
    let peak = output.peak_rss_bytes / MIB;
    eprintln!("{}: {peak} MiB", version.name());
    assert!(peak < 1024, "{peak} MiB of memory for one value of 100 MB");
    pipeline.assert_same("huge", &Options::cdc()).await;
    pipeline.project.run(&["clear", "--all", "--yes"]).await.unwrap().assert_ok();
}
