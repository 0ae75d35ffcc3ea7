//! Arrays: their elements from text and from binary, and their text from binary.

use super::{PgType, output};

/// One element.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Element<'a> {
    Null,
    Value(&'a [u8]),
}

/// The elements of the text of a one-dimensional array, separated by commas (every type but `box`).
pub(super) struct TextElements<'a> {
    rest: &'a [u8],
    state: State,
}

#[derive(PartialEq, Eq)]
enum State {
    Start,
    Inside,
    End,
}

impl<'a> TextElements<'a> {
    /// `None` where the array has explicit bounds, thus a lower bound other than 1, or more than one dimension.
    pub(super) fn new(text: &'a [u8]) -> Option<Self> {
        if text.starts_with(b"[") || text.starts_with(b"{{") {
            return None;
        }
        Some(Self { rest: text, state: State::Start })
    }

    /// The next element, unquoted in place where that can be and in `scratch` where not; `Some(None)` after the
    /// last one, `None` where this is no array.
    pub(super) fn next<'b>(&mut self, scratch: &'b mut Vec<u8>) -> Option<Option<Element<'b>>>
    where
        'a: 'b,
    {
        match self.state {
            State::End => return Some(None),
            State::Start => {
                self.rest = self.rest.strip_prefix(b"{")?;
                if self.rest == b"}" {
                    self.state = State::End;
                    return Some(None);
                }
                self.state = State::Inside;
            }
            State::Inside => {}
        }
        let element = match self.rest.first()? {
            b'"' => self.quoted(scratch)?,
            _ => {
                let end =
                    self.rest.iter().position(|byte| matches!(byte, b',' | b'}' | b'{' | b'"' | b'\\'))?;
                let (value, rest) = self.rest.split_at(end);
                self.rest = rest;
                match value {
                    b"" => return None,
                    b"NULL" => Element::Null,
                    value => Element::Value(value),
                }
            }
        };
        match self.rest {
            [b',', rest @ ..] => self.rest = rest,
            b"}" => self.state = State::End,
            _ => return None,
        }
        Some(Some(element))
    }

    fn quoted<'b>(&mut self, scratch: &'b mut Vec<u8>) -> Option<Element<'b>>
    where
        'a: 'b,
    {
        let body = &self.rest[1..];
        let end = memchr::memchr2(b'"', b'\\', body)?;
        if body[end] == b'"' {
            self.rest = &body[end + 1..];
            return Some(Element::Value(&body[..end]));
        }
        scratch.clear();
        let mut rest = body;
        loop {
            let at = memchr::memchr2(b'"', b'\\', rest)?;
            scratch.extend_from_slice(&rest[..at]);
            if rest[at] == b'"' {
                self.rest = &rest[at + 1..];
                return Some(Element::Value(scratch));
            }
            scratch.push(*rest.get(at + 1)?);
            rest = &rest[at + 2..];
        }
    }
}

/// The binary form of an array.
pub(super) struct BinaryArray<'a> {
    /// Size and lower bound of each dimension.
    dimensions: &'a [[u8; 8]],
    count: usize,
    elements: &'a [u8],
}

/// As many as PostgreSQL allows.
const MAX_DIMENSIONS: usize = 6;

impl<'a> BinaryArray<'a> {
    /// `None` where this is no array.
    pub(super) fn parse(bytes: &'a [u8]) -> Option<Self> {
        // Dimensions, flags, element type; the type is known from the catalog.
        let (header, rest) = bytes.split_first_chunk::<12>()?;
        let [d0, d1, d2, d3, ..] = *header;
        let count = usize::try_from(u32::from_be_bytes([d0, d1, d2, d3])).ok()?;
        if count > MAX_DIMENSIONS {
            return None;
        }
        let (dimensions, elements) = rest.split_at_checked(count * 8)?;
        let dimensions = dimensions.as_chunks().0;
        let count = match dimensions {
            [] => 0,
            _ => dimensions
                .iter()
                .try_fold(1usize, |count, dimension| count.checked_mul(size_and_lower(dimension)?.0))?,
        };
        // Every element has a length of four bytes.
        if count > elements.len() / 4 || count == 0 && !elements.is_empty() {
            return None;
        }
        Some(Self { dimensions, count, elements })
    }

    /// Whether it has at most one dimension, and begins at 1.
    pub(super) fn is_list(&self) -> bool {
        match self.dimensions {
            [] => true,
            [dimension] => dimension[4..] == 1i32.to_be_bytes(),
            _ => false,
        }
    }

    /// Its elements in storage order; `None` for one that is cut off, or for bytes after the last.
    pub(super) fn elements(&self) -> impl Iterator<Item = Option<Element<'a>>> + use<'a> {
        let mut rest = self.elements;
        let count = self.count;
        (0..count).map(move |at| {
            let (length, after) = rest.split_first_chunk()?;
            let (element, after) = match i32::from_be_bytes(*length) {
                -1 => (Element::Null, after),
                length => {
                    let (value, after) = after.split_at_checked(usize::try_from(length).ok()?)?;
                    (Element::Value(value), after)
                }
            };
            rest = after;
            (at + 1 < count || rest.is_empty()).then_some(element)
        })
    }
}

fn size_and_lower(dimension: &[u8; 8]) -> Option<(usize, i32)> {
    let [s0, s1, s2, s3, l0, l1, l2, l3] = *dimension;
    let size = usize::try_from(i32::from_be_bytes([s0, s1, s2, s3])).ok()?;
    Some((size, i32::from_be_bytes([l0, l1, l2, l3])))
}

/// Appends what `array_out` prints.
pub(super) fn write(item: &PgType, bytes: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let array = BinaryArray::parse(bytes)?;
    if array.count == 0 {
        out.extend_from_slice(b"{}");
        return Some(());
    }
    let mut sizes = Vec::with_capacity(MAX_DIMENSIONS);
    let mut bounds = Vec::new();
    let mut explicit = false;
    for dimension in array.dimensions {
        let (size, lower) = size_and_lower(dimension)?;
        explicit |= lower != 1;
        let upper = i64::from(lower) + i64::try_from(size).ok()? - 1;
        bounds.extend_from_slice(format!("[{lower}:{upper}]").as_bytes());
        sizes.push(size);
    }
    if explicit {
        out.extend_from_slice(&bounds);
        out.push(b'=');
    }
    write_dimension(item, &sizes, &mut array.elements(), out)
}

fn write_dimension<'a>(
    item: &PgType,
    sizes: &[usize],
    elements: &mut impl Iterator<Item = Option<Element<'a>>>,
    out: &mut Vec<u8>,
) -> Option<()> {
    let (size, inner) = sizes.split_first()?;
    out.push(b'{');
    for at in 0..*size {
        if at > 0 {
            out.push(b',');
        }
        if !inner.is_empty() {
            write_dimension(item, inner, elements, out)?;
            continue;
        }
        match elements.next()?? {
            Element::Null => out.extend_from_slice(b"NULL"),
            Element::Value(value) => {
                let start = out.len();
                output::write(item, value, out)?;
                quote_from(start, out);
            }
        }
    }
    out.push(b'}');
    Some(())
}

/// Quotes the element that was written from `start` on, where the array's syntax needs it.
fn quote_from(start: usize, out: &mut Vec<u8>) {
    let element = &out[start..];
    let special = |byte: &u8| {
        matches!(byte, b'"' | b'\\' | b'{' | b'}' | b',' | b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c)
    };
    if !element.is_empty() && !element.eq_ignore_ascii_case(b"NULL") && !element.iter().any(special) {
        return;
    }
    let element = out.split_off(start);
    out.push(b'"');
    for byte in element {
        if matches!(byte, b'"' | b'\\') {
            out.push(b'\\');
        }
        out.push(byte);
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(text: &str) -> Option<Vec<Option<String>>> {
        let mut elements = TextElements::new(text.as_bytes())?;
        let mut scratch = Vec::new();
        let mut found = Vec::new();
        while let Some(element) = elements.next(&mut scratch)? {
            found.push(match element {
                Element::Null => None,
                Element::Value(value) => Some(String::from_utf8(value.to_vec()).unwrap()),
            });
        }
        Some(found)
    }

    #[test]
    fn text_elements() {
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(all("{}"), Some(vec![]));
        assert_eq!(all("{1,NULL,3}"), Some(vec![some("1"), None, some("3")]));
        assert_eq!(
            all(r#"{"a b","",null,"NULL","q\"\\","{x}","a,b"}"#),
            Some(vec![
                some("a b"),
                some(""),
                some("null"),
                some("NULL"),
                some(r#"q"\"#),
                some("{x}"),
                some("a,b")
            ]),
        );
        for other in
            ["{{1},{2}}", "[0:1]={1,2}", "", "{", "{1", "{1,", "{1,}", "{,1}", "{1}x", "{\"a}", "{\"a\\", "x"]
        {
            assert_eq!(all(other), None, "{other}");
        }
    }
}
