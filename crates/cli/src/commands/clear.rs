//! `lakeward clear`: streams leave the destination and the state.

use std::io::{BufRead, IsTerminal, Write};

use lakeward_core::{Catalog, Error, ErrorKind, Result, StreamId};
use lakeward_engine::AbstractDriver;
use lakeward_state::StateStore;

use crate::args::ClearArgs;
use crate::config;
use crate::failure::ExitCode;
use crate::messages::Console;
use crate::output::harmless;
use crate::progress;
use crate::quantity::counted;
use crate::registry::nearest;

/// A stream's name at the source and at the destination.
type Names = (StreamId, StreamId);

/// More names than this are counted, not listed.
const MOST_NAMES: usize = 20;

/// Clears after asking.
pub(crate) async fn run(args: &ClearArgs, console: &Console) -> Result<ExitCode> {
    let catalog = config::load_catalog(&args.streams.streams)?;
    let streams = if args.log { Vec::new() } else { choose(&catalog, &args.names)? };
    // Everything that can be wrong is wrong before the user is asked.
    let driver = config::source(&args.source.config)?;
    let destination = config::destination(&args.destination.destination)?;
    let store = StateStore::open(args.streams.state())?;
    if !args.yes && !confirm(&question(&streams, &args.destination.destination.display().to_string()))? {
        console.say("nothing was cleared");
        return Ok(ExitCode::DONE);
    }
    let sink = progress::sink(console);
    let engine = AbstractDriver::new(driver, destination, store, Default::default(), sink.clone());
    let cleared = if args.log { engine.clear_log().await } else { engine.clear_state(&streams).await };
    drop((engine, sink));
    for kept in cleared? {
        console.say(&harmless(&format!("kept at the source: {kept}")));
    }
    console.say(&match args.log {
        true => "the source's log was let go".to_owned(),
        false => format!("{} cleared", counted(streams.len(), "stream")),
    });
    Ok(ExitCode::DONE)
}

/// The selected streams of those names; all where none is named.
fn choose(catalog: &Catalog, names: &[String]) -> Result<Vec<Names>> {
    let selected: Vec<Names> = catalog
        .selections()?
        .into_iter()
        .map(|(id, selection)| {
            let name = selection.destination_table.unwrap_or_else(|| id.name.clone());
            let target = StreamId::new(&id.namespace, name);
            (id, target)
        })
        .collect();
    if selected.is_empty() {
        return Err(Error::new(ErrorKind::Config, "no stream is selected")
            .hint("clear takes the names of selected_streams in streams.json"));
    }
    if names.is_empty() {
        return Ok(selected);
    }
    let mut chosen: Vec<Names> = Vec::with_capacity(names.len());
    for name in names {
        let Some(found) = selected.iter().find(|(id, _)| id.to_string() == *name) else {
            let known: Vec<String> = selected.iter().map(|(id, _)| id.to_string()).collect();
            let error = Error::new(ErrorKind::Config, format!("no stream \"{name}\" is selected"));
            return Err(match nearest(name, known.iter().map(String::as_str)) {
                Some(near) => error.hint(format!("did you mean {near}?")),
                None => error.hint("name it as namespace.name, as under selected_streams in streams.json"),
            });
        };
        if !chosen.contains(found) {
            chosen.push(found.clone());
        }
    }
    Ok(chosen)
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

#[cfg(test)]
mod tests {
    use super::*;
    use lakeward_core::Selection;

    #[test]
    fn names_are_those_of_the_source_and_targets_those_of_the_destination() {
        let selection = |name: &str, table: Option<&str>| Selection {
            stream_name: name.to_owned(),
            destination_table: table.map(str::to_owned),
            ..Selection::default()
        };
        let mut catalog = Catalog::default();
        catalog
            .selected_streams
            .insert("public".to_owned(), vec![selection("a", Some("b")), selection("c", None)]);
        let a = (StreamId::new("public", "a"), StreamId::new("public", "b"));
        assert_eq!(choose(&catalog, &["public.a".to_owned()]).unwrap(), [a]);
        assert_eq!(choose(&catalog, &[]).unwrap().len(), 2);
        assert!(choose(&catalog, &["public.z".to_owned()]).is_err());
        assert!(choose(&Catalog::default(), &[]).is_err());
    }
}
