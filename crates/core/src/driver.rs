//! The contract of a source.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::{
    BatchStream, CdcDriver, Chunk, Column, ColumnType, ConfiguredStream, CursorState, DoneChunk, Finding,
    MemoryBudget, Result, Session, SourceIdentity, Stream, StreamId,
};

/// What every reader is given by the engine.
#[derive(Debug, Clone)]
pub struct ReadContext {
    /// Where memory for batches is reserved before they are built.
    pub budget: MemoryBudget,
    /// The size in bytes at which a batch is handed over.
    pub batch_bytes: usize,
    /// Asks the reader to stop: it cancels its query at the server and ends with `Cancelled`.
    pub cancel: CancellationToken,
}

/// A source of streams.
///
/// Object-safe and called per stream, chunk or batch, never per row. Connections are bounded by
/// [`max_connections`](Self::max_connections) on the caller's side: the engine runs at most that many readers.
#[async_trait]
pub trait DriverInterface: Send + Sync {
    /// The connector's kind, as in a config's `type`.
    fn kind(&self) -> &'static str;

    /// The JSON Schema of its config.
    fn spec(&self) -> Value;

    /// The preflight. With `streams`, also what each of them needs.
    async fn check(&self, streams: &[Arc<ConfiguredStream>]) -> Result<Vec<Finding>>;

    /// What makes this source this source.
    async fn identity(&self) -> Result<SourceIdentity>;

    /// All streams that may be read, in a handful of queries however many there are.
    async fn stream_names(&self) -> Result<Vec<StreamId>>;

    /// Describes streams, in a handful of queries however many are named. One that is gone is left out.
    async fn produce_schema(&self, streams: &[StreamId]) -> Result<Vec<Stream>>;

    /// Whether a column can be read as another type than its own (`columns.types` in streams.json).
    fn accepts_override(&self, column: &Column, target: &ColumnType) -> bool;

    /// How many connections may read at once.
    fn max_connections(&self) -> usize;

    /// How often a failed step is tried again, where the config says so.
    fn max_retries(&self) -> Option<u32>;

    /// Opens a consistent view of the stream and holds it until [`end_backfill`](Self::end_backfill).
    ///
    /// # Errors
    /// `Schema` where the stream's columns are no longer those of `stream`.
    async fn begin_backfill(&self, stream: &ConfiguredStream) -> Result<Session>;

    /// Gives the view up. Ending one that is gone already is no error.
    async fn end_backfill(&self, session: Session);

    /// Cuts the stream into chunks of about `chunk_bytes` at the source.
    ///
    /// With `earlier` (the plan of a generation that is resumed) that plan is kept, chunk by chunk and number by
    /// number, and completed: outer bounds are opened, relations that are new get chunks with new numbers, and
    /// chunks of relations that are gone are left out.
    async fn get_or_split_chunks(
        &self,
        stream: &ConfiguredStream,
        session: &Session,
        earlier: Option<&[Chunk]>,
        chunk_bytes: u64,
    ) -> Result<Vec<Chunk>>;

    /// Whether the rows of a chunk that an earlier session read are still exactly those that this session
    /// would read. `false` is always safe: the chunk is read again.
    async fn verify_chunk(
        &self,
        _stream: &ConfiguredStream,
        _chunk: &Chunk,
        _done: &DoneChunk,
        _session: &Session,
    ) -> Result<bool> {
        Ok(false)
    }

    /// Reads a chunk under the session's view.
    ///
    /// The stream ends with an error whose kind is `SessionLost` when the view is gone, `Connection` when the
    /// chunk may be tried again under the same session.
    async fn chunk_iterator(
        &self,
        stream: Arc<ConfiguredStream>,
        chunk: Chunk,
        session: &Session,
        context: ReadContext,
    ) -> Result<BatchStream>;

    /// The ability to read what is new by a cursor column.
    fn incremental(&self) -> Option<&dyn IncrementalDriver> {
        None
    }

    /// The ability to follow the source's log.
    fn change_stream(&self) -> Option<&dyn CdcDriver> {
        None
    }
}

/// What an incremental pass reads.
#[derive(Debug, Clone, PartialEq)]
pub struct IncrementalPass {
    /// The greatest cursor of the pass before. Rows at or after `since − lookback` are read; with none, all are.
    pub since: Option<CursorState>,
    /// The greatest cursor under this session: rows at or after `until − lookback` are in the next window.
    /// `None` where no row has a cursor.
    pub until: Option<CursorState>,
}

/// The ability to read what is new by a cursor column.
///
/// Cursor values are text in the source's own canonical form. Order and look-back are judged by the source.
#[async_trait]
pub trait IncrementalDriver: Send + Sync {
    /// The greatest cursor (COALESCE of primary and fallback) under the session, or `since` where that is
    /// greater: the row that had it may be gone. `None` where there is neither.
    async fn fetch_max_cursor_values(
        &self,
        stream: &ConfiguredStream,
        session: &Session,
        since: Option<&CursorState>,
    ) -> Result<Option<CursorState>>;

    /// Reads the rows of a pass under the session, rows with a null cursor included where the stream says so.
    /// Every batch carries [`in_next_window`](crate::Batch::in_next_window); rows with a null cursor are in it.
    async fn stream_incremental_changes(
        &self,
        stream: Arc<ConfiguredStream>,
        session: &Session,
        pass: IncrementalPass,
        context: ReadContext,
    ) -> Result<BatchStream>;
}
