//! What is done with each stream's changes, and the rest that the reader takes while a stream is opened.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lakeward_core::{Error, Result, StreamId, StreamPhase};
use tokio_util::sync::CancellationToken;

/// How long a resting reader waits before it looks whether it is to stop.
const LOOK: Duration = Duration::from_millis(50);

/// Phases by stream.
#[derive(Debug)]
pub(super) struct Phases {
    streams: Mutex<HashMap<StreamId, StreamPhase>>,
    changed: Condvar,
    /// Raised with every change, under the lock; who looks per transaction need not take it.
    version: AtomicU64,
}

impl Phases {
    pub(super) fn new(streams: impl Iterator<Item = (StreamId, StreamPhase)>) -> Self {
        Self { streams: Mutex::new(streams.collect()), changed: Condvar::new(), version: AtomicU64::new(1) }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<StreamId, StreamPhase>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn version(&self) -> u64 {
        self.version.load(Ordering::SeqCst)
    }

    pub(super) fn all(&self) -> Vec<(StreamId, StreamPhase)> {
        self.lock().iter().map(|(stream, phase)| (stream.clone(), phase.clone())).collect()
    }

    pub(super) fn any_opening(&self) -> bool {
        any_opening(&self.lock())
    }

    /// Sets a phase. Returns the version of the phases from then on.
    ///
    /// # Errors
    /// `Bug`, where the stream is not among those being read.
    pub(super) fn enter(&self, stream: &StreamId, phase: StreamPhase) -> Result<u64> {
        let mut streams = self.lock();
        match streams.get_mut(stream) {
            Some(current) => *current = phase,
            None => return Err(Error::bug("a stream is not among those being read").at("stream", stream)),
        }
        let version = self.version.fetch_add(1, Ordering::SeqCst) + 1;
        self.changed.notify_all();
        Ok(version)
    }

    /// Rests, at a boundary, for as long as a stream is being opened, and tells for which version it does so.
    ///
    /// # Errors
    /// `Cancelled`.
    pub(super) fn rest(
        &self,
        stop: &CancellationToken,
        mut tell: impl FnMut(u64) -> Result<()>,
    ) -> Result<()> {
        let mut told = 0;
        let mut streams = self.lock();
        while any_opening(&streams) {
            if stop.is_cancelled() {
                return Err(Error::cancelled());
            }
            let version = self.version();
            if version != told {
                // Not under the lock: it waits until it is heard.
                drop(streams);
                tell(version)?;
                told = version;
                streams = self.lock();
                continue;
            }
            let waited = self.changed.wait_timeout(streams, LOOK);
            streams = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(())
    }
}

fn any_opening(streams: &HashMap<StreamId, StreamPhase>) -> bool {
    streams.values().any(|phase| *phase == StreamPhase::Opening)
}
