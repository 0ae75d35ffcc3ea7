//! A stream with many commits: taking it over, and one commit more.
#![allow(missing_docs, clippy::unwrap_used)]

use std::cell::Cell;

use criterion::{Criterion, criterion_group, criterion_main};
use lakeward_bench::stream::{destination, run, stream};
use lakeward_core::{
    Column, ColumnType, ConfiguredStream, Destination, Fingerprint, OpenStep, Position, Progress,
    StreamCommit,
};
use lakeward_parquet::ParquetDestination;
use serde_json::json;

const COMMITS: u64 = 10_000;

fn open(stream: &ConfiguredStream) -> StreamCommit {
    let mut commit = StreamCommit::new(stream.target.clone(), 1, "open".to_owned());
    commit.open = Some(OpenStep {
        definition: stream.definition(),
        fingerprint: Fingerprint::default(),
        snapshot: json!("s"),
        plan: Vec::new(),
        backfill: true,
    });
    commit
}

/// A commit of a position alone, as an idle stream has them.
async fn commit(lake: &ParquetDestination, stream: &ConfiguredStream, number: u64) {
    let mut commit = StreamCommit::new(stream.target.clone(), 1, format!("unit {number}"));
    let position = Some(Position(json!({ "lsn": number.to_string() })));
    commit.progress = Some(Progress { position, cursor: None, pass: 0 });
    let committed = lake.commit(vec![commit]).await.pop().unwrap().unwrap();
    assert!(committed.commit >= number);
}

fn log(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let stream = stream(vec![Column::new("id", ColumnType::Int64)]);
    let lake = destination(directory.path());
    runtime.block_on(async {
        lake.prepare(&stream.target, &run("a")).await.unwrap();
        lake.commit(vec![open(&stream)]).await.pop().unwrap().unwrap();
        for number in 1..COMMITS {
            commit(&lake, &stream, number).await;
        }
    });
    let mut group = criterion.benchmark_group(format!("log of {COMMITS} commits"));
    group.sample_size(20);
    group.bench_function("where it stands", |bencher| {
        bencher.to_async(&runtime).iter(|| async {
            let heads = destination(directory.path()).heads().await.unwrap();
            assert!(heads[0].1.commit >= COMMITS);
        });
    });
    let next = Cell::new(COMMITS);
    group.bench_function("one commit more", |bencher| {
        bencher.to_async(&runtime).iter(|| {
            next.set(next.get() + 1);
            commit(&lake, &stream, next.get())
        });
    });
    group.finish();
}

criterion_group!(benches, log);
criterion_main!(benches);
