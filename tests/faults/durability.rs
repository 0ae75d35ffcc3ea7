//! Power loss: what a commit relies on is on the disk before it. The system calls of a run say in which order.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use lakeward_testkit::lakeward::Project;
use lakeward_testkit::on_both;
use lakeward_testkit::server::{PgServer, Version, lsn};
use serde_json::Value;

use crate::scene::{How, LAKEWARD, Scene, TABLE};

on_both!(f53_order_of_fsyncs, super::order_of_fsyncs);
on_both!(f03_f53_nothing_is_released_before_it_is_on_the_disk, super::released_after_it_is_durable);

/// How a message begins that tells the source what is safe: CopyData, its length, 'r'.
const STATUS: &str = "\\x64\\x00\\x00\\x00\\x26\\x72";

/// A system call that succeeded: when it began and ended, in lines of the trace.
#[derive(Debug)]
struct Call {
    name: String,
    arguments: String,
    began: usize,
    ended: usize,
}

/// Reads what `strace -f -y` wrote; calls that were interrupted by another thread's stand on two lines.
fn calls(trace: &str) -> Vec<Call> {
    let mut unfinished: HashMap<(String, String), (String, usize)> = HashMap::new();
    let mut calls = vec![];
    for (line, text) in trace.lines().enumerate() {
        let Some((pid, rest)) = text.split_once(' ') else { continue };
        let rest = rest.trim_start();
        let (name, arguments, began, result) = if let Some(resumed) = rest.strip_prefix("<... ") {
            let Some((name, tail)) = resumed.split_once(" resumed>") else { continue };
            let Some((head, began)) = unfinished.remove(&(pid.to_owned(), name.to_owned())) else { continue };
            let Some((more, result)) = tail.rsplit_once(" = ") else { continue };
            (name.to_owned(), head + more, began, result)
        } else {
            let Some((name, tail)) = rest.split_once('(') else { continue };
            if let Some(head) = tail.strip_suffix("<unfinished ...>") {
                unfinished.insert((pid.to_owned(), name.to_owned()), (head.to_owned(), line));
                continue;
            }
            let Some((arguments, result)) = tail.rsplit_once(" = ") else { continue };
            (name.to_owned(), arguments.to_owned(), line, result)
        };
        if !result.trim_start().starts_with('-') {
            calls.push(Call { name, arguments, began, ended: line });
        }
    }
    calls
}

struct Trace(Vec<Call>);

/// A place in the source's log, and the line of the trace at which it was told, or on the disk.
#[derive(Clone, Copy, Debug)]
struct Told {
    lsn: u64,
    line: usize,
}

impl Trace {
    /// The fsyncs of a path.
    fn syncs(&self, path: &str) -> impl Iterator<Item = &Call> {
        let of = format!("<{path}>");
        self.0.iter().filter(move |call| {
            matches!(call.name.as_str(), "fsync" | "fdatasync") && call.arguments.contains(&of)
        })
    }

    /// An fsync of a path that began after one moment and ended before another.
    #[track_caller]
    fn synced(&self, path: &str, after: usize, before: usize) -> &Call {
        let found = self.syncs(path).find(|call| call.began > after && call.ended < before);
        found.unwrap_or_else(|| panic!("no fsync of {path} between lines {after} and {before} of the trace"))
    }

    fn renames<'a>(&'a self, from: &str, to: &str) -> impl Iterator<Item = &'a Call> {
        let (from, to) = (format!("\"{from}\""), format!("\"{to}"));
        let of = move |call: &&Call| {
            call.name.starts_with("rename")
                && call.arguments.find(&from).is_some_and(|at| call.arguments[at..].contains(&to))
        };
        self.0.iter().filter(of)
    }

    /// The last write of a whole file to `path` began here.
    fn writes(&self, path: &str) -> impl Iterator<Item = &Call> {
        let of = format!("<{path}>");
        self.0.iter().filter(move |call| call.name == "write" && call.arguments.contains(&of))
    }

    /// Up to where the source was told that all is safe, each time.
    fn released(&self) -> Vec<Told> {
        let told = self.0.iter().filter_map(|call| {
            let message = &call.arguments[call.arguments.find(STATUS)?..];
            let bytes = message.split("\\x").skip(1).map(|byte| u8::from_str_radix(byte.get(..2)?, 16).ok());
            // Written, flushed, applied: behind tag, length and kind, eight bytes each.
            let flushed: Vec<u8> = bytes.skip(6 + 8).take(8).collect::<Option<_>>()?;
            Some(Told { lsn: u64::from_be_bytes(flushed.try_into().ok()?), line: call.began })
        });
        told.collect()
    }

    /// Where saved states say that all is committed, each from when its name is on the disk.
    fn durable(&self, directory: &str) -> Vec<Told> {
        let new = format!("{directory}/state.json.new");
        let saves = self.writes(&new).filter_map(|save| {
            let synced = self.syncs(&new).find(|call| call.began > save.ended)?;
            let renamed = self.renames("./state.json.new", "").find(|call| call.began > synced.ended)?;
            let named = self.syncs(directory).find(|call| call.began > renamed.ended)?;
            Some(Told { lsn: global_in(&save.arguments)?, line: named.ended })
        });
        saves.collect()
    }

    /// The first that was released before it was durable. `before` is what was so from the beginning.
    fn released_early(&self, directory: &str, before: u64) -> Option<Told> {
        let durable = self.durable(directory);
        self.released().into_iter().find(|released| {
            let by_then = durable.iter().filter(|saved| saved.line < released.line);
            released.lsn > by_then.map(|saved| saved.lsn).fold(before, u64::max)
        })
    }
}

/// The place in the log that all streams share, in a state as strace prints it.
fn global_in(arguments: &str) -> Option<u64> {
    let (_, global) = arguments.split_once("\\\"global\\\": ")?;
    let (position, _) = global.split_once("\\\"streams\\\": ")?;
    let (_, place) = position.split_once("\\\"lsn\\\": \\\"")?;
    lsn(place.split('\\').next()?)
}

/// The place in the log that a record or a state's global part names.
fn place_of(value: &Value) -> Option<u64> {
    lsn(value["position"]["lsn"].as_str()?)
}

/// The number after `"commit": ` in a state as strace prints it.
fn commit_in(arguments: &str) -> Option<u64> {
    let (_, rest) = arguments.split_once("\\\"commit\\\": ")?;
    rest.chars().take_while(char::is_ascii_digit).collect::<String>().parse().ok()
}

async fn traced(scene: &Scene, name: &str, further: &[&str]) -> (Trace, PathBuf) {
    let strace = Project::new("strace", &serde_json::json!({})).unwrap();
    for file in ["source.json", "destination.json", "streams.json", "state.json"] {
        if scene.project.file(file).exists() {
            std::fs::copy(scene.project.file(file), strace.file(file)).unwrap();
        }
    }
    let output = scene.project.file(name);
    let output_path = output.to_str().unwrap();
    let select = "trace=fsync,fdatasync,link,linkat,rename,renameat,renameat2,write,writev,sendto,sendmsg";
    // With -x what is no text is printed in hexadecimal digits.
    let mut command =
        vec!["-f", "-x", "-y", "-s", "65536", "-e", select, "-o", output_path, LAKEWARD, "sync"];
    command.extend([
        "--config",
        "source.json",
        "--destination",
        "destination.json",
        "--streams",
        "streams.json",
    ]);
    command.extend(["--state", "state.json", "--chunk-size", "64KiB"]);
    command.extend(further);
    let run = strace.spawn(&command).expect("strace must be installed: apt-get install strace");
    run.wait_timeout(Duration::from_secs(120)).await.unwrap().assert_ok();
    std::fs::copy(strace.file("state.json"), scene.project.file("state.json")).unwrap();
    let trace = Trace(calls(&String::from_utf8_lossy(&std::fs::read(&output).unwrap())));
    (trace, strace.path().to_owned())
}

async fn order_of_fsyncs(version: Version) {
    for how in [How::FullRefresh, How::Incremental] {
        let scene = Scene::new(&PgServer::shared(version), 3_000, how).await;
        // A first generation; then one over an old one, or a pass.
        let (trace, directory) = traced(&scene, "first.trace", &[]).await;
        let first = check(&trace, &directory, &scene, 0);
        scene
            .db
            .execute(&format!("UPDATE {TABLE} SET version = version + 1 WHERE id % 5 = 0"))
            .await
            .unwrap();
        let (trace, directory) = traced(&scene, "second.trace", &[]).await;
        let second = check(&trace, &directory, &scene, first);
        eprintln!("{}, {how:?}: {first} and {} commits in order", version.name(), second - first);
        assert!(first >= 4 && second > first, "too few commits to say anything");
        scene.assert_exact().await;
    }
}

async fn released_after_it_is_durable(version: Version) {
    let scene = Scene::new(&PgServer::shared(version), 3_000, How::Cdc).await;
    // Each transaction is a checkpoint of its own.
    let often = ["--checkpoint-interval", "1s,1KiB"];
    let (trace, directory) = traced(&scene, "first.trace", &often).await;
    let mut known = check(&trace, &directory, &scene, 0);
    assert_eq!(trace.released_early(directory.to_str().unwrap(), 0).map(|told| told.lsn), None);
    for (round, name) in ["second.trace", "third.trace"].into_iter().enumerate() {
        for n in 0..6 {
            let remainder = round * 6 + n;
            let sql = format!("UPDATE {TABLE} SET version = version + 1 WHERE id % 200 = {remainder}0");
            scene.db.execute(&sql).await.unwrap();
        }
        let before = place_of(&scene.project.state().unwrap()["global"]).unwrap();
        let (trace, directory) = traced(&scene, name, &often).await;
        let directory_name = directory.to_str().unwrap();
        let early = trace.released_early(directory_name, before);
        assert!(early.is_none(), "released before a state that says so was on the disk: {early:X?}");
        let mut steps: Vec<u64> = trace.released().iter().map(|told| told.lsn).collect();
        assert!(steps.is_sorted(), "what was released is taken back: {steps:X?}");
        steps.dedup();
        let after = place_of(&scene.project.state().unwrap()["global"]).unwrap();
        assert_eq!(steps.last(), Some(&after), "the end was not released");
        steps.retain(|lsn| *lsn > before);
        assert!(steps.len() >= 4, "too little was released to say anything: {steps:X?}");
        let last = check(&trace, &directory, &scene, known);
        assert!(last >= known + 4, "too few commits to say anything: {}", last - known);
        known = last;
        // A run that saved and did not wait for the disk would be found out.
        let hasty = Trace(trace.0.into_iter().filter(|call| call.name != "fsync").collect());
        assert!(hasty.released_early(directory_name, before).is_some(), "nothing is ever found");
        eprintln!("{}: {} places released in order", version.name(), steps.len());
    }
    scene.assert_exact().await;
}

/// Checks every commit after number `known`, and every save of the state; returns the number of the last commit.
fn check(trace: &Trace, directory: &std::path::Path, scene: &Scene, known: u64) -> u64 {
    let meta = scene.meta();
    let path = |path: &std::path::Path| path.to_str().unwrap().to_owned();
    let commits = path(&meta.join("commits"));
    let log = scene.log();
    // By commit, when it was published as a whole.
    let mut published: HashMap<u64, usize> = HashMap::new();
    let mut links = vec![];
    for record in log.iter().filter(|record| record["number"].as_u64().unwrap() > known) {
        let number = record["number"].as_u64().unwrap();
        let name = format!("\"{commits}/{number:012}.json\"");
        let link =
            trace.0.iter().find(|call| call.name.starts_with("link") && call.arguments.contains(&name));
        let link = link.unwrap_or_else(|| panic!("commit {number} was not linked"));
        // The record itself.
        let temporary = link.arguments.split('"').nth(1).unwrap();
        trace.synced(temporary, 0, link.began);
        // Files, then the directory that names them.
        let mut staged: Vec<String> = added(record, "add");
        staged.extend(window(record, &log));
        for staged in &staged {
            let staged = meta.join(staged);
            let file = trace.synced(&path(&staged), 0, link.began);
            trace.synced(&path(staged.parent().unwrap()), file.ended, link.began);
        }
        // The link is durable before anything comes into sight.
        let durable = trace.synced(&commits, link.ended, usize::MAX).ended;
        let mut done = durable;
        for staged in &staged {
            let from = path(&meta.join(staged));
            let renamed =
                trace.renames(&from, "/").next().unwrap_or_else(|| panic!("{from} was not published"));
            assert!(renamed.began > durable, "{from} came into sight before its commit was durable");
            let to = renamed.arguments.rsplit('"').nth(1).unwrap();
            let target = std::path::Path::new(to).parent().unwrap();
            done = done.max(trace.synced(&path(target), renamed.ended, usize::MAX).ended);
        }
        published.insert(number, done);
        links.push(link.began);
    }

    let (new, state_directory) = (path(&directory.join("state.json.new")), path(directory));
    let saves: Vec<&Call> = trace.writes(&new).collect();
    assert!(!saves.is_empty(), "the state was never saved");
    if known == 0 {
        assert!(
            saves[0].ended < links[0],
            "something was committed before the pipeline's identity was saved"
        );
    }
    for (place, save) in saves.iter().enumerate() {
        if let Some(commit) = commit_in(&save.arguments).filter(|commit| *commit > known) {
            for number in known + 1..=commit {
                let at = published.get(&number).copied().unwrap_or(usize::MAX);
                assert!(at < save.began, "the state knew of commit {number} before it was published");
            }
        }
        // So it is with those whose changes all streams are said to have.
        let shared = global_in(&save.arguments).unwrap_or_default();
        for (before, record) in log.iter().zip(log.iter().skip(1)) {
            let number = record["number"].as_u64().unwrap();
            let brought = place_of(record).filter(|place| Some(*place) > place_of(before));
            if number > known && brought.is_some_and(|place| place <= shared) {
                let at = published.get(&number).copied().unwrap_or(usize::MAX);
                assert!(at < save.began, "the state had passed commit {number} before it was published");
            }
        }
        let next = saves.get(place + 1).map_or(usize::MAX, |next| next.began);
        let synced = trace.synced(&new, save.ended, next);
        let renamed =
            trace.renames("./state.json.new", "").find(|call| call.began > synced.ended && call.ended < next);
        let renamed = renamed.expect("a saved state was not renamed after its fsync");
        trace.synced(&state_directory, renamed.ended, next);
    }
    let last = log.last().unwrap()["number"].as_u64().unwrap();
    assert_eq!(
        commit_in(&saves.last().unwrap().arguments),
        Some(last),
        "the state does not know the last commit"
    );
    last
}

fn added(record: &Value, field: &str) -> Vec<String> {
    let list = record[field].as_array().into_iter().flatten();
    list.map(|file| file["staged"].as_str().unwrap().to_owned()).collect()
}

/// The window that a record brought, if it did; every record repeats the newest.
fn window(record: &Value, log: &[Value]) -> Option<String> {
    let staged = record["window"]["staged"].as_str()?;
    let number = record["number"].as_u64()?;
    let before = log.iter().find(|other| other["number"].as_u64() == Some(number - 1));
    let repeated = before.is_some_and(|before| before["window"]["staged"] == staged);
    (!repeated).then(|| staged.to_owned())
}
