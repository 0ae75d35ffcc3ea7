//! Large values and bounded memory.

use lakeward_testkit::reconcile::Options;
use lakeward_testkit::server::Version;
use serde_json::json;

use crate::pipeline::Pipeline;

const MIB: u64 = 1 << 20;

on_each_version!(f20_values_of_100_megabytes);

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
