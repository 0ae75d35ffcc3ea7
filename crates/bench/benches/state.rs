//! Saving a state of many chunks: it is done again and again while a backfill runs.
#![allow(missing_docs, clippy::unwrap_used)]

use criterion::{Criterion, criterion_group, criterion_main};
use lakeward_core::{Chunk, DestinationIdentity, Pipeline, SourceIdentity, StreamId, SyncMode};
use lakeward_state::{State, StateStore, StreamState};
use serde_json::Map;

const CHUNKS: u32 = 10_000;

fn state() -> State {
    let chunk = |number: u32| Chunk {
        number,
        relation: Some("16384".to_owned()),
        min: Some(format!("({},0)", number * 32_768)),
        max: Some(format!("({},0)", (number + 1) * 32_768)),
        bytes: 64 << 20,
    };
    let source = SourceIdentity { kind: "bench".to_owned(), facts: Map::new() };
    let destination = DestinationIdentity { kind: "bench".to_owned(), id: "bench".to_owned() };
    let mut state = State::new(Pipeline { id: "bench".to_owned(), source, destination });
    let stream = StreamState {
        sync_mode: SyncMode::FullRefresh,
        generation: 1,
        position: None,
        commit: 1,
        chunks: (0..CHUNKS).map(chunk).collect(),
        chunks_done: 0,
        rows_synced: 0,
        pass: 0,
        cursor: None,
        window: None,
    };
    state.streams.insert(StreamId::new("public", "large"), stream);
    state
}

fn save(criterion: &mut Criterion) {
    let state = state();
    let directory = tempfile::tempdir().unwrap();
    let store = StateStore::open(directory.path().join("state.json")).unwrap();
    let bytes = state.to_bytes().unwrap();
    assert_eq!(State::from_bytes(&bytes).unwrap(), state);
    let mut group = criterion.benchmark_group(format!("state of {CHUNKS} chunks"));
    group.bench_function("write as text", |bencher| bencher.iter(|| state.to_bytes().unwrap().len()));
    group.bench_function("save and sync", |bencher| bencher.iter(|| store.save(&state).unwrap()));
    group.bench_function("read", |bencher| bencher.iter(|| State::from_bytes(&bytes).unwrap()));
    group.finish();
}

criterion_group!(benches, save);
criterion_main!(benches);
