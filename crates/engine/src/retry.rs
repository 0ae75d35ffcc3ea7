//! Exponential back-off with jitter; what is retried is decided by the error's kind alone.

use std::time::Duration;

use lakeward_core::{Error, Result, Retry, StreamId, retry_policy};
use tokio_util::sync::CancellationToken;

use crate::events::{Event, EventSink};

/// How often a step is tried again where the config says nothing of it.
const DEFAULT_MAX_RETRIES: u32 = 5;
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(20);

/// Counts attempts at one step and waits between them.
pub(crate) struct Backoff<'a> {
    stream: Option<&'a StreamId>,
    events: &'a dyn EventSink,
    cancel: &'a CancellationToken,
    attempts: u32,
    max_retries: u32,
}

impl<'a> Backoff<'a> {
    /// For a step of one stream, or of all that run together.
    pub(crate) fn new(
        stream: impl Into<Option<&'a StreamId>>,
        events: &'a dyn EventSink,
        cancel: &'a CancellationToken,
        max_retries: Option<u32>,
    ) -> Self {
        let max_retries = max_retries.unwrap_or(DEFAULT_MAX_RETRIES);
        Self { stream: stream.into(), events, cancel, attempts: 0, max_retries }
    }

    /// Waits before the step may be tried again, or gives the error back when it may not.
    ///
    /// `allowed` names the retry that the caller can do: the same step again, or with a new session.
    pub(crate) async fn after(&mut self, error: Error, allowed: Retry) -> Result<()> {
        if self.cancel.is_cancelled() {
            return Err(Error::cancelled());
        }
        let policy = retry_policy(error.kind());
        let may = policy == allowed || (policy == Retry::Again && allowed == Retry::NewSession);
        if !may || self.attempts >= self.max_retries {
            return Err(error);
        }
        self.attempts += 1;
        let pause = pause(self.attempts, rand::random());
        self.events.event(&Event::Retrying {
            stream: self.stream.cloned(),
            attempt: self.attempts,
            wait_ms: u64::try_from(pause.as_millis()).unwrap_or(u64::MAX),
            reason: format!("{error:?}"),
        });
        tokio::select! {
            () = self.cancel.cancelled() => Err(Error::cancelled()),
            () = tokio::time::sleep(pause) => Ok(()),
        }
    }

    /// Progress was made: the next failure is a first one again.
    pub(crate) fn reset(&mut self) {
        self.attempts = 0;
    }
}

/// Half of the pause is certain, half is drawn, so that many readers do not come back at once.
fn pause(attempt: u32, jitter: f64) -> Duration {
    let full = FIRST_PAUSE.saturating_mul(1 << attempt.clamp(1, 16).saturating_sub(1)).min(LONGEST_PAUSE);
    full.mul_f64(0.5 + 0.5 * jitter.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_are_capped() {
        assert_eq!(pause(1, 1.0), FIRST_PAUSE);
        assert_eq!(pause(1, 0.0), FIRST_PAUSE / 2);
        assert_eq!(pause(3, 1.0), FIRST_PAUSE * 4);
        assert_eq!(pause(60, 1.0), LONGEST_PAUSE);
    }
}
