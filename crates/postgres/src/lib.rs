//! PostgreSQL as a source.
#![forbid(unsafe_code)]

mod config;
mod connect;
pub mod decode;
mod error;
mod sql;
pub mod tls;
mod url;
pub mod wire;

pub use config::{
    CopyChoice, OnSlotLost, Period, PostgresConfig, ReplicationConfig, SslConfig, SslMode,
    UnconstrainedNumeric, spec,
};
