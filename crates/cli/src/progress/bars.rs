//! Bars on a terminal: one per stream that is being worked on, as many as fit, and one for all.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use lakeward_core::StreamId;
use lakeward_engine::{Event, EventSink};

use crate::messages::Console;
use crate::output::harmless;
use crate::progress::lines::describe;
use crate::quantity::{human_count, human_lag};

/// More bars than this are noise: other running streams stand in the total.
const MOST_BARS: usize = 12;
/// Lines that a terminal keeps for itself: the total, the prompt, a warning.
const SPARE_LINES: u16 = 4;
const NAME_WIDTH: usize = 32;
const TICK: Duration = Duration::from_millis(200);

const WITH_ESTIMATE: &str =
    "{prefix:32!} {bar:24.cyan/dim} {percent:>3} % {human_pos:>13} rows {rate:>14} {left:>7} left {msg}";
const WITHOUT_ESTIMATE: &str =
    "{prefix:32!} {spinner:.cyan} {human_pos:>13} rows {rate:>14} {elapsed:>6} {msg}";
const TOTAL: &str = "{prefix:32!} {bar:24.green/dim} {pos}/{len} streams {elapsed:>6} {msg}";

/// Draws bars. What people should know is written above them.
pub(crate) struct Bars {
    console: Console,
    state: Mutex<State>,
}

struct State {
    most: usize,
    total: ProgressBar,
    rows: u64,
    failed: u64,
    /// Where a log is followed, how far, in words.
    lag: Option<String>,
    shown: HashMap<StreamId, ProgressBar>,
    /// Running streams without a bar, in the order in which they began, with rows so far.
    waiting: VecDeque<StreamId>,
    known: HashMap<StreamId, Known>,
}

/// What is known of a running stream.
#[derive(Default)]
struct Known {
    estimated_rows: Option<u64>,
    rows: u64,
    chunks: usize,
    chunks_done: usize,
}

impl Bars {
    pub(crate) fn new(console: Console) -> Self {
        let height = console::Term::stderr().size().0;
        let most = usize::from(height.saturating_sub(SPARE_LINES)).clamp(1, MOST_BARS);
        let total = ProgressBar::no_length().with_style(style(TOTAL)).with_prefix("connecting");
        let total = console.bars().add(total);
        total.enable_steady_tick(TICK);
        let state = State {
            most,
            total,
            rows: 0,
            failed: 0,
            lag: None,
            shown: HashMap::new(),
            waiting: VecDeque::new(),
            known: HashMap::new(),
        };
        Self { console, state: Mutex::new(state) }
    }

    fn with_state<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        act(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Bars {
    fn drop(&mut self) {
        self.with_state(|state| {
            for bar in state.shown.values() {
                bar.finish_and_clear();
            }
            state.total.finish_and_clear();
        });
    }
}

impl EventSink for Bars {
    fn event(&self, event: &Event) {
        let worth_a_line = self.with_state(|state| state.apply(&self.console, event));
        // Outside the lock: a terminal may be slow.
        if worth_a_line {
            self.console.line(&harmless(&describe(event)));
        }
    }
}

impl State {
    /// Takes an event into the bars; whether people should read it in words as well.
    fn apply(&mut self, console: &Console, event: &Event) -> bool {
        match event {
            Event::RunStarted { streams, .. } => {
                self.total.set_length(*streams as u64);
                self.total.set_prefix("all streams");
                false
            }
            Event::StreamPlanned { stream, chunks, chunks_kept, estimated_rows, .. } => {
                let known = self.known.entry(stream.clone()).or_default();
                known.estimated_rows = *estimated_rows;
                known.chunks = *chunks;
                known.chunks_done = *chunks_kept;
                self.show(console, stream);
                self.refresh(stream);
                false
            }
            Event::RowsRead { stream, rows, .. } => {
                self.rows += rows;
                self.known.entry(stream.clone()).or_default().rows += rows;
                self.show(console, stream);
                self.refresh(stream);
                false
            }
            Event::ChunkCommitted { stream, .. } => {
                self.known.entry(stream.clone()).or_default().chunks_done += 1;
                self.refresh(stream);
                false
            }
            Event::Checkpoint { position, source, behind_bytes, behind_seconds, retained_bytes, .. } => {
                let lag = human_lag(*behind_bytes, *behind_seconds, *retained_bytes);
                self.lag = Some(harmless(&format!("{position} of {source}, {lag}")));
                self.tell_total();
                false
            }
            Event::GenerationVisible { .. } | Event::FilesMerged { .. } => false,
            Event::StreamFinished(summary) => {
                self.end(console, &summary.stream);
                false
            }
            Event::StreamFailed { stream, .. } => {
                self.failed += 1;
                self.end(console, stream);
                true
            }
            Event::Retrying { .. } | Event::Warning { .. } => true,
        }
    }

    fn show(&mut self, console: &Console, stream: &StreamId) {
        if self.shown.contains_key(stream) || self.waiting.contains(stream) {
            return;
        }
        if self.shown.len() >= self.most {
            self.waiting.push_back(stream.clone());
            return;
        }
        let known = self.known.entry(stream.clone()).or_default();
        let bar = match known.estimated_rows {
            Some(rows) if rows > 0 => ProgressBar::new(rows).with_style(style(WITH_ESTIMATE)),
            _ => ProgressBar::no_length().with_style(style(WITHOUT_ESTIMATE)),
        };
        let bar = bar.with_prefix(short(&harmless(&stream.to_string()))).with_position(known.rows);
        // Before the total, which stays last.
        let bar = console.bars().insert_before(&self.total, bar);
        bar.reset_eta();
        self.shown.insert(stream.clone(), bar);
    }

    fn refresh(&mut self, stream: &StreamId) {
        let Some(known) = self.known.get(stream) else { return };
        if let Some(bar) = self.shown.get(stream) {
            // Estimates are too low at times: a bar is full only when its stream is done.
            if bar.length().is_some_and(|length| known.rows >= length) {
                bar.set_length(known.rows + known.rows / 100 + 1);
            }
            bar.set_position(known.rows);
            if known.chunks > 1 {
                bar.set_message(format!("chunk {}/{}", known.chunks_done.min(known.chunks), known.chunks));
            }
        }
        self.tell_total();
    }

    fn tell_total(&self) {
        let mut message = format!("{} rows", human_count(self.rows));
        if !self.waiting.is_empty() {
            message.push_str(&format!(" · {} more running", self.waiting.len()));
        }
        if let Some(lag) = &self.lag {
            message.push_str(&format!(" · {lag}"));
        }
        if self.failed > 0 {
            message.push_str(&format!(" · {} failed", self.failed));
        }
        self.total.set_message(message);
    }

    fn end(&mut self, console: &Console, stream: &StreamId) {
        self.total.inc(1);
        self.waiting.retain(|other| other != stream);
        self.known.remove(stream);
        if let Some(bar) = self.shown.remove(stream) {
            bar.finish_and_clear();
            console.bars().remove(&bar);
            if let Some(next) = self.waiting.pop_front() {
                self.show(console, &next);
                self.refresh(&next);
            }
        }
        self.tell_total();
    }
}

fn style(template: &str) -> ProgressStyle {
    // The templates are constants that a test parses.
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("━╸ ")
        .with_key("rate", |state: &indicatif::ProgressState, out: &mut dyn std::fmt::Write| {
            let rate = state.per_sec();
            let rate = if rate.is_finite() && rate > 0.0 { rate as u64 } else { 0 };
            let _ = write!(out, "{}/s", human_count(rate));
        })
        .with_key("left", |state: &indicatif::ProgressState, out: &mut dyn std::fmt::Write| {
            // Before the first row there is nothing to go by.
            let _ = match state.pos() {
                0 => write!(out, "?"),
                _ => write!(out, "{:#}", indicatif::HumanDuration(state.eta())),
            };
        })
}

/// A long name keeps its end, which tells tables of one schema apart.
fn short(name: &str) -> String {
    let length = name.chars().count();
    if length <= NAME_WIDTH {
        return name.to_owned();
    }
    let tail: String = name.chars().skip(length - (NAME_WIDTH - 1)).collect();
    format!("…{tail}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{LogFormat, LogLevel, ProgressWhen, Speech};
    use lakeward_core::SyncMode;

    #[test]
    fn templates_parse() {
        for template in [WITH_ESTIMATE, WITHOUT_ESTIMATE, TOTAL] {
            assert!(ProgressStyle::with_template(template).is_ok(), "{template}");
        }
    }

    #[test]
    fn long_names_keep_their_end() {
        let name = format!("public.{}_2026_11", "x".repeat(40));
        assert!(short(&name).ends_with("_2026_11"));
        assert_eq!(short(&name).chars().count(), NAME_WIDTH);
    }

    fn console() -> Console {
        Console::new(&Speech {
            log_level: LogLevel::Error,
            log_format: Some(LogFormat::Text),
            progress: ProgressWhen::Never,
        })
    }

    #[test]
    fn how_far_a_log_is_behind_stands_in_the_last_line() {
        let console = console();
        Bars::new(console.clone()).with_state(|state| {
            let checkpoint = Event::Checkpoint {
                streams: 1,
                rows: 1,
                position: "0/2A".to_owned(),
                source: "0/10002A".to_owned(),
                behind_bytes: 1 << 20,
                behind_seconds: Some(2.5),
                retained_bytes: Some(2 << 20),
            };
            assert!(!state.apply(&console, &checkpoint));
            let last = state.total.message();
            let lag = "0/2A of 0/10002A, 1.0 MiB and 2.5 s behind, 2.0 MiB kept at the source";
            assert!(last.ends_with(lag), "{last}");
        });
    }

    #[test]
    fn thousands_of_streams_share_a_few_bars() {
        let console = console();
        let bars = Bars::new(console.clone());
        let stream = |number: usize| StreamId::new("public", format!("t{number}"));
        bars.with_state(|state| {
            for number in 0..5000 {
                let planned = Event::StreamPlanned {
                    stream: stream(number),
                    mode: SyncMode::FullRefresh,
                    generation: 1,
                    chunks: 1,
                    chunks_kept: 0,
                    estimated_rows: Some(10),
                };
                assert!(!state.apply(&console, &planned));
            }
            assert_eq!(state.shown.len(), state.most);
            assert!(state.most <= MOST_BARS);
            assert_eq!(state.waiting.len(), 5000 - state.most);
            for number in 0..4999 {
                let failed = Event::StreamFailed { stream: stream(number), error: String::new(), hint: None };
                assert!(state.apply(&console, &failed));
            }
            assert!(state.shown.contains_key(&stream(4999)));
            assert_eq!((state.shown.len(), state.waiting.len(), state.known.len()), (1, 0, 1));
        });
    }
}
