//! The driver against real servers: LAKEWARD_TEST_POSTGRES15_PORT and LAKEWARD_TEST_POSTGRES18_PORT name their
//! ports on 127.0.0.1 (user `postgres`, password `lakeward`).

#![allow(clippy::unwrap_used, clippy::expect_used)] // helpers of tests are tests

mod discover;
mod incremental;
mod sessions;
mod support;
mod verify;
