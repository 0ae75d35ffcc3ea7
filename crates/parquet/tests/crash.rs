//! Exactly once, wherever a process is killed: a script of commits is run in a child process that is aborted at
//! every passage of every failpoint, once and again during the recovery from it, and then run to its end.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::single_range_in_vec_init,
    reason = "a test that cannot go on should stop where it stands"
)]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicUsize, Ordering};

use arrow::datatypes::DataType;
use lakeward_core::{
    Column, ColumnType, Destination, Eagerness, MemoryBudget, Progress, Result, StreamId, SwapStep,
};
use lakeward_parquet::FAILPOINTS;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use tokio_util::sync::CancellationToken;

use support::*;

const DIR: &str = "LAKEWARD_TEST_DIR";
const RUN: &str = "LAKEWARD_TEST_RUN";
const LAST: u64 = 20;

fn id() -> StreamId {
    StreamId::new("public", "numbers")
}

/// What a reader sees after so many steps.
fn expected(step: u64) -> BTreeMap<i64, usize> {
    match step {
        0..=6 => once(&[]),
        7 => once(&[-5..20]),
        8 => once(&[-5..20, 200..205]),
        9 => once(&[-5..20, 200..210]),
        10 => once(&[-5..20, 200..215]),
        11 => once(&[1000..1020]),
        12 | 13 => once(&[1000..1020, 2000..2005]),
        14 => once(&[1000..1020, 2000..2005, 3000..3010]),
        15..=17 => once(&[1000..1020, 2000..2005, 3000..3010, 3100..3105]),
        18 | 19 => once(&[1000..1020, 2000..2005, 3000..3010, 3100..3105, 5000..5010, 5100..5105]),
        _ => once(&[4000..4010]),
    }
}

/// Before each of these steps all small files are merged, the swap's witness and files of chunks among them, and
/// so many are left: one of each partition and generation.
fn merged_before(step: u64) -> Option<usize> {
    match step {
        11 => Some(3),
        13 => Some(2),
        // The generation before stays as history, as it was merged.
        16 => Some(4),
        _ => None,
    }
}

/// Does what is left of the script. The pass, committed with each step, says how far it has come, and each time
/// it is looked at what a reader sees: after a recovery as after a commit.
async fn script(dir: &Path, run_id: &str) -> Result<()> {
    let narrow = numbers(&id(), true);
    let decimal = ColumnType::Decimal { precision: 20, scale: 0 };
    let columns = vec![Column::new("id", ColumnType::Int64), Column::new("part", decimal.clone())];
    let wide = stream_of(&id(), columns, &["part"]);
    let lake = destination(dir);
    let mut head = lake.prepare(&id(), &run(run_id)).await?;
    loop {
        let stream = if head.progress.pass < 15 { &narrow } else { &wide };
        assert_eq!(
            ids(&dir.join("public/numbers")),
            expected(head.progress.pass),
            "step {}",
            head.progress.pass
        );
        if head.progress.pass >= 18 {
            // Every file of the history was written anew in the type of the generation that was shown.
            for file in lake.files(&id()).await? {
                assert_eq!(type_of_part(&file.path), decimal.arrow(), "{}", file.path);
            }
        }
        if head.progress.pass == LAST {
            return Ok(());
        }
        let step = head.progress.pass + 1;
        if let Some(left) = merged_before(step) {
            while lake.compact(&id(), merging(Eagerness::Any)).await?.is_some() {
                // Nothing but files changes, and no row is seen twice once it is done.
                assert_eq!(
                    ids(&dir.join("public/numbers")),
                    expected(step - 1),
                    "merging before step {step}"
                );
            }
            let files = lake.files(&id()).await?;
            assert_eq!(files.len(), left, "before step {step}: {files:?}");
        }
        let generation = match step {
            1..=10 => 1,
            11..=12 => 2,
            13 => 3,
            14..=15 => 4,
            16..=18 => 5,
            _ => 6,
        };
        let name = format!("step/{step}");
        let mut next = commit(stream, generation, &name);
        next.progress = Some(Progress { position: None, cursor: None, pass: step });
        let ids = match step {
            2 => Some(0..10),
            3 => Some(10..20),
            4 => Some(100..105),
            6 => Some(-5..10),
            8 => Some(200..205),
            9 => Some(205..210),
            10 => Some(210..215),
            11 => Some(1000..1020),
            12 => Some(2000..2005),
            13 => Some(2500..2505),
            14 => Some(3000..3010),
            15 => Some(3100..3105),
            17 => Some(5000..5010),
            18 => Some(5100..5105),
            20 => Some(4000..4010),
            _ => None,
        };
        match step {
            1 => next.open = Some(open(stream, 2, "s1")),
            2 | 6 => next.chunk = Some((0, done(10))),
            3 => next.chunk = Some((1, done(10))),
            5 => {
                next.open = Some(open(stream, 2, "s2"));
            }
            7 => next.swap = Some(SwapStep::Replace),
            8..=10 => next.window = Some(vec![step as u8; 100]),
            11 | 14 => {
                next.open = Some(open(stream, 1, "s"));
                next.chunk = Some((0, done(20)));
                next.swap = Some(if step == 11 { SwapStep::Replace } else { SwapStep::KeepHistory });
            }
            13 | 16 | 19 => next.open = Some(open(stream, 1, "s")),
            17 => next.chunk = Some((0, done(10))),
            18 => {
                next.swap = Some(SwapStep::KeepHistory);
                let (budget, stop) = (MemoryBudget::new(64 << 20), CancellationToken::new());
                next.rewritten = lake.rewrite(&id(), &stream.schema, &budget, &stop).await?;
                assert_eq!(next.rewritten.len(), 4);
            }
            20 => {
                next.chunk = Some((0, done(10)));
                next.swap = Some(SwapStep::Replace);
            }
            _ => {}
        }
        if let Some(ids) = ids {
            next.files = write(&lake, stream, generation, &name, ids).await?;
        }
        head = commit_one(&lake, next).await?;
    }
}

fn type_of_part(path: &str) -> DataType {
    let file = ParquetRecordBatchReaderBuilder::try_new(fs::File::open(path).unwrap()).unwrap();
    file.schema().field_with_name("part").unwrap().data_type().clone()
}

#[test]
fn child() {
    let (Some(dir), Ok(run_id)) = (std::env::var_os(DIR), std::env::var(RUN)) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
    runtime.block_on(script(Path::new(&dir), &run_id)).unwrap();
}

fn spawn(dir: &Path, run_id: &str, failpoint: Option<&str>) -> Output {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "child", "--nocapture"]).env(DIR, dir).env(RUN, run_id);
    command.env("LAKEWARD_FAILPOINT", failpoint.unwrap_or_default());
    command.output().unwrap()
}

/// A step that fails (a full disk, say) ends the run with an error.
fn failed(output: &Output) -> bool {
    !output.status.success()
}

fn aborted(output: &Output) -> bool {
    use std::os::unix::process::ExitStatusExt;
    let aborted = output.status.signal().is_some();
    assert!(aborted || output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    aborted
}

/// What holds after any crash: every visible file is whole and committed.
fn assert_visible_is_committed(dir: &Path, at: &str) {
    let visible = dir.join("public/numbers");
    ids(&visible);
    let commits = dir.join("_lakeward/public/numbers/commits");
    let log: String =
        tree(&commits).iter().map(|path| fs::read_to_string(commits.join(path)).unwrap()).collect();
    for path in tree(&visible).into_iter().filter(|path| is_data(path)) {
        assert!(log.contains(path.to_str().unwrap()), "{at}: {} is visible, not committed", path.display());
    }
}

fn assert_finished(dir: &Path, foreign: bool, at: &str) {
    let visible = dir.join("public/numbers");
    assert_eq!(ids(&visible), expected(LAST), "{at}");
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let lake = destination(dir);
    let files = runtime.block_on(lake.files(&id())).unwrap();
    let listed: BTreeSet<String> = files.iter().map(|file| file.path.clone()).collect();
    let found: BTreeSet<String> = tree(&visible)
        .into_iter()
        .filter(|path| is_data(path))
        .map(|path| visible.join(path).to_string_lossy().into_owned())
        .collect();
    assert_eq!(listed, found, "{at}");
    let meta = dir.join("_lakeward/public/numbers");
    for path in tree(&meta) {
        let text = path.to_string_lossy();
        let kept = text.starts_with("commits/") || text == "lock" || text.starts_with("window-");
        assert!(kept, "{at}: {text} was left over");
    }
    if foreign {
        assert_eq!(fs::read_to_string(visible.join("notes.txt")).unwrap(), "mine", "{at}");
        assert_eq!(fs::read_to_string(visible.join("sub/part-0.parquet")).unwrap(), "mine too", "{at}");
    }
}

fn put_foreign(dir: &Path) {
    let visible = dir.join("public/numbers");
    fs::create_dir_all(visible.join("sub")).unwrap();
    fs::write(visible.join("notes.txt"), "mine").unwrap();
    fs::write(visible.join("sub/part-0.parquet"), "mine too").unwrap();
}

/// Kills a run at every passage of one place, the run after it somewhere in its recovery, and lets a third finish.
/// Says whether the place was passed at all.
fn crash_at(name: &str, foreign: bool) -> bool {
    for passage in 1.. {
        let dir = tempfile::tempdir().unwrap();
        if foreign {
            put_foreign(dir.path());
        }
        let point = format!("{name}:{passage}=abort");
        if !aborted(&spawn(dir.path(), "run-1", Some(&point))) {
            assert_finished(dir.path(), foreign, &point);
            return passage > 1;
        }
        assert_visible_is_committed(dir.path(), &point);
        let again = format!("{}=abort", FAILPOINTS[passage % FAILPOINTS.len()]);
        if aborted(&spawn(dir.path(), "run-2", Some(&again))) {
            assert_visible_is_committed(dir.path(), &format!("{point}, then {again}"));
        }
        assert!(!aborted(&spawn(dir.path(), "run-3", None)), "{point}");
        assert_finished(dir.path(), foreign, &format!("{point}, then {again}"));
    }
    false
}

/// Runs work for each of some places, on a few threads: most of it is waiting for the disk.
fn for_each_place(places: &[&'static str], work: impl Fn(&'static str) + Sync) {
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while let Some(name) = places.get(next.fetch_add(1, Ordering::SeqCst)) {
                    work(name);
                }
            });
        }
    });
}

/// Places that only a recovery passes, or only a file system that cannot exchange directories.
const ELSEWHERE: [&str; 4] =
    ["parquet-claim-linked", "parquet-stray-removed", "parquet-staged-file-removed", "parquet-swap-retired"];

#[test]
fn killed_between_any_two_durable_steps_it_is_exactly_once() {
    for_each_place(FAILPOINTS, |name| {
        let reached = crash_at(name, false) | (about_swaps(name) && crash_at(name, true));
        assert!(reached || ELSEWHERE.contains(&name), "{name} was never reached");
    });
}

/// Where other people's files make a difference.
fn about_swaps(name: &str) -> bool {
    ["parquet-swap", "parquet-foreign", "parquet-former"].iter().any(|start| name.starts_with(start))
}

#[test]
fn a_step_that_fails_ends_the_run_and_the_next_one_goes_on() {
    for_each_place(FAILPOINTS, |name| {
        for passage in [1, 3] {
            let dir = tempfile::tempdir().unwrap();
            let point = format!("{name}:{passage}=error");
            if failed(&spawn(dir.path(), "run-1", Some(&point))) {
                assert_visible_is_committed(dir.path(), &point);
                assert!(!failed(&spawn(dir.path(), "run-2", None)), "{point}");
            }
            assert_finished(dir.path(), false, &point);
        }
    });
}

#[test]
fn killed_during_recovery_it_is_exactly_once() {
    for first in ["parquet-stage-synced:3", "parquet-file-renamed:9", "parquet-record-linked:6"] {
        for second in ["parquet-claim-linked", "parquet-stray-removed", "parquet-staged-file-removed"] {
            let dir = tempfile::tempdir().unwrap();
            assert!(aborted(&spawn(dir.path(), "run-1", Some(&format!("{first}=abort")))));
            for attempt in 2..4 {
                let point = format!("{second}=abort");
                if !aborted(&spawn(dir.path(), &format!("run-{attempt}"), Some(&point))) {
                    break;
                }
                assert_visible_is_committed(dir.path(), &format!("{first}, {second}"));
            }
            assert!(!aborted(&spawn(dir.path(), "run-9", None)));
            assert_finished(dir.path(), false, &format!("{first}, {second}"));
        }
    }
}
