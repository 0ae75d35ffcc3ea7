//! The `lakeward` command from outside: arguments, streams, exit codes, and that no secret is ever printed.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop where it stands")]

mod bench;

use std::fs::OpenOptions;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

const CANARY: &str = "canary-5e1f90c2";

struct Run {
    code: i32,
    stdout: String,
    stderr: String,
}

fn lakeward(directory: &Path, arguments: &[&str]) -> Run {
    let Output { status, stdout, stderr } = Command::new(env!("CARGO_BIN_EXE_lakeward"))
        .current_dir(directory)
        .args(arguments)
        .env("LAKEWARD_TEST_SECRET", CANARY)
        .env_remove("RUST_BACKTRACE")
        .output()
        .unwrap();
    Run {
        code: status.code().unwrap_or(-1),
        stdout: String::from_utf8(stdout).unwrap(),
        stderr: String::from_utf8(stderr).unwrap(),
    }
}

fn write(directory: &Path, name: &str, text: &str) {
    std::fs::write(directory.join(name), text).unwrap();
}

/// A directory whose source refuses connections: port 1 is nobody's.
fn pipeline() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let source = r#"{ "type": "postgres", "host": "127.0.0.1", "port": 1, "database": "shop",
                      "username": "lakeward", "password": "${LAKEWARD_TEST_SECRET}" }"#;
    write(directory.path(), "source.json", source);
    write(directory.path(), "destination.json", r#"{ "type": "parquet", "path": "lake" }"#);
    let streams = r#"{ "selected_streams": { "public": [ { "stream_name": "orders" } ] }, "streams": [] }"#;
    write(directory.path(), "streams.json", streams);
    directory
}

#[test]
fn help_and_version_are_results() {
    let directory = tempfile::tempdir().unwrap();
    for arguments in [
        &["--help"][..],
        &["sync", "--help"],
        &["state", "rebuild", "--help"],
        &["bench", "chunk-size", "--help"],
        &["--version"],
    ] {
        let run = lakeward(directory.path(), arguments);
        assert_eq!((run.code, run.stderr.as_str()), (0, ""), "{arguments:?}");
        assert!(!run.stdout.is_empty());
    }
}

#[test]
fn wrong_usage_exits_with_2_and_prints_no_result() {
    let directory = tempfile::tempdir().unwrap();
    for (arguments, expected) in [
        (&["snyc"][..], "sync"),
        (&["sync", "--memory-limit", "256M"], "MiB"),
        (&["sync", "--memory-limit", "1MiB"], "at least 64MiB"),
        (&["sync", "--checkpoint-interval", "64"], "no unit"),
        (&["sync", "--max-connections", "0"], "0"),
        (&["sync", "--follow", "--dry-run"], "cannot be used with"),
        (&["clear"], "--all"),
        (&["clear", "public.a", "--all"], "cannot be used with"),
        (&["spec", "postgre"], "did you mean"),
        (&["status"], "there is no state yet"),
        (&["sync"], "streams.json"),
        (&["check"], "source.json"),
    ] {
        let run = lakeward(directory.path(), arguments);
        assert_eq!((run.code, run.stdout.as_str()), (2, ""), "{arguments:?}: {}", run.stderr);
        assert!(run.stderr.contains(expected), "{arguments:?}: {}", run.stderr);
        assert!(!run.stderr.contains("backtrace"), "{}", run.stderr);
    }
}

#[test]
fn spec_lists_connectors_and_prints_schemas() {
    let directory = tempfile::tempdir().unwrap();
    let run = lakeward(directory.path(), &["spec"]);
    for connector in ["postgres", "parquet", "null"] {
        assert!(run.stdout.contains(connector), "{}", run.stdout);
        let run = lakeward(directory.path(), &["spec", connector]);
        let schema: serde_json::Value = serde_json::from_str(&run.stdout).unwrap();
        assert!(schema["properties"]["type"].is_object(), "{schema}");
    }
}

#[test]
fn an_unknown_connector_is_answered_with_the_nearest() {
    let directory = pipeline();
    write(directory.path(), "source.json", r#"{ "type": "postgresql" }"#);
    let run = lakeward(directory.path(), &["check", "--log-format", "text"]);
    assert_eq!(run.code, 2);
    assert!(run.stderr.contains("did you mean \"postgres\"?"), "{}", run.stderr);
    assert!(run.stderr.contains("file: source.json"), "{}", run.stderr);
}

#[test]
fn a_failure_is_one_json_line_where_nobody_looks() {
    let directory = pipeline();
    write(directory.path(), "source.json", r#"{ "type": "postgres", "password": "${NOT_SET_ANYWHERE}" }"#);
    let run = lakeward(directory.path(), &["sync"]);
    assert_eq!(run.code, 2);
    let line: serde_json::Value = serde_json::from_str(run.stderr.trim()).unwrap();
    assert_eq!(line["event"], "failed");
    assert_eq!(line["exit_code"], 2);
    assert_eq!(line["places"][0], serde_json::json!({ "what": "field", "value": "password" }));
    assert!(line["message"].as_str().unwrap().contains("NOT_SET_ANYWHERE"));
}

#[test]
fn clear_asks_and_without_a_terminal_needs_yes() {
    let directory = pipeline();
    let run = lakeward(directory.path(), &["clear", "--all"]);
    assert_eq!(run.code, 2, "{}", run.stderr);
    assert!(run.stderr.contains("--yes"), "{}", run.stderr);
    let run = lakeward(directory.path(), &["clear", "public.order", "--yes"]);
    assert_eq!(run.code, 2, "{}", run.stderr);
    assert!(run.stderr.contains("did you mean public.orders?"), "{}", run.stderr);
}

#[test]
fn compact_needs_the_state_and_knows_only_selected_streams() {
    let directory = pipeline();
    let run = lakeward(directory.path(), &["compact"]);
    assert_eq!((run.code, run.stdout.as_str()), (7, ""), "{}", run.stderr);
    assert!(run.stderr.contains("there is no state"), "{}", run.stderr);
    assert!(!directory.path().join("lake").exists());
    let run = lakeward(directory.path(), &["compact", "public.order"]);
    assert_eq!(run.code, 2);
    assert!(run.stderr.contains("did you mean public.orders?"), "{}", run.stderr);
}

#[test]
fn completions_name_every_command() {
    let directory = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish"] {
        let run = lakeward(directory.path(), &["completions", shell]);
        assert_eq!(run.code, 0);
        assert!(run.stdout.contains("discover") && run.stdout.contains("rebuild"), "{shell}");
    }
}

#[test]
fn a_source_that_cannot_be_reached_exits_with_3() {
    let directory = pipeline();
    for arguments in [&["check"][..], &["discover"], &["sync", "--dry-run"]] {
        let run = lakeward(directory.path(), arguments);
        assert_eq!((run.code, run.stdout.as_str()), (3, ""), "{arguments:?}: {}", run.stderr);
    }
}

#[test]
fn a_command_that_waits_for_its_config_can_be_ended() {
    let directory = pipeline();
    let config = directory.path().join("source.pipe");
    assert!(Command::new("mkfifo").arg(&config).status().unwrap().success());
    for command in ["check", "discover", "verify"] {
        let mut child = Command::new(env!("CARGO_BIN_EXE_lakeward"))
            .current_dir(directory.path())
            .args([command, "--config", "source.pipe"])
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // It opens once somebody reads, who then waits for what is never written.
        let writer = OpenOptions::new().write(true).open(&config).unwrap();
        assert!(Command::new("kill").arg(child.id().to_string()).status().unwrap().success());
        let deadline = Instant::now() + Duration::from_secs(20);
        let status = loop {
            match child.try_wait().unwrap() {
                Some(status) => break status,
                None if Instant::now() > deadline => {
                    child.kill().unwrap();
                    break child.wait().unwrap();
                }
                None => std::thread::sleep(Duration::from_millis(20)),
            }
        };
        assert_eq!(status.code(), Some(130), "{command}: {status}");
        drop(writer);
    }
}

#[test]
fn no_secret_is_printed_at_any_level_whatever_fails() {
    let directory = pipeline();
    let path = directory.path();
    write(path, "secret", CANARY);
    let file = format!("file://{}", path.join("secret").display());
    for (name, text) in [
        ("wrong-field.json", r#"{"type": "postgres", "pasword": "${LAKEWARD_TEST_SECRET}"}"#.to_owned()),
        ("wrong-type.json", r#"{"type": "postgres", "port": "${LAKEWARD_TEST_SECRET}"}"#.to_owned()),
        ("as-kind.json", format!(r#"{{"type": "postgres", "ssl": "{file}"}}"#)),
        (
            "url.json",
            r#"{"type": "postgres", "url": "postgresql://u:${LAKEWARD_TEST_SECRET}@127.0.0.1:1/d"}"#
                .to_owned(),
        ),
        (
            "bad-url.json",
            r#"{"type": "postgres", "url": "postgresql://u:${LAKEWARD_TEST_SECRET}@[::/d?x=1"}"#.to_owned(),
        ),
        ("torn.json", format!(r#"{{"type": "postgres", "password": "{CANARY}" "#)),
        ("torn.yaml", format!("type: postgres\npassword: '{CANARY}\n- x")),
        ("stray.json", format!(r#"{{"type": "postgres", "password": "${{{CANARY}"}}"#)),
    ] {
        write(path, name, &text);
    }
    for config in [
        "source.json",
        "wrong-field.json",
        "wrong-type.json",
        "as-kind.json",
        "url.json",
        "bad-url.json",
        "torn.json",
        "torn.yaml",
        "stray.json",
    ] {
        for format in ["text", "json"] {
            for command in [&["check"][..], &["discover"], &["sync"]] {
                let common = ["--config", config, "--log-level", "trace", "--log-format", format];
                let run = lakeward(path, &[command, &common].concat());
                assert_ne!(run.code, 0, "{config}");
                assert_ne!(run.code, 1, "{config}: {}", run.stderr);
                for text in [&run.stdout, &run.stderr] {
                    assert!(!text.contains(CANARY), "{command:?} {config}: {text}");
                }
            }
        }
    }
}
