//! A stream that this run holds: the one place where its records are made.
//!
//! The order of a commit, each step durable before the next: the unit's files (by the writer), the window, the
//! record, its link in the log, the renames.

use std::path::{Path, PathBuf};

use lakeward_core::{
    Error, ErrorKind, Progress, Result, Run, StreamCommit, StreamHead, StreamId, SwapStep, WrittenFile,
    failpoint,
};
use sha2::{Digest, Sha256};

use crate::compact::Choice;
use crate::durable::{self, StreamLock};
use crate::fold::Fold;
use crate::layout::{StreamPaths, file_name, hex, partition_dir};
use crate::log::{self, Appended, CommitError};
use crate::publish;
use crate::record::{
    AddedFile, CHECKPOINT_EVERY, ChunkDone, FileFacts, Kind, Open, Record, StreamName, Swap, VERSION, Window,
};

/// A stream that this run took over.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) paths: StreamPaths,
    pub(crate) name: StreamName,
    pub(crate) run: Run,
    /// Where this run's unfinished files lie.
    pub(crate) staging: PathBuf,
    pub(crate) fold: Fold,
    pub(crate) term: u64,
    /// Whether a record of this run is in the log. Where the log is empty the first commit claims too.
    pub(crate) claimed: bool,
    /// Set where a step failed after which memory and disk may differ, to what failed: only `prepare` may go on
    /// then.
    pub(crate) in_doubt: Option<String>,
}

impl Held {
    /// Commits one unit and publishes it.
    ///
    /// # Errors
    /// `Conflict` where another run or pipeline has the stream: nothing was committed.
    pub(crate) fn commit(&mut self, commit: &StreamCommit) -> Result<StreamHead> {
        self.guarded(|held| {
            let _lock = StreamLock::acquire(&held.paths.lock())?;
            let window = match &commit.window {
                Some(bytes) if held.staging.is_dir() => Some(held.stage_window(bytes)?),
                Some(_) => return Err(staging_gone(&held.staging).into()),
                None => None,
            };
            let head = held.in_order(|held| held.draft(commit, window.as_ref()).map(Some))?;
            head.ok_or_else(|| Error::bug("a commit made no record").into())
        })
    }

    /// Commits that a merged file takes the place of those it was made of, and publishes it. `None` where they
    /// are no longer all part of the visible newest generation: nothing was committed.
    ///
    /// # Errors
    /// As [`commit`](Self::commit).
    pub(crate) fn replace(&mut self, choice: &Choice, merged: &WrittenFile) -> Result<Option<StreamHead>> {
        self.guarded(|held| {
            let _lock = StreamLock::acquire(&held.paths.lock())?;
            held.in_order(|held| held.draft_merge(choice, merged))
        })
    }

    /// Fails where the next record is another run's.
    pub(crate) fn still_held(&self) -> Result<()> {
        match log::read_record(&self.paths, self.fold.number + 1)? {
            Some(later) if later.run != self.run.id => Err(taken_over(&later)),
            _ => Ok(()),
        }
    }

    /// Runs a commit, and remembers one that failed half way.
    fn guarded<T>(&mut self, commit: impl FnOnce(&mut Self) -> Result<T, CommitError>) -> Result<T> {
        if let Some(failure) = &self.in_doubt {
            // Which of two commits that were under way is told first is chance: both name what failed.
            return Err(Error::new(
                ErrorKind::Destination,
                "an earlier commit of this stream failed half way",
            )
            .hint("run again: what was committed is finished at the start")
            .source(failure.clone()));
        }
        let committed = commit(self);
        if let Err(CommitError { error, in_doubt: true }) = &committed {
            self.in_doubt = Some(format!("{error:?}"));
        }
        committed.map_err(|failure| failure.error)
    }

    /// Appends the record that `draft` makes of the log as it is, and publishes it. `None` where it makes none.
    fn in_order(
        &mut self,
        draft: impl Fn(&Self) -> Result<Option<Record>>,
    ) -> Result<Option<StreamHead>, CommitError> {
        let record = loop {
            let Some(mut record) = draft(self)? else { return Ok(None) };
            if record.number % CHECKPOINT_EVERY == 0 {
                let mut so_far = self.fold.clone();
                so_far.apply(&record);
                record.kind.push(Kind::Checkpoint);
                record.checkpoint = Some(Box::new(so_far));
            }
            // A run that took the stream over has emptied this one's staging too: look before writing there.
            let appended = match self.paths.record(record.number).exists() {
                true => Appended::Taken,
                false => log::append(&self.paths, &self.staging, &record)?,
            };
            match appended {
                Appended::Linked => break record,
                Appended::Taken => {
                    let other = self.taken(record.number)?;
                    let same = other.unit == record.unit && other.add == record.add;
                    if other.run == self.run.id && same {
                        // The link succeeded although the file system said no.
                        break other;
                    }
                    if other.run != self.run.id {
                        return Err(CommitError::in_doubt(taken_over(&other)));
                    }
                    self.fold.apply(&other);
                }
            }
        };
        self.claimed = true;
        self.fold.apply(&record);
        publish::publish(&self.paths, &self.fold, &record).map_err(CommitError::in_doubt)?;
        Ok(Some(self.fold.head()))
    }

    fn taken(&self, number: u64) -> Result<Record, CommitError> {
        let record = log::read_record(&self.paths, number)?.ok_or_else(|| {
            Error::new(
                ErrorKind::Destination,
                "a commit record's number is taken, but the record is not there",
            )
            .at("path", self.paths.record(number).display())
        })?;
        if record.pipeline != self.run.pipeline {
            return Err(CommitError::in_doubt(other_pipeline(&record.pipeline)));
        }
        Ok(record)
    }

    fn stage_window(&self, bytes: &[u8]) -> Result<Window> {
        let number = self.fold.number + 1;
        let path = format!("window-{number:012}.bin");
        let staged = self.staging.join(format!("{path}.part"));
        durable::write_synced(&staged, bytes, || failpoint::hit("parquet-window-written"))?;
        durable::sync_dir(&self.staging)?;
        failpoint::hit("parquet-window-staged")?;
        Ok(Window { path, sha256: hex(&Sha256::digest(bytes)), staged: self.in_meta(&staged)? })
    }

    /// A path of this run's staging directory as records have it.
    fn in_meta(&self, path: &Path) -> Result<String> {
        path.strip_prefix(&self.paths.meta)
            .ok()
            .filter(|_| path.starts_with(&self.staging))
            .and_then(Path::to_str)
            .map(str::to_owned)
            .ok_or_else(|| Error::bug("a unit's file was not staged by this run").at("path", path.display()))
    }

    /// A record that changes nothing: everything repeated from the one before.
    pub(crate) fn repeat(&self) -> Record {
        let fold = &self.fold;
        Record {
            version: VERSION,
            number: fold.number + 1,
            term: self.term,
            run: self.run.id.clone(),
            pipeline: self.run.pipeline.clone(),
            source: self.run.source.clone(),
            stream: self.name.clone(),
            kind: if self.claimed { Vec::new() } else { vec![Kind::Claim] },
            unit: None,
            generation: fold.generation,
            open: None,
            chunk: None,
            add: Vec::new(),
            remove: Vec::new(),
            swap: None,
            position: fold.position.clone(),
            cursor: fold.cursor.clone(),
            pass: fold.pass,
            global: fold.global.clone(),
            window: fold.window.clone(),
            checkpoint: None,
            at: jiff::Timestamp::now().to_string(),
        }
    }

    /// The record that does what a commit asks for, as it follows from the log.
    fn draft(&self, commit: &StreamCommit, window: Option<&Window>) -> Result<Record> {
        let fold = &self.fold;
        let begins = self.begins(commit)?;
        let mut record = self.repeat();
        record.unit = Some(commit.unit.clone());
        record.generation = commit.generation;
        record.chunk = commit.chunk.clone().map(|(number, done)| ChunkDone { number, done });
        if commit.global.is_some() {
            record.global.clone_from(&commit.global);
        }
        if begins {
            record.window = None;
        }
        if let Some(window) = window {
            record.window = Some(window.clone());
        }
        let progress = match &commit.progress {
            Some(progress) => Some(progress.clone()),
            None => begins.then(Progress::default),
        };
        if let Some(Progress { position, cursor, pass }) = progress {
            (record.position, record.cursor, record.pass) = (position, cursor, pass);
        }
        record.add = self.added(commit.generation, record.number, &commit.unit, &commit.files)?;

        if let Some(open) = &commit.open {
            record.kind.push(Kind::Open);
            record.open = Some(Open {
                definition: open.definition.clone(),
                fingerprint: open.fingerprint.clone(),
                snapshot: open.snapshot.clone(),
                plan: open.plan.clone(),
                backfill: open.backfill,
            });
            if open.backfill && !begins {
                // Changes are older than the new snapshot; chunks outside the plan are no longer awaited.
                let planned = |number: u32| open.plan.iter().any(|chunk| chunk.number == number);
                let stale =
                    fold.paths_of(commit.generation).filter(|(_, file)| !file.chunk.is_some_and(planned));
                record.remove.extend(stale.map(|(path, _)| path.clone()));
            }
        }
        if let (Some((number, _)), false) = (&commit.chunk, begins) {
            let before = fold.paths_of(commit.generation).filter(|(_, file)| file.chunk == Some(*number));
            record.remove.extend(before.map(|(path, _)| path.clone()));
        }
        if !commit.rewritten.is_empty() {
            self.draft_rewritten(&mut record, commit)?;
        }
        record.remove.sort();
        record.remove.dedup();
        if !record.add.is_empty() || record.chunk.is_some() || commit.progress.is_some() {
            record.kind.push(Kind::Data);
        }
        if !record.remove.is_empty() {
            record.kind.push(Kind::Replace);
        }
        if let Some(mode) = commit.swap {
            self.draft_swap(&mut record, mode)?;
        }
        Ok(record)
    }

    /// The record of a merge; `None` where the files that were merged are no longer what they were.
    fn draft_merge(&self, choice: &Choice, merged: &WrittenFile) -> Result<Option<Record>> {
        if !choice.still_stands(&self.fold) {
            return Ok(None);
        }
        let mut record = self.repeat();
        record.kind.push(Kind::Replace);
        record.unit = Some(choice.unit.clone());
        record.add =
            self.added(choice.generation, record.number, &choice.unit, std::slice::from_ref(merged))?;
        if choice.generation != record.generation {
            record.add.iter_mut().for_each(|file| file.generation = Some(choice.generation));
        }
        record.remove = choice.inputs.iter().map(|input| input.path.clone()).collect();
        record.remove.sort();
        Ok(Some(record))
    }

    /// Files of a unit as the record of that number adds them.
    fn added(
        &self,
        generation: u32,
        number: u64,
        unit: &str,
        files: &[WrittenFile],
    ) -> Result<Vec<AddedFile>> {
        let added = |(n, file): (usize, &WrittenFile)| {
            let mut path = String::new();
            for (field, value) in &file.partition {
                path.push_str(&partition_dir(field, value.as_deref()));
                path.push('/');
            }
            path.push_str(&file_name(generation, number, unit, n));
            let facts = FileFacts {
                kind: file.kind,
                rows: file.rows,
                bytes: file.bytes,
                partition: file.partition.clone(),
                sha256: file.sha256.clone(),
                staged: self.in_meta(Path::new(&file.staged))?,
            };
            Ok(AddedFile { path, generation: None, file: facts })
        };
        files.iter().enumerate().map(added).collect()
    }

    /// Lets rewritten files of what readers see take the place of those they were made of.
    fn draft_rewritten(&self, record: &mut Record, commit: &StreamCommit) -> Result<()> {
        let files: Vec<WrittenFile> =
            commit.rewritten.iter().map(|rewritten| rewritten.file.clone()).collect();
        let mut added = Vec::with_capacity(files.len());
        for generation in self.fold.visible.iter().copied() {
            let named = self.added(generation, record.number, &commit.unit, &files)?;
            let of_it = named.into_iter().zip(&commit.rewritten).filter(|(_, rewritten)| {
                let replaced = self.fold.files.get(&rewritten.replaces);
                replaced.is_some_and(|file| file.generation == generation)
            });
            added.extend(of_it.map(|(file, _)| AddedFile { generation: Some(generation), ..file }));
        }
        if commit.swap != Some(SwapStep::KeepHistory) {
            return Err(
                Error::bug("files were rewritten of a history that is not kept").at("unit", &commit.unit)
            );
        }
        if added.len() != files.len() {
            // Where nothing was opened before, small files may have been merged meanwhile.
            return Err(Error::new(
                ErrorKind::SessionLost,
                "files that were rewritten were replaced meanwhile",
            ));
        }
        record.remove.extend(commit.rewritten.iter().map(|rewritten| rewritten.replaces.clone()));
        record.add.extend(added);
        Ok(())
    }

    fn draft_swap(&self, record: &mut Record, mode: SwapStep) -> Result<()> {
        let mut after = self.fold.clone();
        after.apply(record);
        let refuse = |why: &str| Err(Error::bug(why).at("unit", record.unit.as_deref().unwrap_or_default()));
        let Some(open) = &after.open else { return refuse("a swap of a generation that is not open") };
        if !open.plan.iter().all(|chunk| open.done.contains_key(&chunk.number)) {
            return refuse("a swap of a generation whose chunks are not all committed");
        }
        // The last file of the swap's own commit: where history is kept it is the one that ends the generation
        // before, and comes last.
        let own = record.add.iter().rfind(|added| added.generation.is_none()).map(|added| added.path.clone());
        let Some(witness) =
            own.or_else(|| after.paths_of(record.generation).last().map(|(path, _)| path.clone()))
        else {
            return refuse("a swap of a generation without files");
        };
        let first = self.fold.visible.is_empty();
        let mode = if first { SwapStep::Replace } else { mode };
        record.kind.push(Kind::Swap);
        record.swap = Some(Swap { mode, witness });
        Ok(())
    }

    /// Whether a commit begins a new generation; refuses one that does not follow from the log.
    fn begins(&self, commit: &StreamCommit) -> Result<bool> {
        let refuse =
            |why: &str| Err(Error::bug(why).at("unit", &commit.unit).at("generation", commit.generation));
        let fold = &self.fold;
        let begins =
            commit.open.as_ref().is_some_and(|open| open.backfill) && commit.generation > fold.generation;
        if !begins && (commit.generation != fold.generation || fold.generation == 0) {
            return refuse("a commit to a generation that is not the newest");
        }
        let resumes = commit.open.as_ref().is_some_and(|open| open.backfill) && !begins;
        if !begins && fold.open.is_none() && (resumes || commit.chunk.is_some() || commit.swap.is_some()) {
            return refuse("a backfill of a generation that is complete");
        }
        Ok(begins)
    }
}

/// Another run has the stream now.
pub(crate) fn taken_over(by: &Record) -> Error {
    Error::new(
        ErrorKind::Conflict,
        "another run has taken this stream over; nothing of this unit was committed",
    )
    .at("run", &by.run)
    .at("since", &by.at)
    .hint("let one run at a time write to a destination; start this one again when the other is done")
}

/// The directory of a run's unfinished files is gone, which only a later run or `clear` does.
pub(crate) fn staging_gone(path: &Path) -> Error {
    Error::new(ErrorKind::Conflict, "another run has taken this stream over, or it was cleared")
        .at("path", path.display())
        .hint("let one run at a time write to a destination; start this one again when the other is done")
}

/// Another pipeline has the stream.
pub(crate) fn other_pipeline(pipeline: &str) -> Error {
    Error::new(ErrorKind::Conflict, "this stream belongs to another pipeline at the destination")
        .at("pipeline", pipeline)
        .hint(
            "if the state was lost, make it anew with `lakeward state rebuild`; to start over, clear the stream \
             with `lakeward clear`; otherwise choose another destination or destination_table",
        )
}

/// A stream's name as records have it.
pub(crate) fn stream_name(id: &StreamId) -> StreamName {
    StreamName { namespace: id.namespace.clone(), name: id.name.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lakeward_core::{Definition, Fingerprint, OpenStep, SourceIdentity, SyncMode};
    use serde_json::{Map, Value};

    #[test]
    fn a_link_that_succeeded_though_the_file_system_said_no_counts_once() -> Result<()> {
        let root = tempfile::tempdir().unwrap();
        let id = StreamId::new("public", "t");
        let paths = StreamPaths { visible: root.path().join("v"), meta: root.path().join("m") };
        let source = SourceIdentity { kind: "test".to_owned(), facts: Map::new() };
        let run = Run { id: "a".to_owned(), pipeline: "p".to_owned(), source };
        let mut held = Held::take_over(paths, &id, &run)?;
        let mut commit = StreamCommit::new(id, 1, "open".to_owned());
        commit.open = Some(OpenStep {
            definition: Definition {
                source_stream: ["public".to_owned(), "t".to_owned()],
                sync_mode: SyncMode::Cdc,
                key: Vec::new(),
                cursor: Vec::new(),
                filter: None,
                partition: Vec::new(),
                columns: Vec::new(),
                left_out: Vec::new(),
                columns_made: None,
            },
            fingerprint: Fingerprint::default(),
            snapshot: Value::Null,
            plan: Vec::new(),
            backfill: true,
        });
        let record = held.draft(&commit, None)?;
        assert_eq!(log::append(&held.paths, &held.staging, &record).unwrap(), Appended::Linked);
        assert_eq!(held.commit(&commit)?.commit, 1);
        // Another record of this run at the next number is passed by, not overwritten.
        let mut other = held.repeat();
        other.unit = Some("other".to_owned());
        assert_eq!(log::append(&held.paths, &held.staging, &other).unwrap(), Appended::Linked);
        let next = StreamCommit::new(commit.stream.clone(), 1, "next".to_owned());
        assert_eq!(held.commit(&next)?.commit, 3);
        Ok(())
    }
}
