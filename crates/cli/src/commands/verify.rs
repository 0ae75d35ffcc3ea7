//! `lakeward verify`: whether the files hold what the source does.

use lakeward_core::{Error, Result, StreamId};
use lakeward_engine::{
    AbstractDriver, Difference, KeyDifference, Options, StreamVerification, VerifyOptions,
};
use serde_json::json;

use crate::args::{OutputFormat, VerifyArgs};
use crate::commands::selected;
use crate::config;
use crate::failure::{self, ExitCode};
use crate::messages::Console;
use crate::output::{Surface, harmless, print, print_json, table};
use crate::progress;
use crate::quantity::human_count;

type Results = Vec<(StreamId, Result<StreamVerification>)>;

/// Compares, and says what differs.
pub(crate) async fn run(args: &VerifyArgs, console: &Console) -> Result<ExitCode> {
    let catalog = config::load_catalog(&args.streams.streams)?;
    let names: Vec<StreamId> =
        selected::choose(&catalog, &args.names)?.into_iter().map(|(source, _)| source).collect();
    let driver = config::source(&args.source.config)?;
    let destination = config::destination(&args.destination.destination)?;
    let options = VerifyOptions {
        limits: Options {
            memory_limit: args.memory_limit,
            max_connections: args.max_connections.map(usize::from),
            ..Options::default()
        },
        wait: args.wait,
        most_keys: args.keys,
    };
    let sink = progress::sink(console);
    let state = args.streams.state();
    let verifying =
        AbstractDriver::verify(driver, destination, &state, &catalog, &names, &options, sink.clone()).await;
    drop(sink);
    let results = verifying?;
    let verified: Vec<&StreamVerification> =
        results.iter().filter_map(|(_, result)| result.as_ref().ok()).collect();
    match args.output {
        OutputFormat::Json => print_json(&json!({ "streams": verified }))?,
        OutputFormat::Text => print(&text(&verified, Surface::stdout()))?,
    }
    Ok(end(&results, console))
}

/// Tells which streams could not be compared, and decides the exit code.
fn end(results: &Results, console: &Console) -> ExitCode {
    let failures = || results.iter().filter_map(|(stream, result)| Some((stream, result.as_ref().err()?)));
    for (stream, error) in failures() {
        console.fail_stream(stream, error);
    }
    let differs = results.iter().any(|(_, result)| result.as_ref().is_ok_and(|found| !found.is_exact()));
    match failure::gravest(failures().map(|(_, error)| error)).map(Error::kind) {
        _ if differs => ExitCode::DATA,
        Some(kind) => ExitCode::of(kind),
        None => ExitCode::DONE,
    }
}

fn text(verified: &[&StreamVerification], surface: Surface) -> String {
    let rows = verified.iter().map(|found| {
        vec![
            harmless(&found.stream.to_string()),
            human_count(found.source_rows),
            human_count(found.destination_rows),
            human_count(found.missing),
            human_count(found.extra),
            human_count(found.different),
            verdict(found),
        ]
    });
    let headers = ["stream", "#source rows", "#in files", "#missing", "#extra", "#different", "verdict"];
    let mut result = table(surface, &headers, rows);
    for found in verified.iter().filter(|found| !found.keys.is_empty()) {
        result.push_str(&format!("\n{}\n", harmless(&found.stream.to_string())));
        for key in &found.keys {
            result.push_str(&format!("  {}\n", line(key)));
        }
        let all = found.missing + found.extra + found.different;
        if all > found.keys.len() as u64 {
            result.push_str(&format!("  … of {} rows; --keys names more\n", human_count(all)));
        }
    }
    result
}

fn verdict(found: &StreamVerification) -> String {
    let mut words = vec![if found.is_exact() { "exact".to_owned() } else { "differs".to_owned() }];
    for (count, what) in [
        (found.repeated, "twice in the files"),
        (found.pending, "pending"),
        (found.tolerated, "not followed in this mode"),
    ] {
        if count > 0 {
            words.push(format!("{} {what}", human_count(count)));
        }
    }
    words.join(", ")
}

fn line(difference: &KeyDifference) -> String {
    let key: Vec<String> =
        difference.key.iter().map(|(name, value)| harmless(&format!("{name}={value}"))).collect();
    let key = key.join(" ");
    match difference.what {
        Difference::Missing => format!("missing    {key}"),
        Difference::Extra => format!("extra      {key}"),
        Difference::Different if difference.columns.is_empty() => format!("different  {key}"),
        Difference::Different => format!("different  {key}: {}", harmless(&difference.columns.join(", "))),
    }
}

#[cfg(test)]
mod tests {
    use lakeward_core::SyncMode;

    use super::*;

    #[test]
    fn what_differs_is_named() {
        let key = |value: &str, what, columns: &[&str]| KeyDifference {
            key: vec![("id".to_owned(), value.to_owned())],
            what,
            columns: columns.iter().map(|name| (*name).to_owned()).collect(),
        };
        let found = StreamVerification {
            stream: StreamId::new("public", "orders"),
            mode: SyncMode::Incremental,
            position: None,
            source_rows: 1_000,
            destination_rows: 999,
            missing: 1,
            extra: 0,
            different: 2,
            repeated: 0,
            pending: 7,
            tolerated: 0,
            keys: vec![key("7", Difference::Missing, &[]), key("a\nb", Difference::Different, &["total"])],
        };
        let text = text(&[&found], Surface::Plain);
        for expected in ["1,000", "differs, 7 pending", "missing    id=7", "id=a⏎b: total", "… of 3 rows"]
        {
            assert!(text.contains(expected), "{expected} in {text}");
        }
    }
}
