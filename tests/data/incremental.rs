//! Incremental streams: each version of a row once, whatever the cursor does.

use lakeward_testkit::reconcile::Options;
use lakeward_testkit::server::Version;
use serde_json::{Value, json};

use crate::pipeline::{Pipeline, summary_of};

on_each_version!(
    f52_rows_that_tie_with_the_greatest_cursor,
    f52_rows_committed_late_within_the_look_back,
    f52_two_updates_with_one_cursor_value,
    f52_rows_without_a_cursor_are_included_or_skipped,
    f52_a_fallback_cursor,
    f52_tables_without_a_key_keep_every_version,
    f52_cursors_of_every_type,
    f52_the_greatest_row_is_deleted,
    f52_many_passes_against_a_busy_table,
    cursors_that_cannot_serve_are_refused,
);

const START: &str = "timestamptz '2024-01-01 00:00+00'";

fn by(cursor: &str) -> Value {
    json!({ "sync_mode": "incremental", "cursor_field": cursor })
}

async fn f52_rows_that_tie_with_the_greatest_cursor(version: Version) {
    let pipeline = Pipeline::new(
        version,
        "CREATE TABLE t (id int PRIMARY KEY, n int, v text); INSERT INTO t SELECT g, least(g, 900), 'a' FROM generate_series(1, 1000) g",
    )
    .await;
    pipeline.sync_as("t", by("n")).await;
    // 101 rows stand at the greatest cursor, and more come to it.
    for round in 0..3 {
        pipeline
            .sql(&format!(
                "INSERT INTO t SELECT {round} * 100 + 2000 + g, 900, 'tie' FROM generate_series(1, 50) g"
            ))
            .await;
        let output = pipeline.sync().await;
        assert_eq!(summary_of(&output, "public.t")["rows"], 50, "only what is new");
        pipeline.assert_same("t", &Options::incremental()).await;
    }
    let output = pipeline.sync().await;
    assert_eq!(summary_of(&output, "public.t")["rows"], 0);
    assert_eq!(pipeline.rows("t").await, 1150);
    assert_eq!(
        (pipeline.generation("t"), pipeline.state_of("t")["cursor"].clone()),
        (1, json!({ "n": "900" }))
    );
    // Ties and the next greater one at once.
    pipeline.sql("INSERT INTO t VALUES (5000, 900, 'tie'), (5001, 901, 'next'), (5002, 901, 'next')").await;
    pipeline.sync().await;
    pipeline.assert_same("t", &Options::incremental()).await;
    assert_eq!(pipeline.rows("t").await, 1153);
}

async fn f52_rows_committed_late_within_the_look_back(version: Version) {
    let pipeline = Pipeline::new(
        version,
        "CREATE TABLE t (id int PRIMARY KEY, at timestamptz, v text); INSERT INTO t SELECT g, now() - interval '1 hour' + g * interval '1 s', 'a' FROM generate_series(1, 500) g",
    )
    .await;
    let mut late = pipeline.db.client().await.unwrap();
    let transaction = late.transaction().await.unwrap();
    transaction
        .batch_execute(
            "INSERT INTO t VALUES (1000, now(), 'late'); UPDATE t SET v = 'late', at = now() WHERE id = 7",
        )
        .await
        .unwrap();
    pipeline.sync_as("t", by("at")).await;
    for round in 1..4 {
        pipeline.sql(&format!("INSERT INTO t VALUES ({round} + 2000, now(), 'passed')")).await;
        pipeline.sync().await;
        pipeline.assert_same("t", &Options::incremental()).await;
    }
    transaction.commit().await.unwrap();
    let output = pipeline.sync().await;
    assert_eq!(
        summary_of(&output, "public.t")["rows"],
        2,
        "the row that came late and the update that came late"
    );
    pipeline.assert_same("t", &Options::incremental()).await;
    assert_eq!(pipeline.rows("t").await, 505);

    // Beyond the look-back is beyond the promise; within a longer one it is caught.
    pipeline.sql("INSERT INTO t VALUES (3000, now() - interval '40 min', 'much later')").await;
    pipeline.sync().await;
    assert_eq!(pipeline.report("t", &Options::incremental()).await.missing, 1);
    let mut choices = by("at");
    choices["cursor_lookback"] = json!("1h");
    pipeline.sync_as("t", choices).await;
    pipeline.assert_complete("t").await;
    assert_eq!(pipeline.generation("t"), 1, "a longer look-back is no other stream");
}

impl Pipeline {
    async fn assert_complete(&self, stream: &str) {
        self.report(stream, &Options::incremental()).await.assert_complete();
    }
}

async fn f52_two_updates_with_one_cursor_value(version: Version) {
    let sql = format!(
        "CREATE TABLE t (id int PRIMARY KEY, at timestamptz, v int); INSERT INTO t SELECT g, {START} + g * interval '1 s', 0 FROM generate_series(1, 100) g"
    );
    for lookback in ["0", "10m"] {
        let pipeline = Pipeline::new(version, &sql).await;
        let mut choices = by("at");
        choices["cursor_lookback"] = json!(lookback);
        pipeline.sync_as("t", choices).await;
        for value in 1..4 {
            // The cursor does not move; the row does.
            pipeline.sql(&format!("UPDATE t SET v = {value} WHERE id = 100")).await;
            pipeline.sync().await;
            pipeline.assert_same("t", &Options::incremental()).await;
        }
        // Back to a value that it had: a version of its own.
        pipeline.sql("UPDATE t SET v = 1 WHERE id = 100").await;
        pipeline.sync().await;
        pipeline.assert_same("t", &Options::incremental()).await;
        let versions = pipeline.ask("t", "SELECT v FROM log WHERE id = 100 ORDER BY _lw_seq").await;
        let versions: Vec<_> = versions.iter().map(|row| row[0].as_deref().unwrap()).collect();
        assert_eq!(versions, ["0", "1", "2", "3", "1"]);
        assert_eq!(pipeline.rows("t").await, 104);
    }
}

async fn f52_rows_without_a_cursor_are_included_or_skipped(version: Version) {
    let sql = format!(
        "CREATE TABLE t (id int PRIMARY KEY, at timestamptz, v text);
         INSERT INTO t SELECT g, CASE WHEN g % 4 > 0 THEN {START} + g * interval '1 s' END, 'a' FROM generate_series(1, 200) g"
    );
    for (choice, included) in [("include", true), ("skip", false)] {
        let pipeline = Pipeline::new(version, &sql).await;
        let mut choices = by("at");
        choices["null_cursor"] = json!(choice);
        pipeline.sync_as("t", choices).await;
        pipeline.assert_same("t", &Options::incremental()).await;
        pipeline.sql("INSERT INTO t VALUES (1000, NULL, 'new'); UPDATE t SET v = 'changed' WHERE id = 4; INSERT INTO t SELECT 2000, max(at) + interval '1 s', 'dated' FROM t").await;
        pipeline.sync().await;
        let report = pipeline.report("t", &Options::incremental()).await;
        assert_eq!(report.missing, if included { 0 } else { 2 }, "{choice}: {report}");
        assert_eq!(pipeline.rows("t").await, if included { 203 } else { 201 }, "{choice}");
        // A row that gets a cursor, and one that loses it.
        pipeline.sql("UPDATE t SET at = (SELECT max(at) FROM t) + interval '1 s', v = 'found' WHERE id = 8; UPDATE t SET at = NULL, v = 'lost' WHERE id = 9").await;
        pipeline.sync().await;
        pipeline.sync().await;
        if included {
            pipeline.assert_same("t", &Options::incremental()).await;
        }
        assert_eq!(
            pipeline.ask_one("t", "SELECT count(*) FROM log WHERE id = 8").await.as_deref(),
            Some("2")
        );
    }
    // Every cursor is null.
    let pipeline = Pipeline::new(version, "CREATE TABLE n (id int PRIMARY KEY, at timestamptz, v int); INSERT INTO n SELECT g, NULL, 0 FROM generate_series(1, 50) g").await;
    pipeline.sync_as("n", by("at")).await;
    pipeline.sql("UPDATE n SET v = 1 WHERE id <= 5; INSERT INTO n VALUES (100, NULL, 2)").await;
    pipeline.sync().await;
    pipeline.assert_same("n", &Options::incremental()).await;
    assert_eq!(pipeline.rows("n").await, 56);
    pipeline.sql(&format!("UPDATE n SET at = {START} WHERE id = 1")).await;
    pipeline.sync().await;
    pipeline.assert_same("n", &Options::incremental()).await;
    pipeline.sync().await;
    assert_eq!(pipeline.rows("n").await, 57);
}

async fn f52_a_fallback_cursor(version: Version) {
    let sql = format!(
        "CREATE TABLE t (id int PRIMARY KEY, changed timestamptz, made timestamptz, v text);
         INSERT INTO t SELECT g, CASE WHEN g % 3 = 0 THEN {START} + g * interval '1 min' END, {START} + g * interval '1 s', 'a' FROM generate_series(1, 300) g"
    );
    let pipeline = Pipeline::new(version, &sql).await;
    let mut choices = by("changed:made");
    choices["cursor_lookback"] = json!("0");
    pipeline.sync_as("t", choices).await;
    let greatest = format!("({START} + interval '300 min')");
    pipeline
        .sql(&format!(
            "INSERT INTO t VALUES (1000, NULL, {greatest} + interval '1 s', 'by made'), (1001, {greatest} + interval '2 s', NULL, 'by changed'), (1002, {greatest}, {START}, 'tie'), (1003, NULL, NULL, 'neither');
             UPDATE t SET changed = {greatest} + interval '3 s', v = 'changed' WHERE id = 5"
        ))
        .await;
    let output = pipeline.sync().await;
    assert_eq!(summary_of(&output, "public.t")["rows"], 5);
    pipeline.assert_same("t", &Options::incremental()).await;
    let output = pipeline.sync().await;
    assert_eq!(summary_of(&output, "public.t")["rows"], 0);
    for (cursor, named) in [("changed:nowhere", "nowhere"), ("changed:v", "two types")] {
        pipeline.choose("t", by(cursor));
        let output = pipeline.project.sync(&[]).await.unwrap();
        output.assert_code(2);
        assert!(output.stderr.contains(named), "{}", output.stderr);
    }
}

async fn f52_tables_without_a_key_keep_every_version(version: Version) {
    let pipeline = Pipeline::new(version, "CREATE TABLE logs (n int, v text); INSERT INTO logs SELECT g / 3, 'twin' FROM generate_series(1, 300) g").await;
    pipeline.sync_as("logs", by("n")).await;
    pipeline.assert_same("logs", &Options::incremental()).await;
    // Twins of rows that are there, at the greatest cursor and beyond.
    pipeline.sql("INSERT INTO logs VALUES (100, 'twin'), (100, 'twin'), (101, 'twin'), (101, 'twin'), (NULL, NULL), (NULL, NULL)").await;
    let output = pipeline.sync().await;
    assert_eq!(summary_of(&output, "public.logs")["rows"], 6);
    pipeline.assert_same("logs", &Options::incremental()).await;
    pipeline.sync().await;
    pipeline.assert_same("logs", &Options::incremental()).await;
    pipeline.sql("UPDATE logs SET v = 'other' WHERE n = 101").await;
    pipeline.sync().await;
    assert_eq!(pipeline.rows("logs").await, 308, "both former versions and both new ones");
}

async fn f52_cursors_of_every_type(version: Version) {
    let types = [
        ("i2", "int2", "g"),
        ("i4", "int", "g * 1000"),
        ("i8", "int8", "9223372036854775000 + g"),
        ("n", "numeric", "g / 3.0 + 12345678901234567890"),
        ("nd", "numeric(20,4)", "g / 7.0 - 10"),
        ("d", "date", "date '2023-12-25' + g"),
        ("ts", "timestamp", "timestamp '2023-12-31 23:59:50' + g * interval '0.100001 s'"),
        ("tz", "timestamptz", "timestamptz '2023-12-31 23:59:50+00' + g * interval '0.100001 s'"),
        ("t", "text", "'k' || lpad(g::text, 6, '0') || '''\\'"),
        ("vc", "varchar(20)", "'é' || lpad(g::text, 6, '0')"),
    ];
    let columns: Vec<String> = types.iter().map(|(name, kind, _)| format!("{name} {kind}")).collect();
    let values: Vec<&str> = types.iter().map(|(_, _, value)| *value).collect();
    let mut sql = format!("CREATE TABLE base (id int PRIMARY KEY, {}, v text);", columns.join(", "));
    let insert = |from: u32, to: u32| {
        format!("INSERT INTO base SELECT g, {}, 'a' FROM generate_series({from}, {to}) g;", values.join(", "))
    };
    sql.push_str(&insert(1, 200));
    for (name, ..) in types {
        sql.push_str(&format!(
            "CREATE TABLE c_{name} (LIKE base INCLUDING ALL); INSERT INTO c_{name} TABLE base;"
        ));
    }
    let pipeline = Pipeline::new(version, &sql).await;
    pipeline.project.select_only(&[], json!({})).unwrap();
    for (name, ..) in types {
        pipeline.project.select(format!("c_{name}").as_str(), by(name)).unwrap();
    }
    pipeline.sync().await;
    let mut more = insert(201, 240);
    for (name, ..) in types {
        more.push_str(&format!("INSERT INTO c_{name} SELECT * FROM base WHERE id > 200; UPDATE c_{name} SET v = 'tie' WHERE id = 200;"));
    }
    pipeline.sql(&more).await;
    let output = pipeline.sync().await;
    for (name, ..) in types {
        let stream = format!("c_{name}");
        assert_eq!(summary_of(&output, &format!("public.{stream}"))["rows"], 41, "{name}");
        assert_eq!(pipeline.generation(&stream), 1);
        pipeline.assert_same(stream.as_str(), &Options::incremental()).await;
    }
    let output = pipeline.sync().await;
    for (name, ..) in types {
        assert_eq!(summary_of(&output, &format!("public.c_{name}"))["rows"], 0, "{name}");
        let greatest =
            pipeline.db.value(&format!("SELECT max({name}) FROM c_{name}")).await.unwrap().unwrap();
        let cursor = pipeline.state_of(&format!("c_{name}"))["cursor"][name].as_str().unwrap().to_owned();
        let cursor =
            if matches!(name, "ts" | "tz") { cursor.replace('T', " ").replace('Z', "+00") } else { cursor };
        assert_eq!(cursor, greatest);
    }
}

async fn f52_the_greatest_row_is_deleted(version: Version) {
    let sql = format!(
        "CREATE TABLE t (id int PRIMARY KEY, at timestamptz); INSERT INTO t SELECT g, {START} + g * interval '1 s' FROM generate_series(1, 100) g"
    );
    let pipeline = Pipeline::new(version, &sql).await;
    pipeline.sync_as("t", by("at")).await;
    pipeline.sql("DELETE FROM t WHERE id > 90").await;
    pipeline.sync().await;
    // What comes below the greatest cursor ever seen, but within the look-back, comes through.
    pipeline
        .sql(&format!("INSERT INTO t SELECT g, {START} + interval '95 s' FROM generate_series(200, 204) g"))
        .await;
    let output = pipeline.sync().await;
    assert_eq!(summary_of(&output, "public.t")["rows"], 5);
    let report = pipeline.report("t", &Options::incremental()).await;
    report.assert_complete();
    assert_eq!(report.extra, 10, "an incremental stream sees no deletes");
    // The whole table goes; what comes then is beyond.
    pipeline.sql(&format!("DELETE FROM t; INSERT INTO t VALUES (500, {START} + interval '1 day')")).await;
    pipeline.sync().await;
    pipeline.report("t", &Options::incremental()).await.assert_complete();
    pipeline.sql("DELETE FROM t").await;
    pipeline.sync().await;
    pipeline.sql(&format!("INSERT INTO t VALUES (501, {START} + interval '2 days')")).await;
    pipeline.sync().await;
    pipeline.report("t", &Options::incremental()).await.assert_complete();
    assert_eq!((pipeline.rows("t").await, pipeline.generation("t")), (107, 1));
}

async fn f52_many_passes_against_a_busy_table(version: Version) {
    let pipeline = Pipeline::new(
        version,
        "CREATE TABLE t (id int PRIMARY KEY, at timestamptz DEFAULT clock_timestamp(), v int); INSERT INTO t SELECT g, clock_timestamp(), 0 FROM generate_series(1, 2000) g;
         CREATE TABLE history (id int, v int)",
    )
    .await;
    pipeline.choose("t", by("at"));
    let url = pipeline.db.url();
    let busy = tokio::spawn(async move {
        let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        let mut statements = 0;
        let end = std::time::Instant::now() + std::time::Duration::from_secs(6);
        while std::time::Instant::now() < end {
            let sql = format!(
                "UPDATE t SET v = v + 1, at = clock_timestamp() WHERE id % 97 = {} % 97; INSERT INTO t SELECT 10000 + {statements} * 10 + g, clock_timestamp(), 0 FROM generate_series(0, 9) g",
                statements * 31
            );
            client.batch_execute(&sql).await.unwrap();
            statements += 1;
        }
        statements
    });
    let mut passes = 0;
    while !busy.is_finished() {
        pipeline.sync().await;
        passes += 1;
    }
    assert!(busy.await.unwrap() > 10 && passes > 2);
    pipeline.sync().await;
    // The reconciler also refuses a version of a row that stands twice in one pass.
    pipeline.assert_same("t", &Options::incremental()).await;
    let twice = "SELECT count(*) - count(DISTINCT (id, v)) FROM log";
    assert_eq!(pipeline.ask_one("t", twice).await.as_deref(), Some("0"), "no version stands twice");
}

async fn cursors_that_cannot_serve_are_refused(version: Version) {
    let pipeline = Pipeline::new(version, "CREATE TABLE t (id int PRIMARY KEY, j jsonb, l int[], at timestamptz, b bool); INSERT INTO t VALUES (1, '{}', '{}', 'infinity', true)").await;
    for (choices, named, code) in [
        (by("jj"), "jj", 2),
        (by("j"), "\\\"j\\\"", 2),
        (by("l"), "\\\"l\\\"", 2),
        (json!({ "sync_mode": "incremental" }), "cursor_field", 2),
        (
            json!({ "sync_mode": "incremental", "cursor_field": "id", "cursor_lookback": "ten" }),
            "cursor_lookback",
            2,
        ),
        (
            json!({ "sync_mode": "incremental", "cursor_field": "at", "cursor_lookback": "-5m" }),
            "cursor_lookback",
            2,
        ),
        (by("at"), "column at", 5),
    ] {
        pipeline.choose("t", choices.clone());
        let output = pipeline.project.sync(&[]).await.unwrap();
        assert_eq!(output.code, Some(code), "{choices}: {}", output.stderr);
        assert!(output.stderr.contains(named), "{choices}: {}", output.stderr);
    }
}
