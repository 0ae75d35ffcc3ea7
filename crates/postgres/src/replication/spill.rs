//! Transactions in progress, kept as they came until they are committed or rolled back.
//!
//! Guarantee: memory is only taken where the budget has it now; what it has not goes to a file that has no name,
//! so that nothing is left of it whatever happens to the process.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use lakeward_core::{Error, ErrorKind, MemoryBudget, Reservation, Result, ResultExt};

/// What a transaction keeps in memory before it asks for more, or is written out.
const STEP: usize = 256 << 10;
/// Of the budget all of them together take no more than this part.
const SHARE: usize = 8;
const LENGTH: usize = size_of::<u32>();

/// One transaction: its messages in order, each behind its length.
#[derive(Debug, Default)]
struct Kept {
    memory: Vec<u8>,
    reservation: Option<Reservation>,
    file: Option<File>,
    /// Subtransactions that were rolled back.
    aborted: HashSet<u32>,
}

/// All transactions in progress, by their top-level number.
#[derive(Debug)]
pub(super) struct InProgress {
    kept: HashMap<u32, Kept>,
    budget: MemoryBudget,
    directory: PathBuf,
}

/// The messages of a transaction that was committed.
#[derive(Debug)]
pub(super) struct Replay {
    /// Subtransactions whose changes do not count.
    pub(super) aborted: HashSet<u32>,
    file: Option<BufReader<File>>,
    memory: Vec<u8>,
    at: usize,
    _reservation: Option<Reservation>,
}

impl InProgress {
    pub(super) fn new(budget: MemoryBudget, directory: PathBuf) -> Self {
        Self { kept: HashMap::new(), budget, directory }
    }

    /// Keeps a message of a transaction.
    pub(super) fn keep(&mut self, xid: u32, message: &[u8]) -> Result<()> {
        let length = u32::try_from(message.len())
            .map_err(|_| Error::new(ErrorKind::Source, "a message of the log is larger than 4 GiB"))?;
        let reserved = |kept: &Kept| kept.reservation.as_ref().map_or(0, Reservation::bytes);
        let needed = LENGTH + message.len();
        // Once it is in a file it takes one step of memory, and writes that out when it is full.
        let room = |kept: &Kept| kept.file.is_some() || kept.memory.len() + needed <= reserved(kept);
        if !self.kept.get(&xid).is_some_and(room) {
            let taken: usize = self.kept.values().map(reserved).sum();
            let kept = self.kept.entry(xid).or_default();
            let more = STEP.max(needed);
            let allowed = taken + more <= self.budget.total() / SHARE;
            match self.budget.try_reserve(more).filter(|_| allowed) {
                Some(more) => {
                    match &mut kept.reservation {
                        Some(reservation) => reservation.merge(more),
                        none => *none = Some(more),
                    }
                    // Left to itself it would grow to twice of what is paid for.
                    kept.memory.reserve_exact(reserved(kept) - kept.memory.len());
                }
                None => kept.write_out(&self.directory)?,
            }
        }
        let kept = self.kept.entry(xid).or_default();
        if kept.file.is_some() && needed > STEP {
            // Not through memory that nothing pays for.
            kept.flush()?;
            return kept.write(&length.to_be_bytes()).and_then(|()| kept.write(message));
        }
        kept.memory.extend_from_slice(&length.to_be_bytes());
        kept.memory.extend_from_slice(message);
        if kept.file.is_some() && kept.memory.len() >= STEP { kept.flush() } else { Ok(()) }
    }

    /// A transaction, or a part of one, was rolled back.
    pub(super) fn abort(&mut self, xid: u32, subxid: u32) {
        if xid == subxid {
            self.kept.remove(&xid);
        } else if let Some(kept) = self.kept.get_mut(&xid) {
            kept.aborted.insert(subxid);
        }
    }

    /// A transaction was committed: what there is of it.
    pub(super) fn commit(&mut self, xid: u32) -> Result<Replay> {
        let mut kept = self.kept.remove(&xid).unwrap_or_default();
        let file = match kept.file.is_some() {
            false => None,
            true => {
                kept.flush()?;
                let mut file = kept.file.take();
                if let Some(file) = &mut file {
                    file.seek(SeekFrom::Start(0)).or_fail(ErrorKind::Source, unreadable)?;
                }
                file.map(|file| BufReader::with_capacity(STEP, file))
            }
        };
        Ok(Replay { aborted: kept.aborted, file, memory: kept.memory, at: 0, _reservation: kept.reservation })
    }
}

impl Kept {
    /// From now on this transaction is in a file.
    fn write_out(&mut self, directory: &std::path::Path) -> Result<()> {
        /// Several pipelines of one process have one directory.
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let moment = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("lakeward-{}-{number}-{}.transaction", std::process::id(), moment.as_nanos());
        let path = directory.join(name);
        let file = File::options().read(true).write(true).create_new(true).open(&path);
        let file = file.or_fail(ErrorKind::Source, || {
            format!("a large transaction cannot be kept in {}", directory.display())
        })?;
        std::fs::remove_file(&path).or_fail(ErrorKind::Source, unwritable)?;
        self.file = Some(file);
        self.flush()?;
        self.reservation = None;
        self.memory = Vec::new();
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        let memory = std::mem::take(&mut self.memory);
        self.write(&memory)?;
        self.memory = memory;
        self.memory.clear();
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let Some(file) = &mut self.file else { return Err(Error::bug("a transaction has no file")) };
        file.write_all(bytes).map_err(|error| {
            Error::new(ErrorKind::Source, unwritable())
                .source(error)
                .hint("TMPDIR names another directory with more room")
        })
    }
}

fn unwritable() -> String {
    "a large transaction cannot be written to the temporary directory".to_owned()
}

fn unreadable() -> String {
    "a large transaction cannot be read back".to_owned()
}

impl Replay {
    /// The next message, into `buffer`; `false` at the end.
    pub(super) fn next(&mut self, buffer: &mut Vec<u8>) -> Result<bool> {
        buffer.clear();
        let mut length = [0; LENGTH];
        if let Some(file) = &mut self.file {
            let begun = file.read(&mut length).or_fail(ErrorKind::Source, unreadable)?;
            if begun == 0 {
                return Ok(false);
            }
            file.read_exact(&mut length[begun..]).or_fail(ErrorKind::Source, unreadable)?;
            buffer.resize(u32::from_be_bytes(length) as usize, 0);
            file.read_exact(buffer).or_fail(ErrorKind::Source, unreadable)?;
            return Ok(true);
        }
        let Some((length, rest)) = self.memory[self.at..].split_first_chunk() else { return Ok(false) };
        let length = u32::from_be_bytes(*length) as usize;
        buffer.extend_from_slice(&rest[..length]);
        self.at += LENGTH + length;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replayed(mut replay: Replay) -> Vec<Vec<u8>> {
        let (mut messages, mut buffer) = (Vec::new(), Vec::new());
        while replay.next(&mut buffer).unwrap() {
            messages.push(buffer.clone());
        }
        messages
    }

    #[test]
    fn what_was_kept_comes_back_in_order_from_memory_and_file() {
        for budget in [64 << 20, 1 << 10] {
            let budget = MemoryBudget::new(budget);
            let mut all = InProgress::new(budget.clone(), std::env::temp_dir());
            let message = |n: u32| vec![n as u8; (n * 37 % 300_000) as usize];
            for n in 0..300 {
                all.keep(7, &message(n)).unwrap();
                all.keep(8, &message(n)).unwrap();
            }
            all.abort(7, 9);
            all.abort(8, 8);
            let replay = all.commit(7).unwrap();
            assert!(replay.aborted.contains(&9));
            assert_eq!(replayed(replay), (0..300).map(message).collect::<Vec<_>>());
            assert!(replayed(all.commit(8).unwrap()).is_empty());
            assert_eq!(budget.available(), budget.total());
        }
    }
}
