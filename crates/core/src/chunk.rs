//! Chunks of a backfill, and the session (snapshot) under which they are read.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::Position;

/// A part of a stream that is read, written and committed on its own.
///
/// The bounds are text in the driver's own terms; `min` is included, `max` is not, and an absent bound is open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chunk {
    /// Its number within the generation, from 0. Never given to another extent of the same generation.
    pub number: u32,
    /// What is read, where a stream consists of several relations (partitions): a name or id of the driver's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relation: Option<String>,
    /// The inclusive lower bound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min: Option<String>,
    /// The exclusive upper bound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<String>,
    /// Bytes that the source is expected to read for it: the largest go first.
    #[serde(default)]
    pub bytes: u64,
}

/// A chunk that stands committed in the open generation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DoneChunk {
    /// Rows that its files hold.
    pub rows: u64,
    /// The snapshot that read it ([`Session::snapshot`]).
    pub snapshot: Value,
}

/// What must not have changed for the chunks of an earlier session to be kept.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Fingerprint {
    /// Columns, types, missing values, enum labels: where it differs, the generation starts again.
    pub schema: String,
    /// Changes whenever the source rewrites storage of the stream, as some schema changes do.
    #[serde(default)]
    pub storage: String,
    /// The stream's place in the source's log, where its changes are followed: it changes when the stream left the
    /// log and came back, or is another table under the same name. Empty where they are not.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub log: String,
    /// By relation (see [`Chunk::relation`]; the key `""` where chunks name none), its storage: where one
    /// differs, its chunks are read again; where one is gone, its chunks are dropped.
    pub relations: BTreeMap<String, String>,
}

impl Fingerprint {
    /// Whether the stream has a place in the source's log.
    pub fn is_in_log(&self) -> bool {
        !self.log.is_empty()
    }

    /// Whether nothing that held the stream's rows then holds them now: its name stands for another one.
    pub fn is_replaced_by(&self, now: &Self) -> bool {
        let (then, now) = (&self.relations, &now.relations);
        !then.is_empty() && !now.is_empty() && then.keys().all(|relation| !now.contains_key(relation))
    }
}

/// A consistent view of one stream, held open at the source while it is read.
///
/// It serialises, so that a worker elsewhere can join it while its holder lives.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Session {
    /// The handle by which a reader joins (an exported snapshot's name); unique within the driver.
    pub token: String,
    /// Where the stream's changes begin; `None` where no change stream follows.
    pub position: Option<Position>,
    /// The number behind `position` for `_lw_seq`; 0 without one.
    #[serde(default)]
    pub sequence: u64,
    /// Where a joining worker connects, without credentials.
    pub endpoint: String,
    /// When the source gives the snapshot up by itself, in milliseconds since the epoch.
    #[serde(default)]
    pub expires_at: Option<u64>,
    /// The snapshot's identity, kept with each chunk read under it (PostgreSQL: its xmin).
    pub snapshot: Value,
    /// What the plan and done chunks depend on.
    pub fingerprint: Fingerprint,
    /// What the driver needs to read under this session, in its own terms.
    pub detail: Value,
}
