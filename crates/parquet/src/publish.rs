//! Makes the directories agree with the log: staged files come to their places, a swap is done, what is no
//! longer part of the stream goes. The same code finishes a commit and what a crash left of one.
//!
//! It works on the net of the log, so a file that was added and later removed is not awaited, and it may be run
//! again at any point of itself. What is visible is always committed.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use lakeward_core::{Error, ErrorKind, Result, SwapStep, failpoint};
use rustix::fs::{CWD, RenameFlags, renameat_with};

use crate::durable::{ensure_dir, names, remove_empty_dirs, remove_file, rename, sync_dir, walk};
use crate::error::io_error;
use crate::fold::{Fold, LiveFile};
use crate::layout::{StreamPaths, is_ours};
use crate::record::Record;

/// Publishes what one record, the last of `fold`, changed.
pub(crate) fn publish(paths: &StreamPaths, fold: &Fold, record: &Record) -> Result<()> {
    let stage = Stage { paths, fold };
    let added = record.add.iter().filter_map(|added| fold.files.get_key_value(&added.path)).collect();
    if record.swap.is_some() {
        stage.place_and_swap(added)?;
    } else {
        stage.place(added, false)?;
    }
    if !record.remove.is_empty() {
        stage.remove(record)?;
    }
    let begins = record.open.as_ref().is_some_and(|open| open.backfill);
    if begins || record.swap.is_some() {
        stage.drop_hidden_generations()?;
    }
    stage.settle_windows()
}

/// Publishes whatever of the whole log is not published.
pub(crate) fn recover(paths: &StreamPaths, fold: &Fold) -> Result<()> {
    let stage = Stage { paths, fold };
    stage.place_and_swap(fold.files.iter().collect())?;
    stage.remove_strays()?;
    stage.drop_hidden_generations()?;
    stage.settle_windows()
}

struct Stage<'a> {
    paths: &'a StreamPaths,
    fold: &'a Fold,
}

type Listed<'a> = (&'a String, &'a LiveFile);

impl Stage<'_> {
    /// The directory where a generation's files lie.
    fn home(&self, generation: u32, swap_pending: bool) -> PathBuf {
        if self.fold.is_visible(generation) && !(swap_pending && generation == self.fold.generation) {
            self.paths.visible.clone()
        } else {
            self.paths.hidden(generation)
        }
    }

    fn place_and_swap(&self, files: Vec<Listed<'_>>) -> Result<()> {
        let Some(swap) = &self.fold.swap else { return self.place(files, false) };
        let done = self.is_swapped(&swap.witness);
        match swap.mode {
            // A first generation of one file comes into sight by its own rename.
            SwapStep::Replace if !done && self.is_single_and_first()? => self.place(files, false)?,
            SwapStep::Replace => {
                self.place(files, !done)?;
                if !done {
                    // A chunk that was read again must not come into sight twice.
                    self.remove_strays_in(&self.paths.hidden(self.fold.generation), true)?;
                    self.exchange()?;
                }
            }
            // History stays: the files join it, and the one of the swap's own commit that ends the generation before
            // comes last. What of the history was rewritten comes behind it: nobody counts it twice there.
            SwapStep::KeepHistory => {
                let (last, first): (Vec<Listed<'_>>, Vec<Listed<'_>>) = self
                    .fold
                    .files
                    .iter()
                    .filter(|(_, file)| file.generation == self.fold.generation)
                    .partition(|(path, _)| **path == swap.witness);
                let shown = last.first().map(|(_, file)| file.commit);
                let (rewritten, others) = files
                    .into_iter()
                    .filter(|(_, file)| file.generation != self.fold.generation)
                    .partition(|(_, file)| Some(file.commit) == shown);
                for files in [others, first, last, rewritten] {
                    self.place(files, false)?;
                }
            }
        }
        self.retire_former()
    }

    /// The exchange is done iff the witness lies in the visible directory. Where it lies nowhere at all, someone
    /// deleted it: nothing is left to exchange then.
    fn is_swapped(&self, witness: &String) -> bool {
        let generation = self.fold.generation;
        let staged = self.fold.files.get(witness).map(|file| self.paths.meta.join(&file.facts.staged));
        self.paths.visible.join(witness).exists()
            || !(staged.is_some_and(|staged| staged.exists())
                || self.paths.hidden(generation).join(witness).exists())
    }

    fn is_single_and_first(&self) -> Result<bool> {
        let single = self.fold.paths_of(self.fold.generation).count() == 1;
        Ok(single
            && !self.paths.hidden(self.fold.generation).exists()
            && !self.paths.retired(self.fold.generation).exists()
            && !walk(&self.paths.visible)?.iter().any(|path| is_ours(path)))
    }

    /// Renames files from staging, or from their hidden generation, to where they belong, and syncs the
    /// directories.
    fn place(&self, files: Vec<Listed<'_>>, swap_pending: bool) -> Result<()> {
        let mut touched = BTreeSet::new();
        // A crash may have kept the newest renames from being synced.
        let newest = files.iter().map(|(_, file)| file.commit).max();
        for (path, file) in files {
            let home = self.home(file.generation, swap_pending);
            let target = home.join(path);
            let dir = target.parent().unwrap_or(&home).to_owned();
            if target.exists() {
                if Some(file.commit) == newest {
                    touched.insert(dir);
                }
                continue;
            }
            if !touched.contains(&dir) {
                ensure_dir(&dir)?;
            }
            let staged = self.paths.meta.join(&file.facts.staged);
            let hidden = self.paths.hidden(file.generation).join(path);
            if rename(&staged, &target)? || (hidden != target && rename(&hidden, &target)?) {
                touched.insert(dir);
                failpoint::hit("parquet-file-renamed")?;
            } else if !target.exists() {
                return Err(Error::new(ErrorKind::Destination, "a committed file is missing")
                    .at("path", target.display())
                    .hint("restore the file from a backup, or clear the stream with `lakeward clear`"));
            }
        }
        for dir in &touched {
            sync_dir(dir)?;
        }
        if !touched.is_empty() {
            failpoint::hit("parquet-targets-synced")?;
        }
        Ok(())
    }

    /// Makes the hidden generation the visible one.
    fn exchange(&self) -> Result<()> {
        let hidden = self.paths.hidden(self.fold.generation);
        let visible = &self.paths.visible;
        if let Some(parent) = visible.parent() {
            ensure_dir(parent)?;
        }
        match fs::rename(&hidden, visible) {
            Ok(()) => failpoint::hit("parquet-swap-renamed")?,
            // Something is there: the generation before, or someone else's files.
            Err(e) if matches!(e.kind(), io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists) => {
                match renameat_with(CWD, &hidden, CWD, visible, RenameFlags::EXCHANGE) {
                    Ok(()) => failpoint::hit("parquet-swap-exchanged")?,
                    Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS | rustix::io::Errno::NOTSUP) => {
                        self.exchange_by_two_renames(&hidden)?;
                    }
                    Err(e) => return Err(io_error("exchange two directories", visible, e.into())),
                }
            }
            Err(e) => return Err(io_error("rename a directory", &hidden, e)),
        }
        self.sync_parents()
    }

    /// Where the file system cannot exchange, readers see nothing for the moment between the two.
    fn exchange_by_two_renames(&self, hidden: &Path) -> Result<()> {
        let retired = self.paths.retired(self.fold.generation);
        rename(&self.paths.visible, &retired)?;
        failpoint::hit("parquet-swap-retired")?;
        rename(hidden, &self.paths.visible)?;
        failpoint::hit("parquet-swap-renamed")
    }

    fn sync_parents(&self) -> Result<()> {
        if let Some(parent) = self.paths.visible.parent() {
            sync_dir(parent)?;
        }
        sync_dir(&self.paths.meta)?;
        failpoint::hit("parquet-swap-synced")
    }

    /// After a swap: gives foreign files back to the visible directory, then deletes the former generation.
    fn retire_former(&self) -> Result<()> {
        let generation = self.fold.generation;
        for former in [self.paths.hidden(generation), self.paths.retired(generation)] {
            if !former.exists() {
                continue;
            }
            let (ours, foreign): (Vec<PathBuf>, Vec<PathBuf>) =
                walk(&former)?.into_iter().partition(|path| is_ours(path));
            let mut touched = BTreeSet::new();
            for path in foreign {
                self.give_back(&former.join(&path), &self.paths.visible.join(&path), &mut touched)?;
            }
            for dir in &touched {
                sync_dir(dir)?;
            }
            self.sync_parents()?;
            for path in ours {
                remove_file(&former.join(path))?;
                failpoint::hit("parquet-former-file-removed")?;
            }
            remove_empty_dirs(&former);
            failpoint::hit("parquet-former-generation-removed")?;
        }
        Ok(())
    }

    fn give_back(&self, from: &Path, to: &Path, touched: &mut BTreeSet<PathBuf>) -> Result<()> {
        let dir = to.parent().unwrap_or(&self.paths.visible).to_owned();
        ensure_dir(&dir)?;
        let mut target = to.to_owned();
        for attempt in 0u32.. {
            // Someone may have put a file of the same name there meanwhile: both are kept.
            if target.symlink_metadata().is_err() {
                break;
            }
            let mut name = to.file_name().unwrap_or_default().to_owned();
            name.push(format!("~{attempt}"));
            target = to.with_file_name(name);
        }
        rename(from, &target)?;
        touched.insert(dir);
        failpoint::hit("parquet-foreign-file-returned")
    }

    /// Unlinks the files that a record removed.
    fn remove(&self, record: &Record) -> Result<()> {
        for path in &record.remove {
            remove_file(&self.home(record.generation, false).join(path))?;
            failpoint::hit("parquet-file-removed")?;
        }
        Ok(())
    }

    /// Unlinks what a crash kept from being unlinked: files of ours that the log does not list.
    fn remove_strays(&self) -> Result<()> {
        let mut homes = vec![self.paths.visible.clone()];
        if self.fold.open.is_some() {
            homes.push(self.paths.hidden(self.fold.generation));
        }
        homes.iter().try_for_each(|home| self.remove_strays_in(home, false))
    }

    fn remove_strays_in(&self, home: &Path, swap_pending: bool) -> Result<()> {
        for path in walk(home)?.into_iter().filter(|path| is_ours(path)) {
            let live = path
                .to_str()
                .and_then(|path| self.fold.files.get(path))
                .is_some_and(|file| self.home(file.generation, swap_pending) == home);
            if !live {
                remove_file(&home.join(path))?;
                failpoint::hit("parquet-stray-removed")?;
            }
        }
        Ok(())
    }

    /// Deletes every hidden generation but the one that is open.
    fn drop_hidden_generations(&self) -> Result<()> {
        let open = self.fold.open.as_ref().map(|_| format!("gen-{}", self.fold.generation));
        for name in names(&self.paths.meta)? {
            let hidden = name.strip_prefix("gen-").is_some_and(|number| number.parse::<u32>().is_ok());
            if !hidden || Some(&name) == open.as_ref() {
                continue;
            }
            let dir = self.paths.meta.join(&name);
            for path in walk(&dir)?.into_iter().filter(|path| is_ours(path)) {
                remove_file(&dir.join(path))?;
            }
            remove_empty_dirs(&dir);
            failpoint::hit("parquet-hidden-generation-removed")?;
        }
        Ok(())
    }

    /// Publishes the window; keeps it and the one before, which the state may still name.
    fn settle_windows(&self) -> Result<()> {
        let Some(window) = &self.fold.window else { return Ok(()) };
        let target = self.paths.meta.join(&window.path);
        if rename(&self.paths.meta.join(&window.staged), &target)? {
            failpoint::hit("parquet-window-renamed")?;
            sync_dir(&self.paths.meta)?;
            failpoint::hit("parquet-window-synced")?;
            let kept = [Some(window), self.fold.previous_window.as_ref()];
            for name in names(&self.paths.meta)? {
                let ours = name.starts_with("window-") && name.ends_with(".bin");
                if ours && !kept.iter().flatten().any(|kept| kept.path == name) {
                    remove_file(&self.paths.meta.join(&name))?;
                    failpoint::hit("parquet-window-removed")?;
                }
            }
        } else if !target.exists() {
            return Err(Error::new(ErrorKind::Destination, "the window of an incremental stream is missing")
                .at("path", target.display())
                .hint("restore the file from a backup, or clear the stream with `lakeward clear`"));
        }
        Ok(())
    }
}
