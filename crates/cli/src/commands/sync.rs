//! `lakeward sync`: the replication itself.

use std::time::Instant;

use lakeward_core::Result;
use lakeward_engine::{AbstractDriver, StreamPlan};
use lakeward_state::StateStore;

use crate::args::{OutputFormat, SyncArgs};
use crate::config;
use crate::failure::{self, ExitCode};
use crate::messages::{Console, Presentation};
use crate::output::{Surface, harmless, print, print_json, table};
use crate::progress;
use crate::quantity::{human_bytes, human_count};
use crate::signals::{abandon_on_signal, stop_on_signal};

/// Replicates, or says what would be done.
pub(crate) async fn run(args: &SyncArgs, console: &Console) -> Result<ExitCode> {
    let catalog = config::load_catalog(&args.streams.streams)?;
    let driver = config::source(&args.source.config)?;
    let destination = config::destination(&args.destination.destination)?;
    let options = args.limits.options(args.follow);
    let cancel = options.cancel.clone();
    let store = StateStore::open(args.streams.state())?;
    let sink = progress::sink(console);
    let engine = AbstractDriver::new(driver, destination, store, options, sink.clone());

    if args.dry_run {
        let plans = abandon_on_signal(engine.plan(&catalog)).await;
        // Bars go before the result comes.
        drop((engine, sink));
        match args.output {
            OutputFormat::Json => print_json(&plans?)?,
            OutputFormat::Text => print(&plan_table(&plans?, Surface::stdout()))?,
        }
        return Ok(ExitCode::DONE);
    }

    let start = Instant::now();
    let outcome = stop_on_signal(console, cancel.clone(), engine.read(&catalog)).await;
    drop((engine, sink));
    let summary = outcome?;
    progress::report(console, &summary, start.elapsed().as_secs_f64());
    let gravest = failure::gravest(summary.failures.iter().map(|(_, error)| error));
    for (stream, error) in &summary.failures {
        // Events have told programs already; people get the whole story once, after the bars.
        if !cancel.is_cancelled() && !matches!(console.presentation(), Presentation::Json(_)) {
            console.line(&format!("\n{stream}"));
            console.fail(error);
        }
    }
    Ok(match gravest {
        _ if cancel.is_cancelled() => {
            console.say("interrupted: what was committed stands, and the next run goes on from there");
            ExitCode::INTERRUPTED
        }
        Some(error) => ExitCode::of(error.kind()),
        None => ExitCode::DONE,
    })
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
