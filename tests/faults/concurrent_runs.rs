//! Two runs at once.

use std::time::{Duration, Instant};

use lakeward_testkit::lakeward::Project;
use lakeward_testkit::on_both;
use lakeward_testkit::proxy::Proxy;
use lakeward_testkit::server::{PgServer, Version};
use serde_json::json;

use crate::scene::{How, LAKEWARD, Scene, assert_refused};

on_both!(f48_two_runs_on_one_state, super::on_one_state);
on_both!(f48_two_runs_with_copied_states, super::with_copied_states);
on_both!(f48_a_second_run_on_one_state_while_the_first_follows, super::on_one_state_that_is_followed);
on_both!(f48_copied_states_while_the_first_run_follows, |version| {
    super::with_copied_states_while_following(version, true)
});
on_both!(f48_copied_states_while_the_first_run_idles, |version| {
    super::with_copied_states_while_following(version, false)
});

fn slowed(scene: &Scene) -> Proxy {
    let proxy = Proxy::start(scene.db.server().port()).unwrap();
    proxy.throttle(Some(1 << 20));
    scene.source(json!({ "port": proxy.port() }));
    proxy
}

async fn on_one_state(version: Version) {
    let scene = Scene::new(&PgServer::shared(version), 30_000, How::FullRefresh).await;
    let proxy = slowed(&scene);
    let mut first = scene.start(&[]);
    scene.wait_for_chunks(&mut first, 2).await;
    let start = Instant::now();
    let second = scene.sync(&[]).await;
    assert!(start.elapsed() < Duration::from_secs(5), "the second run did not leave at once");
    assert_refused(&second, 7, &["another run holds this state", &first.pid().to_string()]);
    proxy.throttle(None);
    first.wait_timeout(Duration::from_secs(120)).await.unwrap().assert_ok();
    scene.assert_exact().await;
}

/// Another project with the same destination and a copy of the state.
fn copied(scene: &Scene, source: serde_json::Value) -> Project {
    let copy = Project::new(LAKEWARD, &scene.db.source_config(source)).unwrap();
    let copy = copy.destination(json!({ "path": scene.project.lake() })).unwrap();
    for file in ["streams.json", "state.json"] {
        std::fs::copy(scene.project.file(file), copy.file(file)).unwrap();
    }
    copy
}

async fn with_copied_states(version: Version) {
    let scene = Scene::new(&PgServer::shared(version), 60_000, How::FullRefresh).await;
    let proxy = slowed(&scene);
    let mut earlier = scene.start(&[]);
    scene.wait_for_chunks(&mut earlier, 3).await;

    let copy = copied(&scene, json!({}));
    assert!(!earlier.has_ended().unwrap(), "there is no earlier run any more");
    copy.sync(&["--chunk-size", "128KiB"]).await.unwrap().assert_ok();
    scene.assert_exact().await;
    proxy.throttle(None);
    let earlier = earlier.wait_timeout(Duration::from_secs(120)).await.unwrap();
    assert_refused(&earlier, 6, &["another run has taken this stream over"]);
    scene.assert_exact().await;

    // The earlier one's state is behind now; it goes on all the same, and so does the copy.
    scene.source(json!({}));
    scene.sync(&[]).await.assert_ok();
    scene.assert_exact().await;
}

async fn on_one_state_that_is_followed(version: Version) {
    let scene = Scene::new(&PgServer::shared(version), 2_000, How::Cdc).await;
    scene.sync(&[]).await.assert_ok();
    let first = scene.follow(&[]).await;
    scene.change(0).await;
    for further in [&[][..], &["--follow"]] {
        let start = Instant::now();
        let second = scene.sync(further).await;
        assert!(start.elapsed() < Duration::from_secs(5), "the second run did not leave at once");
        assert_refused(&second, 7, &["another run holds this state", &first.pid().to_string()]);
    }
    scene.change(1).await;
    scene.caught_up().await;
    scene.stop(first).await;
    scene.assert_exact().await;
    scene.change(2).await;
    scene.sync(&[]).await.assert_ok();
    scene.assert_exact().await;
}

/// Both read one slot: the later run has the streams as soon as it begins, and the slot when the earlier one leaves, which
/// it does whether there is something to commit or not.
async fn with_copied_states_while_following(version: Version, busy: bool) {
    let (scene, earlier) = Scene::followed(version).await;

    let copy = copied(&scene, json!({}));
    let (before, start) = (scene.log().len(), Instant::now());
    let later = copy.spawn_sync(&["--chunk-size", "128KiB"]).unwrap();
    while scene.log().len() == before {
        assert!(start.elapsed() < Duration::from_secs(60), "the later run does not take the stream over");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    if busy {
        scene.change(2).await;
    }
    let earlier = earlier.wait_timeout(Duration::from_secs(10)).await.unwrap();
    assert_refused(&earlier, 6, &["another run has taken this stream over"]);
    // What the server was told to forget since its state was copied it cannot have.
    let later = later.wait_timeout(Duration::from_secs(60)).await.unwrap();
    eprintln!("{}: the later run ended with {:?}", version.name(), later.code);
    let (newer, older) = match later.code {
        Some(0) => (&copy, &scene.project),
        _ => {
            assert_refused(&later, 4, &["changes since", "state rebuild"]);
            (&scene.project, &copy)
        }
    };
    scene.assert_unharmed().await;
    // Nothing is lost either way: the newer state goes on, and one that is too old is made anew.
    newer.sync(&[]).await.unwrap().assert_ok();
    scene.assert_exact().await;
    scene.change(3).await;
    assert_refused(&older.sync(&[]).await.unwrap(), 4, &["changes since", "state rebuild"]);
    older.run(&["state", "rebuild", "--state", "state.json", "--accept-slot"]).await.unwrap().assert_ok();
    older.sync(&[]).await.unwrap().assert_ok();
    scene.assert_exact().await;
}
