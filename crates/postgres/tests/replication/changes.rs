//! What changes mean.

use serde_json::json;

use super::support::{Follower, Pipeline, VERSIONS};

/// Values too large to stand in their rows, and that do not compress.
const LARGE: &str = "CREATE FUNCTION large(seed int) RETURNS text LANGUAGE sql AS \
    $$SELECT string_agg(md5(seed::text || g), '') FROM generate_series(1, 300) g$$;";

fn texts(values: &[Option<&str>]) -> Vec<Option<String>> {
    values.iter().map(|value| value.map(str::to_owned)).collect()
}

#[tokio::test]
async fn a_key_that_changes_is_a_delete_and_an_insert() {
    for version in VERSIONS {
        let sql = "CREATE TABLE t (a int, b text, n int, PRIMARY KEY (b, a));
            INSERT INTO t SELECT g, 'k' || g, g FROM generate_series(1, 10) g";
        let mut pipeline = Pipeline::new(version, "keys", sql).await;
        let mut followers = pipeline.begin(&[("t", json!({}))]).await;
        assert_eq!(followers[0].stream.key, ["b", "a"]);
        // A swap within one transaction, by way of a third key.
        pipeline
            .db
            .run(
                "BEGIN; UPDATE t SET a = -1 WHERE a = 1; UPDATE t SET a = 1, b = 'k1' WHERE a = 2;
                 UPDATE t SET a = 2, b = 'k2' WHERE a = -1; COMMIT; UPDATE t SET n = n WHERE a = 3;
                 UPDATE t SET n = 0 WHERE a = 4; DELETE FROM t WHERE a = 5; INSERT INTO t VALUES (5, 'k5', 50)",
            )
            .await;
        pipeline.catch_up(&mut followers).await;
        assert_eq!(followers[0].ops(10), "dcdcdcuudc");
        let deleted = &followers[0].rows[10];
        assert_eq!(deleted.values, texts(&[Some("1"), Some("k1"), None]));
        pipeline.assert_same(&followers[0], "t").await;
        pipeline.close().await;
    }
}

#[tokio::test]
async fn large_values_that_do_not_change_are_never_lost() {
    for version in VERSIONS {
        let sql = format!(
            "{LARGE} CREATE TABLE t (id int PRIMARY KEY, n int, big text, list int[]);
             ALTER TABLE t ALTER big SET STORAGE EXTERNAL, ALTER list SET STORAGE EXTERNAL;
             INSERT INTO t SELECT g, g, large(g), ARRAY(SELECT generate_series(1, 2000)) FROM generate_series(1, 20) g;
             CREATE TABLE whole (LIKE t INCLUDING ALL); ALTER TABLE whole REPLICA IDENTITY FULL; INSERT INTO whole SELECT * FROM t;
             CREATE TABLE bare (LIKE t INCLUDING STORAGE); ALTER TABLE bare REPLICA IDENTITY FULL; INSERT INTO bare SELECT * FROM t;
             CREATE TABLE part (LIKE t INCLUDING ALL); INSERT INTO part SELECT * FROM t"
        );
        let mut pipeline = Pipeline::new(version, "toast", &sql).await;
        let mut followers = pipeline
            .begin(&[
                ("t", json!({})),
                ("whole", json!({})),
                ("bare", json!({})),
                ("part", json!({"filter": "n > 5"})),
            ])
            .await;
        assert_eq!(followers[1].stream.key, ["id"]);
        assert!(followers[2].stream.key.is_empty());
        let before: Vec<usize> = followers.iter().map(|follower| follower.rows.len()).collect();
        for table in ["t", "whole", "bare", "part"] {
            pipeline
                .db
                .run(&format!(
                    "UPDATE {table} SET n = -1 WHERE id = 1; UPDATE {table} SET id = 100 + id WHERE id IN (2, 3);
                     UPDATE {table} SET id = 200, big = 'small' WHERE id = 4; UPDATE {table} SET id = 300 WHERE id = 5;
                     DELETE FROM {table} WHERE id = 300; UPDATE {table} SET n = 100 WHERE id = 102;
                     UPDATE {table} SET n = 0 WHERE id = 10; UPDATE {table} SET n = 9 WHERE id = 103"
                ))
                .await;
        }
        pipeline.catch_up(&mut followers).await;
        let [t, whole, bare, part] = followers.as_slice() else { panic!() };
        assert_eq!(t.ops(before[0]), "udcdcdcdcduuu");
        assert_eq!(t.rows[before[0]].unchanged, ["big", "list"]);
        // What was looked up is there; of a row that is gone nothing is, and it says so.
        assert!(t.rows[before[0] + 2].unchanged.is_empty() && t.rows[before[0] + 2].values[2].is_some());
        assert_eq!(t.rows[before[0] + 8].unchanged, ["big", "list"]);
        assert!(whole.rows.iter().chain(&bare.rows).all(|row| row.unchanged.is_empty()));
        assert_eq!(bare.ops(before[2]), "dcdcdcdcdcddcdcdc");
        for (follower, table) in [(t, "t"), (whole, "whole"), (bare, "bare"), (part, "part WHERE n > 5")] {
            pipeline.assert_same(follower, table).await;
        }
        pipeline.close().await;
    }
}

#[tokio::test]
async fn a_table_without_a_key_is_a_multiset() {
    for version in VERSIONS {
        let sql = "CREATE TABLE t (a int, b text); ALTER TABLE t REPLICA IDENTITY FULL;
            INSERT INTO t SELECT g % 3, NULLIF('x' || g % 2, 'x0') FROM generate_series(1, 12) g";
        let mut pipeline = Pipeline::new(version, "multiset", sql).await;
        let mut followers = pipeline.begin(&[("t", json!({}))]).await;
        pipeline
            .db
            .run(
                "DELETE FROM t WHERE ctid = (SELECT min(ctid) FROM t WHERE a = 1); INSERT INTO t VALUES (1, 'x1'), (1, 'x1');
                 UPDATE t SET b = 'y' WHERE a = 2; UPDATE t SET a = a",
            )
            .await;
        pipeline.catch_up(&mut followers).await;
        pipeline.assert_same(&followers[0], "t").await;
        pipeline.close().await;
    }
}

#[tokio::test]
async fn a_truncate_stands_at_its_place() {
    for version in VERSIONS {
        let sql = "CREATE TABLE t (id int PRIMARY KEY, n int NOT NULL); INSERT INTO t VALUES (1, 1), (2, 2)";
        let mut pipeline = Pipeline::new(version, "truncate", sql).await;
        let mut followers = pipeline.begin(&[("t", json!({}))]).await;
        pipeline
            .db
            .run(
                "BEGIN; INSERT INTO t VALUES (3, 3); TRUNCATE t; INSERT INTO t VALUES (4, 4), (1, 5); COMMIT;
                 BEGIN; INSERT INTO t VALUES (9, 9); TRUNCATE t; ROLLBACK",
            )
            .await;
        pipeline.catch_up(&mut followers).await;
        assert_eq!(followers[0].ops(2), "ctcc");
        assert_eq!(followers[0].rows[3].values, texts(&[None, None]));
        pipeline.assert_same(&followers[0], "t").await;
        pipeline.close().await;
    }
}

#[tokio::test]
async fn filters_keep_what_passes_and_let_go_of_what_no_longer_does() {
    for version in VERSIONS {
        let sql = format!(
            "{LARGE} CREATE TYPE mood AS ENUM ('sad', 'ok');
             CREATE TABLE t (id int PRIMARY KEY, n numeric(12, 3), at timestamptz, e mood, c char(5), big text, f float4);
             ALTER TABLE t ALTER big SET STORAGE EXTERNAL;
             INSERT INTO t SELECT g, g, '2024-01-01', 'ok', 'ab', large(g), 0.5 FROM generate_series(1, 10) g;
             CREATE TABLE bare (a int, b int); ALTER TABLE bare REPLICA IDENTITY FULL; INSERT INTO bare SELECT g, g FROM generate_series(1, 10) g"
        );
        let mut pipeline = Pipeline::new(version, "filters", &sql).await;
        let filter = "(n >= 5 OR n IS NULL) AND NOT at < '2024-01-01 00:00+00' AND e = 'ok' AND c IN ('ab', 'x') AND f < 0.75 \
                      AND big LIKE '%' AND big <> 'never'";
        let mut followers = pipeline
            .begin(&[
                ("t", json!({"filter": filter, "columns": {"exclude": ["at"]}})),
                ("bare", json!({"filter": "b > 5"})),
            ])
            .await;
        let before = followers[0].rows.len();
        assert_eq!(before, 6);
        pipeline
            .db
            .run(
                "INSERT INTO t VALUES (20, 1, now(), 'ok', 'ab', 'x', 0.25), (21, 7.5, now(), 'ok', 'x', 'x', 0.25), (22, NULL, now(), 'ok', 'x', 'x', 0.25);
                 UPDATE t SET n = 4.99 WHERE id = 6; UPDATE t SET n = 5.00 WHERE id = 1; UPDATE t SET at = '2023-12-31 23:59:59+00' WHERE id = 7;
                 UPDATE t SET e = NULL WHERE id = 8; UPDATE t SET c = 'abc' WHERE id = 9; UPDATE t SET f = 0.75 WHERE id = 10;
                 UPDATE t SET f = 0.7 WHERE id = 10; UPDATE t SET id = 50 WHERE id = 21; UPDATE t SET id = 51, n = 0 WHERE id = 50;
                 UPDATE bare SET b = 0 WHERE a = 6; UPDATE bare SET b = 60 WHERE a = 1; DELETE FROM bare WHERE a IN (2, 7); INSERT INTO bare VALUES (1, 1), (2, 20)",
            )
            .await;
        pipeline.catch_up(&mut followers).await;
        assert_eq!(followers[0].ops(before), "ccduddddudcd");
        pipeline.assert_same(&followers[0], &format!("t WHERE {filter}")).await;
        pipeline.assert_same(&followers[1], "bare WHERE b > 5").await;
        pipeline.close().await;
    }
}

#[tokio::test]
async fn partitions_are_their_root_and_children_are_themselves() {
    for version in VERSIONS {
        let sql = "CREATE TABLE t (id int, region text, n int, PRIMARY KEY (id, region)) PARTITION BY LIST (region);
            CREATE TABLE t_eu PARTITION OF t FOR VALUES IN ('eu');
            CREATE TABLE t_rest (region text, n int, gone int, id int NOT NULL, PRIMARY KEY (id, region)) PARTITION BY RANGE (id);
            ALTER TABLE t_rest DROP gone, ALTER region SET NOT NULL; ALTER TABLE t ATTACH PARTITION t_rest DEFAULT;
            CREATE TABLE t_rest_1 PARTITION OF t_rest FOR VALUES FROM (0) TO (100);
            INSERT INTO t SELECT g, CASE WHEN g % 2 = 0 THEN 'eu' ELSE 'us' END, g FROM generate_series(1, 20) g;
            CREATE TABLE parent (id int PRIMARY KEY); CREATE TABLE child (PRIMARY KEY (id)) INHERITS (parent);
            INSERT INTO parent VALUES (1); INSERT INTO child VALUES (2)";
        let mut pipeline = Pipeline::new(version, "parts", sql).await;
        let mut followers =
            pipeline.begin(&[("t", json!({})), ("parent", json!({})), ("child", json!({}))]).await;
        pipeline
            .db
            .run(
                "UPDATE t SET region = 'us' WHERE id = 2; UPDATE t SET region = 'eu', n = 0 WHERE id = 3; UPDATE t SET n = 5 WHERE id = 4;
                 DELETE FROM t WHERE id = 5; INSERT INTO t VALUES (30, 'eu', 1);
                 CREATE TABLE t_rest_2 PARTITION OF t_rest FOR VALUES FROM (100) TO (200); INSERT INTO t VALUES (150, 'asia', 1);
                 GRANT SELECT ON t_rest_2 TO PUBLIC; UPDATE t SET n = 2 WHERE id = 150;
                 INSERT INTO child VALUES (3); UPDATE parent SET id = id + 10",
            )
            .await;
        pipeline.catch_up(&mut followers).await;
        for (follower, table) in followers.iter().zip(["t", "ONLY parent", "child"]) {
            pipeline.assert_same(follower, table).await;
        }
        // Emptying one partition keeps its rows; emptying all of it does not.
        let rows = followers[0].latest().len();
        pipeline.db.run("TRUNCATE t_eu").await;
        pipeline.catch_up(&mut followers).await;
        assert_eq!(followers[0].latest().len(), rows);
        pipeline.db.run("TRUNCATE t; INSERT INTO t VALUES (1, 'eu', 1)").await;
        pipeline.catch_up(&mut followers).await;
        pipeline.assert_same(&followers[0], "t").await;
        // Partitions that came with rows of their own.
        pipeline
            .db
            .run(
                "CREATE TABLE filled (id int NOT NULL, region text NOT NULL, n int); INSERT INTO filled VALUES (250, 'asia', 1);
                 ALTER TABLE t_rest ATTACH PARTITION filled FOR VALUES FROM (200) TO (300); INSERT INTO t VALUES (251, 'asia', 2)",
            )
            .await;
        // Known to the catalog when the reading begins: the engine compares partitions by its own record.
        let error = attached_while_reading(&mut pipeline, &mut followers).await;
        assert!(error.contains("attached"), "{error}");
        pipeline.close().await;
    }
}

/// Attaches a table with rows while the log is read, and says what the reader says.
async fn attached_while_reading(pipeline: &mut Pipeline, followers: &mut [Follower]) -> String {
    use futures::StreamExt;
    let mut events =
        pipeline.read_with(pipeline.request(followers, lakeward_core::Until::Forever)).await.unwrap();
    pipeline
        .db
        .run(
            "CREATE TABLE more (id int NOT NULL, region text NOT NULL, n int); INSERT INTO more VALUES (350, 'asia', 1);
             ALTER TABLE t_rest ATTACH PARTITION more FOR VALUES FROM (300) TO (400); INSERT INTO t VALUES (351, 'asia', 2)",
        )
        .await;
    loop {
        match super::support::within(events.next()).await.expect("it goes on").unwrap() {
            lakeward_core::ChangeEvent::Changed { what, .. } => return what,
            _ => continue,
        }
    }
}

#[tokio::test]
async fn filters_by_what_the_log_does_not_have_are_refused() {
    for version in VERSIONS {
        let sql = "CREATE TABLE t (id int PRIMARY KEY, n int, twice int GENERATED ALWAYS AS (n * 2) STORED, doc json);
            INSERT INTO t VALUES (1, 1), (2, 2)";
        let mut pipeline = Pipeline::new(version, "unfiltered", sql).await;
        let mut followers = pipeline.begin(&[("t", json!({"filter": "twice > 2"}))]).await;
        pipeline.db.run("INSERT INTO t VALUES (3, 0), (4, 4); UPDATE t SET n = 0 WHERE id = 2").await;
        match pipeline.try_catch_up(&mut followers).await {
            Ok(_) => {
                assert!(version >= 18);
                assert_eq!(followers[0].ops(1), "cd");
            }
            Err(error) => assert!(version < 18 && error.to_string().contains("twice"), "{error}"),
        }
        pipeline.close().await;
    }
}
