//! `lakeward verify`: whether the files hold what the source does.

use lakeward_core::{Error, ErrorKind, Result, StreamId};
use lakeward_engine::{
    AbstractDriver, Difference, KeyDifference, StreamVerification, Verified, VerifyOptions,
};
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

/// Why a stream with `insert_only` is not compared.
const INSERTS_ALONE: &str = "only its inserts are followed: its files are not what the table is now";

/// Compares, and says what differs.
pub(crate) async fn run(args: &VerifyArgs, console: &Console) -> Result<ExitCode> {
    let catalog = config::load_catalog(&args.streams.streams)?;
    let chosen = selected::choose(&catalog, &args.names)?;
    let names: Vec<StreamId> = match args.names.is_empty() {
        true => Vec::new(),
        false => chosen.into_iter().map(|(source, _)| source).collect(),
    };
    let driver = config::source(&args.source.config)?;
    let destination = config::destination(&args.destination.destination)?;
    let options = VerifyOptions { limits: args.limits.options(), wait: args.wait, most_keys: args.keys };
    let sink = progress::sink(console);
    let state = args.streams.state();
    let verifying =
        AbstractDriver::verify(driver, destination, &state, &catalog, &names, &options, sink.clone()).await;
    drop(sink);
    let verified = verifying?;
    match args.output {
        OutputFormat::Json => print_json(&value(&verified))?,
        OutputFormat::Text => print(&text(&verified, Surface::stdout()))?,
    }
    Ok(end(&verified, console))
}

/// Tells why streams could not be compared, and decides the exit code: that rows differ has its own.
fn end(verified: &Verified, console: &Console) -> ExitCode {
    let results = &verified.streams;
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

fn value(Verified { streams, passed_over }: &Verified) -> Value {
    let compared: Vec<_> = streams.iter().filter_map(|(_, result)| result.as_ref().ok()).collect();
    let failed = streams.iter().filter_map(|(stream, result)| Some((stream, result.as_ref().err()?)));
    let not_compared: Vec<Value> = failed
        .map(|(stream, error)| json!({ "stream": stream.to_string(), "error": error.message() }))
        .collect();
    let passed_over: Vec<Value> = passed_over
        .iter()
        .map(|stream| json!({ "stream": stream.to_string(), "reason": INSERTS_ALONE }))
        .collect();
    json!({ "streams": compared, "not_compared": not_compared, "passed_over": passed_over })
}

fn text(Verified { streams: results, passed_over }: &Verified, surface: Surface) -> String {
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
    let mut result = if results.is_empty() { String::new() } else { table(surface, &HEADERS, rows) };
    for stream in passed_over {
        result.push_str(&format!("{} was passed over: {INSERTS_ALONE}\n", harmless(&stream.to_string())));
    }
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
        let verified = Verified {
            streams: vec![(found.stream.clone(), Ok(found)), (failed, Err(error))],
            passed_over: vec![StreamId::new("public", "events")],
        };
        let text = text(&verified, Surface::Plain);
        for expected in [
            "1,000",
            "differs, 7 pending",
            "missing    id=7",
            "id=a⏎b: total",
            "… of 3 rows",
            "public.returns",
            "not compared",
            "public.events was passed over",
        ] {
            assert!(text.contains(expected), "{expected} in {text}");
        }
        let value = value(&verified);
        assert_eq!(value["not_compared"][0]["stream"], "public.returns");
        assert_eq!(value["passed_over"][0]["stream"], "public.events");
    }
}
