//! The persisted form, version 1. Its names are a promise to people and scripts that read the file.

use std::collections::BTreeMap;

use jiff::Timestamp;
use lakeward_core::{Chunk, Error, ErrorKind, Pipeline, Position, Result, ResultExt, StreamId, SyncMode};
use serde::{Deserialize, Serialize};

use crate::{GlobalState, State, StreamState};

/// The version that is written.
const VERSION: u32 = 1;

/// Read before anything else, so that a newer file is told from a torn one.
#[derive(Deserialize)]
struct Versioned {
    version: u32,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileV1 {
    version: u32,
    pipeline: Pipeline,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    global: Option<GlobalV1>,
    streams: Vec<StreamV1>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct GlobalV1 {
    position: Position,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    as_of: Option<String>,
    streams: Vec<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StreamV1 {
    namespace: String,
    stream: String,
    sync_mode: SyncMode,
    generation: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    position: Option<Position>,
    commit: u64,
    chunks: Vec<Chunk>,
    chunks_done: u32,
    rows_synced: u64,
    #[serde(default)]
    pass: u64,
    /// Column to greatest value.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    cursor: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    window: Option<String>,
}

/// The text of a state file.
pub(crate) fn write(state: &State) -> Result<Vec<u8>> {
    let streams = state.streams.iter().map(|(id, stream)| StreamV1 {
        namespace: id.namespace.clone(),
        stream: id.name.clone(),
        sync_mode: stream.sync_mode,
        generation: stream.generation,
        position: stream.position.clone(),
        commit: stream.commit,
        chunks: stream.chunks.clone(),
        chunks_done: stream.chunks_done,
        rows_synced: stream.rows_synced,
        pass: stream.pass,
        cursor: stream.cursor.iter().cloned().collect(),
        window: stream.window.clone(),
    });
    let file = FileV1 {
        version: VERSION,
        pipeline: state.pipeline.clone(),
        global: state.global.as_ref().map(|global| GlobalV1 {
            position: global.position.clone(),
            as_of: global.as_of.and_then(|at| Some(Timestamp::from_microsecond(at).ok()?.to_string())),
            streams: global.streams.iter().map(StreamId::to_string).collect(),
        }),
        streams: streams.collect(),
    };
    let mut text = serde_json::to_vec_pretty(&file)
        .or_fail(ErrorKind::Bug, || "the state cannot be written as JSON".into())?;
    text.push(b'\n');
    Ok(text)
}

/// Reads a state file's text. Every failure is of kind `State` and quotes nothing of the contents.
pub(crate) fn read(text: &[u8]) -> Result<State> {
    let torn = |error: serde_json::Error| {
        Error::new(ErrorKind::State, "the state file does not parse: it is torn, or is no state file")
            .at("line", error.line())
            .hint("restore it from a copy, or make it anew with `lakeward state rebuild`")
    };
    let Versioned { version } = serde_json::from_slice(text).map_err(torn)?;
    if version != VERSION {
        return Err(Error::new(
            ErrorKind::State,
            "the state file has a version that this build does not know",
        )
        .at("version", version)
        .hint(format!("this build reads version {VERSION}: use the build that wrote it, or a newer one")));
    }
    let file: FileV1 = serde_json::from_slice(text).map_err(torn)?;
    let streams = file
        .streams
        .into_iter()
        .map(|stream| {
            let state = StreamState {
                sync_mode: stream.sync_mode,
                generation: stream.generation,
                position: stream.position,
                commit: stream.commit,
                chunks: stream.chunks,
                chunks_done: stream.chunks_done,
                rows_synced: stream.rows_synced,
                pass: stream.pass,
                cursor: stream.cursor.into_iter().next(),
                window: stream.window,
            };
            (StreamId::new(stream.namespace, stream.stream), state)
        })
        .collect();
    let global = file.global.map(|global| GlobalState {
        position: global.position,
        as_of: global.as_of.and_then(|at| Some(at.parse::<Timestamp>().ok()?.as_microsecond())),
        streams: global
            .streams
            .iter()
            .filter_map(|name| name.split_once('.'))
            .map(|(namespace, name)| StreamId::new(namespace, name))
            .collect(),
    });
    Ok(State { pipeline: file.pipeline, global, streams })
}
