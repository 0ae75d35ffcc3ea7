//! Passwords and row values are in no output, at any log level, whether all goes well or not.

use std::path::Path;

use lakeward_testkit::lakeward::{Output, Project};
use lakeward_testkit::proxy::Proxy;
use lakeward_testkit::server::{TestDatabase, Version};
use serde_json::{Value, json};

use crate::pipeline::{PROGRAM, all_files, database};

on_each_version!(
    f49_no_secret_and_no_row_value_is_ever_told,
    f49_changes_are_followed_without_a_word_of_what_is_in_them,
    f49_configs_that_cannot_be_read_quote_nothing,
);

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

/// Runs a command, and searches what it said.
async fn told(project: &Project, arguments: &[&str]) -> Output {
    let output = project.run(arguments).await.unwrap();
    search_output(&arguments.join(" "), &output);
    output
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
            let output = told(&project, &arguments).await;
            match code {
                Some(code) => assert_eq!(output.code, Some(code), "{arguments:?}: {}", output.stderr),
                None => assert_ne!(output.code, Some(0), "{arguments:?}"),
            }
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

async fn f49_changes_are_followed_without_a_word_of_what_is_in_them(version: Version) {
    let db = database(
        version,
        "CREATE TABLE followed (id int PRIMARY KEY, k text, big text, d date); ALTER TABLE followed ALTER big SET STORAGE EXTERNAL;
         INSERT INTO followed SELECT g, 'canary-text-1f', repeat('canary-text-1f', 300), '54321-09-08' FROM generate_series(1, 50) g;
         CREATE TABLE keyed (k text PRIMARY KEY, n int, big text); ALTER TABLE keyed ALTER big SET STORAGE EXTERNAL;
         INSERT INTO keyed SELECT 'canary-key-2e' || g, g, repeat('canary-text-1f', 300) FROM generate_series(1, 50) g;
         CREATE TABLE bare (n numeric, t text); ALTER TABLE bare REPLICA IDENTITY FULL; INSERT INTO bare SELECT 867530.9, 'canary-raise-4c' FROM generate_series(1, 9);
         CREATE TABLE strict (id int PRIMARY KEY, at timestamp)",
    )
    .await;
    let role = role(&db).await;
    let tables = ["followed", "keyed", "bare", "strict"];
    let owned: String = tables.iter().map(|table| format!("ALTER TABLE {table} OWNER TO {role};")).collect();
    db.execute(&format!(
        "ALTER ROLE {role} REPLICATION; GRANT CREATE ON DATABASE \"{0}\" TO {role}; {owned} ALTER DATABASE \"{0}\" SET logical_decoding_work_mem = '64kB'",
        db.name()
    ))
    .await
    .unwrap();
    let proxy = Proxy::start(db.server().port()).unwrap();
    let login = json!({ "username": role, "password": "${LAKEWARD_CANARY}", "port": proxy.port() });
    for (round, (level, format)) in [("trace", "json"), ("debug", "text")].into_iter().enumerate() {
        let project =
            Project::new(PROGRAM, &db.source_config(login.clone())).unwrap().env("LAKEWARD_CANARY", PASSWORD);
        let run = async |arguments: &[&str], code: i32| {
            let output =
                told(&project, &[arguments, &["--log-level", level, "--log-format", format]].concat()).await;
            output.assert_code(code);
            output
        };
        run(&["discover", "--config", "source.json", "--output", "streams.json"], 0).await;
        project.select_only(&tables, json!({ "sync_mode": "cdc" })).unwrap();
        project.select("strict", json!({ "on_bad_value": "fail" })).unwrap();
        run(&["check", "--streams", "streams.json"], 0).await;
        run(&["sync"], 0).await;
        let first = (round + 1) * 1000;
        // New rows, large values that stay as they are, keys that change, rows that go.
        let changes = format!(
            "INSERT INTO followed SELECT {first} + g, 'canary-text-1f', repeat('canary-text-1f', 300), '54321-09-08' FROM generate_series(1, 20) g;
             UPDATE followed SET k = k || 'x' WHERE id % 7 = 0; UPDATE followed SET id = -id WHERE id % 11 = 0;
             UPDATE keyed SET k = k || 'y' WHERE n % 5 = 0; UPDATE keyed SET n = n + 1000 WHERE n % 7 = 0;
             DELETE FROM followed WHERE id % 13 = 0; DELETE FROM keyed WHERE n % 9 = 1 AND n < 50;
             UPDATE bare SET t = t || 'z' WHERE ctid IN (SELECT ctid FROM bare LIMIT 2); INSERT INTO bare VALUES (867530.9, 'canary-view-3d')"
        );
        db.execute(&changes).await.unwrap();
        run(&["sync"], 0).await;
        // So large that it is set aside, and cut off amid it.
        let large = format!(
            "INSERT INTO followed SELECT {first} + 100 + n, 'canary-text-1f', (SELECT string_agg('canary-text-1f' || g, '') FROM generate_series(1, 300000) g), NULL
             FROM generate_series(1, 3) n; UPDATE keyed SET k = k || 'w' WHERE n % 6 = 0"
        );
        db.execute(&large).await.unwrap();
        proxy.cut_after_bytes(3 << 20);
        let output = run(&["sync", "--memory-limit", "64MiB"], 0).await;
        let again = ["retrying", "trying again"].iter().any(|said| output.stderr.contains(said));
        assert!(again, "nothing was cut: {}", output.stderr);
        proxy.cut_after_bytes(u64::MAX);
        // Columns that come, and rows that are read again for them.
        let columns = format!(
            "ALTER TABLE followed ADD COLUMN extra_{round} text; UPDATE followed SET extra_{round} = 'canary-text-1f' WHERE id % 3 = 0;
             ALTER TABLE keyed ADD COLUMN filled_{round} text DEFAULT 'canary-text-1f'; UPDATE keyed SET n = n - 1 WHERE n % 4 = 0"
        );
        db.execute(&columns).await.unwrap();
        run(&["sync"], 0).await;
        run(&["verify"], 0).await;
        run(&["status", "--config", "source.json"], 0).await;
        for command in
            [&["view", "followed", "--engine", "duckdb"][..], &["files", "public.keyed"], &["compact"]]
        {
            run(command, 0).await;
        }
        // A value that is refused, then one that is replaced.
        db.execute(&format!("INSERT INTO strict VALUES ({round}, '54321-09-08 01:02')")).await.unwrap();
        let output = run(&["sync"], 5).await;
        assert!(output.stderr.contains("strict"), "{}", output.stderr);
        project.select("strict", json!({ "on_bad_value": "clamp" })).unwrap();
        run(&["sync"], 0).await;
        // The slot is gone: that is told, and nothing else.
        let idle = "SELECT NOT EXISTS (SELECT FROM pg_replication_slots WHERE database = current_database() AND active)";
        db.until(idle).await.unwrap();
        let gone = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = current_database()";
        db.execute(gone).await.unwrap();
        run(&["sync"], 4).await;
        for file in ["streams.json", "state.json"] {
            search(file, &std::fs::read_to_string(project.file(file)).unwrap());
        }
        for file in all_files(&project.lake().join("_lakeward")) {
            assert_no_password(&file);
            if file.extension().is_some_and(|extension| extension == "json") {
                search(&file.display().to_string(), &std::fs::read_to_string(&file).unwrap());
            }
        }
        run(&["clear", "--all", "--yes"], 0).await;
        db.execute("TRUNCATE strict").await.unwrap();
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
