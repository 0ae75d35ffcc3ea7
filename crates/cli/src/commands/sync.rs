//! `lakeward sync`: the replication itself.

use std::time::{Duration, Instant};

use lakeward_core::{ErrorKind, Result};
use lakeward_engine::{AbstractDriver, StreamPlan, Summary};
use lakeward_state::StateStore;

use crate::args::{OutputFormat, SyncArgs};
use crate::config;
use crate::failure::{self, ExitCode};
use crate::messages::Console;
use crate::output::{Surface, harmless, print, print_json, table};
use crate::progress;
use crate::quantity::{counted, human_bytes, human_count};
use crate::signals::{abandon_on_signal, stop_on_signal};

/// More failures than this are counted, not told one by one.
const MOST_FAILURES: usize = 20;
/// How often a run that follows gives memory back to the system.
const GIVE_BACK_EVERY: Duration = Duration::from_secs(10);

/// Replicates, or says what would be done.
pub(crate) async fn run(args: &SyncArgs, console: &Console) -> Result<ExitCode> {
    let catalog = config::load_catalog(&args.streams.streams)?;
    let driver = config::source(&args.source.config)?;
    let destination = config::destination(&args.destination.destination)?;
    if args.dry_run {
        let (state, chunk_bytes) = (args.streams.state(), args.limits.chunk_size);
        let plan = AbstractDriver::plan(driver.as_ref(), destination.as_ref(), &state, chunk_bytes, &catalog);
        let plans = abandon_on_signal(plan).await?;
        match args.output {
            OutputFormat::Json => print_json(&plans)?,
            OutputFormat::Text => print(&plan_table(&plans, Surface::stdout()))?,
        }
        return Ok(ExitCode::DONE);
    }

    let options = args.limits.options(args.follow);
    let cancel = options.cancel.clone();
    let store = StateStore::open(args.streams.state())?;
    let sink = progress::sink(console);
    let engine = AbstractDriver::new(driver, destination, store, options, sink.clone());
    let start = Instant::now();
    let giving_back = args.follow.then(|| tokio::spawn(give_memory_back()));
    let outcome = stop_on_signal(console, cancel.clone(), engine.read(&catalog)).await;
    if let Some(task) = giving_back {
        task.abort();
    }
    // The bars go before anything is said about how it ended.
    drop((engine, sink));
    let summary = outcome?;
    progress::report(console, &summary, start.elapsed().as_secs_f64());
    Ok(end(&summary, cancel.is_cancelled(), console))
}

/// A run without end must not keep what a backfill, a large transaction or a merge once took.
async fn give_memory_back() {
    let mut every = tokio::time::interval(GIVE_BACK_EVERY);
    loop {
        every.tick().await;
        lakeward_allocator::give_back();
    }
}

/// Tells why streams were not done, and decides the exit code.
fn end(summary: &Summary, cancelled: bool, console: &Console) -> ExitCode {
    let failures = || summary.failures.iter().filter(|(_, error)| error.kind() != ErrorKind::Cancelled);
    for (stream, error) in failures().take(MOST_FAILURES) {
        console.fail_stream(stream, error);
    }
    if let Some(more @ 1..) = failures().count().checked_sub(MOST_FAILURES) {
        console.say(&format!("… and {} failed", counted(more, "more stream")));
    }
    if cancelled {
        console.say("interrupted: what was committed stands, and the next run goes on from there");
        return ExitCode::INTERRUPTED;
    }
    failure::gravest(summary.failures.iter().map(|(_, error)| error))
        .map_or(ExitCode::DONE, |error| ExitCode::of(error.kind()))
}

fn plan_table(plans: &[StreamPlan], surface: Surface) -> String {
    let rows = plans.iter().map(|plan| {
        vec![
            harmless(&plan.stream),
            plan.mode.to_string(),
            harmless(&plan.action),
            human_count(plan.chunks as u64),
            plan.estimated_rows.map_or_else(|| "?".to_owned(), human_count),
            plan.estimated_bytes.map_or_else(|| "?".to_owned(), human_bytes),
        ]
    });
    let headers = ["stream", "mode", "what would be done", "#chunks", "#rows, about", "#size, about"];
    let mut text = table(surface, &headers, rows);
    text.push_str("nothing was written\n");
    text
}
