//! The places between durable steps where a test may stop the process.

/// All failpoints of this destination, in the order in which one commit passes them.
pub const FAILPOINTS: &[&str] = &[
    // The writer: a file's bytes are handed to the system · synced · its directory entry too.
    "parquet-stage-written",
    "parquet-file-synced",
    "parquet-stage-synced",
    // An incremental window: written · synced with its directory entry.
    "parquet-window-written",
    "parquet-window-staged",
    // A merge: the merged file stands staged, those it is made of are still part of the stream.
    "parquet-merge-staged",
    // The record: written · synced · linked to its number · that link synced. From the third on it is committed.
    "parquet-record-written",
    "parquet-record-synced",
    "parquet-record-linked",
    "parquet-commits-synced",
    // A claim, once its record is linked and synced.
    "parquet-claim-linked",
    // Publishing: after each file · after the directories are synced.
    "parquet-file-renamed",
    "parquet-targets-synced",
    // A swap: by one rename or exchange (or two renames) · synced · what was there given back or deleted.
    "parquet-swap-renamed",
    "parquet-swap-exchanged",
    "parquet-swap-retired",
    "parquet-swap-synced",
    "parquet-foreign-file-returned",
    "parquet-former-file-removed",
    "parquet-former-generation-removed",
    // Replaced files, and generations that were given up.
    "parquet-file-removed",
    "parquet-hidden-generation-removed",
    // Windows: in place · synced · older ones deleted.
    "parquet-window-renamed",
    "parquet-window-synced",
    "parquet-window-removed",
    // Recovery: a file that no record lists · a file that another run left in staging.
    "parquet-stray-removed",
    "parquet-staged-file-removed",
];
