//! What the role, the database and the server have set changes neither rows nor bytes.

use lakeward_testkit::lakeward::Project;
use lakeward_testkit::reconcile::{Options, reconcile};
use lakeward_testkit::server::{TestDatabase, Version};
use serde_json::{Value, json};

use crate::pipeline::{PROGRAM, Pipeline, database};

on_each_version!(
    f54_settings_of_the_role_change_nothing,
    f54_settings_of_the_role_change_nothing_in_the_log,
    f54_row_level_security_is_an_error_and_not_fewer_rows,
    f55_time_limits_of_the_role_do_not_end_a_backfill
);

/// A role of this database alone, which may read everything in it.
async fn reader(db: &TestDatabase) -> String {
    let role = format!("{}_reader", db.name());
    db.execute(&format!(
        "CREATE ROLE {role} LOGIN PASSWORD 'reader'; GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}"
    ))
    .await
    .unwrap();
    role
}

async fn drop_role(db: &TestDatabase, role: &str) {
    db.execute(&format!("DROP OWNED BY {role}; DROP ROLE {role}")).await.unwrap();
}

fn as_role(db: &TestDatabase, role: &str) -> Value {
    db.source_config(json!({ "username": role, "password": "reader" }))
}

/// Values whose text a setting may alter.
const TABLE: &str = "CREATE TYPE pair AS (at timestamptz, m money, f float8);
         CREATE TABLE settings (id int PRIMARY KEY, d date, ts timestamp, tz timestamptz, iv interval, f4 float4, f8 float8, by bytea, m money, t text,
            comp pair, tza timestamptz[], fa float8[], r tstzrange, c regclass, l text[]);
         INSERT INTO settings VALUES (1, '2024-02-03', '2024-02-03 04:05:06.7', '2024-02-03 04:05:06.7+00', '1 year 2 days 03:04:05.6', 0.1, 1 / 3.0::float8, '\\x00ff5c',
            1234.56, 'é💧', ROW('2024-02-03 04:05+00', 7.5, 1 / 3.0::float8), '{2024-02-03 04:05+00,NULL}', '{0.1,0.30000000000000004}',
            '[2024-02-03 04:05+00,)', 'settings', '{NULL,\"NULL\"}'),
            (2, '1999-12-31', '1999-12-31 23:59', '1999-12-31 23:59+00', '-1 mon', 1e-30, 1e300, '\\x5c5c', -0.01, 'plain', NULL, '{}', '{}', 'empty', 'pg_class', '{}'),
            (3, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, E'tab\\t', NULL, NULL, NULL, NULL, NULL, NULL)";

/// Settings each of which alters what some value looks like, or what a query finds.
const HOSTILE: [&str; 19] = [
    "DateStyle = 'German, DMY'",
    "IntervalStyle = iso_8601",
    "TimeZone = 'Asia/Kathmandu'",
    "extra_float_digits = -15",
    "bytea_output = escape",
    "lc_monetary = 'C.UTF-8'",
    "search_path = evil, public",
    "client_encoding = LATIN1",
    "standard_conforming_strings = off",
    "row_security = on",
    "array_nulls = off",
    "quote_all_identifiers = on",
    "default_transaction_isolation = 'serializable'",
    "xmlbinary = hex",
    "backslash_quote = off",
    "enable_seqscan = off",
    "lc_messages = 'C'",
    "check_function_bodies = off",
    "transform_null_equals = on",
];

/// Sets all of them for a role, and makes names that shadow what a query without a schema would find.
async fn make_hostile(db: &TestDatabase, role: &str) {
    for setting in HOSTILE {
        db.execute(&format!("ALTER ROLE {role} SET {setting}")).await.unwrap();
    }
    db.execute(&format!(
        "CREATE SCHEMA evil; GRANT USAGE ON SCHEMA evil TO {role};
         CREATE FUNCTION evil.format(text, VARIADIC \"any\") RETURNS text LANGUAGE internal AS 'text_format';
         CREATE TABLE evil.settings (id int PRIMARY KEY); CREATE TABLE evil.pg_class (oid oid, relname name); CREATE VIEW evil.pg_attribute AS SELECT 1 AS attnum;
         CREATE FUNCTION evil.count(bigint) RETURNS bigint LANGUAGE sql AS 'SELECT 0::bigint'"
    ))
    .await
    .unwrap();
}

/// With quotes and a backslash.
const FILTER: &str = "t <> 'a\\b'''";

async fn f54_settings_of_the_role_change_nothing(version: Version) {
    let db = database(version, TABLE).await;
    let role = reader(&db).await;
    make_hostile(&db, &role).await;
    let mut sums = Vec::new();
    for (config, format) in [("plain", "text"), ("plain", "binary"), ("role", "text"), ("role", "binary")] {
        let mut source = if config == "role" { as_role(&db, &role) } else { db.source_config(json!({})) };
        source["copy_format"] = json!(format);
        source["schemas"] = json!(["public"]);
        let project = Project::new(PROGRAM, &source).unwrap();
        project.discover().await.unwrap().assert_ok();
        project.select_only(&["settings"], json!({ "filter": FILTER })).unwrap();
        project.sync(&[]).await.unwrap().assert_ok();
        let options = Options::full_refresh().filter(FILTER);
        reconcile(&db, &project.lake(), "settings", &options).await.unwrap().assert_same();
        let pipeline = Pipeline { db: TestDatabase::existing(db.server(), db.name()), project };
        sums.push(pipeline.readings("settings").await);
    }
    assert!(sums.windows(2).all(|pair| pair[0] == pair[1]));
    assert_eq!(sums[0].0, 3);
    drop_role(&db, &role).await;
}

async fn f54_settings_of_the_role_change_nothing_in_the_log(version: Version) {
    let db = database(version, TABLE).await;
    // Lists that a new key leaves where they are, out of line: they are looked up.
    db.execute(
        "ALTER TABLE settings ALTER tza SET STORAGE EXTERNAL, ALTER fa SET STORAGE EXTERNAL;
         INSERT INTO settings (id, t, tza, fa) SELECT 4, 'lists', array_agg('2024-02-03 04:05:06.7+00'::timestamptz + g * interval '1 hour'), array_agg(g / 3.0::float8)
         FROM generate_series(1, 900) g",
    )
    .await
    .unwrap();
    let role = reader(&db).await;
    db.execute(&format!(
        "ALTER ROLE {role} REPLICATION; GRANT CREATE ON DATABASE \"{}\" TO {role}; ALTER TABLE settings OWNER TO {role}",
        db.name()
    ))
    .await
    .unwrap();
    make_hostile(&db, &role).await;
    let mut source = as_role(&db, &role);
    source["schemas"] = json!(["public"]);
    let project = Project::new(PROGRAM, &source).unwrap();
    project.discover().await.unwrap().assert_ok();
    project.select_only(&["settings"], json!({ "sync_mode": "cdc", "filter": FILTER })).unwrap();
    project.sync(&[]).await.unwrap().assert_ok();
    for sql in [
        // The rows that were read, once more as changes.
        "CREATE TEMP TABLE more AS SELECT * FROM settings; UPDATE more SET id = id + 10; INSERT INTO settings SELECT * FROM more;
         INSERT INTO settings (id, t) VALUES (30, 'a\\b'''), (31, 'kept')",
        "UPDATE settings SET id = id + 100 WHERE id IN (1, 4, 14); UPDATE settings SET t = 'a\\b''' WHERE id = 31; UPDATE settings SET t = 'back' WHERE id = 30;
         UPDATE settings SET d = d + 1, ts = ts + interval '1.25 s', tz = tz - interval '1 year', iv = iv * 2, f4 = f4 / 3, f8 = f8 / 7, by = by || '\\x5c27', m = m * 3,
             comp = ROW(tz, m, f8), l = l || '{x}' WHERE id IN (2, 101);
         DELETE FROM settings WHERE id = 3",
    ] {
        db.execute(sql).await.unwrap();
        project.sync(&[]).await.unwrap().assert_ok();
        let options = Options::cdc().filter(FILTER);
        let report = reconcile(&db, &project.lake(), "settings", &options).await.unwrap();
        report.assert_same();
        assert!(report.rows_source >= 8, "{report}");
    }
    project.run(&["verify"]).await.unwrap().assert_ok();
    project.run(&["clear", "--all", "--yes"]).await.unwrap().assert_ok();
    drop_role(&db, &role).await;
}

async fn f54_row_level_security_is_an_error_and_not_fewer_rows(version: Version) {
    let db = database(
        version,
        "CREATE TABLE guarded (id int PRIMARY KEY, owner text); INSERT INTO guarded SELECT g, CASE WHEN g % 2 = 0 THEN 'a' ELSE 'b' END FROM generate_series(1, 100) g;
         ALTER TABLE guarded ENABLE ROW LEVEL SECURITY; CREATE POLICY half ON guarded USING (owner = 'a'); CREATE TABLE open (id int PRIMARY KEY); INSERT INTO open VALUES (1)",
    )
    .await;
    let role = reader(&db).await;
    let project = Project::new(PROGRAM, &as_role(&db, &role)).unwrap();
    project.discover().await.unwrap().assert_ok();
    for (format, choices) in [
        ("text", json!({})),
        ("binary", json!({})),
        ("text", json!({ "sync_mode": "incremental", "cursor_field": "id" })),
    ] {
        let mut source = as_role(&db, &role);
        source["copy_format"] = json!(format);
        project.write("source.json", &source).unwrap();
        project.select_only(&["guarded"], choices).unwrap();
        let output = project.sync(&[]).await.unwrap();
        output.assert_code(4);
        assert!(output.stderr.contains("guarded") && output.stderr.contains("row"), "{}", output.stderr);
        assert!(project.visible_files("guarded").is_empty());
    }
    let check = project
        .run(&["check", "--config", "source.json", "--streams", "streams.json", "--output", "json"])
        .await
        .unwrap();
    check.assert_code(4);
    assert!(check.stdout.contains("guarded") && check.stdout.contains("BYPASSRLS"), "{}", check.stdout);

    // The superuser is not held back, and neither is what has no policy.
    project.select_only(&["open"], json!({})).unwrap();
    project.sync(&[]).await.unwrap().assert_ok();
    project.write("source.json", &db.source_config(json!({}))).unwrap();
    project.select_only(&["guarded"], json!({})).unwrap();
    project.sync(&[]).await.unwrap().assert_ok();
    reconcile(&db, &project.lake(), "guarded", &Options::full_refresh()).await.unwrap().assert_same();

    // Nor is half a table followed, by an owner whom the policies hold back too.
    db.execute(&format!(
        "ALTER ROLE {role} REPLICATION; GRANT CREATE ON DATABASE \"{}\" TO {role};
         ALTER TABLE guarded OWNER TO {role}; ALTER TABLE guarded FORCE ROW LEVEL SECURITY",
        db.name()
    ))
    .await
    .unwrap();
    let project = Project::new(PROGRAM, &as_role(&db, &role)).unwrap();
    project.discover().await.unwrap().assert_ok();
    project.select_only(&["guarded"], json!({ "sync_mode": "cdc" })).unwrap();
    let output = project.sync(&[]).await.unwrap();
    output.assert_code(4);
    assert!(output.stderr.contains("guarded") && output.stderr.contains("row"), "{}", output.stderr);
    assert!(project.visible_files("guarded").is_empty());
    project.run(&["clear", "--all", "--yes"]).await.unwrap().assert_ok();
    drop_role(&db, &role).await;
}

async fn f55_time_limits_of_the_role_do_not_end_a_backfill(version: Version) {
    let db = database(
        version,
        "CREATE TABLE slow (id int PRIMARY KEY, t text); INSERT INTO slow SELECT g, repeat('x', 300) FROM generate_series(1, 20000) g;
         CREATE VIEW napping AS SELECT id, pg_sleep(CASE WHEN id % 10000 = 0 THEN 0.6 ELSE 0 END)::text AS nothing FROM slow",
    )
    .await;
    let role = reader(&db).await;
    let mut limits = vec![
        "statement_timeout = '300ms'",
        "idle_in_transaction_session_timeout = '300ms'",
        "idle_session_timeout = '300ms'",
    ];
    if version == Version::Pg18 {
        limits.push("transaction_timeout = '500ms'");
    }
    for limit in limits {
        db.execute(&format!("ALTER ROLE {role} SET {limit}")).await.unwrap();
    }
    let project = Project::new(PROGRAM, &as_role(&db, &role)).unwrap();
    project.discover().await.unwrap().assert_ok();
    let output = project.sync(&["--chunk-size", "1MiB"]).await.unwrap();
    output.assert_ok();
    assert!(!output.events.iter().any(|event| event["event"] == "retrying"), "{}", output.stderr);
    for stream in ["slow", "napping"] {
        reconcile(&db, &project.lake(), stream, &Options::full_refresh()).await.unwrap().assert_same();
    }
    drop_role(&db, &role).await;
}
