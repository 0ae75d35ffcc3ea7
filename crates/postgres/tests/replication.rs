//! Change streams against real servers: LAKEWARD_TEST_POSTGRES15_PORT and LAKEWARD_TEST_POSTGRES18_PORT name their
//! ports on 127.0.0.1 (user `postgres`, password `lakeward`).

#![allow(clippy::unwrap_used, clippy::expect_used)] // helpers of tests are tests

mod driver {
    pub(crate) mod support;
}
mod replication {
    mod changes;
    mod handover;
    mod schema_changes;
    mod slots;
    mod support;
    mod transactions;
    mod types;
}

pub(crate) use driver::support as server;
