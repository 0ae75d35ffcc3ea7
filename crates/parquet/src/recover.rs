//! Taking a stream over at the start of a run: claim first, then finish what a crash left half done.

use std::path::PathBuf;

use lakeward_core::{Error, ErrorKind, Result, Run, StreamId, failpoint};

use crate::commit::{Held, other_pipeline, stream_name, taken_over};
use crate::durable::{self, StreamLock, ensure_dir, walk};
use crate::layout::{StreamPaths, escape, is_ours};
use crate::log::{self, Appended};
use crate::publish;

impl Held {
    /// Takes a stream over for a run.
    ///
    /// The claim is a record of its own, except where nothing was ever committed or staged: the first commit
    /// carries it then.
    ///
    /// # Errors
    /// `Conflict` where the stream belongs to another pipeline, or a later run takes it meanwhile.
    pub(crate) fn take_over(paths: StreamPaths, id: &StreamId, run: &Run) -> Result<Self> {
        ensure_dir(&paths.meta)?;
        // Staging is made and emptied under the lock, so that no run empties that of one that comes after it.
        let _lock = StreamLock::acquire(&paths.lock())?;
        let mut fold = log::read(&paths)?;
        if fold.number > 0 && fold.pipeline != run.pipeline {
            return Err(other_pipeline(&fold.pipeline));
        }
        if fold.number == 0 && walk(&paths.visible)?.iter().any(|path| is_ours(path)) {
            return Err(Error::new(
                ErrorKind::Conflict,
                "the stream's directory holds files of an earlier replication whose commit log is gone",
            )
            .at("path", paths.visible.display())
            .hint("restore the log from a backup, or clear the stream with `lakeward clear`"));
        }
        let staging = paths.staging_of(&run.id);
        ensure_dir(&paths.commits())?;
        ensure_dir(&staging)?;
        let abandoned = Abandoned::list(&paths, run)?;
        fold.stream = stream_name(id);
        let mut held = Self {
            name: stream_name(id),
            run: run.clone(),
            claimed: fold.number > 0 && fold.run == run.id,
            term: if fold.run == run.id { fold.term } else { fold.term + 1 },
            paths,
            staging,
            fold,
            in_doubt: None,
        };
        // Even an empty staging directory may be that of a run that has deferred its claim.
        if !held.claimed && (held.fold.number > 0 || !abandoned.dirs.is_empty()) {
            held.claim()?;
        }
        publish::recover(&held.paths, &held.fold)?;
        held.empty(&abandoned)?;
        Ok(held)
    }

    fn claim(&mut self) -> Result<()> {
        loop {
            let record = self.repeat();
            match log::append(&self.paths, &self.staging, &record).map_err(|failure| failure.error)? {
                Appended::Linked => {
                    failpoint::hit("parquet-claim-linked")?;
                    self.fold.apply(&record);
                    self.claimed = true;
                    return Ok(());
                }
                Appended::Taken => {
                    log::extend(&self.paths, &mut self.fold)?;
                    if self.fold.pipeline != self.run.pipeline {
                        return Err(other_pipeline(&self.fold.pipeline));
                    }
                    if self.fold.run == self.run.id {
                        self.claimed = true;
                        return Ok(());
                    }
                    self.term = self.fold.term + 1;
                }
            }
        }
    }

    /// Removes what runs with a lower term left in staging. It was listed before this look at the log: what a
    /// run that claims from now on stages is not in the list.
    fn empty(&self, abandoned: &Abandoned) -> Result<()> {
        if let Some(later) = log::read_record(&self.paths, self.fold.number + 1)? {
            return Err(taken_over(&later));
        }
        for path in &abandoned.files {
            durable::remove_file(path)?;
            failpoint::hit("parquet-staged-file-removed")?;
        }
        for dir in &abandoned.dirs {
            // What is not empty by now belongs to someone; let it be.
            let _ = std::fs::remove_dir(dir);
        }
        Ok(())
    }
}

/// What other runs staged.
struct Abandoned {
    dirs: Vec<PathBuf>,
    files: Vec<PathBuf>,
}

impl Abandoned {
    fn list(paths: &StreamPaths, run: &Run) -> Result<Self> {
        let mut found = Self { dirs: Vec::new(), files: Vec::new() };
        for name in durable::names(&paths.staging())?.into_iter().filter(|name| *name != escape(&run.id)) {
            let dir = paths.staging().join(name);
            found.files.extend(walk(&dir)?.into_iter().map(|file| dir.join(file)));
            found.dirs.push(dir);
        }
        Ok(found)
    }
}
