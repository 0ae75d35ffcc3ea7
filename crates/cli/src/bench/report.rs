//! What the user gets: a table and a sentence for each stream, everything as JSON, and plots.

use std::path::Path;

use lakeward_core::{Finding, Result};
use serde::Serialize;
use serde_json::{Value, json};

use crate::args::ChunkSizeArgs;
use crate::bench::cannot_write;
use crate::bench::figures::{Measured, ReadAgain, Recommendation, Spread};
use crate::bench::machine::Machine;
use crate::bench::plot;
use crate::output::{Surface, harmless, json, table};
use crate::quantity::{counted, exact_bytes, human_bytes, human_count};

/// The file with all figures.
const FILE: &str = "chunk-size.json";

/// A whole benchmark, as it is written.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    benchmark: &'static str,
    taken_at: String,
    command: Vec<String>,
    versions: Value,
    machine: Machine,
    destination: &'static str,
    runs: u16,
    limits: Value,
    pub(crate) streams: Vec<StreamReport>,
}

/// All about one stream.
#[derive(Debug, Serialize)]
pub(crate) struct StreamReport {
    pub(crate) stream: String,
    pub(crate) rows: u64,
    /// Bytes as stored at the source.
    pub(crate) source_bytes: u64,
    pub(crate) connections: usize,
    pub(crate) sizes: Vec<Measured>,
    pub(crate) recommendation: Recommendation,
    /// The file with its plot.
    pub(crate) plot: String,
}

impl Report {
    pub(crate) fn new(
        args: &ChunkSizeArgs,
        source: &str,
        about: Option<&Finding>,
        destination: &'static str,
    ) -> Self {
        Self {
            benchmark: "chunk-size",
            taken_at: jiff::Timestamp::now().to_string(),
            command: std::env::args_os().map(|part| part.to_string_lossy().into_owned()).collect(),
            versions: json!({
                "lakeward": env!("CARGO_PKG_VERSION"),
                "build": if cfg!(debug_assertions) { "debug" } else { "release" },
                "source": source,
                "server": about.map(|finding| finding.message.as_str()),
            }),
            machine: Machine::now(),
            destination,
            runs: args.runs,
            limits: json!({ "memory_limit": args.limits.memory.memory_limit, "max_connections": args.limits.max_connections }),
            streams: Vec::new(),
        }
    }

    /// Takes a stream in; its plot gets a file name that no other one has.
    pub(crate) fn add(&mut self, mut stream: StreamReport) {
        let name = file_name(&stream.stream);
        let taken = |candidate: &str| self.streams.iter().any(|other| other.plot == candidate);
        let numbered = (2..).map(|n| format!("chunk-size-{name}-{n}.svg"));
        let mut candidates = std::iter::once(format!("chunk-size-{name}.svg")).chain(numbered);
        stream.plot = candidates.find(|candidate| !taken(candidate)).unwrap_or_default();
        self.streams.push(stream);
    }

    /// Writes all that is known, and the plot of the last stream.
    pub(crate) fn write(&self, directory: &Path) -> Result<()> {
        let write = |name: &str, text: String| {
            let path = directory.join(name);
            std::fs::write(&path, text).map_err(|error| cannot_write(&path, error))
        };
        if let Some(stream) = self.streams.last() {
            write(&stream.plot, plot::svg(&stream.stream, &stream.sizes, &stream.recommendation))?;
        }
        write(FILE, json(self)?)
    }
}

/// A stream's name as a part of a file's.
fn file_name(stream: &str) -> String {
    const LONGEST: usize = 60;
    let plain = |c: char| if c.is_alphanumeric() || matches!(c, '.' | '-' | '_') { c } else { '_' };
    stream.chars().take(LONGEST).map(plain).collect()
}

/// A stream's figures for people.
pub(crate) fn text(stream: &StreamReport, destination: &str, surface: Surface) -> String {
    let recommended = stream.recommendation.chunk_size;
    let rows = stream.sizes.iter().map(|size| {
        let mark = if size.chunk_bytes == recommended { " *" } else { "" };
        vec![
            format!("{}{mark}", exact_bytes(size.chunk_bytes)),
            human_count(size.chunks as u64),
            human_count(size.rows_per_second.median as u64),
            range(&size.rows_per_second),
            format!("{:.1}", size.mib_per_second.median),
            format!("{:.2}", size.cpu_seconds_per_million_rows.median),
            size.peak_rss_bytes.map_or_else(|| "?".to_owned(), |peak| human_bytes(peak.greatest as u64)),
            if size.files.median > 0.0 && size.file_bytes.median > 0.0 {
                format!(
                    "{}, {}",
                    human_count(size.files.median as u64),
                    human_bytes(size.file_bytes.median as u64)
                )
            } else {
                "none".to_owned()
            },
            match size.read_again {
                ReadAgain::Measured(rows) => human_count(rows),
                ReadAgain::AtMost(rows) => format!("at most {}", human_count(rows)),
                ReadAgain::TooFast => "too fast to be killed".to_owned(),
            },
        ]
    });
    let headers = [
        "chunk size",
        "#chunks",
        "#rows/s",
        "#least–greatest",
        "#MiB/s",
        "#CPU s per 1M rows",
        "#peak memory",
        "#files",
        "#rows read again after a kill",
    ];
    let table = table(surface, &headers, rows);
    let Recommendation { reason, flag, .. } = &stream.recommendation;
    format!(
        "{}: {} rows, {} at the source, {}, into {destination}\n\n{table}\n* take {}: {reason}.\n  \
         lakeward sync {flag}\n\n",
        harmless(&stream.stream),
        human_count(stream.rows),
        human_bytes(stream.source_bytes),
        counted(stream.connections, "connection"),
        exact_bytes(recommended),
    )
}

fn range(spread: &Spread) -> String {
    format!("{}–{}", human_count(spread.least as u64), human_count(spread.greatest as u64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::figures::{recommend, tests::measured};

    fn stream(name: &str) -> StreamReport {
        let sizes = vec![measured(8 << 20, &[2.0, 2.2]), measured(64 << 20, &[1.0, 1.0])];
        let recommendation = recommend(&sizes).unwrap();
        StreamReport {
            stream: name.to_owned(),
            rows: 1_000_000,
            source_bytes: 100 << 20,
            connections: 4,
            sizes,
            recommendation,
            plot: String::new(),
        }
    }

    #[test]
    fn the_table_marks_the_recommended_size_and_says_how_to_use_it() {
        let text = text(&stream("public.orders"), "parquet", Surface::Plain);
        assert!(
            text.starts_with("public.orders: 1,000,000 rows, 100.0 MiB at the source, 4 connections"),
            "{text}"
        );
        let marked: Vec<&str> =
            text.lines().filter(|line| line.trim_start().starts_with("64MiB *")).collect();
        assert!(marked.len() == 1 && marked[0].contains("1,000,000"), "{text}");
        assert!(
            text.contains("* take 64MiB: ") && text.contains("lakeward sync --chunk-size 64MiB"),
            "{text}"
        );
    }

    #[test]
    fn streams_whose_names_differ_in_odd_signs_alone_get_plots_of_their_own() {
        assert_eq!(file_name("public.or/ders ż"), "public.or_ders_ż");
        let directory = tempfile::tempdir().unwrap();
        let mut report = Report {
            benchmark: "chunk-size",
            taken_at: String::new(),
            command: Vec::new(),
            versions: Value::Null,
            machine: Machine::now(),
            destination: "null",
            runs: 2,
            limits: Value::Null,
            streams: Vec::new(),
        };
        for name in ["public.a/b", "public.a b"] {
            report.add(stream(name));
            report.write(directory.path()).unwrap();
        }
        let plots: Vec<&str> = report.streams.iter().map(|stream| stream.plot.as_str()).collect();
        assert_eq!(plots, ["chunk-size-public.a_b.svg", "chunk-size-public.a_b-2.svg"]);
        assert!(plots.iter().all(|plot| directory.path().join(plot).exists()));
        let written: Value =
            serde_json::from_slice(&std::fs::read(directory.path().join(FILE)).unwrap()).unwrap();
        assert_eq!(written["streams"][1]["sizes"][0]["read_again"], json!({ "how": "measured", "rows": 7 }));
    }
}
