//! Standard error: bars, logs, events and failures share it without writing over one another.

use std::io::{self, IsTerminal, Write};
use std::sync::Arc;

use console::Term;
use indicatif::{MultiProgress, ProgressDrawTarget};
use lakeward_core::{Error, StreamId};
use serde::Serialize;
use serde_json::{Value, json};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use crate::args::{LogFormat, LogLevel, ProgressWhen, Speech};
use crate::failure;
use crate::output::harmless;

/// Bars are drawn so often per second at most.
const REFRESH_HZ: u8 = 10;

/// What a run's events become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Presentation {
    /// Bars, and lines above them for what people should know.
    Bars,
    /// A line of text per event.
    Lines(Detail),
    /// A JSON object per event.
    Json(Detail),
}

/// Which events are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Detail {
    /// All, those that come with every batch at most once a second and stream.
    All,
    /// Only what begins, ends or goes wrong.
    Milestones,
}

/// Standard error. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Console {
    bars: Arc<MultiProgress>,
    format: LogFormat,
    presentation: Presentation,
}

impl Console {
    /// Decides how to speak from what the user asked for and whether someone is looking.
    pub(crate) fn new(speech: &Speech) -> Self {
        let terminal =
            io::stderr().is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb");
        let format = speech.log_format.unwrap_or(if terminal { LogFormat::Text } else { LogFormat::Json });
        let presentation = present(terminal, format, speech.progress);
        let target = match presentation {
            // A term-like target draws whether or not anyone says it is a terminal: the user asked for bars.
            Presentation::Bars => {
                ProgressDrawTarget::term_like_with_hz(Box::new(Term::buffered_stderr()), REFRESH_HZ)
            }
            Presentation::Lines(_) | Presentation::Json(_) => ProgressDrawTarget::hidden(),
        };
        Self { bars: Arc::new(MultiProgress::with_draw_target(target)), format, presentation }
    }

    pub(crate) fn presentation(&self) -> Presentation {
        self.presentation
    }

    pub(crate) fn bars(&self) -> &MultiProgress {
        &self.bars
    }

    /// Sends logs here. Only Lakeward's own targets are ever shown below `warn`: what a library logs about its
    /// connections is not under our rule that no secret and no row value is logged.
    pub(crate) fn install_logs(&self, level: LogLevel) {
        let level = match level {
            LogLevel::Error => "error",
            LogLevel::Warn => "warn",
            LogLevel::Info => "info",
            LogLevel::Debug => "debug",
            LogLevel::Trace => "trace",
        };
        let others = if level == "error" { "error" } else { "warn" };
        let filter = EnvFilter::new(format!("{others},lakeward={level}"));
        let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(self.clone());
        // A second installation in one process (tests) keeps the first.
        let _ = match self.format {
            LogFormat::Json => builder.json().flatten_event(true).try_init(),
            LogFormat::Text => {
                builder.with_target(false).with_ansi(console::colors_enabled_stderr()).compact().try_init()
            }
        };
    }

    /// Writes a line for people; where JSON is spoken, as an event with that message.
    pub(crate) fn say(&self, message: &str) {
        match self.format {
            LogFormat::Text => self.line(message),
            LogFormat::Json => self.json(&json!({ "event": "message", "message": message })),
        }
    }

    /// Writes a failure.
    pub(crate) fn fail(&self, error: &Error) {
        match self.format {
            LogFormat::Text => self.line(&failure::text(error)),
            LogFormat::Json => self.json(&failure::value(error)),
        }
    }

    /// Writes why a stream was not done.
    pub(crate) fn fail_stream(&self, stream: &StreamId, error: &Error) {
        match self.format {
            LogFormat::Text => {
                self.line(&format!("\n{}\n{}", harmless(&stream.to_string()), failure::text(error)));
            }
            LogFormat::Json => {
                let mut event = failure::value(error);
                event["stream"] = Value::String(stream.to_string());
                self.json(&event);
            }
        }
    }

    /// Writes an event as one line of JSON, its time first.
    pub(crate) fn json(&self, event: &impl Serialize) {
        let mut line = serde_json::Map::new();
        line.insert("timestamp".to_owned(), Value::String(jiff::Timestamp::now().to_string()));
        if let Ok(Value::Object(fields)) = serde_json::to_value(event) {
            line.extend(fields);
        }
        self.line(&Value::Object(line).to_string());
    }

    /// Writes a line above the bars, in one piece. Nobody is told when standard error is closed: there is no
    /// one to tell, and a run does not stop for it.
    pub(crate) fn line(&self, text: &str) {
        let text = format!("{text}\n");
        self.bars.suspend(|| {
            let _ = io::stderr().lock().write_all(text.as_bytes());
        });
    }
}

fn present(terminal: bool, format: LogFormat, progress: ProgressWhen) -> Presentation {
    match (progress, format) {
        (ProgressWhen::Always, _) => Presentation::Bars,
        (ProgressWhen::Auto, LogFormat::Text) if terminal => Presentation::Bars,
        (ProgressWhen::Auto, LogFormat::Text) => Presentation::Lines(Detail::All),
        (ProgressWhen::Auto, LogFormat::Json) => Presentation::Json(Detail::All),
        (ProgressWhen::Never, LogFormat::Text) => Presentation::Lines(Detail::Milestones),
        (ProgressWhen::Never, LogFormat::Json) => Presentation::Json(Detail::Milestones),
    }
}

/// One log record: gathered, then written above the bars in one piece.
pub(crate) struct Record<'a> {
    console: &'a Console,
    text: Vec<u8>,
}

impl Write for Record<'_> {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        self.text.extend_from_slice(text);
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Record<'_> {
    fn drop(&mut self) {
        let text = String::from_utf8_lossy(&self.text);
        let text = text.trim_end_matches('\n');
        if !text.is_empty() {
            self.console.line(text);
        }
    }
}

impl<'a> MakeWriter<'a> for Console {
    type Writer = Record<'a>;

    fn make_writer(&'a self) -> Self::Writer {
        Record { console: self, text: Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_for_terminals_and_json_for_the_rest() {
        use {Detail::*, LogFormat::*, Presentation::*, ProgressWhen::*};
        assert_eq!(present(true, Text, Auto), Bars);
        assert_eq!(present(false, LogFormat::Json, Auto), Presentation::Json(Detail::All));
        assert_eq!(present(true, LogFormat::Json, Auto), Presentation::Json(Detail::All));
        assert_eq!(present(false, Text, Auto), Lines(Detail::All));
        assert_eq!(present(false, LogFormat::Json, Always), Bars);
        assert_eq!(present(true, Text, Never), Lines(Milestones));
    }
}
