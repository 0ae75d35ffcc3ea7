//! What a run tells the outside: the last step of every commit, and of everything else that people wait for.

use lakeward_core::{Error, StreamId, SyncMode};
use serde::Serialize;

/// Something that happened. No row value is ever in one.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// A run began.
    RunStarted {
        /// The run's id.
        run: String,
        /// The pipeline's id.
        pipeline: String,
        /// Streams that it will work on.
        streams: usize,
    },
    /// A stream's backfill is cut into chunks, or goes on with an earlier plan.
    StreamPlanned {
        /// The stream.
        #[serde(serialize_with = "as_text")]
        stream: StreamId,
        /// Its mode.
        mode: SyncMode,
        /// The generation that is being filled.
        generation: u32,
        /// All chunks.
        chunks: usize,
        /// Chunks that stand committed and were found unchanged.
        chunks_kept: usize,
        /// The source's estimate.
        #[serde(skip_serializing_if = "Option::is_none")]
        estimated_rows: Option<u64>,
    },
    /// Rows came in. Sent for every batch: throttle before printing.
    RowsRead {
        /// The stream.
        #[serde(serialize_with = "as_text")]
        stream: StreamId,
        /// Rows of this batch.
        rows: u64,
        /// Bytes of this batch in memory.
        bytes: u64,
    },
    /// A chunk stands committed.
    ChunkCommitted {
        /// The stream.
        #[serde(serialize_with = "as_text")]
        stream: StreamId,
        /// The chunk's number.
        chunk: u32,
        /// Its rows.
        rows: u64,
        /// The commit's number.
        commit: u64,
    },
    /// What the log says up to a position stands committed, and the source may forget it.
    Checkpoint {
        /// Streams that had changes.
        streams: usize,
        /// Their changes.
        rows: u64,
        /// The position.
        position: String,
        /// Where the source's log ends.
        source: String,
        /// Bytes of the log between the two.
        behind_bytes: u64,
        /// Seconds since the position was all that there was, where the log goes on behind it.
        #[serde(skip_serializing_if = "Option::is_none")]
        behind_seconds: Option<f64>,
        /// Bytes of log that the source keeps for the pipeline.
        #[serde(skip_serializing_if = "Option::is_none")]
        retained_bytes: Option<u64>,
    },
    /// A generation became visible.
    GenerationVisible {
        /// The stream.
        #[serde(serialize_with = "as_text")]
        stream: StreamId,
        /// The generation.
        generation: u32,
        /// Its rows.
        rows: u64,
    },
    /// Small files became larger ones; no row changed.
    FilesMerged {
        /// The stream.
        #[serde(serialize_with = "as_text")]
        stream: StreamId,
        /// Files that were merged.
        merged: u64,
        /// Their bytes.
        bytes_before: u64,
        /// Files that took their place.
        files: u64,
        /// Bytes of those.
        bytes: u64,
    },
    /// A step failed and will be tried again.
    Retrying {
        /// The stream, where it is a step of one.
        #[serde(serialize_with = "as_optional_text", skip_serializing_if = "Option::is_none")]
        stream: Option<StreamId>,
        /// Which attempt failed, from 1.
        attempt: u32,
        /// Until the next one.
        wait_ms: u64,
        /// What failed.
        reason: String,
    },
    /// Something that people should know.
    Warning {
        /// The stream, where it is about one.
        #[serde(serialize_with = "as_optional_text", skip_serializing_if = "Option::is_none")]
        stream: Option<StreamId>,
        /// What.
        message: String,
    },
    /// A stream is done.
    StreamFinished(StreamSummary),
    /// A stream failed; others go on.
    StreamFailed {
        /// The stream.
        #[serde(serialize_with = "as_text")]
        stream: StreamId,
        /// What failed, with its places.
        error: String,
        /// What to do about it, where that is known.
        #[serde(skip_serializing_if = "Option::is_none")]
        hint: Option<String>,
    },
}

/// Where events go. Called from many tasks; must return at once.
pub trait EventSink: Send + Sync {
    /// Takes one event.
    fn event(&self, event: &Event);
}

/// What a run did for one stream.
#[derive(Debug, Clone, Serialize)]
pub struct StreamSummary {
    /// The stream.
    #[serde(serialize_with = "as_text")]
    pub stream: StreamId,
    /// Its mode.
    pub mode: SyncMode,
    /// Its newest generation.
    pub generation: u32,
    /// The number of its last commit.
    pub commit: u64,
    /// Rows committed in this run.
    pub rows: u64,
    /// Bytes of files committed in this run.
    pub bytes: u64,
    /// Files committed in this run.
    pub files: u64,
    /// Chunks kept from an earlier run.
    pub chunks_kept: u64,
    /// Values that a policy replaced, by column. Their originals are in the rescued column.
    pub bad_values: Vec<(String, u64)>,
    /// Steps that were tried again.
    pub retries: u64,
    /// Seconds from first to last.
    pub seconds: f64,
}

/// What a run did.
#[derive(Debug, Serialize, Default)]
pub struct Summary {
    /// Every stream that was finished.
    pub streams: Vec<StreamSummary>,
    /// Streams that failed. What they had committed stands.
    #[serde(skip)]
    pub failures: Vec<(StreamId, Error)>,
}

pub(crate) fn as_text<S: serde::Serializer>(id: &StreamId, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(id)
}

fn as_optional_text<S: serde::Serializer>(id: &Option<StreamId>, serializer: S) -> Result<S::Ok, S::Error> {
    match id {
        Some(id) => serializer.collect_str(id),
        None => serializer.serialize_none(),
    }
}
