//! Backfill: every row of a stream, in chunks, into a generation that becomes visible when it is whole.
//!
//! Guaranteed: a generation is shown only when every chunk of its plan was read, or found unchanged, under the
//! snapshot of its last `open`. So whatever was killed in between, the result is exactly one snapshot.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::{RecordBatch, RecordBatchOptions, new_null_array};
use futures::{StreamExt, TryStreamExt};
use lakeward_core::{
    Batch, ChangeColumns, Chunk, DefinedColumn, Definition, DoneChunk, Error, Fingerprint, Op,
    OpenGeneration, OpenStep, Position, Progress, Result, Retry, Rewritten, Sequence, Session, StreamCommit,
    StreamHead, SwapStep, WrittenFile,
};
use tokio_util::sync::CancellationToken;

use crate::events::Event;
use crate::retry::Backoff;
use crate::stream_run::{Copied, StreamRun};

/// Attempts at one chunk under one session before a new session is begun.
const CHUNK_RETRIES: u32 = 2;
/// A table up to this size is read whole before the log, which rests for its snapshot, is read on.
const READ_WHILE_LOG_RESTS: u64 = 8 << 20;

impl StreamRun {
    /// Reads the whole stream into a generation and shows it, under as many sessions as it takes.
    pub(crate) async fn backfill(&self) -> Result<()> {
        let mut backoff = self.backoff();
        loop {
            let before = self.progress();
            let outcome = self.backfill_in_one_session().await;
            if self.progress() > before {
                backoff.reset();
            }
            match outcome {
                Ok(()) => return Ok(()),
                Err(error) => {
                    backoff.after(error, Retry::NewSession).await?;
                    self.count_retry();
                }
            }
        }
    }

    async fn backfill_in_one_session(&self) -> Result<()> {
        let older = self.history_is_older();
        let session = self.begin_session().await?;
        let outcome = self.backfill_under(&session, older).await;
        self.context.driver.end_backfill(session).await;
        let Some(mut swap) = outcome? else { return Ok(()) };
        if older {
            // It may take long, and needs no snapshot.
            swap.rewritten = self.rewrite_history().await?;
        }
        self.show(&mut swap).await?;
        let (stream, generation) = (self.stream.id.clone(), swap.generation);
        self.commit(swap, move |head| vec![Event::GenerationVisible { stream, generation, rows: head.rows }])
            .await
    }

    /// Takes a snapshot. Where changes are followed, they are read on once the snapshot's `open` is committed.
    pub(crate) async fn begin_session(&self) -> Result<Session> {
        let _reader = self.context.reader().await?;
        // Of thousands of streams most wait for a reader when a run is stopped.
        if self.context.options.cancel.is_cancelled() {
            return Err(Error::cancelled());
        }
        if let Some(phases) = &self.phases {
            phases.opening(&self.stream.id).await?;
        }
        let session = self.context.driver.begin_backfill(&self.stream).await;
        if let (Err(_), Some(phases)) = (&session, &self.phases) {
            phases.queued(&self.stream.id).await?;
        }
        session
    }

    /// Commits the beginning of a generation, or of its resumption. Its changes count from there.
    async fn commit_open(&self, commit: StreamCommit, session: &Session) -> Result<()> {
        let outcome = self.commit(commit, |_| Vec::new()).await;
        self.opened(session, outcome).await
    }

    /// Lets the changes of a stream be read on after its snapshot was committed, or was not.
    async fn opened(&self, session: &Session, outcome: Result<()>) -> Result<()> {
        let Some(phases) = &self.phases else { return outcome };
        match (&outcome, &session.position) {
            (Ok(()), Some(position)) => {
                phases.opened(&self.stream.id, position.clone(), self.head().generation).await?;
            }
            (Ok(()), None) => return Err(Error::bug("a snapshot behind a log has no position")),
            (Err(_), _) => phases.queued(&self.stream.id).await?,
        }
        outcome
    }

    /// Commits every chunk. Gives the commit that shows them, where that is still to be made, as it always is for a
    /// history that is `older`.
    async fn backfill_under(&self, session: &Session, older: bool) -> Result<Option<StreamCommit>> {
        let driver = &self.context.driver;
        let head = self.head();
        let definition = self.stream.definition();
        let resumed = resumable(&head, &definition, session);
        let generation = if resumed.is_some() { head.generation } else { head.generation + 1 };
        let plan = driver
            .get_or_split_chunks(
                &self.stream,
                session,
                resumed.map(|(open, _)| open.plan.as_slice()),
                self.context.options.chunk_bytes,
            )
            .await?;
        let kept = match resumed {
            Some((open, fingerprint)) => self.unchanged_chunks(open, fingerprint, &plan, session).await?,
            None => BTreeSet::new(),
        };
        self.count_kept(kept.len() as u64);
        self.context.events.event(&Event::StreamPlanned {
            stream: self.stream.id.clone(),
            mode: self.stream.sync_mode,
            generation,
            chunks: plan.len(),
            chunks_kept: kept.len(),
            estimated_rows: self.estimated_rows,
        });

        let cursor = self.first_cursor(session).await?;
        let progress = Progress { position: session.position.clone(), cursor, pass: 0 };
        let mut open =
            StreamCommit::new(self.stream.target.clone(), generation, self.unit(generation, "open"));
        open.open = Some(OpenStep {
            definition,
            fingerprint: session.fingerprint.clone(),
            snapshot: session.snapshot.clone(),
            plan: plan.clone(),
            backfill: true,
        });
        open.progress = Some(progress.clone());

        // A generation has at least one file, so that its swap can be told from a lost one.
        let first = plan.iter().map(|chunk| chunk.number).min();
        let mut pending: Vec<Chunk> =
            plan.into_iter().filter(|chunk| !kept.contains(&chunk.number)).collect();
        if let [only] = pending.as_slice()
            && resumed.is_none()
            && !older
            // A log that is being followed rests meanwhile: not for long.
            && (self.phases.is_none() || only.bytes <= READ_WHILE_LOG_RESTS)
        {
            // A table of one chunk begins, arrives and is shown in one commit.
            let outcome = self.show_only_chunk(only, open, session, generation, &progress).await;
            return self.opened(session, outcome).await.map(|()| None);
        }
        self.commit_open(open, session).await?;

        // The largest first: the last chunk to end is then a small one.
        pending.sort_by_key(|chunk| std::cmp::Reverse(chunk.bytes));
        self.read_and_commit(pending, session, generation, first).await?;

        let mut swap =
            StreamCommit::new(self.stream.target.clone(), generation, self.unit(generation, "swap"));
        swap.window = self.first_window(session, &progress).await?;
        Ok(Some(swap))
    }

    async fn show_only_chunk(
        &self,
        chunk: &Chunk,
        mut open: StreamCommit,
        session: &Session,
        generation: u32,
        progress: &Progress,
    ) -> Result<()> {
        let copied = self.read_chunk(chunk, session, generation, true, &self.context.options.cancel).await?;
        open.unit = StreamCommit::backfill_unit(&self.stream.target, generation, chunk.number);
        open.chunk = Some((chunk.number, done(&copied, session)));
        open.files.clone_from(&copied.files);
        open.window = self.first_window(session, progress).await?;
        self.show(&mut open).await?;
        self.commit_chunk(open, copied, chunk.number).await
    }

    /// Begins a generation that has nothing of what there was before it, and shows it with the history as `rewritten`.
    pub(crate) async fn backfill_nothing(&self, session: &Session, rewritten: Vec<Rewritten>) -> Result<()> {
        let commit = self.empty_generation(session, session.position.clone(), rewritten).await?;
        self.commit_open(commit, session).await
    }

    /// The same, but for the place in the log, which stays the stream's own: no change is passed over. Not for a log that
    /// is being read.
    pub(crate) async fn begin_where_it_stands(
        &self,
        session: &Session,
        rewritten: Vec<Rewritten>,
    ) -> Result<()> {
        let position = self.head().progress.position;
        let commit = self.empty_generation(session, position, rewritten).await?;
        self.commit(commit, |_| Vec::new()).await
    }

    async fn empty_generation(
        &self,
        session: &Session,
        position: Option<Position>,
        rewritten: Vec<Rewritten>,
    ) -> Result<StreamCommit> {
        let generation = self.head().generation + 1;
        let unit = self.unit(generation, "begin");
        let mut commit = StreamCommit::new(self.stream.target.clone(), generation, unit.clone());
        commit.open = Some(OpenStep {
            definition: self.stream.definition(),
            fingerprint: session.fingerprint.clone(),
            snapshot: session.snapshot.clone(),
            plan: Vec::new(),
            backfill: true,
        });
        commit.progress = Some(Progress { position, cursor: None, pass: 0 });
        commit.rewritten = rewritten;
        let writer = self.context.pool.open(self.stream.clone(), generation, unit, session.sequence).await?;
        commit.files = writer.finish(true).await?;
        self.show(&mut commit).await?;
        Ok(commit)
    }

    /// A change stream keeps what it said before; other modes replace it.
    fn keeps_history(&self) -> bool {
        self.phases.is_some() && self.head().visible.is_some()
    }

    /// Whether files of a history that is kept have a column in another type than it has now.
    pub(crate) fn history_is_older(&self) -> bool {
        let (shown, columns) = (self.head().shown, self.stream.file_columns());
        let another = |known: &DefinedColumn| {
            let column = columns.column(&known.name);
            column.is_some_and(|column| column.column_type.to_string() != known.column_type)
        };
        self.keeps_history() && shown.is_some_and(|shown| shown.columns.iter().any(another))
    }

    /// The history's files in the types of now, where they have narrower ones.
    pub(crate) async fn rewrite_history(&self) -> Result<Vec<Rewritten>> {
        let (context, columns) = (&self.context, self.stream.file_columns());
        context
            .destination
            .rewrite(&self.stream.target, &columns, &context.budget, &context.options.cancel)
            .await
    }

    /// Lets a commit make its generation visible. Where history is kept, the last of its files ends that.
    async fn show(&self, commit: &mut StreamCommit) -> Result<()> {
        commit.swap = Some(SwapStep::Replace);
        if self.keeps_history() {
            commit.files.extend(self.end_of_history(commit.generation).await?);
            commit.swap = Some(SwapStep::KeepHistory);
        }
        Ok(())
    }

    /// The row that ends a history: everything before the generation is gone.
    async fn end_of_history(&self, generation: u32) -> Result<Vec<WrittenFile>> {
        let unit = self.unit(generation, "end of history");
        let mut writer = self.context.pool.open(self.stream.clone(), generation, unit, 0).await?;
        let schema = Arc::new(self.stream.schema.arrow());
        let nulls = schema.fields().iter().map(|field| new_null_array(field.data_type(), 1)).collect();
        let one = RecordBatchOptions::new().with_row_count(Some(1));
        let rows = RecordBatch::try_new_with_options(schema, nulls, &one)
            .map_err(|error| Error::bug("a row of nulls cannot be made").source(error))?;
        let sequence = Sequence { epoch: generation, position: 0, ordinal: 0 };
        let mut batch = Batch::read(rows);
        batch.changes = Some(ChangeColumns {
            op: [Some(Op::Truncate.as_str())].into_iter().collect(),
            seq: [Some(sequence.to_string())].into_iter().collect(),
            commit_ts: [None].into_iter().collect(),
            unchanged: None,
        });
        writer.write(batch).await?;
        writer.finish(false).await
    }

    /// Reads chunks on all connections there are and commits each as it is done, while the next one is read.
    ///
    /// After a failure no chunk is begun, those being read stop, and those being committed finish: when this
    /// returns, nothing of the session is under way any more, and the next one starts from all that it gave.
    async fn read_and_commit(
        &self,
        pending: Vec<Chunk>,
        session: &Session,
        generation: u32,
        first: Option<u32>,
    ) -> Result<()> {
        let stop = self.context.options.cancel.child_token();
        let mut running = futures::stream::iter(pending)
            .map(|chunk| {
                let stop = &stop;
                async move {
                    let keep_empty = Some(chunk.number) == first;
                    let copied = self.read_chunk(&chunk, session, generation, keep_empty, stop).await?;
                    let unit = StreamCommit::backfill_unit(&self.stream.target, generation, chunk.number);
                    let mut commit = StreamCommit::new(self.stream.target.clone(), generation, unit);
                    commit.chunk = Some((chunk.number, done(&copied, session)));
                    commit.files.clone_from(&copied.files);
                    self.commit_chunk(commit, copied, chunk.number).await
                }
            })
            .buffer_unordered(self.context.reader_count + 1);
        let mut failure = None;
        while let Some(outcome) = running.next().await {
            if let Err(error) = outcome {
                stop.cancel();
                failure = failure.or(Some(error));
            }
        }
        failure.map_or(Ok(()), Err)
    }

    /// The chunks of an earlier session that this session would read exactly as they stand.
    async fn unchanged_chunks(
        &self,
        open: &OpenGeneration,
        fingerprint: &Fingerprint,
        plan: &[Chunk],
        session: &Session,
    ) -> Result<BTreeSet<u32>> {
        let candidates = plan.iter().filter_map(|chunk| {
            let done = open.done.get(&chunk.number)?;
            let relation = chunk.relation.as_deref().unwrap_or("");
            let same = fingerprint.relations.get(relation) == session.fingerprint.relations.get(relation);
            same.then_some((chunk, done))
        });
        futures::stream::iter(candidates.collect::<Vec<_>>())
            .map(|(chunk, done)| async move {
                let _reader = self.context.reader().await?;
                let same = self.context.driver.verify_chunk(&self.stream, chunk, done, session).await?;
                Ok::<_, Error>(same.then_some(chunk.number))
            })
            .buffer_unordered(self.context.reader_count)
            .try_filter_map(|number| async move { Ok(number) })
            .try_collect()
            .await
    }

    /// Reads one chunk into files, again where the connection was at fault.
    async fn read_chunk(
        &self,
        chunk: &Chunk,
        session: &Session,
        generation: u32,
        keep_empty: bool,
        stop: &CancellationToken,
    ) -> Result<Copied> {
        let retries = self.context.driver.max_retries().map_or(CHUNK_RETRIES, |most| most.min(CHUNK_RETRIES));
        let mut backoff = Backoff::new(&self.stream.id, self.context.events.as_ref(), stop, Some(retries));
        loop {
            match self.read_chunk_once(chunk, session, generation, keep_empty, stop).await {
                Ok(copied) => return Ok(copied),
                Err(error) => {
                    backoff
                        .after(error, Retry::Again)
                        .await
                        .map_err(|error| error.at("chunk", chunk.number))?;
                    self.count_retry();
                }
            }
        }
    }

    async fn read_chunk_once(
        &self,
        chunk: &Chunk,
        session: &Session,
        generation: u32,
        keep_empty: bool,
        stop: &CancellationToken,
    ) -> Result<Copied> {
        let reader = self.context.reader().await?;
        if stop.is_cancelled() {
            return Err(Error::cancelled());
        }
        let unit = StreamCommit::backfill_unit(&self.stream.target, generation, chunk.number);
        let writer = self.context.pool.open(self.stream.clone(), generation, unit, session.sequence).await?;
        let batches = self
            .context
            .driver
            .chunk_iterator(self.stream.clone(), chunk.clone(), session, self.context.read_context(stop))
            .await;
        match batches {
            Ok(batches) => {
                // The connection is free when its last batch is written, before the files are finished.
                let batches = batches.inspect(move |_| _ = &reader).boxed();
                self.copy(batches, writer, keep_empty, stop, |batch| Ok(Some(batch))).await
            }
            Err(error) => {
                writer.abort().await;
                Err(error)
            }
        }
    }

    async fn commit_chunk(&self, commit: StreamCommit, copied: Copied, chunk: u32) -> Result<()> {
        let stream = self.stream.id.clone();
        let rows = copied.rows;
        let shown = commit.swap.map(|_| commit.generation);
        self.commit(commit, move |head| {
            let mut events =
                vec![Event::ChunkCommitted { stream: stream.clone(), chunk, rows, commit: head.commit }];
            events.extend(shown.map(|generation| Event::GenerationVisible { stream, generation, rows }));
            events
        })
        .await?;
        self.count(&copied);
        Ok(())
    }
}

/// The open generation, where its definition and its rows' shape are still those of this session.
fn resumable<'a>(
    head: &'a StreamHead,
    definition: &Definition,
    session: &Session,
) -> Option<(&'a OpenGeneration, &'a Fingerprint)> {
    let open = head.open.as_ref()?;
    let fingerprint = head.fingerprint.as_ref()?;
    let same =
        head.definition.as_ref() == Some(definition) && fingerprint.schema == session.fingerprint.schema;
    same.then_some((open, fingerprint))
}

fn done(copied: &Copied, session: &Session) -> DoneChunk {
    DoneChunk { rows: copied.rows, snapshot: session.snapshot.clone() }
}
