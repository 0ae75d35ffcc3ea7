//! Partition directories at the destination.

use std::collections::BTreeSet;

use lakeward_testkit::reconcile::Options;
use lakeward_testkit::server::Version;
use serde_json::json;

use crate::pipeline::Pipeline;

on_each_version!(
    partitions_by_month_day_and_hour,
    partitions_by_values_of_every_kind,
    more_partitions_than_open_writers
);

/// The names of a stream's partition directories, parent and child joined by `/`.
fn directories(pipeline: &Pipeline, stream: &str) -> BTreeSet<String> {
    let root = pipeline.project.stream_directory(stream);
    let files = pipeline.project.visible_files(stream);
    files
        .iter()
        .map(|file| file.parent().unwrap().strip_prefix(&root).unwrap().to_str().unwrap().to_owned())
        .collect()
}

/// Counts directories that hold more than one value of a SQL expression, and values that lie in more than one.
async fn misplaced(pipeline: &Pipeline, stream: &str, value: &str) -> String {
    let glob = pipeline.project.stream_directory(stream).join("**/*.parquet");
    let sql = format!(
        "WITH rows AS (SELECT parse_path(filename)[:-2] AS place, coalesce(CAST({value} AS VARCHAR), '<null>') AS v
            FROM read_parquet('{}', filename = true, hive_partitioning = false))
         SELECT (SELECT count(*) FROM (SELECT 1 FROM rows GROUP BY place HAVING count(DISTINCT v) > 1))
              + (SELECT count(*) FROM (SELECT 1 FROM rows GROUP BY v HAVING count(DISTINCT place) > 1))",
        glob.display()
    );
    pipeline.ask_one(stream, &sql).await.unwrap()
}

async fn partitions_by_month_day_and_hour(version: Version) {
    let pipeline = Pipeline::new(
        version,
        "CREATE TABLE m (id int PRIMARY KEY, at timestamptz, v text); INSERT INTO m SELECT g, timestamptz '2023-12-31 22:00-02' + g * interval '37 hours', 'x' FROM generate_series(0, 200) g;
         INSERT INTO m VALUES (1000, NULL, 'n'), (1001, '1969-12-31 23:59:59.999999+00', 'before'), (1002, '0001-01-01 00:00+00', 'first'), (1003, '9999-12-31 23:59:59.999999+00', 'last');
         CREATE TABLE d (LIKE m INCLUDING ALL); INSERT INTO d TABLE m; CREATE TABLE h (id int PRIMARY KEY, at timestamp); INSERT INTO h SELECT id, at AT TIME ZONE 'UTC' FROM m WHERE id % 7 = 0;
         CREATE TABLE y (id int PRIMARY KEY, at date); INSERT INTO y SELECT id, at::date FROM m WHERE id < 1000",
    )
    .await;
    pipeline.project.select_only(&[], json!({})).unwrap();
    for (table, partition) in [("m", "month(at)"), ("d", "day(at)"), ("h", "hour(at)"), ("y", "year(at)")] {
        pipeline.project.select(table, json!({ "partition": [partition] })).unwrap();
    }
    pipeline.sync().await;
    for (table, value) in [
        ("m", "date_trunc('month', \"at\")"),
        ("d", "date_trunc('day', \"at\")"),
        ("h", "date_trunc('hour', \"at\")"),
        ("y", "year(\"at\")"),
    ] {
        pipeline.assert_same(table, &Options::full_refresh()).await;
        pipeline.readings(table).await;
        assert_eq!(misplaced(&pipeline, table, value).await, "0", "{table}");
    }
    let months = directories(&pipeline, "m");
    for expected in [
        "at_month=2024-01",
        "at_month=1969-12",
        "at_month=0001-01",
        "at_month=9999-12",
        "at_month=__HIVE_DEFAULT_PARTITION__",
    ] {
        assert!(months.contains(expected), "{expected} in {months:?}");
    }
    assert!(directories(&pipeline, "d").contains("at_day=1969-12-31"), "{:?}", directories(&pipeline, "d"));
    assert!(directories(&pipeline, "y").contains("at_year=2024"), "{:?}", directories(&pipeline, "y"));
}

async fn partitions_by_values_of_every_kind(version: Version) {
    let pipeline = Pipeline::new(
        version,
        "CREATE TABLE odd (id int PRIMARY KEY, region text, n int, ok bool, p numeric(4,1), u uuid);
         INSERT INTO odd SELECT g, (ARRAY['eu', 'EU', '', NULL, 'a/b', '..', '.', 'a=b', 'a%2Fb', ' space ', '__HIVE_DEFAULT_PARTITION__', E'new\\nline', 'é💧', '\"q\"', '*', 'NULL',
            repeat('long', 20), '_lakeward', 'a\\b', 'a:b', 'x.parquet'])[1 + g % 21], g % 3 - 1, g % 2 = 0, g % 4 / 10.0 - 0.1, md5((g % 2)::text)::uuid FROM generate_series(1, 420) g;
         CREATE TABLE two (LIKE odd INCLUDING ALL); INSERT INTO two TABLE odd; CREATE TABLE num (LIKE odd INCLUDING ALL); INSERT INTO num TABLE odd",
    )
    .await;
    pipeline.project.select_only(&[], json!({})).unwrap();
    pipeline.project.select("odd", json!({ "partition": ["region"] })).unwrap();
    pipeline.project.select("two", json!({ "partition": ["ok", "n"] })).unwrap();
    pipeline.project.select("num", json!({ "partition": ["p", "u"] })).unwrap();
    for _ in 0..2 {
        pipeline.sync().await;
    }
    for table in ["odd", "two", "num"] {
        pipeline.assert_same(table, &Options::full_refresh()).await;
        pipeline.readings(table).await;
    }
    assert_eq!(directories(&pipeline, "odd").len(), 21, "{:?}", directories(&pipeline, "odd"));
    assert_eq!(misplaced(&pipeline, "odd", "region").await, "0");
    assert!(directories(&pipeline, "odd").contains("region_value=eu"));
    let expected: BTreeSet<String> = ["false", "true"]
        .map(|ok| ["-1", "0", "1"].map(|n| format!("ok_value={ok}/n_value={n}")))
        .concat()
        .into_iter()
        .collect();
    let found: BTreeSet<String> =
        directories(&pipeline, "two").iter().map(|name| name.replace("%2D", "-")).collect();
    assert_eq!(found, expected);
    assert_eq!(misplaced(&pipeline, "num", "(p, u)").await, "0");
}

async fn more_partitions_than_open_writers(version: Version) {
    let pipeline = Pipeline::new(
        version,
        "CREATE TABLE days (id int PRIMARY KEY, d date, t text); INSERT INTO days SELECT g, date '2020-01-01' + (g * 7919) % 900, repeat('x', g % 50) FROM generate_series(1, 30000) g",
    )
    .await;
    pipeline.choose("days", json!({ "partition": ["day(d)"] }));
    let output = pipeline.project.sync(&["--chunk-size", "256MiB"]).await.unwrap();
    output.assert_ok();
    pipeline.assert_same("days", &Options::full_refresh()).await;
    assert_eq!(directories(&pipeline, "days").len(), 900);
    assert_eq!(misplaced(&pipeline, "days", "d").await, "0");
}
