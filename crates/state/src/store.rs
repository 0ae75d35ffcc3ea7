//! Opening, reading and saving a state.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use lakeward_core::{Chunk, Error, ErrorKind, Pipeline, Position, Result, StreamId, SyncMode, failpoint};

use crate::format;
use crate::lock::Lock;

/// Where a pipeline stands.
#[derive(Debug, Clone, PartialEq)]
pub struct State {
    /// The source and the destination that it joins.
    pub pipeline: Pipeline,
    /// The position of a shared log, where streams follow one.
    pub global: Option<GlobalState>,
    /// Every stream that was ever synced by this pipeline.
    pub streams: BTreeMap<StreamId, StreamState>,
}

impl State {
    /// A state in which nothing has happened yet.
    pub fn new(pipeline: Pipeline) -> Self {
        Self { pipeline, global: None, streams: BTreeMap::new() }
    }

    /// Reads a state file's contents.
    ///
    /// # Errors
    /// `State`, where they are torn or of an unknown version.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        format::read(bytes)
    }

    /// A state file's contents.
    ///
    /// # Errors
    /// `Bug`, where they cannot be written.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        format::write(self)
    }
}

/// The position that streams of a shared log have in common.
#[derive(Debug, Clone, PartialEq)]
pub struct GlobalState {
    /// Everything before it is committed for every stream.
    pub position: Position,
    /// When that was all that the source had to say, in microseconds since the epoch.
    pub as_of: Option<i64>,
    /// The streams that follow it.
    pub streams: Vec<StreamId>,
}

/// Where a stream stands.
#[derive(Debug, Clone, PartialEq)]
pub struct StreamState {
    /// Its mode.
    pub sync_mode: SyncMode,
    /// Its newest generation.
    pub generation: u32,
    /// Its position in the source's log.
    pub position: Option<Position>,
    /// The number of its last commit at the destination.
    pub commit: u64,
    /// Chunks of the backfill that are left; none when it is complete.
    pub chunks: Vec<Chunk>,
    /// Chunks of the backfill that are committed.
    pub chunks_done: u32,
    /// Rows committed in its newest generation.
    pub rows_synced: u64,
    /// The number of its last incremental pass.
    pub pass: u64,
    /// Cursor column and greatest value, in the state's own form.
    pub cursor: Option<(String, String)>,
    /// The window file of the last pass, at the destination.
    pub window: Option<String>,
}

/// A state file, locked for this process.
#[derive(Debug)]
pub struct StateStore {
    path: PathBuf,
    _lock: Lock,
}

impl StateStore {
    /// Takes the lock of a state file, which need not exist yet.
    ///
    /// # Errors
    /// `State` where another process holds it; the error names the holder.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self> {
        let path = path.into();
        let lock = Lock::take(&path)?;
        Ok(Self { path, _lock: lock })
    }

    /// Where the file lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the state; `None` where there is no file.
    ///
    /// # Errors
    /// `State` where the file is torn or of an unknown version.
    pub fn load(&self) -> Result<Option<State>> {
        Self::read(&self.path)
    }

    /// Reads a state without taking its lock, for looking only.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn read(path: &Path) -> Result<Option<State>> {
        match std::fs::read(path) {
            Ok(text) => format::read(&text).map(Some).map_err(|error| error.at("file", path.display())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(io_error("read", path, error)),
        }
    }

    /// Saves the state atomically: written beside it, synced, renamed over it, directory synced.
    pub fn save(&self, state: &State) -> Result<()> {
        let text = format::write(state)?;
        let directory = match self.path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let mut name = self.path.file_name().unwrap_or_default().to_os_string();
        name.push(".new");
        let temporary = directory.join(name);
        let mut file = File::create(&temporary).map_err(|error| io_error("write", &temporary, error))?;
        file.write_all(&text).map_err(|error| io_error("write", &temporary, error))?;
        file.sync_all().map_err(|error| io_error("sync", &temporary, error))?;
        failpoint::hit("state-written")?;
        std::fs::rename(&temporary, &self.path).map_err(|error| io_error("replace", &self.path, error))?;
        failpoint::hit("state-renamed")?;
        File::open(directory)
            .and_then(|directory| directory.sync_all())
            .map_err(|error| io_error("sync the directory of", &self.path, error))
    }

    /// Moves the present file, whatever is in it, to `<state>.before-rebuild`; `None` where there is no file.
    pub fn set_aside(&self) -> Result<Option<PathBuf>> {
        if !self.path.exists() {
            return Ok(None);
        }
        let mut name = self.path.file_name().unwrap_or_default().to_os_string();
        name.push(".before-rebuild");
        let aside = self.path.with_file_name(name);
        std::fs::rename(&self.path, &aside).map_err(|error| io_error("set aside", &self.path, error))?;
        Ok(Some(aside))
    }
}

fn io_error(what: &str, path: &Path, error: std::io::Error) -> Error {
    Error::new(ErrorKind::State, format!("cannot {what} the state file"))
        .source(error)
        .at("file", path.display())
        .hint("the state's directory must exist, be writable and have room")
}
