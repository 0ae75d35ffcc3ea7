//! Following PostgreSQL's log through `pgoutput`.

mod lsn;
pub mod pgoutput;
