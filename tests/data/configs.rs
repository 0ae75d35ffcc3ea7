//! Mistakes of the user's: each has its exit code, names its place and says what to do.

use lakeward_testkit::lakeward::Project;
use lakeward_testkit::server::Version;
use serde_json::{Value, json};

use crate::pipeline::{PROGRAM, Pipeline, all_files, database};

on_each_version!(
    mistakes_in_configs_exit_with_2,
    servers_that_are_not_there_exit_with_3,
    sources_that_are_not_fit_exit_with_4,
    destinations_and_states_exit_with_6_and_7
);

const SMALL: &str = "CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (1, 'a')";

async fn mistakes_in_configs_exit_with_2(version: Version) {
    let pipeline = Pipeline::new(version, SMALL).await;
    let project = &pipeline.project;
    let good = pipeline.db.source_config(json!({}));
    let changed = |overrides: &[(&str, Value)]| {
        let mut config = good.clone();
        for (name, value) in overrides {
            config[*name] = value.clone();
        }
        config
    };
    let without = |name: &str| {
        let mut config = good.clone();
        config.as_object_mut().unwrap().remove(name);
        config
    };
    let sources = [
        (changed(&[("hots", json!("x"))]), vec!["hots", "host"]),
        (
            changed(&[("ssl", json!({ "mode": "disable", "server_cert": "x" }))]),
            vec!["ssl.server_cert", "server_ca"],
        ),
        (changed(&[("password", json!("${LAKEWARD_NOT_SET}"))]), vec!["LAKEWARD_NOT_SET", "password"]),
        (changed(&[("password", json!("file:///nonexistent/secret"))]), vec!["password", "No such file"]),
        (changed(&[("type", json!("postgress"))]), vec!["postgres"]),
        (changed(&[("password", json!("wrong"))]), vec!["password"]),
        (changed(&[("ssl", json!({ "mode": "verify-ca", "server_ca": "ca.pem" }))]), vec!["PEM", "file://"]),
        (changed(&[("database", json!("no_such_database"))]), vec!["database"]),
        (changed(&[("username", json!("no_such_role"))]), vec!["password"]),
        (changed(&[("copy_format", json!("xml"))]), vec!["binary"]),
        (changed(&[("port", json!(70000))]), vec!["source"]),
        (without("type"), vec!["type"]),
        (without("database"), vec!["database"]),
        (json!([]), vec!["type"]),
    ];
    for (config, named) in sources {
        project.write("source.json", &config).unwrap();
        for command in ["check", "sync"] {
            let output = project.run(&[command]).await.unwrap();
            // What only the server can refuse is a finding of the preflight.
            let refused = output.code == Some(4) && command == "check";
            assert!(output.code == Some(2) || refused, "{command}, {named:?}: {}", output.stderr);
            for name in &named {
                let told = output.stderr.contains(name) || (refused && output.stdout.contains(name));
                assert!(told, "{name} in {}{}", output.stdout, output.stderr);
            }
        }
    }
    project.write("source.json", &good).unwrap();

    let streams = project.read("streams.json").unwrap();
    for (edit, named) in [
        (json!([{ "stream_name": "t", "sync_mod": "full_refresh" }]), "sync_mod"),
        (json!([{ "stream_name": "tt" }]), "public.t"),
        (json!([{ "stream_name": "t", "sync_mode": "sometimes" }]), "sometimes"),
        (json!([{ "stream_name": "t" }, { "stream_name": "t" }]), "twice"),
        (json!([{ "stream_name": "t", "append_mode": false }]), "append_mode"),
        (json!([{ "stream_name": "t", "partition": ["month(v)"] }]), "month(v)"),
        (json!([{ "stream_name": "t", "partition": ["vv"] }]), "vv"),
        (json!([{ "stream_name": "t", "partition": ["week(v)"] }]), "month"),
        (json!([{ "stream_name": "t", "chunk_column": "idd" }]), "idd"),
        (json!([{ "stream_name": "t", "columns": { "types": { "v": "int8" } } }]), "int8"),
        (json!([{ "stream_name": "t", "columns": { "types": { "v": "varchar" } } }]), "varchar"),
        (json!([{ "stream_name": "t", "columns": { "exclude": ["w"] } }]), "w"),
        (json!([{ "stream_name": "t", "on_bad_value": "ignore" }]), "ignore"),
        (json!([{ "stream_name": "t", "filter": "id > 'many'" }]), "filter"),
        (json!([]), "no stream is selected"),
    ] {
        let mut file = streams.clone();
        file["selected_streams"]["public"] = edit;
        project.write("streams.json", &file).unwrap();
        let output = project.sync(&[]).await.unwrap();
        assert_eq!(output.code, Some(2), "{named}: {}", output.stderr);
        assert!(output.stderr.contains(named), "{named} in {}", output.stderr);
        // A file that can be read but asks for what is not to be had is a finding of the preflight.
        let output = project
            .run(&["check", "--streams", "streams.json", "--destination", "destination.json"])
            .await
            .unwrap();
        let told = match output.code {
            Some(2) => &output.stderr,
            Some(4) => &output.stdout,
            other => panic!("{named}: {other:?} {}", output.stderr),
        };
        assert!(told.contains(named), "{named} in {told}");
    }
    // Not the first mistake alone.
    let mut file = streams.clone();
    file["selected_streams"]["public"] =
        json!([{ "stream_name": "tt" }, { "stream_name": "t", "filter": "idd > 1" }]);
    project.write("streams.json", &file).unwrap();
    let output = project.run(&["check", "--streams", "streams.json"]).await.unwrap();
    output.assert_code(4);
    assert!(output.stdout.contains("public.tt") && output.stdout.contains("idd"), "{}", output.stdout);
    for (name, text) in [
        ("streams.json", "{"),
        ("destination.json", "{\"type\": \"parquet\"}"),
        ("destination.json", "{\"type\": \"parquet\", \"path\": \"lake\", \"compresion\": \"zstd\"}"),
    ] {
        let before = std::fs::read(project.file(name)).unwrap();
        std::fs::write(project.file(name), text).unwrap();
        let output = project.sync(&[]).await.unwrap();
        assert_eq!(output.code, Some(2), "{text}: {}", output.stderr);
        assert!(output.stderr.contains(name), "{}", output.stderr);
        std::fs::write(project.file(name), before).unwrap();
    }
    for arguments in [
        &["synk"][..],
        &["sync", "--follow", "--dry-run"],
        &["sync", "--chunk-size", "many"],
        &["sync", "--memory-limit", "1KiB"],
        &["sync", "--config", "nowhere.json"],
        &["sync", "--streams", "nowhere.json"],
        &["status", "--state", "nowhere.json"],
        &["view", "public.t"],
        &["view", "public.t", "--engine", "excel"],
        &["spec", "oracle"],
        &[],
    ] {
        let output = project.run(arguments).await.unwrap();
        assert_eq!(output.code, Some(2), "{arguments:?}: {}{}", output.stdout, output.stderr);
        assert!(!output.stderr.is_empty());
    }
    assert!(
        all_files(&project.lake()).is_empty() && !project.file("state.json").exists(),
        "mistakes write nothing"
    );
}

async fn servers_that_are_not_there_exit_with_3(version: Version) {
    let pipeline = Pipeline::new(version, SMALL).await;
    let mut wrong = vec![
        (json!({ "port": 1, "max_retries": 0 }), "\\\"port\\\""),
        (json!({ "host": "no-such-host.invalid", "max_retries": 0 }), "\\\"host\\\""),
    ];
    if pipeline.db.value("SHOW ssl").await.unwrap().as_deref() == Some("off") {
        wrong.push((json!({ "ssl": { "mode": "require" }, "max_retries": 0 }), "ssl.mode"));
    }
    for (overrides, remedy) in wrong {
        pipeline.project.write("source.json", &pipeline.db.source_config(overrides)).unwrap();
        for command in ["check", "discover", "sync"] {
            let started = std::time::Instant::now();
            let output = pipeline.project.run(&[command]).await.unwrap();
            assert_eq!(output.code, Some(3), "{command}: {}", output.stderr);
            assert!(output.stderr.contains(remedy), "{command}: {}", output.stderr);
            assert!(started.elapsed().as_secs() < 30);
        }
    }
    assert!(all_files(&pipeline.project.lake()).is_empty());
}

async fn sources_that_are_not_fit_exit_with_4(version: Version) {
    let db = database(version, &format!("{SMALL}; CREATE SCHEMA hidden; CREATE TABLE hidden.t (id int PRIMARY KEY); CREATE TABLE more (id int PRIMARY KEY)")).await;
    let role = format!("{}_poor", db.name());
    db.execute(&format!("CREATE ROLE {role} LOGIN PASSWORD 'poor'; GRANT SELECT ON more TO {role}"))
        .await
        .unwrap();
    let full = Project::new(PROGRAM, &db.source_config(json!({}))).unwrap();
    full.discover().await.unwrap().assert_ok();
    let source = db.source_config(json!({ "username": role, "password": "poor" }));
    full.write("source.json", &source).unwrap();
    let check = [
        "check",
        "--config",
        "source.json",
        "--destination",
        "destination.json",
        "--streams",
        "streams.json",
        "--output",
        "json",
    ];

    for (selected, sees) in [("t", "GRANT SELECT ON"), ("hidden.t", "GRANT USAGE ON SCHEMA")] {
        full.select_only(&[selected], json!({})).unwrap();
        let output = full.run(&check).await.unwrap();
        output.assert_code(4);
        assert!(output.stdout.contains(sees), "{selected}: {}{}", output.stdout, output.stderr);
        let output = full.sync(&[]).await.unwrap();
        assert_ne!(output.code, Some(0), "{selected}");
        assert!(output.stderr.contains("GRANT") || output.stderr.contains("SELECT"), "{}", output.stderr);
    }
    // What it may read, it reads; and with the remedy it may read the rest.
    full.select_only(&["more"], json!({})).unwrap();
    full.run(&check).await.unwrap().assert_ok();
    full.sync(&[]).await.unwrap().assert_ok();
    db.execute(&format!("GRANT USAGE ON SCHEMA hidden TO {role}; GRANT SELECT ON ALL TABLES IN SCHEMA public, hidden TO {role}")).await.unwrap();
    full.select_only(&["t", "hidden.t", "more"], json!({})).unwrap();
    let output = full.run(&check).await.unwrap();
    output.assert_ok();
    let findings = output.json().unwrap();
    assert!(findings.as_array().unwrap().iter().all(|finding| finding["severity"] != "error"), "{findings}");
    full.sync(&[]).await.unwrap().assert_ok();
    db.execute(&format!("DROP OWNED BY {role}; DROP ROLE {role}")).await.unwrap();
}

async fn destinations_and_states_exit_with_6_and_7(version: Version) {
    let pipeline = Pipeline::new(version, SMALL).await;
    let project = &pipeline.project;
    let destination = project.read("destination.json").unwrap();
    std::fs::write(project.file("a_file"), "").unwrap();
    project
        .write("destination.json", &json!({ "type": "parquet", "path": project.file("a_file").join("lake") }))
        .unwrap();
    project.sync(&[]).await.unwrap().assert_code(6);
    let output = project.run(&["check", "--destination", "destination.json"]).await.unwrap();
    assert_ne!(output.code, Some(0), "{}", output.stdout);
    project.write("destination.json", &destination).unwrap();
    let _ = std::fs::remove_file(project.file("state.json"));

    std::fs::write(project.file("state.json"), "{\"version\": 1, \"pipel").unwrap();
    let output = project.sync(&[]).await.unwrap();
    output.assert_code(7);
    assert!(output.stderr.contains("rebuild"), "{}", output.stderr);
    std::fs::remove_file(project.file("state.json")).unwrap();
    pipeline.sync().await;
    let state = project.state().unwrap();

    // Missing, foreign and newer states over commits that are there.
    std::fs::remove_file(project.file("state.json")).unwrap();
    let output = project.sync(&[]).await.unwrap();
    output.assert_code(7);
    assert!(output.stderr.contains("state rebuild"), "{}", output.stderr);
    let mut foreign = state.clone();
    foreign["pipeline"]["source"]["system_identifier"] = json!("1");
    project.write("state.json", &foreign).unwrap();
    project.sync(&[]).await.unwrap().assert_code(7);
    let mut newer = state.clone();
    newer["version"] = json!(99);
    project.write("state.json", &newer).unwrap();
    project.sync(&[]).await.unwrap().assert_code(7);
    let rebuild = project.run(&["state", "rebuild"]).await.unwrap();
    rebuild.assert_ok();
    pipeline.sync().await;
    assert_eq!(pipeline.generation("t"), 2);
}
