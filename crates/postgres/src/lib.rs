//! PostgreSQL as a source.

pub mod decode;
