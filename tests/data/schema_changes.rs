//! Columns that change between runs.

use lakeward_testkit::reconcile::Options;
use lakeward_testkit::server::Version;
use serde_json::json;

use crate::pipeline::Pipeline;

on_each_version!(
    f11_columns_that_come_go_and_change_their_name,
    f11_a_refresh_takes_the_columns_as_they_are,
    f12_types_that_change,
    a_key_that_changes,
);

/// What a change of columns asks for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Felt {
    /// No row that was read before would read differently.
    NewRowsOnly,
    /// Rows that were read before would read differently.
    ExistingRows,
    /// A column is gone: it stays in the files and is null.
    NoReader,
}

const CHANGES: &[(&str, &str, Felt)] = &[
    ("added", "ALTER TABLE t ADD COLUMN b text", Felt::NewRowsOnly),
    ("added_list", "ALTER TABLE t ADD COLUMN \"B c\" date[]", Felt::NewRowsOnly),
    ("added_default", "ALTER TABLE t ADD COLUMN b int NOT NULL DEFAULT 42", Felt::ExistingRows),
    (
        "added_volatile",
        "ALTER TABLE t ADD COLUMN b timestamptz DEFAULT clock_timestamp()",
        Felt::ExistingRows,
    ),
    (
        "added_generated",
        "ALTER TABLE t ADD COLUMN b text GENERATED ALWAYS AS (a || '!') STORED",
        Felt::ExistingRows,
    ),
    ("dropped", "ALTER TABLE t DROP COLUMN a", Felt::NoReader),
    ("renamed", "ALTER TABLE t RENAME COLUMN a TO b", Felt::ExistingRows),
    ("dropped_and_added", "ALTER TABLE t DROP COLUMN a; ALTER TABLE t ADD COLUMN a text", Felt::ExistingRows),
    (
        "swapped",
        "ALTER TABLE t RENAME a TO x; ALTER TABLE t RENAME c TO a; ALTER TABLE t RENAME x TO c",
        Felt::ExistingRows,
    ),
];

const TABLE: &str = "CREATE TABLE t (id int PRIMARY KEY, n int, a text, c text);
    INSERT INTO t SELECT g, g, 'a' || g, 'c' || g FROM generate_series(1, 300) g;";

async fn f11_columns_that_come_go_and_change_their_name(version: Version) {
    // One database for all: each case has the table in a schema of its own.
    let mut sql = String::new();
    let mut names = Vec::new();
    for policy in ["evolve", "resnapshot", "fail"] {
        for (case, ddl, felt) in CHANGES {
            let schema = format!("{policy}_{case}");
            sql.push_str(&format!("CREATE SCHEMA {schema}; SET search_path = {schema}; {TABLE}"));
            names.push((schema, policy, *ddl, *felt));
        }
    }
    let pipeline = Pipeline::new(version, &sql).await;
    pipeline.project.select_only(&[], json!({})).unwrap();
    for (schema, policy, ..) in &names {
        let choices = json!({ "sync_mode": "incremental", "cursor_field": "n", "on_schema_change": policy });
        pipeline.project.select((schema.as_str(), "t"), choices).unwrap();
    }
    pipeline.sync().await;
    let mut sql = String::new();
    for (schema, _, ddl, _) in &names {
        sql.push_str(&format!("SET search_path = {schema}; {ddl}; INSERT INTO t (id, n) SELECT g, g FROM generate_series(301, 310) g;"));
    }
    pipeline.sql(&sql).await;
    let output = pipeline.project.sync(&[]).await.unwrap();
    output.assert_code(5);
    for (schema, policy, ddl, felt) in &names {
        let stream = format!("{schema}.t");
        let generation = pipeline.generation(&stream);
        let failure = output
            .events
            .iter()
            .find(|event| event["event"] == "stream_failed" && event["stream"] == stream.as_str());
        // A column that is gone hurts no row that stands: no policy has to act.
        let (fails, again) = match (*policy, *felt) {
            (_, Felt::NoReader) => (false, false),
            ("fail", _) => (true, false),
            ("resnapshot", _) => (false, true),
            (_, felt) => (false, felt == Felt::ExistingRows),
        };
        assert_eq!(failure.is_some(), fails, "{policy}: {ddl}: {failure:?}");
        assert_eq!(generation, if again { 2 } else { 1 }, "{policy}: {ddl}");
        if fails {
            let text = failure.unwrap()["error"].to_string();
            assert!(text.contains("columns changed") || text.contains("column"), "{ddl}: {text}");
            assert_eq!(pipeline.rows((schema.as_str(), "t")).await, 300, "{ddl}: what was there stands");
        }
    }
    // The comparer takes a second each.
    for (schema, policy, ddl, _) in names.iter().filter(|(_, policy, ..)| *policy == "evolve") {
        let report = pipeline.report((schema.as_str(), "t"), &Options::incremental()).await;
        assert!(report.is_same(), "{policy}: {ddl}: {report}");
        assert_eq!(report.rows_destination, 310);
        pipeline.readings((schema.as_str(), "t")).await;
    }
    for schema in ["resnapshot_added", "resnapshot_renamed"] {
        pipeline.assert_same((schema, "t"), &Options::incremental()).await;
    }
    // And once more: nothing is left to do, for none of them.
    pipeline.project.select_only(&[], json!({})).unwrap();
    for (schema, policy, ..) in names.iter().filter(|(_, policy, ..)| *policy != "fail") {
        let choices = json!({ "sync_mode": "incremental", "cursor_field": "n", "on_schema_change": policy });
        pipeline.project.select((schema.as_str(), "t"), choices).unwrap();
    }
    let output = pipeline.sync().await;
    let summary = output.events.iter().find(|event| event["event"] == "summary").unwrap();
    for stream in summary["streams"].as_array().unwrap() {
        assert_eq!(stream["rows"], 0, "{stream}");
    }
}

async fn f11_a_refresh_takes_the_columns_as_they_are(version: Version) {
    let pipeline = Pipeline::new(version, TABLE).await;
    pipeline.sync().await;
    for (case, ddl, _) in CHANGES.iter().step_by(2) {
        pipeline.sql(&format!("DROP TABLE t; {TABLE}")).await;
        pipeline.sync().await;
        pipeline.sql(ddl).await;
        pipeline.sync().await;
        let report = pipeline.assert_same("t", &Options::full_refresh()).await;
        assert!(report.unknown.is_empty(), "{case}: {:?}", report.unknown);
    }
}

async fn f12_types_that_change(version: Version) {
    let cases = [
        ("int", "bigint", "g", "9223372036854775807"),
        ("int", "text", "g", "'not a number'"),
        ("varchar(10)", "text", "g", "repeat('long', 100)"),
        ("numeric(6,2)", "numeric(12,4)", "g / 4.0", "12345678.1234"),
        ("text", "int USING length(c)", "g", "7"),
        ("timestamp", "timestamptz", "timestamp '2024-01-01' + g * interval '1 s'", "'2030-01-01 00:00+02'"),
        ("numeric(6,2)", "numeric(6,1)", "g / 4.0", "1.5"),
    ];
    let mut sql = String::new();
    for (place, (from, _, value, _)) in cases.iter().enumerate() {
        sql.push_str(&format!("CREATE TABLE t{place} (id int PRIMARY KEY, c {from}, n int); INSERT INTO t{place} SELECT g, {value}, g FROM generate_series(1, 100) g;"));
    }
    let pipeline = Pipeline::new(version, &sql).await;
    pipeline.project.select_only(&[], json!({})).unwrap();
    for place in 0..cases.len() {
        pipeline
            .project
            .select(format!("t{place}").as_str(), json!({ "sync_mode": "incremental", "cursor_field": "n" }))
            .unwrap();
    }
    pipeline.sync().await;
    let mut sql = String::new();
    for (place, (_, to, _, value)) in cases.iter().enumerate() {
        sql.push_str(&format!(
            "ALTER TABLE t{place} ALTER c TYPE {to}; INSERT INTO t{place} VALUES (101, {value}, 101);"
        ));
    }
    pipeline.sql(&sql).await;
    pipeline.sync().await;
    for (place, (from, to, ..)) in cases.iter().enumerate() {
        let report = pipeline.report(format!("t{place}").as_str(), &Options::incremental()).await;
        assert!(report.is_same(), "{from} to {to}: {report}");
        pipeline.readings(format!("t{place}").as_str()).await;
    }
    pipeline.sql("ALTER TABLE t0 ALTER c TYPE text").await;
    pipeline
        .choose("t0", json!({ "sync_mode": "incremental", "cursor_field": "n", "on_schema_change": "fail" }));
    let output = pipeline.project.sync(&[]).await.unwrap();
    output.assert_code(5);
    for named in ["public.t0", "\\\"c\\\"", "int64", "text"] {
        assert!(output.stderr.contains(named), "{named} in {}", output.stderr);
    }
}

async fn a_key_that_changes(version: Version) {
    let pipeline = Pipeline::new(version, "CREATE TABLE t (id int PRIMARY KEY, k int NOT NULL, n int); INSERT INTO t SELECT g, g % 50, g FROM generate_series(1, 100) g").await;
    let choices = json!({ "sync_mode": "incremental", "cursor_field": "n" });
    pipeline.sync_as("t", choices.clone()).await;
    pipeline.sql("ALTER TABLE t DROP CONSTRAINT t_pkey; ALTER TABLE t ADD PRIMARY KEY (k, id); INSERT INTO t VALUES (1, 1000, 101)").await;
    pipeline.sync().await;
    pipeline.assert_same("t", &Options::incremental()).await;
    assert_eq!(pipeline.generation("t"), 2);
    pipeline.sql("ALTER TABLE t DROP CONSTRAINT t_pkey; INSERT INTO t SELECT * FROM t WHERE id = 7").await;
    pipeline.sync().await;
    pipeline.assert_same("t", &Options::incremental()).await;
    assert_eq!(pipeline.generation("t"), 3);
    pipeline.sql("DELETE FROM t; ALTER TABLE t ADD PRIMARY KEY (id)").await;
    pipeline
        .choose("t", json!({ "sync_mode": "incremental", "cursor_field": "n", "on_schema_change": "fail" }));
    let output = pipeline.project.sync(&[]).await.unwrap();
    output.assert_code(5);
    assert!(output.stderr.contains("key"), "{}", output.stderr);
    // Dropped and made again under the same name it is another table: all of it is read anew.
    pipeline.sql("DROP TABLE t; CREATE TABLE t (id int PRIMARY KEY, k int NOT NULL, n int); INSERT INTO t VALUES (1, 1, 1)").await;
    pipeline.sync_as("t", choices).await;
    pipeline.assert_same("t", &Options::incremental()).await;
}
