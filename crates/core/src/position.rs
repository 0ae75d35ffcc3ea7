//! Positions in a source's log.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A place in a source's log, in the source's own terms: an LSN, a GTID set, a resume token.
///
/// Opaque to everything but its driver. Positions are not a total order (GTID sets), so it has no `Ord` and no
/// `Eq` that means anything about order: ask [`CdcDriver::compare`](crate::CdcDriver::compare).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Position(pub Value);
