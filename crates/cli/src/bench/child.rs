//! One run of a benchmark, in a process of its own: what the kernel counts for the process is this run's alone.
//!
//! It speaks on standard output, a [`Line`] each; a failure is told on standard error as by any command.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use lakeward_core::{Error, Result};
use lakeward_engine::{AbstractDriver, Event, EventSink};
use lakeward_state::StateStore;
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use crate::args::BenchRunArgs;
use crate::config;
use crate::failure::ExitCode;

/// What a run says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Line {
    /// So many rows have come in so far; said with every batch.
    Read(u64),
    /// All is done.
    Done(Figures),
}

/// What a run did and what it took.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Figures {
    /// Rows that it committed.
    pub(crate) rows: u64,
    /// Rows that came in.
    pub(crate) rows_read: u64,
    /// Chunks of the plan.
    pub(crate) chunks: u64,
    /// Files that it committed.
    pub(crate) files: u64,
    /// Bytes of those.
    pub(crate) file_bytes: u64,
    /// From the stream's beginning to its last commit.
    pub(crate) seconds: f64,
    /// User and system time of the whole process.
    pub(crate) cpu_seconds: f64,
    /// Its resident memory at its highest; `None` where the kernel does not say.
    pub(crate) peak_rss_bytes: Option<u64>,
    /// Steps that were tried again.
    pub(crate) retries: u64,
}

/// Syncs, and says what that took.
pub(crate) async fn run_once(args: &BenchRunArgs) -> Result<ExitCode> {
    let catalog = config::load_catalog(&args.streams.streams)?;
    let driver = config::source(&args.source.config)?;
    let destination = config::destination(&args.destination.destination)?;
    let store = StateStore::open(args.streams.state())?;
    let counter = Arc::new(Counter::default());
    let engine = AbstractDriver::new(driver, destination, store, args.limits.options(false), counter.clone());
    let mut summary = engine.read(&catalog).await?;
    drop(engine);
    // One stream, one outcome.
    if let Some((_, error)) = summary.failures.pop() {
        return Err(error);
    }
    let stream = summary.streams.pop().ok_or_else(|| Error::bug("a run ended without its stream"))?;
    say(&Line::Done(Figures {
        rows: stream.rows,
        rows_read: counter.rows.load(Ordering::Relaxed),
        chunks: counter.chunks.load(Ordering::Relaxed),
        files: stream.files,
        file_bytes: stream.bytes,
        seconds: stream.seconds,
        cpu_seconds: cpu_time().as_secs_f64(),
        peak_rss_bytes: peak_rss_bytes(),
        retries: stream.retries,
    }));
    Ok(ExitCode::DONE)
}

/// Says every batch, and counts.
#[derive(Default)]
struct Counter {
    rows: AtomicU64,
    chunks: AtomicU64,
}

impl EventSink for Counter {
    fn event(&self, event: &Event) {
        match event {
            Event::StreamPlanned { chunks, .. } => self.chunks.store(*chunks as u64, Ordering::Relaxed),
            Event::RowsRead { rows, .. } => {
                say(&Line::Read(self.rows.fetch_add(*rows, Ordering::Relaxed) + rows));
            }
            _ => {}
        }
    }
}

fn say(line: &Line) {
    let text = serde_json::to_string(line).unwrap_or_default() + "\n";
    let mut out = std::io::stdout().lock();
    if out.write_all(text.as_bytes()).and_then(|()| out.flush()).is_err() {
        // The benchmark was killed, and nobody wants to know any more.
        std::process::exit(i32::from(ExitCode::INTERRUPTED.code()));
    }
}

fn cpu_time() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ProcessCPUTime)).unwrap_or_default()
}

/// Not `ru_maxrss`: that begins with what the parent had when it started this process.
fn peak_rss_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}
