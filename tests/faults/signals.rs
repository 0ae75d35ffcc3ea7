//! Stopped on request.

use std::time::{Duration, Instant};

use lakeward_testkit::lakeward::Signal;
use lakeward_testkit::on_both;
use lakeward_testkit::proxy::Proxy;
use lakeward_testkit::server::{PgServer, Version};
use lakeward_testkit::workload::{Workload, rounds, seed};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::json;

use crate::scene::{Deletes, How, Scene, TABLE};

on_both!(f51_stopped_at_random_moments, super::at_random_moments);
on_both!(f51_stopped_while_the_server_is_silent, super::while_the_server_is_silent);

/// A stop takes this long at most.
const LIMIT: Duration = Duration::from_secs(10);

async fn at_random_moments(version: Version) {
    let seed = seed();
    let mut rng = StdRng::seed_from_u64(seed);
    let server = PgServer::shared(version);
    for how in [How::FullRefresh, How::Incremental] {
        let scene = Scene::new(&server, 40_000, how).await;
        let proxy = Proxy::start(server.port()).unwrap();
        proxy.throttle(Some(2 << 20));
        scene.source(json!({ "port": proxy.port() }));
        let writers = Workload::new(TABLE, rng.random(), 40).start(&scene.db).await.unwrap();
        let mut stopped = 0;
        // How long a run takes, as far as it was seen: those that come after the first backfill are shorter.
        let mut lasts = 3500;
        for number in 0..rounds(1) * 5 {
            let signal = if number % 2 == 0 { Signal::TERM } else { Signal::INT };
            let mut run = scene.start(&[]);
            let begun = Instant::now();
            let moment = Duration::from_millis(rng.random_range(50..lasts));
            while begun.elapsed() < moment && !run.has_ended().unwrap() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            if run.has_ended().unwrap() {
                run.wait_timeout(LIMIT).await.unwrap().assert_ok();
                lasts = (begun.elapsed().as_millis() as u64).max(100);
                continue;
            }
            let sent = Instant::now();
            run.signal(signal).unwrap();
            let output = run.wait_timeout(LIMIT).await.unwrap();
            // One that was about to end may end before it hears.
            assert!(
                matches!(output.code, Some(0 | 130)),
                "seed {seed}: {:?}\n{}",
                output.code,
                output.stderr
            );
            assert!(sent.elapsed() < LIMIT, "seed {seed}: it took {:?} to stop", sent.elapsed());
            stopped += u32::from(output.code == Some(130));
            // What the log says is what the state says: nothing is left for the next start to find out.
            if let Some(last) = scene.log().last() {
                let state = scene.project.state().unwrap();
                assert_eq!(
                    state["streams"][0]["commit"], last["number"],
                    "seed {seed}: the state was not saved"
                );
            }
            scene.assert_visible_files_are_whole();
        }
        assert!(stopped > 0, "seed {seed}: no run was stopped at work");
        writers.stop().await.unwrap();
        proxy.throttle(None);
        scene.sync(&[]).await.assert_ok();
        scene.assert_exact_but_for(Deletes::Some).await;
        eprintln!("{}, {how:?}: seed {seed}: {stopped} runs stopped", version.name());
    }
}

async fn while_the_server_is_silent(version: Version) {
    let server = PgServer::shared(version);
    let scene = Scene::new(&server, 20_000, How::FullRefresh).await;
    let proxy = Proxy::start(server.port()).unwrap();
    proxy.throttle(Some(1 << 20));
    scene.source(json!({ "port": proxy.port() }));
    let mut run = scene.start(&[]);
    scene.wait_for_chunks(&mut run, 2).await;
    proxy.stall();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let sent = Instant::now();
    run.signal(Signal::TERM).unwrap();
    let output = run.wait_timeout(LIMIT + Duration::from_secs(2)).await.unwrap();
    output.assert_code(130);
    assert!(sent.elapsed() < LIMIT + Duration::from_secs(1), "it took {:?} to stop", sent.elapsed());
    eprintln!("{}: stopped after {:?}", version.name(), sent.elapsed());
    proxy.resume();
    proxy.throttle(None);
    scene.sync(&[]).await.assert_ok();
    scene.assert_exact().await;
}
