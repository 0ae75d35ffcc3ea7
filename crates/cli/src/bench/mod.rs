//! `lakeward bench chunk-size`: which chunk size suits a user's own tables on their own machines.
//!
//! `sizes` says which sizes cut a table differently, `run` backfills it with each of them in processes of their own
//! (`child`) into pipelines that are thrown away (`scratch`), `figures` says what the runs come to, `report` and
//! `plot` write it down.
//!
//! Guaranteed: neither the user's streams at the destination nor their state are touched, nothing is made at the
//! source, and no figure is given of runs that did not all deliver the same rows.

mod child;
mod figures;
mod machine;
mod plot;
mod report;
mod run;
mod scratch;
mod sizes;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use lakeward_core::{Catalog, DriverInterface, Error, ErrorKind, Result, Selection, StreamId, SyncMode};
use lakeward_engine::AbstractDriver;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::args::ChunkSizeArgs;
use crate::bench::child::Figures;
use crate::bench::figures::{Measured, ReadAgain, recommend};
use crate::bench::report::{Report, StreamReport};
use crate::bench::run::Runner;
use crate::bench::scratch::Scratch;
use crate::bench::sizes::Cuts;
use crate::commands::selected;
use crate::config;
use crate::failure::{self, ExitCode};
use crate::messages::{Console, Detail, Presentation};
use crate::output::{Surface, harmless, print};
use crate::quantity::{counted, exact_bytes, human_count};
use crate::signals::cancel_on_signal;

pub(crate) use child::run_once;

/// Measures stream by stream; what is known stands written after each.
pub(crate) async fn chunk_size(args: &ChunkSizeArgs, console: &Console) -> Result<ExitCode> {
    let cancel = CancellationToken::new();
    cancel_on_signal(&cancel, measure_streams(args, console, &cancel)).await
}

async fn measure_streams(
    args: &ChunkSizeArgs,
    console: &Console,
    cancel: &CancellationToken,
) -> Result<ExitCode> {
    let wanted = sizes::in_order(&args.sizes)?;
    let catalog = config::load_catalog(&args.streams)?;
    let names = selected::choose(&catalog, &args.names)?;
    let driver = config::source(&args.source.config)?;
    let scratch = Scratch::new(args.destination.as_deref())?;
    std::fs::create_dir_all(&args.output).map_err(|error| cannot_write(&args.output, error))?;
    let about = until_cancelled(cancel, driver.check(&[])).await?;
    let destination = match &args.destination {
        Some(file) => config::destination(file)?.kind(),
        None => "null",
    };
    let mut report = Report::new(args, driver.kind(), about.first(), destination);
    if cfg!(debug_assertions) {
        console.say("this is a debug build: its figures say little about a release");
    }

    let mut failures = Vec::new();
    for (id, target) in &names {
        let catalog = alone(&catalog, id);
        let runner = Runner { args, cancel, scratch: &scratch, catalog: &catalog, target };
        let bench = StreamBench { id, driver: &driver, runner, console };
        match bench.measure(&wanted).await {
            Ok(stream) => {
                print(&report::text(&stream, destination, Surface::stdout()))?;
                report.add(stream);
                report.write(&args.output)?;
            }
            Err(error) if error.kind() == ErrorKind::Cancelled => return Err(error),
            Err(error) => failures.push((id, error)),
        }
    }
    if !report.streams.is_empty() {
        console.say(&format!("all figures and plots are in {}", args.output.display()));
    }
    if names.len() == 1
        && let Some((id, error)) = failures.pop()
    {
        let named = error.places().any(|(what, _)| what == "stream");
        return Err(if named { error } else { error.at("stream", id) });
    }
    for (id, error) in &failures {
        console.fail_stream(id, error);
    }
    let gravest = failure::gravest(failures.iter().map(|(_, error)| error));
    Ok(gravest.map_or(ExitCode::DONE, |error| ExitCode::of(error.kind())))
}

/// The stream as the only selected one, read whole: its log and its cursor are none of a benchmark's business.
fn alone(catalog: &Catalog, id: &StreamId) -> Catalog {
    let mut catalog = catalog.clone();
    catalog.selected_streams.retain(|namespace, _| *namespace == id.namespace);
    for selections in catalog.selected_streams.values_mut() {
        selections.retain(|selection| selection.stream_name == id.name);
        for selection in selections {
            *selection = Selection {
                sync_mode: Some(SyncMode::FullRefresh),
                cursor_field: None,
                cursor_lookback: None,
                append_mode: None,
                insert_only: false,
                ..std::mem::take(selection)
            };
        }
    }
    catalog.streams.retain(|entry| entry.stream.id() == *id);
    catalog
}

/// The benchmark of one stream.
struct StreamBench<'a> {
    id: &'a StreamId,
    driver: &'a Arc<dyn DriverInterface>,
    runner: Runner<'a>,
    console: &'a Console,
}

impl StreamBench<'_> {
    async fn measure(&self, wanted: &[u64]) -> Result<StreamReport> {
        let args = self.runner.args;
        let readers =
            args.limits.max_connections.map_or_else(|| self.driver.max_connections(), usize::from).max(1);
        let Cuts { cuts, bytes, left_out } =
            until_cancelled(self.runner.cancel, self.cuts(wanted, readers)).await?;
        for note in left_out {
            self.console.say(&harmless(&format!("{}: {note}", self.id)));
        }

        // The first run pays for a cold cache of the server's, and says how many rows there are. It does not count.
        let Some(largest) = cuts.last() else { return Err(Error::bug("there is no chunk size")) };
        let first = self.runner.measure(largest.chunk_bytes, None).await?;
        if first.rows == 0 {
            return Err(Error::new(ErrorKind::Config, "no row was read: there is nothing to measure").hint(
                "name other streams with --stream; where streams.json has a filter, see whether any row passes it",
            ));
        }
        let runs = cuts.len() * usize::from(args.runs);
        self.console.say(&harmless(&format!(
            "{}: {} rows; {} of {}, about {} in all",
            self.id,
            human_count(first.rows),
            counted(runs, "run"),
            counted(cuts.len(), "size"),
            about(
                Duration::from_secs_f64(first.seconds)
                    .saturating_mul(u32::try_from(runs).unwrap_or(u32::MAX))
            ),
        )));

        let mut all: Vec<Vec<Figures>> = vec![Vec::new(); cuts.len()];
        for round in 1..=args.runs {
            for (cut, runs) in cuts.iter().zip(&mut all) {
                let figures = self.runner.measure(cut.chunk_bytes, Some(first.rows)).await?;
                self.tell(round, cut.chunk_bytes, &figures);
                runs.push(figures);
            }
        }
        let mut sizes = Vec::with_capacity(cuts.len());
        for (cut, runs) in cuts.iter().zip(all) {
            let read_again = if self.runner.scratch.keeps_files() {
                let rows = self.runner.kill_half_way(cut.chunk_bytes, first.rows).await?;
                rows.map_or(ReadAgain::TooFast, ReadAgain::Measured)
            } else {
                ReadAgain::AtMost((cut.share_at_risk * first.rows as f64).ceil() as u64)
            };
            sizes.extend(Measured::of(cut, bytes, read_again, runs));
        }
        let recommendation = recommend(&sizes).ok_or_else(|| Error::bug("no run was measured"))?;
        Ok(StreamReport {
            stream: self.id.to_string(),
            rows: first.rows,
            source_bytes: bytes,
            connections: readers,
            sizes,
            recommendation,
            plot: String::new(),
        })
    }

    async fn cuts(&self, wanted: &[u64], readers: usize) -> Result<Cuts> {
        let mut streams = AbstractDriver::resolve(self.driver.as_ref(), None, self.runner.catalog).await?;
        let (stream, _) = streams.pop().ok_or_else(|| Error::bug("the stream is not selected any more"))?;
        sizes::cuts(self.driver.as_ref(), &stream, wanted, readers).await
    }

    /// One line for each run.
    fn tell(&self, round: u16, chunk_bytes: u64, figures: &Figures) {
        let size = exact_bytes(chunk_bytes);
        match self.console.presentation() {
            Presentation::Json(Detail::All) => self.console.json(&json!({
                "event": "measured", "stream": self.id.to_string(), "round": round, "chunk_size": size,
                "figures": figures,
            })),
            Presentation::Bars | Presentation::Lines(Detail::All) => self.console.line(&harmless(&format!(
                "{}: round {round} of {}, {size}: {} rows/s in {:.2} s",
                self.id,
                self.runner.args.runs,
                human_count((figures.rows as f64 / figures.seconds.max(1e-6)) as u64),
                figures.seconds
            ))),
            Presentation::Lines(Detail::Milestones) | Presentation::Json(Detail::Milestones) => {}
        }
    }
}

fn about(time: Duration) -> String {
    match time.as_secs() {
        seconds @ ..=90 => format!("{} s", seconds.max(1)),
        seconds @ ..=5_400 => format!("{} min", seconds.div_ceil(60)),
        seconds => format!("{:.1} h", seconds as f64 / 3600.0),
    }
}

fn cannot_write(path: &Path, error: std::io::Error) -> Error {
    Error::new(ErrorKind::Destination, "the results cannot be written")
        .at("path", path.display())
        .hint("--output names another directory")
        .source(error)
}

async fn until_cancelled<T>(cancel: &CancellationToken, work: impl Future<Output = Result<T>>) -> Result<T> {
    cancel.run_until_cancelled(work).await.unwrap_or_else(|| Err(Error::cancelled()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_measured_alone_as_a_full_refresh_with_its_filter_and_columns() {
        let text = r#"{ "selected_streams": {
            "a": [{ "stream_name": "x" }],
            "public": [
                { "stream_name": "other" },
                { "stream_name": "x", "sync_mode": "cdc", "cursor_field": "id", "insert_only": true,
                  "append_mode": false, "filter": "id > 3", "columns": { "exclude": ["y"] }, "chunk_column": "id" }
            ] }, "streams": [] }"#;
        let catalog: Catalog = serde_json::from_str(text).unwrap();
        let alone = alone(&catalog, &StreamId::new("public", "x"));
        let selections = alone.selections().unwrap();
        let [(id, selection)] = selections.as_slice() else { panic!("{selections:?}") };
        assert_eq!(id, &StreamId::new("public", "x"));
        assert_eq!((selection.sync_mode, &selection.cursor_field), (Some(SyncMode::FullRefresh), &None));
        assert_eq!((selection.insert_only, selection.append_mode), (false, None));
        assert_eq!(selection.filter.as_deref(), Some("id > 3"));
        assert_eq!(selection.columns.exclude, ["y"]);
        assert_eq!(selection.chunk_column.as_deref(), Some("id"));
    }

    #[test]
    fn durations_are_told_roughly() {
        let text = |seconds| about(Duration::from_secs(seconds));
        assert_eq!([text(0), text(90), text(100), text(9000)], ["1 s", "90 s", "2 min", "2.5 h"]);
    }
}
