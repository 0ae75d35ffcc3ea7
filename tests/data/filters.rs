//! Row filters mean at the source what they say, in three-valued logic.

use lakeward_testkit::reconcile::Options;
use lakeward_testkit::server::Version;
use serde_json::json;

use crate::pipeline::Pipeline;

on_each_version!(filters_choose_what_the_same_where_chooses, filters_that_mean_nothing_are_refused);

/// Each is a filter of ours and a condition of the server's.
const FILTERS: &[&str] = &[
    "n > 5",
    "NOT (n > 5)",
    "NOT (n > 5 AND region = 'eu')",
    "n <> 3 OR region IS NULL",
    "region IN ('eu', 'it''s', '')",
    "region NOT IN ('eu', 'us')",
    "n IN (1, 2.0, 3) AND NOT region = 'us'",
    "region LIKE 'e%' OR region LIKE '_s'",
    "region NOT LIKE '%\\%%'",
    "NOT region LIKE '%\\_%' AND n IS NOT NULL",
    "region LIKE '%\\\\%' OR region = 'back\\slash'",
    "d >= '2024-02-29' AND d < '2024-03-31'",
    "at > '2024-01-01 12:00:00+00' AND ok = true",
    "ok <> true",
    "price >= -1.50 AND price <= 12.25",
    "5 < n AND f < 0.5",
    "u = 'c4ca4238-a0b9-2382-0dcc-509a6f75849b' OR n = 9223372036854775807",
    "c5 = 'ab'",
    "\"Odd \"\"name\"\"\" = 'x' OR n IS NULL",
    "(n = 1 OR n = 2) AND (region = 'eu' OR region = 'us') AND NOT (ok IS NULL)",
];

async fn filters_choose_what_the_same_where_chooses(version: Version) {
    let mut sql = String::from(
        "CREATE TABLE f (id int PRIMARY KEY, n int8, region text, d date, at timestamptz, ok bool, price numeric(8,2), f float8, u uuid, c5 char(5), \"Odd \"\"name\"\"\" text);
         INSERT INTO f SELECT g, CASE WHEN g % 7 > 0 THEN g % 11 END, (ARRAY['eu', 'us', NULL, '', 'it''s', '50%', 'a_b', 'back\\slash', 'Eu'])[1 + g % 9],
            date '2024-01-01' + g % 120, timestamptz '2024-01-01 00:00+00' + g * interval '11 min', CASE WHEN g % 5 > 0 THEN g % 2 = 0 END,
            g / 20.0 - 3, random(), md5((g % 5)::text)::uuid, CASE WHEN g % 3 = 0 THEN 'ab' ELSE 'ab c' END, CASE WHEN g % 4 = 0 THEN 'x' END FROM generate_series(1, 500) g;
         INSERT INTO f (id, n) VALUES (1000, 9223372036854775807), (1001, NULL);",
    );
    let tables: Vec<String> = (0..FILTERS.len()).map(|n| format!("f{n}")).collect();
    for table in &tables {
        sql.push_str(&format!("CREATE TABLE {table} (LIKE f INCLUDING ALL); INSERT INTO {table} TABLE f;"));
    }
    let pipeline = Pipeline::new(version, &sql).await;
    pipeline.project.select_only(&[], json!({})).unwrap();
    for (table, filter) in tables.iter().zip(FILTERS) {
        pipeline.project.select(table.as_str(), json!({ "filter": filter })).unwrap();
    }
    pipeline.sync().await;
    // The comparer takes a second each: every filter on one version, every third on the other.
    let step = if version == Version::Pg18 { 1 } else { 3 };
    for (table, filter) in tables.iter().zip(FILTERS).step_by(step) {
        let report = pipeline.report(table.as_str(), &Options::full_refresh().filter(filter)).await;
        assert!(report.is_same(), "{filter}: {report}");
        assert!(
            report.rows_source > 0 && report.rows_source < 502,
            "{filter} chooses {} of 502",
            report.rows_source
        );
    }
}

async fn filters_that_mean_nothing_are_refused(version: Version) {
    let pipeline = Pipeline::new(
        version,
        "CREATE TABLE t (id int PRIMARY KEY, region text, d date, l int[], ok bool); INSERT INTO t VALUES (1, 'eu', '2024-01-01')",
    )
    .await;
    for (filter, named) in [
        ("regoin = 'eu'", "region"),
        ("region < 'eu'", "collation"),
        ("id = 1; DROP TABLE t", "filter"),
        ("id = (SELECT 1)", "filter"),
        ("lower(region) = 'eu'", "filter"),
        ("id = region", "literal"),
        ("id +", "filter"),
        ("", "filter"),
        ("id = 'one'", "id"),
        ("ok = 1", "ok"),
        ("id LIKE '1%'", "LIKE"),
        ("region IN ()", "filter"),
    ] {
        pipeline.choose("t", json!({ "filter": filter }));
        let output = pipeline.project.sync(&[]).await.unwrap();
        assert_eq!(output.code, Some(2), "{filter}: {}", output.stderr);
        assert!(
            output.stderr.contains("public.t") && output.stderr.contains(named),
            "{filter}: {}",
            output.stderr
        );
    }
    assert!(!pipeline.project.lake().join("public").exists());
}
