//! Passwords and row values are in no output, at any log level, whether all goes well or not.

use std::path::Path;

use lakeward_testkit::lakeward::{Output, Project};
use lakeward_testkit::server::{TestDatabase, Version};
use serde_json::{Value, json};

use crate::pipeline::{PROGRAM, all_files, database};

on_each_version!(f49_no_secret_and_no_row_value_is_ever_told, f49_configs_that_cannot_be_read_quote_nothing);

/// What must not be found: the password, a wrong one, and values of rows.
const PASSWORD: &str = "canary-pw-ßK7'x\"";
const WRONG: &str = "canary-wrong-Q9";
const VALUES: [&str; 6] =
    ["canary-text-1f", "54321-09-08", "867530.9", "canary-key-2e", "canary-view-3d", "canary-raise-4c"];

fn search(name: &str, text: &str) {
    for canary in [PASSWORD, "canary-pw", WRONG, "canary-wrong"].iter().chain(&VALUES) {
        assert!(!text.contains(canary), "{name} tells {canary}:\n{text}");
    }
}

fn search_output(name: &str, output: &Output) {
    search(&format!("standard error of {name}"), &output.stderr);
    search(&format!("standard output of {name}"), &output.stdout);
}

async fn role(db: &TestDatabase) -> String {
    let role = format!("{}_canary", db.name());
    let password = PASSWORD.replace('\'', "''");
    db.execute(&format!("CREATE ROLE {role} LOGIN PASSWORD '{password}'; GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}")).await.unwrap();
    role
}

async fn f49_no_secret_and_no_row_value_is_ever_told(version: Version) {
    let db = database(
        version,
        "CREATE TABLE good (id int PRIMARY KEY, k text, d date, at timestamptz);
         INSERT INTO good SELECT g, 'canary-text-1f', '54321-09-08', '2024-01-01 00:00+00' FROM generate_series(1, 50) g;
         CREATE TABLE bad_date (id int PRIMARY KEY, d date); INSERT INTO bad_date VALUES (1, '54321-09-08');
         CREATE TABLE bad_key (k date PRIMARY KEY, t text); INSERT INTO bad_key VALUES ('54321-09-08', 'canary-text-1f');
         CREATE TABLE bad_number (id int PRIMARY KEY, n numeric); INSERT INTO bad_number VALUES (1, 867530.9);
         CREATE VIEW bad_cast AS SELECT k::int AS n FROM (VALUES ('canary-view-3d')) v (k);
         CREATE FUNCTION shout(t text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN
            RAISE EXCEPTION 'canary-raise-4c %', t USING DETAIL = 'canary-key-2e', HINT = 'canary-text-1f'; END $$;
         CREATE VIEW raises AS SELECT shout(k) AS k FROM good;
         CREATE FUNCTION mutter(t text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN RAISE WARNING 'canary-raise-4c %', t; RETURN t; END $$;
         CREATE VIEW warns AS SELECT mutter(k) AS k FROM good;
         CREATE TABLE keyed (k text PRIMARY KEY, at int); INSERT INTO keyed SELECT 'canary-key-2e' || g, g FROM generate_series(1, 100) g",
    )
    .await;
    let role = role(&db).await;
    let login = json!({ "username": role, "password": "${LAKEWARD_CANARY}", "schemas": ["public"] });
    for (level, format) in [("trace", "json"), ("debug", "text"), ("info", "json"), ("error", "text")] {
        let speech = ["--log-level", level, "--log-format", format];
        let project =
            Project::new(PROGRAM, &db.source_config(login.clone())).unwrap().env("LAKEWARD_CANARY", PASSWORD);
        let run = async |arguments: &[&str], code: Option<i32>| {
            let arguments: Vec<&str> = arguments.iter().chain(&speech).copied().collect();
            let output = project.run(&arguments).await.unwrap();
            match code {
                Some(code) => assert_eq!(output.code, Some(code), "{arguments:?}: {}", output.stderr),
                None => assert_ne!(output.code, Some(0), "{arguments:?}"),
            }
            search_output(&arguments.join(" "), &output);
            output
        };
        run(&["discover", "--config", "source.json", "--output", "streams.json"], Some(0)).await;
        run(&["check", "--config", "source.json", "--destination", "destination.json"], Some(0)).await;
        project.select_only(&["good", "keyed", "warns"], json!({})).unwrap();
        run(&["sync", "--dry-run"], Some(0)).await;
        run(&["sync"], Some(0)).await;
        project.select("keyed", json!({ "sync_mode": "incremental", "cursor_field": "at" })).unwrap();
        project.select("good", json!({ "sync_mode": "incremental", "cursor_field": "at" })).unwrap();
        run(&["sync"], Some(0)).await;
        run(&["sync"], Some(0)).await;
        run(&["status"], Some(0)).await;
        search("streams.json", &std::fs::read_to_string(project.file("streams.json")).unwrap());
        search("state.json", &std::fs::read_to_string(project.file("state.json")).unwrap());

        for (table, choices, code) in [
            ("bad_date", json!({ "on_bad_value": "fail" }), Some(5)),
            ("bad_key", json!({}), Some(5)),
            (
                "bad_number",
                json!({ "on_bad_value": "fail", "columns": { "types": { "n": "decimal(4,1)" } } }),
                Some(5),
            ),
            ("bad_cast", json!({}), None),
            ("raises", json!({}), None),
        ] {
            project.select_only(&[], json!({})).unwrap();
            project.select(table, choices).unwrap();
            let output = run(&["sync"], code).await;
            assert!(output.stderr.contains(table), "{table} is named: {}", output.stderr);
        }
        search("state.json", &std::fs::read_to_string(project.file("state.json")).unwrap());

        // A password that the server refuses.
        project
            .write("source.json", &db.source_config(json!({ "username": role, "password": WRONG })))
            .unwrap();
        for (command, code) in [("check", Some(4)), ("discover", Some(2)), ("sync", Some(2))] {
            run(&[command], code).await;
        }
        let url = format!("postgresql://{role}:{WRONG}@127.0.0.1:{}/{}", db.server().port(), db.name());
        project.write("source.json", &json!({ "type": "postgres", "url": url })).unwrap();
        run(&["check"], Some(4)).await;
        // A server that is not there.
        let nowhere = format!("postgresql://{role}:{WRONG}@127.0.0.1:1/{}", db.name());
        project
            .write("source.json", &json!({ "type": "postgres", "url": nowhere, "max_retries": 0 }))
            .unwrap();
        run(&["check"], Some(3)).await;
        // What lies in the lake besides data has no password in it.
        for file in all_files(&project.lake().join("_lakeward")) {
            assert_no_password(&file);
        }
    }
    db.execute(&format!("DROP OWNED BY {role}; DROP ROLE {role}")).await.unwrap();
}

fn assert_no_password(file: &Path) {
    let bytes = std::fs::read(file).unwrap();
    for canary in ["canary-pw", "canary-wrong"] {
        assert!(
            !bytes.windows(canary.len()).any(|part| part == canary.as_bytes()),
            "{} holds a password",
            file.display()
        );
    }
}

async fn f49_configs_that_cannot_be_read_quote_nothing(version: Version) {
    let db = database(version, "CREATE TABLE t (id int)").await;
    let good = db.source_config(json!({}));
    let project = Project::new(PROGRAM, &good).unwrap();
    let with = |name: &str, value: Value| {
        let mut config = good.clone();
        config[name] = value;
        config
    };
    let canary = "canary-wrong-Q9";
    for config in [
        with("password", json!({ "secret": canary })),
        with("password", json!([canary])),
        with("port", json!(canary)),
        with("url", json!(format!("postgresql://u:{canary}@h/d"))),
        with("url", json!(format!("nonsense:{canary}"))),
        with("ssl", json!({ "mode": canary })),
        with("passwrod", json!(canary)),
        with("max_connections", json!(canary)),
        with("unconstrained_numeric", json!(canary)),
    ] {
        project.write("source.json", &config).unwrap();
        let output = project.run(&["check", "--log-level", "trace"]).await.unwrap();
        output.assert_code(2);
        search_output("check", &output);
    }
    for text in [
        format!("{{\"type\": \"postgres\", \"password\": \"{canary}\" \"host\": 1}}"),
        format!("{{\"type\": \"postgres\", \"password\": \"{canary}"),
        format!("\"{canary}\""),
        canary.to_owned(),
    ] {
        std::fs::write(project.file("source.json"), text).unwrap();
        let output = project.run(&["check", "--log-level", "trace"]).await.unwrap();
        output.assert_code(2);
        search_output("check", &output);
    }
}
