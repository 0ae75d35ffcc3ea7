//! Disks that are full, read-only or gone.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use lakeward_testkit::lakeward::Output;
use lakeward_testkit::on_both;
use lakeward_testkit::proxy::Proxy;
use lakeward_testkit::server::{PgServer, TestDatabase, Version};
use serde_json::json;

use crate::scene::{How, LAKEWARD, Scene, TABLE, database, footer_polls};

on_both!(f44_disk_full, super::disk_full);
on_both!(f44_disk_full_while_changes_are_written, super::disk_full_of_changes);
on_both!(f44_permission_denied_mid_run, super::permission_denied_mid_run);
on_both!(f44_directory_gone_mid_run, super::directory_gone_mid_run);
on_both!(f44_permission_denied_while_following, super::permission_denied_while_following);
on_both!(f44_permission_denied_before_anything_is_followed, super::nothing_to_follow);
on_both!(f44_directory_gone_while_following, super::directory_gone_while_following);

/// A file system of its own in memory, unmounted when dropped.
struct Mount(PathBuf);

impl Mount {
    /// None where this machine does not let us mount.
    fn new(at: &Path, size: &str) -> Option<Self> {
        std::fs::create_dir_all(at).unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={size},mode=0755"), "tmpfs"]).arg(at);
        mount.output().is_ok_and(|output| output.status.success()).then(|| Self(at.to_owned()))
    }

    fn remount(&self, options: &str) {
        let output =
            Command::new("mount").args(["-o", &format!("remount,{options}")]).arg(&self.0).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Lazily: a run that is about to be killed may still have files open.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// Text that does not compress: about 9 MiB in files.
async fn incompressible(db: &TestDatabase) {
    db.execute(&format!(
        "UPDATE {TABLE} SET note = md5(id::text) || md5(id::text || 'x') || md5(id::text || 'y') || md5(id::text || 'z')"
    ))
    .await
    .unwrap();
}

async fn disk_full(version: Version) {
    let db = database(&PgServer::shared(version), 60_000, How::FullRefresh).await;
    incompressible(&db).await;
    let scene = Scene::over(db, How::FullRefresh).await;
    let mount = Mount::new(&scene.project.lake(), "5m");
    assert_no_room(&without_room(&scene, mount.as_ref()).await);
    assert_eq!(scene.assert_visible_files_are_whole(), 0, "half a generation is in sight");
    make_room(mount.as_ref());
    footer_polls(&scene, scene.start(&[])).await.assert_ok();
    assert!(scene.assert_visible_files_are_whole() > 0);
    scene.assert_exact().await;
}

async fn disk_full_of_changes(version: Version) {
    let scene = Scene::new(&PgServer::shared(version), 1_000, How::Cdc).await;
    let mount = Mount::new(&scene.project.lake(), "5m");
    scene.sync(&[]).await.assert_ok();
    let (before, log) = (scene.project.visible_files(TABLE), scene.log().len());
    let sql = format!(
        "INSERT INTO {TABLE} (id, version, note) SELECT 1000000 + n, 0, (SELECT string_agg(md5(n::text || i), '') FROM generate_series(1, 8) i)
         FROM generate_series(1, 60000) n; DELETE FROM {TABLE} WHERE id < 1000"
    );
    scene.db.execute(&sql).await.unwrap();
    for _ in 0..2 {
        assert_no_room(&without_room(&scene, mount.as_ref()).await);
        assert_eq!(scene.project.visible_files(TABLE), before, "a part of a transaction is in sight");
        let log = scene.log().split_off(log);
        assert!(log.iter().all(|record| record["add"].as_array().is_none_or(Vec::is_empty)), "{log:?}");
        scene.assert_unharmed().await;
    }
    make_room(mount.as_ref());
    footer_polls(&scene, scene.start(&[])).await.assert_ok();
    scene.assert_exact().await;
}

/// A run that finds no room for its files: on a disk that is full or, where there is none, because no file may grow
/// beyond a limit, which looks the same to who writes it.
async fn without_room(scene: &Scene, mount: Option<&Mount>) -> Output {
    if mount.is_some() {
        return footer_polls(scene, scene.start(&[])).await;
    }
    let streams =
        "--config source.json --destination destination.json --streams streams.json --state state.json";
    let script = format!("trap '' XFSZ; ulimit -f 256; exec {LAKEWARD} sync {streams}");
    let shell = lakeward_testkit::lakeward::Project::new("/bin/sh", &json!({})).unwrap();
    let copy = |from: &Path, to: PathBuf| from.exists().then(|| std::fs::copy(from, to).unwrap());
    for file in ["source.json", "destination.json", "streams.json", "state.json"] {
        copy(&scene.project.file(file), shell.file(file));
    }
    let output = footer_polls(scene, shell.spawn(&["-c", &script]).unwrap()).await;
    copy(&shell.file("state.json"), scene.project.file("state.json"));
    output
}

fn assert_no_room(output: &Output) {
    output.assert_code(6);
    assert!(
        output.stderr.contains("No space left") || output.stderr.contains("too large"),
        "{}",
        output.stderr
    );
}

fn make_room(mount: Option<&Mount>) {
    if let Some(mount) = mount {
        mount.remount("size=200m");
    }
}

/// A directory that takes no new entries; as before when dropped.
struct Forbidden(PathBuf);

impl Forbidden {
    fn new(directory: PathBuf) -> Self {
        std::fs::set_permissions(&directory, std::fs::Permissions::from_mode(0o555)).unwrap();
        let forbidden = Self(directory);
        if std::fs::File::create(forbidden.0.join("probe")).is_ok() {
            // Modes do not bind root; this does.
            std::fs::remove_file(forbidden.0.join("probe")).unwrap();
            let output = Command::new("chattr").arg("+i").arg(&forbidden.0).output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "root needs chattr for a directory that takes nothing: {said}");
        }
        forbidden
    }
}

impl Drop for Forbidden {
    fn drop(&mut self) {
        let _ = Command::new("chattr").arg("-i").arg(&self.0).output();
        let _ = std::fs::set_permissions(&self.0, std::fs::Permissions::from_mode(0o755));
    }
}

async fn permission_denied_mid_run(version: Version) {
    let scene = Scene::new(&PgServer::shared(version), 30_000, How::FullRefresh).await;
    // A generation that is there stays, whole, whatever becomes of the next one.
    scene.sync(&[]).await.assert_ok();
    let before = scene.project.visible_files(TABLE);
    let proxy = Proxy::start(scene.db.server().port()).unwrap();
    proxy.throttle(Some(1 << 20));
    scene.source(json!({ "port": proxy.port() }));
    let mut run = scene.start(&[]);
    scene.wait_for_chunks(&mut run, 4).await;
    let forbidden = Forbidden::new(scene.meta().join("commits"));
    proxy.throttle(None);
    let output = run.wait_timeout(Duration::from_secs(60)).await.unwrap();
    output.assert_code(6);
    assert!(output.stderr.contains("ermi"), "permission is not named:\n{}", output.stderr);
    assert_eq!(scene.project.visible_files(TABLE), before);
    scene.assert_exact().await;
    // Nor can another run begin.
    scene.sync(&[]).await.assert_code(6);
    drop(forbidden);
    let output = scene.sync(&[]).await;
    output.assert_ok();
    // How many chunks are kept depends on other transactions of the server; that it is the same backfill does not.
    assert_eq!(crate::scene::event(&output, "stream_planned")["generation"], 2, "a new backfill was begun");
    scene.assert_exact().await;
}

async fn directory_gone_mid_run(version: Version) {
    let scene = Scene::new(&PgServer::shared(version), 30_000, How::FullRefresh).await;
    let proxy = Proxy::start(scene.db.server().port()).unwrap();
    proxy.throttle(Some(1 << 20));
    scene.source(json!({ "port": proxy.port() }));
    let mut run = scene.start(&[]);
    scene.wait_for_chunks(&mut run, 4).await;
    let (lake, away) = (scene.project.lake(), scene.project.file("moved-away"));
    std::fs::rename(&lake, &away).unwrap();
    proxy.throttle(None);
    let output = run.wait_timeout(Duration::from_secs(60)).await.unwrap();
    output.assert_code(6);
    // Whatever it tried to make anew there, it did not go on as if nothing had been.
    let log = lake.join("_lakeward/public").join(TABLE).join("commits");
    assert!(std::fs::read_dir(log).map_or(0, Iterator::count) == 0, "it went on in an empty directory");
    // A run over the empty place is refused as well: the state knows better.
    let refused = scene.sync(&[]).await;
    refused.assert_code(7);
    let _ = std::fs::remove_dir_all(&lake);
    std::fs::rename(&away, &lake).unwrap();
    assert!(scene.chunks().len() >= 4);
    let output = scene.sync(&[]).await;
    output.assert_ok();
    // How many chunks are kept depends on other transactions of the server; that it is the same backfill does not.
    assert_eq!(crate::scene::event(&output, "stream_planned")["generation"], 1, "a new backfill was begun");
    scene.assert_exact().await;
}

async fn permission_denied_while_following(version: Version) {
    let (scene, run) = Scene::followed(version).await;
    let before = scene.project.visible_files(TABLE);
    let forbidden = Forbidden::new(scene.meta().join("commits"));
    scene.change(1).await;
    let output = run.wait_timeout(Duration::from_secs(60)).await.unwrap();
    // Nor can another run begin.
    for output in [output, scene.sync(&[]).await] {
        output.assert_code(6);
        assert!(output.stderr.contains("ermi"), "permission is not named:\n{}", output.stderr);
        assert_eq!(scene.project.visible_files(TABLE), before);
        scene.assert_unharmed().await;
    }
    drop(forbidden);
    scene.sync(&[]).await.assert_ok();
    scene.assert_exact().await;
}

async fn directory_gone_while_following(version: Version) {
    let (scene, run) = Scene::followed(version).await;
    let (lake, away) = (scene.project.lake(), scene.project.file("moved-away"));
    std::fs::rename(&lake, &away).unwrap();
    scene.change(1).await;
    run.wait_timeout(Duration::from_secs(60)).await.unwrap().assert_code(6);
    // Whatever it tried to make anew there, it did not go on as if nothing had been.
    let log = lake.join("_lakeward/public").join(TABLE).join("commits");
    assert!(std::fs::read_dir(log).map_or(0, Iterator::count) == 0, "it went on in an empty directory");
    // A run over the empty place is refused as well: the state knows better.
    scene.sync(&[]).await.assert_code(7);
    let _ = std::fs::remove_dir_all(&lake);
    std::fs::rename(&away, &lake).unwrap();
    scene.assert_unharmed().await;
    scene.sync(&[]).await.assert_ok();
    scene.assert_exact().await;
}

/// A run whose only stream cannot be read has nothing to wait for.
async fn nothing_to_follow(version: Version) {
    let scene = Scene::new(&PgServer::shared(version), 4_000, How::Cdc).await;
    for mode in ["concurrent", "parallel"] {
        let proxy = Proxy::start(scene.db.server().port()).unwrap();
        proxy.throttle(Some(200 << 10));
        scene.source(json!({ "port": proxy.port() }));
        let before = scene.chunks().len();
        let mut run = scene.start(&["--follow", "--cdc-mode", mode]);
        scene.wait_for_chunks(&mut run, before + 2).await;
        let forbidden = Forbidden::new(scene.meta().join("commits"));
        proxy.throttle(None);
        let output = run.wait_timeout(Duration::from_secs(60)).await.unwrap();
        output.assert_code(6);
        assert!(output.stderr.contains("ermi"), "permission is not named:\n{}", output.stderr);
        drop(forbidden);
    }
    scene.source(json!({}));
    scene.sync(&[]).await.assert_ok();
    scene.assert_exact().await;
}
