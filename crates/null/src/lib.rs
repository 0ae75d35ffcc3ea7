//! A destination that keeps nothing, for measuring a source alone.
//!
//! Batches are counted and dropped; heads live in memory and end with the process. Commits follow the same rules
//! as elsewhere, so that the engine in front does the same work.

mod config;
mod destination;
mod writer;

pub use config::{Kind, NullConfig};
pub use destination::{KIND, NullDestination, spec};
