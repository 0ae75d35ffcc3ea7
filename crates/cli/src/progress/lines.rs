//! Events as lines: JSON for programs, text for people without a terminal.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use lakeward_core::StreamId;
use lakeward_engine::{Event, EventSink};

use crate::messages::{Console, Detail};
use crate::progress::throttle::{Read, Throttle};
use crate::quantity::{counted, human_bytes, human_count, human_lag};

/// Rows of a stream are told so often at most.
const INTERVAL: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Text,
    Json,
}

/// Writes each event as a line; those that come with every batch at most once a second and stream.
pub(crate) struct Lines {
    console: Console,
    detail: Detail,
    form: Form,
    throttle: Mutex<Throttle>,
}

impl Lines {
    pub(crate) fn text(console: Console, detail: Detail) -> Self {
        Self { console, detail, form: Form::Text, throttle: Mutex::new(Throttle::new(INTERVAL)) }
    }

    pub(crate) fn json(console: Console, detail: Detail) -> Self {
        Self { form: Form::Json, ..Self::text(console, detail) }
    }

    fn write(&self, event: &Event) {
        match self.form {
            Form::Json => self.console.json(event),
            Form::Text => self.console.line(&describe(event)),
        }
    }

    fn throttled<T>(&self, act: impl FnOnce(&mut Throttle) -> T) -> T {
        act(&mut self.throttle.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn write_held_back(&self, stream: &StreamId) {
        if let Some(Read { rows, bytes }) = self.throttled(|throttle| throttle.drain(stream)) {
            self.write(&Event::RowsRead { stream: stream.clone(), rows, bytes });
        }
    }
}

impl EventSink for Lines {
    fn event(&self, event: &Event) {
        match event {
            Event::RowsRead { .. } | Event::ChunkCommitted { .. } if self.detail == Detail::Milestones => {}
            Event::RowsRead { stream, rows, bytes } => {
                let read = Read { rows: *rows, bytes: *bytes };
                let due = self.throttled(|throttle| throttle.add(stream, read, Instant::now()));
                if let Some(Read { rows, bytes }) = due {
                    self.write(&Event::RowsRead { stream: stream.clone(), rows, bytes });
                }
            }
            Event::StreamFinished(summary) => {
                self.write_held_back(&summary.stream);
                self.write(event);
            }
            Event::StreamFailed { stream, .. } => {
                self.write_held_back(stream);
                self.write(event);
            }
            _ => self.write(event),
        }
    }
}

/// An event for people. What a new kind of event has to say stands in its JSON form until it gets words here.
pub(crate) fn describe(event: &Event) -> String {
    match event {
        Event::RunStarted { run, streams, .. } => format!("run {run} began: {}", counted(*streams, "stream")),
        Event::StreamPlanned { stream, mode, generation, chunks, chunks_kept, estimated_rows } => {
            let rows =
                estimated_rows.map_or(String::new(), |rows| format!(", about {} rows", human_count(rows)));
            let kept = if *chunks_kept > 0 { format!(" ({chunks_kept} kept)") } else { String::new() };
            format!("{stream}: {mode}, generation {generation}, {}{kept}{rows}", counted(*chunks, "chunk"))
        }
        Event::RowsRead { stream, rows, bytes } => {
            format!("{stream}: read {} rows, {}", human_count(*rows), human_bytes(*bytes))
        }
        Event::ChunkCommitted { stream, chunk, rows, .. } => {
            format!("{stream}: chunk {chunk} committed, {} rows", human_count(*rows))
        }
        Event::GenerationVisible { stream, generation, rows } => {
            format!("{stream}: generation {generation} is visible, {} rows", human_count(*rows))
        }
        Event::Checkpoint {
            streams,
            rows,
            position,
            source,
            behind_bytes,
            behind_seconds,
            retained_bytes,
        } => {
            let lag = human_lag(*behind_bytes, *behind_seconds, *retained_bytes);
            let (rows, streams) = (human_count(*rows), counted(*streams, "stream"));
            format!("changes up to {position} of {source} committed: {rows} rows of {streams}, {lag}")
        }
        Event::FilesMerged { stream, merged, bytes_before, files, bytes } => format!(
            "{stream}: {} merged into {files}, {} into {}",
            counted(usize::try_from(*merged).unwrap_or(usize::MAX), "file"),
            human_bytes(*bytes_before),
            human_bytes(*bytes)
        ),
        Event::Retrying { stream, attempt, wait_ms, reason } => {
            let stream = stream.as_ref().map(|stream| format!("{stream}: ")).unwrap_or_default();
            format!("{stream}attempt {attempt} failed, trying again in {wait_ms} ms: {reason}")
        }
        Event::Warning { stream: Some(stream), message } => format!("warning: {stream}: {message}"),
        Event::Warning { stream: None, message } => format!("warning: {message}"),
        Event::StreamFinished(summary) => format!(
            "{}: done, {} rows in {:.1} s",
            summary.stream,
            human_count(summary.rows),
            summary.seconds
        ),
        Event::StreamFailed { stream, error, .. } => format!("{stream}: failed: {error}"),
    }
}
