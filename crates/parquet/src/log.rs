//! One stream's commit log on disk: read it, append to it.
//!
//! A record is whole before its name exists: it is written and synced elsewhere and then linked, which fails
//! where another writer has taken the number.

use std::fs;
use std::io::ErrorKind as IoKind;
use std::path::Path;

use lakeward_core::{Error, ErrorKind, Result, failpoint};

use crate::durable;
use crate::error::io_error;
use crate::fold::Fold;
use crate::layout::StreamPaths;
use crate::record::{CHECKPOINT_EVERY, Record};

/// What became of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Appended {
    /// It is committed.
    Linked,
    /// Its number is taken.
    Taken,
}

/// A failed commit, and whether what is on disk may no longer be what memory says.
#[derive(Debug)]
pub(crate) struct CommitError {
    pub(crate) error: Error,
    pub(crate) in_doubt: bool,
}

impl CommitError {
    pub(crate) fn in_doubt(error: Error) -> Self {
        Self { error, in_doubt: true }
    }
}

/// A failure before anything was changed.
impl From<Error> for CommitError {
    fn from(error: Error) -> Self {
        Self { error, in_doubt: false }
    }
}

/// Reads a record; `None` where there is none of that number.
pub(crate) fn read_record(paths: &StreamPaths, number: u64) -> Result<Option<Record>> {
    let path = paths.record(number);
    match fs::read(&path) {
        Ok(bytes) => Record::parse(&bytes, &path).map(Some),
        Err(e) if e.kind() == IoKind::NotFound => Ok(None),
        Err(e) => Err(io_error("read a commit record", &path, e)),
    }
}

fn last_number(paths: &StreamPaths) -> Result<u64> {
    let names = durable::names(&paths.commits())?;
    let numbers = names.iter().filter_map(|name| {
        let digits = name.strip_suffix(".json").filter(|digits| digits.len() == 12)?;
        digits.parse::<u64>().ok()
    });
    Ok(numbers.max().unwrap_or(0))
}

/// What the log amounts to, from its newest checkpoint on.
///
/// # Errors
/// `Destination` where a record is missing, damaged or of an unknown version.
pub(crate) fn read(paths: &StreamPaths) -> Result<Fold> {
    let last = last_number(paths)?;
    let mut fold = Fold::default();
    let newest = last / CHECKPOINT_EVERY * CHECKPOINT_EVERY;
    if newest > 0
        && let Some(checkpoint) = read_record(paths, newest)?.and_then(|record| record.checkpoint)
    {
        fold = *checkpoint;
    }
    extend(paths, &mut fold)?;
    if fold.number < last {
        return Err(Error::new(ErrorKind::Destination, "the commit log has a gap")
            .at("missing", paths.record(fold.number + 1).display())
            .hint("restore the file from a backup, or clear the stream with `lakeward clear`"));
    }
    Ok(fold)
}

/// Adds the records that were appended since.
pub(crate) fn extend(paths: &StreamPaths, fold: &mut Fold) -> Result<()> {
    while let Some(record) = read_record(paths, fold.number + 1)? {
        fold.apply(&record);
    }
    Ok(())
}

/// Commits a record: writes it to `staging`, syncs it, links it to its number, syncs the log's directory.
pub(crate) fn append(paths: &StreamPaths, staging: &Path, record: &Record) -> Result<Appended, CommitError> {
    let temporary = staging.join(format!("record-{:012}.json.part", record.number));
    let bytes = record.to_bytes()?;
    durable::write_synced(&temporary, &bytes, || failpoint::hit("parquet-record-written"))?;
    failpoint::hit("parquet-record-synced")?;

    let target = paths.record(record.number);
    let appended = match fs::hard_link(&temporary, &target) {
        Ok(()) => Appended::Linked,
        Err(e) if e.kind() == IoKind::AlreadyExists => Appended::Taken,
        Err(e) => return Err(CommitError::in_doubt(io_error("link a commit record", &target, e))),
    };
    if appended == Appended::Linked {
        failpoint::hit("parquet-record-linked").map_err(CommitError::in_doubt)?;
        durable::sync_dir(&paths.commits()).map_err(CommitError::in_doubt)?;
        failpoint::hit("parquet-commits-synced").map_err(CommitError::in_doubt)?;
    }
    // The temporary name is staging's to sweep if this fails.
    let _ = fs::remove_file(&temporary);
    Ok(appended)
}
