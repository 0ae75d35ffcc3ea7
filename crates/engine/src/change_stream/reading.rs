//! One reading of the log: batches into units, units into checkpoints.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use lakeward_core::{
    Boundary, ChangeEvent, ChangeRequest, Error, Position, Progress, Result, StreamCommit, StreamId,
    StreamPhase, Until,
};
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::compaction::Compactor;
use super::phases::Phases;
use super::units::{Finished, Units};
use crate::events::Event;
use crate::stream_run::{RunContext, StreamRun};

/// How often it is looked for another run that has taken the streams over, where nothing is committed.
const LOOK: Duration = Duration::from_secs(3);

/// How a reading ended.
#[derive(Debug)]
pub(super) enum ReadEnd {
    /// Everything up to the end is committed.
    Reached,
    /// It was asked to end. What came after the last checkpoint will be read again.
    Asked,
    /// A stream is no longer what it was.
    Changed { stream: StreamId, what: String, placed: bool },
}

/// What a reading needs.
pub(super) struct Reading<'a> {
    pub(super) context: &'a Arc<RunContext>,
    pub(super) phases: &'a Phases,
    pub(super) runs: &'a BTreeMap<StreamId, Arc<StreamRun>>,
    pub(super) compactor: &'a Arc<Compactor>,
    /// Whether each stream's rows are encoded by a task of their own.
    pub(super) fan_out: bool,
    /// Whether the position that all streams share stays where it is: not all of them are read.
    pub(super) hold: bool,
}

impl Reading<'_> {
    /// Reads from the global position, and commits at every boundary while it reads on.
    pub(super) async fn run(&self, until: Until, quit: &CancellationToken) -> Result<ReadEnd> {
        let from = self
            .context
            .commits
            .known_global()
            .ok_or_else(|| Error::bug("a log is followed from nowhere"))?;
        let request = |phases: &BTreeMap<StreamId, StreamPhase>| ChangeRequest {
            streams: self
                .runs
                .values()
                .filter_map(|run| Some((run.stream.clone(), as_committed(run, phases.get(&run.stream.id)?))))
                .collect(),
            from: from.clone(),
            until,
            checkpoint: self.context.options.checkpoint_interval,
            context: self.context.read_context(&self.context.options.cancel),
        };
        let mut events = self.phases.begin(request).await?;
        let mut units = Units::new(self.fan_out);
        let mut committing = Committing::default();
        let mut number = 0;
        let targets: Vec<StreamId> = self.runs.values().map(|run| run.stream.target.clone()).collect();
        let mut looks = tokio::time::interval_at(Instant::now() + LOOK, LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let taken_over = async {
            loop {
                looks.tick().await;
                if let Err(error) = self.context.destination.still_held(&targets).await {
                    break error;
                }
            }
        };
        tokio::pin!(taken_over);
        let outcome = loop {
            let event = tokio::select! {
                biased;
                () = self.context.options.cancel.cancelled() => break Err(Error::cancelled()),
                () = quit.cancelled() => break Ok(ReadEnd::Asked),
                error = committing.failed() => break Err(error),
                error = &mut taken_over => break Err(error),
                event = events.next() => event,
            };
            let step = match event {
                None => break Ok(ReadEnd::Reached),
                Some(Err(error)) => break Err(error),
                Some(Ok(ChangeEvent::Changed { stream, what, placed })) => {
                    break Ok(ReadEnd::Changed { stream, what, placed });
                }
                Some(Ok(ChangeEvent::Changes(stream, batch))) => match self.runs.get(&stream) {
                    Some(run) => {
                        units.write(run, number, *batch).await.map_err(|error| error.at("stream", stream))
                    }
                    None => Err(Error::bug("changes of a stream that is not followed").at("stream", stream)),
                },
                Some(Ok(ChangeEvent::Boundary(boundary))) => {
                    number += 1;
                    match committing.wait().await {
                        Ok(()) => {
                            let (context, compactor) = (self.context.clone(), self.compactor.clone());
                            let hold = self.hold;
                            committing.begin(checkpoint(context, compactor, units.take(), boundary, hold));
                            Ok(())
                        }
                        Err(error) => Err(error),
                    }
                }
                Some(Ok(ChangeEvent::Resting(ticket))) => {
                    let committed = committing.wait().await;
                    if committed.is_ok() {
                        self.phases.rests(ticket);
                    }
                    committed
                }
            };
            if let Err(error) = step {
                break Err(error);
            }
        };
        drop(events);
        // However it ended, what is committing finishes before a stream may be opened or the log be read again.
        let committed = committing.wait().await;
        units.abort().await;
        self.phases.ended();
        committed.and(outcome)
    }
}

/// A stream's phase, as it stands by what is committed of it. An attempt may read twice, and where the position that all
/// share is held, both begin there.
fn as_committed(run: &StreamRun, phase: &StreamPhase) -> StreamPhase {
    match (phase, run.head().progress.position) {
        (StreamPhase::Open { generation, .. }, Some(position)) => {
            StreamPhase::Open { position, generation: *generation }
        }
        _ => phase.clone(),
    }
}

/// The checkpoint that is being committed: one at a time, because each stream's positions must grow.
#[derive(Default)]
struct Committing(Option<JoinHandle<Result<()>>>);

impl Committing {
    fn begin(&mut self, checkpoint: impl Future<Output = Result<()>> + Send + 'static) {
        self.0 = Some(tokio::spawn(checkpoint));
    }

    async fn wait(&mut self) -> Result<()> {
        let Some(task) = &mut self.0 else { return Ok(()) };
        let outcome = task.await;
        self.0 = None;
        outcome.map_err(|error| Error::bug("a checkpoint ended early").source(error))?
    }

    /// Ends where the checkpoint fails that is being committed: nothing else may come that would wait for it.
    async fn failed(&mut self) -> Error {
        match self.wait().await {
            Ok(()) => std::future::pending().await,
            Err(error) => error,
        }
    }
}

/// Finishes the units of a checkpoint and commits them.
async fn checkpoint(
    context: Arc<RunContext>,
    compactor: Arc<Compactor>,
    units: Units,
    boundary: Boundary,
    hold: bool,
) -> Result<()> {
    let finished = units.finish().await?;
    let progress = Progress { position: Some(boundary.position.clone()), cursor: None, pass: 0 };
    let commits = finished
        .iter()
        .map(|done| {
            let run = &done.run;
            let mut commit = StreamCommit::new(run.stream.target.clone(), done.generation, done.unit.clone());
            commit.files = done.copied.files.clone();
            commit.progress = Some(progress.clone());
            (run.entry.clone(), commit)
        })
        .collect();
    let shared = (!hold).then(|| boundary.clone());
    let heads = context.commits.checkpoint(commits, shared).await?;
    let mut rows = 0;
    for (done, head) in finished.iter().zip(heads) {
        done.run.set_head(head);
        done.run.count(&done.copied);
        rows += done.copied.rows;
    }
    context.events.event(&Event::Checkpoint {
        streams: finished.len(),
        rows,
        position: plain(&boundary.position),
        source: plain(&boundary.lag.source),
        behind_bytes: boundary.lag.behind_bytes,
        behind_seconds: boundary.lag.behind_seconds(boundary.as_of),
        retained_bytes: boundary.lag.retained_bytes,
    });
    let files = |done: &Finished| (done.run.clone(), done.copied.files.len() as u64);
    compactor.committed(&finished.iter().map(files).collect::<Vec<_>>());
    Ok(())
}

/// A position in few words.
fn plain(position: &Position) -> String {
    match position.0.get("lsn").and_then(|lsn| lsn.as_str()) {
        Some(lsn) => lsn.to_owned(),
        None => position.0.to_string(),
    }
}
