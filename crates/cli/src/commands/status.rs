//! `lakeward status`: where every stream stands, by the state file, and how far the source is ahead.

use std::path::Path;

use lakeward_core::{Error, ErrorKind, Lag, Position, Result};
use lakeward_state::{GlobalState, State, StateStore, StreamState};
use serde_json::{Value, json};

use crate::args::{OutputFormat, StatusArgs};
use crate::config;
use crate::failure::ExitCode;
use crate::output::{Surface, harmless, print, print_json, table};
use crate::quantity::{human_count, human_lag};

/// Prints the state. Takes no lock: a sync may be running.
pub(crate) async fn run(args: &StatusArgs) -> Result<ExitCode> {
    let state = StateStore::read(&args.state)?.ok_or_else(|| {
        Error::new(ErrorKind::Config, "there is no state yet")
            .at("file", args.state.display())
            .hint("the first `lakeward sync` makes it; --state names another file")
    })?;
    let lag = match (&args.config, &state.global) {
        (Some(config), Some(global)) => lag(config, global).await?,
        _ => None,
    };
    match args.output {
        OutputFormat::Json => print_json(&value(&state, lag.as_ref()))?,
        OutputFormat::Text => print(&text(&state, lag.as_ref(), Surface::stdout()))?,
    }
    Ok(ExitCode::DONE)
}

/// Asks the source; `None` where it has no log.
async fn lag(config: &Path, global: &GlobalState) -> Result<Option<Lag>> {
    let driver = config::source(config)?;
    match driver.change_stream() {
        Some(log) => log.lag(&global.position).await.map(Some),
        None => Ok(None),
    }
}

fn text(state: &State, lag: Option<&Lag>, surface: Surface) -> String {
    let pipeline = &state.pipeline;
    let facts: Vec<String> =
        pipeline.source.facts.iter().map(|(name, fact)| format!("{name} {}", plain(fact))).collect();
    let mut result = format!(
        "pipeline {}\n  from {} ({})\n  to {} ({})\n",
        pipeline.id,
        pipeline.source.kind,
        harmless(&facts.join(", ")),
        pipeline.destination.kind,
        pipeline.destination.id,
    );
    if let Some(global) = &state.global {
        result.push_str(&format!("  log committed and released up to {}\n", position(&global.position)));
    }
    if let Some(lag) = lag {
        let what = match &lag.lost {
            None => human_lag(lag.behind_bytes, behind_seconds(state, lag), lag.retained_bytes),
            Some(reason) => format!("what follows is lost: {}", harmless(reason)),
        };
        result.push_str(&format!("  log at the source ends at {}: {what}\n", position(&lag.source)));
    }
    let rows = state.streams.iter().map(|(id, stream)| {
        vec![
            harmless(&id.to_string()),
            stream.sync_mode.to_string(),
            stream.generation.to_string(),
            backfill(stream),
            human_count(stream.rows_synced),
            stream.position.as_ref().map_or_else(String::new, position),
            stream
                .cursor
                .as_ref()
                .map_or_else(String::new, |(column, value)| harmless(&format!("{column} {value}"))),
            stream.commit.to_string(),
        ]
    });
    let headers =
        ["stream", "mode", "#generation", "backfill", "#rows written", "position", "cursor", "#commit"];
    result.push_str(&table(surface, &headers, rows));
    result
}

fn behind_seconds(state: &State, lag: &Lag) -> Option<f64> {
    lag.behind_seconds(state.global.as_ref()?.as_of)
}

/// Generations are counted from one.
fn begun(stream: &StreamState) -> bool {
    stream.generation > 0
}

fn backfill(stream: &StreamState) -> String {
    if stream.chunks.is_empty() {
        return if begun(stream) { "complete" } else { "not begun" }.to_owned();
    }
    let all = stream.chunks_done as usize + stream.chunks.len();
    format!("{}/{all} chunks", stream.chunks_done)
}

/// A position in few words: its LSN alone where it has one.
pub(super) fn position(position: &Position) -> String {
    harmless(&position.0.get("lsn").map_or_else(|| plain(&position.0), plain))
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn value(state: &State, lag: Option<&Lag>) -> Value {
    let streams: Vec<Value> = state
        .streams
        .iter()
        .map(|(id, stream)| {
            json!({
                "stream": id.to_string(),
                "sync_mode": stream.sync_mode,
                "generation": stream.generation,
                "backfill_complete": begun(stream) && stream.chunks.is_empty(),
                "chunks_done": stream.chunks_done,
                "chunks_left": stream.chunks.len(),
                "rows_synced": stream.rows_synced,
                "position": stream.position,
                "cursor": stream.cursor.as_ref().map(|(column, value)| json!({ "column": column, "value": value })),
                "pass": stream.pass,
                "commit": stream.commit,
            })
        })
        .collect();
    let global = state.global.as_ref().map(|global| {
        let streams: Vec<String> = global.streams.iter().map(ToString::to_string).collect();
        json!({ "position": global.position, "streams": streams })
    });
    let lag = lag.map(|lag| {
        json!({
            "source": lag.source, "behind_bytes": lag.behind_bytes,
            "behind_seconds": behind_seconds(state, lag), "retained_bytes": lag.retained_bytes,
            "lost": lag.lost,
        })
    });
    json!({ "pipeline": state.pipeline, "global": global, "lag": lag, "streams": streams })
}

#[cfg(test)]
mod tests {
    use super::*;
    use lakeward_core::{Chunk, DestinationIdentity, Pipeline, SourceIdentity, StreamId, SyncMode};

    #[test]
    fn shows_chunks_done_position_and_cursor() {
        let mut state = State::new(Pipeline {
            id: "01J".to_owned(),
            source: SourceIdentity { kind: "postgres".to_owned(), facts: serde_json::Map::new() },
            destination: DestinationIdentity { kind: "parquet".to_owned(), id: "x".to_owned() },
        });
        let chunk = Chunk { number: 3, relation: None, min: None, max: None, bytes: 0 };
        let stream = StreamState {
            sync_mode: SyncMode::Incremental,
            generation: 2,
            position: Some(Position(json!({ "lsn": "0/16B3748" }))),
            commit: 9,
            chunks: vec![chunk],
            chunks_done: 3,
            rows_synced: 1_000,
            pass: 0,
            cursor: Some(("updated_at".to_owned(), "2026-11-21".to_owned())),
            window: None,
        };
        state.streams.insert(
            StreamId::new("public", "queued"),
            StreamState { generation: 0, chunks: Vec::new(), ..stream.clone() },
        );
        state.streams.insert(StreamId::new("public", "orders"), stream);
        let text = text(&state, None, Surface::Plain);
        for expected in
            ["public.orders", "not begun", "3/4 chunks", "0/16B3748", "updated_at 2026-11-21", "1,000"]
        {
            assert!(text.contains(expected), "{expected} in {text}");
        }
        assert_eq!(value(&state, None)["streams"][0]["chunks_left"], 1);
    }
}
