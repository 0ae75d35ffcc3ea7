//! The contract of a destination.

use std::sync::Arc;

use arrow::array::RecordBatch;
use async_trait::async_trait;
use futures::stream::BoxStream;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::{
    Batch, ConfiguredStream, DestinationIdentity, Error, ErrorKind, Finding, MemoryBudget, Pipeline, Result,
    Rewritten, Run, Schema, StreamCommit, StreamHead, StreamId, WindowRef, WrittenFile,
};

/// What a destination can do. What it cannot is refused before anything is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities {
    /// It keeps every version of a row.
    pub append: bool,
    /// It keeps the last version of each key.
    pub upsert: bool,
    /// It can fill a generation out of sight and show it at once.
    pub swap: bool,
    /// It can hold changes out of sight while a backfill runs.
    pub hidden_log: bool,
}

/// A unit of work that is about to be written.
#[derive(Debug, Clone)]
pub struct UnitSpec {
    /// The stream, with the columns that its files will have.
    pub stream: Arc<ConfiguredStream>,
    /// The generation.
    pub generation: u32,
    /// The unit's name; see [`StreamCommit::unit`].
    pub unit: String,
    /// The number behind the position of rows that are read; see [`Sequence`](crate::Sequence).
    pub read_position: u64,
    /// Where memory for open files is reserved.
    pub budget: MemoryBudget,
    /// How many writers may be open at once in this run, this one included: the budget is shared among them.
    pub open_writers: usize,
}

/// A file that one commit says is part of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VisibleFile {
    /// Its full place.
    pub path: String,
    /// Rows in it.
    pub rows: u64,
    /// Bytes of it.
    pub bytes: u64,
}

/// The rows of a stream, all versions of them, that readers see at one commit.
pub struct CommittedRows {
    /// Whether any row lacks a value because the source did not send it: `unchanged` names its column.
    pub partial: bool,
    /// The rows in no order. First operation, order and `unchanged` as in [`SystemColumns`](crate::SystemColumns),
    /// then the columns that were asked for.
    pub batches: BoxStream<'static, Result<RecordBatch>>,
}

/// How soon small files are merged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Eagerness {
    /// Where many of about one size have gathered, so that each row is rewritten few times in its life.
    Gathered,
    /// Wherever there are two of about one size.
    Any,
}

/// A request to merge small files of a stream.
#[derive(Debug, Clone)]
pub struct CompactRequest {
    /// How soon files are worth merging.
    pub eagerness: Eagerness,
    /// Where memory is taken, if it is free; nothing is merged where it is not.
    pub budget: MemoryBudget,
    /// Asks to give the merge up, which then leaves nothing behind.
    pub cancel: CancellationToken,
}

impl CompactRequest {
    /// A request that is never given up.
    pub fn new(eagerness: Eagerness, budget: MemoryBudget) -> Self {
        Self { eagerness, budget, cancel: CancellationToken::new() }
    }
}

/// One merge of files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compacted {
    /// Files that were merged.
    pub merged: u64,
    /// Their bytes.
    pub bytes_before: u64,
    /// Files that took their place.
    pub files: u64,
    /// Bytes of those.
    pub bytes: u64,
    /// Rows in them, the same before and after.
    pub rows: u64,
}

/// Where rows go.
///
/// A destination is where exactly-once is decided: a commit carries files and position in one atomic step, and at
/// start it is asked first. Order within a commit, terms and recovery are described in `ARCHITECTURE.md`.
#[async_trait]
pub trait Destination: Send + Sync {
    /// The connector's kind, as in a config's `type`.
    fn kind(&self) -> &'static str;

    /// The JSON Schema of its config.
    fn spec(&self) -> Value;

    /// The preflight.
    async fn check(&self) -> Result<Vec<Finding>>;

    /// What it can do.
    fn capabilities(&self) -> Capabilities;

    /// Its identity, made on first use.
    async fn identity(&self) -> Result<DestinationIdentity>;

    /// Makes room for the new ones among streams that a run is about to [`prepare`](Self::prepare): what each of them
    /// needs before anything is in it, for all of them with as few waits for the disk as it takes. Those without are
    /// prepared all the same.
    async fn make_room(&self, streams: &[StreamId], run: &Run) -> Result<()> {
        let _ = (streams, run);
        Ok(())
    }

    /// Takes a stream over for this run, finishes what a crash left half done, and says where it stands.
    ///
    /// # Errors
    /// `Conflict` where the stream belongs to another pipeline or a later run holds it.
    async fn prepare(&self, stream: &StreamId, run: &Run) -> Result<StreamHead>;

    /// Whether this run still has all of these streams that it prepared. A run that has nothing to commit would not
    /// notice; one of them that is being committed right now may be passed over.
    ///
    /// # Errors
    /// `Conflict` where a later run has taken one over.
    async fn still_held(&self, streams: &[StreamId]) -> Result<()> {
        let _ = streams;
        Ok(())
    }

    /// Opens a writer for one unit of a prepared stream.
    async fn writer(&self, unit: UnitSpec) -> Result<Box<dyn Writer>>;

    /// Commits units of one or several prepared streams, each atomically, and publishes them. The results come
    /// in the order of the commits, each with the stream's new head.
    ///
    /// # Errors
    /// `Conflict` per stream where a later run has taken it over: nothing was committed for it.
    async fn commit(&self, commits: Vec<StreamCommit>) -> Vec<Result<StreamHead>>;

    /// Merges some small files of a prepared stream's newest generation into a larger one, in one commit that
    /// changes nothing else: each row stays, with all its columns. Other commits of the stream may be made
    /// meanwhile. `None` where there is nothing to merge, no memory for it now, or files to be merged went
    /// meanwhile; where it merged something there may be more.
    ///
    /// # Errors
    /// `Cancelled` where it was asked to stop; as [`commit`](Self::commit) otherwise.
    async fn compact(
        &self,
        stream: &StreamId,
        request: CompactRequest,
    ) -> Result<Option<(Compacted, StreamHead)>> {
        let _ = (stream, request);
        Ok(None)
    }

    /// Writes what readers see of a prepared stream, and has a column in a narrower type than `columns`
    /// ([`ColumnType::widens_to`](crate::ColumnType::widens_to)), anew in that type: for a commit that shows a
    /// generation beside it ([`StreamCommit::rewritten`]). By itself it changes nothing.
    ///
    /// # Errors
    /// `Cancelled` where it was asked to stop, `Destination` where a file is missing or damaged.
    async fn rewrite(
        &self,
        stream: &StreamId,
        columns: &Schema,
        budget: &MemoryBudget,
        cancel: &CancellationToken,
    ) -> Result<Vec<Rewritten>>;

    /// Where a stream stands, read without taking it over; `None` where nothing of it was committed.
    async fn head(&self, stream: &StreamId) -> Result<Option<StreamHead>>;

    /// Where every stream stands, read without taking anything over.
    async fn heads(&self) -> Result<Vec<(StreamId, StreamHead)>>;

    /// The pipeline that wrote here last; `None` where nothing was written.
    async fn pipeline(&self) -> Result<Option<Pipeline>>;

    /// The contents of a window that a head names, verified against its hash.
    async fn window(&self, stream: &StreamId, window: &WindowRef) -> Result<Vec<u8>>;

    /// The visible files of a stream, exactly as one commit says.
    async fn files(&self, stream: &StreamId) -> Result<Vec<VisibleFile>>;

    /// Reads a stream back, each column in the type that it has in `columns`, null where a file has it not. What is
    /// damaged is an error, not a row less. Nothing is taken over: commits may be made meanwhile, by which a file
    /// that is still to be read may go.
    ///
    /// # Errors
    /// `Destination` where a file is missing or damaged, `Schema` where it has a column in another type.
    async fn rows(&self, stream: &StreamId, columns: &Schema) -> Result<CommittedRows> {
        let _ = (stream, columns);
        Err(Error::new(ErrorKind::Config, format!("{} cannot be read back", self.kind())))
    }

    /// The latest view of a stream as a query for an engine; `Config` where the engine is not known.
    async fn view(&self, stream: &StreamId, engine: &str) -> Result<String> {
        let _ = stream;
        Err(Error::new(ErrorKind::Config, format!("{} prints no view for {engine}", self.kind())))
    }

    /// Removes all data and commits of a stream that this pipeline wrote. Files that are not ours stay.
    async fn clear(&self, stream: &StreamId) -> Result<()>;
}

/// Writes the files of one unit. Dropping it unfinished leaves nothing that anyone would see.
#[async_trait]
pub trait Writer: Send {
    /// Writes a batch, waiting while the destination is slow or the memory budget is used up.
    async fn write(&mut self, batch: Batch) -> Result<()>;

    /// Finishes and syncs all files. A unit without rows gives one file without rows where `keep_empty`, else none.
    async fn finish(self: Box<Self>, keep_empty: bool) -> Result<Vec<WrittenFile>>;

    /// Gives up and removes what was written.
    async fn abort(self: Box<Self>);
}
