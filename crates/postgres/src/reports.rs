//! What a thread of its own reads, as a stream.

use futures::StreamExt;
use futures::stream::{self, BoxStream};
use lakeward_core::{Error, Result};
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};

/// What the thread says. Its end is said too: a thread that vanishes has not finished.
pub(crate) enum Report<T> {
    Item(T),
    End(Result<()>),
}

/// What the thread says until its end or its first error. `stop`, which the thread looks at, is cancelled when the
/// stream is dropped.
pub(crate) fn listen<T: Send + 'static>(
    receiver: mpsc::Receiver<Report<T>>,
    stop: CancellationToken,
) -> BoxStream<'static, Result<T>> {
    let listening = Listening { receiver, stop: stop.clone(), _stop: stop.drop_guard(), ended: false };
    stream::unfold(listening, Listening::next).boxed()
}

struct Listening<T> {
    receiver: mpsc::Receiver<Report<T>>,
    stop: CancellationToken,
    _stop: DropGuard,
    ended: bool,
}

impl<T> Listening<T> {
    async fn next(mut self) -> Option<(Result<T>, Self)> {
        if self.ended {
            return None;
        }
        let report = tokio::select! {
            biased;
            () = self.stop.cancelled() => Some(Report::End(Err(Error::cancelled()))),
            report = self.receiver.recv() => report,
        };
        let item = match report {
            Some(Report::Item(item)) => Ok(item),
            Some(Report::End(Ok(()))) => return None,
            Some(Report::End(Err(error))) => Err(error),
            None => Err(Error::bug("a thread that reads ended without a word")),
        };
        self.ended = item.is_err();
        Some((item, self))
    }
}
