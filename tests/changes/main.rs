//! Change streams, end to end: the real program follows real servers while they are written to, is killed, cut off
//! and left alone, and in the end every row and value is compared.
#![allow(missing_docs, unreachable_pub, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod altered;
mod broken;
mod compaction;
mod disturbed;
mod failover;
mod followed;
mod handover;
mod log;
mod meaning;
mod partitions;
mod passed_over;
mod servers;
mod slots;
mod verify;
