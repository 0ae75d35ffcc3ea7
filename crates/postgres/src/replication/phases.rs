//! What is done with each stream's changes, and the rest that the reader takes while a stream is opened.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lakeward_core::{Error, Result, StreamId, StreamPhase};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How long a resting reader waits before it looks whether it is to stop.
const LOOK: Duration = Duration::from_millis(50);

/// Phases by stream.
#[derive(Debug)]
pub(super) struct Phases {
    streams: Mutex<HashMap<StreamId, StreamPhase>>,
    changed: Condvar,
    /// Raised with every change, so that who looks per transaction need not lock.
    version: AtomicU64,
    resting: watch::Sender<bool>,
}

impl Phases {
    pub(super) fn new(streams: impl Iterator<Item = (StreamId, StreamPhase)>) -> Self {
        Self {
            streams: Mutex::new(streams.collect()),
            changed: Condvar::new(),
            version: AtomicU64::new(1),
            resting: watch::Sender::new(false),
        }
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

    /// Sets a phase; with `Opening` it returns when the reader rests, or has `ended`.
    pub(super) async fn enter(
        &self,
        stream: &StreamId,
        phase: StreamPhase,
        ended: &CancellationToken,
    ) -> Result<()> {
        let opening = phase == StreamPhase::Opening;
        let mut resting = self.resting.subscribe();
        match self.lock().get_mut(stream) {
            Some(current) => *current = phase,
            None => return Err(Error::bug("a stream is not among those being read").at("stream", stream)),
        }
        self.version.fetch_add(1, Ordering::SeqCst);
        self.changed.notify_all();
        if opening {
            tokio::select! {
                () = ended.cancelled() => {}
                // Its sender lives as long as we do.
                _ = resting.wait_for(|resting| *resting) => {}
            }
        }
        Ok(())
    }

    /// Rests, at a boundary, for as long as a stream is being opened.
    ///
    /// # Errors
    /// `Cancelled`.
    pub(super) fn rest(&self, stop: &CancellationToken) -> Result<()> {
        let mut streams = self.lock();
        while any_opening(&streams) {
            // Under the lock: whoever opens a stream meanwhile finds a reader that goes on resting.
            self.resting.send_replace(true);
            if stop.is_cancelled() {
                self.resting.send_replace(false);
                return Err(Error::cancelled());
            }
            let waited = self.changed.wait_timeout(streams, LOOK);
            streams = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        self.resting.send_replace(false);
        Ok(())
    }
}

fn any_opening(streams: &HashMap<StreamId, StreamPhase>) -> bool {
    streams.values().any(|phase| *phase == StreamPhase::Opening)
}
