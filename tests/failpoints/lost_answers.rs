//! A step fails and nobody knows what came of it.

use crate::every_step::Situation;
use crate::scene::How;

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

#[tokio::test]
async fn f43_answers_of_a_backfill_are_lost() {
    let mut situation = Situation::new(How::FullRefresh).await;
    for place in PLACES {
        fail_at(&mut situation, place, if place.starts_with("state") { 1 } else { 3 }).await;
    }
}

#[tokio::test]
async fn f43_answers_of_an_incremental_pass_are_lost() {
    let mut situation = Situation::new(How::Incremental).await;
    situation.sync().await.assert_ok();
    let changes = "UPDATE busy SET version = version + 1 WHERE id % 4 = 0;
                   INSERT INTO busy (id, version, amount, note) SELECT 1000000 + n, 0, n, 'new' FROM generate_series(1, 500) n";
    situation.scene.db.psql(changes).await.unwrap();
    for place in PLACES {
        // The first record of the run is its claim.
        let claim = matches!(
            *place,
            "parquet-record-written"
                | "parquet-record-synced"
                | "parquet-record-linked"
                | "parquet-commits-synced"
        );
        fail_at(&mut situation, place, if claim { 2 } else { 1 }).await;
    }
}

async fn fail_at(situation: &mut Situation, place: &str, nth: u32) {
    let project = situation.copy().env("LAKEWARD_FAILPOINT", &format!("{place}:{nth}=error"));
    let arguments = ["--chunk-size", "128KiB", "--max-connections", "1"];
    let failed = project.sync(&arguments).await.unwrap();
    assert_eq!(failed.code, Some(6), "{place}:{nth}\n{}", failed.stderr);
    assert!(failed.stderr.contains("a failpoint made the step fail"), "{place}: {}", failed.stderr);
    situation.finish(project, &format!("{place}:{nth}=error")).await;
}
