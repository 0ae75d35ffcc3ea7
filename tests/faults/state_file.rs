//! State files that are torn, gone, foreign, or ahead of the destination.

use std::fs;

use lakeward_testkit::lakeward::Output;
use lakeward_testkit::on_both;
use lakeward_testkit::server::{PgServer, Version};
use serde_json::{Value, json};

use crate::scene::{How, Scene, TABLE, assert_refused, event};

on_both!(f47_torn_state, super::torn);
on_both!(f47_missing_state_and_rebuild, super::missing_and_rebuilt);
on_both!(f47_foreign_state, super::foreign);
on_both!(f47_destination_behind_the_state, super::destination_behind);
on_both!(f47_every_version_ever_written_is_read, super::golden);

async fn synced(version: Version) -> Scene {
    let scene = Scene::new(&PgServer::shared(version), 5_000, How::Incremental).await;
    scene.sync(&[]).await.assert_ok();
    scene.db.execute(&format!("UPDATE {TABLE} SET version = version + 1 WHERE id % 100 = 0")).await.unwrap();
    scene.sync(&[]).await.assert_ok();
    scene.assert_exact().await;
    scene
}

/// Nothing at the destination was touched by what was refused.
async fn refused(scene: &Scene, code: i32, words: &[&str]) -> Output {
    let (log, files) = (scene.log(), scene.project.visible_files(TABLE));
    let output = scene.sync(&[]).await;
    assert_refused(&output, code, words);
    assert_eq!(scene.log(), log, "a refused run wrote to the log");
    assert_eq!(scene.project.visible_files(TABLE), files, "a refused run touched files");
    output
}

async fn torn(version: Version) {
    let scene = synced(version).await;
    let file = scene.project.file("state.json");
    let whole = fs::read(&file).unwrap();
    for length in [0, 1, 20, whole.len() / 3, whole.len() / 2, whole.len() - 3] {
        fs::write(&file, &whole[..length]).unwrap();
        refused(&scene, 7, &["torn", "state rebuild"]).await;
        assert_eq!(fs::read(&file).unwrap().len(), length, "a torn state was overwritten");
    }
    let mut newer: Value = serde_json::from_slice(&whole).unwrap();
    newer["version"] = json!(99);
    fs::write(&file, newer.to_string()).unwrap();
    refused(&scene, 7, &["version"]).await;
    fs::write(&file, &whole).unwrap();
    scene.sync(&[]).await.assert_ok();
    scene.assert_exact().await;
}

async fn missing_and_rebuilt(version: Version) {
    let scene = synced(version).await;
    let before = scene.project.state().unwrap();
    fs::remove_file(scene.project.file("state.json")).unwrap();
    refused(&scene, 7, &["state rebuild", "lakeward clear"]).await;
    assert!(!scene.project.file("state.json").exists(), "a refused run made a state");

    let rebuild = [
        "state",
        "rebuild",
        "--config",
        "source.json",
        "--destination",
        "destination.json",
        "--state",
        "state.json",
    ];
    scene.project.run(&rebuild).await.unwrap().assert_ok();
    let rebuilt = scene.project.state().unwrap();
    assert_eq!(rebuilt["pipeline"], before["pipeline"]);
    assert_eq!(rebuilt["streams"], before["streams"]);
    scene.db.execute(&format!("UPDATE {TABLE} SET version = version + 1 WHERE id % 250 = 0")).await.unwrap();
    let output = scene.sync(&[]).await;
    output.assert_ok();
    // It goes on where it stood: the changed rows and no others.
    assert_eq!(event(&output, "stream_finished")["rows"], 5_000 / 25);
    scene.assert_exact().await;

    // A file that is there already, torn or not, is set aside and not lost.
    fs::write(scene.project.file("state.json"), "{ torn").unwrap();
    scene.project.run(&rebuild).await.unwrap().assert_ok();
    assert_eq!(fs::read_to_string(scene.project.file("state.json.before-rebuild")).unwrap(), "{ torn");
    scene.sync(&[]).await.assert_ok();
    scene.assert_exact().await;
}

async fn foreign(version: Version) {
    let scene = synced(version).await;
    let state = fs::read(scene.project.file("state.json")).unwrap();

    // Another database behind the same config.
    let other = Scene::new(&PgServer::shared(version), 1_000, How::Incremental).await;
    scene.project.write("source.json", &other.db.source_config(json!({}))).unwrap();
    refused(&scene, 7, &["another source"]).await;
    // Another server, with a database of the same name.
    let elsewhere = Version::ALL.into_iter().find(|other| *other != version).unwrap();
    let server = PgServer::shared(elsewhere);
    let client = server.connect("postgres").await.unwrap();
    client.batch_execute(&format!("CREATE DATABASE \"{}\"", scene.db.name())).await.unwrap();
    scene.source(json!({ "port": server.port() }));
    let twin = lakeward_testkit::server::TestDatabase::existing(&server, scene.db.name());
    twin.execute("CREATE TABLE busy (id bigint PRIMARY KEY, version int NOT NULL, amount numeric(12,2), note text, big text, updated_at timestamptz NOT NULL)").await.unwrap();
    let outcome = scene.sync(&[]).await;
    client.batch_execute(&format!("DROP DATABASE \"{}\" WITH (FORCE)", scene.db.name())).await.unwrap();
    assert_refused(&outcome, 7, &["another source", "system_identifier"]);
    scene.source(json!({}));

    // Another destination.
    scene
        .project
        .write("destination.json", &json!({ "type": "parquet", "path": other.project.lake() }))
        .unwrap();
    other.sync(&[]).await.assert_ok();
    assert_refused(&scene.sync(&[]).await, 7, &["another destination"]);
    other.assert_exact().await;
    scene
        .project
        .write("destination.json", &json!({ "type": "parquet", "path": scene.project.lake() }))
        .unwrap();

    assert_eq!(fs::read(scene.project.file("state.json")).unwrap(), state, "a refused run changed the state");
    scene.sync(&[]).await.assert_ok();
    scene.assert_exact().await;
}

async fn destination_behind(version: Version) {
    for missing in [1, 2] {
        let scene = synced(version).await;
        let commits = scene.meta().join("commits");
        let last = scene.log().len();
        for number in last + 1 - missing..=last {
            fs::remove_file(commits.join(format!("{number:012}.json"))).unwrap();
        }
        refused(&scene, 7, &["destination is behind the state", "lakeward clear"]).await;
    }
}

async fn golden(version: Version) {
    let scene = synced(version).await;
    let written = scene.project.state().unwrap();
    assert_eq!(written["version"], 1);
    let directory = lakeward_testkit::project_root().join("state/golden");
    let mut read = 0;
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if !path.file_name().unwrap().to_string_lossy().starts_with("state-") {
            continue;
        }
        fs::copy(&path, scene.project.file("state.json")).unwrap();
        // Understood, and therefore refused for what it says: it is another pipeline's.
        refused(&scene, 7, &["another source"]).await;
        read += 1;
    }
    assert!(read > 0, "there are no golden files");
    scene.project.write("state.json", &written).unwrap();
    scene.sync(&[]).await.assert_ok();
    scene.assert_exact().await;
}
