//! COPY's binary format: a header, tuples of fields with their lengths, a trailer.

const SIGNATURE: &[u8; 11] = b"PGCOPY\n\xff\r\n\0";
/// Signature, flags, length of the extension.
const HEADER: usize = 19;

/// A part of the stream, at its start.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// More bytes are needed to say.
    Incomplete,
    /// This many bytes.
    Whole(usize),
    /// The stream's end.
    Trailer,
    /// Nothing that COPY sends.
    Malformed,
}

/// The header.
pub(super) fn header(data: &[u8]) -> Part {
    let signature = data.len().min(SIGNATURE.len());
    if data[..signature] != SIGNATURE[..signature] {
        return Part::Malformed;
    }
    let Some(header) = data.first_chunk::<HEADER>() else { return Part::Incomplete };
    let [.., critical0, critical1, _, _, e0, e1, e2, e3] = *header;
    // Half of the flags change the format; no server sets one since row OIDs are gone.
    if [critical0, critical1] != [0, 0] {
        return Part::Malformed;
    }
    let extension = u32::from_be_bytes([e0, e1, e2, e3]) as usize;
    if data.len() - HEADER < extension { Part::Incomplete } else { Part::Whole(HEADER + extension) }
}

/// One tuple of `columns` fields.
#[inline]
pub(super) fn tuple(data: &[u8], columns: usize) -> Part {
    let Some(count) = data.first_chunk() else { return Part::Incomplete };
    match i16::from_be_bytes(*count) {
        -1 => return Part::Trailer,
        count if usize::try_from(count) == Ok(columns) => {}
        _ => return Part::Malformed,
    }
    let mut at = 2;
    for _ in 0..columns {
        let Some(length) = data.get(at..).and_then(|rest| rest.first_chunk()) else {
            return Part::Incomplete;
        };
        at += 4;
        match i32::from_be_bytes(*length) {
            -1 => {}
            // At most 2 GiB per field: a `usize` does not overflow within one tuple.
            length => match usize::try_from(length) {
                Ok(length) => at += length,
                Err(_) => return Part::Malformed,
            },
        }
    }
    if at <= data.len() { Part::Whole(at) } else { Part::Incomplete }
}

/// The next field of a tuple that is known to be whole, and what follows it; `None` inside for null.
#[inline]
pub(super) fn field(rest: &[u8]) -> Option<(Option<&[u8]>, &[u8])> {
    let (length, rest) = rest.split_first_chunk()?;
    let Ok(length) = usize::try_from(i32::from_be_bytes(*length)) else { return Some((None, rest)) };
    let (value, rest) = rest.split_at_checked(length)?;
    Some((Some(value), rest))
}
