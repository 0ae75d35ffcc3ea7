//! File operations that are safe against power loss once they return.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind as IoKind, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use lakeward_core::{Error, ErrorKind, Result};

use crate::error::io_error;

/// More directories than this are not synced one by one.
#[cfg(target_os = "linux")]
const MAX_SYNCS: usize = 64;

/// Makes a directory's entries durable.
pub(crate) fn sync_dir(path: &Path) -> Result<()> {
    File::open(path).and_then(|dir| dir.sync_all()).map_err(|e| io_error("sync a directory", path, e))
}

/// Makes a directory and its missing ancestors; each new entry is durable on return.
pub(crate) fn ensure_dir(path: &Path) -> Result<()> {
    ensure_dirs(std::slice::from_ref(&path))
}

/// Makes directories and their missing ancestors; each new entry is durable on return. A directory that is the parent
/// of several is waited for once.
pub(crate) fn ensure_dirs(paths: &[impl AsRef<Path>]) -> Result<()> {
    let mut changed: BTreeSet<&Path> = BTreeSet::new();
    for path in paths {
        let mut missing: Vec<&Path> = Vec::new();
        let mut at = path.as_ref();
        while !at.is_dir() {
            missing.push(at);
            match parent(at) {
                Some(parent) => at = parent,
                None => break,
            }
        }
        for dir in missing.iter().rev() {
            match fs::create_dir(dir) {
                Ok(()) => {}
                Err(e) if e.kind() == IoKind::AlreadyExists => {}
                Err(e) => return Err(io_error("create a directory", dir, e)),
            }
            changed.insert(parent(dir).unwrap_or(Path::new(".")));
        }
    }
    // One wait for all that the file system has to write is then shorter than one for each.
    #[cfg(target_os = "linux")]
    if changed.len() > MAX_SYNCS
        && let Some(any) = changed.first()
    {
        let synced = File::open(any).and_then(|dir| Ok(rustix::fs::syncfs(dir)?));
        return synced.map_err(|e| io_error("sync a file system", any, e));
    }
    changed.into_iter().try_for_each(sync_dir)
}

fn parent(path: &Path) -> Option<&Path> {
    path.parent().filter(|parent| !parent.as_os_str().is_empty())
}

/// Writes a file anew and syncs it; the directory's entry is the caller's to sync.
pub(crate) fn write_synced(path: &Path, bytes: &[u8], between: impl FnOnce() -> Result<()>) -> Result<()> {
    let fail = |e| io_error("write a file", path, e);
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).open(path).map_err(fail)?;
    file.write_all(bytes).map_err(fail)?;
    between()?;
    file.sync_all().map_err(|e| io_error("sync a file", path, e))
}

/// Renames; `false` where the source does not exist.
pub(crate) fn rename(from: &Path, to: &Path) -> Result<bool> {
    match fs::rename(from, to) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == IoKind::NotFound && !from.exists() => Ok(false),
        Err(e) => Err(io_error("rename a file", from, e).at("to", to.display())),
    }
}

/// Removes a file; one that does not exist counts as removed.
pub(crate) fn remove_file(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != IoKind::NotFound => Err(io_error("remove a file", path, e)),
        _ => Ok(()),
    }
}

/// Removes a directory with all that is in it; one that does not exist counts as removed.
pub(crate) fn remove_tree(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() != IoKind::NotFound => Err(io_error("remove a directory", path, e)),
        _ => Ok(()),
    }
}

/// The names in a directory; none where it does not exist.
pub(crate) fn names(path: &Path) -> Result<Vec<String>> {
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(e) if e.kind() == IoKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(io_error("list a directory", path, e)),
    };
    entries
        .map(|entry| match entry {
            // A name that is no UTF-8 is none of ours.
            Ok(entry) => Ok(entry.file_name().into_string().ok()),
            Err(e) => Err(io_error("list a directory", path, e)),
        })
        .filter_map(Result::transpose)
        .collect()
}

/// All files below a directory, by path relative to it. Symbolic links are files and not followed.
pub(crate) fn walk(root: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut pending = vec![PathBuf::new()];
    while let Some(relative) = pending.pop() {
        let dir = root.join(&relative);
        let entries = match fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(e) if e.kind() == IoKind::NotFound => continue,
            Err(e) => return Err(io_error("list a directory", &dir, e)),
        };
        for entry in entries {
            let fail = |e| io_error("list a directory", &dir, e);
            let entry = entry.map_err(fail)?;
            let path = relative.join(entry.file_name());
            if entry.file_type().map_err(fail)?.is_dir() {
                pending.push(path);
            } else {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}

/// Removes the directories below and including `root` that are empty.
pub(crate) fn remove_empty_dirs(root: &Path) {
    if let Ok(entries) = fs::read_dir(root) {
        for entry in entries.flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                remove_empty_dirs(&entry.path());
            }
        }
    }
    // What is not empty stays: someone else's files are in it.
    let _ = fs::remove_dir(root);
}

/// Held while a stream's files are moved, so that a run that takes it over does not move them too.
///
/// Terms decide who may commit; this only keeps two live processes on one machine from finishing the same swap
/// at once. Where the file system has no locks it does nothing.
#[derive(Debug)]
pub(crate) struct StreamLock(#[expect(dead_code, reason = "held for its drop")] Option<File>);

impl StreamLock {
    const PATIENCE: Duration = Duration::from_secs(30);
    /// After this long somebody may wonder what is waited for.
    const SILENCE: Duration = Duration::from_secs(2);

    pub(crate) fn acquire(path: &Path) -> Result<Self> {
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(|e| io_error("open a lock", path, e))?;
        let (start, mut told) = (Instant::now(), false);
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Self(Some(file))),
                Err(fs::TryLockError::WouldBlock) if start.elapsed() < Self::PATIENCE => {
                    if !told && start.elapsed() > Self::SILENCE {
                        tracing::warn!(lock = %path.display(), "another process is moving this stream's files: waiting for it");
                        told = true;
                    }
                    std::thread::sleep(Duration::from_millis(10));
                }
                Err(fs::TryLockError::WouldBlock) => {
                    return Err(Error::new(
                        ErrorKind::Conflict,
                        "another process is moving this stream's files",
                    )
                    .at("lock", path.display())
                    .hint("let it finish, or end it"));
                }
                Err(fs::TryLockError::Error(e)) if e.kind() == IoKind::Unsupported => return Ok(Self(None)),
                Err(fs::TryLockError::Error(e)) => return Err(io_error("take a lock", path, e)),
            }
        }
    }
}
