//! Runs of one stream, each in a process of its own, and the proof that they all did the same work.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};

use lakeward_core::{Catalog, Error, ErrorKind, Result, ResultExt, StreamId};
use parquet::file::reader::{FileReader, SerializedFileReader};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio_util::sync::CancellationToken;

use crate::args::ChunkSizeArgs;
use crate::bench::child::{Figures, Line};
use crate::bench::scratch::{Scratch, ScratchPipeline};
use crate::failure;
use crate::quantity::human_count;

/// What every run of a stream has in common.
pub(crate) struct Runner<'a> {
    pub(crate) args: &'a ChunkSizeArgs,
    pub(crate) cancel: &'a CancellationToken,
    pub(crate) scratch: &'a Scratch,
    /// The stream alone, as a full refresh.
    pub(crate) catalog: &'a Catalog,
    /// Its name at the destination.
    pub(crate) target: &'a StreamId,
}

enum Ended {
    Done(Figures),
    Killed { rows_read: u64 },
}

impl Runner<'_> {
    /// Backfills the stream from nothing, and throws it away again.
    ///
    /// # Errors
    /// What the run failed with; `Data` where it did not deliver `rows`, as runs before it did.
    pub(crate) async fn measure(&self, chunk_bytes: u64, rows: Option<u64>) -> Result<Figures> {
        let pipeline = self.scratch.pipeline(self.catalog)?;
        match self.run(&pipeline, chunk_bytes, None).await? {
            Ended::Done(figures) => {
                self.verify(&pipeline, figures.rows, rows).await?;
                Ok(figures)
            }
            Ended::Killed { .. } => Err(Error::bug("a run was killed that was to be measured")),
        }
    }

    /// The rows that are read twice where a run is killed with half of them read, and started again. `None` where
    /// the run was over too soon.
    pub(crate) async fn kill_half_way(&self, chunk_bytes: u64, rows: u64) -> Result<Option<u64>> {
        let pipeline = self.scratch.pipeline(self.catalog)?;
        let Ended::Killed { rows_read } = self.run(&pipeline, chunk_bytes, Some(rows.div_ceil(2))).await?
        else {
            return Ok(None);
        };
        match self.run(&pipeline, chunk_bytes, None).await? {
            Ended::Done(figures) => {
                self.verify(&pipeline, rows, None).await?;
                Ok(Some((rows_read + figures.rows_read).saturating_sub(rows)))
            }
            Ended::Killed { .. } => Err(Error::bug("a run was killed that was to resume another")),
        }
    }

    /// What a run says it delivered has to be what lies there, and what all runs delivered.
    async fn verify(&self, pipeline: &ScratchPipeline, rows: u64, expected: Option<u64>) -> Result<()> {
        if self.scratch.keeps_files() {
            let files = pipeline.open()?.files(self.target).await?;
            let mut there = 0;
            for file in &files {
                there += rows_in(Path::new(&file.path))?;
            }
            if there != rows {
                return Err(Error::new(
                    ErrorKind::Data,
                    format!(
                        "the files hold {} rows, {} were delivered",
                        human_count(there),
                        human_count(rows)
                    ),
                )
                .hint("no figure is given for a run that is not exact; please report this"));
            }
        }
        match expected {
            Some(expected) if expected != rows => Err(Error::new(
                ErrorKind::Data,
                format!(
                    "runs cannot be compared: one read {} rows, another {}",
                    human_count(expected),
                    human_count(rows)
                ),
            )
            .hint(
                "the table changed meanwhile: measure when nobody writes to it, or give it a filter in a copy of \
                 streams.json that leaves out what is new",
            )),
            _ => Ok(()),
        }
    }

    /// Runs a pipeline to its end, or until it has read so many rows and is killed.
    async fn run(&self, pipeline: &ScratchPipeline, chunk_bytes: u64, kill_at: Option<u64>) -> Result<Ended> {
        let mut child = self.spawn(pipeline, chunk_bytes)?;
        let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) else {
            return Err(Error::bug("a run cannot be listened to"));
        };
        let stderr = tokio::spawn(all_of(stderr));
        let mut lines = BufReader::new(stdout).lines();
        let (mut rows_read, mut killed, mut done) = (0, false, None);
        loop {
            let line = tokio::select! {
                biased;
                () = self.cancel.cancelled() => {
                    // It has to be gone before its files can be.
                    let _ = child.kill().await;
                    return Err(Error::cancelled());
                }
                line = lines.next_line() => line,
            };
            let line = line.or_fail(ErrorKind::Bug, || "a run cannot be listened to".to_owned())?;
            let Some(line) = line else { break };
            // A line that a kill cut off says nothing.
            match serde_json::from_str(&line) {
                Ok(Line::Read(rows)) => rows_read = rows,
                Ok(Line::Done(figures)) => done = Some(figures),
                Err(_) => {}
            }
            if !killed && done.is_none() && kill_at.is_some_and(|rows| rows_read >= rows) {
                killed = child.start_kill().is_ok();
            }
        }
        let status =
            child.wait().await.or_fail(ErrorKind::Bug, || "a run cannot be waited for".to_owned())?;
        match done {
            Some(figures) => Ok(Ended::Done(figures)),
            None if killed => Ok(Ended::Killed { rows_read }),
            None => Err(why(status, &stderr.await.unwrap_or_default())),
        }
    }

    fn spawn(&self, pipeline: &ScratchPipeline, chunk_bytes: u64) -> Result<Child> {
        let program = program()?;
        let mut command = Command::new(program);
        command.args(["bench", "run", "--log-format", "json", "--log-level", "error", "--progress", "never"]);
        command.arg("--config").arg(&self.args.source.config);
        command.arg("--destination").arg(pipeline.destination());
        command.arg("--streams").arg(pipeline.streams());
        command.arg("--state").arg(pipeline.state());
        command.args(["--chunk-size", &chunk_bytes.to_string()]);
        command.args(["--memory-limit", &self.args.limits.memory.memory_limit.to_string()]);
        if let Some(connections) = self.args.limits.max_connections {
            command.args(["--max-connections", &connections.to_string()]);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        command.spawn().or_fail(ErrorKind::Bug, || "Lakeward cannot start itself for a run".to_owned())
    }
}

fn program() -> Result<PathBuf> {
    std::env::current_exe().or_fail(ErrorKind::Bug, || "Lakeward cannot find its own program".to_owned())
}

async fn all_of(mut from: impl AsyncRead + Unpin) -> String {
    let mut bytes = Vec::new();
    let _ = from.read_to_end(&mut bytes).await;
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The failure that a run told of; where it told none, how it ended.
fn why(status: ExitStatus, stderr: &str) -> Error {
    let events = stderr.lines().rev().filter_map(|line| serde_json::from_str(line).ok());
    events
        .filter(|event: &serde_json::Value| event["event"] == "failed")
        .find_map(|event| failure::told(&event))
        .unwrap_or_else(|| {
            let error = Error::new(ErrorKind::Bug, format!("a run ended without a result: {status}"))
                .hint("if it was killed for want of memory, lower --memory-limit");
            if stderr.trim().is_empty() { error } else { error.source(stderr.trim().to_owned()) }
        })
}

/// As the file itself counts them.
fn rows_in(path: &Path) -> Result<u64> {
    let unreadable = || "a file cannot be read again".to_owned();
    let file = File::open(path)
        .or_fail(ErrorKind::Destination, unreadable)
        .map_err(|error| error.at("file", path.display()))?;
    let reader = SerializedFileReader::new(file)
        .or_fail(ErrorKind::Data, unreadable)
        .map_err(|error| error.at("file", path.display()))?;
    let groups = reader.metadata().row_groups();
    Ok(groups.iter().map(|group| u64::try_from(group.num_rows()).unwrap_or_default()).sum())
}
