//! Killed at random moments, again and again, while others write.

use std::time::{Duration, Instant};

use lakeward_testkit::on_both;
use lakeward_testkit::server::{PgServer, Version};
use lakeward_testkit::workload::{Workload, rounds, seed};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::scene::{Deletes, How, Scene, TABLE};

/// Kills in a round. Only those count that met a run at work.
const KILLS: u32 = 9;
const ROWS: u64 = 60_000;

/// Which runs are let to their end before the kills begin.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Before {
    Nothing,
    ABackfill,
}

on_both!(f22_killed_in_backfills_under_writes, |version| super::kill(
    version,
    super::How::FullRefresh,
    super::Before::Nothing
));
on_both!(f21_killed_in_the_first_backfill_of_an_incremental_stream, |version| super::kill(
    version,
    super::How::Incremental,
    super::Before::Nothing
));
on_both!(f42_killed_in_incremental_passes_under_writes, |version| super::kill(
    version,
    super::How::Incremental,
    super::Before::ABackfill
));

async fn kill(version: Version, how: How, before: Before) {
    let seed = seed();
    for round in 0..rounds(1) {
        let mut rng = StdRng::seed_from_u64(seed.wrapping_add(u64::from(round)));
        let scene = Scene::new(&PgServer::shared(version), ROWS, how).await;
        if before == Before::ABackfill {
            scene.sync(&[]).await.assert_ok();
        }
        let workload = Workload::new(TABLE, rng.random(), 80);
        let writers = workload.start(&scene.db).await.unwrap();
        // Moments are drawn from the time that a whole run takes, which is learned on the way.
        let mut whole = Duration::from_millis(2500);
        let (mut killed, mut ended) = (0, 0);
        while killed < KILLS {
            let moment = whole.mul_f64(rng.random());
            let start = Instant::now();
            let mut run = scene.start(&[]);
            while start.elapsed() < moment && !run.has_ended().unwrap() {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            let took = start.elapsed();
            let output = run.kill9().await.unwrap();
            if output.signal.is_some() {
                killed += 1;
                // Where kills come too early to let anything be done, they come later.
                whole += Duration::from_millis(150);
            } else {
                output.assert_ok();
                ended += 1;
                whole = took;
            }
            scene.assert_visible_files_are_whole();
            assert!(ended < 60, "runs end too soon to be killed");
        }
        let counts = writers.stop().await.unwrap();
        assert!(counts.committed > 0, "nobody wrote");
        scene.sync(&[]).await.assert_ok();
        scene.assert_exact_but_for(Deletes::Some).await;
        eprintln!(
            "{}, {how:?}: seed {seed}, round {round}: {killed} kills, {ended} runs ended by themselves, {} transactions",
            version.name(),
            counts.committed
        );
    }
}
