//! `lakeward compact`: small files become larger ones.

use lakeward_core::{Error, ErrorKind, Result};
use lakeward_engine::{AbstractDriver, Compaction, Options};
use lakeward_state::StateStore;
use serde_json::json;

use crate::args::{CompactArgs, OutputFormat};
use crate::commands::selected;
use crate::config;
use crate::failure::{self, ExitCode};
use crate::messages::Console;
use crate::output::{Surface, harmless, print, print_json, table};
use crate::progress;
use crate::quantity::{human_bytes, human_count};
use crate::signals::stop_on_signal;

/// Merges, and says what became of how many files.
pub(crate) async fn run(args: &CompactArgs, console: &Console) -> Result<ExitCode> {
    let catalog = config::load_catalog(&args.streams.streams)?;
    let streams = selected::choose(&catalog, &args.names)?;
    let destination = config::destination(&args.destination.destination)?;
    let store = StateStore::open(args.streams.state()).map_err(by_whoever_follows)?;
    let options = Options { memory_limit: args.limits.memory_limit, ..Options::default() };
    let sink = progress::sink(console);
    let work = AbstractDriver::compact(destination, store, &streams, &options, sink.clone());
    let outcome = stop_on_signal(console, options.cancel.clone(), work).await;
    drop(sink);
    let compaction = outcome?;
    match args.output {
        OutputFormat::Json => print_json(&json!({ "streams": compaction.streams }))?,
        OutputFormat::Text => print(&text(&compaction, Surface::stdout()))?,
    }
    let failures = || compaction.failures.iter().filter(|(_, error)| error.kind() != ErrorKind::Cancelled);
    for (stream, error) in failures() {
        console.fail_stream(stream, error);
    }
    if options.cancel.is_cancelled() {
        console.say("interrupted: what was merged stands");
        return Ok(ExitCode::INTERRUPTED);
    }
    let gravest = failure::gravest(failures().map(|(_, error)| error));
    Ok(gravest.map_or(ExitCode::DONE, |error| ExitCode::of(error.kind())))
}

/// Where a run holds the state, says that it may be doing the work already.
fn by_whoever_follows(error: Error) -> Error {
    let held = error.places().any(|(what, _)| what == "pid");
    let Some(remedy) = error.remedy().filter(|_| held) else { return error };
    let hint = format!("{remedy}; a sync that follows changes merges small files by itself");
    error.hint(hint)
}

fn text(compaction: &Compaction, surface: Surface) -> String {
    let rows = compaction.streams.iter().map(|stream| {
        vec![
            harmless(&stream.stream.to_string()),
            human_count(stream.files_before as u64),
            human_count(stream.files_after as u64),
            human_bytes(stream.bytes_before),
            human_bytes(stream.bytes_after),
        ]
    });
    table(surface, &["stream", "#files before", "#after", "#size before", "#after"], rows)
}
