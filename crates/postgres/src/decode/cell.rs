//! One value on its way into its column.

use lakeward_core::OnBadValue;

use super::columns::{Builder, Lists};
use super::{PgType, array, numeric, output, scalar, time};

/// What a value on the wire is to the type of its column.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Parsed<T> {
    /// Exactly this.
    Fits(T),
    /// Outside the type, on the side of this end of it.
    Nearest(T),
    /// Outside the type, and nothing in it is near.
    Misfit,
    /// Nothing that the source's type prints.
    Malformed,
}

impl<T> Parsed<T> {
    /// The value itself, or `Malformed`.
    #[inline]
    pub(super) fn or_malformed(value: Option<T>) -> Self {
        value.map_or(Self::Malformed, Self::Fits)
    }

    #[inline]
    pub(super) fn map<U>(self, f: impl FnOnce(T) -> U) -> Parsed<U> {
        match self {
            Self::Fits(value) => Parsed::Fits(f(value)),
            Self::Nearest(value) => Parsed::Nearest(f(value)),
            Self::Misfit => Parsed::Misfit,
            Self::Malformed => Parsed::Malformed,
        }
    }

    /// Narrows; what is lost by it is a misfit.
    #[inline]
    pub(super) fn narrow<U: TryFrom<T>>(self) -> Parsed<U> {
        match self {
            Self::Fits(value) | Self::Nearest(value) => {
                U::try_from(value).map_or(Parsed::Misfit, Parsed::Fits)
            }
            Self::Misfit => Parsed::Misfit,
            Self::Malformed => Parsed::Malformed,
        }
    }
}

/// What became of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cell {
    /// It stands in the column as it was.
    Kept,
    /// The policy put something else in its place: its text is to be rescued.
    Replaced,
}

/// Why a value could not be put into its column at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// It is nothing that the source's type prints.
    Malformed,
    /// It does not fit and the policy is to stop.
    Refused,
    /// The column would hold more than 2 GiB in one batch.
    TooLarge,
}

impl Builder {
    /// Puts in a value from its text output.
    #[inline]
    pub(super) fn push_text(
        &mut self,
        text: &[u8],
        policy: OnBadValue,
        scratch: &mut Vec<u8>,
    ) -> Result<Cell, Fault> {
        match self {
            Self::Text(column) => column.push(text),
            Self::Int32(column) => column.store(scalar::integer(text).narrow(), policy),
            Self::Int64(column) => column.store(scalar::integer(text), policy),
            Self::Timestamp(column) => column.store(time::timestamp(text), policy),
            Self::Boolean(column) => {
                column.push(Some(scalar::boolean(text).ok_or(Fault::Malformed)?));
                Ok(Cell::Kept)
            }
            Self::Int16(column) => column.store(scalar::integer(text).narrow(), policy),
            Self::UInt32(column) => column.store(scalar::integer(text).narrow(), policy),
            Self::Float32(column) => column.store(Parsed::or_malformed(scalar::float(text)), policy),
            Self::Float64(column) => column.store(scalar::double(text), policy),
            Self::Decimal128(column, shape) => column.store(numeric::decimal128(text, *shape), policy),
            Self::Decimal256(column, shape) => column.store(numeric::decimal256(text, *shape), policy),
            Self::Date(column) => column.store(time::date(text), policy),
            Self::Time(column) => column.store(time::time(text), policy),
            Self::Uuid(column) => column.store(Parsed::or_malformed(scalar::uuid(text)), policy),
            Self::Binary(column) => {
                let hex = text.strip_prefix(b"\\x").ok_or(Fault::Malformed)?;
                column.reserve(hex.len() / 2);
                scalar::unhex(hex, &mut column.values).ok_or(Fault::Malformed)?;
                column.close(true)
            }
            Self::List(lists) => push_text_list(lists, text, policy, scratch),
        }
    }

    /// Puts in a value from its binary output.
    #[inline]
    pub(super) fn push_binary(
        &mut self,
        pg_type: &PgType,
        bytes: &[u8],
        policy: OnBadValue,
        scratch: &mut Vec<u8>,
    ) -> Result<Cell, Fault> {
        match self {
            Self::Text(column) => match pg_type {
                PgType::Text | PgType::Json => column.push(bytes),
                _ => {
                    column.reserve(bytes.len());
                    output::write(pg_type, bytes, &mut column.values).ok_or(Fault::Malformed)?;
                    column.close(true)
                }
            },
            Self::Int32(column) => column.store(scalar::binary_integer(pg_type, bytes).narrow(), policy),
            Self::Int64(column) if *pg_type == PgType::Numeric => {
                let text = numeric_text(bytes, scratch)?;
                column.store(scalar::integer(text), policy)
            }
            Self::Int64(column) => column.store(scalar::binary_integer(pg_type, bytes), policy),
            Self::Timestamp(column) => column.store(time::binary_timestamp(bytes), policy),
            Self::Boolean(column) => {
                column.push(Some(scalar::binary_boolean(bytes).ok_or(Fault::Malformed)?));
                Ok(Cell::Kept)
            }
            Self::Int16(column) => column.store(scalar::binary_integer(pg_type, bytes).narrow(), policy),
            Self::UInt32(column) => column.store(scalar::binary_integer(pg_type, bytes).narrow(), policy),
            Self::Float32(column) => {
                column.store(Parsed::or_malformed(scalar::fixed(bytes).map(f32::from_be_bytes)), policy)
            }
            Self::Float64(column) => match pg_type {
                PgType::Numeric => column.store(scalar::double(numeric_text(bytes, scratch)?), policy),
                PgType::Float8 => {
                    column.store(Parsed::or_malformed(scalar::fixed(bytes).map(f64::from_be_bytes)), policy)
                }
                _ => {
                    // Only int2 and int4 get here, and every one of them is a double.
                    let value = scalar::binary_integer(pg_type, bytes);
                    column.store(value.narrow::<i32>().map(f64::from), policy)
                }
            },
            Self::Decimal128(column, shape) => {
                if *pg_type == PgType::Numeric
                    && let Some(parsed) = numeric::binary_decimal128(bytes, *shape)
                {
                    return column.store(parsed, policy);
                }
                let text = plain_text(pg_type, bytes, scratch)?;
                column.store(numeric::decimal128(text, *shape), policy)
            }
            Self::Decimal256(column, shape) => {
                let text = plain_text(pg_type, bytes, scratch)?;
                column.store(numeric::decimal256(text, *shape), policy)
            }
            Self::Date(column) => column.store(time::binary_date(bytes), policy),
            Self::Time(column) => column.store(time::binary_time(bytes), policy),
            Self::Uuid(column) => {
                column.store(Parsed::or_malformed(scalar::fixed(bytes).map(u128::from_ne_bytes)), policy)
            }
            Self::Binary(column) => column.push(bytes),
            Self::List(lists) => push_binary_list(lists, pg_type, bytes, policy, scratch),
        }
    }
}

fn plain_text<'a>(pg_type: &PgType, bytes: &[u8], scratch: &'a mut Vec<u8>) -> Result<&'a [u8], Fault> {
    scratch.clear();
    output::write(pg_type, bytes, scratch).ok_or(Fault::Malformed)?;
    Ok(scratch)
}

fn numeric_text<'a>(bytes: &[u8], scratch: &'a mut Vec<u8>) -> Result<&'a [u8], Fault> {
    plain_text(&PgType::Numeric, bytes, scratch)
}

/// An array that is no list: null, or a stop. Nothing is near to it.
fn no_list(lists: &mut Lists, policy: OnBadValue) -> Result<Cell, Fault> {
    if policy == OnBadValue::Fail {
        return Err(Fault::Refused);
    }
    lists.close(false)?;
    Ok(Cell::Replaced)
}

fn push_text_list(
    lists: &mut Lists,
    text: &[u8],
    policy: OnBadValue,
    scratch: &mut Vec<u8>,
) -> Result<Cell, Fault> {
    let Some(mut elements) = array::TextElements::new(text) else {
        return no_list(lists, policy);
    };
    let mut outcome = Cell::Kept;
    // The elements of an array are scalars: they need no scratch of their own.
    let mut unused = Vec::new();
    while let Some(element) = elements.next(scratch).ok_or(Fault::Malformed)? {
        lists.element_count += 1;
        match element {
            array::Element::Null => lists.elements.push_null()?,
            array::Element::Value(value) => {
                if lists.elements.push_text(value, policy, &mut unused)? == Cell::Replaced {
                    outcome = Cell::Replaced;
                }
            }
        }
    }
    lists.close(true)?;
    Ok(outcome)
}

fn push_binary_list(
    lists: &mut Lists,
    pg_type: &PgType,
    bytes: &[u8],
    policy: OnBadValue,
    scratch: &mut Vec<u8>,
) -> Result<Cell, Fault> {
    let PgType::Array(item) = pg_type else { return Err(Fault::Malformed) };
    let array = array::BinaryArray::parse(bytes).ok_or(Fault::Malformed)?;
    if !array.is_list() {
        return no_list(lists, policy);
    }
    let mut outcome = Cell::Kept;
    for element in array.elements() {
        lists.element_count += 1;
        match element.ok_or(Fault::Malformed)? {
            array::Element::Null => lists.elements.push_null()?,
            array::Element::Value(value) => {
                if lists.elements.push_binary(item, value, policy, scratch)? == Cell::Replaced {
                    outcome = Cell::Replaced;
                }
            }
        }
    }
    lists.close(true)?;
    Ok(outcome)
}
