//! Ctrl-C and SIGTERM.
//!
//! The first asks the run to finish what is committing; a second, or ten seconds, ends the process at once. Either
//! way the exit code is 130, and what was committed stands.

use std::future::Future;
use std::time::Duration;

use lakeward_core::{Error, ErrorKind, Result, ResultExt};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::failure::ExitCode;
use crate::messages::Console;

/// How long a stop may take.
const STOP_LIMIT: Duration = Duration::from_secs(10);
/// How long work that has nothing to finish may take to end.
const ABANDON_LIMIT: Duration = Duration::from_secs(1);

struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn listen() -> Result<Self> {
        let listen =
            |kind| signal(kind).or_fail(ErrorKind::Bug, || "signals cannot be listened to".to_owned());
        Ok(Self { interrupt: listen(SignalKind::interrupt())?, terminate: listen(SignalKind::terminate())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// Runs work that has nothing to finish: a signal drops it.
pub(crate) async fn abandon_on_signal<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let mut signals = Signals::listen()?;
    let asked = CancellationToken::new();
    let ask = asked.clone();
    // Apart from the work, which may be blocked: a config can be a pipe that nobody writes to.
    let watcher = tokio::spawn(async move {
        signals.next().await;
        ask.cancel();
        tokio::time::sleep(ABANDON_LIMIT).await;
        std::process::exit(i32::from(ExitCode::INTERRUPTED.code()));
    });
    let result = tokio::select! {
        biased;
        result = work => result,
        () = asked.cancelled() => Err(Error::cancelled()),
    };
    watcher.abort();
    result
}

/// Runs work that clears up after itself when `cancel` asks it to end, however long that takes.
pub(crate) async fn cancel_on_signal<T>(
    cancel: &CancellationToken,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    let mut signals = Signals::listen()?;
    let mut work = std::pin::pin!(work);
    tokio::select! {
        biased;
        result = &mut work => return result,
        () = signals.next() => cancel.cancel(),
    }
    work.await
}

/// Runs work that stops by itself, in order, when `cancel` asks it to.
pub(crate) async fn stop_on_signal<T>(
    console: &Console,
    cancel: CancellationToken,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    let mut signals = Signals::listen()?;
    let console = console.clone();
    let watcher = tokio::spawn(async move {
        signals.next().await;
        console.say("stopping: finishing what is committing (once more to stop at once)");
        cancel.cancel();
        tokio::select! {
            () = signals.next() => console.say("stopped at once: what was committed stands"),
            () = tokio::time::sleep(STOP_LIMIT) => {
                console.say("stopped after waiting 10 s: what was committed stands");
            }
        }
        // Nothing durable is half done at any moment, so there is nothing to unwind.
        std::process::exit(i32::from(ExitCode::INTERRUPTED.code()));
    });
    let result = work.await;
    watcher.abort();
    result
}
