//! Following PostgreSQL's log through `pgoutput`.
//!
//! One thread reads the log and decodes it in place into the columns of each stream ([`reader`], [`assemble`],
//! [`batches`]); another one tells the server how far the pipeline is ([`feedback`]). Neither ever waits for the
//! other. [`prepare`] makes slot and publications and finds out whether the log still holds what comes next.

mod assemble;
mod batches;
mod driver;
mod feedback;
mod filter;
mod identity;
mod lookup;
mod lsn;
mod number;
mod peek;
pub mod pgoutput;
mod phases;
mod prepare;
pub(crate) mod publication;
mod reader;
mod slot;
mod spill;
mod tables;
mod timeline;

pub(crate) use driver::Replication;
pub(crate) use identity::{LogKey, log_keys};
pub(crate) use lsn::{LogPosition, Names};
pub(crate) use prepare::{UNMADE, settings, unmade};
pub(crate) use publication::GENERATED_VERSION;
pub(crate) use slot::{Place, Snapshot};
