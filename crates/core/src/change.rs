//! The contract of a source whose log can be followed.

use std::cmp::Ordering;
use std::sync::Arc;

use async_trait::async_trait;
use futures::stream::BoxStream;

use crate::{Batch, ConfiguredStream, Position, ReadContext, Result, StreamId};

/// In which order backfills and changes of several streams are worked off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ChangeMode {
    /// All backfills, then one stream's changes after another.
    Sequential,
    /// All backfills, then all streams' changes at once.
    Parallel,
    /// Each stream's changes as soon as its own backfill is done; the log is read from the start.
    Concurrent,
}

/// Whether streams share one log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ChangeScope {
    /// One log and one position for all streams (PostgreSQL, MySQL).
    SharedLog,
    /// Each stream has a log of its own (MongoDB collections).
    PerStream,
}

/// Where a bounded run ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Until {
    /// Where the source was when the run began.
    Now,
    /// Never.
    Forever,
}

/// What is to be done with a stream's changes.
#[derive(Debug, Clone, PartialEq)]
pub enum StreamPhase {
    /// Still queued for its backfill: changes are dropped, because its snapshot will be later.
    Queued,
    /// Its snapshot is being taken: changes are kept back until its position is known.
    Opening,
    /// Changes at or after its position are emitted.
    Open(Position),
}

/// A reading of the log.
#[derive(Debug, Clone)]
pub struct ChangeRequest {
    /// The streams, each with its phase.
    pub streams: Vec<(Arc<ConfiguredStream>, StreamPhase)>,
    /// The global position to begin at.
    pub from: Position,
    /// Where to end.
    pub until: Until,
    /// Memory and cancellation.
    pub context: ReadContext,
}

/// What one stream commits at a checkpoint: changes up to a position.
#[derive(Debug, Clone, PartialEq)]
pub struct CommitUnit {
    /// The stream.
    pub stream: StreamId,
    /// The end of the last transaction it holds.
    pub position: Position,
}

/// What comes out of the log.
#[derive(Debug)]
pub enum ChangeEvent {
    /// Changes of one stream, all of one schema.
    Changes(StreamId, Box<Batch>),
    /// The stream's columns change here, in log order.
    Schema(Arc<ConfiguredStream>),
    /// A transaction boundary: everything before this position has been emitted.
    Boundary(Position),
}

/// Events in log order.
pub type ChangeStream = BoxStream<'static, Result<ChangeEvent>>;

/// The ability to follow the source's log, exactly once.
#[async_trait]
pub trait CdcDriver: Send + Sync {
    /// The modes that the source offers, the default first.
    fn modes(&self) -> &[ChangeMode];

    /// Whether streams share one log.
    fn scope(&self) -> ChangeScope;

    /// Makes the log followable (slot, publication) and fixes the position, before the first chunk is read.
    /// `saved` is the position of the state; the driver refuses one that the log no longer holds.
    async fn pre_cdc(&self, streams: &[Arc<ConfiguredStream>], saved: Option<&Position>) -> Result<Position>;

    /// Reads the log.
    async fn stream_changes(&self, request: ChangeRequest) -> Result<ChangeStream>;

    /// Tells a running reader that a stream's phase has changed.
    async fn enter_phase(&self, stream: &StreamId, phase: StreamPhase) -> Result<()>;

    /// Ends the reading and lets go of connections.
    async fn post_cdc(&self) -> Result<()>;

    /// Tells the source that everything before `position` is safe. The last step of a commit, never earlier.
    async fn release(&self, position: &Position) -> Result<()>;

    /// How two positions of one log relate; `None` where they do not (GTID sets).
    fn compare(&self, a: &Position, b: &Position) -> Option<Ordering>;

    /// Whether a stream at `position` already holds the change at `change`.
    fn covers(&self, position: &Position, change: &Position) -> bool;
}
