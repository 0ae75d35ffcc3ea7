//! Full refreshes: each replaces the one before, whole.

use lakeward_testkit::reconcile::Options;
use lakeward_testkit::server::Version;
use serde_json::json;

use crate::pipeline::{Pipeline, all_files, summary_of};

on_each_version!(
    a_refresh_replaces_the_one_before,
    choices_that_change_begin_a_new_generation,
    what_is_not_ours_stays
);

async fn a_refresh_replaces_the_one_before(version: Version) {
    let pipeline = Pipeline::new(
        version,
        "CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t SELECT g, 'a' || g FROM generate_series(1, 20000) g; CREATE TABLE heap (v int); INSERT INTO heap SELECT 1 FROM generate_series(1, 50)",
    )
    .await;
    let arguments = ["--chunk-size", "128KiB"];
    pipeline.project.sync(&arguments).await.unwrap().assert_ok();
    pipeline.assert_same("t", &Options::full_refresh()).await;
    let before = pipeline.project.visible_files("t");
    assert!(before.len() > 1);
    pipeline.sql("DELETE FROM t WHERE id % 2 = 0; UPDATE t SET v = 'new' WHERE id % 3 = 0; INSERT INTO t SELECT g, 'b' FROM generate_series(30000, 31000) g; TRUNCATE heap").await;
    let output = pipeline.project.sync(&arguments).await.unwrap();
    output.assert_ok();
    for stream in ["t", "heap"] {
        pipeline.assert_same(stream, &Options::full_refresh()).await;
        assert_eq!(pipeline.generation(stream), 2);
    }
    assert_eq!(summary_of(&output, "public.t")["generation"], 2);
    assert_eq!(summary_of(&output, "public.t")["rows"].to_string(), pipeline.rows("t").await.to_string());
    for file in &before {
        assert!(!file.exists(), "{} is of the generation before", file.display());
    }
    // Neither hidden generations nor staged files are left behind.
    for file in all_files(&pipeline.project.lake().join("_lakeward")) {
        assert!(
            file.extension().is_none_or(|kind| kind != "parquet" && kind != "part"),
            "{} is left",
            file.display()
        );
    }
    let sequences = pipeline
        .ask_one("t", "SELECT count(DISTINCT _lw_seq) FROM log WHERE _lw_op = 'r' AND length(_lw_seq) = 32")
        .await;
    assert_eq!(sequences.as_deref(), Some("1"));
}

async fn choices_that_change_begin_a_new_generation(version: Version) {
    let pipeline = Pipeline::new(
        version,
        "CREATE TABLE t (id int PRIMARY KEY, a int, b timestamptz, region text);
         INSERT INTO t SELECT g, g % 10, timestamptz '2024-01-01 00:00+00' + g * interval '1 hour', (ARRAY['eu', 'us'])[1 + g % 2] FROM generate_series(1, 400) g",
    )
    .await;
    let steps = [
        (json!({ "sync_mode": "full_refresh" }), Options::full_refresh()),
        (json!({ "sync_mode": "incremental", "cursor_field": "id" }), Options::incremental()),
        (json!({ "sync_mode": "incremental", "cursor_field": "b" }), Options::incremental()),
        (
            json!({ "sync_mode": "incremental", "cursor_field": "b", "filter": "region = 'eu'" }),
            Options::incremental().filter("region = 'eu'"),
        ),
        (
            json!({ "sync_mode": "incremental", "cursor_field": "b", "filter": "region = 'us'" }),
            Options::incremental().filter("region = 'us'"),
        ),
        (
            json!({ "sync_mode": "incremental", "cursor_field": "b", "filter": "region = 'us'", "partition": ["month(b)"] }),
            Options::incremental().filter("region = 'us'"),
        ),
        (json!({ "sync_mode": "full_refresh" }), Options::full_refresh()),
    ];
    for (place, (choices, options)) in steps.iter().enumerate() {
        pipeline.sync_as("t", choices.clone()).await;
        pipeline.assert_same("t", options).await;
        assert_eq!(pipeline.generation("t"), place as u64 + 1, "{choices}");
        // What was chosen last is all that stands: no row of another filter or mode is left.
        assert_eq!(pipeline.rows("t").await, if choices["filter"].is_null() { 400 } else { 200 });
    }
    let generation = pipeline.generation("t");
    pipeline.sync_as("t", steps[3].0.clone()).await;
    pipeline.sync_as("t", steps[3].0.clone()).await;
    assert_eq!(pipeline.generation("t"), generation + 1, "the same choices go on with what is there");
}

async fn what_is_not_ours_stays(version: Version) {
    let pipeline = Pipeline::new(
        version,
        "CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t SELECT generate_series(1, 100)",
    )
    .await;
    pipeline.sync().await;
    let directory = pipeline.project.stream_directory("t");
    let foreign = ["README.md", "notes.txt", ".keep"].map(|name| directory.join(name));
    for file in &foreign {
        std::fs::write(file, "mine").unwrap();
    }
    std::fs::create_dir(directory.join("sub")).unwrap();
    std::fs::write(directory.join("sub/kept.csv"), "mine").unwrap();
    pipeline.sql("INSERT INTO t VALUES (1000)").await;
    pipeline.sync().await;
    pipeline.assert_same("t", &Options::full_refresh()).await;
    for file in foreign.iter().chain([&directory.join("sub/kept.csv")]) {
        assert_eq!(std::fs::read_to_string(file).unwrap_or_default(), "mine", "{}", file.display());
    }
    let output = pipeline.project.run(&["clear", "--all", "--yes"]).await.unwrap();
    output.assert_ok();
    assert!(pipeline.project.visible_files("t").is_empty());
    for file in &foreign {
        assert!(file.exists(), "{}", file.display());
    }
}
