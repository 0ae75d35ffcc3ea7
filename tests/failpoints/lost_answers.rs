//! A step fails and nobody knows what came of it.

use std::time::Duration;

use lakeward_testkit::lakeward::Output;
use lakeward_testkit::on_both;
use lakeward_testkit::server::Version;

use crate::changes::{CHANGE, CHANGES, FOLLOW, Logs, ONE_CHECKPOINT, assert_exact, followed};
use crate::every_step::{LOG_FOLLOWED, Situation, is_of_taking_over};
use crate::scene::How;

on_both!(f43_answers_of_a_backfill_are_lost, super::of_a_backfill);
on_both!(f43_answers_of_an_incremental_pass_are_lost, super::of_an_incremental_pass);
on_both!(f43_answers_of_a_checkpoint_are_lost, super::of_a_checkpoint);

/// From the record on its way to what follows a commit: before the link nothing was committed, after it all was.
const PLACES: &[&str] = &[
    "parquet-record-written",
    "parquet-record-synced",
    "parquet-record-linked",
    "parquet-commits-synced",
    "parquet-file-renamed",
    "parquet-targets-synced",
    "engine-committed",
    "engine-state-saved",
    "state-written",
];

/// Those before the link.
const BEFORE: &[&str] = &["parquet-record-written", "parquet-record-synced"];

async fn of_a_backfill(version: Version) {
    let mut situation = Situation::new(version, How::FullRefresh).await;
    for place in PLACES {
        fail_at(&mut situation, place, if place.starts_with("state") { 1 } else { 3 }).await;
    }
}

async fn of_an_incremental_pass(version: Version) {
    let mut situation = Situation::new(version, How::Incremental).await;
    situation.sync().await.assert_ok();
    let changes = "UPDATE busy SET version = version + 1 WHERE id % 4 = 0;
                   INSERT INTO busy (id, version, amount, note) SELECT 1000000 + n, 0, n, 'new' FROM generate_series(1, 500) n";
    situation.scene.db.psql(changes).await.unwrap();
    for place in PLACES {
        // The first record of the run is its claim, and the pass before is looked at once more.
        fail_at(&mut situation, place, if is_of_taking_over(place) { 2 } else { 1 }).await;
    }
}

async fn fail_at(situation: &mut Situation, place: &str, nth: u32) {
    let mut project = situation.copy();
    project.set_failpoints(&format!("{place}:{nth}=error"));
    let arguments = ["--chunk-size", "128KiB", "--max-connections", "1"];
    assert_failed(&project.sync(&arguments).await.unwrap(), place);
    situation.finish(project, &format!("{place}:{nth}=error")).await;
}

fn assert_failed(output: &Output, place: &str) {
    assert_eq!(output.code, Some(6), "{place}\n{}", output.stderr);
    assert!(output.stderr.contains("a failpoint made the step fail"), "{place}: {}", output.stderr);
}

/// A run that would go on for ever ends by itself too.
async fn of_a_checkpoint(version: Version) {
    let mut scene = followed(version).await;
    for place in [PLACES, LOG_FOLLOWED].concat() {
        // Both streams are taken over, and the state is saved, before anything is read.
        let nth = match place {
            _ if is_of_taking_over(place) => 3,
            "state-written" => 2,
            _ => 1,
        };
        for arguments in [&ONE_CHECKPOINT[..], &FOLLOW] {
            let at = format!("{place}:{nth}=error {arguments:?}");
            eprintln!("{at}");
            scene.sql(CHANGES).await;
            let logs = Logs::now(&scene.project);
            scene.project.set_failpoints(&format!("{place}:{nth}=error"));
            let run = scene.start(arguments);
            assert_failed(&run.wait_timeout(Duration::from_secs(30)).await.unwrap(), &at);
            scene.project.clear_failpoints();
            // What the other stream committed stands.
            let stand = if BEFORE.contains(&place) { 1 } else { 2 };
            assert_eq!(logs.count(&scene.project, "data"), stand, "{at}");
            scene.assert_nothing_forgotten_early().await;
            scene.sql(CHANGES).await;
            scene.sync().await;
        }
        assert_exact(&scene, place).await;
    }
    // Nothing more has to happen at the source for it to be noticed.
    scene.sql(CHANGE).await;
    scene.project.set_failpoints("engine-state-saved:1=error");
    let run = scene.start(&FOLLOW);
    assert_failed(&run.wait_timeout(Duration::from_secs(8)).await.unwrap(), "an idle log");
    scene.project.clear_failpoints();
    scene.sync().await;
    assert_exact(&scene, "an idle log").await;
}
