//! COPY's text format: fields between tabs, rows between newlines, backslash escapes.

/// A field as it stands in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Field<'a> {
    /// `\N`.
    Null,
    /// The value itself.
    Plain(&'a [u8]),
    /// The value with escapes in it.
    Escaped(&'a [u8]),
}

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGHS: u64 = ONES << 7;

/// The high bit of every byte of `word` that is `byte`. Only the lowest one that is set can be trusted.
#[inline]
const fn matches(word: u64, byte: u8) -> u64 {
    let differing = word ^ (ONES * byte as u64);
    differing.wrapping_sub(ONES) & !differing & HIGHS
}

/// Where the next tab, newline or backslash stands.
///
/// Fields are mostly shorter than what a call of a vectorised search is worth: the first 64 bytes are looked
/// at eight at a time, the rest of a long field is searched.
#[inline]
pub(super) fn next_special(data: &[u8], from: usize) -> Option<usize> {
    let mut at = from;
    for _ in 0..8 {
        let Some(word) = data.get(at..).and_then(|rest| rest.first_chunk::<8>()) else {
            return short_special(data, at);
        };
        let word = u64::from_le_bytes(*word);
        let found = matches(word, b'\t') | matches(word, b'\n') | matches(word, b'\\');
        if found != 0 {
            return Some(at + (found.trailing_zeros() / 8) as usize);
        }
        at += 8;
    }
    memchr::memchr3(b'\t', b'\n', b'\\', &data[at..]).map(|found| at + found)
}

#[inline]
fn short_special(data: &[u8], from: usize) -> Option<usize> {
    let rest = data.get(from..)?;
    rest.iter().position(|byte| matches!(byte, b'\t' | b'\n' | b'\\')).map(|found| from + found)
}

/// The field at `start`, and where the tab or newline after it stands.
#[inline]
pub(super) fn field(data: &[u8], start: usize) -> Option<(Field<'_>, usize)> {
    let end = next_special(data, start)?;
    if data[end] != b'\\' {
        return Some((Field::Plain(&data[start..end]), end));
    }
    if end == start {
        match data.get(start + 1..)? {
            [b'N', b'\t' | b'\n', ..] => return Some((Field::Null, start + 2)),
            // Bytes in hex begin with a backslash, the only one in them.
            [b'\\', rest @ ..] => {
                let end = start + 2 + next_special(rest, 0)?;
                if data[end] != b'\\' {
                    return Some((Field::Plain(&data[start + 1..end]), end));
                }
            }
            _ => {}
        }
    }
    // The escapes of tab and newline are letters.
    let end = end + memchr::memchr2(b'\t', b'\n', &data[end..])?;
    Some((Field::Escaped(&data[start..end]), end))
}

/// Appends a field without its escapes. `None` where it ends within one.
pub(super) fn unescape(mut field: &[u8], out: &mut Vec<u8>) -> Option<()> {
    while let Some(at) = memchr::memchr(b'\\', field) {
        out.extend_from_slice(&field[..at]);
        out.push(match field.get(at + 1)? {
            b'b' => 0x08,
            b'f' => 0x0c,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'v' => 0x0b,
            other => *other,
        });
        field = &field[at + 2..];
    }
    out.extend_from_slice(field);
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn specials_are_found_at_every_distance() {
        for length in 0..200 {
            for special in [b'\t', b'\n', b'\\'] {
                let mut data = vec![0x8a; length];
                data.push(special);
                data.extend_from_slice(b"\t\n\\\x08\x0b rest");
                assert_eq!(next_special(&data, 0), Some(length));
                assert_eq!(next_special(&data[..length], 0), None);
            }
        }
        assert_eq!(next_special(b"abc", 7), None);
    }

    #[test]
    fn escapes() {
        let mut out = Vec::new();
        assert_eq!(unescape(b"a\\b\\f\\n\\r\\t\\v\\\\\\x\\Nz", &mut out), Some(()));
        assert_eq!(out, b"a\x08\x0c\n\r\t\x0b\\xNz");
        assert_eq!(unescape(b"a\\", &mut out), None);
    }

    #[test]
    fn fields() {
        assert_eq!(field(b"\\N\t", 0), Some((Field::Null, 2)));
        assert_eq!(field(b"\\Nx\t", 0), Some((Field::Escaped(b"\\Nx"), 3)));
        assert_eq!(field(b"\t", 0), Some((Field::Plain(b""), 0)));
        assert_eq!(field(b".\\\\x00\n", 1), Some((Field::Plain(b"\\x00"), 6)));
        assert_eq!(field(b"\\\\x\\n0\n", 0), Some((Field::Escaped(b"\\\\x\\n0"), 6)));
        assert_eq!(field(b"\\\\x", 0), None);
        assert_eq!(field(b"abc", 0), None);
    }
}
