//! Vocabulary and contracts of Lakeward. No I/O happens here.
//!
//! A source implements [`DriverInterface`], a destination implements [`Destination`]; the engine joins them and
//! knows neither. Everything that crosses one of these borders (streams, schemas, chunks, sessions, batches,
//! positions, commits, errors) is defined in this crate.

mod batch;
mod catalog;
mod change;
mod chunk;
mod commit;
mod config;
mod configured;
mod destination;
mod driver;
mod error;
pub mod failpoint;
mod filter;
mod finding;
mod identity;
mod memory;
mod position;
mod schema;
mod sequence;
mod stream;
mod system;

pub use batch::{BadValues, Batch, BatchStream, ChangeColumns};
pub use catalog::{
    Catalog, CatalogEntry, ColumnSelection, DiscoveredColumn, DiscoveredStream, NewColumns, Selection,
    TypeSchema,
};
pub use change::{
    Boundary, CdcDriver, ChangeEvent, ChangeMode, ChangeRequest, ChangeScope, ChangeStream,
    CheckpointInterval, Lag, Prepared, Standing, StreamPhase, Until,
};
pub use chunk::{Chunk, DoneChunk, Fingerprint, Session};
pub use commit::{
    CursorState, DefinedColumn, Definition, FileKind, Meaning, OpenGeneration, OpenStep, Progress, Rewritten,
    StreamCommit, StreamHead, SwapStep, WindowRef, WrittenFile,
};
pub use config::{Secret, nearest, parse_config};
pub use configured::{
    ConfiguredStream, Cursor, Lookback, NullCursor, OnBadValue, OnPartitionChange, OnSchemaChange,
    PartitionField, PartitionTransform,
};
pub use destination::{
    Capabilities, CommittedRows, CompactRequest, Compacted, Destination, Eagerness, UnitSpec, VisibleFile,
    Writer,
};
pub use driver::{DriverInterface, IncrementalDriver, IncrementalPass, ReadContext};
pub use error::{Error, ErrorKind, Result, ResultExt, Retry, retry_policy};
pub use filter::{CompareOp, Filter, FilterExpr, Literal};
pub use finding::{Finding, Severity};
pub use identity::{DestinationIdentity, Pipeline, Run, SourceIdentity};
pub use memory::{MemoryBudget, Reservation};
pub use position::Position;
pub use schema::{Column, ColumnType, Schema, keeps_values};
pub use sequence::Sequence;
pub use stream::{InsertsOnly, Stream, StreamId, SyncMode};
pub use system::{Op, SystemColumns};
