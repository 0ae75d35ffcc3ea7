//! Change streams, end to end: the real program follows real servers while they are written to, is killed, cut off
//! and left alone, and in the end every row and value is compared.
#![allow(missing_docs, unreachable_pub, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod compaction;
mod disturbed;
mod failover;
mod followed;
mod handover;
mod log;
mod meaning;
mod servers;
mod verify;

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
