//! The state file against its promises: atomic, locked, versioned, never mistaken.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop where it stands")]

use lakeward_core::ErrorKind;
use lakeward_state::{State, StateStore};

const GOLDEN: &str = include_str!("../../../state/golden/state-v1.json");

fn golden(directory: &tempfile::TempDir) -> (StateStore, State) {
    let path = directory.path().join("state.json");
    std::fs::write(&path, GOLDEN).unwrap();
    let store = StateStore::open(&path).unwrap();
    let state = store.load().unwrap().unwrap();
    (store, state)
}

#[test]
fn every_version_ever_written_is_read_and_version_1_is_written_as_it_was() {
    let directory = tempfile::tempdir().unwrap();
    let (store, state) = golden(&directory);
    store.save(&state).unwrap();
    assert_eq!(std::fs::read_to_string(store.path()).unwrap(), GOLDEN);
}

#[test]
fn a_missing_file_is_none_and_every_torn_one_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state.json");
    let store = StateStore::open(&path).unwrap();
    assert_eq!(store.load().unwrap(), None);
    let whole = GOLDEN.trim_end();
    for length in 0..whole.len() {
        std::fs::write(&path, &whole[..length]).unwrap();
        let error = store.load().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::State, "cut at {length}");
        assert!(error.remedy().unwrap().contains("state rebuild"));
    }
}

#[test]
fn an_unknown_version_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state.json");
    std::fs::write(&path, GOLDEN.replacen("\"version\": 1", "\"version\": 7", 1)).unwrap();
    let error = StateStore::read(&path).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::State);
    assert!(error.to_string().contains("version 7"), "{error}");
}

#[test]
fn a_second_holder_is_turned_away_and_told_who_the_first_is() {
    let directory = tempfile::tempdir().unwrap();
    let (first, state) = golden(&directory);
    let error = StateStore::open(first.path()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::State);
    assert!(error.to_string().contains(&format!("pid {}", std::process::id())), "{error}");
    // The lock is on a file of its own: saving, which renames, must not let a second one in.
    first.save(&state).unwrap();
    assert!(StateStore::open(first.path()).is_err());
    let path = first.path().to_owned();
    drop(first);
    assert!(StateStore::open(path).is_ok());
}

#[test]
fn the_schema_file_is_json_and_names_every_field_of_the_golden_file() {
    let schema: serde_json::Value = serde_json::from_str(lakeward_state::SCHEMA).unwrap();
    let golden: serde_json::Value = serde_json::from_str(GOLDEN).unwrap();
    let known = |pointer: &str, value: &serde_json::Value| {
        let properties = schema.pointer(pointer).unwrap().as_object().unwrap();
        for name in value.as_object().unwrap().keys() {
            assert!(properties.contains_key(name), "{pointer} lacks {name}");
        }
    };
    known("/properties", &golden);
    known("/properties/pipeline/properties", &golden["pipeline"]);
    known("/properties/global/properties", &golden["global"]);
    for stream in golden["streams"].as_array().unwrap() {
        known("/$defs/stream/properties", stream);
        for chunk in stream["chunks"].as_array().unwrap() {
            known("/$defs/stream/properties/chunks/items/properties", chunk);
        }
    }
}
