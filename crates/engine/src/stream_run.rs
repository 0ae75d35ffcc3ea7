//! One stream in one run: taking it over, running it in its mode, copying batches into units, counting.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use futures::StreamExt;
use lakeward_core::{
    BadValues, Batch, BatchStream, ConfiguredStream, Destination, DriverInterface, Error, MemoryBudget,
    ReadContext, Result, Run, StreamCommit, StreamHead, StreamId, SyncMode, WrittenFile,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use crate::change_stream::Phases;
use crate::commit::{CommitPath, StateEntry};
use crate::events::{Event, EventSink, StreamSummary};
use crate::evolution::{as_known, evolution, shows_changes};
use crate::options::Options;
use crate::retry::Backoff;
use crate::writer_pool::{PooledWriter, WriterPool};

/// What all streams of a run share.
#[derive(Clone)]
pub(crate) struct RunContext {
    pub(crate) driver: Arc<dyn DriverInterface>,
    pub(crate) destination: Arc<dyn Destination>,
    pub(crate) commits: Arc<CommitPath>,
    pub(crate) events: Arc<dyn EventSink>,
    /// By its name at the destination, how each stream stood when the run began.
    pub(crate) heads_found: Arc<BTreeMap<StreamId, StreamHead>>,
    pub(crate) options: Options,
    pub(crate) run: Run,
    pub(crate) pool: WriterPool,
    pub(crate) budget: MemoryBudget,
    /// One permit for each connection that may read.
    pub(crate) readers: Arc<Semaphore>,
    pub(crate) reader_count: usize,
}

impl RunContext {
    pub(crate) fn read_context(&self, cancel: &CancellationToken) -> ReadContext {
        ReadContext {
            budget: self.budget.clone(),
            batch_bytes: self.options.batch_bytes(self.reader_count),
            cancel: cancel.clone(),
        }
    }

    /// Waits for one of the connections that may read.
    pub(crate) async fn reader(&self) -> Result<OwnedSemaphorePermit> {
        let permit = self.readers.clone().acquire_owned().await;
        permit.map_err(|_| Error::bug("the readers' semaphore was closed"))
    }
}

/// What a run did for a stream so far.
#[derive(Default)]
struct Tally {
    units: u64,
    rows: u64,
    bytes: u64,
    files: u64,
    chunks_kept: u64,
    retries: u64,
    bad_values: BadValues,
    /// Columns of which it was told that they have such.
    told: BTreeSet<String>,
}

/// One stream in one run.
pub(crate) struct StreamRun {
    pub(crate) context: Arc<RunContext>,
    pub(crate) stream: Arc<ConfiguredStream>,
    pub(crate) entry: StateEntry,
    pub(crate) estimated_rows: Option<u64>,
    /// Where its changes are followed, what is done with them meanwhile.
    pub(crate) phases: Option<Arc<Phases>>,
    head: Mutex<StreamHead>,
    tally: Mutex<Tally>,
    began: Instant,
}

/// Files of a unit and what went into them.
pub(crate) struct Copied {
    pub(crate) files: Vec<WrittenFile>,
    pub(crate) rows: u64,
    pub(crate) bad_values: BadValues,
}

impl StreamRun {
    pub(crate) fn new(
        context: Arc<RunContext>,
        stream: Arc<ConfiguredStream>,
        estimated_rows: Option<u64>,
    ) -> Self {
        let entry = StateEntry { source: stream.id.clone(), sync_mode: stream.sync_mode };
        Self {
            context,
            stream,
            entry,
            estimated_rows,
            phases: None,
            head: Mutex::new(StreamHead::default()),
            tally: Mutex::new(Tally::default()),
            began: Instant::now(),
        }
    }

    /// The same stream, as one whose changes are followed.
    pub(crate) fn following(self, phases: Arc<Phases>) -> Self {
        Self { phases: Some(phases), ..self }
    }

    /// The same stream as it is now, with all that was done for it.
    pub(crate) fn again(&self, context: Arc<RunContext>, stream: Arc<ConfiguredStream>) -> Self {
        Self {
            context,
            stream,
            entry: self.entry.clone(),
            estimated_rows: self.estimated_rows,
            phases: self.phases.clone(),
            head: Mutex::new(self.head()),
            tally: Mutex::new(std::mem::take(&mut self.tally())),
            began: self.began,
        }
    }

    /// Counts attempts at the stream.
    pub(crate) fn backoff(&self) -> Backoff<'_> {
        let RunContext { events, options, driver, .. } = self.context.as_ref();
        Backoff::new(&self.stream.id, events.as_ref(), &options.cancel, driver.max_retries())
    }

    /// Takes the stream over at the destination.
    pub(crate) async fn take_over(&self) -> Result<()> {
        // Of thousands of streams most have not begun when a run is stopped.
        if self.context.options.cancel.is_cancelled() {
            return Err(Error::cancelled());
        }
        // Before the claim, which would take the number of a missing commit.
        let heads = &self.context.heads_found;
        self.context.commits.refuse_missing_commits(&self.stream.id, &self.stream.target, heads)?;
        let head = self.context.destination.prepare(&self.stream.target, &self.context.run).await?;
        if head.commit > 0 {
            self.context.commits.record(&self.entry, &head);
        }
        self.set_head(head);
        Ok(())
    }

    /// Takes the stream over and runs it in its mode.
    pub(crate) async fn sync(self) -> Result<StreamSummary> {
        self.take_over().await?;
        self.warn_of_history();
        match self.stream.sync_mode {
            SyncMode::FullRefresh => {
                self.refuse_forbidden_change()?;
                self.backfill().await?;
            }
            SyncMode::Incremental => self.incremental().await?,
            SyncMode::Cdc | SyncMode::StrictCdc => {
                return Err(Error::bug("a stream of a log was run by itself"));
            }
        }
        Ok(self.finished())
    }

    /// What was said of the stream's changes goes with the generation that readers see.
    fn warn_of_history(&self) {
        if shows_changes(&self.head()) {
            self.context.events.event(&Event::Warning {
                stream: Some(self.stream.id.clone()),
                message: format!(
                    "the history of its changes goes once its rows have been read as {}",
                    self.stream.sync_mode
                ),
            });
        }
    }

    /// Tells that the stream is done, and what was done.
    pub(crate) fn finished(&self) -> StreamSummary {
        let summary = self.summary();
        self.context.events.event(&Event::StreamFinished(summary.clone()));
        summary
    }

    /// A full refresh takes any columns, unless the user said that a change is to stop it.
    fn refuse_forbidden_change(&self) -> Result<()> {
        if let Some(before) = &self.head().shown
            && before.sync_mode == self.stream.sync_mode
        {
            let stream = as_known(&self.stream, before)?;
            evolution(before, &stream, false)?;
        }
        Ok(())
    }

    /// Writes batches, each as `admit` lets it through, until they end.
    pub(crate) async fn copy(
        &self,
        batches: BatchStream,
        mut writer: PooledWriter,
        keep_empty: bool,
        stop: &CancellationToken,
        admit: impl FnMut(Batch) -> Result<Option<Batch>> + Send,
    ) -> Result<Copied> {
        match self.write_all(batches, &mut writer, stop, admit).await {
            Ok((rows, bad_values)) => {
                let files = writer.finish(keep_empty).await?;
                Ok(Copied { files, rows, bad_values })
            }
            Err(error) => {
                writer.abort().await;
                Err(error)
            }
        }
    }

    async fn write_all(
        &self,
        mut batches: BatchStream,
        writer: &mut PooledWriter,
        stop: &CancellationToken,
        mut admit: impl FnMut(Batch) -> Result<Option<Batch>> + Send,
    ) -> Result<(u64, BadValues)> {
        let mut rows = 0;
        let mut bad_values = BadValues::default();
        loop {
            let next = tokio::select! {
                biased;
                () = stop.cancelled() => return Err(Error::cancelled()),
                next = batches.next() => next,
            };
            let Some(batch) = next else {
                return Ok((rows, bad_values));
            };
            let batch = batch?;
            self.context.events.event(&Event::RowsRead {
                stream: self.stream.id.clone(),
                rows: batch.rows.num_rows() as u64,
                bytes: batch.rows.get_array_memory_size() as u64,
            });
            if let Some(batch) = admit(batch)? {
                rows += batch.rows.num_rows() as u64;
                bad_values.merge(&batch.bad_values);
                writer.write(batch).await?;
            }
        }
    }

    /// Commits a unit of this stream by the one path that there is.
    pub(crate) async fn commit(
        &self,
        commit: StreamCommit,
        notify: impl FnOnce(&StreamHead) -> Vec<Event> + Send + 'static,
    ) -> Result<()> {
        let head = self.context.commits.commit(&self.entry, commit, notify).await?;
        self.set_head(head);
        Ok(())
    }

    /// Adds what was committed to the summary.
    pub(crate) fn count(&self, copied: &Copied) {
        let mut tally = self.tally();
        // A run without end has no summary that would say it.
        for (column, _) in copied.bad_values.iter().filter(|_| self.context.options.follow) {
            if let Some(column) = self.stream.schema.columns.get(column)
                && tally.told.insert(column.name.clone())
            {
                self.context.events.event(&Event::Warning {
                    stream: Some(self.stream.id.clone()),
                    message: format!(
                        "values of column \"{}\" do not fit it and are replaced by the stream's policy; the originals are in \
                         _lw_rescued",
                        column.name
                    ),
                });
            }
        }
        tally.units += 1;
        tally.rows += copied.rows;
        tally.files += copied.files.len() as u64;
        tally.bytes += copied.files.iter().map(|file| file.bytes).sum::<u64>();
        tally.bad_values.merge(&copied.bad_values);
    }

    /// Units with what was read in them that this run has committed. Whoever begins again and again makes commits,
    /// but no progress.
    pub(crate) fn progress(&self) -> u64 {
        self.tally().units
    }

    /// One more step was tried again.
    pub(crate) fn count_retry(&self) {
        self.tally().retries += 1;
    }

    /// So many chunks of an earlier session stand as they are.
    pub(crate) fn count_kept(&self, chunks: u64) {
        self.tally().chunks_kept = chunks;
    }

    pub(crate) fn unit(&self, generation: u32, what: &str) -> String {
        format!("generation/{}/{generation}/{what}", self.stream.target)
    }

    pub(crate) fn head(&self) -> StreamHead {
        self.head.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Chunks commit concurrently; the head with the greatest number is the stream's.
    pub(crate) fn set_head(&self, head: StreamHead) {
        let mut current = self.head.lock().unwrap_or_else(PoisonError::into_inner);
        if head.commit >= current.commit {
            *current = head;
        }
    }

    fn tally(&self) -> std::sync::MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn summary(&self) -> StreamSummary {
        let head = self.head();
        let tally = self.tally();
        let columns = &self.stream.schema.columns;
        StreamSummary {
            stream: self.stream.id.clone(),
            mode: self.stream.sync_mode,
            generation: head.generation,
            commit: head.commit,
            rows: tally.rows,
            bytes: tally.bytes,
            files: tally.files,
            chunks_kept: tally.chunks_kept,
            bad_values: tally
                .bad_values
                .iter()
                .filter_map(|(column, count)| Some((columns.get(column)?.name.clone(), count)))
                .collect(),
            retries: tally.retries,
            seconds: self.began.elapsed().as_secs_f64(),
        }
    }
}
