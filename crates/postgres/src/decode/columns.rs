//! Column builders: plain vectors that become Arrow buffers without a copy.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, ArrowPrimitiveType, BinaryArray, BooleanArray, FixedSizeBinaryArray, ListArray, PrimitiveArray,
    StringArray,
};
use arrow::buffer::{BooleanBuffer, Buffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{
    ArrowNativeType, DataType, Date32Type, Decimal128Type, Decimal256Type, FieldRef, Float32Type,
    Float64Type, Int16Type, Int32Type, Int64Type, Time64MicrosecondType, TimestampMicrosecondType,
    UInt32Type, i256,
};
use arrow::error::ArrowError;
use lakeward_core::{ColumnType, OnBadValue};

use super::cell::{Cell, Fault, Parsed};

/// A value from here on is given exactly the room that it needs instead of twice what stood there.
pub(super) const LARGE_VALUE: usize = 1 << 20;

/// Room for as much as the last batch held and an eighth more, so that the next one rarely grows.
fn room(previous: usize) -> usize {
    previous + previous / 8
}

/// Hands the vector over. One that was grown by doubling gives its slack back first.
fn hand_over<T>(values: &mut Vec<T>) -> Vec<T> {
    let mut full = std::mem::take(values);
    if full.capacity() - full.len() > full.len() / 4 {
        full.shrink_to_fit();
    }
    full
}

/// Bits in Arrow's order.
#[derive(Debug, Default)]
pub(super) struct Bits {
    words: Vec<u64>,
    open: u64,
    len: usize,
    previous: usize,
}

impl Bits {
    #[inline]
    fn push(&mut self, bit: bool) {
        let at = self.len & 63;
        self.open |= u64::from(bit) << at;
        self.len += 1;
        if at == 63 {
            self.words.push(self.open.to_le());
            self.open = 0;
        }
    }

    fn prepare(&mut self) {
        self.words.reserve(room(self.previous).div_ceil(64));
    }

    fn take(&mut self) -> BooleanBuffer {
        if self.len & 63 != 0 {
            self.words.push(self.open.to_le());
            self.open = 0;
        }
        self.previous = self.len;
        let len = std::mem::take(&mut self.len);
        BooleanBuffer::new(Buffer::from_vec(hand_over(&mut self.words)), 0, len)
    }

    fn take_nulls(&mut self) -> Option<NullBuffer> {
        let nulls = NullBuffer::new(self.take());
        (nulls.null_count() > 0).then_some(nulls)
    }
}

/// Booleans.
#[derive(Debug, Default)]
pub(super) struct Booleans {
    values: Bits,
    validity: Bits,
}

impl Booleans {
    #[inline]
    pub(super) fn push(&mut self, value: Option<bool>) {
        self.values.push(value.unwrap_or_default());
        self.validity.push(value.is_some());
    }
}

/// Values of one width.
#[derive(Debug, Default)]
pub(super) struct Fixed<T> {
    values: Vec<T>,
    validity: Bits,
    previous: usize,
}

impl<T: ArrowNativeType> Fixed<T> {
    #[inline]
    fn push(&mut self, value: T) {
        self.values.push(value);
        self.validity.push(true);
    }

    #[inline]
    pub(super) fn push_null(&mut self) {
        self.values.push(T::default());
        self.validity.push(false);
    }

    /// Puts a parsed value into the column, as the policy has it where it does not fit.
    #[inline]
    pub(super) fn store(&mut self, parsed: Parsed<T>, policy: OnBadValue) -> Result<Cell, Fault> {
        match parsed {
            Parsed::Fits(value) => {
                self.push(value);
                return Ok(Cell::Kept);
            }
            Parsed::Malformed => return Err(Fault::Malformed),
            Parsed::Nearest(_) | Parsed::Misfit if policy == OnBadValue::Fail => {
                return Err(Fault::Refused);
            }
            Parsed::Nearest(value) if policy == OnBadValue::Clamp => self.push(value),
            Parsed::Nearest(_) | Parsed::Misfit => self.push_null(),
        }
        Ok(Cell::Replaced)
    }

    fn prepare(&mut self) {
        self.values.reserve(room(self.previous));
        self.validity.prepare();
    }

    fn take<A: ArrowPrimitiveType<Native = T>>(
        &mut self,
        data_type: &DataType,
    ) -> Result<ArrayRef, ArrowError> {
        self.previous = self.values.len();
        let values = ScalarBuffer::from(hand_over(&mut self.values));
        let array = PrimitiveArray::<A>::try_new(values, self.validity.take_nulls())?;
        Ok(Arc::new(array.with_data_type(data_type.clone())))
    }
}

/// Values of any width, end to end.
#[derive(Debug)]
pub(super) struct Bytes {
    /// What was written so far; a value is everything since the last [`close`](Self::close).
    pub(super) values: Vec<u8>,
    offsets: Offsets,
    previous: usize,
}

impl Bytes {
    fn new() -> Self {
        Self { values: Vec::new(), offsets: Offsets::new(), previous: 0 }
    }

    #[inline]
    pub(super) fn push(&mut self, value: &[u8]) -> Result<Cell, Fault> {
        self.reserve(value.len());
        self.values.extend_from_slice(value);
        self.close(true)
    }

    /// Puts in the `len` bytes from `from` on.
    #[inline]
    pub(super) fn push_within(&mut self, data: &[u8], from: usize, len: usize) -> Result<Cell, Fault> {
        let Some(window) = data.get(from..).and_then(|rest| rest.first_chunk::<16>()) else {
            return self.push(&data[from..from + len]);
        };
        if len > window.len() {
            return self.push(&data[from..from + len]);
        }
        // Most values are short: sixteen bytes are two moves instead of a call, and what is not the value's is
        // cut off again.
        let end = self.values.len() + len;
        self.values.extend_from_slice(window);
        self.values.truncate(end);
        self.close(true)
    }

    /// Makes room for a value of about `len` bytes that is about to be written.
    #[inline]
    pub(super) fn reserve(&mut self, len: usize) {
        if len >= LARGE_VALUE {
            self.values.reserve_exact(len);
        }
    }

    /// Ends the value (or null) whose bytes were written.
    #[inline]
    pub(super) fn close(&mut self, valid: bool) -> Result<Cell, Fault> {
        self.offsets.close(self.values.len(), valid)?;
        Ok(Cell::Kept)
    }

    fn prepare(&mut self) {
        self.values.reserve(room(self.previous));
        self.offsets.prepare();
    }

    fn take(&mut self) -> (OffsetBuffer<i32>, Buffer, Option<NullBuffer>) {
        self.previous = self.values.len();
        let (offsets, nulls) = self.offsets.take();
        (offsets, Buffer::from_vec(hand_over(&mut self.values)), nulls)
    }
}

/// Where each value of a column of varying width ends, and whether it is one.
#[derive(Debug)]
struct Offsets {
    ends: Vec<i32>,
    validity: Bits,
}

impl Offsets {
    fn new() -> Self {
        Self { ends: vec![0], validity: Bits::default() }
    }

    #[inline]
    fn close(&mut self, end: usize, valid: bool) -> Result<(), Fault> {
        self.ends.push(i32::try_from(end).map_err(|_| Fault::TooLarge)?);
        self.validity.push(valid);
        Ok(())
    }

    fn prepare(&mut self) {
        self.ends.reserve(room(self.validity.previous));
        self.validity.prepare();
    }

    fn take(&mut self) -> (OffsetBuffer<i32>, Option<NullBuffer>) {
        let ends = hand_over(&mut self.ends);
        self.ends.push(0);
        (OffsetBuffer::new(ScalarBuffer::from(ends)), self.validity.take_nulls())
    }
}

/// Lists of another column's values.
#[derive(Debug)]
pub(super) struct Lists {
    offsets: Offsets,
    field: FieldRef,
    /// The elements of all lists.
    pub(super) elements: Box<Builder>,
    pub(super) element_count: usize,
}

impl Lists {
    /// Ends the list whose elements were pushed.
    #[inline]
    pub(super) fn close(&mut self, valid: bool) -> Result<(), Fault> {
        self.offsets.close(self.element_count, valid)
    }
}

/// Digits of a decimal, all of them and those after the point.
#[derive(Debug, Clone, Copy)]
pub(super) struct DecimalShape {
    pub(super) precision: u8,
    pub(super) scale: u8,
}

/// One column under construction, by the type that it becomes.
#[derive(Debug)]
pub(super) enum Builder {
    Boolean(Booleans),
    Int16(Fixed<i16>),
    Int32(Fixed<i32>),
    Int64(Fixed<i64>),
    UInt32(Fixed<u32>),
    Float32(Fixed<f32>),
    Float64(Fixed<f64>),
    Decimal128(Fixed<i128>, DecimalShape),
    Decimal256(Fixed<i256>, DecimalShape),
    Text(Bytes),
    Binary(Bytes),
    Uuid(Fixed<u128>),
    Date(Fixed<i32>),
    Time(Fixed<i64>),
    Timestamp(Fixed<i64>),
    List(Lists),
}

impl Builder {
    /// `None` for types that no PostgreSQL type becomes.
    pub(super) fn new(target: &ColumnType) -> Option<Self> {
        Some(match target {
            ColumnType::Boolean => Self::Boolean(Booleans::default()),
            ColumnType::Int16 => Self::Int16(Fixed::default()),
            ColumnType::Int32 => Self::Int32(Fixed::default()),
            ColumnType::Int64 => Self::Int64(Fixed::default()),
            ColumnType::UInt32 => Self::UInt32(Fixed::default()),
            ColumnType::Float32 => Self::Float32(Fixed::default()),
            ColumnType::Float64 => Self::Float64(Fixed::default()),
            ColumnType::Decimal { precision, scale } => {
                let shape = DecimalShape { precision: *precision, scale: *scale };
                if *precision <= 38 {
                    Self::Decimal128(Fixed::default(), shape)
                } else {
                    Self::Decimal256(Fixed::default(), shape)
                }
            }
            ColumnType::Text | ColumnType::Json => Self::Text(Bytes::new()),
            ColumnType::Binary => Self::Binary(Bytes::new()),
            ColumnType::Uuid => Self::Uuid(Fixed::default()),
            ColumnType::Date => Self::Date(Fixed::default()),
            ColumnType::Time => Self::Time(Fixed::default()),
            ColumnType::Timestamp | ColumnType::TimestampTz => Self::Timestamp(Fixed::default()),
            ColumnType::List(item) => Self::List(Lists {
                offsets: Offsets::new(),
                field: Arc::new(item.field("element")),
                elements: Box::new(Self::new(item)?),
                element_count: 0,
            }),
            ColumnType::Int8 | ColumnType::UInt8 | ColumnType::UInt16 | ColumnType::UInt64 => return None,
        })
    }

    pub(super) fn push_null(&mut self) -> Result<(), Fault> {
        match self {
            Self::Boolean(column) => column.push(None),
            Self::Int16(column) => column.push_null(),
            Self::Int32(column) | Self::Date(column) => column.push_null(),
            Self::Int64(column) | Self::Time(column) | Self::Timestamp(column) => column.push_null(),
            Self::UInt32(column) => column.push_null(),
            Self::Float32(column) => column.push_null(),
            Self::Float64(column) => column.push_null(),
            Self::Decimal128(column, _) => column.push_null(),
            Self::Decimal256(column, _) => column.push_null(),
            Self::Text(column) | Self::Binary(column) => return column.close(false).map(drop),
            Self::Uuid(column) => column.push_null(),
            Self::List(lists) => return lists.close(false),
        }
        Ok(())
    }

    /// Makes room for a batch like the last one.
    pub(super) fn prepare(&mut self) {
        match self {
            Self::Boolean(column) => {
                column.values.prepare();
                column.validity.prepare();
            }
            Self::Int16(column) => column.prepare(),
            Self::Int32(column) | Self::Date(column) => column.prepare(),
            Self::Int64(column) | Self::Time(column) | Self::Timestamp(column) => column.prepare(),
            Self::UInt32(column) => column.prepare(),
            Self::Float32(column) => column.prepare(),
            Self::Float64(column) => column.prepare(),
            Self::Decimal128(column, _) => column.prepare(),
            Self::Decimal256(column, _) => column.prepare(),
            Self::Text(column) | Self::Binary(column) => column.prepare(),
            Self::Uuid(column) => column.prepare(),
            Self::List(lists) => {
                lists.offsets.prepare();
                lists.elements.prepare();
            }
        }
    }

    /// Bytes that every row takes, whatever its value.
    pub(super) fn row_width(&self) -> usize {
        match self {
            Self::Boolean(_) => 1,
            Self::Int16(_) => 2,
            Self::Int32(_) | Self::Date(_) | Self::UInt32(_) | Self::Float32(_) => 4,
            Self::Text(_) | Self::Binary(_) | Self::List(_) => 4,
            Self::Int64(_) | Self::Time(_) | Self::Timestamp(_) | Self::Float64(_) => 8,
            Self::Decimal128(..) | Self::Uuid(_) => 16,
            Self::Decimal256(..) => 32,
        }
    }

    /// Bytes beyond [`row_width`](Self::row_width).
    pub(super) fn varying_bytes(&self) -> usize {
        match self {
            Self::Text(column) | Self::Binary(column) => column.values.len(),
            Self::List(lists) => {
                lists.element_count * lists.elements.row_width() + lists.elements.varying_bytes()
            }
            _ => 0,
        }
    }

    /// The column as an array of `data_type`; the builder is empty again.
    ///
    /// # Errors
    /// Where text is not UTF-8.
    pub(super) fn take(&mut self, data_type: &DataType) -> Result<ArrayRef, ArrowError> {
        Ok(match self {
            Self::Boolean(column) => {
                Arc::new(BooleanArray::new(column.values.take(), column.validity.take_nulls()))
            }
            Self::Int16(column) => column.take::<Int16Type>(data_type)?,
            Self::Int32(column) => column.take::<Int32Type>(data_type)?,
            Self::Int64(column) => column.take::<Int64Type>(data_type)?,
            Self::UInt32(column) => column.take::<UInt32Type>(data_type)?,
            Self::Float32(column) => column.take::<Float32Type>(data_type)?,
            Self::Float64(column) => column.take::<Float64Type>(data_type)?,
            Self::Decimal128(column, _) => column.take::<Decimal128Type>(data_type)?,
            Self::Decimal256(column, _) => column.take::<Decimal256Type>(data_type)?,
            Self::Date(column) => column.take::<Date32Type>(data_type)?,
            Self::Time(column) => column.take::<Time64MicrosecondType>(data_type)?,
            Self::Timestamp(column) => column.take::<TimestampMicrosecondType>(data_type)?,
            Self::Text(column) => {
                let (offsets, values, nulls) = column.take();
                Arc::new(StringArray::try_new(offsets, values, nulls)?)
            }
            Self::Binary(column) => {
                let (offsets, values, nulls) = column.take();
                Arc::new(BinaryArray::try_new(offsets, values, nulls)?)
            }
            Self::Uuid(column) => {
                column.previous = column.values.len();
                let values = Buffer::from_vec(hand_over(&mut column.values));
                Arc::new(FixedSizeBinaryArray::try_new(16, values, column.validity.take_nulls())?)
            }
            Self::List(lists) => {
                lists.element_count = 0;
                let (offsets, nulls) = lists.offsets.take();
                let elements = lists.elements.take(lists.field.data_type())?;
                Arc::new(ListArray::try_new(lists.field.clone(), offsets, elements, nulls)?)
            }
        })
    }
}
