//! Places in the log, and the position that is saved for a pipeline.

use std::fmt;
use std::str::FromStr;

use lakeward_core::{Error, Position, Result};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use crate::config::INSERT_ONLY;

/// A byte of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub(crate) struct Lsn(pub(crate) u64);

impl Lsn {
    /// Where a bounded reading ends if the log is written up to here.
    ///
    /// What is just behind the header of a page (24 bytes, 40 in a segment's first page) is not there until the
    /// next record is, and may not be for long: then the end of the page before is the end of the log.
    pub(crate) fn before_page_header(self, page: u64) -> Self {
        match page {
            0 => self,
            page => match self.0 % page {
                header @ (24 | 40) => Self(self.0 - header),
                _ => self,
            },
        }
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & u64::from(u32::MAX))
    }
}

impl FromStr for Lsn {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let number = |digits: &str| u32::from_str_radix(digits, 16).ok().map(u64::from);
        text.split_once('/')
            .and_then(|(high, low)| Some(Self(number(high)? << 32 | number(low)?)))
            .ok_or_else(|| Error::bug("a place in the log is not one of PostgreSQL's"))
    }
}

impl Serialize for Lsn {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Lsn {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// What is kept of a pipeline's place in the log: an intent while `made` is false, a position once it has an LSN.
/// That of a stream's snapshot names neither slot nor publication.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct LogPosition {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) lsn: Option<Lsn>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) timeline: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) slot: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) publication: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) system_identifier: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) made: Option<bool>,
    /// Where the pipeline began to follow the log, or began anew after changes were lost: what joined before is
    /// not in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) since: Option<Lsn>,
    /// Slot and publications under the pipeline's names that somebody else made or manages: they stay when it lets go,
    /// and so do the tables in them.
    #[serde(default, skip_serializing_if = "Found::is_empty")]
    pub(crate) found: Found,
}

/// What a pipeline uses and did not make.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Found {
    /// Whether the slot is such.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) slot: bool,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) publications: Vec<String>,
}

impl Found {
    fn is_empty(&self) -> bool {
        !self.slot && self.publications.is_empty()
    }
}

impl LogPosition {
    /// Reads a position of this driver.
    ///
    /// # Errors
    /// `State`, where it is another's.
    pub(crate) fn of(position: &Position) -> Result<Self> {
        Self::deserialize(&position.0).map_err(|error| {
            Error::new(lakeward_core::ErrorKind::State, "a saved position is not one of PostgreSQL's")
                .source(error)
        })
    }

    /// As the engine carries it.
    pub(crate) fn to_position(&self) -> Position {
        // A struct of texts and numbers is always JSON.
        Position(serde_json::to_value(self).unwrap_or(Value::Null))
    }

    /// The same pipeline's position at another place.
    pub(crate) fn at(&self, lsn: Lsn) -> Self {
        Self { lsn: Some(lsn), made: None, ..self.clone() }
    }

    /// Slot and publication.
    ///
    /// # Errors
    /// `State`, where it names none.
    pub(crate) fn names(&self) -> Result<Names> {
        match (&self.slot, &self.publication) {
            (Some(slot), Some(publication)) => {
                let (slot, publication) = (slot.clone(), publication.clone());
                Ok(Names { slot, publication, since: self.since, found: self.found.clone() })
            }
            _ => Err(Error::new(
                lakeward_core::ErrorKind::State,
                "a saved position names no slot and no publication",
            )),
        }
    }
}

/// What a pipeline has at the source.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Names {
    pub(crate) slot: String,
    pub(crate) publication: String,
    /// [`LogPosition::since`]
    pub(crate) since: Option<Lsn>,
    /// [`LogPosition::found`]
    pub(crate) found: Found,
}

impl Names {
    /// A stream's place in this pipeline's log: where it is another than before, the log was not followed without
    /// a break.
    pub(crate) fn place(&self, relation: u32, member: u32, altered: &str) -> String {
        let since = self.since.unwrap_or_default();
        format!("{relation}:{member}:{altered}@{since}")
    }

    /// The publication of streams of which only inserts are followed.
    pub(crate) fn insert_only(&self) -> String {
        format!("{}{INSERT_ONLY}", self.publication)
    }

    /// Whether a publication is the pipeline's own.
    pub(crate) fn owns(&self, publication: &str) -> bool {
        !self.found.publications.iter().any(|found| found == publication)
    }

    /// The publication that a stream belongs to.
    pub(crate) fn publication_for(&self, insert_only: bool) -> String {
        if insert_only { self.insert_only() } else { self.publication.clone() }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn places_are_written_as_the_server_does() {
        let lsn: Lsn = "1A/16B3748".parse().unwrap();
        assert_eq!(lsn, Lsn(0x1A_016B_3748));
        assert_eq!(lsn.to_string(), "1A/16B3748");
        assert!("1A".parse::<Lsn>().is_err() && "x/1".parse::<Lsn>().is_err());
    }

    #[test]
    fn an_end_behind_a_page_header_is_the_page_before() {
        assert_eq!(Lsn(8192 * 3 + 24).before_page_header(8192), Lsn(8192 * 3));
        assert_eq!(Lsn(8192 * 2048 + 40).before_page_header(8192), Lsn(8192 * 2048));
        assert_eq!(Lsn(8192 * 3 + 25).before_page_header(8192), Lsn(8192 * 3 + 25));
    }

    #[test]
    fn positions_survive_json() {
        let value = json!({"lsn": "0/16B3748", "timeline": 1, "slot": "s", "publication": "p"});
        let position = LogPosition::of(&Position(value.clone())).unwrap();
        assert_eq!(position.to_position().0, value);
        assert_eq!(position.names().unwrap().insert_only(), "p_insert_only");
        assert!(LogPosition::of(&Position(json!({"lsn": 7}))).is_err());
    }
}
