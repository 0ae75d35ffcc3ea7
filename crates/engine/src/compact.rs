//! Merging the small files of streams, as a command of its own.

use std::sync::Arc;

use lakeward_core::{
    CompactRequest, Destination, Eagerness, Error, ErrorKind, MemoryBudget, Result, Run, StreamId,
};
use lakeward_state::StateStore;
use serde::Serialize;

use crate::commit::{CommitPath, StateEntry};
use crate::events::{EventSink, as_text};
use crate::options::Options;
use crate::pipeline;

/// What a compaction did to the files of one stream, all generations that readers see.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StreamCompaction {
    /// The stream, as the source names it.
    #[serde(serialize_with = "as_text")]
    pub stream: StreamId,
    /// Files before.
    pub files_before: usize,
    /// Files after.
    pub files_after: usize,
    /// Bytes before.
    pub bytes_before: u64,
    /// Bytes after.
    pub bytes_after: u64,
}

/// What a compaction did.
#[derive(Debug, Default)]
pub struct Compaction {
    /// Every stream that was looked at.
    pub streams: Vec<StreamCompaction>,
    /// Streams whose files could not be merged, or not all of them. What had been merged stands.
    pub failures: Vec<(StreamId, Error)>,
}

impl crate::AbstractDriver {
    /// Merges small files wherever there are two of one size, stream by stream. Streams are given by their names
    /// at the source and at the destination; those that were never synced are passed over. Nothing is read at
    /// the source, and no row changes.
    ///
    /// # Errors
    /// `State` where there is no state, or it belongs to another destination; failures of single streams are in
    /// the result.
    pub async fn compact(
        destination: Arc<dyn Destination>,
        store: StateStore,
        streams: &[(StreamId, StreamId)],
        options: &Options,
        events: Arc<dyn EventSink>,
    ) -> Result<Compaction> {
        let state = store.load()?.ok_or_else(|| {
            Error::new(ErrorKind::State, "there is no state, so nothing says whose files these are")
                .at("file", store.path().display())
                .hint("--state names another file; the first `lakeward sync` makes it, `lakeward state rebuild` makes it anew")
        })?;
        pipeline::same_destination(&state, store.path(), &destination.identity().await?)?;
        let run = pipeline::begin_run(&state);
        let heads = destination.heads().await?.into_iter().collect();
        let known: Vec<(StateEntry, StreamId)> = streams
            .iter()
            .filter_map(|(source, target)| {
                let sync_mode = state.streams.get(source)?.sync_mode;
                Some((StateEntry { source: source.clone(), sync_mode }, target.clone()))
            })
            .collect();
        let commits = Arc::new(CommitPath::new(destination.clone(), None, Arc::new(store), state, events));
        let request = CompactRequest {
            eagerness: Eagerness::Any,
            budget: MemoryBudget::new(options.budget_bytes()),
            cancel: options.cancel.clone(),
        };
        let mut compaction = Compaction::default();
        for (entry, target) in known {
            if options.cancel.is_cancelled() {
                break;
            }
            commits
                .refuse_missing_commits(&entry.source, &target, &heads)
                .map_err(|error| error.at("stream", &entry.source))?;
            match compact_stream(&destination, &commits, &run, &entry, &target, &request).await {
                Ok(stream) => compaction.streams.push(stream),
                Err(error) => compaction.failures.push((entry.source, error)),
            }
        }
        commits.finish().await?;
        Ok(compaction)
    }
}

async fn compact_stream(
    destination: &Arc<dyn Destination>,
    commits: &Arc<CommitPath>,
    run: &Run,
    entry: &StateEntry,
    target: &StreamId,
    request: &CompactRequest,
) -> Result<StreamCompaction> {
    let head = destination.prepare(target, run).await?;
    if head.commit > 0 {
        commits.record(entry, &head);
    }
    let (files_before, bytes_before) = extent(destination, target).await?;
    while commits.merge_files(entry, target, request.clone()).await?.is_some() {}
    let (files_after, bytes_after) = extent(destination, target).await?;
    Ok(StreamCompaction {
        stream: entry.source.clone(),
        files_before,
        files_after,
        bytes_before,
        bytes_after,
    })
}

/// Files that readers see, and their bytes.
async fn extent(destination: &Arc<dyn Destination>, target: &StreamId) -> Result<(usize, u64)> {
    let files = destination.files(target).await?;
    Ok((files.len(), files.iter().map(|file| file.bytes).sum()))
}
