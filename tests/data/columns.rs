//! Which columns a stream has: generated, dropped, excluded, new, a great many, none.

use lakeward_testkit::reconcile::Options;
use lakeward_testkit::server::Version;
use serde_json::{Value, json};

use crate::pipeline::Pipeline;

on_each_version!(
    f18_generated_columns,
    dropped_columns_leave_no_trace,
    columns_are_excluded_by_name,
    columns_left_out_for_a_while_lose_no_value,
    a_column_that_comes_before_the_snapshot_is_not_taken_for_empty,
    new_columns_follow_the_choice,
    tables_of_1600_columns,
    tables_without_columns_and_without_rows,
    a_column_named_like_a_system_column_is_refused,
);

async fn f18_generated_columns(version: Version) {
    // From 18 on a column may be computed when it is read.
    let also = if version == Version::Pg18 { ", v text GENERATED ALWAYS AS (a || '!') VIRTUAL" } else { "" };
    let sql = format!(
        "CREATE TABLE made (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, a int, b numeric(8,2) GENERATED ALWAYS AS (a * 1.5) STORED,
            c text GENERATED ALWAYS AS (upper('x' || a)) STORED{also});
         INSERT INTO made (a) SELECT CASE WHEN g % 5 > 0 THEN g END FROM generate_series(1, 500) g"
    );
    for format in ["text", "binary"] {
        let pipeline = Pipeline::with(version, json!({ "copy_format": format }), &sql).await;
        let streams = pipeline.project.read("streams.json").unwrap();
        let properties = &streams["streams"][0]["stream"]["type_schema"]["properties"];
        assert_eq!(
            (properties["b"]["generated"].clone(), properties["a"]["generated"].clone()),
            (json!(true), Value::Null)
        );
        pipeline.sync().await;
        let report = pipeline.assert_same("made", &Options::full_refresh()).await;
        assert_eq!(report.kinds.len(), if version == Version::Pg18 { 5 } else { 4 });
    }
}

async fn dropped_columns_leave_no_trace(version: Version) {
    let pipeline = Pipeline::new(
        version,
        "CREATE TABLE worn (gone1 text, id int PRIMARY KEY, gone2 numeric(9,2)[], a text, gone3 int, b date, gone4 jsonb);
         INSERT INTO worn SELECT 'x', g, '{1,2}', 'a' || g, g, date '2024-01-01' + g, '{}' FROM generate_series(1, 100) g;
         ALTER TABLE worn DROP COLUMN gone1, DROP COLUMN gone2, DROP COLUMN gone3, DROP COLUMN gone4;
         INSERT INTO worn SELECT g, 'b' || g, NULL FROM generate_series(101, 200) g",
    )
    .await;
    pipeline.sync().await;
    let report = pipeline.assert_same("worn", &Options::full_refresh()).await;
    assert_eq!((report.rows_source, report.unknown.len()), (200, 0));
}

async fn columns_are_excluded_by_name(version: Version) {
    let pipeline = Pipeline::new(
        version,
        "CREATE TABLE cards (id int PRIMARY KEY, \"Card number\" text, \"a.b\" int, rest text);
         INSERT INTO cards SELECT g, 'secret ' || g, g, 'r' FROM generate_series(1, 50) g",
    )
    .await;
    let choices = json!({ "columns": { "exclude": ["Card number", "a.b"] } });
    pipeline.sync_as("cards", choices.clone()).await;
    let options = Options::full_refresh().exclude("Card number").exclude("a.b");
    let report = pipeline.assert_same("cards", &options).await;
    assert!(report.unknown.is_empty(), "{:?}", report.unknown);
    for file in pipeline.project.visible_files("cards") {
        let bytes = std::fs::read(file).unwrap();
        assert!(!bytes.windows(11).any(|part| part == b"Card number"));
    }
    pipeline.choose("cards", json!({ "columns": { "exclude": ["id"] } }));
    let output = pipeline.project.sync(&[]).await.unwrap();
    output.assert_code(2);
    assert!(output.stderr.contains("primary key"), "{}", output.stderr);
}

async fn columns_left_out_for_a_while_lose_no_value(version: Version) {
    let pipeline = Pipeline::new(
        version,
        "CREATE TABLE events (id int PRIMARY KEY, at timestamptz NOT NULL, secret text);
         INSERT INTO events SELECT g, timestamptz '2024-01-01 00:00+00' + g * interval '1 hour', 's' || g FROM generate_series(1, 500) g",
    )
    .await;
    let incremental = |columns: serde_json::Value| json!({ "sync_mode": "incremental", "cursor_field": "at", "columns": columns });
    let kept = Options::incremental().exclude("secret");
    pipeline.sync_as("events", incremental(json!({}))).await;
    pipeline.assert_same("events", &Options::incremental()).await;
    // Left out, its values are gone from every file.
    pipeline.choose("events", incremental(json!({ "exclude": ["secret"] })));
    assert!(pipeline.sync().await.stderr.contains("left out"));
    assert!(pipeline.assert_same("events", &kept).await.unknown.is_empty());
    for file in pipeline.project.visible_files("events") {
        assert!(!std::fs::read(file).unwrap().windows(6).any(|part| part == b"secret"));
    }
    pipeline.sql("UPDATE events SET secret = 'changed', at = now() WHERE id < 10").await;
    pipeline.sync().await;
    // A column that is new and ignored, and taken in after rows were read without it.
    pipeline.project.discover().await.unwrap().assert_ok();
    pipeline.choose("events", incremental(json!({ "exclude": ["secret"], "new_columns": "ignore" })));
    pipeline.sql("ALTER TABLE events ADD COLUMN later int; UPDATE events SET later = id, at = now() WHERE id > 490").await;
    pipeline.sync().await;
    pipeline.sql("UPDATE events SET at = now() + interval '1 hour' WHERE id = 1").await;
    pipeline.sync().await;
    pipeline.assert_same("events", &kept.clone().exclude("later")).await;
    // Taken in again, no row is without its value.
    pipeline.choose("events", incremental(json!({ "exclude": ["secret"] })));
    pipeline.sync().await;
    pipeline.assert_same("events", &kept).await;
    pipeline.choose("events", incremental(json!({})));
    pipeline.sync().await;
    pipeline.assert_same("events", &Options::incremental()).await;
}

async fn a_column_that_comes_before_the_snapshot_is_not_taken_for_empty(version: Version) {
    let pipeline = Pipeline::new(
        version,
        "CREATE TABLE events (id int PRIMARY KEY, at int NOT NULL); INSERT INTO events SELECT g, g FROM generate_series(1, 500) g",
    )
    .await;
    pipeline.choose("events", json!({ "sync_mode": "incremental", "cursor_field": "at" }));
    // The first sync, and a later pass, wait for a lock between the description of the table and its snapshot.
    for column in ["first", "second"] {
        let application = pipeline.db.client().await.unwrap();
        application.batch_execute("BEGIN; LOCK TABLE events IN ACCESS EXCLUSIVE MODE").await.unwrap();
        let run = pipeline.project.spawn_sync(&[]).unwrap();
        let waits = "SELECT count(*) > 0 FROM pg_locks l JOIN pg_database d ON d.oid = l.database
            WHERE d.datname = current_database() AND l.relation = 'events'::regclass AND NOT l.granted";
        pipeline.db.until(waits).await.unwrap();
        application
            .batch_execute(&format!(
                "ALTER TABLE events ADD COLUMN {column} int; UPDATE events SET {column} = id, at = at + 1000 WHERE id > 250; COMMIT"
            ))
            .await
            .unwrap();
        let output = run.wait_timeout(std::time::Duration::from_secs(60)).await.unwrap();
        output.assert_code(5);
        assert!(output.stderr.contains(column) && output.stderr.contains("run again"), "{}", output.stderr);
        pipeline.sync().await;
        pipeline.assert_same("events", &Options::incremental()).await;
    }
}

async fn new_columns_follow_the_choice(version: Version) {
    let sql = "CREATE TABLE grows (id int PRIMARY KEY, a text); INSERT INTO grows VALUES (1, 'a')";
    let pipeline = Pipeline::new(version, sql).await;
    pipeline.sync_as("grows", json!({ "columns": { "new_columns": "ignore" } })).await;
    pipeline
        .sql("ALTER TABLE grows ADD COLUMN b text DEFAULT 'b'; INSERT INTO grows VALUES (2, 'a', 'bb')")
        .await;
    pipeline.sync().await;
    let report = pipeline.assert_same("grows", &Options::full_refresh().exclude("b")).await;
    assert!(report.unknown.is_empty());
    // Once `discover` has shown it, it was the user's to exclude.
    pipeline.project.discover().await.unwrap().assert_ok();
    pipeline.sync().await;
    pipeline.assert_same("grows", &Options::full_refresh()).await;

    pipeline.choose("grows", json!({}));
    let streams = pipeline.project.read("streams.json").unwrap();
    pipeline.sql("ALTER TABLE grows ADD COLUMN c int DEFAULT 7").await;
    assert!(streams["streams"][0]["stream"]["type_schema"]["properties"]["c"].is_null());
    pipeline.sync_as("grows", json!({ "columns": { "new_columns": "include" } })).await;
    pipeline.assert_same("grows", &Options::full_refresh()).await;
}

async fn tables_of_1600_columns(version: Version) {
    let columns: Vec<String> =
        (0..1599).map(|n| format!("c{n} {}", ["int2", "bool", "date", "real", "text"][n % 5])).collect();
    let values: Vec<&str> = (0..1599).map(|n| ["7", "true", "'2024-01-01'", "0.5", "'t'"][n % 5]).collect();
    let sql = format!(
        "CREATE TABLE wide (id int PRIMARY KEY, {}); INSERT INTO wide VALUES (0);
         INSERT INTO wide SELECT g, {} FROM generate_series(1, 200) g; UPDATE wide SET c0 = id, c1599 = NULL",
        columns.join(", "),
        values.join(", ")
    );
    let sql = sql.replace(", c1599 = NULL", ", c1598 = 2.5, c4 = id::text");
    for format in ["text", "binary"] {
        let pipeline = Pipeline::with(version, json!({ "copy_format": format }), &sql).await;
        pipeline.sync().await;
        let report = pipeline.assert_same("wide", &Options::full_refresh()).await;
        assert_eq!((report.kinds.len(), report.rows_destination), (1600, 201));
    }
}

async fn tables_without_columns_and_without_rows(version: Version) {
    let pipeline = Pipeline::new(
        version,
        "CREATE TABLE bare (); INSERT INTO bare SELECT FROM generate_series(1, 1234);
         CREATE TABLE bare_empty ();
         CREATE TABLE empty (id int PRIMARY KEY, t text[], d date);
         CREATE TABLE emptied (id int, t text); INSERT INTO emptied SELECT g FROM generate_series(1, 1000) g; DELETE FROM emptied",
    )
    .await;
    for _ in 0..2 {
        pipeline.sync().await;
        assert_eq!(pipeline.readings("bare").await.0, 1234);
        let report = pipeline.assert_same("empty", &Options::full_refresh()).await;
        assert_eq!((report.rows_destination, report.kinds.len()), (0, 3));
        pipeline.assert_same("emptied", &Options::full_refresh()).await;
        assert_eq!(pipeline.readings("bare_empty").await.0, 0);
        assert_eq!(
            pipeline.project.visible_files("empty").len(),
            1,
            "an empty table has a file with its columns"
        );
    }
    // And one that fills later.
    pipeline.sql("INSERT INTO empty VALUES (1, '{a}', '2024-01-01')").await;
    pipeline.sync().await;
    pipeline.assert_same("empty", &Options::full_refresh()).await;
}

async fn a_column_named_like_a_system_column_is_refused(version: Version) {
    let pipeline = Pipeline::new(
        version,
        "CREATE TABLE clash (id int PRIMARY KEY, _lw_op text); INSERT INTO clash VALUES (1, 'x');
         CREATE TABLE near (id int PRIMARY KEY, \"_LW_OP\" text, _lw_other text); INSERT INTO near VALUES (1, 'x', 'y')",
    )
    .await;
    pipeline.choose("clash", json!({}));
    let output = pipeline.project.sync(&[]).await.unwrap();
    output.assert_code(5);
    assert!(output.stderr.contains("_lw_op"), "{}", output.stderr);
    pipeline.sync_as("clash", json!({ "columns": { "exclude": ["_lw_op"] } })).await;
    pipeline.assert_same("clash", &Options::full_refresh().exclude("_lw_op")).await;
    pipeline.sync_as("near", json!({})).await;
    pipeline.assert_same("near", &Options::full_refresh()).await;
}
