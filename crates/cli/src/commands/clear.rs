//! `lakeward clear`: streams leave the destination and the state.

use std::io::{BufRead, IsTerminal, Write};

use lakeward_core::{Error, ErrorKind, Result};
use lakeward_engine::AbstractDriver;
use lakeward_state::StateStore;

use crate::args::ClearArgs;
use crate::commands::selected::{self, Names};
use crate::config;
use crate::failure::ExitCode;
use crate::messages::Console;
use crate::output::harmless;
use crate::progress;
use crate::quantity::{counted, listed};

/// More names than this are counted, not listed.
const MOST_NAMES: usize = 20;

/// Clears after asking.
pub(crate) async fn run(args: &ClearArgs, console: &Console) -> Result<ExitCode> {
    let catalog = config::load_catalog(&args.streams.streams)?;
    // Everything that can be wrong is wrong before the user is asked.
    let driver = config::source(&args.source.config)?;
    let destination = config::destination(&args.destination.destination)?;
    let streams = match args.log {
        true => Vec::new(),
        false if args.names.is_empty() => selected::choose(&catalog, &args.names)?,
        false => selected::choose_known(&catalog, &args.names, destination.as_ref()).await?,
    };
    let store = StateStore::open(args.streams.state())?;
    if !args.yes && !confirm(&question(&streams, &args.destination.destination.display().to_string()))? {
        console.say("nothing was cleared");
        return Ok(ExitCode::DONE);
    }
    let unselected = if args.all { known_besides(&store, &streams)? } else { Vec::new() };
    let sink = progress::sink(console);
    let engine = AbstractDriver::new(driver, destination, store, Default::default(), sink.clone());
    let cleared = match args.log {
        true => engine.clear_log().await,
        false => engine.clear_state(&streams).await.map(Some),
    };
    drop((engine, sink));
    let cleared = cleared?;
    for kept in cleared.iter().flatten() {
        console.say(&harmless(&format!("kept at the source: {kept}")));
    }
    console.say(&match (args.log, cleared) {
        (true, Some(_)) => "the source's log was let go".to_owned(),
        (true, None) => "nothing was made at the source for this pipeline".to_owned(),
        (false, _) => format!("{} cleared", counted(streams.len(), "stream")),
    });
    if !unselected.is_empty() {
        console.say(&harmless(&format!(
            "not selected, and so left as they are: {}; `lakeward clear` takes their names too",
            listed(&unselected)
        )));
    }
    Ok(ExitCode::DONE)
}

/// Names of streams that were replicated and are not among these.
fn known_besides(store: &StateStore, streams: &[Names]) -> Result<Vec<String>> {
    let known = store.load()?.map(|state| state.streams).unwrap_or_default();
    let besides = known.keys().filter(|id| streams.iter().all(|(cleared, _)| cleared != *id));
    Ok(besides.map(ToString::to_string).collect())
}

fn question(streams: &[Names], destination: &str) -> String {
    if streams.is_empty() {
        return "The slot and the publications of this pipeline will be dropped at the source, and streams that \
                follow its log be read anew at the next sync.\n"
            .to_owned();
    }
    let mut question =
        format!("All rows of {} at {destination} will be removed:\n", counted(streams.len(), "stream"));
    for (id, target) in streams.iter().take(MOST_NAMES) {
        question.push_str(&format!("  {}", harmless(&id.to_string())));
        if id != target {
            question.push_str(&format!(" (there: {})", harmless(&target.to_string())));
        }
        question.push('\n');
    }
    if streams.len() > MOST_NAMES {
        question.push_str(&format!("  … and {} more\n", streams.len() - MOST_NAMES));
    }
    question
}

fn confirm(question: &str) -> Result<bool> {
    if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
        return Err(Error::new(
            ErrorKind::Config,
            "clear asks before it removes anything, and nobody is there to answer",
        )
        .hint("add --yes to clear without being asked"));
    }
    let _ = write!(std::io::stderr(), "{question}Type yes to go on: ");
    let mut answer = String::new();
    let read = std::io::stdin().lock().read_line(&mut answer);
    Ok(read.is_ok() && answer.trim() == "yes")
}
