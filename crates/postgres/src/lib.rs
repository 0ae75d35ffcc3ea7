//! PostgreSQL as a source.

pub mod decode;
pub mod tls;
pub mod wire;
