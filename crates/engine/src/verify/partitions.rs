//! Records of one width, apart by key, in memory as long as there is room and in files without a name then.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};

use lakeward_core::{ErrorKind, Result, ResultExt};

/// More would make many small writes of few large ones.
const MOST_PARTS: u64 = 512;

/// Records, each in the part that its key belongs to.
pub(super) struct Partitions {
    parts: Vec<Part>,
    held: usize,
    room: usize,
}

#[derive(Default)]
struct Part {
    memory: Vec<u8>,
    file: Option<File>,
}

impl Partitions {
    /// How many parts so many bytes make, so that one of them is no more than `room`, about.
    pub(super) fn parts(bytes: u64, room: usize) -> usize {
        usize::try_from(bytes.div_ceil(room.max(1) as u64).clamp(1, MOST_PARTS)).unwrap_or(1)
    }

    /// An empty set of so many parts that holds `room` bytes before it writes them out.
    pub(super) fn new(parts: usize, room: usize) -> Self {
        Self { parts: (0..parts.max(1)).map(|_| Part::default()).collect(), held: 0, room }
    }

    /// Adds a record.
    ///
    /// # Errors
    /// `Destination` where there is no room for it on the disk.
    pub(super) fn push(&mut self, key: u128, record: &[u8]) -> Result<()> {
        let index = ((key >> 96) as usize * self.parts.len()) >> 32;
        self.parts[index].memory.extend_from_slice(record);
        self.held += record.len();
        if self.held >= self.room {
            for part in &mut self.parts {
                part.write_out().or_fail(ErrorKind::Destination, cannot_keep)?;
            }
            self.held = 0;
        }
        Ok(())
    }

    /// Takes a part out, all its records in a row.
    pub(super) fn take(&mut self, index: usize) -> Result<Vec<u8>> {
        let part = std::mem::take(&mut self.parts[index]);
        self.held -= part.memory.len();
        part.read_back().or_fail(ErrorKind::Destination, cannot_keep)
    }
}

impl Part {
    fn write_out(&mut self) -> std::io::Result<()> {
        if self.memory.is_empty() {
            return Ok(());
        }
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(tempfile::tempfile()?),
        };
        file.write_all(&self.memory)?;
        self.memory = Vec::new();
        Ok(())
    }

    fn read_back(self) -> std::io::Result<Vec<u8>> {
        let Some(mut file) = self.file else { return Ok(self.memory) };
        let mut all = Vec::new();
        file.seek(SeekFrom::Start(0))?;
        file.read_to_end(&mut all)?;
        all.extend_from_slice(&self.memory);
        Ok(all)
    }
}

fn cannot_keep() -> String {
    format!(
        "what is compared cannot be kept in {}: TMPDIR names another directory",
        std::env::temp_dir().display()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_back_with_those_of_their_part() -> Result<()> {
        for room in [1, 1 << 20] {
            let mut partitions = Partitions::new(7, room);
            let keys: Vec<u128> =
                (0..1000u32).map(|n| xxhash_rust::xxh3::xxh3_128(&n.to_le_bytes())).collect();
            for key in &keys {
                partitions.push(*key, &key.to_le_bytes())?;
            }
            let mut found = Vec::new();
            for index in 0..7 {
                found.extend(partitions.take(index)?.chunks(16).map(|bytes| bytes.to_vec()));
            }
            let mut expected: Vec<Vec<u8>> = keys.iter().map(|key| key.to_le_bytes().to_vec()).collect();
            expected.sort();
            found.sort();
            assert_eq!(found, expected);
        }
        Ok(())
    }
}
