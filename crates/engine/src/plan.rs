//! What a sync would do, without doing it.

use std::collections::BTreeMap;
use std::path::Path;

use lakeward_core::{
    Catalog, ConfiguredStream, Destination, DriverInterface, Error, Fingerprint, Result, Retry, Standing,
    StreamHead, StreamId, SyncMode, retry_policy,
};
use lakeward_state::StateStore;
use serde::Serialize;

use crate::abstract_driver::{AbstractDriver, Resolved, nothing_selected};
use crate::evolution::{Evolution, as_known, evolution, renamed_in_files, shows_changes, successor};
use crate::pipeline;

/// What a sync would do for one stream.
#[derive(Debug, Clone, Serialize)]
pub struct StreamPlan {
    /// Namespace and name.
    pub stream: String,
    /// Its mode.
    pub mode: SyncMode,
    /// What would happen, in words.
    pub action: String,
    /// Chunks that would be read; 0 for an incremental pass.
    pub chunks: usize,
    /// The source's estimate of all rows.
    pub estimated_rows: Option<u64>,
    /// Bytes as stored at the source.
    pub estimated_bytes: Option<u64>,
}

impl AbstractDriver {
    /// What [`read`](Self::read) would do now by the state at `path`, with chunks of about `chunk_bytes`. Nothing is
    /// written anywhere, not even a lock, so it may be asked while a sync runs; the source is asked for its chunks
    /// under a snapshot that is given up again.
    ///
    /// # Errors
    /// As of a run: `State` where the state does not go with source and destination, `Config` where a stream that was
    /// never replicated cannot be. What would fail for one stream alone stands in its plan.
    pub async fn plan(
        driver: &dyn DriverInterface,
        destination: &dyn Destination,
        path: &Path,
        chunk_bytes: u64,
        catalog: &Catalog,
    ) -> Result<Vec<StreamPlan>> {
        let Resolved { streams, unfit } = Self::resolve_offered(driver, Some(destination), catalog).await?;
        if streams.is_empty() && unfit.is_empty() {
            return Err(nothing_selected());
        }
        let heads: BTreeMap<StreamId, StreamHead> = destination.heads().await?.into_iter().collect();
        // An identity is made where there is none.
        let identity = if heads.is_empty() { None } else { Some(destination.identity().await?) };
        let targets: Vec<StreamId> = streams.iter().map(|(stream, _)| stream.target.clone()).collect();
        let (state, source) = (StateStore::read(path)?, driver.identity().await?);
        pipeline::fit(state.as_ref(), path, &source, identity.as_ref(), destination, &targets).await?;
        let mut plans = Vec::with_capacity(streams.len() + unfit.len());
        let selections = catalog.selections()?;
        let known = |id: &StreamId| state.as_ref().and_then(|state| state.streams.get(id));
        for (id, error) in unfit {
            // As in a run.
            let Some(known) = known(&id).filter(|_| !streams.is_empty()) else { return Err(error) };
            let selection = selections.iter().find(|(selected, _)| *selected == id);
            plans.push(StreamPlan {
                stream: id.to_string(),
                mode: selection.and_then(|(_, selection)| selection.sync_mode).unwrap_or(known.sync_mode),
                action: would_fail(&error),
                chunks: 0,
                estimated_rows: None,
                estimated_bytes: None,
            });
        }
        for (stream, offered) in streams {
            let head = heads.get(&stream.target);
            let committed = known(&stream.id).map_or(0, |known| known.commit);
            let (action, reads_chunks) =
                match pipeline::refuse_missing_commits(committed, &stream.id, &stream.target, &heads) {
                    Ok(()) => describe(head, &stream),
                    Err(error) => (would_fail(&error), false),
                };
            let (action, chunks) = match reads_chunks {
                false => (action, 0),
                true => match count_chunks(driver, &stream, head, chunk_bytes).await {
                    Ok(chunks) => (action, chunks),
                    // The others have plans all the same.
                    Err(error) if retry_policy(error.kind()) == Retry::Never => (would_fail(&error), 0),
                    Err(error) => return Err(error),
                },
            };
            plans.push(StreamPlan {
                stream: stream.id.to_string(),
                mode: stream.sync_mode,
                action,
                chunks,
                estimated_rows: offered.estimated_rows,
                estimated_bytes: offered.estimated_bytes,
            });
        }
        Ok(plans)
    }
}

/// How many chunks a stream's rows would be read in, or are being read in.
async fn count_chunks(
    driver: &dyn DriverInterface,
    stream: &ConfiguredStream,
    head: Option<&StreamHead>,
    chunk_bytes: u64,
) -> Result<usize> {
    let session = driver.begin_backfill(&stream.merely_read()).await?;
    let earlier = head.and_then(|head| head.open.as_ref()).map(|open| open.plan.as_slice());
    let split = driver.get_or_split_chunks(stream, &session, earlier, chunk_bytes).await;
    driver.end_backfill(session).await;
    Ok(split?.len())
}

/// What would happen, and whether all rows would be read.
fn describe(head: Option<&StreamHead>, stream: &ConfiguredStream) -> (String, bool) {
    let name = stream.target.to_string();
    let Some(head) = head else {
        return match stream.sync_mode {
            SyncMode::StrictCdc => (format!("changes from now on into {name}"), false),
            _ => (format!("backfill into {name}"), true),
        };
    };
    match (&head.open, head.visible, stream.sync_mode) {
        (Some(_), _, SyncMode::StrictCdc) => {
            let begun = head.generation;
            (
                format!(
                    "changes from now on, in a new generation: generation {begun} was begun, and not ended"
                ),
                false,
            )
        }
        (Some(open), _, _) if goes_on(head, stream) => (
            format!(
                "go on with the backfill of generation {}: {} chunks done",
                head.generation,
                open.done.len()
            ),
            true,
        ),
        (Some(_), _, _) => (
            format!(
                "all rows anew: generation {} was begun as something else, and not ended",
                head.generation
            ),
            true,
        ),
        (None, Some(_), SyncMode::FullRefresh) => {
            let history = if shows_changes(head) { ", and the history of its changes goes" } else { "" };
            let (next, shown) = (head.generation + 1, head.generation);
            (format!("full refresh: generation {next} replaces {shown}{history}"), true)
        }
        (None, Some(_), mode) => match altered(head, stream) {
            Ok(Some(reason)) if mode == SyncMode::StrictCdc => {
                let since = if is_placed(head) { "since the last sync" } else { "from now on" };
                (format!("changes {since}, in a new generation: {reason}"), false)
            }
            Ok(Some(reason)) => (format!("all rows again: {reason}"), true),
            Ok(None) if mode == SyncMode::Incremental => {
                (format!("incremental pass {}", head.progress.pass + 1), false)
            }
            Ok(None) => ("changes since the last sync".to_owned(), false),
            Err(error) => (would_fail(&error), false),
        },
        (None, None, _) => (format!("backfill into {name}"), true),
    }
}

fn would_fail(error: &Error) -> String {
    let remedy = error.remedy().map(|remedy| format!(" ({remedy})")).unwrap_or_default();
    format!("nothing, it would fail: {error:?}{remedy}")
}

/// Whether the generation that was begun is what one would be that begins now.
fn goes_on(head: &StreamHead, stream: &ConfiguredStream) -> bool {
    let next = match stream.sync_mode.follows_log() {
        true => successor(stream, head),
        false => Ok(stream.clone()),
    };
    next.is_ok_and(|next| head.definition.as_ref() == Some(&next.definition()))
}

/// Why all rows would be read again, and what would become of the history.
fn altered(head: &StreamHead, stream: &ConfiguredStream) -> Result<Option<String>> {
    let Some(before) = &head.definition else { return Ok(None) };
    let interrupted = stream.sync_mode.follows_log() && !is_placed(head);
    let reason = match evolution(before, &as_known(stream, before)?, false)? {
        Evolution::NewGeneration(reason) => reason,
        Evolution::Unchanged | Evolution::Widened if interrupted => Standing::INTERRUPTED.to_owned(),
        Evolution::Unchanged | Evolution::Widened => return Ok(None),
    };
    if !stream.sync_mode.follows_log() {
        return Ok(Some(reason));
    }
    let next = successor(stream, head)?;
    Ok(Some(format!("{reason}; the history is kept{}", renamed_in_files(&next, before))))
}

fn is_placed(head: &StreamHead) -> bool {
    head.fingerprint.as_ref().is_some_and(Fingerprint::is_in_log)
}
