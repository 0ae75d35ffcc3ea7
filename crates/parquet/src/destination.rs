//! The destination: holds streams, and joins writer, log and view to the contract.

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use lakeward_core::{
    Capabilities, CommittedRows, CompactRequest, Compacted, Destination, DestinationIdentity, Error,
    ErrorKind, Finding, MemoryBudget, Pipeline, Result, Rewritten, Run, Schema, StreamCommit, StreamHead,
    StreamId, UnitSpec, VisibleFile, WindowRef, Writer, parse_config,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};
use tokio::sync::{Mutex as AsyncMutex, Semaphore};
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

use crate::commit::Held;
use crate::compact::{self, Choice, full};
use crate::config::{ParquetConfig, Settings};
use crate::durable::{self, StreamLock, ensure_dir, names, sync_dir, walk, write_synced};
use crate::error::io_error;
use crate::fold::{Fold, LiveFile};
use crate::layout::{Layout, StreamPaths, hex, is_ours};
use crate::merge::{Merge, Merged, Places};
use crate::view::View;
use crate::writer::ParquetWriter;
use crate::{check, log, read};

/// The connector's kind.
pub const KIND: &str = "parquet";

const IDENTITY_VERSION: u32 = 1;
/// Streams whose commits touch the disk at once.
const CONCURRENT_COMMITS: usize = 8;
/// How often `files` reads the log anew when commits come in between.
const READ_ATTEMPTS: usize = 10;

/// The JSON Schema of the config.
pub fn spec() -> Value {
    schemars::schema_for!(ParquetConfig).to_value()
}

/// Parquet files in a directory. Streams are addressed by their names at the destination
/// ([`ConfiguredStream::target`](lakeward_core::ConfiguredStream::target)).
#[derive(Debug)]
pub struct ParquetDestination {
    shared: Arc<Shared>,
    streams: Mutex<HashMap<StreamId, Arc<Slot>>>,
    commits: Arc<Semaphore>,
}

#[derive(Debug)]
struct Shared {
    settings: Settings,
    layout: Layout,
}

/// A stream that this process prepared.
#[derive(Debug, Default)]
struct Slot {
    /// Commits of one stream wait for each other here.
    held: Arc<AsyncMutex<Option<Held>>>,
    /// Where its writers put their files; apart, so that opening one does not wait for a commit.
    staging: Mutex<Option<PathBuf>>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct IdentityFile {
    version: u32,
    id: String,
}

impl ParquetDestination {
    /// A destination from its config.
    ///
    /// # Errors
    /// `Config`, naming the field and what it takes.
    pub fn from_config(config: Value) -> Result<Self> {
        let config: ParquetConfig = parse_config(config, &spec(), "the destination's config")?;
        let settings = config.validate()?;
        Ok(Self {
            shared: Arc::new(Shared { layout: Layout::new(settings.root.clone()), settings }),
            streams: Mutex::default(),
            commits: Arc::new(Semaphore::new(CONCURRENT_COMMITS)),
        })
    }

    fn slot(&self, stream: &StreamId) -> Arc<Slot> {
        let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        streams.entry(stream.clone()).or_default().clone()
    }

    /// Chooses, merges and commits. Commits of the stream wait only while it chooses and while it commits.
    async fn merge_once(
        &self,
        slot: Arc<Slot>,
        stream: &StreamId,
        request: CompactRequest,
    ) -> Result<Option<(Compacted, StreamHead)>> {
        let held = slot.held.clone().lock_owned().await;
        let (id, asked) = (stream.clone(), request.clone());
        let chosen = self.blocking(move |shared| choose(shared, held.as_ref(), &id, &asked)).await?;
        let Some((choice, places)) = chosen else { return Ok(None) };
        let tried = choice.clone();
        let merged = self.blocking(move |shared| {
            let CompactRequest { budget, cancel, .. } = &request;
            let merge = Merge::survey(tried, places, &Schema::default(), budget, cancel)?;
            let memory = budget.try_reserve(merge.memory());
            memory.map(|memory| merge.run(&shared.settings, memory, cancel)).transpose()
        });
        let merged = match merged.await {
            Ok(Some(merged)) => merged,
            Ok(None) => return Ok(None),
            Err(error) => {
                // What is no longer part of the stream need not be there.
                let held = slot.held.lock().await;
                let stands = held.as_ref().is_some_and(|held| choice.still_stands(&held.fold));
                return if stands { Err(error) } else { Ok(None) };
            }
        };
        let (permits, stream) = (self.commits.clone(), stream.clone());
        // Spawned, so that a commit that began ends even if nobody waits for it any more.
        let committing = tokio::spawn(async move {
            let _permit = permits.acquire_owned().await;
            let mut held = slot.held.clone().lock_owned().await;
            spawn_blocking(move || commit_merge(&mut held, &stream, &choice, merged)).await
        });
        let committed = committing.await.map_err(|e| Error::bug("a merge ended unexpectedly").source(e))?;
        joined(committed)
    }

    /// Rewrites those of the files that have a narrower column, one by one.
    async fn rewrite_narrow(
        &self,
        files: Vec<(String, Choice)>,
        places: Places,
        columns: &Schema,
        budget: &MemoryBudget,
        cancel: &CancellationToken,
    ) -> Result<Vec<Rewritten>> {
        let mut rewritten = Vec::new();
        for (replaces, choice) in files {
            let (places, columns) = (places.clone(), columns.clone());
            let (of, stop) = (budget.clone(), cancel.clone());
            let survey = move |_: &Shared| Merge::survey(choice, places, &columns, &of, &stop);
            let merge = self.blocking(survey).await?;
            if !merge.rewrites() {
                continue;
            }
            let needed = merge.memory().min(budget.sure());
            let memory = cancel.run_until_cancelled(budget.reserve(needed)).await;
            let (memory, stop) = (memory.ok_or_else(Error::cancelled)??, cancel.clone());
            let merged = self.blocking(move |shared| merge.run(&shared.settings, memory, &stop)).await?;
            rewritten.push((replaces, merged));
        }
        let kept = |(replaces, merged): (String, Merged)| Rewritten { replaces, file: merged.into_file() };
        Ok(rewritten.into_iter().map(kept).collect())
    }

    /// Runs work on the file system off the async threads. Once begun it ends, whoever stops waiting.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Shared) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let shared = self.shared.clone();
        joined(spawn_blocking(move || work(&shared)).await)
    }
}

fn joined<T>(outcome: std::result::Result<Result<T>, tokio::task::JoinError>) -> Result<T> {
    outcome.map_err(|e| Error::bug("work on the destination ended unexpectedly").source(e))?
}

fn not_prepared(stream: &StreamId) -> Error {
    Error::bug("a stream was not prepared").at("stream", stream)
}

#[async_trait]
impl Destination for ParquetDestination {
    fn kind(&self) -> &'static str {
        KIND
    }

    fn spec(&self) -> Value {
        spec()
    }

    async fn check(&self) -> Result<Vec<Finding>> {
        self.blocking(|shared| Ok(check::findings(shared.layout.root()))).await
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { append: true, upsert: false, swap: true, hidden_log: true }
    }

    async fn identity(&self) -> Result<DestinationIdentity> {
        self.blocking(Shared::identity).await
    }

    async fn make_room(&self, streams: &[StreamId], run: &Run) -> Result<()> {
        let (streams, run) = (streams.to_vec(), run.id.clone());
        self.blocking(move |shared| {
            let mut dirs = Vec::with_capacity(3 * streams.len());
            for stream in &streams {
                let paths = shared.layout.stream(stream)?;
                // One that is there may be another pipeline's.
                if !paths.meta.exists() {
                    dirs.extend([paths.commits(), paths.staging_of(&run), paths.visible]);
                }
            }
            durable::ensure_dirs(&dirs)
        })
        .await
    }

    async fn prepare(&self, stream: &StreamId, run: &Run) -> Result<StreamHead> {
        let slot = self.slot(stream);
        let mut guard = slot.held.clone().lock_owned().await;
        let (id, run) = (stream.clone(), run.clone());
        let held = self
            .blocking(move |shared| {
                shared.identity()?;
                Held::take_over(shared.layout.stream(&id)?, &id, &run)
            })
            .await
            .map_err(|error| error.at("stream", stream))?;
        let head = held.fold.head();
        *slot.staging.lock().unwrap_or_else(PoisonError::into_inner) = Some(held.staging.clone());
        *guard = Some(held);
        Ok(head)
    }

    async fn still_held(&self, streams: &[StreamId]) -> Result<()> {
        let held: Vec<_> =
            streams.iter().map(|stream| (stream.clone(), self.slot(stream).held.clone())).collect();
        self.blocking(move |_| {
            held.iter().try_for_each(|(stream, held)| match held.try_lock().as_deref() {
                Ok(Some(held)) => held.still_held().map_err(|error| error.at("stream", stream)),
                // One that is committing finds out by itself.
                Ok(None) | Err(_) => Ok(()),
            })
        })
        .await
    }

    async fn writer(&self, unit: UnitSpec) -> Result<Box<dyn Writer>> {
        let target = &unit.stream.target;
        let slot = self.slot(target);
        let staging = slot.staging.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let staging = staging.ok_or_else(|| not_prepared(target))?;
        Ok(Box::new(ParquetWriter::open(unit, &self.shared.settings, staging)?))
    }

    async fn commit(&self, commits: Vec<StreamCommit>) -> Vec<Result<StreamHead>> {
        let mut results: Vec<Option<Result<StreamHead>>> = commits.iter().map(|_| None).collect();
        let mut by_stream: Vec<(StreamId, Vec<(usize, StreamCommit)>)> = Vec::new();
        for (index, commit) in commits.into_iter().enumerate() {
            match by_stream.iter_mut().find(|(stream, _)| *stream == commit.stream) {
                Some((_, list)) => list.push((index, commit)),
                None => by_stream.push((commit.stream.clone(), vec![(index, commit)])),
            }
        }
        // Spawned, so that a commit that began ends even if nobody waits for it any more.
        let tasks: Vec<_> = by_stream
            .into_iter()
            .map(|(stream, list)| {
                let indices: Vec<usize> = list.iter().map(|(index, _)| *index).collect();
                let (slot, permits) = (self.slot(&stream), self.commits.clone());
                let task = tokio::spawn(async move {
                    let _permit = permits.acquire_owned().await;
                    let mut held = slot.held.clone().lock_owned().await;
                    spawn_blocking(move || {
                        list.into_iter()
                            .map(|(index, commit)| (index, commit_one(&mut held, &commit)))
                            .collect::<Vec<_>>()
                    })
                    .await
                });
                (indices, task)
            })
            .collect();
        for (indices, task) in tasks {
            match task.await {
                Ok(Ok(outcomes)) => {
                    for (index, outcome) in outcomes {
                        results[index] = Some(outcome);
                    }
                }
                // What became of these commits is not known; the slots stay empty for the error below.
                Ok(Err(_)) | Err(_) => debug_assert!(indices.iter().all(|index| results[*index].is_none())),
            }
        }
        results
            .into_iter()
            .map(|result| result.unwrap_or_else(|| Err(Error::bug("a commit ended unexpectedly"))))
            .collect()
    }

    async fn compact(
        &self,
        stream: &StreamId,
        request: CompactRequest,
    ) -> Result<Option<(Compacted, StreamHead)>> {
        let slot = self.slot(stream);
        let outcome = self.merge_once(slot, stream, request).await;
        outcome.map_err(|error| error.at("stream", stream))
    }

    async fn rewrite(
        &self,
        stream: &StreamId,
        columns: &Schema,
        budget: &MemoryBudget,
        cancel: &CancellationToken,
    ) -> Result<Vec<Rewritten>> {
        let slot = self.slot(stream);
        let (files, places) = {
            let held = slot.held.lock().await;
            let held = held.as_ref().ok_or_else(|| not_prepared(stream))?;
            (compact::each_visible_file(&held.fold), Places::of(held, stream))
        };
        let rewritten = self.rewrite_narrow(files, places, columns, budget, cancel).await;
        rewritten.map_err(|error| error.at("stream", stream))
    }

    async fn head(&self, stream: &StreamId) -> Result<Option<StreamHead>> {
        let id = stream.clone();
        let fold = self.blocking(move |shared| log::read(&shared.layout.stream(&id)?)).await;
        let fold = fold.map_err(|error| error.at("stream", stream))?;
        Ok((fold.number > 0).then(|| fold.head()))
    }

    async fn heads(&self) -> Result<Vec<(StreamId, StreamHead)>> {
        let folds = self.blocking(Shared::folds).await?;
        Ok(folds.into_iter().map(|fold| (stream_id(&fold), fold.head())).collect())
    }

    async fn pipeline(&self) -> Result<Option<Pipeline>> {
        self.blocking(|shared| {
            let last = shared.folds()?.into_iter().max_by(|a, b| (&a.run, &a.at).cmp(&(&b.run, &b.at)));
            let Some(Fold { pipeline, source: Some(source), .. }) = last else { return Ok(None) };
            Ok(Some(Pipeline { id: pipeline, source, destination: shared.identity()? }))
        })
        .await
    }

    async fn window(&self, stream: &StreamId, window: &WindowRef) -> Result<Vec<u8>> {
        let (stream, window) = (stream.clone(), window.clone());
        self.blocking(move |shared| {
            let path = shared.layout.stream(&stream)?.meta.join(&window.path);
            let bytes = fs::read(&path).map_err(|e| io_error("read a window", &path, e))?;
            if hex(&Sha256::digest(&bytes)) != window.sha256 {
                return Err(Error::new(ErrorKind::Destination, "a window is damaged: its hash differs")
                    .at("path", path.display())
                    .hint("restore the file from a backup, or clear the stream with `lakeward clear`"));
            }
            Ok(bytes)
        })
        .await
    }

    async fn files(&self, stream: &StreamId) -> Result<Vec<VisibleFile>> {
        let stream = stream.clone();
        self.blocking(move |shared| shared.files(&stream)).await
    }

    async fn rows(&self, stream: &StreamId, columns: &Schema) -> Result<CommittedRows> {
        let (id, columns) = (stream.clone(), columns.clone());
        let rows = self.blocking(move |shared| {
            let paths = shared.layout.stream(&id)?;
            read::rows(&paths, &log::read(&paths)?, &columns)
        });
        rows.await.map_err(|error| error.at("stream", stream))
    }

    async fn view(&self, stream: &StreamId, engine: &str) -> Result<String> {
        let (stream, engine) = (stream.clone(), engine.to_owned());
        self.blocking(move |shared| {
            let paths = shared.layout.stream(&stream)?;
            let fold = log::read(&paths)?;
            let Some(definition) = fold.shown() else {
                return Err(Error::new(ErrorKind::Config, "nothing of this stream is visible yet")
                    .at("stream", &stream)
                    .hint("finish its backfill with `lakeward sync`"));
            };
            let directory = fs::canonicalize(&paths.visible)
                .map_err(|e| io_error("find a directory", &paths.visible, e))?;
            View::new(&directory, definition).query(&engine)
        })
        .await
    }

    async fn clear(&self, stream: &StreamId) -> Result<()> {
        let slot = self.slot(stream);
        let mut held = slot.held.clone().lock_owned().await;
        let stream = stream.clone();
        self.blocking(move |shared| shared.clear(&stream)).await?;
        *held = None;
        *slot.staging.lock().unwrap_or_else(PoisonError::into_inner) = None;
        Ok(())
    }
}

fn commit_one(held: &mut Option<Held>, commit: &StreamCommit) -> Result<StreamHead> {
    let held = held.as_mut().ok_or_else(|| not_prepared(&commit.stream))?;
    held.commit(commit).map_err(|error| error.at("unit", &commit.unit).at("stream", &commit.stream))
}

/// What is to be merged, and where; `None` where there is nothing.
fn choose(
    shared: &Shared,
    held: Option<&Held>,
    stream: &StreamId,
    request: &CompactRequest,
) -> Result<Option<(Choice, Places)>> {
    let held = held.ok_or_else(|| not_prepared(stream))?;
    if held.in_doubt.is_some() {
        // Whoever commits next is told.
        return Ok(None);
    }
    let choice = Choice::of(&held.fold, request.eagerness, full(shared.settings.target_file_size));
    Ok(choice.map(|choice| (choice, Places::of(held, stream))))
}

fn commit_merge(
    held: &mut Option<Held>,
    stream: &StreamId,
    choice: &Choice,
    mut merged: Merged,
) -> Result<Option<(Compacted, StreamHead)>> {
    let held = held.as_mut().ok_or_else(|| not_prepared(stream))?;
    let committed = held.replace(choice, merged.file());
    if committed.as_ref().is_ok_and(Option::is_some) || held.in_doubt.is_some() {
        merged.keep();
    }
    let compacted = Compacted {
        merged: choice.inputs.len() as u64,
        bytes_before: choice.bytes(),
        files: 1,
        bytes: merged.file().bytes,
        rows: choice.rows(),
    };
    Ok(committed.map_err(|error| error.at("unit", &choice.unit))?.map(|head| (compacted, head)))
}

fn stream_id(fold: &Fold) -> StreamId {
    StreamId::new(&fold.stream.namespace, &fold.stream.name)
}

impl Shared {
    /// The id in `destination.json`, which is made where there is none: exclusively, and durable before it is seen.
    fn identity(&self) -> Result<DestinationIdentity> {
        let path = self.layout.identity_file();
        if !path.exists() {
            let dir = self.layout.log_root();
            ensure_dir(&dir)?;
            let id = ulid::Ulid::new().to_string();
            let file = IdentityFile { version: IDENTITY_VERSION, id: id.clone() };
            let bytes = serde_json::to_vec(&file)
                .map_err(|e| Error::bug("an identity cannot be written").source(e))?;
            let temporary = dir.join(format!("destination-{id}.json.part"));
            write_synced(&temporary, &bytes, || Ok(()))?;
            let linked = fs::hard_link(&temporary, &path);
            let _ = fs::remove_file(&temporary);
            match linked {
                Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => {
                    return Err(io_error("link the destination's identity", &path, e));
                }
                _ => sync_dir(&dir)?,
            }
        }
        let bytes = fs::read(&path).map_err(|e| io_error("read the destination's identity", &path, e))?;
        let damaged = || {
            Error::new(ErrorKind::Destination, "the destination's identity cannot be read")
                .at("path", path.display())
                .hint("restore the file from a backup; a newer lakeward may have written it")
        };
        let file: IdentityFile = serde_json::from_slice(&bytes).map_err(|e| damaged().source(e))?;
        if file.version != IDENTITY_VERSION {
            return Err(damaged().at("version", file.version));
        }
        Ok(DestinationIdentity { kind: KIND.to_owned(), id: file.id })
    }

    /// Every stream's log, read without taking anything over. Streams without a commit are left out.
    fn folds(&self) -> Result<Vec<Fold>> {
        let root = self.layout.log_root();
        let mut folds = Vec::new();
        for namespace in names(&root)? {
            let dir = root.join(&namespace);
            if !dir.is_dir() {
                continue;
            }
            for stream in names(&dir)? {
                let visible = self.layout.root().join(&namespace).join(&stream);
                let fold = log::read(&StreamPaths { visible, meta: dir.join(stream) })?;
                if fold.number > 0 {
                    folds.push(fold);
                }
            }
        }
        folds.sort_by_key(stream_id);
        Ok(folds)
    }

    fn files(&self, stream: &StreamId) -> Result<Vec<VisibleFile>> {
        let paths = self.layout.stream(stream)?;
        for _ in 0..READ_ATTEMPTS {
            let fold = log::read(&paths)?;
            let files: Vec<VisibleFile> = fold
                .files
                .iter()
                .filter(|(_, file)| fold.is_visible(file.generation))
                .map(|(path, file)| VisibleFile {
                    path: located(&paths, path, file).to_string_lossy().into_owned(),
                    rows: file.facts.rows,
                    bytes: file.facts.bytes,
                })
                .collect();
            if log::read_record(&paths, fold.number + 1)?.is_none() {
                return Ok(files);
            }
        }
        Err(Error::new(ErrorKind::Destination, "commits come faster than the log can be read")
            .at("stream", stream)
            .hint("try again"))
    }

    /// Data first, log last: as long as the log is there nobody takes the stream for a new one.
    fn clear(&self, stream: &StreamId) -> Result<()> {
        let paths = self.layout.stream(stream)?;
        let lock = match paths.meta.is_dir() {
            true => Some(StreamLock::acquire(&paths.lock())?),
            false => None,
        };
        for path in walk(&paths.visible)?.into_iter().filter(|path| is_ours(path)) {
            durable::remove_file(&paths.visible.join(path))?;
        }
        durable::remove_empty_dirs(&paths.visible);
        durable::remove_tree(&paths.meta)?;
        if let Some(parent) = paths.meta.parent().filter(|parent| parent.is_dir()) {
            sync_dir(parent)?;
        }
        drop(lock);
        self.layout.forget();
        Ok(())
    }
}

/// Where a committed file lies at this moment: at its place, or on the way there.
fn located(paths: &StreamPaths, path: &str, file: &LiveFile) -> PathBuf {
    let places = places(paths, path, file);
    let found = places.iter().position(|path| path.exists());
    places[found.unwrap_or(0)].clone()
}

/// Where a committed file may lie: at its place, or on the way there.
pub(crate) fn places(paths: &StreamPaths, path: &str, file: &LiveFile) -> [PathBuf; 3] {
    [paths.visible.join(path), paths.meta.join(&file.facts.staged), paths.hidden(file.generation).join(path)]
}
