//! PostgreSQL as a source
