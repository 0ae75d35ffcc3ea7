//! Who is who: a pipeline joins one source and one destination by one state.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// What makes a source this source: its kind and, in its own words, what no other server shares.
///
/// PostgreSQL: system identifier and database. MySQL: server UUID. MongoDB: replica set id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceIdentity {
    /// The connector's kind, as in a config's `type`.
    pub kind: String,
    /// The identifying facts by name; all must agree.
    #[serde(flatten)]
    pub facts: Map<String, Value>,
}

/// What makes a destination this destination.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DestinationIdentity {
    /// The connector's kind, as in a config's `type`.
    pub kind: String,
    /// A random id that the destination keeps.
    pub id: String,
}

/// One source, one destination, one state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pipeline {
    /// A ULID, drawn when the state is first saved.
    pub id: String,
    /// Where rows come from.
    pub source: SourceIdentity,
    /// Where rows go.
    pub destination: DestinationIdentity,
}

/// One run of a pipeline: what a destination needs to know to tell its writers apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// A ULID, drawn at start.
    pub id: String,
    /// The pipeline's id.
    pub pipeline: String,
    /// The source's identity.
    pub source: SourceIdentity,
}
