//! What a run may use.

use lakeward_core::{ChangeMode, CheckpointInterval, DriverInterface};
use tokio_util::sync::CancellationToken;

/// What a run may use, and how it ends.
#[derive(Debug, Clone)]
pub struct Options {
    /// Resident memory of the whole process, in bytes.
    pub memory_limit: u64,
    /// Connections that read at once; the source's own bound where `None`.
    pub max_connections: Option<usize>,
    /// Bytes at the source that a chunk of a backfill should have.
    pub chunk_bytes: u64,
    /// How change streams run; the source's default where `None`.
    pub cdc_mode: Option<ChangeMode>,
    /// When change streams commit.
    pub checkpoint_interval: CheckpointInterval,
    /// Whether change streams go on after they have caught up.
    pub follow: bool,
    /// Asks the run to finish what is committing and to end.
    pub cancel: CancellationToken,
}

impl Options {
    /// 1 GiB.
    pub const DEFAULT_MEMORY_LIMIT: u64 = 1 << 30;
    /// 64 MiB: over several connections no size reads faster, and larger ones cost more when a run is killed (see
    /// `docs/chunk-size.md`).
    pub const DEFAULT_CHUNK_BYTES: u64 = 64 << 20;

    /// What the process takes before it holds a row: code, stacks, buffers of sockets.
    const PROCESS_BYTES: u64 = 32 << 20;
    /// Of what is left of the memory limit, what batches and open files may take; the rest is for compressors and
    /// for what the allocator keeps.
    const BUDGET_PERCENT: u64 = 55;
    /// What all readers' batches are to take at most. Above this, larger batches gain nothing.
    const MAX_BATCHES_BYTES: usize = 128 << 20;
    /// Batches of one reader that are alive at once, in the making and in the writing, with room for a second copy.
    const BATCHES_PER_READER: usize = 6;

    /// Connections that read at once.
    pub(crate) fn reader_count(&self, driver: &dyn DriverInterface) -> usize {
        self.max_connections.unwrap_or_else(|| driver.max_connections()).max(1)
    }

    pub(crate) fn budget_bytes(&self) -> usize {
        // Of a limit that is hardly more than the process, some is given away all the same: rows must get through.
        let for_rows = self.memory_limit.saturating_sub(Self::PROCESS_BYTES).max(self.memory_limit / 2);
        usize::try_from(for_rows / 100 * Self::BUDGET_PERCENT).unwrap_or(usize::MAX)
    }

    /// The size at which a reader hands a batch over: large enough that its cost does not count, small enough
    /// that all readers' batches fit into half the budget several times.
    pub(crate) fn batch_bytes(&self, readers: usize) -> usize {
        let all = (self.budget_bytes() / 2).min(Self::MAX_BATCHES_BYTES);
        (all / readers.max(1) / Self::BATCHES_PER_READER).clamp(64 << 10, 4 << 20)
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            memory_limit: Self::DEFAULT_MEMORY_LIMIT,
            max_connections: None,
            chunk_bytes: Self::DEFAULT_CHUNK_BYTES,
            cdc_mode: None,
            checkpoint_interval: CheckpointInterval::default(),
            follow: false,
            cancel: CancellationToken::new(),
        }
    }
}
