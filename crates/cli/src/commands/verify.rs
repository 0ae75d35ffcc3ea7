//! `lakeward verify`: whether the files hold what the source does.

use lakeward_core::{Error, ErrorKind, Result, StreamId};
use lakeward_engine::{AbstractDriver, Difference, KeyDifference, StreamVerification, VerifyOptions};
use serde_json::{Value, json};

use crate::args::{OutputFormat, VerifyArgs};
use crate::commands::selected;
use crate::config;
use crate::failure::{self, ExitCode};
use crate::messages::Console;
use crate::output::{Surface, harmless, print, print_json, table};
use crate::progress;
use crate::quantity::human_count;

const HEADERS: [&str; 7] =
    ["stream", "#source rows", "#in files", "#missing", "#extra", "#different", "verdict"];

type Results = Vec<(StreamId, Result<StreamVerification>)>;

/// Compares, and says what differs.
pub(crate) async fn run(args: &VerifyArgs, console: &Console) -> Result<ExitCode> {
    let catalog = config::load_catalog(&args.streams.streams)?;
    let names: Vec<StreamId> =
        selected::choose(&catalog, &args.names)?.into_iter().map(|(source, _)| source).collect();
    let driver = config::source(&args.source.config)?;
    let destination = config::destination(&args.destination.destination)?;
    let options = VerifyOptions { limits: args.limits.options(), wait: args.wait, most_keys: args.keys };
    let sink = progress::sink(console);
    let state = args.streams.state();
    let verifying =
        AbstractDriver::verify(driver, destination, &state, &catalog, &names, &options, sink.clone()).await;
    drop(sink);
    let results = verifying?;
    match args.output {
        OutputFormat::Json => print_json(&value(&results))?,
        OutputFormat::Text => print(&text(&results, Surface::stdout()))?,
    }
    Ok(end(&results, console))
}

/// Tells why streams could not be compared, and decides the exit code: that rows differ has its own.
fn end(results: &Results, console: &Console) -> ExitCode {
    let failures = || results.iter().filter_map(|(stream, result)| Some((stream, result.as_ref().err()?)));
    for (stream, error) in failures() {
        console.fail_stream(stream, error);
    }
    let differs = results.iter().any(|(_, result)| result.as_ref().is_ok_and(|found| !found.is_exact()));
    match failure::gravest(failures().map(|(_, error)| error)).map(Error::kind) {
        _ if differs => ExitCode::DATA,
        Some(ErrorKind::Schema | ErrorKind::Data) => ExitCode::SOURCE,
        Some(kind) => ExitCode::of(kind),
        None => ExitCode::DONE,
    }
}

fn value(results: &Results) -> Value {
    let verified: Vec<_> = results.iter().filter_map(|(_, result)| result.as_ref().ok()).collect();
    let failed = results.iter().filter_map(|(stream, result)| Some((stream, result.as_ref().err()?)));
    let not_compared: Vec<Value> = failed
        .map(|(stream, error)| json!({ "stream": stream.to_string(), "error": error.message() }))
        .collect();
    json!({ "streams": verified, "not_compared": not_compared })
}

fn text(results: &Results, surface: Surface) -> String {
    let rows = results.iter().map(|(stream, result)| {
        let Ok(found) = result else {
            let mut row = vec![harmless(&stream.to_string())];
            row.resize(HEADERS.len() - 1, "-".to_owned());
            row.push("not compared".to_owned());
            return row;
        };
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
    let mut result = table(surface, &HEADERS, rows);
    let verified = results.iter().filter_map(|(_, result)| result.as_ref().ok());
    for found in verified.filter(|found| !found.keys.is_empty()) {
        result.push_str(&format!("\n{}\n", harmless(&found.stream.to_string())));
        for key in &found.keys {
            result.push_str(&format!("  {}\n", line(key)));
        }
        let all = found.missing + found.extra + found.different + found.repeated;
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
        Difference::Repeated => format!("twice      {key}"),
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
        let failed = StreamId::new("public", "returns");
        let error = Error::new(ErrorKind::Source, "changes wait").at("stream", &failed);
        let results = vec![(found.stream.clone(), Ok(found)), (failed, Err(error))];
        let text = text(&results, Surface::Plain);
        for expected in [
            "1,000",
            "differs, 7 pending",
            "missing    id=7",
            "id=a⏎b: total",
            "… of 3 rows",
            "public.returns",
            "not compared",
        ] {
            assert!(text.contains(expected), "{expected} in {text}");
        }
        assert_eq!(value(&results)["not_compared"][0]["stream"], "public.returns");
    }
}
