//! What the benches share. `cargo bench -p lakeward-bench` runs them all, `--bench NAME` one of them:
//!
//! - `copy`: COPY as text and binary to Arrow, a type each, and the `trips` table
//! - `pgoutput`: messages of the log to Arrow
//! - `parquet`: the writer of the Parquet destination, and Parquet's own with other settings
//! - `state`: saving a state of 10,000 chunks
//! - `commit_log`: a stream with 10,000 commits
//!
//! What is measured against servers and other programs is `scripts/bench`'s.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a bench that cannot go on should stop where it stands")]

pub mod stream;
pub mod trips;
pub mod values;
