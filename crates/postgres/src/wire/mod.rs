//! PostgreSQL's protocol over a blocking socket, for what is read in bulk.
//!
//! A thread that sleeps a little after each short read leaves the server its core and takes far fewer wake-ups
//! than an asynchronous reader; frames are decoded where they arrived. Catalog queries do not need this.
//!
//! Guaranteed: no success before the server said that the command is complete; an error within
//! [`Endpoint::read_timeout`] when nothing arrives; neither a row value nor a secret in any error.

mod auth;
mod cancel;
mod connection;
mod copy;
mod frames;
mod replication;
mod server_error;
mod socket;

use std::time::Duration;

use lakeward_core::Secret;

pub use cancel::CancelHandle;
pub use connection::Connection;
pub use copy::{Readers, copy_batches};
pub(crate) use replication::{LogMessage, LogReader, LogWriter};
pub use server_error::sqlstate;

use crate::tls::TlsSettings;

/// 2000-01-01, where the server counts from, in microseconds since 1970-01-01.
pub(crate) const EPOCH_MICROS: i64 = 946_684_800_000_000;

/// How long a server may take to answer while a connection is made.
pub const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long nothing may arrive while a query runs. A query that waits for a lock is silent too.
pub const DEFAULT_READ_TIMEOUT: Duration = Duration::from_secs(600);

/// Whether a host is a directory, in which the server has a Unix socket.
pub(crate) fn is_socket_directory(host: &str) -> bool {
    host.starts_with('/')
}

/// Where to connect, as whom, and how.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// A name or an address, or the directory of a Unix socket where it begins with `/`.
    pub host: String,
    /// The port; part of the name of a Unix socket too.
    pub port: u16,
    /// The database.
    pub database: String,
    /// The role.
    pub user: String,
    /// Its password; empty where the server asks for none.
    pub password: Secret,
    /// What the server shows in `pg_stat_activity`.
    pub application_name: String,
    /// Encryption. A Unix socket has none, whatever is asked for.
    pub tls: TlsSettings,
    /// The longest wait for an answer while the connection is made.
    pub connect_timeout: Duration,
    /// The longest silence while a query runs; zero is no limit.
    pub read_timeout: Duration,
    /// Settings of the session, sent with its start.
    pub options: Vec<(String, String)>,
}
