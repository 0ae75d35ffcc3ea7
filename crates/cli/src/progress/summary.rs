//! What a run did, at its end.

use lakeward_core::ErrorKind;
use lakeward_engine::Summary;
use serde_json::json;

use crate::messages::{Console, Presentation};
use crate::output::{Surface, harmless, table};
use crate::quantity::{counted, human_bytes, human_count};

/// Writes what a run did to standard error: a table for people, one JSON line for programs.
pub(crate) fn report(console: &Console, summary: &Summary, seconds: f64) {
    if matches!(console.presentation(), Presentation::Json(_)) {
        let not_done: Vec<String> = summary.failures.iter().map(|(stream, _)| stream.to_string()).collect();
        console.json(&json!({
            "event": "summary", "streams": summary.streams, "not_done": not_done, "seconds": seconds,
        }));
        return;
    }
    console.line(text(summary, seconds, Surface::stderr()).trim_end());
}

fn text(summary: &Summary, seconds: f64, surface: Surface) -> String {
    let rows = summary.streams.iter().map(|stream| {
        let rate = if stream.seconds > 0.0 { stream.rows as f64 / stream.seconds } else { 0.0 };
        vec![
            harmless(&stream.stream.to_string()),
            stream.mode.to_string(),
            stream.generation.to_string(),
            human_count(stream.rows),
            human_count(rate as u64),
            stream.files.to_string(),
            human_bytes(stream.bytes),
            stream.retries.to_string(),
            format!("{:.1} s", stream.seconds),
        ]
    });
    let headers =
        ["stream", "mode", "#generation", "#rows", "#rows/s", "#files", "#size", "#retries", "#time"];
    let mut result = if summary.streams.is_empty() { String::new() } else { table(surface, &headers, rows) };
    for stream in summary.streams.iter().filter(|stream| !stream.bad_values.is_empty()) {
        for (column, count) in &stream.bad_values {
            result.push_str(&format!(
                "{}: {} of column \"{}\" replaced by the stream's policy; the originals are in _lw_rescued\n",
                harmless(&stream.stream.to_string()),
                counted(usize::try_from(*count).unwrap_or(usize::MAX), "value"),
                harmless(column),
            ));
        }
    }
    let rows: u64 = summary.streams.iter().map(|stream| stream.rows).sum();
    result.push_str(&format!(
        "{} done, {} rows, {:.1} s",
        counted(summary.streams.len(), "stream"),
        human_count(rows),
        seconds
    ));
    // Those that were stopped have done what they should: a log that is followed has no end.
    let (stopped, failed): (Vec<_>, Vec<_>) =
        summary.failures.iter().partition(|(_, error)| error.kind() == ErrorKind::Cancelled);
    for (streams, what) in [(stopped, "stopped"), (failed, "not done")] {
        if !streams.is_empty() {
            result.push_str(&format!("; {} {what}", streams.len()));
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use lakeward_core::{Error, StreamId, SyncMode};
    use lakeward_engine::StreamSummary;

    #[test]
    fn replaced_values_are_counted_by_column() {
        let stream = StreamSummary {
            stream: StreamId::new("public", "orders"),
            mode: SyncMode::FullRefresh,
            generation: 2,
            commit: 4,
            rows: 1_200_000,
            bytes: 5 << 20,
            files: 3,
            chunks_kept: 0,
            bad_values: vec![("born".to_owned(), 7)],
            retries: 0,
            seconds: 2.0,
        };
        let summary = Summary { streams: vec![stream], failures: vec![] };
        let text = text(&summary, 2.5, Surface::Plain);
        assert!(text.contains("600,000"), "{text}");
        assert!(text.contains("7 values of column \"born\" replaced"), "{text}");
        assert!(text.ends_with("1 stream done, 1,200,000 rows, 2.5 s"), "{text}");
    }

    #[test]
    fn what_was_stopped_has_not_failed() {
        let error = Error::new(ErrorKind::Data, "a value does not fit");
        let failures = [Error::cancelled(), error, Error::cancelled()];
        let failures = failures.into_iter().map(|error| (StreamId::new("public", "t"), error)).collect();
        let text = text(&Summary { streams: vec![], failures }, 2.5, Surface::Plain);
        assert_eq!(text, "0 streams done, 0 rows, 2.5 s; 2 stopped; 1 not done");
    }
}
