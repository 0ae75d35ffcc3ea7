//! [`AbstractDriver`]: one source, one destination, one state, and the operations on them.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::sync::Arc;

use futures::StreamExt;
use lakeward_core::{
    Catalog, Column, ColumnType, ConfiguredStream, Destination, DriverInterface, Error, ErrorKind,
    MemoryBudget, Result, Retry, Run, Stream, StreamHead, StreamId, SyncMode,
};
use lakeward_state::StateStore;
use tokio::sync::Semaphore;

use crate::change_stream::{Held, LogRun, let_go};
use crate::commit::CommitPath;
use crate::events::{Event, EventSink, Summary};
use crate::options::Options;
use crate::pipeline;
use crate::retry::Backoff;
use crate::stream_run::{RunContext, StreamRun};
use crate::writer_pool::WriterPool;

/// What the selected streams are.
pub struct Resolved {
    /// Those that can be replicated, each as it is configured and as the source offers it.
    pub streams: Vec<(Arc<ConfiguredStream>, Stream)>,
    /// Those that the source does not offer, or not as they are configured, each with what is to be said of it.
    pub unfit: Vec<(StreamId, Error)>,
}

/// Orchestrates discover, backfill, incremental sync and change streams over a driver.
pub struct AbstractDriver {
    pub(crate) driver: Arc<dyn DriverInterface>,
    pub(crate) destination: Arc<dyn Destination>,
    pub(crate) store: Arc<StateStore>,
    pub(crate) options: Options,
    pub(crate) events: Arc<dyn EventSink>,
}

impl AbstractDriver {
    /// Joins a source and a destination by a state that this process holds the lock of.
    pub fn new(
        driver: Arc<dyn DriverInterface>,
        destination: Arc<dyn Destination>,
        store: StateStore,
        options: Options,
        events: Arc<dyn EventSink>,
    ) -> Self {
        Self { driver, destination, store: Arc::new(store), options, events }
    }

    /// Finds the source's streams and merges them into an earlier catalog. Says what changed, a line each.
    pub async fn discover(
        driver: &dyn DriverInterface,
        earlier: Option<Catalog>,
        select_new: bool,
    ) -> Result<(Catalog, Vec<String>)> {
        let names = driver.stream_names().await?;
        let streams = driver.produce_schema(&names).await?;
        Ok(Catalog::merge(earlier, &streams, select_new))
    }

    /// The selected streams of a catalog, checked against what the source and the destination offer now.
    ///
    /// # Errors
    /// `Config`, naming stream, field and remedy.
    pub async fn resolve(
        driver: &dyn DriverInterface,
        destination: Option<&dyn Destination>,
        catalog: &Catalog,
    ) -> Result<Vec<(Arc<ConfiguredStream>, Stream)>> {
        let Resolved { streams, unfit } = Self::resolve_offered(driver, destination, catalog).await?;
        unfit.into_iter().next().map_or(Ok(streams), |(_, error)| Err(error))
    }

    /// The same, with the streams apart that the source does not offer as they are configured.
    ///
    /// # Errors
    /// As of [`resolve`](Self::resolve), but for what is about one stream alone.
    pub async fn resolve_offered(
        driver: &dyn DriverInterface,
        destination: Option<&dyn Destination>,
        catalog: &Catalog,
    ) -> Result<Resolved> {
        let selections = catalog.selections()?;
        let ids: Vec<StreamId> = selections.iter().map(|(id, _)| id.clone()).collect();
        let mut offered: BTreeMap<StreamId, Stream> = driver
            .produce_schema(&ids)
            .await?
            .into_iter()
            .map(|stream| (stream.id.clone(), stream))
            .collect();
        let mut targets: BTreeMap<StreamId, StreamId> = BTreeMap::new();
        let mut resolved = Resolved { streams: Vec::with_capacity(selections.len()), unfit: Vec::new() };
        for (id, selection) in &selections {
            let Some(stream) = offered.remove(id) else {
                resolved.unfit.push((id.clone(), not_offered(catalog, id)));
                continue;
            };
            if selection.append_mode == Some(false)
                && destination.is_some_and(|destination| !destination.capabilities().upsert)
            {
                return Err(Error::new(ErrorKind::Config, "the destination keeps every version of a row: it cannot upsert")
                    .at("stream", id)
                    .hint("set append_mode to true; `lakeward view` prints a query for the last version of each key"));
            }
            let accepts = |column: &Column, target: &ColumnType| driver.accepts_override(column, target);
            let configured = match ConfiguredStream::resolve(selection, &stream, accepts) {
                Ok(configured) => configured,
                Err(error) => {
                    resolved.unfit.push((id.clone(), error));
                    continue;
                }
            };
            if let Some(other) = targets.insert(configured.target.clone(), id.clone()) {
                return Err(Error::new(ErrorKind::Config, "two streams have one name at the destination")
                    .at("stream", id)
                    .at("and stream", other)
                    .hint("give one of them another destination_table"));
            }
            resolved.streams.push((Arc::new(configured), stream));
        }
        Ok(resolved)
    }

    /// Runs every selected stream in its mode.
    ///
    /// A stream that fails does not stop the others; what it had committed stands. Where the run was cancelled,
    /// what was committing has finished and the state is saved.
    ///
    /// # Errors
    /// What concerns the run as a whole; failures of single streams are in the summary.
    pub async fn read(&self, catalog: &Catalog) -> Result<Summary> {
        let (driver, destination) = (self.driver.as_ref(), Some(self.destination.as_ref()));
        let Resolved { streams, unfit } =
            self.insist(|| Self::resolve_offered(driver, destination, catalog)).await?;
        // The state is read here only where it is asked: it may be large.
        let replicated = if unfit.is_empty() { BTreeMap::new() } else { self.replicated()? };
        let mut summary = Summary::default();
        let mut remaining = catalog.clone();
        let mut absent = BTreeSet::new();
        for (id, error) in unfit {
            // One that was never replicated is a mistake in streams.json: nothing is begun. One that was is its own failure.
            let Some(mode) = replicated.get(&id).filter(|_| !streams.is_empty()) else { return Err(error) };
            if mode.follows_log() {
                absent.insert(id.clone());
            }
            remaining.deselect(&id);
            summary.failures.push((id, error));
        }
        if streams.is_empty() {
            return Err(nothing_selected());
        }
        if self.options.follow && !streams.iter().any(|(stream, _)| stream.sync_mode.follows_log()) {
            return Err(Error::new(ErrorKind::Config, "no selected stream has a log that could be followed")
                .hint("leave --follow out, and run sync as often as rows are to arrive"));
        }
        let targets: Vec<StreamId> = streams.iter().map(|(stream, _)| stream.target.clone()).collect();
        let joining = || pipeline::join(&self.driver, &self.destination, &self.store, &targets);
        let (state, run) = self.insist(joining).await?;
        self.events.event(&Event::RunStarted {
            run: run.id.clone(),
            pipeline: run.pipeline.clone(),
            streams: streams.len(),
        });
        let mut heads: BTreeMap<_, _> = self.destination.heads().await?.into_iter().collect();
        let readers = self.options.reader_count(self.driver.as_ref());
        let budget = MemoryBudget::new(self.options.budget_bytes());
        let commits = Arc::new(CommitPath::new(
            self.destination.clone(),
            Some(self.driver.clone()),
            self.store.clone(),
            state,
            self.events.clone(),
        ));
        let mut fit = Vec::with_capacity(streams.len());
        let mut held = Held::default();
        for (stream, offered) in streams {
            // Before anything is begun for it: others that share its log go on without it.
            match commits.refuse_missing_commits(&stream.id, &stream.target, &heads) {
                Ok(()) => fit.push((stream, offered)),
                Err(error) => {
                    remaining.deselect(&stream.id);
                    summary.failures.push((stream.id.clone(), error));
                    if stream.sync_mode.follows_log() {
                        held.streams.push(stream);
                    }
                }
            }
        }
        summary.failures.iter().for_each(|(id, error)| self.tell_failure(id, error));
        let targets: Vec<StreamId> = fit.iter().map(|(stream, _)| stream.target.clone()).collect();
        self.destination.make_room(&targets, &run).await?;
        let (followers, others): (Vec<_>, Vec<_>) =
            fit.into_iter().partition(|(stream, _)| stream.sync_mode.follows_log());
        let mut held_up = None;
        if !followers.is_empty() {
            held.absent = absent.iter().map(|id| place_of(&heads, &run, id)).collect();
            let followed = followers.iter().map(|(stream, _)| stream).chain(&held.streams);
            let kept = followed.map(|stream| stream.id.clone()).chain(absent.iter().cloned()).collect();
            held_up = let_go(self.destination.as_ref(), &commits, &run, &mut heads, &kept).await.err();
        }
        let context = Arc::new(RunContext {
            driver: self.driver.clone(),
            destination: self.destination.clone(),
            commits: commits.clone(),
            events: self.events.clone(),
            heads_found: Arc::new(heads),
            options: self.options.clone(),
            run,
            // One more than there are readers: a unit is finished and committed while the next one is read.
            pool: WriterPool::new(self.destination.clone(), budget.clone(), readers + 1),
            budget,
            readers: Arc::new(Semaphore::new(readers)),
            reader_count: readers,
        });
        let alone = others.into_iter().map(|(stream, offered)| {
            let id = stream.id.clone();
            let run = StreamRun::new(context.clone(), stream, offered.estimated_rows);
            async move { vec![(id, run.sync().await)] }
        });
        let alone = futures::stream::iter(alone).buffer_unordered(readers);
        let together = match (held_up, followers.is_empty()) {
            (None, true) => {
                if absent.is_empty() && held.streams.is_empty() {
                    self.warn_of_idle_log(&commits);
                }
                None
            }
            (None, false) => Some(LogRun::new(context.clone(), remaining, followers, held)?),
            // The log may not move on while a stream that left it still has a place in it.
            (Some(error), _) => {
                let why = "the log is not read, because a stream that left it could not be let go of";
                for (stream, _) in followers {
                    let failure = Error::new(error.kind(), why)
                        .at("stream", &stream.id)
                        .hint(error.remedy().unwrap_or("remove the cause, and run again"))
                        .source(format!("{error:?}"));
                    self.tell_failure(&stream.id, &failure);
                    summary.failures.push((stream.id.clone(), failure));
                }
                None
            }
        };
        let together = futures::stream::iter(together).then(|log| log.run());
        let mut running = pin!(futures::stream::select(alone, together));
        while let Some(outcomes) = running.next().await {
            for (id, outcome) in outcomes {
                match outcome {
                    Ok(stream) => summary.streams.push(stream),
                    Err(error) => {
                        self.tell_failure(&id, &error);
                        summary.failures.push((id, error));
                    }
                }
            }
        }
        commits.finish().await?;
        Ok(summary)
    }

    /// Takes a step that all streams need, again where the source does not answer.
    async fn insist<T, F: Future<Output = Result<T>>>(&self, mut step: impl FnMut() -> F) -> Result<T> {
        let Options { cancel, .. } = &self.options;
        let mut backoff = Backoff::new(None, self.events.as_ref(), cancel, self.driver.max_retries());
        loop {
            match step().await {
                Ok(taken) => return Ok(taken),
                Err(error) => backoff.after(error, Retry::Again).await?,
            }
        }
    }

    /// The streams that the state knows, and their modes.
    fn replicated(&self) -> Result<BTreeMap<StreamId, SyncMode>> {
        let streams = self.store.load()?.map(|state| state.streams).unwrap_or_default();
        Ok(streams.into_iter().map(|(id, stream)| (id, stream.sync_mode)).collect())
    }

    fn tell_failure(&self, stream: &StreamId, error: &Error) {
        if error.kind() != ErrorKind::Cancelled {
            self.events.event(&Event::StreamFailed {
                stream: stream.clone(),
                error: format!("{error:?}"),
                hint: error.remedy().map(str::to_owned),
            });
        }
    }

    /// A log that nobody reads any more piles up at the source.
    fn warn_of_idle_log(&self, commits: &CommitPath) {
        if commits.known_global().is_some() {
            self.events.event(&Event::Warning {
                stream: None,
                message:
                    "no stream follows the source's log any more, but the source keeps it for this pipeline: \
                          `lakeward clear --log` lets go of it"
                        .to_owned(),
            });
        }
    }

    /// Removes streams from the destination and from the state. Where none that follows the source's log is left,
    /// the source may forget it too: it is asked before anything is removed. Says what was kept at the source and why,
    /// a line each.
    pub async fn clear_state(&self, streams: &[(StreamId, StreamId)]) -> Result<Vec<String>> {
        let mut state = self.store.load()?;
        let mut lets_go = false;
        if let Some(state) = &state {
            pipeline::same_destination(state, self.store.path(), &self.destination.identity().await?)?;
            let stays = |id: &StreamId| !streams.iter().any(|(source, _)| source == id);
            let followed =
                state.streams.iter().any(|(id, stream)| stream.sync_mode.follows_log() && stays(id));
            lets_go = state.global.is_some() && !followed;
            if lets_go {
                let source = self.driver.identity().await.map_err(|error| {
                    error.at("nothing was cleared", "the source has to let go of its log, too")
                })?;
                pipeline::same_source(&state.pipeline.source, &source)?;
            }
        }
        for (source, target) in streams {
            self.destination.clear(target).await.map_err(|error| error.at("stream", source))?;
            if let Some(state) = &mut state
                && state.streams.remove(source).is_some()
            {
                self.store.save(state)?;
            }
        }
        if !lets_go {
            return Ok(Vec::new());
        }
        Ok(self.clear_log().await?.unwrap_or_default())
    }

    /// Lets go of the source's log: what was made at the source for this pipeline is removed. Streams that follow
    /// it are read anew when they are synced again. Says what was kept at the source and why, a line each; `None` where
    /// nothing was made.
    ///
    /// # Errors
    /// `State` where there is no state: nothing else says what was made.
    pub async fn clear_log(&self) -> Result<Option<Vec<String>>> {
        let mut state = self.store.load()?.ok_or_else(|| {
            Error::new(ErrorKind::State, "there is no state, so nothing says what was made at the source")
                .at("file", self.store.path().display())
                .hint(
                    "--state names another file; where the state is lost, `lakeward state rebuild` makes it anew from the \
                     destination; where that is gone too, look at the source for a slot and publications of the name \
                     lakeward_…, and drop them",
                )
        })?;
        let (Some(global), Some(log)) = (&state.global, self.driver.change_stream()) else {
            return Ok(None);
        };
        pipeline::same_source(&state.pipeline.source, &self.driver.identity().await?)?;
        let kept = log.clear(&global.position).await?;
        state.global = None;
        self.store.save(&state)?;
        Ok(Some(kept))
    }
}

/// Where a stream of this pipeline stands in the log by its own commits; nothing where that is not known.
fn place_of(heads: &BTreeMap<StreamId, StreamHead>, run: &Run, id: &StreamId) -> String {
    let is_its = |head: &&StreamHead| {
        let source = head.definition.as_ref().map(|definition| &definition.source_stream);
        head.pipeline == run.pipeline
            && source.is_some_and(|[namespace, name]| *id == StreamId::new(namespace, name))
    };
    let head = heads.values().find(is_its);
    head.and_then(|head| Some(head.fingerprint.as_ref()?.log.clone())).unwrap_or_default()
}

pub(crate) fn nothing_selected() -> Error {
    Error::new(ErrorKind::Config, "no stream is selected")
        .hint("name streams under selected_streams in streams.json; `lakeward discover` writes the file")
}

fn not_offered(catalog: &Catalog, id: &StreamId) -> Error {
    let error =
        Error::new(ErrorKind::Config, "the source has no such stream, or may not show it").at("stream", id);
    match catalog.nearest_stream(&id.to_string()).filter(|near| *near != id.to_string()) {
        Some(near) => error.hint(format!("did you mean {near}? `lakeward discover` lists all streams")),
        None => error.hint(
            "run `lakeward discover` to see what changed; the role needs USAGE on the schema and SELECT on the table",
        ),
    }
}
