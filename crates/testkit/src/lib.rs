//! Real servers, workloads, fault injection and the reconciler for the tests.
//!
//! A test takes a database of a real server ([`server`]), puts rows into it, perhaps while a
//! [`workload`] or a [`churn`] writes, runs the program under test ([`lakeward`]), perhaps through a bad network
//! ([`proxy`]), and has every row compared by the server itself ([`reconcile`]).
//! [`conformance`] makes the matrix of what is kept from the results.
//!
//! Everything here panics or fails with a reason rather than skip: a server that is not there
//! makes its tests fail.

pub mod churn;
pub mod conformance;
pub mod lakeward;
pub mod private_server;
pub mod proxy;
pub mod python;
pub mod reconcile;
pub mod server;
pub mod tamper;
pub mod workload;

use std::path::{Path, PathBuf};

/// A test that runs on both versions: its name, and a function of a version.
#[macro_export]
macro_rules! on_both {
    ($name:ident, $test:expr) => {
        mod $name {
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn postgres15() {
                let test = $test;
                test($crate::server::Version::Pg15).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn postgres18() {
                let test = $test;
                test($crate::server::Version::Pg18).await;
            }
        }
    };
}

/// The root of the project, where `scripts/` and `target/` are.
pub fn project_root() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2);
    root.unwrap_or(Path::new(".")).to_owned()
}
