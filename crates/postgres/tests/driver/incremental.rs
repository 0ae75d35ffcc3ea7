//! Passes by a cursor.

use lakeward_core::{CursorState, DriverInterface, ErrorKind, IncrementalPass};
use serde_json::{Value, json};

use crate::support::{Database, VERSIONS, configured, context, rows};

struct Seen {
    ids: Vec<String>,
    window: Vec<String>,
    max: Option<CursorState>,
}

/// Reads one pass under a session of its own.
async fn pass(db: &Database, table: &str, selection: &Value, since: Option<&str>) -> Seen {
    let driver = db.driver();
    let stream = configured(&driver, table, selection.clone()).await;
    let session = driver.begin_backfill(&stream).await.unwrap();
    let incremental = driver.incremental().unwrap();
    let max = incremental.fetch_max_cursor_values(&stream, &session, None).await.unwrap();
    let column = stream.cursor.as_ref().unwrap().primary.clone();
    let since = since.map(|value| CursorState { column, value: value.to_owned() });
    let pass = IncrementalPass { since, until: max.clone() };
    let batches =
        incremental.stream_incremental_changes(stream.clone(), &session, pass, context()).await.unwrap();
    let mut read = rows(batches).await.unwrap();
    read.sort_by_key(|(values, _)| values[0].parse::<i64>().unwrap());
    driver.end_backfill(session).await;
    let ids = read.iter().map(|(values, _)| values[0].clone()).collect();
    let window = read
        .iter()
        .filter(|(_, window)| window.expect("every row says whether it is in the window"))
        .map(|(values, _)| values[0].clone())
        .collect();
    Seen { ids, window, max }
}

#[tokio::test]
async fn look_back_fallback_and_nulls() {
    for version in VERSIONS {
        let db = Database::create(version, "passes").await;
        db.run(
            "CREATE TABLE t (id int PRIMARY KEY, updated timestamptz, created timestamptz);
             INSERT INTO t VALUES (1, '2024-01-01 00:00Z', NULL), (2, NULL, '2024-01-01 01:00Z'),
               (3, '2024-01-01 02:00Z', '2023-01-01'), (4, NULL, NULL), (5, '2024-01-01 02:05Z', NULL)",
        )
        .await;
        let selection = json!({"sync_mode": "incremental", "cursor_field": "updated:created"});
        let all = pass(&db, "t", &selection, None).await;
        assert_eq!(all.ids, ["1", "2", "3", "4", "5"]);
        assert_eq!(all.window, ["3", "4", "5"]);
        assert_eq!(all.max.unwrap().value, "2024-01-01 02:05:00+00");
        let next = pass(&db, "t", &selection, Some("2024-01-01 01:09:59+00")).await;
        assert_eq!(next.ids, ["2", "3", "4", "5"]);
        let skip = json!({"sync_mode": "incremental", "cursor_field": "updated:created", "null_cursor": "skip",
                          "cursor_lookback": "0", "filter": "id < 5"});
        let next = pass(&db, "t", &skip, Some("2024-01-01 01:00:00+00")).await;
        assert_eq!((next.ids, next.window), (vec!["2".into(), "3".into()], vec!["3".to_owned()]));
        assert_eq!(pass(&db, "t", &skip, None).await.ids, ["1", "2", "3"]);
        db.run("DELETE FROM t WHERE id <> 4").await;
        let nulls = pass(&db, "t", &selection, None).await;
        assert_eq!((nulls.ids, nulls.max), (vec!["4".to_owned()], None));
        assert_eq!(nulls.window, ["4"]);
    }
}

#[tokio::test]
async fn every_cursor_type_begins_again_where_it_ended() {
    for version in VERSIONS {
        let db = Database::create(version, "cursors").await;
        db.run("CREATE DOMAIN stamp AS timestamp(3)").await;
        for (column_type, values, lookback, expected) in [
            ("int2", ["-32768", "-32767", "-32760"], Some("100"), vec!["1", "2", "3"]),
            ("int8", ["1", "9223372036854775806", "9223372036854775807"], Some("1"), vec!["2", "3"]),
            ("numeric", ["1", "1.0000000000000000000001", "1.0000000000000000000002"], None, vec!["3"]),
            ("numeric(10,2)", ["1", "2.25", "12.25"], Some("10"), vec!["2", "3"]),
            ("date", ["2024-01-01", "2024-01-02", "2024-01-03"], Some("1d"), vec!["2", "3"]),
            (
                "timestamp",
                ["2024-01-01", "2024-01-01 00:00:00.000001", "2024-01-01 00:00:00.000002"],
                Some("1us"),
                vec!["2", "3"],
            ),
            ("stamp", ["2024-01-01", "2024-01-02", "2024-01-03"], Some("0"), vec!["3"]),
            ("varchar(30)", ["a", "b", "it''s \\ z"], None, vec!["3"]),
        ] {
            db.run(&format!(
                "DROP TABLE IF EXISTS c; CREATE TABLE c (id int PRIMARY KEY, k {column_type});
                 INSERT INTO c VALUES (1, '{}'), (2, '{}'), (3, '{}')",
                values[0], values[1], values[2]
            ))
            .await;
            let mut selection = json!({"sync_mode": "incremental", "cursor_field": "k"});
            if let Some(lookback) = lookback {
                selection["cursor_lookback"] = json!(lookback);
            }
            let first = pass(&db, "c", &selection, None).await;
            assert_eq!(first.ids.len(), 3, "{column_type}");
            assert_eq!(first.window, expected, "{column_type}");
            let max = first.max.unwrap();
            assert_eq!(pass(&db, "c", &selection, Some(&max.value)).await.ids, expected, "{column_type}");
        }
    }
}

#[tokio::test]
async fn an_infinite_cursor_is_refused_by_name() {
    for version in VERSIONS {
        let db = Database::create(version, "infinite").await;
        db.run(
            "CREATE TABLE t (id int, k timestamptz, d date, n numeric);
             INSERT INTO t VALUES (1, now(), '2024-01-01', 1), (2, 'infinity', 'infinity', 'NaN'), (3, '-infinity', '-infinity', -1)",
        )
        .await;
        let driver = db.driver();
        for column in ["k", "d", "n"] {
            let selection = json!({"sync_mode": "incremental", "cursor_field": column});
            let stream = configured(&driver, "t", selection).await;
            let session = driver.begin_backfill(&stream).await.unwrap();
            let incremental = driver.incremental().unwrap();
            let error = incremental.fetch_max_cursor_values(&stream, &session, None).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Data);
            assert!(error.to_string().contains(column), "{error}");
            driver.end_backfill(session).await;
        }
    }
}

#[tokio::test]
async fn partitions_are_read_through_their_root_and_children_are_not() {
    for version in VERSIONS {
        let db = Database::create(version, "roots").await;
        db.run(
            "CREATE TABLE root (id int, at timestamp) PARTITION BY RANGE (at);
             CREATE TABLE y23 PARTITION OF root FOR VALUES FROM ('2023-01-01') TO ('2024-01-01');
             CREATE TABLE y24 PARTITION OF root FOR VALUES FROM ('2024-01-01') TO ('2025-01-01');
             INSERT INTO root VALUES (1, '2023-05-01'), (2, '2024-05-01'), (3, '2024-06-01');
             CREATE TABLE parent (id int, at timestamp); CREATE TABLE child () INHERITS (parent);
             INSERT INTO parent VALUES (1, '2024-01-01'); INSERT INTO child VALUES (2, '2024-01-02')",
        )
        .await;
        let selection = json!({"sync_mode": "incremental", "cursor_field": "at"});
        let seen = pass(&db, "root", &selection, Some("2024-01-01 00:00:00")).await;
        assert_eq!((seen.ids, seen.window), (vec!["2".into(), "3".into()], vec!["3".to_owned()]));
        let seen = pass(&db, "parent", &selection, Some("2024-01-01 00:00:00")).await;
        assert_eq!(seen.ids, ["1"]);
        assert_eq!(seen.max.unwrap().value, "2024-01-01 00:00:00");
    }
}
