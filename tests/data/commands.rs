//! The commands around a sync: discover, check, dry run, status, files, view, peek, spec, completions, clear.

use std::time::{Duration, Instant};

use lakeward_testkit::lakeward::Project;
use lakeward_testkit::reconcile::{Options, reconcile};
use lakeward_testkit::server::Version;
use serde_json::{Value, json};

use crate::pipeline::{PROGRAM, Pipeline, all_files, database, python};

on_each_version!(
    discover_finds_10000_tables_in_seconds,
    discover_keeps_what_was_chosen,
    a_dry_run_writes_nothing,
    views_say_what_the_reconciler_says,
    files_status_and_peek_show_what_is_there,
    a_cleared_stream_begins_again,
);

async fn discover_finds_10000_tables_in_seconds(version: Version) {
    let db = database(version, "").await;
    // Committed in parts: all in one transaction would take more locks than the server has.
    db.execute(
        "DO $$ BEGIN FOR i IN 1..10000 LOOP
            EXECUTE format('CREATE TABLE t%s (id int, name text, price numeric(10,2), at timestamptz, tags text[])', i);
            IF i % 500 = 0 THEN COMMIT; END IF; END LOOP; END $$",
    )
    .await
    .unwrap();
    db.execute("ALTER TABLE t77 ADD PRIMARY KEY (id); INSERT INTO t77 VALUES (1, 'x', 1.5, now(), '{}')")
        .await
        .unwrap();
    let project = Project::new(PROGRAM, &db.source_config(json!({}))).unwrap();
    for _ in 0..2 {
        let started = Instant::now();
        let output = project.discover().await.unwrap();
        output.assert_ok();
        let took = started.elapsed();
        assert!(took < Duration::from_secs(30), "10,000 tables took {took:?}");
        let streams = project.read("streams.json").unwrap();
        assert_eq!(streams["streams"].as_array().unwrap().len(), 10_000);
        assert_eq!(streams["selected_streams"]["public"].as_array().unwrap().len(), 10_000);
    }
    // One of so many is synced without asking about the rest.
    project.select_only(&["t77"], json!({})).unwrap();
    project.sync(&[]).await.unwrap().assert_ok();
    reconcile(&db, &project.lake(), "t77", &Options::full_refresh()).await.unwrap().assert_same();
    db.execute(
        "DO $$ BEGIN FOR i IN 1..10000 LOOP EXECUTE format('DROP TABLE t%s', i); IF i % 500 = 0 THEN COMMIT; END IF; END LOOP; END $$",
    )
    .await
    .unwrap();
}

async fn discover_keeps_what_was_chosen(version: Version) {
    let pipeline = Pipeline::new(
        version,
        "CREATE TABLE kept (id int PRIMARY KEY, v text, gone int); CREATE TABLE unwanted (id int); CREATE TABLE dropped (id int);
         COMMENT ON TABLE kept IS 'about kept'; COMMENT ON COLUMN kept.v IS 'about v'; INSERT INTO kept SELECT g, 'x' FROM generate_series(1, 1000) g; ANALYZE kept",
    )
    .await;
    let project = &pipeline.project;
    let stream = |file: &Value, name: &str| {
        file["streams"]
            .as_array()
            .unwrap()
            .iter()
            .find(|entry| entry["stream"]["name"] == name)
            .map(|entry| entry["stream"].clone())
    };
    let first = project.read("streams.json").unwrap();
    let kept = stream(&first, "kept").unwrap();
    assert_eq!(
        (kept["comment"].clone(), kept["source_defined_primary_key"].clone()),
        (json!("about kept"), json!(["id"]))
    );
    assert_eq!(kept["estimated_rows"], 1000);
    let v = &kept["type_schema"]["properties"]["v"];
    assert_eq!(
        (v["type"].clone(), v["comment"].clone(), v["nullable"].clone()),
        (json!("text"), json!("about v"), json!(true))
    );
    let order: Vec<_> = kept["type_schema"]["properties"].as_object().unwrap().keys().collect();
    assert_eq!(order, ["id", "v", "gone"], "in the source's order");

    let choices = json!({ "sync_mode": "incremental", "cursor_field": "id", "filter": "id > 1", "columns": { "exclude": ["v"], "types": { "gone": "text" } },
        "partition": ["id"], "destination_table": "other", "on_bad_value": "null", "cursor_lookback": "3", "null_cursor": "skip", "on_schema_change": "fail" });
    project.select_only(&["dropped"], json!({})).unwrap();
    project.select("kept", choices).unwrap();
    let chosen = project.read("streams.json").unwrap()["selected_streams"].clone();
    pipeline.sql("ALTER TABLE kept DROP COLUMN gone, ADD COLUMN fresh bigint; ALTER TABLE kept ALTER v TYPE varchar(9); DROP TABLE dropped; CREATE TABLE newcomer (id int)").await;
    let output = project.discover().await.unwrap();
    output.assert_ok();
    for said in ["fresh", "gone", "varying(9)", "public.newcomer: new", "public.dropped: gone"] {
        assert!(output.stderr.contains(said), "{said}: {}", output.stderr);
    }
    let second = project.read("streams.json").unwrap();
    let find = |file: &Value, name: &str| {
        file["public"].as_array().unwrap().iter().find(|entry| entry["stream_name"] == name).cloned()
    };
    assert_eq!(find(&second["selected_streams"], "kept"), find(&chosen, "kept"), "every choice stands");
    assert!(find(&second["selected_streams"], "newcomer").is_some(), "a new stream is selected");
    assert!(find(&second["selected_streams"], "unwanted").is_none(), "what was taken out stays out");
    assert!(stream(&second, "dropped").is_none() && stream(&second, "newcomer").is_some());
    let properties = &stream(&second, "kept").unwrap()["type_schema"]["properties"];
    assert!(properties["gone"].is_null() && properties["fresh"]["type"] == "int64");

    pipeline.sql("CREATE TABLE later (id int)").await;
    project.run(&["discover", "--no-select"]).await.unwrap().assert_ok();
    let third = project.read("streams.json").unwrap();
    assert!(find(&third["selected_streams"], "later").is_none() && stream(&third, "later").is_some());
    let output = project.run(&["discover", "--output", "-"]).await.unwrap();
    assert_eq!(output.json().unwrap(), third, "nothing changed");
}

async fn a_dry_run_writes_nothing(version: Version) {
    let pipeline = Pipeline::new(version, "CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t SELECT g, repeat('x', 500) FROM generate_series(1, 5000) g; ANALYZE").await;
    let project = &pipeline.project;
    let snapshot = || {
        let files = all_files(project.path()).into_iter().filter(|file| !file.ends_with("state.json.lock"));
        files.map(|file| (file.clone(), std::fs::read(&file).unwrap())).collect::<Vec<_>>()
    };
    let before = snapshot();
    let output = project.sync(&["--dry-run", "--output", "json", "--chunk-size", "128KiB"]).await.unwrap();
    output.assert_ok();
    let plan = output.json().unwrap();
    assert_eq!(
        (plan[0]["stream"].clone(), plan[0]["mode"].clone(), plan[0]["estimated_rows"].clone()),
        (json!("public.t"), json!("full_refresh"), json!(5000))
    );
    assert!(plan[0]["chunks"].as_u64().unwrap() > 5, "{plan}");
    let output = project.sync(&["--dry-run"]).await.unwrap();
    output.assert_ok();
    assert!(
        output.stdout.contains("public.t") && output.stdout.contains("nothing was written"),
        "{}",
        output.stdout
    );
    assert!(before == snapshot(), "a dry run before the first sync wrote something");

    pipeline.sync_as("t", json!({ "sync_mode": "incremental", "cursor_field": "id" })).await;
    pipeline.sql("INSERT INTO t VALUES (10000, 'new')").await;
    let before = snapshot();
    let output = project.sync(&["--dry-run", "--output", "json"]).await.unwrap();
    output.assert_ok();
    assert!(
        output.json().unwrap()[0]["action"].to_string().contains("incremental pass 1"),
        "{}",
        output.stdout
    );
    assert!(before == snapshot(), "a dry run after a sync wrote something");
    let filtered = json!({ "sync_mode": "incremental", "cursor_field": "id", "filter": "id > 5" });
    project.select("t", filtered).unwrap();
    let output = project.sync(&["--dry-run", "--output", "json"]).await.unwrap();
    let plan = output.json().unwrap();
    assert_eq!(plan[0]["action"], "all rows again: the filter changed");
    assert!(plan[0]["chunks"].as_u64() > Some(0), "{plan}");
    // A server notices with a delay that a connection is gone.
    let backends = "SELECT count(*) = 0 FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'lakeward'";
    pipeline.db.until(backends).await.expect("its snapshot is given up");
}

/// Puts what a view yields beside system columns into a directory, so that it can be compared like a stream.
const MATERIALIZE: &str = r#"
import json, sys, datetime, os
import duckdb, pyarrow as pa, pyarrow.parquet as pq
request = json.load(sys.stdin)
if request["engine"] == "duckdb":
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    connection.execute("SET arrow_lossless_conversion = true")
    table = connection.execute(request["query"]).to_arrow_table()
else:
    import contextlib, io
    scope = {}
    with contextlib.redirect_stdout(io.StringIO()):
        exec(request["query"], scope)
    table = scope["latest"].collect().to_arrow()
n = len(table)
system = {
    "_lw_op": pa.array(["r"] * n, pa.string()),
    "_lw_seq": pa.array(["0" * 32] * n, pa.string()),
    "_lw_commit_ts": pa.nulls(n, pa.timestamp("us", "UTC")),
    "_lw_synced_at": pa.array([datetime.datetime.now(datetime.timezone.utc)] * n, pa.timestamp("us", "UTC")),
    "_lw_unchanged": pa.nulls(n, pa.list_(pa.string())),
    "_lw_rescued": pa.nulls(n, pa.string()),
}
os.makedirs(request["directory"], exist_ok=True)
columns = [*system.values(), *table.columns]
pq.write_table(pa.table(columns, names=[*system, *table.column_names]), request["directory"] + "/view.parquet")
print(table["row_count"][0].as_py() if table.column_names == ["row_count"] else n)
"#;

async fn views_say_what_the_reconciler_says(version: Version) {
    let pipeline = Pipeline::new(
        version,
        "CREATE TABLE keyed (id int, part text, v text, l text[], at timestamptz, n numeric(9,2), \"Odd \"\"name'\" int, PRIMARY KEY (id, part));
         INSERT INTO keyed SELECT g, CASE WHEN g % 2 = 0 THEN 'a' ELSE 'b''c' END, 'v' || g, ARRAY[g::text, NULL], timestamptz '2024-01-01 00:00+00' + g * interval '1 s', g / 4.0, g FROM generate_series(1, 500) g;
         CREATE TABLE keyless (n int, v text); INSERT INTO keyless SELECT g / 2, 'x' FROM generate_series(1, 100) g;
         CREATE TABLE bare (); INSERT INTO bare SELECT FROM generate_series(1, 77);
         CREATE TABLE refreshed (id int PRIMARY KEY, u text, d date); INSERT INTO refreshed SELECT g, md5(g::text), date '2024-01-01' + g FROM generate_series(1, 100) g",
    )
    .await;
    pipeline.project.select_only(&["refreshed", "bare"], json!({})).unwrap();
    pipeline
        .project
        .select(
            "keyed",
            json!({ "sync_mode": "incremental", "cursor_field": "at", "partition": ["month(at)"] }),
        )
        .unwrap();
    pipeline.project.select("keyless", json!({ "sync_mode": "incremental", "cursor_field": "n" })).unwrap();
    pipeline.sync().await;
    pipeline
        .sql("UPDATE keyed SET v = 'new', at = at + interval '1 day', l = NULL WHERE id % 5 = 0; ALTER TABLE keyed ADD COLUMN later text; UPDATE keyed SET later = 'l', at = at + interval '40 days' WHERE id % 7 = 0;
              INSERT INTO keyless VALUES (60, 'y'), (60, 'y'); DELETE FROM refreshed WHERE id > 50")
        .await;
    pipeline.sync().await;
    for (stream, options) in [
        ("keyed", Options::incremental()),
        ("keyless", Options::incremental()),
        ("refreshed", Options::full_refresh()),
    ] {
        let expected = pipeline.assert_same(stream, &options).await;
        for engine in ["duckdb", "polars"] {
            let output = pipeline
                .project
                .run(&["view", &format!("public.{stream}"), "--engine", engine])
                .await
                .unwrap();
            output.assert_ok();
            let directory = pipeline.project.file(&format!("view_{stream}_{engine}"));
            let query = output.stdout.replace("\"./", "\"");
            let rows =
                python(MATERIALIZE, &json!({ "engine": engine, "query": query, "directory": directory }))
                    .await;
            assert_eq!(rows.trim(), expected.rows_source.to_string(), "{engine}: {query}");
            let options = Options::full_refresh().directory(&directory);
            let report = pipeline.report(stream, &options).await;
            assert!(report.is_same(), "{engine} view of {stream}: {report}\n{query}");
        }
        let output = pipeline.project.run(&["view", stream, "--engine", "spark"]).await.unwrap();
        output.assert_ok();
        assert!(output.stdout.contains("_lw_seq"), "{}", output.stdout);
    }
    // A directory whose name looks like a pattern, and a table that has rows but no columns.
    let odd = pipeline.project.file("l[a]ke*");
    std::fs::rename(pipeline.project.lake(), &odd).unwrap();
    pipeline.project.write("destination.json", &json!({ "type": "parquet", "path": odd })).unwrap();
    for engine in ["duckdb", "polars"] {
        for (stream, rows) in [("refreshed", "50"), ("bare", "77")] {
            let output = pipeline.project.run(&["view", stream, "--engine", engine]).await.unwrap();
            output.assert_ok();
            let directory = pipeline.project.file("view_odd");
            let request = json!({ "engine": engine, "query": output.stdout, "directory": directory });
            assert_eq!(python(MATERIALIZE, &request).await.trim(), rows, "{engine}: {}", output.stdout);
        }
    }
}

async fn files_status_and_peek_show_what_is_there(version: Version) {
    let pipeline = Pipeline::new(
        version,
        "CREATE TABLE t (id int PRIMARY KEY, v text, at timestamptz); INSERT INTO t SELECT g, repeat('x', 300) || g, timestamptz '2024-01-01 00:00+00' + g * interval '1 h' FROM generate_series(1, 5000) g",
    )
    .await;
    let project = &pipeline.project;
    pipeline
        .choose("t", json!({ "sync_mode": "incremental", "cursor_field": "at", "partition": ["month(at)"] }));
    project.sync(&["--chunk-size", "256KiB"]).await.unwrap().assert_ok();
    pipeline.sql("INSERT INTO t VALUES (6000, NULL, '2030-01-01 00:00+00')").await;
    pipeline.sync().await;

    let visible: Vec<_> =
        project.visible_files("t").into_iter().map(|file| file.canonicalize().unwrap()).collect();
    let output = project.run(&["files", "public.t"]).await.unwrap();
    output.assert_ok();
    let mut listed: Vec<_> =
        output.stdout.lines().map(|line| project.path().join(line).canonicalize().unwrap()).collect();
    listed.sort();
    assert_eq!(listed, visible, "files lists what a glob finds");
    let output = project.run(&["files", "t", "--output", "json"]).await.unwrap();
    let files = output.json().unwrap();
    let sum =
        |field: &str| files.as_array().unwrap().iter().map(|file| file[field].as_u64().unwrap()).sum::<u64>();
    assert_eq!(sum("rows"), pipeline.rows("t").await);
    assert_eq!(sum("bytes"), visible.iter().map(|file| file.metadata().unwrap().len()).sum::<u64>());
    project.run(&["files", "public.tt"]).await.unwrap().assert_code(2);

    let output = project.run(&["status", "--output", "json"]).await.unwrap();
    output.assert_ok();
    let status = output.json().unwrap();
    let stream = &status["streams"][0];
    assert_eq!(
        (stream["stream"].clone(), stream["backfill_complete"].clone(), stream["pass"].clone()),
        (json!("public.t"), json!(true), json!(1))
    );
    assert_eq!(
        (stream["rows_synced"].clone(), stream["cursor"]["value"].clone()),
        (json!(5001), json!("2030-01-01T00:00:00Z"))
    );
    let output = project.run(&["status"]).await.unwrap();
    assert!(output.stdout.contains("public.t") && output.stdout.contains("5,001"), "{}", output.stdout);

    let output = project.run(&["peek", visible[0].to_str().unwrap(), "-n", "3"]).await.unwrap();
    output.assert_ok();
    for expected in ["_lw_op", "_lw_rescued", "id", "Int32", "2024-"] {
        assert!(output.stdout.contains(expected), "{expected} in {}", output.stdout);
    }
    let garbage = project.file("garbage.parquet");
    std::fs::write(&garbage, "PAR1 no").unwrap();
    let output = project.run(&["peek", garbage.to_str().unwrap()]).await.unwrap();
    assert_eq!(output.code, Some(5), "{}", output.stderr);

    let output = project.run(&["spec", "postgres"]).await.unwrap();
    output.assert_ok();
    let spec = output.json().unwrap();
    for field in ["host", "password", "ssl", "schemas", "max_connections", "unconstrained_numeric"] {
        assert!(spec["properties"][field]["description"].is_string(), "{field} is documented");
    }
    let output = project.run(&["spec"]).await.unwrap();
    assert!(output.stdout.contains("postgres") && output.stdout.contains("parquet"), "{}", output.stdout);
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let output = project.run(&["completions", shell]).await.unwrap();
        output.assert_ok();
        assert!(output.stdout.contains("discover") && output.stdout.contains("dry-run"), "{shell}");
    }
    for arguments in [&["--help"][..], &["sync", "--help"], &["--version"]] {
        project.run(arguments).await.unwrap().assert_ok();
    }
}

async fn a_cleared_stream_begins_again(version: Version) {
    let pipeline = Pipeline::new(
        version,
        "CREATE TABLE a (id int PRIMARY KEY); INSERT INTO a SELECT generate_series(1, 100); CREATE TABLE b (id int PRIMARY KEY); INSERT INTO b SELECT generate_series(1, 50)",
    )
    .await;
    let choices = json!({ "sync_mode": "incremental", "cursor_field": "id" });
    pipeline.project.select_only(&["a", "b"], choices.clone()).unwrap();
    pipeline.sync().await;
    let output = pipeline.project.run(&["clear", "public.a"]).await.unwrap();
    output.assert_code(2);
    assert!(output.stderr.contains("--yes"), "{}", output.stderr);
    pipeline.assert_same("a", &Options::incremental()).await;
    pipeline.project.run(&["clear", "public.c", "--yes"]).await.unwrap().assert_code(2);

    pipeline.project.run(&["clear", "public.a", "--yes"]).await.unwrap().assert_ok();
    assert!(pipeline.project.visible_files("a").is_empty());
    let state = pipeline.project.state().unwrap();
    assert_eq!(state["streams"].as_array().unwrap().len(), 1, "{state}");
    pipeline.assert_same("b", &Options::incremental()).await;
    // Rows deleted meanwhile are not there when it comes back.
    pipeline.sql("DELETE FROM a WHERE id > 10; INSERT INTO b VALUES (1000)").await;
    pipeline.sync().await;
    pipeline.assert_same("a", &Options::incremental()).await;
    pipeline.assert_same("b", &Options::incremental()).await;
    assert_eq!((pipeline.rows("a").await, pipeline.rows("b").await), (10, 51));
    // What is selected no longer stays, and that is said.
    pipeline.project.select_only(&["b"], choices.clone()).unwrap();
    let output = pipeline.project.run(&["clear", "--all", "--yes"]).await.unwrap();
    output.assert_ok();
    assert!(output.stderr.contains("left as they are: public.a;"), "{}", output.stderr);
    assert!(pipeline.project.visible_files("b").is_empty());
    pipeline.assert_same("a", &Options::incremental()).await;
    pipeline.project.select_only(&["a", "b"], choices).unwrap();
    pipeline.sync().await;
    pipeline.assert_same("a", &Options::incremental()).await;
}
