//! The engine: [`AbstractDriver`] runs discover, backfill, incremental sync and change streams over any source
//! and any destination. It knows the contracts of `lakeward-core` and no connector.
//!
//! Guaranteed here: the order destination commit → state → release at the source → notify (`commit.rs`), bounded
//! memory and connections, and that what is committing finishes when a run is stopped.

mod abstract_driver;
mod backfill;
mod change_stream;
mod commit;
mod compact;
mod cursor;
mod events;
mod evolution;
mod incremental;
mod options;
mod pipeline;
mod plan;
mod rebuild;
mod retry;
mod stream_run;
mod verify;
mod window;
mod writer_pool;

pub use abstract_driver::{AbstractDriver, Resolved};
pub use compact::{Compaction, StreamCompaction};
pub use cursor::{format_cursor_value, reformat_cursor_value};
pub use events::{Event, EventSink, StreamSummary, Summary};
pub use options::Options;
pub use plan::StreamPlan;
pub use rebuild::Rebuilt;
pub use verify::{Difference, KeyDifference, StreamVerification, Verified, VerifyOptions};
pub use writer_pool::WriterPool;
