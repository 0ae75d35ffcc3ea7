//! Stopped on request, while a commit takes its time: that of a chunk, or of a checkpoint of the log.

use std::time::{Duration, Instant};

use lakeward_testkit::churn::{self, Churn};
use lakeward_testkit::lakeward::{Project, Running, Signal};
use lakeward_testkit::on_both;
use lakeward_testkit::reconcile::{Options, reconcile};
use lakeward_testkit::server::{PgServer, Version};
use lakeward_testkit::workload::{rounds, seed};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::json;

use crate::changes::{self, CHANGES, FOLLOW, Logs};
use crate::followed::Followed;
use crate::scene::{How, Scene, TABLE};

on_both!(f51_a_commit_is_finished_before_a_stop, |version| super::finished(version, super::What::Backfill));
on_both!(f51_a_checkpoint_is_finished_before_a_stop, |version| super::finished(version, super::What::Log));
on_both!(f51_a_second_signal_leaves_at_once, |version| super::second_signal(version, super::What::Backfill));
on_both!(f51_a_second_signal_leaves_a_checkpoint, |version| super::second_signal(version, super::What::Log));
on_both!(f51_a_stop_has_a_limit, |version| super::limit(version, super::What::Backfill));
on_both!(f51_a_stop_amid_a_checkpoint_has_a_limit, |version| super::limit(version, super::What::Log));
on_both!(f51_stopped_at_random_moments_while_a_log_is_followed, super::at_random_moments);

/// What a run is busy with.
#[derive(Clone, Copy)]
enum What {
    Backfill,
    Log,
}

/// It, at work.
enum AtWork {
    Backfill(Scene),
    Log(Followed),
}

impl AtWork {
    async fn new(version: Version, what: What) -> Self {
        match what {
            What::Backfill => {
                Self::Backfill(Scene::new(&PgServer::shared(version), 5_000, How::FullRefresh).await)
            }
            What::Log => Self::Log(changes::followed(version).await),
        }
    }

    fn project(&mut self) -> &mut Project {
        match self {
            Self::Backfill(scene) => &mut scene.project,
            Self::Log(scene) => &mut scene.project,
        }
    }

    fn arguments(&self) -> &'static [&'static str] {
        match self {
            Self::Backfill(_) => &["--chunk-size", "128KiB", "--max-connections", "1"],
            Self::Log(_) => &FOLLOW,
        }
    }

    fn tables(&self) -> &'static [&'static str] {
        match self {
            Self::Backfill(_) => &[TABLE],
            Self::Log(_) => &changes::TABLES,
        }
    }

    /// A run whose third record takes so long, as soon as it is about to be committed: that of the second chunk, or the
    /// first of a checkpoint.
    async fn committing(&mut self, milliseconds: u32) -> Running {
        let before = match self {
            // From the beginning each time: the opening, and the first chunk.
            Self::Backfill(scene) => {
                scene.project = scene.over_same();
                2
            }
            // Both claims, and the other stream's part of the checkpoint.
            Self::Log(scene) => {
                scene.sql(CHANGES).await;
                3
            }
        };
        let arguments = self.arguments();
        let (tables, project) = (self.tables(), self.project());
        let records = |project: &Project| -> usize {
            tables.iter().map(|table| project.commit_log(*table).unwrap().len()).sum()
        };
        let before = records(project) + before;
        project.set_failpoints(&format!("parquet-record-synced:3=sleep({milliseconds})"));
        let run = project.spawn_sync(arguments).unwrap();
        let start = Instant::now();
        while records(project) < before {
            assert!(start.elapsed() < Duration::from_secs(60), "commit {before} does not come");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
        run
    }

    /// The next run finishes.
    async fn goes_on(&mut self) {
        let bounded: Vec<&str> =
            self.arguments().iter().copied().filter(|argument| *argument != "--follow").collect();
        self.project().clear_failpoints();
        self.project().sync(&bounded).await.unwrap().assert_ok();
        match self {
            Self::Backfill(scene) => {
                let (lake, options) = (scene.project.lake(), Options::full_refresh());
                reconcile(&scene.db, &lake, TABLE, &options).await.unwrap().assert_same();
            }
            Self::Log(scene) => changes::assert_exact(scene, "stopped").await,
        }
    }
}

/// What the logs say is what the state says: nothing is left for the next start to find out.
fn assert_saved(project: &Project, tables: &[&str]) {
    let state = project.state().unwrap_or_default();
    for table in tables {
        let Some(last) = project.commit_log(*table).unwrap().pop() else { continue };
        let streams = state["streams"].as_array().into_iter().flatten();
        let saved =
            streams.filter(|stream| stream["stream"] == *table).map(|stream| &stream["commit"]).next();
        assert_eq!(saved, Some(&last["number"]), "the state of {table} was not saved");
    }
}

/// A commit that is under way is finished before a stop.
async fn finished(version: Version, what: What) {
    let mut at_work = AtWork::new(version, what).await;
    for signal in [Signal::TERM, Signal::INT] {
        let logs = match &at_work {
            AtWork::Log(scene) => Some(Logs::now(&scene.project)),
            AtWork::Backfill(_) => None,
        };
        let run = at_work.committing(3000).await;
        run.signal(signal).unwrap();
        run.wait_timeout(Duration::from_secs(10)).await.unwrap().assert_code(130);
        let tables = at_work.tables();
        assert_saved(at_work.project(), tables);
        match (&at_work, logs) {
            (AtWork::Log(scene), Some(logs)) => {
                // The next transaction may have been read to its end meanwhile.
                let linked = logs.since(&scene.project);
                let whole = linked.iter().all(|linked| linked.starts_with(&["claim".into(), "data".into()]));
                assert!(
                    whole && linked[0] == linked[1],
                    "the checkpoint under way was not finished: {linked:?}"
                );
                let state = scene.project.state().unwrap();
                let saved = state["global"]["position"]["lsn"].as_str();
                assert_eq!(scene.slot("confirmed_flush_lsn").await.as_deref(), saved, "it was not released");
            }
            _ => {
                // One more chunk may have been waiting to be committed: it is read while the one before it is.
                let records = at_work.project().commit_log(TABLE).unwrap().len();
                assert!(
                    (3..=4).contains(&records),
                    "the commit under way was not finished, or another was begun"
                );
            }
        }
        at_work.goes_on().await;
    }
}

/// A second signal does not wait for it.
async fn second_signal(version: Version, what: What) {
    let mut at_work = AtWork::new(version, what).await;
    for signal in [Signal::TERM, Signal::INT] {
        let mut run = at_work.committing(9000).await;
        run.signal(signal).unwrap();
        tokio::time::sleep(Duration::from_millis(700)).await;
        assert!(!run.has_ended().unwrap(), "it did not wait for its commit");
        let sent = Instant::now();
        run.signal(signal).unwrap();
        run.wait_timeout(Duration::from_secs(8)).await.unwrap().assert_code(130);
        assert!(sent.elapsed() < Duration::from_secs(1), "it left only after {:?}", sent.elapsed());
        at_work.goes_on().await;
    }
}

/// However long a commit takes, a stop does not take longer than it may.
async fn limit(version: Version, what: What) {
    let mut at_work = AtWork::new(version, what).await;
    let run = at_work.committing(60_000).await;
    let sent = Instant::now();
    run.signal(Signal::TERM).unwrap();
    run.wait_timeout(Duration::from_secs(15)).await.unwrap().assert_code(130);
    assert!(sent.elapsed() < Duration::from_secs(11), "it left only after {:?}", sent.elapsed());
    at_work.goes_on().await;
}

/// All kinds of transactions are written meanwhile.
async fn at_random_moments(version: Version) {
    const LIMIT: Duration = Duration::from_secs(10);
    let seed = seed();
    let mut rng = StdRng::seed_from_u64(seed);
    let churn = Churn::new(rng.random(), 80);
    let db = PgServer::shared(version).create_database("stopped").await.unwrap();
    churn.create_tables(&db).await.unwrap();
    let scene = Followed::over(db, json!({}), &churn::TABLES).await;
    let writers = churn.start(&scene.db).await.unwrap();
    for number in 0..rounds(1) * 6 {
        let signal = if number % 2 == 0 { Signal::TERM } else { Signal::INT };
        let mut run =
            scene.start(&["--follow", "--chunk-size", "128KiB", "--checkpoint-interval", "150ms,256KiB"]);
        tokio::time::sleep(Duration::from_millis(rng.random_range(200..2500))).await;
        assert!(!run.has_ended().unwrap(), "seed {seed}: it ended by itself");
        let sent = Instant::now();
        run.signal(signal).unwrap();
        run.wait_timeout(LIMIT).await.unwrap().assert_code(130);
        eprintln!("{}: stopped after {:?}", version.name(), sent.elapsed());
        scene.assert_nothing_forgotten_early().await;
        assert_saved(&scene.project, &churn::TABLES);
    }
    writers.stop().await.unwrap();
    scene.sync().await;
    for table in churn::TABLES {
        scene.assert_same(table).await;
    }
}
