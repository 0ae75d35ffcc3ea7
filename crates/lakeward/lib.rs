//! Lakeward replicates databases into open files: every row, then every change, exactly once.
//!
//! This is the library's front: [`core`] holds the vocabulary and the contracts of sources and destinations,
//! [`engine`] runs them, [`state`] keeps where a pipeline stands.

#![forbid(unsafe_code)]

pub use lakeward_core as core;
pub use lakeward_engine as engine;
pub use lakeward_state as state;
