//! Telling the server how far we are, on a thread of its own, whatever reading, memory and commits wait for.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lakeward_core::{ErrorKind, Result, ResultExt};

use super::lsn::Lsn;
use crate::wire::LogWriter;

/// Wishes that wait: more than one of a kind says no more.
const WISHES: usize = 4;

#[derive(Debug)]
enum Wish {
    /// The server asked, or there is something new.
    Say,
    /// The server is to answer.
    Ask,
    /// The last word.
    Stop,
}

/// Says what is released, and nothing else.
#[derive(Debug)]
pub(super) struct Feedback {
    released: Arc<AtomicU64>,
    wishes: SyncSender<Wish>,
    stopped: Arc<AtomicBool>,
    thread: Mutex<Option<std::thread::JoinHandle<()>>>,
}

impl Feedback {
    /// Starts with what was released before.
    pub(super) fn start(writer: LogWriter, released: Lsn, interval: Duration) -> Result<Self> {
        let (wishes, receiver) = sync_channel(WISHES);
        let released = Arc::new(AtomicU64::new(released.0));
        let stopped = Arc::new(AtomicBool::new(false));
        let (shared, ended) = (released.clone(), stopped.clone());
        let thread = std::thread::Builder::new()
            .name("postgres-feedback".to_owned())
            .spawn(move || {
                speak(writer, &shared, &receiver, interval);
                ended.store(true, Ordering::SeqCst);
            })
            .or_fail(ErrorKind::Source, || "no thread can be started".to_owned())?;
        Ok(Self { released, wishes, stopped, thread: Mutex::new(Some(thread)) })
    }

    /// Everything before `lsn` is safe. Never goes back.
    pub(super) fn release(&self, lsn: Lsn) {
        if self.released.fetch_max(lsn.0, Ordering::SeqCst) < lsn.0 {
            self.say();
        }
    }

    /// What was released last.
    pub(super) fn released(&self) -> Lsn {
        Lsn(self.released.load(Ordering::SeqCst))
    }

    /// Says it now.
    pub(super) fn say(&self) {
        // Where the room is full a wish of the same kind waits already.
        let _ = self.wishes.try_send(Wish::Say);
    }

    /// Says it now and asks the server how far it is.
    pub(super) fn ask(&self) {
        let _ = self.wishes.try_send(Wish::Ask);
    }

    /// Says it for the last time. Returns when it was said, or cannot be.
    pub(super) fn stop(&self) {
        if !self.stopped.load(Ordering::SeqCst) {
            let _ = self.wishes.send(Wish::Stop);
        }
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            let _ = thread.join();
        }
    }
}

fn speak(mut writer: LogWriter, released: &AtomicU64, wishes: &Receiver<Wish>, interval: Duration) {
    loop {
        let wish = wishes.recv_timeout(interval);
        let lsn = released.load(Ordering::SeqCst);
        let (reply, last) = match wish {
            Ok(Wish::Say) => (false, false),
            // An answer now and then shows that the server is there.
            Ok(Wish::Ask) | Err(RecvTimeoutError::Timeout) => (true, false),
            Ok(Wish::Stop) | Err(RecvTimeoutError::Disconnected) => (false, true),
        };
        if let Err(error) = writer.status(lsn, reply) {
            // The reader hears of it by itself.
            tracing::debug!(%error, "the server cannot be told how far we are");
            return;
        }
        if last {
            return;
        }
    }
}
