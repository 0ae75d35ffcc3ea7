//! PostgreSQL as a source.
#![forbid(unsafe_code)]

mod backfill;
mod catalog;
mod check;
mod chunks;
mod config;
mod connect;
mod copy;
pub mod decode;
mod driver;
mod error;
mod incremental;
mod mapping;
mod replication;
mod reports;
mod resting;
mod schema;
mod session;
mod sql;
pub mod tls;
mod url;
pub mod wire;

pub use config::{
    CopyChoice, OnSlotLost, Period, PostgresConfig, ReplicationConfig, SslConfig, SslMode,
    UnconstrainedNumeric, spec,
};
pub use driver::{KIND, PostgresDriver};
/// For fuzzing.
#[doc(hidden)]
pub use replication::pgoutput;
