//! One process at a time: a lock on `<state>.lock`, which is never renamed or removed.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use lakeward_core::{Error, ErrorKind, Result, ResultExt};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

/// Who holds the lock, as written into the lock file.
#[derive(Serialize, Deserialize)]
struct Holder {
    pid: u32,
    host: String,
    since_epoch_seconds: u64,
}

/// The lock, held until dropped or until the process ends, however it ends.
#[derive(Debug)]
pub(crate) struct Lock(#[allow(dead_code, reason = "the open file is the lock")] File);

impl Lock {
    /// Takes the lock of a state file at once, or says who has it.
    pub(crate) fn take(state: &Path) -> Result<Self> {
        let path = lock_path(state);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .or_fail(ErrorKind::State, || "the state's lock file cannot be opened".into())
            .map_err(|error| {
                error.at("file", path.display()).hint("the state's directory must exist and be writable")
            })?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(held(&mut file, state)),
            Err(error) => {
                return Err(Error::new(ErrorKind::State, "the state cannot be locked")
                    .at("file", path.display())
                    .source(error)
                    .hint("the state must lie on a file system that supports flock"));
            }
        }
        let since = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let holder = Holder { pid: std::process::id(), host, since_epoch_seconds: since };
        // Only for the message that a second run prints: failing to write it must not stop the first.
        let _ = file
            .set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| file.write_all(serde_json::to_string(&holder).unwrap_or_default().as_bytes()));
        Ok(Self(file))
    }
}

fn lock_path(state: &Path) -> PathBuf {
    let mut name = state.file_name().unwrap_or_default().to_os_string();
    name.push(".lock");
    state.with_file_name(name)
}

fn held(file: &mut File, state: &Path) -> Error {
    let mut text = String::new();
    let holder = file.read_to_string(&mut text).ok().and_then(|_| serde_json::from_str::<Holder>(&text).ok());
    let error = Error::new(ErrorKind::State, "another run holds this state").at("file", state.display());
    match holder {
        Some(Holder { pid, host, since_epoch_seconds }) => {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
            error
                .at("pid", pid)
                .at("host", host)
                .at("held for seconds", now.saturating_sub(since_epoch_seconds))
                .hint("wait for it to end, or stop it: the lock goes with the process")
        }
        None => error.hint("wait for it to end"),
    }
}
