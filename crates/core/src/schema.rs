//! Columns and their types: the targets that every source maps to, and their Arrow form.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema as ArrowSchema, TimeUnit};

use crate::{Error, ErrorKind};

/// The type of a column at the destination. Sources map to these and to nothing else.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ColumnType {
    /// Arrow Boolean.
    Boolean,
    /// Arrow Int8.
    Int8,
    /// Arrow Int16.
    Int16,
    /// Arrow Int32.
    Int32,
    /// Arrow Int64.
    Int64,
    /// Arrow UInt8.
    UInt8,
    /// Arrow UInt16.
    UInt16,
    /// Arrow UInt32.
    UInt32,
    /// Arrow UInt64.
    UInt64,
    /// Arrow Float32.
    Float32,
    /// Arrow Float64.
    Float64,
    /// Arrow Decimal128 up to 38 digits, Decimal256 up to 76.
    Decimal {
        /// All digits, 1 to 76.
        precision: u8,
        /// Digits after the point, 0 to `precision`.
        scale: u8,
    },
    /// Arrow Utf8.
    Text,
    /// Arrow Utf8 with the JSON logical type; the source's own text.
    Json,
    /// Arrow FixedSizeBinary(16) with the UUID logical type.
    Uuid,
    /// Arrow Binary.
    Binary,
    /// Arrow Date32.
    Date,
    /// Arrow Time64(µs).
    Time,
    /// Arrow Timestamp(µs) without a zone: a wall clock.
    Timestamp,
    /// Arrow Timestamp(µs, UTC): an instant.
    TimestampTz,
    /// Arrow List of another type; elements may be null.
    List(Box<ColumnType>),
}

impl ColumnType {
    /// The most digits that a decimal can have.
    pub const MAX_DECIMAL_PRECISION: u8 = 76;

    /// Its Arrow type.
    pub fn arrow(&self) -> DataType {
        match self {
            Self::Boolean => DataType::Boolean,
            Self::Int8 => DataType::Int8,
            Self::Int16 => DataType::Int16,
            Self::Int32 => DataType::Int32,
            Self::Int64 => DataType::Int64,
            Self::UInt8 => DataType::UInt8,
            Self::UInt16 => DataType::UInt16,
            Self::UInt32 => DataType::UInt32,
            Self::UInt64 => DataType::UInt64,
            Self::Float32 => DataType::Float32,
            Self::Float64 => DataType::Float64,
            Self::Decimal { precision, scale } if *precision <= 38 => {
                DataType::Decimal128(*precision, *scale as i8)
            }
            Self::Decimal { precision, scale } => DataType::Decimal256(*precision, *scale as i8),
            Self::Text | Self::Json => DataType::Utf8,
            Self::Uuid => DataType::FixedSizeBinary(16),
            Self::Binary => DataType::Binary,
            Self::Date => DataType::Date32,
            Self::Time => DataType::Time64(TimeUnit::Microsecond),
            Self::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, None),
            Self::TimestampTz => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            Self::List(item) => DataType::List(Arc::new(item.field("element"))),
        }
    }

    /// The type whose files have a column of this Arrow type; `None` where there is none. Text says nothing of JSON.
    pub fn of_arrow(arrow: &DataType) -> Option<Self> {
        Some(match arrow {
            DataType::Boolean => Self::Boolean,
            DataType::Int8 => Self::Int8,
            DataType::Int16 => Self::Int16,
            DataType::Int32 => Self::Int32,
            DataType::Int64 => Self::Int64,
            DataType::UInt8 => Self::UInt8,
            DataType::UInt16 => Self::UInt16,
            DataType::UInt32 => Self::UInt32,
            DataType::UInt64 => Self::UInt64,
            DataType::Float32 => Self::Float32,
            DataType::Float64 => Self::Float64,
            DataType::Decimal128(precision, scale) | DataType::Decimal256(precision, scale) => {
                Self::Decimal { precision: *precision, scale: u8::try_from(*scale).ok()? }
            }
            DataType::Utf8 => Self::Text,
            DataType::FixedSizeBinary(16) => Self::Uuid,
            DataType::Binary => Self::Binary,
            DataType::Date32 => Self::Date,
            DataType::Time64(TimeUnit::Microsecond) => Self::Time,
            DataType::Timestamp(TimeUnit::Microsecond, None) => Self::Timestamp,
            DataType::Timestamp(TimeUnit::Microsecond, Some(_)) => Self::TimestampTz,
            DataType::List(item) => Self::List(Box::new(Self::of_arrow(item.data_type())?)),
            _ => return None,
        })
    }

    /// Whether `other` has every value of this type, exactly: files may be rewritten in it without loss.
    pub fn widens_to(&self, other: &Self) -> bool {
        if self == other {
            return true;
        }
        if let Some(from) = self.integer() {
            return match other {
                Self::Float32 => from.bits <= 24,
                Self::Float64 => from.bits <= 53,
                Self::Decimal { precision, scale } => precision - scale >= from.digits,
                _ => other.integer().is_some_and(|to| to.bits >= from.bits && (to.signed || !from.signed)),
            };
        }
        match (self, other) {
            (Self::Float32, Self::Float64) => true,
            (
                Self::Decimal { precision, scale },
                Self::Decimal { precision: wider_precision, scale: wider_scale },
            ) => wider_scale >= scale && wider_precision - wider_scale >= precision - scale,
            (Self::List(from), Self::List(to)) => from.widens_to(to),
            _ => false,
        }
    }

    fn integer(&self) -> Option<Integer> {
        let (signed, bits, digits) = match self {
            Self::Int8 => (true, 7, 3),
            Self::Int16 => (true, 15, 5),
            Self::Int32 => (true, 31, 10),
            Self::Int64 => (true, 63, 19),
            Self::UInt8 => (false, 8, 3),
            Self::UInt16 => (false, 16, 5),
            Self::UInt32 => (false, 32, 10),
            Self::UInt64 => (false, 64, 20),
            _ => return None,
        };
        Some(Integer { signed, bits, digits })
    }

    /// A nullable Arrow field of this type, with the canonical extension type where there is one.
    pub fn field(&self, name: &str) -> Field {
        let field = Field::new(name, self.arrow(), true);
        let extension = match self {
            Self::Json => "arrow.json",
            Self::Uuid => "arrow.uuid",
            _ => return field,
        };
        let mut metadata = HashMap::from([("ARROW:extension:name".to_owned(), extension.to_owned())]);
        if matches!(self, Self::Json) {
            metadata.insert("ARROW:extension:metadata".to_owned(), String::new());
        }
        field.with_metadata(metadata)
    }
}

/// What the values of an integer type take.
struct Integer {
    signed: bool,
    /// Bits of the greatest value, without a sign.
    bits: u8,
    /// Decimal digits of the greatest value.
    digits: u8,
}

impl fmt::Display for ColumnType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Self::Boolean => "boolean",
            Self::Int8 => "int8",
            Self::Int16 => "int16",
            Self::Int32 => "int32",
            Self::Int64 => "int64",
            Self::UInt8 => "uint8",
            Self::UInt16 => "uint16",
            Self::UInt32 => "uint32",
            Self::UInt64 => "uint64",
            Self::Float32 => "float",
            Self::Float64 => "double",
            Self::Decimal { precision, scale } => return write!(f, "decimal({precision},{scale})"),
            Self::Text => "text",
            Self::Json => "json",
            Self::Uuid => "uuid",
            Self::Binary => "binary",
            Self::Date => "date",
            Self::Time => "time",
            Self::Timestamp => "timestamp",
            Self::TimestampTz => "timestamptz",
            Self::List(item) => return write!(f, "list<{item}>"),
        };
        f.write_str(name)
    }
}

impl FromStr for ColumnType {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let text = text.trim();
        let unknown = || {
            Error::new(ErrorKind::Config, format!("no column type is called \"{text}\"")).hint(
                "types are boolean, int8 … int64, uint8 … uint64, float, double, decimal(p,s), text, json, uuid, \
                 binary, date, time, timestamp, timestamptz, list<type>",
            )
        };
        if let Some(item) = text.strip_prefix("list<").and_then(|rest| rest.strip_suffix('>')) {
            return Ok(Self::List(Box::new(item.parse()?)));
        }
        if let Some(digits) = text.strip_prefix("decimal(").and_then(|rest| rest.strip_suffix(')')) {
            let (precision, scale) = digits.split_once(',').ok_or_else(unknown)?;
            let precision: u8 = precision.trim().parse().map_err(|_| unknown())?;
            let scale: u8 = scale.trim().parse().map_err(|_| unknown())?;
            if precision == 0 || precision > Self::MAX_DECIMAL_PRECISION || scale > precision {
                return Err(Error::new(ErrorKind::Config, format!("\"{text}\" is no decimal"))
                    .hint("a decimal(p,s) has 1 <= p <= 76 and 0 <= s <= p"));
            }
            return Ok(Self::Decimal { precision, scale });
        }
        Ok(match text {
            "boolean" | "bool" => Self::Boolean,
            "int8" => Self::Int8,
            "int16" => Self::Int16,
            "int32" => Self::Int32,
            "int64" => Self::Int64,
            "uint8" => Self::UInt8,
            "uint16" => Self::UInt16,
            "uint32" => Self::UInt32,
            "uint64" => Self::UInt64,
            "float" => Self::Float32,
            "double" => Self::Float64,
            "text" | "string" => Self::Text,
            "json" => Self::Json,
            "uuid" => Self::Uuid,
            "binary" => Self::Binary,
            "date" => Self::Date,
            "time" => Self::Time,
            "timestamp" => Self::Timestamp,
            "timestamptz" => Self::TimestampTz,
            _ => return Err(unknown()),
        })
    }
}

/// One column of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// The source's name for it, which is also its name at the destination.
    pub name: String,
    /// What the source keeps when the column is renamed, and never gives to another one of the stream
    /// (PostgreSQL: its attribute number); its name where a source has no such thing.
    pub identity: String,
    /// What it becomes at the destination.
    pub column_type: ColumnType,
    /// The source's own name for its type, for people and for override checks.
    pub source_type: String,
    /// What its values are at the source, as far as anybody can see it in them: a kind, or a kind, `/`, and a width.
    /// Another kind, or the same in less width, says that the source may have altered values that are there already
    /// (`char(6)` to `char(3)`, `json` to `jsonb`). Empty where the source has lost the column, or says nothing of it.
    pub stored_as: String,
    /// Whether the source allows null in it.
    pub nullable: bool,
    /// Whether the source computes it from other columns.
    pub generated: bool,
    /// Whether the source's log has no value of it.
    pub unlogged: bool,
    /// Whether rows that were there before the column may hold a value in it without having been touched since
    /// (`ADD COLUMN … DEFAULT`).
    pub existing_default: bool,
    /// Whether every value is known to be distinct (a one-column key): a dictionary would only cost.
    pub unique: bool,
    /// The comment that the source keeps with the column.
    pub comment: Option<String>,
    /// A narrower type that would fit the values seen in the source's statistics.
    pub suggested_type: Option<ColumnType>,
}

/// Whether values that were stored in one way are the same in another ([`Column::stored_as`]).
pub fn keeps_values(before: &str, now: &str) -> bool {
    fn parts(stored: &str) -> (&str, u64) {
        match stored.split_once('/') {
            Some((kind, width)) => (kind, width.parse().unwrap_or(0)),
            None => (stored, u64::MAX),
        }
    }
    let ((was, narrow), (is, wide)) = (parts(before), parts(now));
    was == is && narrow <= wide
}

impl Column {
    /// A nullable column of which no more is known, identified by its name.
    pub fn new(name: impl Into<String>, column_type: ColumnType) -> Self {
        let name = name.into();
        Self {
            identity: name.clone(),
            name,
            column_type,
            source_type: String::new(),
            stored_as: String::new(),
            nullable: true,
            generated: false,
            unlogged: false,
            existing_default: false,
            unique: false,
            comment: None,
            suggested_type: None,
        }
    }
}

/// The columns of a stream, in order. Names are distinct.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Schema {
    /// The columns, in the source's order.
    pub columns: Vec<Column>,
}

impl Schema {
    /// The column of that name.
    pub fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|column| column.name == name)
    }

    /// Where the column of that name stands.
    pub fn index_of(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|column| column.name == name)
    }

    /// The data columns as an Arrow schema, all nullable (a delete carries only its key).
    pub fn arrow(&self) -> ArrowSchema {
        ArrowSchema::new(
            self.columns.iter().map(|column| column.column_type.field(&column.name)).collect::<Vec<_>>(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn widens(from: &str, to: &str) -> bool {
        from.parse::<ColumnType>().unwrap().widens_to(&to.parse().unwrap())
    }

    #[test]
    fn values_are_kept_by_the_same_kind_in_no_less_width() {
        assert!(keeps_values("text/10", "text/20") && keeps_values("text/10", "text"));
        assert!(keeps_values("1700:9", "1700:9"));
        for (before, now) in
            [("text/20", "text/10"), ("text", "text/10"), ("114", "3802"), ("1042:9", "1042:8")]
        {
            assert!(!keeps_values(before, now), "{before} to {now}");
        }
    }

    #[test]
    fn arrow_types_are_recognized() {
        for name in [
            "boolean",
            "int8",
            "uint64",
            "float",
            "double",
            "decimal(38,38)",
            "decimal(76,0)",
            "text",
            "uuid",
            "binary",
            "date",
            "time",
            "timestamp",
            "timestamptz",
            "list<list<uuid>>",
        ] {
            let column_type: ColumnType = name.parse().unwrap();
            assert_eq!(ColumnType::of_arrow(&column_type.arrow()), Some(column_type), "{name}");
        }
        assert_eq!(ColumnType::of_arrow(&DataType::LargeUtf8), None);
    }

    #[test]
    fn a_type_widens_to_what_has_all_its_values() {
        for (from, to) in [
            ("text", "text"),
            ("int16", "int32"),
            ("int32", "int64"),
            ("uint32", "int64"),
            ("int16", "float"),
            ("int32", "double"),
            ("int64", "decimal(19,0)"),
            ("uint64", "decimal(22,2)"),
            ("float", "double"),
            ("decimal(6,2)", "decimal(7,3)"),
            ("decimal(38,4)", "decimal(39,4)"),
            ("list<int32>", "list<int64>"),
        ] {
            assert!(widens(from, to), "{from} to {to}");
            assert_eq!(widens(to, from), from == to, "{to} to {from}");
        }
    }

    #[test]
    fn it_does_not_where_a_value_could_get_lost_or_read_otherwise() {
        for (from, to) in [
            ("uint32", "int32"),
            ("int32", "uint64"),
            ("int32", "float"),
            ("int64", "double"),
            ("int64", "decimal(18,0)"),
            ("decimal(6,2)", "decimal(6,3)"),
            ("decimal(6,2)", "decimal(12,1)"),
            ("decimal(6,2)", "double"),
            ("timestamp", "timestamptz"),
            ("int32", "text"),
            ("text", "json"),
            ("date", "timestamp"),
            ("list<int32>", "int64"),
        ] {
            assert!(!widens(from, to), "{from} to {to}");
        }
    }
}
