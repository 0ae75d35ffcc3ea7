//! The one place where anything is committed:
//!
//! ```text
//! destination commit (files + position)  →  state file  →  release at the source  →  notify
//! ```
//!
//! in this order, whatever is committed. A crash between two steps only repeats work.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use lakeward_core::{
    Boundary, CompactRequest, Destination, DriverInterface, Error, Position, Result, StreamCommit,
    StreamHead, StreamId, SyncMode, failpoint,
};
use lakeward_state::{GlobalState, State, StateStore, StreamState};
use tokio_util::task::TaskTracker;

use crate::events::{Event, EventSink};
use crate::pipeline;

/// Saving may take this share of the time: after a save of 1 ms the next one waits 20 ms.
const SAVE_PAUSE_FACTOR: u32 = 20;

/// The state in memory and when it was saved last.
struct Keeper {
    state: State,
    /// Where the log is followed, its global position of this moment: every record repeats it.
    global: Option<Position>,
    dirty: bool,
    saved: Instant,
    saving_took: Duration,
}

/// Commits units, keeps the state, releases positions, tells the outside.
pub(crate) struct CommitPath {
    destination: Arc<dyn Destination>,
    /// What is released at; absent where nothing is read.
    driver: Option<Arc<dyn DriverInterface>>,
    store: Arc<StateStore>,
    keeper: Mutex<Keeper>,
    /// Held while the state is saved: two saves at once would write one temporary file, and the older might win.
    saving: tokio::sync::Mutex<()>,
    events: Arc<dyn EventSink>,
    /// Commits that are under way: they finish even where their caller was dropped.
    under_way: TaskTracker,
}

/// A set of commits that belong together, and what follows them.
pub(crate) struct Step {
    /// Each atomic on its own.
    pub(crate) commits: Vec<StreamCommit>,
    /// The global position once all of them are safe: saved, then released at the source.
    pub(crate) release: Option<Boundary>,
}

/// How the state calls a stream, and its mode.
#[derive(Debug, Clone)]
pub(crate) struct StateEntry {
    pub(crate) source: StreamId,
    pub(crate) sync_mode: SyncMode,
}

impl CommitPath {
    pub(crate) fn new(
        destination: Arc<dyn Destination>,
        driver: Option<Arc<dyn DriverInterface>>,
        store: Arc<StateStore>,
        state: State,
        events: Arc<dyn EventSink>,
    ) -> Self {
        let keeper =
            Keeper { state, global: None, dirty: false, saved: Instant::now(), saving_took: Duration::ZERO };
        Self {
            destination,
            driver,
            store,
            keeper: Mutex::new(keeper),
            saving: tokio::sync::Mutex::default(),
            events,
            under_way: TaskTracker::new(),
        }
    }

    /// Commits one stream's unit and tells `notify` what came of it.
    ///
    /// The steps run on a task of their own: dropping the future this returns does not stop them.
    pub(crate) async fn commit(
        self: &Arc<Self>,
        names: &StateEntry,
        commit: StreamCommit,
        notify: impl FnOnce(&StreamHead) -> Vec<Event> + Send + 'static,
    ) -> Result<StreamHead> {
        let path = self.clone();
        let names = names.clone();
        self.to_its_end(async move {
            let mut commit = commit;
            commit.global = path.keeper().global.clone();
            let step = Step { commits: vec![commit], release: None };
            let mut heads = path.steps(step, std::slice::from_ref(&names)).await?;
            let head = heads.pop().ok_or_else(|| Error::bug("a commit has no result"))?;
            for event in notify(&head) {
                path.events.event(&event);
            }
            Ok(head)
        })
        .await
    }

    /// Commits what a checkpoint of the change stream holds for each stream, then saves and releases the position that
    /// they share; without one that stays where it is.
    ///
    /// As [`commit`](Self::commit) does, it goes on where its caller is dropped.
    pub(crate) async fn checkpoint(
        self: &Arc<Self>,
        units: Vec<(StateEntry, StreamCommit)>,
        shared: Option<Boundary>,
    ) -> Result<Vec<StreamHead>> {
        let path = self.clone();
        self.to_its_end(async move {
            let (names, mut commits): (Vec<_>, Vec<_>) = units.into_iter().unzip();
            let position = shared.as_ref().map(|boundary| boundary.position.clone());
            let global = position.or_else(|| path.keeper().global.clone());
            commits.iter_mut().for_each(|commit| commit.global.clone_from(&global));
            path.steps(Step { commits, release: shared }, &names).await
        })
        .await
    }

    /// Merges some small files of a stream, where there are any to merge; `None` where there are not. Positions
    /// stay what they are, so nothing is released.
    ///
    /// As [`commit`](Self::commit) does, it goes on where its caller is dropped.
    pub(crate) async fn merge_files(
        self: &Arc<Self>,
        names: &StateEntry,
        target: &StreamId,
        request: CompactRequest,
    ) -> Result<Option<StreamHead>> {
        let path = self.clone();
        let (names, target) = (names.clone(), target.clone());
        self.to_its_end(async move {
            let Some((merged, head)) = path.destination.compact(&target, request).await? else {
                return Ok(None);
            };
            path.record(&names, &head);
            path.settle(None, false).await?;
            path.events.event(&Event::FilesMerged {
                stream: names.source,
                merged: merged.merged,
                bytes_before: merged.bytes_before,
                files: merged.files,
                bytes: merged.bytes,
            });
            Ok(Some(head))
        })
        .await
    }

    /// Runs what must not be left half done: on a task of its own, which goes on where this future is dropped.
    async fn to_its_end<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        let task = self.under_way.spawn(work);
        task.await.map_err(|error| Error::bug("a commit task ended early").source(error))?
    }

    /// The global position that the state was left with.
    pub(crate) fn known_global(&self) -> Option<Position> {
        self.keeper().state.global.as_ref().map(|global| global.position.clone())
    }

    /// Saves an intent, or the position at which the log was made followable, before anything rests on it.
    pub(crate) async fn save_global(
        &self,
        position: &Position,
        streams: Vec<StreamId>,
        intent: bool,
    ) -> Result<()> {
        {
            let mut keeper = self.keeper();
            let same = keeper.state.global.take().filter(|known| known.position == *position);
            let as_of = same.and_then(|known| known.as_of);
            keeper.state.global = Some(GlobalState { position: position.clone(), as_of, streams });
            keeper.global = (!intent).then(|| position.clone());
            keeper.dirty = true;
        }
        self.save(true).await
    }

    fn keeper(&self) -> MutexGuard<'_, Keeper> {
        self.keeper.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The four steps. What is told afterwards is the caller's.
    async fn steps(&self, step: Step, names: &[StateEntry]) -> Result<Vec<StreamHead>> {
        let mut heads = Vec::with_capacity(step.commits.len());
        let mut failed = None;
        for (result, names) in self.destination.commit(step.commits).await.into_iter().zip(names) {
            match result {
                Ok(head) => {
                    self.record(names, &head);
                    heads.push(head);
                }
                // What the other streams committed stands, and the state says so.
                Err(error) => failed = failed.or(Some(error.at("stream", &names.source))),
            }
        }
        let now = step.release.is_some();
        // Where one of them failed, the position that they share stays where it was.
        let release = step.release.filter(|_| failed.is_none());
        self.settle(release, now).await?;
        failed.map_or(Ok(heads), Err)
    }

    /// What follows every commit at the destination: the state, saved as [`save`](Self::save) does, then the release.
    async fn settle(&self, release: Option<Boundary>, now: bool) -> Result<()> {
        failpoint::hit("engine-committed")?;
        if let Some(Boundary { position, as_of, .. }) = &release {
            let mut keeper = self.keeper();
            keeper.global = Some(position.clone());
            if let Some(global) = &mut keeper.state.global {
                global.position = position.clone();
                global.as_of = *as_of;
            }
            keeper.dirty = true;
        }
        self.save(now).await?;
        failpoint::hit("engine-state-saved")?;
        if let Some(Boundary { position, .. }) = &release
            && let Some(log) = self.driver.as_ref().and_then(|driver| driver.change_stream())
        {
            log.release(position).await?;
            failpoint::hit("engine-released")?;
        }
        Ok(())
    }

    /// Takes a stream's head, as the destination has it, into the state.
    pub(crate) fn record(&self, names: &StateEntry, head: &StreamHead) {
        let (chunks, chunks_done) = match &head.open {
            Some(open) => (
                open.plan.iter().filter(|chunk| !open.done.contains_key(&chunk.number)).cloned().collect(),
                u32::try_from(open.done.len()).unwrap_or(u32::MAX),
            ),
            None => (Vec::new(), 0),
        };
        let cursor = head.progress.cursor.as_ref().map(|cursor| {
            let column_type = head
                .definition
                .iter()
                .flat_map(|definition| &definition.columns)
                .find(|column| column.name == cursor.column)
                .and_then(|column| column.column_type.parse().ok())
                .unwrap_or(lakeward_core::ColumnType::Text);
            (cursor.column.clone(), crate::cursor::format_cursor_value(&cursor.value, &column_type))
        });
        let stream = StreamState {
            sync_mode: head.definition.as_ref().map_or(names.sync_mode, |definition| definition.sync_mode),
            generation: head.generation,
            position: head.progress.position.clone(),
            commit: head.commit,
            chunks,
            chunks_done,
            rows_synced: head.rows,
            pass: head.progress.pass,
            cursor,
            window: head.window.as_ref().map(|window| window.path.clone()),
        };
        let mut keeper = self.keeper();
        // Two commits of one stream may end in either order here; the later one says how it stands.
        let later = keeper.state.streams.get(&names.source).is_none_or(|known| known.commit <= stream.commit);
        if later {
            keeper.state.streams.insert(names.source.clone(), stream);
            keeper.dirty = true;
        }
    }

    /// Whether the destination has all commits that the state knows of a stream.
    ///
    /// # Errors
    /// `Config` where they are there under another name, `State` where some are missing.
    pub(crate) fn refuse_missing_commits(
        &self,
        source: &StreamId,
        target: &StreamId,
        heads: &BTreeMap<StreamId, StreamHead>,
    ) -> Result<()> {
        let known = self.keeper().state.streams.get(source).map_or(0, |stream| stream.commit);
        pipeline::refuse_missing_commits(known, source, target, heads)
    }

    /// Saves the state: at once where `now`, else as often as its share of the time allows.
    async fn save(&self, now: bool) -> Result<()> {
        let _saving = match self.saving.try_lock() {
            Ok(saving) => saving,
            Err(_) if now => self.saving.lock().await,
            Err(_) => return Ok(()),
        };
        let snapshot = {
            let mut keeper = self.keeper();
            let due = keeper.saved.elapsed() >= keeper.saving_took * SAVE_PAUSE_FACTOR;
            if !keeper.dirty || !(now || due) {
                return Ok(());
            }
            // A save that fails ends the run: nothing has to know that it is still to be done.
            keeper.dirty = false;
            keeper.state.clone()
        };
        let store = self.store.clone();
        let began = Instant::now();
        tokio::task::spawn_blocking(move || store.save(&snapshot))
            .await
            .map_err(|error| Error::bug("saving the state ended early").source(error))??;
        let mut keeper = self.keeper();
        keeper.saved = Instant::now();
        keeper.saving_took = began.elapsed();
        Ok(())
    }

    /// Waits for commits that are under way, then saves what was not saved yet. The end of a run.
    pub(crate) async fn finish(&self) -> Result<()> {
        self.under_way.close();
        self.under_way.wait().await;
        self.save(true).await
    }
}
