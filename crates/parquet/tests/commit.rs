//! Commits, takeovers, swaps and names, seen from outside.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::single_range_in_vec_init,
    reason = "a test that cannot go on should stop where it stands"
)]

mod support;

use std::fs;
use std::path::Path;

use lakeward_core::{Destination, ErrorKind, OpenStep, Position, Progress, Result, StreamId, SwapStep};
use lakeward_parquet::ParquetDestination;
use serde_json::json;

use support::*;

fn id() -> StreamId {
    StreamId::new("public", "t")
}

/// A whole table in one commit.
async fn whole(
    lake: &ParquetDestination,
    id: &StreamId,
    generation: u32,
    ids: std::ops::Range<i64>,
) -> Result<lakeward_core::StreamHead> {
    let stream = numbers(id, false);
    let mut all = commit(&stream, generation, "backfill");
    all.open = Some(open(&stream, 1, "s"));
    all.chunk = Some((0, done(1)));
    all.swap = Some(SwapStep::Replace);
    all.files = write(lake, &stream, generation, "backfill", ids).await?;
    commit_one(lake, all).await
}

async fn more(
    lake: &ParquetDestination,
    id: &StreamId,
    ids: std::ops::Range<i64>,
) -> Result<lakeward_core::StreamHead> {
    let stream = numbers(id, false);
    let name = format!("more/{}", ids.start);
    let mut data = commit(&stream, 1, &name);
    data.files = write(lake, &stream, 1, &name, ids).await?;
    data.progress = Some(Progress { position: Some(Position(json!("0/1"))), cursor: None, pass: 1 });
    commit_one(lake, data).await
}

#[tokio::test]
async fn a_table_of_one_chunk_is_one_record() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let lake = destination(dir.path());
    let head = lake.prepare(&id(), &run("a")).await?;
    assert_eq!(head.commit, 0);
    let head = whole(&lake, &id(), 1, 0..10).await?;
    assert_eq!((head.commit, head.visible, head.rows), (1, Some(1), 10));
    assert_eq!(ids(&dir.path().join("public/t")), once(&[0..10]));
    let head = more(&lake, &id(), 10..20).await?;
    assert_eq!((head.commit, head.rows), (2, 20));
    assert_eq!(lake.heads().await?, vec![(id(), head)]);
    let pipeline = lake.pipeline().await?.unwrap();
    assert_eq!(pipeline.id, "pipeline");
    assert_eq!(pipeline.destination, lake.identity().await?);
    let files = lake.files(&id()).await?;
    assert_eq!(files.iter().map(|file| file.rows).sum::<u64>(), 20);
    assert_eq!(files[0].bytes, fs::metadata(&files[0].path).unwrap().len());
    Ok(())
}

#[tokio::test]
async fn the_later_of_two_runs_takes_the_stream_over() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let (first, second) = (destination(dir.path()), destination(dir.path()));
    first.prepare(&id(), &run("a")).await?;
    whole(&first, &id(), 1, 0..10).await?;
    let head = second.prepare(&id(), &run("b")).await?;
    assert_eq!((head.commit, head.rows), (2, 10));
    let error = more(&first, &id(), 10..20).await.unwrap_err();
    // Its staging was emptied, or its number is taken: either way nothing of it is committed.
    assert!(matches!(error.kind(), ErrorKind::Conflict | ErrorKind::Destination), "{error:?}");
    let head = more(&second, &id(), 30..40).await?;
    assert_eq!((head.commit, head.rows), (3, 20));
    assert_eq!(ids(&dir.path().join("public/t")), once(&[0..10, 30..40]));
    Ok(())
}

#[tokio::test]
async fn a_run_that_staged_before_it_was_overtaken_gets_a_conflict() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let (first, second) = (destination(dir.path()), destination(dir.path()));
    // The claims of both are deferred: nothing was ever committed.
    first.prepare(&id(), &run("a")).await?;
    second.prepare(&id(), &run("b")).await?;
    let stream = numbers(&id(), false);
    let mut open_only = commit(&stream, 1, "open");
    open_only.open = Some(open(&stream, 1, "s"));
    // An open without files needs no staged data file, only its record.
    fs::create_dir_all(dir.path().join("_lakeward/public/t/staging/a")).unwrap();
    let error = commit_one(&first, open_only).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error:?}");
    let head = whole(&second, &id(), 1, 0..5).await?;
    assert_eq!((head.commit, head.rows), (2, 5));
    Ok(())
}

#[tokio::test]
async fn another_pipeline_is_refused() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let lake = destination(dir.path());
    lake.prepare(&id(), &run("a")).await?;
    whole(&lake, &id(), 1, 0..10).await?;
    let error = destination(dir.path()).prepare(&id(), &run_of("b", "other")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(error.remedy().unwrap().contains("lakeward state rebuild"));
    assert!(error.remedy().unwrap().contains("lakeward clear"));
    Ok(())
}

#[tokio::test]
async fn a_full_refresh_keeps_foreign_files_and_nothing_of_the_former_generation() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let visible = dir.path().join("public/t");
    let lake = destination(dir.path());
    lake.prepare(&id(), &run("a")).await?;
    whole(&lake, &id(), 1, 0..10).await?;
    fs::create_dir_all(visible.join("_mine")).unwrap();
    fs::write(visible.join("_mine/x.parquet"), "x").unwrap();
    fs::write(visible.join("README"), "y").unwrap();
    let head = whole(&lake, &id(), 2, 100..110).await?;
    assert_eq!((head.visible, head.rows), (Some(2), 10));
    assert_eq!(ids(&visible), once(&[100..110]));
    assert_eq!(fs::read_to_string(visible.join("_mine/x.parquet")).unwrap(), "x");
    assert_eq!(fs::read_to_string(visible.join("README")).unwrap(), "y");

    lake.clear(&id()).await?;
    assert_eq!(tree(&visible).len(), 2, "foreign files stay");
    assert!(lake.heads().await?.is_empty());
    assert_eq!(lake.prepare(&id(), &run("b")).await?.commit, 0);
    Ok(())
}

#[tokio::test]
async fn a_resumed_backfill_drops_changes_and_replaces_chunks() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let lake = destination(dir.path());
    let stream = numbers(&id(), true);
    lake.prepare(&id(), &run("a")).await?;
    let step = |unit: &str| commit(&stream, 1, unit);
    let mut first = step("open");
    first.open = Some(open(&stream, 2, "s1"));
    commit_one(&lake, first).await?;
    for (number, ids) in [(0, 0..10), (1, 10..20)] {
        let mut chunk = step("chunk");
        chunk.chunk = Some((number, done(10)));
        chunk.files = write(&lake, &stream, 1, "chunk", ids).await?;
        commit_one(&lake, chunk).await?;
    }
    let mut change = step("cdc");
    change.files = write(&lake, &stream, 1, "cdc", 50..60).await?;
    assert_eq!(commit_one(&lake, change).await?.rows, 30);
    assert!(tree(&dir.path().join("public")).is_empty(), "nothing is visible before the swap");

    let mut resumed = step("open");
    resumed.open = Some(OpenStep { snapshot: json!("s2"), ..open(&stream, 2, "s2") });
    let head = commit_one(&lake, resumed).await?;
    assert_eq!(head.rows, 20);
    assert_eq!(head.open.unwrap().done[&1], done(10), "a chunk keeps the snapshot that read it");
    let mut again = step("chunk");
    again.chunk = Some((0, done(5)));
    again.files = write(&lake, &stream, 1, "chunk", 0..5).await?;
    again.swap = Some(SwapStep::Replace);
    assert_eq!(commit_one(&lake, again).await?.rows, 15);
    let visible = dir.path().join("public/t");
    assert_eq!(ids(&visible), once(&[0..5, 10..20]));
    assert!(visible.join("part_value=0").is_dir() && visible.join("part_value=1").is_dir());
    Ok(())
}

#[tokio::test]
async fn what_does_not_follow_from_the_log_is_a_bug() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let lake = destination(dir.path());
    let stream = numbers(&id(), false);
    lake.prepare(&id(), &run("a")).await?;
    let early = commit_one(&lake, commit(&stream, 1, "data")).await.unwrap_err();
    assert_eq!(early.kind(), ErrorKind::Bug);
    let mut opened = commit(&stream, 1, "open");
    opened.open = Some(open(&stream, 1, "s"));
    commit_one(&lake, opened).await?;
    let mut hasty = commit(&stream, 1, "swap");
    hasty.swap = Some(SwapStep::Replace);
    assert_eq!(commit_one(&lake, hasty).await.unwrap_err().kind(), ErrorKind::Bug);
    Ok(())
}

#[tokio::test]
async fn names_that_differ_in_case_only_do_not_mix() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let (upper, lower) = (StreamId::new("public", "Orders"), StreamId::new("public", "orders"));
    let lake = destination(dir.path());
    for (n, stream) in [&upper, &lower].into_iter().enumerate() {
        lake.prepare(stream, &run("a")).await?;
        let start = n as i64 * 100;
        whole(&lake, stream, 1, start..start + 10).await?;
    }
    let later = destination(dir.path());
    let heads = later.heads().await?;
    assert_eq!(
        heads.iter().map(|(id, _)| id.clone()).collect::<Vec<_>>(),
        vec![upper.clone(), lower.clone()]
    );
    for (stream, start) in [(&lower, 100), (&upper, 0)] {
        let files = later.files(stream).await?;
        assert_eq!(count(files.into_iter().map(|file| file.path.into())), once(&[start..start + 10]));
    }
    Ok(())
}

#[tokio::test]
async fn leftovers_are_ignored_and_unknown_records_are_not() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let lake = destination(dir.path());
    lake.prepare(&id(), &run("a")).await?;
    whole(&lake, &id(), 1, 0..10).await?;
    let meta = dir.path().join("_lakeward/public/t");
    fs::write(meta.join("staging/a/record-000000000002.json.part"), "{\"version\":1,").unwrap();
    fs::write(meta.join("commits/.000000000002.json.swp"), "").unwrap();
    let head = destination(dir.path()).prepare(&id(), &run("b")).await?;
    assert_eq!(head.rows, 10);
    assert!(!meta.join("staging/a").exists());

    fs::write(meta.join("commits/000000000003.json"), "{\"version\":2}").unwrap();
    let error = destination(dir.path()).prepare(&id(), &run("c")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Destination);
    assert!(error.to_string().contains("version 2") && error.to_string().contains("000000000003.json"));
    Ok(())
}

#[tokio::test]
async fn a_lost_log_or_file_is_never_read_as_a_first_run() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let lake = destination(dir.path());
    lake.prepare(&id(), &run("a")).await?;
    whole(&lake, &id(), 1, 0..10).await?;
    let path = lake.files(&id()).await?[0].path.clone();
    fs::rename(&path, dir.path().join("aside")).unwrap();
    let error = destination(dir.path()).prepare(&id(), &run("b")).await.unwrap_err();
    assert!(error.to_string().contains("missing") && error.to_string().contains("public/t"), "{error}");
    fs::rename(dir.path().join("aside"), &path).unwrap();
    fs::remove_dir_all(dir.path().join("_lakeward/public")).unwrap();
    let error = destination(dir.path()).prepare(&id(), &run("c")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    Ok(())
}

#[tokio::test]
async fn windows_are_verified_and_the_one_before_is_kept() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let lake = destination(dir.path());
    let stream = numbers(&id(), false);
    lake.prepare(&id(), &run("a")).await?;
    whole(&lake, &id(), 1, 0..10).await?;
    let mut windows = Vec::new();
    for pass in 1..4u8 {
        let mut next = commit(&stream, 1, "incremental");
        next.window = Some(vec![pass; 10]);
        windows.push(commit_one(&lake, next).await?.window.unwrap());
    }
    assert!(lake.window(&id(), &windows[0]).await.is_err(), "the one before the previous is gone");
    assert_eq!(lake.window(&id(), &windows[1]).await?, vec![2; 10]);
    assert_eq!(lake.window(&id(), &windows[2]).await?, vec![3; 10]);
    fs::write(dir.path().join("_lakeward/public/t").join(&windows[2].path), "torn").unwrap();
    let error = lake.window(&id(), &windows[2]).await.unwrap_err();
    assert!(error.to_string().contains("damaged"), "{error}");
    Ok(())
}

#[tokio::test]
async fn a_start_reads_from_the_newest_checkpoint() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let lake = destination(dir.path());
    let stream = numbers(&id(), false);
    lake.prepare(&id(), &run("a")).await?;
    whole(&lake, &id(), 1, 0..10).await?;
    for pass in 2..=260 {
        let mut next = commit(&stream, 1, "cdc");
        next.progress = Some(Progress { position: None, cursor: None, pass });
        commit_one(&lake, next).await?;
    }
    // What a checkpoint covers is not read again.
    fs::remove_file(dir.path().join("_lakeward/public/t/commits/000000000100.json")).unwrap();
    let (_, head) = destination(dir.path()).heads().await?.pop().unwrap();
    assert_eq!((head.commit, head.progress.pass, head.rows), (260, 260, 10));
    Ok(())
}

#[tokio::test]
async fn check_looks_and_leaves_nothing() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let findings = destination(&dir.path().join("not/yet")).check().await?;
    assert!(findings.iter().any(|finding| finding.message == "exclusive creation works"), "{findings:?}");
    assert!(findings.iter().any(|finding| finding.message.contains("exchanged at once")));
    assert!(tree(dir.path()).is_empty() && !dir.path().join("not").exists());
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    let findings = destination(&file).check().await?;
    assert_eq!(findings[0].severity, lakeward_core::Severity::Error);
    Ok(())
}

#[tokio::test]
async fn an_aborted_unit_leaves_nothing() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let lake = destination(dir.path());
    let stream = numbers(&id(), true);
    lake.prepare(&id(), &run("a")).await?;
    let staged = |dir: &Path| tree(&dir.join("_lakeward/public/t/staging")).len();
    let mut writer = lake.writer(unit(&stream, 1, "u")).await?;
    writer.write(batch(&stream, 0..10)).await?;
    assert_eq!(staged(dir.path()), 2);
    writer.abort().await;
    assert_eq!(staged(dir.path()), 0);
    let mut writer = lake.writer(unit(&stream, 1, "u")).await?;
    writer.write(batch(&stream, 0..10)).await?;
    drop(writer);
    assert_eq!(staged(dir.path()), 0);
    Ok(())
}
