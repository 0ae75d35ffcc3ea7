//! `lakeward bench chunk-size`, really run: what it measures, what it writes, and what it leaves alone.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use lakeward_testkit::lakeward::{Output, Project, Signal};
use lakeward_testkit::python;
use lakeward_testkit::server::{PgServer, TestDatabase, Version};
use serde_json::{Value, json};

const ROWS: u64 = 200_000;
/// Two thirds of them.
const FILTERED: u64 = 133_333;

/// A database with a table of some 20 MiB, an empty one and one of a single page, discovered.
async fn project() -> (TestDatabase, Project) {
    let db = PgServer::shared(Version::Pg18).create_database("bench").await.unwrap();
    db.execute(&format!(
        "CREATE TABLE trips AS SELECT n AS id, n % 3 AS kind, md5(n::text) AS note, repeat('x', 20) AS secret,
             now() AS at FROM generate_series(0, {}) n;
         ALTER TABLE trips ADD PRIMARY KEY (id);
         CREATE TABLE small AS SELECT 1 AS id;
         CREATE TABLE nothing (id int PRIMARY KEY)",
        ROWS - 1
    ))
    .await
    .unwrap();
    db.execute("ANALYZE").await.unwrap();
    let project = Project::new(env!("CARGO_BIN_EXE_lakeward"), &db.source_config(json!({}))).unwrap();
    project.discover().await.unwrap().assert_ok();
    (db, project)
}

async fn bench(project: &Project, arguments: &[&str]) -> Output {
    project.run(&[&["bench", "chunk-size", "--config", "source.json"], arguments].concat()).await.unwrap()
}

/// Every file below a directory, with its contents.
fn contents(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.insert(path.clone(), Vec::new());
            found.extend(contents(&path));
        } else {
            found.insert(path.clone(), std::fs::read(&path).unwrap());
        }
    }
    found
}

fn report(project: &Project) -> Value {
    project.read("lakeward-bench/chunk-size.json").unwrap()
}

fn assert_plot(project: &Project, stream: &Value) {
    let plot = project.file("lakeward-bench").join(stream["plot"].as_str().unwrap());
    let parses = "import sys, xml.etree.ElementTree as tree; tree.parse(sys.argv[1])";
    let output =
        Command::new(python::interpreter().unwrap()).args(["-c", parses]).arg(&plot).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let svg = std::fs::read_to_string(&plot).unwrap();
    // A point of each size, at the least in the panels of speed, CPU and memory.
    let (points, sizes) = (svg.matches("<circle").count(), stream["sizes"].as_array().unwrap().len());
    assert!(points >= 3 * sizes && points <= 6 * sizes, "{points} points of {sizes} sizes");
    assert!(svg.contains("prefers-color-scheme:dark") && svg.contains(">take "), "{svg}");
}

#[tokio::test]
async fn sizes_are_compared_without_a_trace_at_the_source_or_in_the_state() {
    let (db, project) = project().await;
    let choices = json!({ "sync_mode": "cdc", "filter": "kind <> 1", "columns": { "exclude": ["secret"] } });
    project.select_only(&["public.trips"], choices).unwrap();
    let before = contents(project.path());
    let sizes = ["--sizes", "64MiB,1MiB,4MiB,1GiB", "--runs", "2", "--max-connections", "2"];
    let output = bench(&project, &sizes).await;
    output.assert_ok();

    let report = report(&project);
    assert_eq!((&report["destination"], &report["runs"]), (&json!("null"), &json!(2)));
    assert_eq!(report["limits"]["max_connections"], 2);
    let stream = &report["streams"][0];
    assert_eq!((&stream["stream"], &stream["rows"]), (&json!("public.trips"), &json!(FILTERED)));
    let sizes = stream["sizes"].as_array().unwrap();
    let names: Vec<&str> = sizes.iter().map(|size| size["chunk_size"].as_str().unwrap()).collect();
    // A gigabyte is one chunk, and so are 64 MiB.
    assert_eq!(names, ["1MiB", "4MiB", "64MiB"]);
    assert!(output.stderr.contains("1GiB cuts it as 64MiB does"), "{}", output.stderr);
    for size in sizes {
        let runs = size["runs"].as_array().unwrap();
        assert_eq!(runs.len(), 2);
        for run in runs {
            assert_eq!((&run["rows"], &run["chunks"]), (&json!(FILTERED), &size["chunks"]));
            let cpu = run["cpu_seconds"].as_f64().unwrap();
            let peak = run["peak_rss_bytes"].as_u64().unwrap();
            assert!(cpu > 0.0 && cpu < 60.0, "{run}");
            assert!((10 << 20..1 << 30).contains(&peak), "{run}");
        }
        assert_eq!(size["read_again"]["how"], "at_most");
        assert!(size["rows_per_second"]["median"].as_f64().unwrap() > 0.0);
    }
    assert_eq!((&sizes[2]["chunks"], &sizes[2]["read_again"]["rows"]), (&json!(1), &json!(FILTERED)));
    assert!(sizes[0]["read_again"]["rows"].as_u64().unwrap() < FILTERED / 2, "{}", sizes[0]);
    // They took turns: every round has every size once.
    let order: Vec<&str> = output
        .events
        .iter()
        .filter(|event| event["event"] == "measured")
        .map(|event| event["chunk_size"].as_str().unwrap())
        .collect();
    assert_eq!(order, [names.clone(), names].concat());
    assert_plot(&project, stream);

    let chosen = stream["recommendation"]["chunk_size"].as_str().unwrap();
    assert!(output.stdout.contains(&format!("lakeward sync --chunk-size {chosen}")), "{}", output.stdout);
    assert!(output.stdout.contains("at most"), "{}", output.stdout);

    std::fs::remove_dir_all(project.file("lakeward-bench")).unwrap();
    assert_eq!(contents(project.path()), before);
    for made in ["pg_replication_slots WHERE database = current_database()", "pg_publication"] {
        let count = db.value(&format!("SELECT count(*) FROM {made}")).await.unwrap();
        assert_eq!(count.as_deref(), Some("0"), "{made}");
    }
}

#[tokio::test]
async fn a_real_destination_is_measured_and_left_as_it_was() {
    let (_db, project) = project().await;
    project.select_only(&["public.trips"], json!({ "sync_mode": "full_refresh" })).unwrap();
    project.sync(&[]).await.unwrap().assert_ok();
    let before = contents(project.path());
    let arguments =
        ["--destination", "destination.json", "--sizes", "1MiB,1GiB", "--runs", "1", "--output", "out"];
    let output = bench(&project, &arguments).await;
    output.assert_ok();

    let report = project.read("out/chunk-size.json").unwrap();
    let [small, whole] = report["streams"][0]["sizes"].as_array().unwrap().as_slice() else {
        panic!("{report}")
    };
    for size in [small, whole] {
        assert!(size["file_bytes"]["median"].as_f64().unwrap() > 1e6, "{size}");
        assert_eq!(size["runs"][0]["rows"], ROWS);
    }
    assert!(small["files"]["median"].as_f64().unwrap() > whole["files"]["median"].as_f64().unwrap());
    // What a kill costs was tried, and the whole table costs more than small chunks do, where it was slow enough.
    let again =
        |size: &Value| (size["read_again"]["how"] == "measured").then(|| size["read_again"]["rows"].as_u64());
    let Some(Some(lost)) = again(small) else { panic!("{small}") };
    assert!(lost < ROWS / 2, "{small}");
    if let Some(Some(all)) = again(whole) {
        assert!(all >= ROWS / 2 && all > lost, "{whole}");
    }
    assert!(output.stdout.contains("rows read again after a kill"), "{}", output.stdout);

    std::fs::remove_dir_all(project.file("out")).unwrap();
    assert_eq!(contents(project.path()), before);
}

#[tokio::test]
async fn a_destination_that_was_not_there_is_not_there_afterwards() {
    let (_db, project) = project().await;
    project.select_only(&["public.trips"], json!({})).unwrap();
    let lake = project.file("deep/down/lake");
    project.write("new.json", &json!({ "type": "parquet", "path": lake })).unwrap();
    let arguments = ["--destination", "new.json", "--sizes", "4MiB,1GiB", "--runs", "1"];
    bench(&project, &arguments).await.assert_ok();
    assert!(!project.file("deep").exists());
}

#[tokio::test]
async fn a_benchmark_that_is_stopped_leaves_nothing_behind() {
    let (_db, project) = project().await;
    project.select_only(&["public.trips"], json!({})).unwrap();
    for signal in [Signal::INT, Signal::TERM] {
        let arguments =
            ["bench", "chunk-size", "--destination", "destination.json", "--sizes", "256KiB,1MiB"];
        let running = project.spawn(&[&arguments[..], &["--runs", "100"]].concat()).unwrap();
        let busy = || std::fs::read_dir(project.lake()).is_ok_and(|mut entries| entries.next().is_some());
        for _ in 0..600 {
            if busy() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert!(busy());
        tokio::time::sleep(Duration::from_millis(500)).await;
        running.signal(signal).unwrap();
        running.wait_timeout(Duration::from_secs(20)).await.unwrap().assert_code(130);
        assert!(!project.lake().exists(), "{:?}", contents(&project.lake()).keys());
        assert!(!project.file("state.json").exists());
    }
}

#[tokio::test]
async fn runs_that_read_different_rows_give_no_figure() {
    let (db, project) = project().await;
    project.select_only(&["public.trips"], json!({})).unwrap();
    let arguments = ["bench", "chunk-size", "--sizes", "1MiB,1GiB", "--runs", "20"];
    let mut running = project.spawn(&arguments).unwrap();
    let mut id = ROWS;
    while !running.has_ended().unwrap() {
        let insert = format!("INSERT INTO trips (id) SELECT generate_series({id}, {})", id + 9);
        db.execute(&insert).await.unwrap();
        id += 10;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let output = running.wait_timeout(Duration::from_secs(20)).await.unwrap();
    output.assert_code(5);
    assert!(
        output.stderr.contains("runs cannot be compared") && output.stderr.contains("filter"),
        "{}",
        output.stderr
    );
    assert_eq!(output.stdout, "");
    assert!(!project.file("lakeward-bench/chunk-size.json").exists());
}

#[tokio::test]
async fn what_cannot_be_measured_is_refused_with_its_place_and_a_remedy() {
    let (_db, project) = project().await;
    let sizes = |text: &'static str| ["--stream", "public.trips", "--sizes", text];
    project.write("a-file", &json!(null)).unwrap();
    for (arguments, code, expected) in [
        (&sizes("8M,64MiB")[..], 2, "MiB"),
        (&sizes("0,64MiB"), 2, "above zero"),
        (&sizes("64MiB"), 2, "--sizes 8MiB,64MiB"),
        (&sizes("512MiB,1GiB"), 2, "well below"),
        (&["--stream", "public.trip"], 2, "did you mean public.trips?"),
        (&["--stream", "public.small"], 2, "any size does"),
        (&["--stream", "public.nothing", "--sizes", "1MiB,2MiB"], 2, "holds nothing"),
        (&["--stream", "public.trips", "--runs", "0"], 2, "--runs"),
        (&["--stream", "public.trips", "--output", "a-file"], 6, "--output"),
        (&["--stream", "public.trips", "--destination", "nowhere.json"], 2, "nowhere.json"),
    ] {
        let output = bench(&project, arguments).await;
        output.assert_code(code);
        assert_eq!(output.stdout, "", "{arguments:?}");
        assert!(output.stderr.contains(expected), "{arguments:?}: {}", output.stderr);
    }

    // A filter that nothing passes: the table has a size, the stream has no rows.
    project.select_only(&["public.trips"], json!({ "filter": "id < 0" })).unwrap();
    let output = bench(&project, &["--sizes", "1MiB,1GiB"]).await;
    output.assert_code(2);
    assert!(output.stderr.contains("nothing to measure"), "{}", output.stderr);

    // A run that fails says why, as if the command had failed itself.
    project.select_only(&["public.trips"], json!({ "columns": { "types": { "note": "int64" } } })).unwrap();
    let output = bench(&project, &["--sizes", "1MiB,1GiB"]).await;
    assert!(matches!(output.code, Some(2 | 5)), "{:?} {}", output.code, output.stderr);
    assert!(output.stderr.contains("public.trips"), "{}", output.stderr);

    // Of several streams those that can be measured are, and the exit code tells that one was not.
    project.select_only(&["public.trips", "public.nothing"], json!({})).unwrap();
    let output = bench(&project, &["--sizes", "1MiB,1GiB", "--runs", "1"]).await;
    output.assert_code(2);
    assert!(output.stdout.starts_with("public.trips: "), "{}", output.stdout);
    assert_eq!(report(&project)["streams"].as_array().unwrap().len(), 1);
}
