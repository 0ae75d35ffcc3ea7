//! The runner, tried on a shell script in place of the program under test.
#![allow(missing_docs, clippy::unwrap_used)]

use std::time::Duration;

use lakeward_testkit::lakeward::{Project, Signal};
use serde_json::json;

fn project(script: &str) -> Project {
    // A file of the repository: one written here may still be open for writing in a child that
    // another test has just forked.
    let program = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/program.sh");
    Project::new(program, &json!({ "type": "postgres" })).unwrap().env("SCRIPT", script)
}

#[tokio::test]
async fn a_run_ends_with_its_code_its_results_and_its_events() {
    let script = r#"echo "$@"; echo '{"event":"start"}' >&2; echo plain >&2; echo "{\"failpoint\":\"$LAKEWARD_FAILPOINT\"}" >&2; printf '{"cut' >&2; exit 5"#;
    let mut project = project(script);
    project.abort_at("commit.linked", 3);
    let output = project.sync(&["--follow"]).await.unwrap();
    output.assert_code(5);
    assert_eq!(
        output.stdout,
        "sync --config source.json --destination destination.json --streams streams.json --state state.json --follow\n"
    );
    assert_eq!(output.events, [json!({"event": "start"}), json!({"failpoint": "commit.linked:3=abort"})]);
    assert!(output.stderr.contains("plain"));
}

#[tokio::test]
async fn configs_are_written_and_streams_selected() {
    let found = json!({"streams": [{"stream": {"namespace": "public", "name": "a"}}, {"stream": {"namespace": "public", "name": "b"}}]});
    let project = project(&format!("echo '{found}' > streams.json"));
    let project = project.destination(json!({ "compression": "snappy" })).unwrap();
    assert_eq!(project.read("destination.json").unwrap()["compression"], "snappy");
    project.discover().await.unwrap().assert_ok();
    project.select("public.a", json!({ "sync_mode": "cdc" })).unwrap();
    project.select("public.a", json!({ "filter": "id > 1" })).unwrap();
    assert!(project.select("public.nowhere", json!({})).is_err());
    let selected = project.read("streams.json").unwrap()["selected_streams"].clone();
    assert_eq!(selected, json!({"public": [{"stream_name": "a", "sync_mode": "cdc", "filter": "id > 1"}]}));
    project.select_only(&["b"], json!({ "sync_mode": "full_refresh" })).unwrap();
    let selected = project.read("streams.json").unwrap()["selected_streams"].clone();
    assert_eq!(selected, json!({"public": [{"stream_name": "b", "sync_mode": "full_refresh"}]}));
}

#[tokio::test]
async fn a_run_is_killed_signalled_and_not_waited_for_without_end() {
    let project = project("trap 'echo caught >&2; exit 130' TERM; echo up >&2; while :; do sleep 0.05; done");
    let running = project.spawn_sync(&[]).unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(running.peak_rss_bytes() > 100_000);
    running.signal(Signal::TERM).unwrap();
    let output = running.wait_timeout(Duration::from_secs(5)).await.unwrap();
    output.assert_code(130);
    assert!(output.stderr.contains("caught") && output.peak_rss_bytes > 100_000);

    let mut running = project.spawn_sync(&[]).unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!running.has_ended().unwrap());
    let output = running.kill9().await.unwrap();
    assert_eq!((output.code, output.stderr.as_str()), (None, "up\n"));

    let running = project.spawn_sync(&[]).unwrap();
    let error = running.wait_timeout(Duration::from_millis(300)).await.unwrap_err();
    assert!(error.to_string().contains("did not end") && error.to_string().contains("up"));
}
