//! The messages of `pgoutput`, protocol versions 1 to 4, read where they arrived.
//!
//! Format: PostgreSQL's documentation, "Logical Replication Message Formats". No input makes the parser panic: it
//! is a message, or an error.

use lakeward_core::{Error, ErrorKind, Result};

use crate::wire::EPOCH_MICROS;

/// One message.
#[derive(Debug, Clone, PartialEq)]
pub struct Message<'a> {
    /// The (sub)transaction that it is of, where it came in a streamed block.
    pub xid: Option<u32>,
    /// What it says.
    pub body: Body<'a>,
}

/// What a message says. LSNs are bytes of the log, times microseconds since the Unix epoch.
#[derive(Debug, Clone, PartialEq)]
pub enum Body<'a> {
    /// A transaction follows, whole.
    Begin {
        /// Where its commit stands.
        commit_lsn: u64,
        /// When it was committed.
        commit_ts: i64,
        /// The transaction.
        xid: u32,
    },
    /// The transaction is complete.
    Commit {
        /// Where its commit stands.
        commit_lsn: u64,
        /// Where its commit ends.
        end_lsn: u64,
    },
    /// A table, before the first change of it and whenever it has changed.
    Relation(Relation<'a>),
    /// A new row.
    Insert {
        /// The table's OID.
        relation: u32,
        /// The row.
        new: Tuple<'a>,
    },
    /// A changed row.
    Update {
        /// The table's OID.
        relation: u32,
        /// What the server says of the old row.
        old: Option<OldTuple<'a>>,
        /// The new row.
        new: Tuple<'a>,
    },
    /// A row that is gone.
    Delete {
        /// The table's OID.
        relation: u32,
        /// The old row.
        old: OldTuple<'a>,
    },
    /// Tables that were emptied.
    Truncate(Relations<'a>),
    /// Changes of a transaction in progress follow.
    StreamStart {
        /// The transaction.
        xid: u32,
        /// Whether it is the first block of it.
        first: bool,
    },
    /// The block ends.
    StreamStop,
    /// A streamed transaction was committed.
    StreamCommit {
        /// The transaction.
        xid: u32,
        /// Where its commit stands.
        commit_lsn: u64,
        /// Where its commit ends.
        end_lsn: u64,
        /// When it was committed.
        commit_ts: i64,
    },
    /// A streamed transaction, or a part of one, was rolled back.
    StreamAbort {
        /// The transaction.
        xid: u32,
        /// The part; the same for all of it.
        subxid: u32,
    },
    /// Where a change came from, a type's name, a logical message: nothing to us.
    Other,
}

/// A table as the log describes it.
#[derive(Debug, Clone, PartialEq)]
pub struct Relation<'a> {
    /// Its OID.
    pub oid: u32,
    /// Its schema; empty for `pg_catalog`.
    pub namespace: &'a str,
    /// Its name.
    pub name: &'a str,
    /// `d`efault, `n`othing, `f`ull, `i`ndex.
    pub replica_identity: u8,
    /// Its published columns.
    pub columns: Vec<LogColumn<'a>>,
}

/// A column of a table in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogColumn<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its type's OID.
    pub type_oid: u32,
    /// Its type's modifier.
    pub typmod: i32,
    /// Whether it is part of the replica identity.
    pub key: bool,
}

/// A value of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value<'a> {
    /// Null, or not sent.
    Null,
    /// A large value that did not change and is not sent.
    Unchanged,
    /// The type's text output.
    Text(&'a [u8]),
}

/// A row: known to be whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tuple<'a> {
    count: u16,
    data: &'a [u8],
}

/// What the server says of an old row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OldTuple<'a> {
    /// Its key; the other columns are null.
    Key(Tuple<'a>),
    /// All of it.
    Full(Tuple<'a>),
}

impl<'a> OldTuple<'a> {
    /// The values that there are.
    pub fn tuple(self) -> Tuple<'a> {
        match self {
            Self::Key(tuple) | Self::Full(tuple) => tuple,
        }
    }
}

/// The OIDs of tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Relations<'a>(&'a [u8]);

impl Relations<'_> {
    /// One by one.
    pub fn iter(&self) -> impl Iterator<Item = u32> {
        self.0.as_chunks::<4>().0.iter().map(|oid| u32::from_be_bytes(*oid))
    }
}

impl<'a> Tuple<'a> {
    /// Its values, in the order of its table's columns.
    pub fn values(&self) -> impl ExactSizeIterator<Item = Value<'a>> + use<'a> {
        let mut rest = Cursor(self.data);
        // That none is torn was seen when the message was read.
        (0..self.count).map(move |_| rest.value().unwrap_or(Value::Null))
    }

    /// How many values it has.
    pub fn len(&self) -> usize {
        usize::from(self.count)
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }
}

/// Reads one message. `streaming` says whether it stands in a streamed block.
///
/// # Errors
/// `Source` where it is none of the protocol's, or one of a slot that we do not make.
pub fn parse(message: &[u8], streaming: bool) -> Result<Message<'_>> {
    let mut rest = Cursor(message);
    let tag = rest.u8()?;
    // Of these every one stands in a block where there is one, and says of which (sub)transaction it is.
    let xid = match tag {
        b'R' | b'Y' | b'I' | b'U' | b'D' | b'T' | b'M' if streaming => Some(rest.u32()?),
        _ => None,
    };
    let body = match tag {
        b'B' => Body::Begin { commit_lsn: rest.u64()?, commit_ts: rest.time()?, xid: rest.u32()? },
        b'C' => {
            rest.u8()?;
            let (commit_lsn, end_lsn) = (rest.u64()?, rest.u64()?);
            rest.time()?;
            Body::Commit { commit_lsn, end_lsn }
        }
        b'R' => Body::Relation(rest.relation()?),
        b'I' => {
            let relation = rest.u32()?;
            rest.expect(b'N')?;
            Body::Insert { relation, new: rest.tuple()? }
        }
        b'U' => {
            let relation = rest.u32()?;
            let (mut kind, mut old) = (rest.u8()?, None);
            if kind != b'N' {
                old = Some(rest.old_tuple(kind)?);
                kind = rest.u8()?;
            }
            if kind != b'N' {
                return Err(foreign());
            }
            Body::Update { relation, old, new: rest.tuple()? }
        }
        b'D' => {
            let relation = rest.u32()?;
            let kind = rest.u8()?;
            Body::Delete { relation, old: rest.old_tuple(kind)? }
        }
        b'T' => {
            let count = rest.u32()? as usize;
            rest.u8()?;
            Body::Truncate(Relations(rest.take(count.checked_mul(4).ok_or_else(foreign)?)?))
        }
        b'O' | b'Y' | b'M' => return Ok(Message { xid, body: Body::Other }),
        b'S' => Body::StreamStart { xid: rest.u32()?, first: rest.u8()? == 1 },
        b'E' => Body::StreamStop,
        b'c' => {
            let xid = rest.u32()?;
            rest.u8()?;
            Body::StreamCommit { xid, commit_lsn: rest.u64()?, end_lsn: rest.u64()?, commit_ts: rest.time()? }
        }
        b'A' => {
            let (xid, subxid) = (rest.u32()?, rest.u32()?);
            // From version 4 on, where and when it was rolled back.
            if !rest.0.is_empty() {
                rest.u64()?;
                rest.time()?;
            }
            Body::StreamAbort { xid, subxid }
        }
        b'b' | b'P' | b'K' | b'r' | b'p' => {
            return Err(Error::new(
                ErrorKind::Source,
                "the slot sends prepared transactions, whose rows it would not send again",
            )
            .hint("use a slot that was made without two_phase"));
        }
        _ => return Err(foreign()),
    };
    if rest.0.is_empty() { Ok(Message { xid, body }) } else { Err(foreign()) }
}

#[cold]
fn foreign() -> Error {
    Error::new(ErrorKind::Source, "the log holds a message that is not pgoutput's")
        .hint("a proxy between here and the server may have changed it")
}

/// What is left of a message.
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    #[inline]
    fn take(&mut self, length: usize) -> Result<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or_else(foreign)?;
        self.0 = rest;
        Ok(taken)
    }

    #[inline]
    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk().ok_or_else(foreign)?;
        self.0 = rest;
        Ok(*taken)
    }

    #[inline]
    fn u8(&mut self) -> Result<u8> {
        self.array().map(|[byte]| byte)
    }

    fn u16(&mut self) -> Result<u16> {
        self.array().map(u16::from_be_bytes)
    }

    #[inline]
    fn u32(&mut self) -> Result<u32> {
        self.array().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Result<u64> {
        self.array().map(u64::from_be_bytes)
    }

    fn time(&mut self) -> Result<i64> {
        Ok(self.array().map(i64::from_be_bytes)?.saturating_add(EPOCH_MICROS))
    }

    fn text(&mut self) -> Result<&'a str> {
        let end = memchr::memchr(0, self.0).ok_or_else(foreign)?;
        let text = std::str::from_utf8(self.take(end)?).map_err(|_| foreign())?;
        self.u8()?;
        Ok(text)
    }

    fn expect(&mut self, tag: u8) -> Result<()> {
        if self.u8()? == tag { Ok(()) } else { Err(foreign()) }
    }

    fn relation(&mut self) -> Result<Relation<'a>> {
        let (oid, namespace, name) = (self.u32()?, self.text()?, self.text()?);
        let replica_identity = self.u8()?;
        let count = self.u16()?;
        let columns = (0..count)
            .map(|_| {
                let key = self.u8()? & 1 != 0;
                Ok(LogColumn {
                    key,
                    name: self.text()?,
                    type_oid: self.u32()?,
                    typmod: self.u32()?.cast_signed(),
                })
            })
            .collect::<Result<_>>()?;
        Ok(Relation { oid, namespace, name, replica_identity, columns })
    }

    fn old_tuple(&mut self, kind: u8) -> Result<OldTuple<'a>> {
        match kind {
            b'K' => self.tuple().map(OldTuple::Key),
            b'O' => self.tuple().map(OldTuple::Full),
            _ => Err(foreign()),
        }
    }

    #[inline]
    fn tuple(&mut self) -> Result<Tuple<'a>> {
        let count = self.u16()?;
        let data = self.0;
        for _ in 0..count {
            self.value()?;
        }
        Ok(Tuple { count, data: &data[..data.len() - self.0.len()] })
    }

    #[inline]
    fn value(&mut self) -> Result<Value<'a>> {
        Ok(match self.u8()? {
            b'n' => Value::Null,
            b'u' => Value::Unchanged,
            b't' => {
                let length = self.u32()? as usize;
                Value::Text(self.take(length)?)
            }
            // `b` is for who asked for binary, which we do not.
            _ => return Err(foreign()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
        let mut message = vec![tag];
        parts.iter().for_each(|part| message.extend_from_slice(part));
        message
    }

    const OID: [u8; 4] = [0, 0, 0, 7];

    #[test]
    fn rows_are_read_in_place() {
        let tuple = b"\0\x03t\0\0\0\x02abnu";
        let insert = message(b'I', &[&OID, b"N", tuple]);
        let Body::Insert { relation: 7, new } = parse(&insert, false).unwrap().body else { panic!() };
        assert_eq!(new.values().collect::<Vec<_>>(), [Value::Text(b"ab"), Value::Null, Value::Unchanged]);
        let update = message(b'U', &[&[0, 0, 0, 9], &OID, b"K", tuple, b"N", tuple]);
        let parsed = parse(&update, true).unwrap();
        assert_eq!(parsed.xid, Some(9));
        assert!(matches!(parsed.body, Body::Update { old: Some(OldTuple::Key(_)), .. }));
        let delete = message(b'D', &[&OID, b"O", tuple]);
        assert!(matches!(parse(&delete, false).unwrap().body, Body::Delete { old: OldTuple::Full(_), .. }));
    }

    #[test]
    fn transactions_and_tables() {
        let begin = message(b'B', &[&[0, 0, 0, 1, 0, 0, 0, 2], &[0; 8], &OID]);
        let expected = Body::Begin { commit_lsn: 0x1_0000_0002, commit_ts: EPOCH_MICROS, xid: 7 };
        assert_eq!(parse(&begin, false).unwrap().body, expected);
        let relation =
            message(b'R', &[&OID, b"public\0t\0d\0\x01\x01id\0", &[0, 0, 0, 23], &[255, 255, 255, 255]]);
        let Body::Relation(relation) = parse(&relation, false).unwrap().body else { panic!() };
        assert_eq!((relation.namespace, relation.name, relation.replica_identity), ("public", "t", b'd'));
        assert_eq!(relation.columns, [LogColumn { name: "id", type_oid: 23, typmod: -1, key: true }]);
        let truncate = message(b'T', &[&[0, 0, 0, 2, 3], &OID, &OID]);
        let Body::Truncate(relations) = parse(&truncate, false).unwrap().body else { panic!() };
        assert_eq!(relations.iter().collect::<Vec<_>>(), [7, 7]);
        let abort = Body::StreamAbort { xid: 7, subxid: 7 };
        assert_eq!(parse(&message(b'A', &[&OID, &OID]), false).unwrap().body, abort);
        assert_eq!(parse(&message(b'A', &[&OID, &OID, &[0; 16]]), false).unwrap().body, abort);
    }

    #[test]
    fn what_is_torn_or_foreign_is_an_error() {
        let tuple = b"\0\x03t\0\0\0\x02abnu";
        let whole = [
            message(b'U', &[&OID, b"O", tuple, b"N", tuple]),
            message(b'R', &[&OID, b"public\0t\0d\0\x01\x01id\0", &[0, 0, 0, 23], &[255, 255, 255, 255]]),
            message(b'T', &[&[0, 0, 0, 2, 3], &OID, &OID]),
            message(b'c', &[&OID, b"\0", &[0; 24]]),
        ];
        for whole in &whole {
            assert!(parse(whole, false).is_ok());
            for end in 0..whole.len() {
                assert!(parse(&whole[..end], false).is_err(), "{end}");
                let _ = parse(&whole[..end], true);
            }
        }
        assert!(parse(b"T\xff\xff\xff\xff\0", false).is_err());
        assert!(parse(b"I\0\0\0\x07N\0\x01t\xff\xff\xff\xff", false).is_err());
        assert!(parse(b"b", false).unwrap_err().to_string().contains("prepared"));
    }

    /// Not a substitute for fuzzing, which has a target of its own.
    #[test]
    fn no_bytes_make_it_panic() {
        let mut seed = 1_u64;
        let mut bytes = [0_u8; 48];
        for _ in 0..200_000 {
            for byte in &mut bytes {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                *byte = (seed >> 56) as u8;
            }
            bytes[0] = b"BCORYIUDTMSEcAbPKrp"[(seed >> 33) as usize % 19];
            for streaming in [false, true] {
                if let Ok(Message { body: Body::Insert { new, .. }, .. }) = parse(&bytes, streaming) {
                    assert_eq!(new.values().count(), new.len());
                }
            }
        }
    }
}
