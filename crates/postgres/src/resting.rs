//! Connections between two uses.
//!
//! A stream needs a handful of connections, one after the other. A new one costs the server a process, the check of
//! a password that is slow by design, and a cache of the catalog that is filled from nothing: more than a small table
//! does. So whoever is done with a connection, and has left nothing in it, puts it here.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;

/// How long one rests before it is closed. Short: what lies between may drop a silent connection and tell nobody.
const REST: Duration = Duration::from_secs(5);

/// Connections of one kind, all made with the same settings.
pub(crate) struct Resting<T> {
    rest: Duration,
    inner: Mutex<Inner<T>>,
}

struct Inner<T> {
    /// The one that came last, last.
    connections: Vec<(Instant, T)>,
    /// Whether someone sees to it that they are closed.
    swept: bool,
}

impl<T> Default for Resting<T> {
    fn default() -> Self {
        Self::for_at_most(REST)
    }
}

impl<T> Resting<T> {
    fn for_at_most(rest: Duration) -> Self {
        Self { rest, inner: Mutex::new(Inner { connections: Vec::new(), swept: false }) }
    }
}

impl<T: Send + 'static> Resting<T> {
    /// The connection that rests for the shortest time.
    pub(crate) fn take(&self) -> Option<T> {
        let (since, connection) = self.inner().connections.pop()?;
        // All others rest for longer: the sweeper has them.
        (since.elapsed() < self.rest).then_some(connection)
    }

    /// Takes a connection in whose session is as it was when it was made: outside a transaction, no setting changed.
    pub(crate) fn put(self: &Arc<Self>, connection: T, runtime: &Handle) {
        let mut inner = self.inner();
        inner.connections.push((Instant::now(), connection));
        if !std::mem::replace(&mut inner.swept, true) {
            runtime.spawn(sweep(Arc::downgrade(self), self.rest));
        }
    }

    /// Closes those that have rested for long enough; whether there are others.
    fn close_old(&self) -> bool {
        let mut inner = self.inner();
        let old = inner.connections.partition_point(|(since, _)| since.elapsed() >= self.rest);
        let closed: Vec<_> = inner.connections.drain(..old).collect();
        inner.swept = !inner.connections.is_empty();
        let more = inner.swept;
        drop(inner);
        drop(closed);
        more
    }

    fn inner(&self) -> MutexGuard<'_, Inner<T>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn sweep<T: Send + 'static>(resting: Weak<Resting<T>>, every: Duration) {
    loop {
        tokio::time::sleep(every).await;
        if !resting.upgrade().is_some_and(|resting| resting.close_old()) {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_one_that_rests_shortest_is_taken_and_none_rests_for_long() {
        let rest = Duration::from_millis(50);
        let resting = Arc::new(Resting::for_at_most(rest));
        let open = Arc::new(());
        // The sweeper comes again when it is needed again.
        for _ in 0..2 {
            for n in 0..3 {
                resting.put((n, open.clone()), &Handle::current());
            }
            assert_eq!(resting.take().map(|(n, _)| n), Some(2));
            assert_eq!(Arc::strong_count(&open), 3);
            tokio::time::sleep(4 * rest).await;
            assert_eq!(Arc::strong_count(&open), 1);
            assert!(resting.take().is_none());
        }
    }
}
