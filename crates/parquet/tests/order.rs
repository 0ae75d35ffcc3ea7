//! The order of writes, fsyncs, link and rename, as the kernel saw it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on should stop where it stands"
)]

mod support;

use std::path::Path;
use std::process::Command;

use lakeward_core::{Destination, Result, StreamId, SwapStep};

use support::*;

const DIR: &str = "LAKEWARD_TEST_DIR";

#[test]
fn child() {
    let Some(dir) = std::env::var_os(DIR) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
    runtime.block_on(one_commit(Path::new(&dir))).unwrap();
}

async fn one_commit(dir: &Path) -> Result<()> {
    let id = StreamId::new("public", "t");
    let stream = numbers(&id, false);
    let lake = destination(dir);
    lake.prepare(&id, &run("a")).await?;
    let mut all = commit(&stream, 1, "backfill");
    all.open = Some(open(&stream, 1, "s"));
    all.chunk = Some((0, done(10)));
    all.swap = Some(SwapStep::Replace);
    all.files = write(&lake, &stream, 1, "backfill", 0..10).await?;
    commit_one(&lake, all).await?;
    Ok(())
}

/// The first line at or after `from` that has all the words; its successor is where to go on.
fn after(lines: &[&str], from: usize, words: &[&str]) -> usize {
    let found = lines[from..].iter().position(|line| words.iter().all(|word| line.contains(word)));
    match found {
        Some(index) => from + index + 1,
        None => panic!("no {words:?} after line {from} of:\n{}", lines.join("\n")),
    }
}

#[test]
fn each_step_is_durable_before_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let trace = dir.path().join("trace");
    let lake = dir.path().join("lake");
    let status = Command::new("strace")
        .args(["-f", "-y", "-s", "8", "-e"])
        .arg("trace=write,fsync,fdatasync,link,linkat,rename,renameat,renameat2")
        .arg("-o")
        .arg(&trace)
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture"])
        .env(DIR, &lake)
        .status()
        .expect("this test needs strace: apt-get install strace");
    assert!(status.success());
    let text = std::fs::read_to_string(&trace).unwrap();
    let lines: Vec<&str> = text.lines().filter(|line| !line.contains("unfinished")).collect();

    let mut at = 0;
    for words in [
        vec!["write(", ".parquet.part>"],
        vec!["sync(", ".parquet.part>"],
        vec!["sync(", "/staging/a>"],
        vec!["write(", "record-000000000001.json.part>"],
        vec!["sync(", "record-000000000001.json.part>"],
        vec!["link", "record-000000000001.json.part", "commits/000000000001.json"],
        vec!["sync(", "/commits>"],
        vec!["rename", ".parquet.part", "public/t/1-000000000001-"],
        vec!["sync(", "lake/public/t>"],
    ] {
        at = after(&lines, at, &words);
    }
    // Nothing of the unit is written once its record is linked.
    let linked = after(&lines, 0, &["link", "commits/000000000001.json"]);
    assert!(!lines[linked..].iter().any(|line| line.contains("write(") && line.contains(".parquet")));
    // File, staging, record, commits and the stream's own directory. The two above it are new here.
    let syncs = lines[after(&lines, 0, &["write(", ".parquet.part>"])..]
        .iter()
        .filter(|line| line.contains("sync(") && !line.contains("/lake>") && !line.contains("/lake/public>"));
    assert_eq!(syncs.count(), 5, "{}", lines.join("\n"));
}
