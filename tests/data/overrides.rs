//! Types that the user chose instead of the default ones.

use lakeward_testkit::reconcile::Options;
use lakeward_testkit::server::Version;
use serde_json::json;

use crate::pipeline::{Pipeline, bad_values};

on_each_version!(
    types_chosen_by_column,
    f15_unconstrained_numerics_of_a_whole_source,
    f15_decimals_that_do_not_fit_follow_the_policy,
);

async fn types_chosen_by_column(version: Version) {
    let sql = "
        CREATE TABLE prices (id int PRIMARY KEY, n numeric, m numeric, x numeric(12,2), i int8, b bool, u uuid, at timestamptz, d date, t time,
            j jsonb, by bytea, f float8, ip inet, l int[], c char(5), o oid);
        INSERT INTO prices (id) VALUES (0);
        INSERT INTO prices SELECT g, g * 1.25, g / 3.0, g / 100.0, 9007199254740992 + g, g % 2 = 0, md5(g::text)::uuid,
            timestamptz '2024-01-01 00:00+00' + g * interval '1.000001 s', date '2024-01-01' + g, time '00:00' + g * interval '1 s',
            jsonb_build_object('g', g), decode(md5(g::text), 'hex'), g / 7.0, '10.0.0.1', ARRAY[g, NULL], 'ab', g FROM generate_series(1, 200) g;
        INSERT INTO prices (id, n, f) VALUES (1000, -9999999999999999.99, '-0'), (1001, 0.10, 'NaN'), (1002, 5, '-Infinity')";
    let text = ["x", "i", "b", "u", "at", "d", "t", "j", "by", "f", "ip", "l", "c", "o"];
    let mut types: serde_json::Map<_, _> =
        text.iter().map(|&name| (name.to_owned(), json!("text"))).collect();
    types.insert("n".to_owned(), json!("decimal(18,2)"));
    types.insert("m".to_owned(), json!("double"));
    let mut sums = Vec::new();
    for format in ["text", "binary"] {
        let pipeline = Pipeline::with(version, json!({ "copy_format": format }), sql).await;
        let output = pipeline.sync_as("prices", json!({ "columns": { "types": types } })).await;
        assert!(bad_values(&output, "public.prices").is_empty());
        let options = Options::full_refresh().compare_as("n", "numeric(18,2)").compare_as("m", "float8");
        let report = pipeline.assert_same("prices", &options).await;
        assert_eq!((report.kinds["n"].as_str(), report.kinds["m"].as_str()), ("DECIMAL(18,2)", "DOUBLE"));
        for name in text {
            assert_eq!(report.kinds[name], "VARCHAR", "{name}");
        }
        sums.push(pipeline.readings("prices").await);
    }
    assert_eq!(sums[0], sums[1], "both formats of COPY give the same bytes");
}

async fn f15_unconstrained_numerics_of_a_whole_source(version: Version) {
    let sql = "CREATE TABLE a (id int PRIMARY KEY, n numeric, l numeric[]); CREATE TABLE b (id int PRIMARY KEY, n numeric, p numeric(9,3));
        INSERT INTO a SELECT g, g / 8.0, ARRAY[g / 4.0, NULL] FROM generate_series(-100, 100) g;
        INSERT INTO b SELECT g, g * 1000.125, g / 1000.0 FROM generate_series(-100, 100) g";
    for (setting, cast, kind) in [
        ("decimal(20,6)", "numeric(20,6)", "DECIMAL(20,6)"),
        ("double", "float8", "DOUBLE"),
        ("text", "text", "VARCHAR"),
    ] {
        let pipeline = Pipeline::with(version, json!({ "unconstrained_numeric": setting }), sql).await;
        pipeline.sync().await;
        let list_cast = format!("{cast}[]");
        let options = Options::full_refresh().compare_as("n", cast);
        let a = pipeline.assert_same("a", &options.clone().compare_as("l", &list_cast)).await;
        let b = pipeline.assert_same("b", &options).await;
        assert_eq!((a.kinds["n"].as_str(), a.kinds["l"].as_str()), (kind, format!("{kind}[]").as_str()));
        assert_eq!((b.kinds["n"].as_str(), b.kinds["p"].as_str()), (kind, "DECIMAL(9,3)"));
    }
}

async fn f15_decimals_that_do_not_fit_follow_the_policy(version: Version) {
    let sql = "CREATE TABLE tight (id int PRIMARY KEY, n numeric); INSERT INTO tight VALUES (1, 12.34), (2, 12.345), (3, 'NaN'), (4, 'Infinity'),
        (5, '-Infinity'), (6, 99999999999), (7, -99999999999), (8, 999.99), (9, 999.994), (10, NULL), (11, 1.5000)";
    for format in ["text", "binary"] {
        let pipeline = Pipeline::with(version, json!({ "copy_format": format }), sql).await;
        let types = json!({ "types": { "n": "decimal(5,2)" } });
        let output = pipeline.sync_as("tight", json!({ "columns": types })).await;
        // Nothing is rounded: what has more digits is a bad value like what is too large.
        assert_eq!(bad_values(&output, "public.tight").get("n"), Some(&7));
        let options = Options::full_refresh().compare_as("n", "numeric");
        let report = pipeline.report("tight", &options).await;
        // 1.5000 is 1.50 at the destination: the same number, fewer zeros.
        assert_eq!((report.missing, report.extra), (1, 1), "{report}");
        let kept = pipeline.ask("tight", "SELECT n FROM log WHERE id IN (1, 8, 11) ORDER BY id").await;
        assert_eq!(
            kept,
            [[Some("12.34".to_owned())], [Some("999.99".to_owned())], [Some("1.50".to_owned())]]
        );
        let rescued = pipeline
            .ask("tight", "SELECT _lw_rescued->>'n' FROM log WHERE id IN (2, 3, 4, 5, 6, 7, 9) ORDER BY id")
            .await;
        let originals = ["12.345", "NaN", "Infinity", "-Infinity", "99999999999", "-99999999999", "999.994"];
        assert_eq!(rescued, originals.map(|text| vec![Some(text.to_owned())]));

        pipeline.choose("tight", json!({ "columns": types, "on_bad_value": "fail" }));
        let output = pipeline.project.sync(&[]).await.unwrap();
        output.assert_code(5);
        assert!(output.stderr.contains("column n") && !output.stderr.contains("12.345"), "{}", output.stderr);
        // The generation before stands.
        assert_eq!(pipeline.rows("tight").await, 11);
    }
}
