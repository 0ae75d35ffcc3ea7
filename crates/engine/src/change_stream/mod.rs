//! Change streams: streams that share a log, from their snapshots to its end, in one of three orders.
//!
//! Guaranteed: a change is delivered once, and none is released at the source before it is committed for every
//! stream that it belongs to. The destination decides: each stream's own position says which changes it has.
//! A stream that is new, came back, or changed in a way that its rows would feel is read anew into a hidden
//! generation, which its changes join as soon as its snapshot is taken.

mod compaction;
mod let_go;
mod phases;
mod reading;
mod units;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use futures::StreamExt;
use lakeward_core::{
    Catalog, CdcDriver, ChangeMode, ConfiguredStream, Definition, Error, ErrorKind, Fingerprint, OpenStep,
    Prepared, Result, Retry, Rewritten, Standing, Stream, StreamCommit, StreamHead, StreamId, StreamPhase,
    SyncMode, Until, failpoint, retry_policy,
};
use tokio_util::sync::CancellationToken;

use compaction::Compactor;
pub(crate) use let_go::let_go;
pub(crate) use phases::Phases;
use reading::{ReadEnd, Reading};

use crate::abstract_driver::AbstractDriver;
use crate::events::{Event, StreamSummary};
use crate::evolution::{Evolution, as_known, evolution, renamed_in_files, successor};
use crate::options::Options;
use crate::retry::Backoff;
use crate::stream_run::{RunContext, StreamRun};

/// A stream that changes so often without anything being committed in between is not understood.
const CHANGES_WITHOUT_PROGRESS: u32 = 5;

/// How a stream ended.
pub(crate) type Outcome = (StreamId, Result<StreamSummary>);

/// All streams of one log in one run.
pub(crate) struct LogRun {
    context: Arc<RunContext>,
    catalog: Catalog,
    mode: ChangeMode,
    phases: Arc<Phases>,
    compactor: Arc<Compactor>,
    runs: BTreeMap<StreamId, Arc<StreamRun>>,
    /// Streams that changed in a way that their columns do not show, and how: they are read anew.
    read_anew: BTreeMap<StreamId, String>,
    /// Streams whose backfill failed: the others go on.
    failures: Mutex<BTreeMap<StreamId, Error>>,
    /// Streams whose changes cannot be read or written, and why: the others are read on to where the source is now. The
    /// log is kept from where these stand.
    broken: BTreeMap<StreamId, Error>,
    held: Held,
}

/// Streams that follow the log and are not begun in this run: they stay published, and the log is kept from where they
/// stand.
#[derive(Default)]
pub(crate) struct Held {
    /// Those that are as they are configured.
    pub(crate) streams: Vec<Arc<ConfiguredStream>>,
    /// The places of such as the source does not show so at the moment.
    pub(crate) absent: Vec<String>,
}

impl Held {
    /// Whether there are any.
    pub(crate) fn is_empty(&self) -> bool {
        self.streams.is_empty() && self.absent.is_empty()
    }
}

/// How an attempt ended.
enum Attempt {
    Done,
    /// A stream changed: it is looked at again.
    Changed {
        stream: StreamId,
        what: String,
        placed: bool,
    },
}

impl LogRun {
    /// The log is kept from where it is for streams that are none of these: for `held`.
    ///
    /// # Errors
    /// `Config` where the source has no log, or does not offer the mode.
    pub(crate) fn new(
        context: Arc<RunContext>,
        catalog: Catalog,
        streams: Vec<(Arc<ConfiguredStream>, Stream)>,
        held: Held,
    ) -> Result<Self> {
        let Some(log) = context.driver.change_stream() else {
            return Err(Error::new(ErrorKind::Config, "this source offers no change stream")
                .hint("choose full_refresh or incremental"));
        };
        let mode = match (context.options.cdc_mode, log.modes()) {
            (None, [default, ..]) => *default,
            (Some(mode), offered) if offered.contains(&mode) => mode,
            _ => {
                return Err(Error::new(ErrorKind::Config, "the source does not offer this --cdc-mode")
                    .hint("leave --cdc-mode out"));
            }
        };
        let phases = Arc::new(Phases::new(context.driver.clone()));
        let runs = streams
            .into_iter()
            .map(|(stream, offered)| {
                let run = StreamRun::new(context.clone(), stream, offered.estimated_rows);
                (run.stream.id.clone(), Arc::new(run.following(phases.clone())))
            })
            .collect();
        Ok(Self {
            compactor: Compactor::new(context.clone()),
            context,
            catalog,
            mode,
            phases,
            runs,
            read_anew: BTreeMap::new(),
            failures: Mutex::default(),
            broken: BTreeMap::new(),
            held,
        })
    }

    /// Runs all streams, and says for each how it ended.
    pub(crate) async fn run(mut self) -> Vec<Outcome> {
        let ended = self.run_until_done().await;
        // A run that goes on until it is stopped never ends well: what is being merged then is given up.
        self.compactor.end(ended.is_ok().then_some(&self.runs)).await;
        let mut failures = self.failures.into_inner().unwrap_or_else(PoisonError::into_inner);
        failures.append(&mut self.broken);
        let mut outcomes = Vec::new();
        if let Err(error) = ended {
            let first = named(&self.runs, &error).or_else(|| self.runs.keys().next().cloned());
            for id in self.runs.keys().filter(|id| Some(*id) != first.as_ref()) {
                let why = Error::new(error.kind(), "the reading of the log ended for all of its streams");
                failures.entry(id.clone()).or_insert(match error.kind() {
                    ErrorKind::Cancelled => Error::cancelled(),
                    _ => match &first {
                        Some(first) => why.hint(format!("what stopped it is told of {first}")),
                        None => why,
                    },
                });
            }
            if let Some(first) = first {
                failures.insert(first, error);
            }
        }
        for (id, run) in &self.runs {
            let outcome = match failures.remove(id) {
                Some(error) => Err(error),
                None => Ok(run.finished()),
            };
            outcomes.push((id.clone(), outcome));
        }
        outcomes
    }

    fn log(&self) -> Result<&dyn CdcDriver> {
        self.context.driver.change_stream().ok_or_else(|| Error::bug("a source without a log is followed"))
    }

    async fn run_until_done(&mut self) -> Result<()> {
        for run in self.runs.values().cloned().collect::<Vec<_>>() {
            if let Err(error) = run.take_over().await {
                // Its files are its own matter, whoever holds the others.
                let its_own = error.kind() == ErrorKind::Destination;
                self.go_on_without(error.at("stream", &run.stream.id), its_own)?;
            }
        }
        let ended = self.attempts().await;
        // Whatever ended them: what is released only now would otherwise be said at the next start.
        let closed = self.log()?.post_cdc().await;
        ended.and(closed)
    }

    /// As many attempts as it takes.
    async fn attempts(&mut self) -> Result<()> {
        let context = self.context.clone();
        let Options { cancel, follow, .. } = &context.options;
        // What goes on until it is stopped waits for a server that is away, however long, unless the config says else.
        let retries = context.driver.max_retries().or(follow.then_some(u32::MAX));
        let mut backoff = Backoff::new(None, context.events.as_ref(), cancel, retries);
        let mut changes = 0;
        loop {
            let before = self.progress();
            let attempt = self.attempt().await;
            if self.progress() != before {
                backoff.reset();
                changes = 0;
            }
            match attempt {
                Ok(Attempt::Done) => return Ok(()),
                Ok(Attempt::Changed { stream, what, placed }) => {
                    changes += 1;
                    if changes > CHANGES_WITHOUT_PROGRESS {
                        return Err(Error::new(ErrorKind::Schema, "the stream changes again and again")
                            .at("stream", stream)
                            .at("change", what)
                            .hint("run again when it has settled"));
                    }
                    self.context.events.event(&Event::Warning {
                        stream: Some(stream.clone()),
                        message: format!("changed: {what}"),
                    });
                    while let Err(error) = self.resolve_again((!placed).then_some((&stream, &what))).await {
                        match backoff.after(error, Retry::NewSession).await {
                            Ok(()) => {}
                            Err(error) => {
                                self.leave_out(error)?;
                                break;
                            }
                        }
                    }
                }
                Err(error) => match backoff.after(error, Retry::NewSession).await {
                    Ok(()) => {
                        if let Err(error) = self.resolve_again(None).await {
                            // Where the server is still away the next attempt finds out.
                            if retry_policy(error.kind()) == Retry::Never {
                                self.leave_out(error)?;
                            }
                        }
                    }
                    Err(error) => self.leave_out(error)?,
                },
            }
        }
    }

    /// Goes on without the stream that an error is about, where it is about what one stream is or holds.
    fn leave_out(&mut self, error: Error) -> Result<()> {
        let its_own = matches!(error.kind(), ErrorKind::Data | ErrorKind::Schema | ErrorKind::Config);
        self.go_on_without(error, its_own)
    }

    /// Goes on without the stream that an error names, where it is that one's own.
    fn go_on_without(&mut self, error: Error, its_own: bool) -> Result<()> {
        match named(&self.runs, &error).filter(|id| its_own && !self.broken.contains_key(id)) {
            Some(id) if self.broken.len() + 1 < self.runs.len() => {
                self.context.events.event(&Event::Warning {
                    stream: Some(id.clone()),
                    message: "the other streams are read on without it, to where the source is now; the source keeps \
                              its log from here"
                        .to_owned(),
                });
                self.catalog.deselect(&id);
                self.broken.insert(id, error);
                Ok(())
            }
            _ => Err(error),
        }
    }

    /// What grows with everything that was read and committed.
    fn progress(&self) -> (Option<lakeward_core::Position>, u64) {
        let units = self.runs.values().map(|run| run.progress()).sum();
        (self.context.commits.known_global(), units)
    }

    /// Looks at all streams again, as they are at the source now, perhaps because one is known to have changed.
    async fn resolve_again(&mut self, changed: Option<(&StreamId, &String)>) -> Result<()> {
        let context = &self.context;
        let resolved = AbstractDriver::resolve(
            context.driver.as_ref(),
            Some(context.destination.as_ref()),
            &self.catalog,
        );
        for (stream, _) in resolved.await? {
            if let Some(run) = self.runs.get_mut(&stream.id) {
                let same = stream.schema == run.stream.schema && stream.key == run.stream.key;
                // A partition with rows in it, say: nothing that is known of the stream tells what is missing.
                if let Some((changed, what)) = changed
                    && stream.id == *changed
                    && same
                {
                    self.read_anew.insert(stream.id.clone(), what.clone());
                }
                *run = Arc::new(run.again(self.context.clone(), stream));
            }
        }
        Ok(())
    }

    async fn attempt(&mut self) -> Result<Attempt> {
        let prepared = self.make_followable().await?;
        // What an attempt began ends with it.
        let stop = self.context.options.cancel.child_token();
        let _stopped = stop.clone().drop_guard();
        let options = Options { cancel: stop.clone(), ..self.context.options.clone() };
        let context = Arc::new(RunContext { options, ..self.context.as_ref().clone() });
        let mut phases = BTreeMap::new();
        let mut queued = Vec::new();
        for (id, run) in &mut self.runs {
            // Without a phase its changes are passed over.
            if self.broken.contains_key(id) {
                continue;
            }
            let id = id.clone();
            let anew = self.read_anew.remove(&id);
            let (stream, phase) =
                plan(run, &prepared, anew).await.map_err(|error| error.at("stream", &id))?;
            *run = Arc::new(run.again(context.clone(), stream));
            if phase == StreamPhase::Queued {
                queued.push(run.clone());
            }
            phases.insert(id, phase);
        }
        self.phases.set(phases).await;
        // What failed in an attempt that was broken off gets another one.
        self.failures.get_mut().unwrap_or_else(PoisonError::into_inner).clear();
        // Those with chunks done first, then the large ones: the small ones fill the gaps.
        queued.sort_by_key(|run| std::cmp::Reverse((run.head().open.is_some(), run.estimated_rows)));
        let hold = !self.held.is_empty() || !self.broken.is_empty();
        let reading = Reading {
            context: &context,
            phases: &self.phases,
            runs: &self.runs,
            compactor: &self.compactor,
            fan_out: self.mode != ChangeMode::Sequential,
            hold,
        };
        // What the source keeps for a stream that is broken would grow for as long as the others are followed.
        let follow = context.options.follow && !hold;
        let last = if follow { Until::Forever } else { Until::Now };
        let never = CancellationToken::new();
        match self.mode {
            ChangeMode::Sequential | ChangeMode::Parallel => {
                self.backfill(queued, &stop).await?;
                let last = if self.none_is_left() { Until::Now } else { last };
                Ok(reading.run(last, &never).await?.into())
            }
            ChangeMode::Concurrent if queued.is_empty() => Ok(reading.run(last, &never).await?.into()),
            ChangeMode::Concurrent => {
                // Where the run ends by itself, or has nothing to follow, the log is read up to a place behind the last
                // snapshot.
                let quit = CancellationToken::new();
                let backfills = async {
                    let outcome = self.backfill(queued, &stop).await;
                    if !follow || self.none_is_left() {
                        quit.cancel();
                    }
                    if outcome.is_err() {
                        stop.cancel();
                    }
                    outcome
                };
                let read = async {
                    let end = reading.run(Until::Forever, &quit).await;
                    if !matches!(end, Ok(ReadEnd::Asked)) {
                        stop.cancel();
                    }
                    end
                };
                let (backfills, read) = tokio::join!(backfills, read);
                // Each stops the other: the one that was not stopped says why.
                if read.as_ref().is_err_and(|error| error.kind() == ErrorKind::Cancelled) {
                    backfills?;
                    return Err(Error::cancelled());
                }
                match read? {
                    ReadEnd::Asked => {
                        backfills?;
                        Ok(reading.run(Until::Now, &never).await?.into())
                    }
                    end => Ok(end.into()),
                }
            }
        }
    }

    /// Whether there is no stream that can be followed: a run that went on for ever without one would hide that.
    fn none_is_left(&self) -> bool {
        let failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        self.runs.keys().all(|id| failures.contains_key(id) || self.broken.contains_key(id))
    }

    /// Makes the log followable: the intent is saved first, so that what a crash leaves at the source is known.
    async fn make_followable(&self) -> Result<Prepared> {
        let commits = &self.context.commits;
        let ids: Vec<StreamId> = self.runs.keys().cloned().collect();
        let saved = commits.known_global();
        let intent = self.log()?.intent(&self.context.run.pipeline, saved.as_ref()).await?;
        if saved.as_ref() != Some(&intent) {
            commits.save_global(&intent, ids.clone(), true).await?;
            failpoint::hit("engine-intent-saved")?;
        }
        let followed = self.runs.values().map(|run| &run.stream);
        let streams: Vec<Arc<ConfiguredStream>> = followed.chain(&self.held.streams).cloned().collect();
        // What is broken may have another name for a while.
        let broken = self.broken.keys().filter_map(|id| self.runs[id].head().fingerprint);
        let kept: Vec<String> =
            broken.map(|fingerprint| fingerprint.log).chain(self.held.absent.clone()).collect();
        let prepared = self.log()?.pre_cdc(&streams, &kept, &intent).await?;
        failpoint::hit("engine-log-followable")?;
        commits.save_global(&prepared.position, ids, false).await?;
        Ok(prepared)
    }

    /// Takes the snapshots of streams that need one. One that fails waits for the next run; the others go on.
    ///
    /// # Errors
    /// Where a new attempt may do better, or the run was stopped.
    async fn backfill(&self, mut queued: Vec<Arc<StreamRun>>, stop: &CancellationToken) -> Result<()> {
        let mut at_once = self.context.reader_count;
        loop {
            let Snapshots { taken, refused } = self.take_snapshots(queued, at_once, stop).await?;
            // What the source had too few of for all at once (slots), it may have for one after another.
            if taken == 0 || refused.is_empty() {
                refused.into_iter().for_each(|(run, error)| self.fail(&run.stream.id, error));
                return Ok(());
            }
            queued = refused.into_iter().map(|(run, _)| run).collect();
            at_once = 1;
        }
    }

    async fn take_snapshots(
        &self,
        queued: Vec<Arc<StreamRun>>,
        at_once: usize,
        stop: &CancellationToken,
    ) -> Result<Snapshots> {
        let mut running = futures::stream::iter(queued)
            .map(|run| async move {
                let outcome = match run.stream.sync_mode {
                    SyncMode::StrictCdc => run.join_log().await,
                    _ => run.backfill().await,
                };
                let outcome = match outcome {
                    // Here, where the others go on meanwhile: whoever waits for the phases must be able to let go of them.
                    Err(error) if !matches!(error.kind(), ErrorKind::Cancelled | ErrorKind::Schema) => {
                        self.phases.queued(&run.stream.id).await.and(Err(error))
                    }
                    outcome => outcome,
                };
                (run, outcome)
            })
            .buffer_unordered(at_once);
        let mut snapshots = Snapshots::default();
        let mut ended = None;
        while let Some((run, outcome)) = running.next().await {
            match outcome {
                Ok(()) => snapshots.taken += 1,
                Err(error) if error.kind() == ErrorKind::Cancelled => ended = ended.or(Some(error)),
                Err(error) if error.kind() == ErrorKind::Schema => {
                    // The others end in good order.
                    stop.cancel();
                    ended = Some(altered(error));
                }
                Err(error) if error.kind() == ErrorKind::Source => snapshots.refused.push((run, error)),
                Err(error) => self.fail(&run.stream.id, error),
            }
        }
        ended.map_or(Ok(snapshots), Err)
    }

    /// Notes that a stream got no snapshot in this run.
    fn fail(&self, id: &StreamId, error: Error) {
        // A run that ends tells it then.
        if self.context.options.follow {
            let remedy = error.remedy().map(|remedy| format!(" ({remedy})")).unwrap_or_default();
            self.context.events.event(&Event::Warning {
                stream: Some(id.clone()),
                message: format!(
                    "its rows could not be read, the others are followed without it, and the next run tries again: \
                     {error:?}{remedy}"
                ),
            });
        }
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        failures.insert(id.clone(), error);
    }
}

/// How a round of snapshots ended.
#[derive(Default)]
struct Snapshots {
    taken: usize,
    /// Those that the source refused.
    refused: Vec<(Arc<StreamRun>, Error)>,
}

/// The stream that an error names.
fn named(runs: &BTreeMap<StreamId, Arc<StreamRun>>, error: &Error) -> Option<StreamId> {
    let (_, name) = error.places().find(|(what, _)| *what == "stream")?;
    runs.keys().find(|id| id.to_string() == name).cloned()
}

impl From<ReadEnd> for Attempt {
    fn from(end: ReadEnd) -> Self {
        match end {
            ReadEnd::Reached | ReadEnd::Asked => Self::Done,
            ReadEnd::Changed { stream, what, placed } => Self::Changed { stream, what, placed },
        }
    }
}

/// What a stream's own commits, and the source, say is to be done with it. A generation that only gets more
/// columns is widened here, and one of which no row is read begun.
async fn plan(
    run: &mut Arc<StreamRun>,
    prepared: &Prepared,
    anew: Option<String>,
) -> Result<(Arc<ConfiguredStream>, StreamPhase)> {
    let head = run.head();
    let Some(before) = &head.definition else {
        return Ok((run.stream.clone(), StreamPhase::Queued));
    };
    let next = Arc::new(successor(&run.stream, &head)?);
    if head.open.is_some() || head.visible.is_none() {
        return Ok((next, StreamPhase::Queued));
    }
    let again = async |reason: String| {
        // Its changes are passed over until it has a snapshot, and what ends before that leaves no trace of the reason,
        // which may be one that nobody sees twice. So its commits say first that it has no place in the log any more.
        if run.head().fingerprint.is_some_and(|fingerprint| fingerprint.is_in_log()) {
            run.stand_at(before.clone(), String::new()).await?;
        }
        let what = match run.stream.sync_mode {
            SyncMode::StrictCdc => {
                "a new generation begins with what happens from now on; changes that are not committed yet are left out"
            }
            _ => "all rows are read again",
        };
        run.context.events.event(&Event::Warning {
            stream: Some(run.stream.id.clone()),
            message: format!("{what}, and the history is kept: {reason}{}", renamed_in_files(&next, before)),
        });
        Ok((next.clone(), StreamPhase::Queued))
    };
    if let Some(reason) = &prepared.lost {
        return again(format!("changes are lost: {reason}")).await;
    }
    if let Some(reason) = anew {
        return again(reason).await;
    }
    let place = prepared.places.iter().find(|(id, _)| *id == run.stream.id).map(|(_, place)| place);
    let known = head.fingerprint.as_ref().map(|fingerprint| fingerprint.log.as_str()).unwrap_or_default();
    let log = run.context.driver.change_stream();
    // Whatever else is different: what the log says can only be followed without a break.
    let standing = match (log, place) {
        (Some(log), Some(place)) if !known.is_empty() => log.standing(known, place),
        _ => Standing::interrupted(),
    };
    let stream = as_known(&run.stream, before)?;
    let widened = match evolution(before, &stream, false)? {
        // Of what was not committed yet nothing else would tell.
        Evolution::NewGeneration(reason)
            if stream.sync_mode == SyncMode::StrictCdc
                && matches!(standing, Standing::Same | Standing::Grown) =>
        {
            run.context.events.event(&Event::Warning {
                stream: Some(stream.id.clone()),
                message: format!(
                    "a new generation begins where the last one ends, and the history is kept: {reason}{}",
                    renamed_in_files(&next, before)
                ),
            });
            *run = Arc::new(run.again(run.context.clone(), next.clone()));
            run.go_on_as(place.cloned().unwrap_or_default()).await.map_err(altered)?;
            return open(&run.head(), next);
        }
        Evolution::NewGeneration(reason) => return again(reason).await,
        Evolution::Widened => true,
        Evolution::Unchanged => false,
    };
    match &standing {
        Standing::Same | Standing::Grown => {}
        Standing::Broken(why) => return again(why.clone()).await,
        Standing::Shrunk => {
            if let Some(why) = stream.on_partition_change.part_gone(&stream.id)? {
                return again(why.to_owned()).await;
            }
        }
    }
    if standing != Standing::Same {
        run.stand_at(before.clone(), place.cloned().unwrap_or_default()).await?;
    }
    if widened && let Some(reason) = run.widen(&stream).await.map_err(altered)? {
        return again(reason).await;
    }
    open(&run.head(), Arc::new(stream))
}

/// A table that was altered after it was described, while its snapshot was taken, is described again.
fn altered(error: Error) -> Error {
    if error.kind() == ErrorKind::Schema { error.with_kind(ErrorKind::SessionLost) } else { error }
}

fn open(head: &StreamHead, stream: Arc<ConfiguredStream>) -> Result<(Arc<ConfiguredStream>, StreamPhase)> {
    let position = head.progress.position.clone();
    let position = position.ok_or_else(|| Error::bug("a stream of a log has no position"))?;
    Ok((stream, StreamPhase::Open { position, generation: head.generation }))
}

impl StreamRun {
    /// Commits which parts a generation has in the log now.
    async fn stand_at(&self, definition: Definition, place: String) -> Result<()> {
        let head = self.head();
        let fingerprint = Fingerprint { log: place, ..head.fingerprint.clone().unwrap_or_default() };
        let unit = self.unit(head.generation, "parts");
        let mut commit = StreamCommit::new(self.stream.target.clone(), head.generation, unit);
        commit.open = Some(OpenStep::redefined(definition, fingerprint, Default::default()));
        self.commit(commit, |_| Vec::new()).await
    }

    /// Commits that a generation has more columns from now on; or says why its rows must be read again.
    async fn widen(&self, stream: &ConfiguredStream) -> Result<Option<String>> {
        let head = self.head();
        let session = {
            let _reader = self.context.reader().await?;
            self.context.driver.begin_backfill(stream).await?
        };
        let fingerprint = session.fingerprint.clone();
        let snapshot = session.snapshot.clone();
        self.context.driver.end_backfill(session).await;
        // A new column whose default is computed for each row rewrites the table, unseen by the log.
        let known = head.fingerprint.as_ref();
        if known.is_none_or(|known| known.storage != fingerprint.storage) {
            return Ok(Some("columns were added, and existing rows may have values in them".to_owned()));
        }
        let unit = self.unit(head.generation, "widen");
        let mut commit = StreamCommit::new(stream.target.clone(), head.generation, unit);
        commit.open = Some(OpenStep::redefined(stream.definition(), fingerprint, snapshot));
        self.commit(commit, |_| Vec::new()).await?;
        Ok(None)
    }

    /// Goes on in a new generation, as what the table is now, which has the `place` in the log that was found unbroken. What
    /// the log has of the table as it was is read as far as that goes; else this reading ends with a change.
    async fn go_on_as(&self, place: String) -> Result<()> {
        let rewritten = self.history_as_now().await?;
        let mut session = {
            let _reader = self.context.reader().await?;
            self.context.driver.begin_backfill(&self.stream).await?
        };
        session.fingerprint.log = place;
        let outcome = self.begin_where_it_stands(&session, rewritten).await;
        self.context.driver.end_backfill(session).await;
        outcome
    }

    /// Joins the log without reading a row: only what happens from now on counts.
    async fn join_log(&self) -> Result<()> {
        let mut backoff = self.backoff();
        loop {
            match self.join_log_once().await {
                Ok(()) => return Ok(()),
                Err(error) => backoff.after(error, Retry::NewSession).await?,
            }
        }
    }

    async fn join_log_once(&self) -> Result<()> {
        // Before the log rests: it may take long.
        let rewritten = self.history_as_now().await?;
        let session = self.begin_session().await?;
        let outcome = self.backfill_nothing(&session, rewritten).await;
        self.context.driver.end_backfill(session).await;
        outcome
    }

    /// The history's files in the types of now, where it is kept and has others.
    async fn history_as_now(&self) -> Result<Vec<Rewritten>> {
        match self.history_is_older() {
            true => self.rewrite_history().await,
            false => Ok(Vec::new()),
        }
    }
}
