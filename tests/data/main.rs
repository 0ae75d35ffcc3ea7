//! What arrives is what was there: every type, every value, every kind of relation and every mode, by the real
//! program against real servers.
//!
//! "The same" is always the reconciler's word: every row and every value, compared by the server that holds the
//! source. Tests that prove a row of the conformance matrix bear its number.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

/// Runs a test on every version of the server, as `name::postgres15` and `name::postgres18`.
macro_rules! on_each_version {
    ($($name:ident),+ $(,)?) => {
        $(mod $name {
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn postgres15() {
                super::$name(lakeward_testkit::server::Version::Pg15).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn postgres18() {
                super::$name(lakeward_testkit::server::Version::Pg18).await;
            }
        })+
    };
}

mod bad_values;
mod columns;
mod commands;
mod configs;
mod filters;
mod full_refresh;
mod incremental;
mod names;
mod overrides;
mod partitions;
mod pipeline;
mod relations;
mod schema_changes;
mod secrets;
mod session;
mod sizes;
mod tls;
mod types;
