//! Where runs put what they write: pipelines of their own, gone when they are dropped.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use lakeward_core::{Catalog, Destination, Error, ErrorKind, Result};
use serde::Serialize;
use serde_json::{Value, json};
use tempfile::{Builder, TempDir};

use crate::config::{self, Movable};

/// No namespace's directory begins so, and engines that know Hive's habits pass it by.
const BELOW_DESTINATION: &str = "_lakeward-bench-";

/// Room for runs: beside everything for configs and states and, with a destination, a directory in it for files.
pub(crate) struct Scratch {
    files: Option<(Movable, TempDir)>,
    /// Directories that were made for it, the innermost first.
    made: Vec<PathBuf>,
}

impl Scratch {
    /// Room for runs into the null destination, or below the one that a config names.
    ///
    /// # Errors
    /// `Config` for a destination without a directory of its own, `Destination` where nothing can be made in it.
    pub(crate) fn new(destination: Option<&Path>) -> Result<Self> {
        let Some(file) = destination else { return Ok(Self { files: None, made: Vec::new() }) };
        let Some(movable) = config::movable(file)? else { return Ok(Self { files: None, made: Vec::new() }) };
        let root = movable.directory.clone();
        let made: Vec<PathBuf> =
            root.ancestors().take_while(|path| !path.exists()).map(Path::to_path_buf).collect();
        let cannot = |error| {
            Error::new(ErrorKind::Destination, "no directory can be made for the benchmark's files")
                .at("directory", root.display())
                .hint("the user that runs this needs to write there")
                .source(error)
        };
        // First, so that what is made is removed where the rest fails.
        let mut scratch = Self { files: None, made };
        std::fs::create_dir_all(&root).map_err(cannot)?;
        let directory = Builder::new().prefix(BELOW_DESTINATION).tempdir_in(&root).map_err(cannot)?;
        scratch.files = Some((movable, directory));
        Ok(scratch)
    }

    /// Whether files are written.
    pub(crate) fn keeps_files(&self) -> bool {
        self.files.is_some()
    }

    /// A pipeline that has never run.
    pub(crate) fn pipeline(&self, catalog: &Catalog) -> Result<ScratchPipeline> {
        let cannot = |error| {
            Error::new(ErrorKind::Destination, "no directory can be made for a run")
                .hint("free some space; TMPDIR names another place for configs and states")
                .source(error)
        };
        let directory = Builder::new().prefix("lakeward-bench-").tempdir().map_err(cannot)?;
        let (files, config) = match &self.files {
            Some((movable, below)) => {
                let files = Builder::new().prefix("run-").tempdir_in(below.path()).map_err(cannot)?;
                let config = movable.moved_to(files.path())?;
                (Some(files), config)
            }
            None => (None, json!({ "type": "null" })),
        };
        let pipeline = ScratchPipeline { directory, _files: files };
        write(&pipeline.streams(), catalog).map_err(cannot)?;
        write(&pipeline.destination(), &config).map_err(cannot)?;
        Ok(pipeline)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Before the directories that it lies in; what others put into those meanwhile keeps them.
        drop(self.files.take());
        for directory in &self.made {
            let _ = std::fs::remove_dir(directory);
        }
    }
}

/// Configs and state of a pipeline that lives as long as this.
pub(crate) struct ScratchPipeline {
    directory: TempDir,
    _files: Option<TempDir>,
}

impl ScratchPipeline {
    pub(crate) fn streams(&self) -> PathBuf {
        self.directory.path().join("streams.json")
    }

    pub(crate) fn destination(&self) -> PathBuf {
        self.directory.path().join("destination.json")
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.directory.path().join("state.json")
    }

    /// Its destination, to look at what a run left there.
    pub(crate) fn open(&self) -> Result<Arc<dyn Destination>> {
        config::destination(&self.destination())
    }
}

fn write(path: &Path, content: &impl Serialize) -> std::io::Result<()> {
    let content: Value = serde_json::to_value(content)?;
    std::fs::write(path, content.to_string())
}
