//! The JSON state file of a pipeline.
//!
//! Guaranteed: a state is either the one before or the one after a save, whatever is killed; only one process at
//! a time holds it; a file that is torn, of an unknown version or of another pipeline is refused and never read
//! as "first run".

mod format;
mod lock;
mod store;

pub use store::{GlobalState, State, StateStore, StreamState};

/// The JSON Schema of the file, as kept in `state/`.
pub const SCHEMA: &str = include_str!("../../../state/state.schema.json");
