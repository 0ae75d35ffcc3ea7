//! Rows come in with every batch; people and logs want a number a second.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use lakeward_core::StreamId;

/// Rows and bytes since they were last told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Read {
    pub(crate) rows: u64,
    pub(crate) bytes: u64,
}

/// Gathers rows per stream and lets a sum through at most once per interval. Nothing is lost: what is held back
/// comes with the next sum, or with [`drain`](Self::drain).
#[derive(Debug)]
pub(crate) struct Throttle {
    interval: Duration,
    streams: HashMap<StreamId, (Instant, Read)>,
}

impl Throttle {
    pub(crate) fn new(interval: Duration) -> Self {
        Self { interval, streams: HashMap::new() }
    }

    /// Adds a batch; the sum since the last one that was let through, where it is due.
    pub(crate) fn add(&mut self, stream: &StreamId, read: Read, now: Instant) -> Option<Read> {
        let Some((told, sum)) = self.streams.get_mut(stream) else {
            self.streams.insert(stream.clone(), (now, Read::default()));
            return Some(read);
        };
        sum.rows += read.rows;
        sum.bytes += read.bytes;
        if now.duration_since(*told) < self.interval {
            return None;
        }
        *told = now;
        Some(std::mem::take(sum))
    }

    /// What is held back of a stream that is done.
    pub(crate) fn drain(&mut self, stream: &StreamId) -> Option<Read> {
        self.streams.remove(stream).map(|(_, sum)| sum).filter(|sum| sum.rows > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn at_most_one_sum_an_interval_and_no_row_lost() {
        let mut throttle = Throttle::new(Duration::from_secs(1));
        let (a, b) = (StreamId::new("public", "a"), StreamId::new("public", "b"));
        let start = Instant::now();
        let read = Read { rows: 10, bytes: 100 };
        let mut told = 0;
        let mut times = 0;
        for step in 0..250 {
            let now = start + Duration::from_millis(10 * step);
            if let Some(sum) = throttle.add(&a, read, now) {
                told += sum.rows;
                times += 1;
            }
        }
        assert_eq!(times, 3);
        assert_eq!(throttle.add(&b, read, start), Some(read));
        told += throttle.drain(&a).unwrap().rows;
        assert_eq!(told, 2500);
        assert_eq!(throttle.drain(&a), None);
    }
}
