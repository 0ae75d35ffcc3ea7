//! Every failpoint that there is, in the situations that pass it: the run aborts there, what is visible then is
//! whole, the next run finishes, and every row is there once.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use lakeward_testkit::lakeward::{Output, Project, Signal};
use lakeward_testkit::server::{PgServer, Version};
use lakeward_testkit::workload::rounds;
use lakeward_testkit::{on_both, project_root};
use serde_json::json;

use crate::scene::{How, LAKEWARD, Scene, TABLE, assert_visible_generation, copy_tree, event};

on_both!(f42_aborted_in_a_first_generation, super::in_a_first_generation);
on_both!(f42_aborted_in_a_generation_over_an_old_one, super::in_a_generation_over_an_old_one);
on_both!(f42_aborted_in_an_incremental_pass, super::in_an_incremental_pass);
on_both!(f42_aborted_in_a_resumed_backfill, super::in_a_resumed_backfill);
on_both!(f42_aborted_while_a_generation_is_given_up, super::while_a_generation_is_given_up);

/// What every commit passes.
pub const COMMIT: &[&str] = &[
    "parquet-record-written",
    "parquet-record-synced",
    "parquet-record-linked",
    "parquet-commits-synced",
    "engine-committed",
    "engine-state-saved",
    "state-written",
    "state-renamed",
];

/// Whether a run passes it once before its work, for each stream that it takes over: the claim is a record as others are,
/// and what was committed last is made durable once more.
pub fn is_of_taking_over(place: &str) -> bool {
    let further = ["parquet-commits-synced", "parquet-targets-synced"];
    place.starts_with("parquet-record-") || further.contains(&place)
}

/// What every commit with files passes. Each version has its half, where each has all of it in other situations.
fn half(version: Version) -> Vec<&'static str> {
    let first = Version::ALL.iter().position(|each| *each == version).unwrap();
    [COMMIT, FILES].concat().into_iter().skip(first).step_by(Version::ALL.len()).collect()
}

/// What a commit with files passes besides.
pub const FILES: &[&str] = &[
    "parquet-stage-written",
    "parquet-file-synced",
    "parquet-stage-synced",
    "parquet-file-renamed",
    "parquet-targets-synced",
];

const FIRST_GENERATION: &[&str] = &["parquet-swap-renamed", "parquet-swap-synced"];

const SECOND_GENERATION: &[&str] = &[
    "parquet-claim-linked",
    "parquet-swap-exchanged",
    "parquet-swap-synced",
    "parquet-foreign-file-returned",
    "parquet-former-file-removed",
    "parquet-former-generation-removed",
];

const INCREMENTAL_PASS: &[&str] = &[
    "parquet-claim-linked",
    "parquet-window-written",
    "parquet-window-staged",
    "parquet-window-renamed",
    "parquet-window-synced",
    "parquet-window-removed",
];

const RESUMED: &[&str] =
    &["parquet-claim-linked", "parquet-staged-file-removed", "parquet-file-removed", "parquet-swap-renamed"];

/// Passed while a crash is recovered from: the destination's own crash tests go through it.
const RECOVERED: &[&str] = &["parquet-stray-removed"];

/// Passed while small files are merged, or a history is rewritten: the destination's own crash tests, and those of
/// change streams.
const MERGED: &[&str] = &["parquet-merge-staged"];

const GIVEN_UP: &[&str] = &["parquet-hidden-generation-removed"];

/// Only where the file system cannot exchange two directories.
const ELSEWHERE: &[&str] = &["parquet-swap-retired"];

/// Passed where a source's log is begun to be followed.
pub const LOG_BEGUN: &[&str] = &["engine-intent-saved", "engine-log-followable"];

/// Passed where it is followed.
pub const LOG_FOLLOWED: &[&str] = &["engine-released"];

/// The larger the table, the more chunks, each with a commit of its own.
const ROWS: u64 = 3_000;
const ARGUMENTS: &[&str] = &["--chunk-size", "128KiB", "--max-connections", "1"];

/// All places in the source at which a test may stop the program.
fn all_failpoints() -> BTreeSet<String> {
    fn walk(directory: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(directory).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    let mut files = vec![];
    walk(&project_root().join("crates"), &mut files);
    let mut names = BTreeSet::new();
    for file in files.iter().filter(|file| file.components().any(|part| part.as_os_str() == "src")) {
        let text = std::fs::read_to_string(file).unwrap();
        let calls = text.split("failpoint::hit(\"").skip(1);
        names.extend(calls.filter_map(|rest| rest.split_once('"')).map(|(name, _)| name.to_owned()));
    }
    names
}

#[test]
fn f42_no_failpoint_is_left_out() {
    let all = all_failpoints();
    assert!(all.len() > 20, "the failpoints were not found in the source: {all:?}");
    let lists = [
        COMMIT,
        FILES,
        FIRST_GENERATION,
        SECOND_GENERATION,
        INCREMENTAL_PASS,
        RESUMED,
        RECOVERED,
        MERGED,
        GIVEN_UP,
        ELSEWHERE,
        LOG_BEGUN,
        LOG_FOLLOWED,
    ];
    let named: BTreeSet<String> = lists.concat().into_iter().map(str::to_owned).collect();
    assert_eq!(named, all, "each failpoint needs a situation in which it is passed");
}

/// A pipeline in some situation, of which each case gets a copy.
pub struct Situation {
    pub scene: Scene,
}

impl Situation {
    pub async fn new(version: Version, how: How) -> Self {
        let scene = Scene::new(&PgServer::shared(version), ROWS, how).await;
        Self { scene }
    }

    pub async fn sync(&self) -> Output {
        self.scene.project.sync(ARGUMENTS).await.unwrap()
    }

    /// A project of its own that stands exactly where this one does.
    pub fn copy(&self) -> Project {
        let project = Project::new(LAKEWARD, &self.scene.db.source_config(json!({}))).unwrap();
        for file in ["streams.json", "state.json"] {
            if self.scene.project.file(file).exists() {
                std::fs::copy(self.scene.project.file(file), project.file(file)).unwrap();
            }
        }
        if self.scene.project.lake().exists() {
            copy_tree(&self.scene.project.lake(), &project.lake());
        }
        project
    }

    /// For each place: a run on a copy aborts there, the next one finishes, every row is there once.
    pub async fn abort_at_each(&mut self, places: &[&str], nth: u32) {
        for place in places {
            let mut project = self.copy();
            project.abort_at(place, nth);
            let aborted = project.sync(ARGUMENTS).await.unwrap();
            assert_aborted(&aborted, place, nth);
            self.finish(project, &format!("{place}:{nth}")).await;
        }
    }

    /// The same, where a run works and does not take the stream over.
    pub async fn abort_at_each_at_work(&mut self, places: &[&str]) {
        for place in places {
            self.abort_at_each(&[place], if is_of_taking_over(place) { 2 } else { 1 }).await;
        }
    }

    /// What an aborted run left is finished by the next one.
    pub async fn finish(&mut self, mut project: Project, what: &str) {
        project.clear_failpoints();
        std::mem::swap(&mut self.scene.project, &mut project);
        assert_visible_generation(&self.scene);
        let output = self.sync().await;
        assert_eq!(output.code, Some(0), "after {what}:\n{}", output.stderr);
        eprintln!("after {what}");
        self.scene.assert_exact().await;
        // A run that finds nothing to do but its work leaves nothing behind either.
        let left = std::fs::read_dir(self.scene.meta().join("staging")).into_iter().flatten().flatten();
        let left: Vec<_> =
            left.flat_map(|run| std::fs::read_dir(run.path()).into_iter().flatten().flatten()).collect();
        assert!(left.is_empty(), "after {what}: staging holds {left:?}");
        std::mem::swap(&mut self.scene.project, &mut project);
    }
}

fn assert_aborted(output: &Output, place: &str, nth: u32) {
    let wanted = Some(Signal::ABORT.as_raw());
    assert_eq!(output.signal, wanted, "{place}:{nth} was not passed: {:?}\n{}", output.code, output.stderr);
}

async fn in_a_first_generation(version: Version) {
    let mut situation = Situation::new(version, How::FullRefresh).await;
    situation.abort_at_each(&[COMMIT, FILES, FIRST_GENERATION].concat(), 1).await;
    // Once more in the midst of the chunks.
    let midst =
        ["parquet-record-linked", "parquet-commits-synced", "parquet-file-renamed", "engine-committed"];
    for round in 0..rounds(1) {
        situation.abort_at_each(&midst, 3 + round % 2).await;
    }
}

async fn in_a_generation_over_an_old_one(version: Version) {
    let mut situation = Situation::new(version, How::FullRefresh).await;
    situation.sync().await.assert_ok();
    std::fs::write(situation.scene.project.stream_directory(TABLE).join("notes.txt"), "not ours").unwrap();
    // Nothing in the old generation is right any more.
    let changes = "UPDATE busy SET version = version + 1; DELETE FROM busy WHERE id % 3 = 0;
                   INSERT INTO busy SELECT 1000000 + n, 0, n, 'new', NULL FROM generate_series(1, 500) n";
    situation.scene.db.psql(changes).await.unwrap();
    situation.abort_at_each(SECOND_GENERATION, 1).await;
    situation.abort_at_each_at_work(&half(version)).await;
    let mut project = situation.copy();
    project.abort_at("parquet-former-file-removed", 2);
    let aborted = project.sync(ARGUMENTS).await.unwrap();
    assert_aborted(&aborted, "parquet-former-file-removed", 2);
    let notes = project.stream_directory(TABLE).join("notes.txt");
    assert_eq!(std::fs::read_to_string(notes).unwrap(), "not ours", "a foreign file was taken away");
    situation.finish(project, "parquet-former-file-removed:2").await;
}

async fn in_an_incremental_pass(version: Version) {
    let mut situation = Situation::new(version, How::Incremental).await;
    situation.sync().await.assert_ok();
    for _ in 0..2 {
        situation.scene.db.psql("UPDATE busy SET version = version + 1 WHERE id % 7 = 0").await.unwrap();
        situation.sync().await.assert_ok();
    }
    let changes = "UPDATE busy SET version = version + 1 WHERE id % 4 = 0;
                   INSERT INTO busy (id, version, amount, note) SELECT 1000000 + n, 0, n, 'new' FROM generate_series(1, 500) n";
    situation.scene.db.psql(changes).await.unwrap();
    situation.abort_at_each(INCREMENTAL_PASS, 1).await;
    situation.abort_at_each_at_work(&[COMMIT, FILES].concat()).await;
    let all = [COMMIT, FILES].concat();
    let taking_over: Vec<&str> = all.into_iter().filter(|place| is_of_taking_over(place)).collect();
    situation.abort_at_each(&taking_over, 1).await;
}

/// A backfill that was stopped just before its swap; then rows of some of its chunks changed.
async fn interrupted(version: Version) -> (Situation, u32) {
    let mut situation = Situation::new(version, How::FullRefresh).await;
    let project = situation.copy();
    let whole = project.sync(ARGUMENTS).await.unwrap();
    let chunks =
        u32::try_from(event(whole.assert_ok(), "stream_planned")["chunks"].as_u64().unwrap()).unwrap();
    assert!(chunks >= 4, "too few chunks: {chunks}");
    // The record that opens the generation, one for each chunk, then that of the swap.
    situation.scene.project.abort_at("parquet-record-synced", chunks + 2);
    assert_aborted(&situation.sync().await, "parquet-record-synced", chunks + 2);
    situation.scene.project.clear_failpoints();
    assert_eq!(situation.scene.chunks().len(), chunks as usize);
    (situation, chunks)
}

const CHANGE_A_CHUNK: &str =
    "UPDATE busy SET version = version + 1, note = repeat('x', 900) WHERE ctid < '(2,0)'";

async fn in_a_resumed_backfill(version: Version) {
    let (mut situation, _) = interrupted(version).await;
    situation.scene.db.psql(CHANGE_A_CHUNK).await.unwrap();
    situation.abort_at_each(RESUMED, 1).await;
    situation.abort_at_each_at_work(&half(version)).await;
}

async fn while_a_generation_is_given_up(version: Version) {
    let (mut situation, _) = interrupted(version).await;
    // With another column it is another generation.
    situation.scene.db.psql("ALTER TABLE busy ADD COLUMN later int DEFAULT 7").await.unwrap();
    situation.scene.project.discover().await.unwrap().assert_ok();
    situation.abort_at_each(&[GIVEN_UP, FIRST_GENERATION].concat(), 1).await;
}
