//! Merging the small files that frequent checkpoints leave, beside the reading.
//!
//! One stream at a time, and only in memory that nobody else wants at that moment. No checkpoint waits for it; a
//! run that is stopped gives it up, and nothing of it is left then.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lakeward_core::{CompactRequest, Eagerness, ErrorKind, StreamId};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::events::Event;
use crate::stream_run::{RunContext, StreamRun};

/// Files that a stream gets before it is looked at again.
const LOOK_AFTER: u64 = 32;

/// Merges small files of the streams of one run.
pub(super) struct Compactor {
    context: Arc<RunContext>,
    stop: CancellationToken,
    watched: Mutex<Watched>,
}

#[derive(Default)]
struct Watched {
    /// Files committed since a stream was looked at last. At its first commit it is looked at: earlier runs may
    /// have left many.
    fresh: BTreeMap<StreamId, u64>,
    /// Streams whose files could not be merged: they are let be until the next run.
    given_up: BTreeSet<StreamId>,
    working: Option<JoinHandle<()>>,
}

impl Compactor {
    pub(super) fn new(context: Arc<RunContext>) -> Arc<Self> {
        let stop = context.options.cancel.child_token();
        Arc::new(Self { context, stop, watched: Mutex::default() })
    }

    fn watched(&self) -> MutexGuard<'_, Watched> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A checkpoint has committed so many files of each of these streams. Begins to merge where that is worth it
    /// and nothing is being merged.
    pub(super) fn committed(self: &Arc<Self>, streams: &[(Arc<StreamRun>, u64)]) {
        let mut watched = self.watched();
        for (run, files) in streams.iter().filter(|(_, files)| *files > 0) {
            *watched.fresh.entry(run.stream.id.clone()).or_insert(LOOK_AFTER) += files;
        }
        let busy = watched.working.as_ref().is_some_and(|task| !task.is_finished());
        if busy || self.stop.is_cancelled() {
            return;
        }
        let due = |run: &StreamRun| watched.fresh.get(&run.stream.id).copied().filter(|n| *n >= LOOK_AFTER);
        let most = streams.iter().filter(|(run, _)| due(run).is_some()).max_by_key(|(run, _)| due(run));
        if let Some((run, _)) = most {
            watched.fresh.insert(run.stream.id.clone(), 0);
            if !watched.given_up.contains(&run.stream.id) {
                watched.working = Some(tokio::spawn(self.clone().merge(run.clone())));
            }
        }
    }

    /// Merges what has gathered of a stream.
    async fn merge(self: Arc<Self>, run: Arc<StreamRun>) {
        loop {
            let request = CompactRequest {
                eagerness: Eagerness::Gathered,
                budget: self.context.budget.clone(),
                cancel: self.stop.clone(),
            };
            if self.stop.is_cancelled() {
                return;
            }
            match self.context.commits.merge_files(&run.entry, &run.stream.target, request).await {
                Ok(Some(head)) => run.set_head(head),
                Ok(None) => return,
                Err(error) => {
                    if error.kind() != ErrorKind::Cancelled {
                        // The rows are there all the same: it is no reason to stop.
                        self.context.events.event(&Event::Warning {
                            stream: Some(run.stream.id.clone()),
                            message: format!("its small files could not be merged: {error:?}"),
                        });
                        self.watched().given_up.insert(run.stream.id.clone());
                    }
                    return;
                }
            }
        }
    }

    /// Ends the merging before its run ends: at once, or after what has gathered in `runs` is merged.
    pub(super) async fn end(self: &Arc<Self>, runs: Option<&BTreeMap<StreamId, Arc<StreamRun>>>) {
        if runs.is_none() {
            self.stop.cancel();
        }
        let working = self.watched().working.take();
        if let Some(task) = working {
            // A task that panicked has ended the process.
            let _ = task.await;
        }
        for run in runs.into_iter().flat_map(BTreeMap::values) {
            let fresh = {
                let watched = self.watched();
                let fresh = watched.fresh.get(&run.stream.id).is_some_and(|files| *files > 0);
                fresh && !watched.given_up.contains(&run.stream.id)
            };
            if fresh {
                self.clone().merge(run.clone()).await;
            }
        }
        self.stop.cancel();
    }
}
