//! What breaks replication in production, done to the real program and real servers: kills, cut connections, full
//! disks, restarted servers, tables rewritten under its eyes. After each, every row and value is compared.
#![allow(missing_docs, unreachable_pub, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod concurrent_runs;
mod disk;
mod durability;
mod kills;
mod memory;
mod network;
mod resume;
mod rewrites;
#[allow(dead_code, reason = "two test binaries share it, and neither needs all of it")]
mod scene;
mod servers;
mod signals;
mod standby;
mod state_file;
mod timeouts;
