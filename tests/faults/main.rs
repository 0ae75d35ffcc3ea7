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

/// A test that runs on both versions.
macro_rules! on_both {
    ($name:ident, $test:expr) => {
        mod $name {
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn postgres15() {
                let test = $test;
                test(lakeward_testkit::server::Version::Pg15).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn postgres18() {
                let test = $test;
                test(lakeward_testkit::server::Version::Pg18).await;
            }
        }
    };
}
pub(crate) use on_both;
