//! What can be read besides plain tables.

use lakeward_testkit::reconcile::Options;
use lakeward_testkit::server::{HOST, PASSWORD, USERNAME, Version};
use serde_json::json;

use crate::pipeline::{Pipeline, database, summary_of};

on_each_version!(
    f13_partitions_of_three_levels_are_read_by_leaf,
    f13_leaves_with_columns_in_another_order,
    f13_inheritance_children_are_streams_of_their_own,
    views_and_materialized_views,
    foreign_tables,
    unlogged_tables_and_tables_without_keys,
    tables_larger_than_a_chunk,
);

async fn f13_partitions_of_three_levels_are_read_by_leaf(version: Version) {
    let pipeline = Pipeline::new(
        version,
        "CREATE TABLE sales (id int, region text, at date NOT NULL, amount numeric(10,2), PRIMARY KEY (id, region, at)) PARTITION BY LIST (region);
         CREATE TABLE sales_eu PARTITION OF sales FOR VALUES IN ('eu') PARTITION BY RANGE (at);
         CREATE TABLE sales_eu_2024 PARTITION OF sales_eu FOR VALUES FROM ('2024-01-01') TO ('2025-01-01') PARTITION BY HASH (id);
         CREATE TABLE sales_eu_2024_0 PARTITION OF sales_eu_2024 FOR VALUES WITH (MODULUS 3, REMAINDER 0);
         CREATE TABLE sales_eu_2024_1 PARTITION OF sales_eu_2024 FOR VALUES WITH (MODULUS 3, REMAINDER 1);
         CREATE SCHEMA archive; CREATE TABLE archive.\"Sales 2\" PARTITION OF sales_eu_2024 FOR VALUES WITH (MODULUS 3, REMAINDER 2);
         CREATE TABLE sales_eu_rest PARTITION OF sales_eu DEFAULT;
         CREATE TABLE sales_us PARTITION OF sales FOR VALUES IN ('us');
         CREATE TABLE sales_none PARTITION OF sales FOR VALUES IN ('none');
         CREATE TABLE sales_other PARTITION OF sales DEFAULT;
         CREATE TABLE root_only (id int, r int) PARTITION BY RANGE (r);
         INSERT INTO sales SELECT g, (ARRAY['eu', 'eu', 'eu', 'us', 'ap'])[1 + g % 5], date '2024-01-01' + g % 500, g / 100.0 FROM generate_series(1, 20000) g",
    )
    .await;
    let streams = pipeline.project.read("streams.json").unwrap();
    let names: Vec<_> =
        streams["streams"].as_array().unwrap().iter().map(|entry| entry["stream"]["name"].clone()).collect();
    assert_eq!(names, ["root_only", "sales"], "leaves are read through their root");
    let output = pipeline.project.sync(&["--chunk-size", "64KiB"]).await.unwrap();
    output.assert_ok();
    pipeline.assert_same("sales", &Options::full_refresh()).await;
    pipeline.assert_same("root_only", &Options::full_refresh()).await;
    let chunks = output
        .events
        .iter()
        .filter(|event| event["event"] == "chunk_committed" && event["stream"] == "public.sales")
        .count();
    assert!(chunks >= 7, "each leaf has chunks of its own, there were {chunks}");
    assert_eq!(summary_of(&output, "public.sales")["rows"], 20_000);

    // A leaf comes, one goes: the next full refresh reads what the tree is then.
    pipeline
        .sql(
            "ALTER TABLE sales DETACH PARTITION sales_us; CREATE TABLE sales_cn (LIKE sales INCLUDING ALL);
             INSERT INTO sales_cn SELECT g, 'cn', '2024-05-05', 1 FROM generate_series(1, 777) g;
             ALTER TABLE sales ATTACH PARTITION sales_cn FOR VALUES IN ('cn')",
        )
        .await;
    pipeline.sync().await;
    pipeline.assert_same("sales", &Options::full_refresh()).await;

    pipeline
        .sync_as(
            "sales",
            json!({ "sync_mode": "incremental", "cursor_field": "id", "filter": "region <> 'ap'" }),
        )
        .await;
    pipeline
        .sql("INSERT INTO sales SELECT g, 'eu', '2025-05-05', 1 FROM generate_series(30000, 30100) g")
        .await;
    pipeline.sync().await;
    pipeline.assert_same("sales", &Options::incremental().filter("region <> 'ap'")).await;
}

async fn f13_leaves_with_columns_in_another_order(version: Version) {
    let pipeline = Pipeline::new(
        version,
        "CREATE TABLE p (id int, a text, b int) PARTITION BY RANGE (id);
         CREATE TABLE p1 (gone int, b int, a text, id int); ALTER TABLE p1 DROP COLUMN gone;
         ALTER TABLE p ATTACH PARTITION p1 FOR VALUES FROM (0) TO (100);
         CREATE TABLE p2 PARTITION OF p FOR VALUES FROM (100) TO (200);
         INSERT INTO p SELECT g, 'a' || g, g * 2 FROM generate_series(0, 199) g",
    )
    .await;
    pipeline.sync().await;
    pipeline.assert_same("p", &Options::full_refresh()).await;
}

async fn f13_inheritance_children_are_streams_of_their_own(version: Version) {
    let pipeline = Pipeline::new(
        version,
        "CREATE TABLE parent (id int PRIMARY KEY, t text); CREATE TABLE child (extra int) INHERITS (parent);
         INSERT INTO parent SELECT g, 'p' FROM generate_series(1, 100) g; INSERT INTO child SELECT g, 'c', g FROM generate_series(1000, 1500) g",
    )
    .await;
    pipeline.sync().await;
    assert_eq!(pipeline.assert_same("parent", &Options::full_refresh()).await.rows_destination, 100);
    assert_eq!(pipeline.assert_same("child", &Options::full_refresh()).await.rows_destination, 501);
}

async fn views_and_materialized_views(version: Version) {
    let pipeline = Pipeline::new(
        version,
        "CREATE TABLE base (id int PRIMARY KEY, t text, at timestamptz);
         INSERT INTO base SELECT g, 'v' || g, timestamptz '2024-01-01 00:00+00' + g * interval '1 min' FROM generate_series(1, 3000) g;
         CREATE VIEW v AS SELECT id * 2 AS double_id, t, at, 1.5 AS c, NULL::text AS nothing FROM base WHERE id % 3 = 0;
         CREATE MATERIALIZED VIEW mv AS SELECT id, count(*) OVER () AS n, at FROM base;
         CREATE MATERIALIZED VIEW unfilled AS SELECT id FROM base WITH NO DATA;
         CREATE VIEW over_unfilled AS SELECT id FROM unfilled;
         CREATE VIEW \"empty view\" AS SELECT * FROM base WHERE false",
    )
    .await;
    pipeline.project.select_only(&["v", "mv", "empty view"], json!({})).unwrap();
    pipeline.project.sync(&["--chunk-size", "64KiB"]).await.unwrap().assert_ok();
    for stream in ["v", "mv", "empty view"] {
        pipeline.assert_same(stream, &Options::full_refresh()).await;
    }
    for stream in ["unfilled", "over_unfilled"] {
        pipeline.choose(stream, json!({}));
        let output = pipeline.project.sync(&[]).await.unwrap();
        assert_ne!(output.code, Some(0), "a materialized view that was never filled cannot be read");
        assert!(output.stderr.contains(r#"\"unfilled\""#), "{}", output.stderr);
        assert!(output.stderr.contains("REFRESH MATERIALIZED VIEW"), "{}", output.stderr);
    }

    pipeline.sync_as("v", json!({ "sync_mode": "incremental", "cursor_field": "at" })).await;
    pipeline.sql("INSERT INTO base SELECT g, 'w', timestamptz '2024-01-01 00:00+00' + g * interval '1 min' FROM generate_series(3001, 3300) g").await;
    pipeline.sync().await;
    pipeline.assert_same("v", &Options::incremental().key(&[])).await;
}

async fn foreign_tables(version: Version) {
    let remote = database(
        version,
        "CREATE TABLE far (id int PRIMARY KEY, t text, at timestamptz, n numeric); INSERT INTO far SELECT g, 't' || g, '2024-01-01 00:00+00', g / 3.0 FROM generate_series(1, 2000) g",
    )
    .await;
    let sql = format!(
        "CREATE EXTENSION postgres_fdw; CREATE SERVER remote FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '{HOST}', port '{}', dbname '{}');
         CREATE USER MAPPING FOR postgres SERVER remote OPTIONS (user '{USERNAME}', password '{PASSWORD}');
         CREATE FOREIGN TABLE far (id int, t text, at timestamptz, n numeric) SERVER remote;
         CREATE TABLE mixed (id int, t text, at timestamptz, n numeric) PARTITION BY RANGE (id);
         CREATE TABLE mixed_near PARTITION OF mixed FOR VALUES FROM (100000) TO (200000);
         ALTER TABLE mixed ATTACH PARTITION far FOR VALUES FROM (0) TO (100000);
         INSERT INTO mixed_near SELECT g, 'near', NULL, g FROM generate_series(100000, 100500) g;
         CREATE FOREIGN TABLE alone (id int, t text) SERVER remote OPTIONS (table_name 'far')",
        remote.server().port(),
        remote.name()
    );
    let pipeline = Pipeline::new(version, &sql).await;
    pipeline.sync().await;
    let report = pipeline.assert_same("alone", &Options::full_refresh()).await;
    assert_eq!(report.rows_destination, 2000);
    let report = pipeline.assert_same("mixed", &Options::full_refresh()).await;
    assert_eq!(report.rows_destination, 2501);
}

async fn unlogged_tables_and_tables_without_keys(version: Version) {
    let pipeline = Pipeline::new(
        version,
        "CREATE UNLOGGED TABLE quick (id int PRIMARY KEY); INSERT INTO quick SELECT generate_series(1, 100);
         CREATE TABLE heap (a int, b text); INSERT INTO heap SELECT g % 3, 'same' FROM generate_series(1, 1000) g; INSERT INTO heap SELECT NULL, NULL FROM generate_series(1, 7);
         CREATE TABLE deferred (id int PRIMARY KEY DEFERRABLE INITIALLY DEFERRED, t text); INSERT INTO deferred VALUES (1, 'a'), (2, 'b')",
    )
    .await;
    let streams = pipeline.project.read("streams.json").unwrap();
    let keys: Vec<_> = streams["streams"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| (entry["stream"]["name"].clone(), entry["stream"]["source_defined_primary_key"].clone()))
        .collect();
    let expected = [("deferred", json!([])), ("heap", json!([])), ("quick", json!(["id"]))];
    assert_eq!(keys, expected.map(|(name, key)| (json!(name), key)), "a deferrable key identifies no row");
    pipeline.sync().await;
    for stream in ["quick", "heap", "deferred"] {
        pipeline.assert_same(stream, &Options::full_refresh()).await;
    }
    pipeline.choose("quick", json!({ "sync_mode": "cdc" }));
    let output = pipeline.project.sync(&[]).await.unwrap();
    output.assert_code(2);
    for told in [
        "is unlogged or foreign: the log says nothing of it",
        "replicate it with full_refresh or incremental",
    ] {
        assert!(output.stderr.contains(told), "{}", output.stderr);
    }
}

async fn tables_larger_than_a_chunk(version: Version) {
    let pipeline = Pipeline::new(
        version,
        "CREATE TABLE large (id int PRIMARY KEY, t text, u uuid); INSERT INTO large SELECT g, repeat('x', g % 200), md5(g::text)::uuid FROM generate_series(1, 60000) g;
         DELETE FROM large WHERE id % 5 = 0 OR id BETWEEN 20000 AND 30000;
         UPDATE large SET t = 'moved' WHERE id % 7 = 0;
         CREATE TABLE by_key (id bigint PRIMARY KEY, t text); INSERT INTO by_key SELECT (g - 10000)::bigint * g * g * 37, 'k' || g FROM generate_series(1, 20000) g; ANALYZE",
    )
    .await;
    pipeline.project.select_only(&["large"], json!({})).unwrap();
    pipeline.project.select("by_key", json!({ "chunk_column": "id" })).unwrap();
    let output = pipeline.project.sync(&["--chunk-size", "256KiB", "--max-connections", "3"]).await.unwrap();
    output.assert_ok();
    for (stream, least) in [("large", 10), ("by_key", 2)] {
        pipeline.assert_same(stream, &Options::full_refresh()).await;
        let name = format!("public.{stream}");
        let chunks = output
            .events
            .iter()
            .filter(|event| event["event"] == "chunk_committed" && event["stream"] == name.as_str())
            .count();
        assert!(chunks >= least, "{stream} was read in {chunks} chunks");
        assert_eq!(pipeline.state_of(stream)["chunks"], json!([]));
        pipeline.readings(stream).await;
    }
}
