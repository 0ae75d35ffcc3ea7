//! Values that no column holds: the declared policy, the original kept, every use counted, and never a value in
//! a message.

use std::collections::BTreeMap;

use lakeward_testkit::reconcile::Options;
use lakeward_testkit::server::Version;
use serde_json::{Value, json};

use crate::pipeline::{Pipeline, bad_values};

on_each_version!(
    f16_bad_values_are_clamped_and_rescued,
    f16_bad_values_become_null_and_are_rescued,
    f16_bad_values_fail_where_the_policy_says_so,
    f16_keys_cursors_and_partitions_always_fail,
    f16_the_override_text_takes_everything,
    f16_bad_values_in_a_later_incremental_pass,
);

/// A row of good values, then bad ones.
const BAD: &str = "
    CREATE TABLE bad (id int PRIMARY KEY, d date, ts timestamp, tz timestamptz, t time, n numeric(6,2), wide numeric(30,2),
        da date[], tza timestamptz[], ta time[], na numeric(4,1)[], grid int[], shifted text[], \"odd \"\"/~name\" date);
    INSERT INTO bad VALUES (1, '2024-01-01', '2024-01-01 01:02:03', '2024-01-01 01:02:03+00', '01:02:03', 1.50, 2.50,
        '{2024-01-01,NULL}', '{\"2024-01-01 00:00+00\"}', '{00:00}', '{1.5,NULL}', '{1,2}', '{a,b}', '2024-01-01');
    INSERT INTO bad (id) VALUES (0);
    INSERT INTO bad (id, d, ts, tz, t, n, wide) VALUES
        (10, 'infinity', 'infinity', 'infinity', '24:00', 'NaN', 'NaN'),
        (11, '-infinity', '-infinity', '-infinity', '24:00', 'NaN', 'NaN'),
        (12, '0044-03-15 BC', '0044-03-15 01:02:03.4 BC', '0044-03-15 01:02:03.4+00 BC', '24:00', 'NaN', 'NaN'),
        (13, '0001-12-31 BC', '0001-12-31 23:59:59.999999 BC', '0001-12-31 23:59:59.999999+00 BC', NULL, 0, 0),
        (14, '10000-01-01', '10000-01-01 00:00', '10000-01-01 00:00+00', NULL, 0, 0),
        (15, '5874897-12-31', '294276-12-31 23:59:59.999999', '294276-12-31 23:59:59.999999+00', NULL, 0, 0),
        (16, '4713-01-01 BC', '4713-01-01 00:00 BC', '4713-01-01 00:00+00 BC', NULL, 0, 0);
    INSERT INTO bad (id, da, tza, ta, na, grid, shifted) VALUES
        (20, '{2024-01-01,infinity,NULL,-infinity,0044-03-15 BC,12024-01-01}',
         '{\"2024-01-01 00:00+00\",infinity,-infinity,\"12024-01-01 00:00+00\"}', '{24:00,12:00}', '{NaN,1.5,NULL}', '{{1,2},{3,4}}', '[0:1]={a,b}'),
        (21, '[2:3]={2024-01-01,2024-01-02}', '{{infinity}}', '{{24:00}}', '{{NaN}}', '[0:0]={7}', '{{\"a,b\",\"\\\"q\\\"\"},{c,NULL}}');
    INSERT INTO bad (id, \"odd \"\"/~name\") VALUES (30, 'infinity');";

/// How many values of each column no column of the lake holds.
fn expected_counts() -> BTreeMap<String, u64> {
    let counts = [
        ("d", 7),
        ("ts", 7),
        ("tz", 7),
        ("t", 3),
        ("n", 3),
        ("wide", 3),
        ("da", 2),
        ("tza", 2),
        ("ta", 2),
        ("na", 2),
        ("grid", 2),
        ("shifted", 2),
        ("odd \"/~name", 1),
    ];
    counts.into_iter().map(|(name, count)| (name.to_owned(), count)).collect()
}

async fn f16_bad_values_are_clamped_and_rescued(version: Version) {
    let mut seen = Vec::new();
    for format in ["text", "binary"] {
        let pipeline = Pipeline::with(version, json!({ "copy_format": format }), BAD).await;
        let output = pipeline.sync().await;
        // The comparison takes what was rescued, so this proves that each original is kept exactly.
        pipeline.assert_same("bad", &Options::full_refresh()).await;
        assert_eq!(bad_values(&output, "public.bad"), expected_counts());

        let (low, high) = ("0001-01-01", "9999-12-31");
        let dates = pipeline
            .ask("bad", "SELECT id, d, ts, tz, t, n FROM log WHERE id BETWEEN 10 AND 16 ORDER BY id")
            .await;
        for row in dates {
            let id: u32 = row[0].as_deref().unwrap().parse().unwrap();
            let is_high = [10, 14, 15].contains(&id);
            let (day, time) = if is_high { (high, "23:59:59.999999") } else { (low, "00:00:00") };
            assert_eq!(row[1].as_deref(), Some(day), "{id}");
            assert_eq!(row[2], Some(format!("{day} {time}")), "{id}");
            assert_eq!(row[3], Some(format!("{day} {time}+00")), "{id}");
            if id <= 12 {
                assert_eq!(row[4].as_deref(), Some("23:59:59.999999"), "{id}");
                assert_eq!(row[5], None, "{id}: NaN has no nearest decimal");
            }
        }
        let lists = pipeline
            .ask("bad", "SELECT da, tza, ta, na, grid, shifted FROM log WHERE id IN (20, 21) ORDER BY id")
            .await;
        assert_eq!(
            lists[0][0].as_deref(),
            Some("[2024-01-01, 9999-12-31, NULL, 0001-01-01, 0001-01-01, 9999-12-31]")
        );
        let expected = "['2024-01-01 00:00:00+00', '9999-12-31 23:59:59.999999+00', '0001-01-01 00:00:00+00', '9999-12-31 23:59:59.999999+00']";
        assert_eq!(lists[0][1].as_deref(), Some(expected));
        assert_eq!(lists[0][2].as_deref(), Some("['23:59:59.999999', '12:00:00']"));
        assert_eq!(lists[0][3].as_deref(), Some("[NULL, 1.5, NULL]"));
        assert_eq!(lists[0][4..], [None, None], "what is no list has no nearest list");
        assert_eq!(lists[1], vec![None; 6]);
        let rescued = pipeline.ask("bad", "SELECT _lw_rescued FROM log WHERE id IN (0, 1)").await;
        assert_eq!(rescued, vec![vec![None]; 2], "good values rescue nothing");
        let rescued = pipeline.ask_one("bad", "SELECT _lw_rescued FROM log WHERE id = 10").await.unwrap();
        let infinity = "infinity";
        let originals = json!({ "d": infinity, "ts": infinity, "tz": infinity, "t": "24:00:00", "n": "NaN", "wide": "NaN" });
        assert_eq!(serde_json::from_str::<Value>(&rescued).unwrap(), originals);
        let (rows, sums) = pipeline.readings("bad").await;
        assert_eq!(rows, 12);
        seen.push(sums);
    }
    assert_eq!(seen[0], seen[1], "both formats of COPY give the same bytes");
}

async fn f16_bad_values_become_null_and_are_rescued(version: Version) {
    for format in ["text", "binary"] {
        let pipeline = Pipeline::with(version, json!({ "copy_format": format }), BAD).await;
        let output = pipeline.sync_as("bad", json!({ "on_bad_value": "null" })).await;
        pipeline.assert_same("bad", &Options::full_refresh()).await;
        assert_eq!(bad_values(&output, "public.bad"), expected_counts());
        let left = "SELECT count(*) FROM log WHERE id BETWEEN 10 AND 12 AND NOT (d IS NULL AND ts IS NULL AND tz IS NULL AND t IS NULL AND n IS NULL)";
        assert_eq!(pipeline.ask_one("bad", left).await.as_deref(), Some("0"));
        // A list with a bad element: the element alone, or the list, but nothing that was not there.
        let dates = pipeline.ask_one("bad", "SELECT da FROM log WHERE id = 20").await;
        assert!(
            dates.is_none() || dates.as_deref() == Some("[2024-01-01, NULL, NULL, NULL, NULL, NULL]"),
            "{dates:?}"
        );
        pipeline.readings("bad").await;
    }
}

async fn f16_bad_values_fail_where_the_policy_says_so(version: Version) {
    let cases = [
        ("a", "date", "'54321-09-08'", "54321"),
        ("b", "timestamp", "'0087-06-05 04:03:02 BC'", "0087"),
        ("c", "timestamptz", "'infinity'", "infinity"),
        ("d", "time", "'24:00'", "24:00"),
        ("e", "numeric(7,3)", "'NaN'", "NaN"),
        ("f", "date[]", "'{54321-09-08}'", "54321"),
        ("g", "int[]", "'{{86753,90210}}'", "86753"),
    ];
    let tables: String = cases
        .iter()
        .map(|(name, kind, value, _)| {
            format!("CREATE TABLE t_{name} (id int PRIMARY KEY, col_{name} {kind}); INSERT INTO t_{name} VALUES (1, NULL), (2, {value});")
        })
        .collect();
    let good = "CREATE TABLE good (id int); INSERT INTO good VALUES (1)";
    for format in ["text", "binary"] {
        let pipeline =
            Pipeline::with(version, json!({ "copy_format": format }), &format!("{tables}{good}")).await;
        let names: Vec<String> = cases.iter().map(|(name, ..)| format!("t_{name}")).collect();
        let mut names: Vec<&str> = names.iter().map(String::as_str).collect();
        names.push("good");
        pipeline.project.select_only(&names, json!({ "on_bad_value": "fail" })).unwrap();
        let output = pipeline.project.sync(&[]).await.unwrap();
        output.assert_code(5);
        for (name, _, _, value) in cases {
            let failure = output.events.iter().find(|event| {
                event["stream"] == format!("public.t_{name}") && event["event"] == "stream_failed"
            });
            let failure =
                failure.unwrap_or_else(|| panic!("t_{name} did not fail: {}", output.stderr))["error"]
                    .to_string();
            assert!(failure.contains(&format!("col_{name}")), "{failure} names the column");
            assert!(!failure.contains(value), "{failure} holds the value");
            assert!(pipeline.project.visible_files(format!("t_{name}").as_str()).is_empty());
        }
        // One stream that fails does not stop the others.
        pipeline.assert_same("good", &Options::full_refresh()).await;
    }
}

async fn f16_keys_cursors_and_partitions_always_fail(version: Version) {
    let pipeline = Pipeline::new(
        version,
        "CREATE TABLE keyed (k date PRIMARY KEY, v int); INSERT INTO keyed VALUES ('54321-01-01', 1), ('2024-01-01', 2);
         CREATE TABLE cursored (id int PRIMARY KEY, at timestamptz); INSERT INTO cursored VALUES (1, '2024-01-01 00:00+00'), (2, 'infinity');
         CREATE TABLE parted (id int PRIMARY KEY, d date); INSERT INTO parted VALUES (1, '2024-01-01'), (2, '0044-03-15 BC')",
    )
    .await;
    let cases = [
        ("keyed", json!({}), "k"),
        ("cursored", json!({ "sync_mode": "incremental", "cursor_field": "at" }), "at"),
        ("parted", json!({ "partition": ["month(d)"] }), "d"),
        ("parted", json!({ "partition": ["d"] }), "d"),
    ];
    for policy in ["clamp", "null"] {
        for (table, choices, column) in &cases {
            let mut choices = choices.clone();
            choices["on_bad_value"] = json!(policy);
            pipeline.choose(*table, choices);
            let output = pipeline.project.sync(&[]).await.unwrap();
            output.assert_code(5);
            assert!(output.stderr.contains(&format!("column {column}")), "{table}: {}", output.stderr);
            // With their hyphens: the digits alone may be those of a moment.
            assert!(
                !output.stderr.contains("54321-") && !output.stderr.contains("0044-"),
                "{}",
                output.stderr
            );
            assert!(pipeline.project.visible_files(*table).is_empty(), "{table}");
        }
    }
    // The remedy that the message names.
    pipeline.sync_as("keyed", json!({ "columns": { "types": { "k": "text" } } })).await;
    pipeline.assert_same("keyed", &Options::full_refresh()).await;
    assert_eq!(pipeline.ask_one("keyed", "SELECT max(k) FROM log").await.as_deref(), Some("54321-01-01"));
}

async fn f16_the_override_text_takes_everything(version: Version) {
    let types: BTreeMap<&str, &str> =
        ["d", "ts", "tz", "t", "n", "wide", "da", "tza", "ta", "na", "grid", "shifted", "odd \"/~name"]
            .map(|name| (name, "text"))
            .into();
    for format in ["text", "binary"] {
        let pipeline = Pipeline::with(version, json!({ "copy_format": format }), BAD).await;
        let output =
            pipeline.sync_as("bad", json!({ "columns": { "types": types }, "on_bad_value": "fail" })).await;
        assert!(bad_values(&output, "public.bad").is_empty());
        let report = pipeline.assert_same("bad", &Options::full_refresh()).await;
        assert!(
            report.kinds.iter().all(|(name, kind)| name == "id" || kind == "VARCHAR"),
            "{:?}",
            report.kinds
        );
        assert_eq!(pipeline.ask_one("bad", "SELECT count(_lw_rescued) FROM log").await.as_deref(), Some("0"));
    }
}

async fn f16_bad_values_in_a_later_incremental_pass(version: Version) {
    let pipeline = Pipeline::new(
        version,
        "CREATE TABLE feed (id int PRIMARY KEY, seq int, d date); INSERT INTO feed VALUES (1, 1, '2024-01-01'), (2, 2, 'infinity')",
    )
    .await;
    let choices = json!({ "sync_mode": "incremental", "cursor_field": "seq", "cursor_lookback": "5" });
    let output = pipeline.sync_as("feed", choices).await;
    assert_eq!(bad_values(&output, "public.feed"), BTreeMap::from([("d".to_owned(), 1)]));
    pipeline
        .sql("INSERT INTO feed VALUES (3, 3, '-infinity'); UPDATE feed SET d = '10000-01-01' WHERE id = 2")
        .await;
    pipeline.sync().await;
    pipeline.assert_same("feed", &Options::incremental()).await;
    // Both clamp to one day: only what was rescued tells the two versions of row 2 apart.
    let versions =
        pipeline.ask("feed", "SELECT _lw_rescued->>'d' FROM log WHERE id = 2 ORDER BY _lw_seq").await;
    assert_eq!(versions, [[Some("infinity".to_owned())], [Some("10000-01-01".to_owned())]]);
    pipeline.sync().await;
    assert_eq!(pipeline.rows("feed").await, 4);
}
