//! The commit record: the one thing that decides what is committed. Version 1.
//!
//! A record is one JSON object in a file named by its number. It says all that one commit does, repeats what the
//! state keeps of its stream (position, cursor, pass, window, global position), and names its run and term. The
//! log of a stream is the records 1, 2, 3 …, without a gap; every [`CHECKPOINT_EVERY`]-th also holds what all
//! records up to and including itself amount to, so that a start reads few files. No record is ever deleted
//! while its stream lives.

use std::path::Path;

use lakeward_core::{
    Chunk, CursorState, Definition, DoneChunk, Error, ErrorKind, FileKind, Fingerprint, Position, Result,
    SourceIdentity, SwapStep, WindowRef,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::fold::Fold;

/// The version that is written, and the only one that is read.
pub(crate) const VERSION: u32 = 1;

/// Every so many records, one carries a checkpoint. Part of the format: readers look at its multiples only.
pub(crate) const CHECKPOINT_EVERY: u64 = 256;

/// What a record does; one may do several things at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    /// A run takes the stream over.
    Claim,
    /// A generation begins or its backfill is resumed, or its schema widens.
    Open,
    /// Files are added, or progress is made.
    Data,
    /// Files are removed.
    Replace,
    /// The generation becomes visible.
    Swap,
    /// The log so far is in the record.
    Checkpoint,
}

/// One commit of one stream.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Record {
    pub(crate) version: u32,
    /// Its place in the log, from 1.
    pub(crate) number: u64,
    /// Raised by every run that takes the stream over.
    pub(crate) term: u64,
    pub(crate) run: String,
    pub(crate) pipeline: String,
    pub(crate) source: SourceIdentity,
    pub(crate) stream: StreamName,
    pub(crate) kind: Vec<Kind>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) unit: Option<String>,
    pub(crate) generation: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) open: Option<Open>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) chunk: Option<ChunkDone>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) add: Vec<AddedFile>,
    /// Paths of files that are no longer part of the stream. Those of a whole dropped or replaced generation are
    /// not listed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) remove: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) swap: Option<Swap>,
    pub(crate) position: Option<Position>,
    pub(crate) cursor: Option<CursorState>,
    pub(crate) pass: u64,
    pub(crate) global: Option<Position>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) window: Option<Window>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) checkpoint: Option<Box<Fold>>,
    /// When it was made, RFC 3339, for people.
    pub(crate) at: String,
}

/// The stream's name at the destination, as the directory's name may be escaped or cut.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct StreamName {
    pub(crate) namespace: String,
    pub(crate) name: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Open {
    pub(crate) definition: Definition,
    pub(crate) fingerprint: Fingerprint,
    pub(crate) snapshot: Value,
    pub(crate) plan: Vec<Chunk>,
    pub(crate) backfill: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct ChunkDone {
    pub(crate) number: u32,
    #[serde(flatten)]
    pub(crate) done: DoneChunk,
}

/// A file that becomes part of the stream.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct AddedFile {
    /// Relative to its generation's directory, wherever that lies.
    pub(crate) path: String,
    /// The generation before that it belongs to; `None` where it is the record's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) generation: Option<u32>,
    #[serde(flatten)]
    pub(crate) file: FileFacts,
}

/// What is known of a file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct FileFacts {
    pub(crate) kind: FileKind,
    pub(crate) rows: u64,
    pub(crate) bytes: u64,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) partition: Vec<(String, Option<String>)>,
    pub(crate) sha256: String,
    /// Where it lay before it was published, relative to the stream's directory in the log.
    pub(crate) staged: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Swap {
    pub(crate) mode: SwapStep,
    /// A file of the new generation: the swap is done iff it lies in the visible directory.
    pub(crate) witness: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Window {
    /// Relative to the stream's directory in the log.
    pub(crate) path: String,
    pub(crate) sha256: String,
    pub(crate) staged: String,
}

impl Window {
    pub(crate) fn reference(&self) -> WindowRef {
        WindowRef { path: self.path.clone(), sha256: self.sha256.clone() }
    }
}

impl Record {
    /// Reads a record.
    ///
    /// # Errors
    /// `Destination`, where it has another version or is none.
    pub(crate) fn parse(bytes: &[u8], path: &Path) -> Result<Self> {
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        let damaged = |e: serde_json::Error| {
            Error::new(ErrorKind::Destination, "a commit record cannot be read")
                .at("path", path.display())
                .hint("restore the file from a backup, or clear the stream with `lakeward clear`")
                .source(e)
        };
        let Versioned { version } = serde_json::from_slice(bytes).map_err(damaged)?;
        if version != VERSION {
            return Err(Error::new(
                ErrorKind::Destination,
                format!("a commit record has version {version}, this lakeward reads version {VERSION}"),
            )
            .at("path", path.display())
            .hint("use the lakeward that wrote it, or a newer one"));
        }
        serde_json::from_slice(bytes).map_err(damaged)
    }

    pub(crate) fn to_bytes(&self) -> Result<Vec<u8>> {
        serde_json::to_vec(self).map_err(|e| Error::bug("a commit record cannot be written").source(e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every field once. A change of the format needs a new version and a new file; this one stays.
    #[test]
    fn version_1_reads_and_writes_its_golden_file() {
        let golden = include_str!("../tests/golden/record-v1.json");
        let record = Record::parse(golden.as_bytes(), Path::new("golden")).unwrap();
        let written: Value = serde_json::from_slice(&record.to_bytes().unwrap()).unwrap();
        assert_eq!(written, serde_json::from_str::<Value>(golden).unwrap());
        let mut fold = Fold::default();
        fold.apply(&record);
        assert_eq!(record.checkpoint.as_deref(), Some(&fold));
    }
}
