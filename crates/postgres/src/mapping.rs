//! From the server's types to columns: what is sent, and what it becomes.

use std::collections::HashMap;

use lakeward_core::ColumnType;

use crate::decode::PgType;

/// A type as `pg_type` describes it.
#[derive(Debug, Clone)]
pub(crate) struct TypeRow {
    /// `typtype`: `b`ase, `c`omposite, `d`omain, `e`num, `r`ange, …
    pub(crate) kind: i8,
    /// A domain's base type, else 0.
    pub(crate) base: u32,
    /// A domain's type modifier.
    pub(crate) typmod: i32,
    /// The element type, for a true array (`array_out`) with `,` between elements; else 0.
    pub(crate) element: u32,
    /// Whether its binary form is its text.
    pub(crate) sends_text: bool,
    /// A composite's attributes, `,` between them: each its number, `:`, its type, `:`, its modifier. Else empty.
    pub(crate) attributes: String,
}

/// All types that a set of columns uses, by OID, with what they are made of.
pub(crate) type Types = HashMap<u32, TypeRow>;

/// What a column is on the wire and at the destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mapped {
    /// What the server sends.
    pub(crate) pg_type: PgType,
    /// What it becomes where the user says nothing.
    pub(crate) column_type: ColumnType,
    /// Whether it is a `numeric` without precision.
    pub(crate) unconstrained: bool,
    /// Whether its order can serve as a cursor.
    pub(crate) ordered: bool,
}

/// What values of a type are, as far as anybody can see it in them ([`lakeward_core::Column::stored_as`]). What only
/// may be longer is the same in more width, and the server leaves its values as they are.
pub(crate) fn stored_as(type_oid: u32, typmod: i32) -> String {
    /// The most digits that a second has: as many as without a modifier.
    const MICROSECONDS: i32 = 6;
    match (type_oid, typmod) {
        (oid::TEXT, _) | (oid::VARCHAR, ..0) => "text".to_owned(),
        (oid::VARCHAR, length) => format!("text/{length}"),
        (oid::TIME | oid::TIMETZ | oid::TIMESTAMP | oid::TIMESTAMPTZ, MICROSECONDS..) => type_oid.to_string(),
        (oid::VARBIT | oid::TIME | oid::TIMETZ | oid::TIMESTAMP | oid::TIMESTAMPTZ, 0..) => {
            format!("{type_oid}/{typmod}")
        }
        (_, ..0) => type_oid.to_string(),
        _ => format!("{type_oid}:{typmod}"),
    }
}

/// The same with what composite types in it consist of: a value of those prints as many fields as its type has now.
pub(crate) fn stored_with_parts(types: &Types, type_oid: u32, typmod: i32) -> String {
    let mut stored = stored_as(type_oid, typmod);
    let mut open = vec![type_oid];
    while let Some(type_oid) = open.pop() {
        let Some(facts) = types.get(&type_oid) else { continue };
        open.extend([facts.base, facts.element].into_iter().filter(|oid| *oid != 0));
        if !facts.attributes.is_empty() {
            stored.push_str(&format!("({})", facts.attributes));
            let parts = facts.attributes.split(',').filter_map(|part| part.split(':').nth(1)?.parse().ok());
            open.extend(parts.collect::<Vec<u32>>());
        }
    }
    stored
}

/// `char(n)`'s and so on OIDs are fixed in the server's sources (`pg_type.dat`) and never change.
mod oid {
    pub(super) const BOOL: u32 = 16;
    pub(super) const BYTEA: u32 = 17;
    pub(super) const NAME: u32 = 19;
    pub(super) const INT8: u32 = 20;
    pub(super) const INT2: u32 = 21;
    pub(super) const INT4: u32 = 23;
    pub(super) const TEXT: u32 = 25;
    pub(super) const OID: u32 = 26;
    pub(super) const JSON: u32 = 114;
    pub(super) const XML: u32 = 142;
    pub(super) const FLOAT4: u32 = 700;
    pub(super) const FLOAT8: u32 = 701;
    pub(super) const BPCHAR: u32 = 1042;
    pub(super) const VARCHAR: u32 = 1043;
    pub(super) const DATE: u32 = 1082;
    pub(super) const TIME: u32 = 1083;
    pub(super) const TIMETZ: u32 = 1266;
    pub(super) const VARBIT: u32 = 1562;
    pub(super) const TIMESTAMP: u32 = 1114;
    pub(super) const TIMESTAMPTZ: u32 = 1184;
    pub(super) const NUMERIC: u32 = 1700;
    pub(super) const UUID: u32 = 2950;
    pub(super) const JSONB: u32 = 3802;
}

/// Maps a column's type. `unconstrained` is what a `numeric` without precision becomes.
///
/// A domain is its base type, whatever stands between. An array's type modifier is its elements'.
pub(crate) fn map(types: &Types, mut type_oid: u32, mut typmod: i32, unconstrained: &ColumnType) -> Mapped {
    // A domain cannot contain itself, so this ends; a type dropped meanwhile ends it too.
    while let Some(domain) = types.get(&type_oid).filter(|row| row.kind == b'd' as i8) {
        type_oid = domain.base;
        if domain.typmod != -1 {
            typmod = domain.typmod;
        }
    }
    if let Some(array) = types.get(&type_oid).filter(|row| row.element != 0) {
        let inner = map(types, array.element, typmod, unconstrained);
        return Mapped {
            pg_type: PgType::Array(Box::new(inner.pg_type)),
            column_type: ColumnType::List(Box::new(inner.column_type)),
            unconstrained: false,
            ordered: false,
        };
    }
    let ordered = matches!(
        type_oid,
        oid::INT2
            | oid::INT4
            | oid::INT8
            | oid::NUMERIC
            | oid::DATE
            | oid::TIMESTAMP
            | oid::TIMESTAMPTZ
            | oid::TEXT
            | oid::VARCHAR
    );
    let (pg_type, column_type) = match type_oid {
        oid::BOOL => (PgType::Bool, ColumnType::Boolean),
        oid::INT2 => (PgType::Int2, ColumnType::Int16),
        oid::INT4 => (PgType::Int4, ColumnType::Int32),
        oid::INT8 => (PgType::Int8, ColumnType::Int64),
        oid::OID => (PgType::Oid, ColumnType::UInt32),
        oid::FLOAT4 => (PgType::Float4, ColumnType::Float32),
        oid::FLOAT8 => (PgType::Float8, ColumnType::Float64),
        oid::NUMERIC => {
            let column_type = numeric(typmod)
                .unwrap_or_else(|| if typmod == -1 { unconstrained.clone() } else { ColumnType::Text });
            (PgType::Numeric, column_type)
        }
        oid::DATE => (PgType::Date, ColumnType::Date),
        oid::TIME => (PgType::Time, ColumnType::Time),
        oid::TIMESTAMP => (PgType::Timestamp, ColumnType::Timestamp),
        oid::TIMESTAMPTZ => (PgType::Timestamptz, ColumnType::TimestampTz),
        oid::UUID => (PgType::Uuid, ColumnType::Uuid),
        oid::BYTEA => (PgType::Bytea, ColumnType::Binary),
        oid::JSON => (PgType::Json, ColumnType::Json),
        oid::JSONB => (PgType::Jsonb, ColumnType::Json),
        oid::TEXT | oid::VARCHAR | oid::BPCHAR | oid::NAME | oid::XML => (PgType::Text, ColumnType::Text),
        other if types.get(&other).is_some_and(|row| row.sends_text) => (PgType::Text, ColumnType::Text),
        _ => (PgType::TextOnly, ColumnType::Text),
    };
    Mapped { pg_type, column_type, unconstrained: type_oid == oid::NUMERIC && typmod == -1, ordered }
}

/// The widest decimal that a column gets without being asked for. Wider ones exist, but one engine refuses files
/// that hold them and another reads them as doubles.
const WIDEST_DECIMAL: u8 = 38;

/// Whether a type with one modifier has all values that it has with another one: a numeric with no fewer digits on either side
/// of the point.
pub(crate) fn holds_more(type_oid: u32, before: i32, now: i32) -> bool {
    let decimals = numeric(before).zip(numeric(now)).filter(|_| type_oid == oid::NUMERIC);
    decimals.is_some_and(|(before, now)| before.widens_to(&now))
}

/// `numeric(p,s)`; `None` without precision or where no decimal is wide enough.
fn numeric(typmod: i32) -> Option<ColumnType> {
    if typmod < 4 {
        return None;
    }
    let modifier = typmod - 4;
    let precision = (modifier >> 16) & 0xffff;
    // Eleven bits with a sign since 15; before, a scale is below 1,001 and reads the same.
    let scale = ((modifier & 0x7ff) ^ 0x400) - 0x400;
    let (precision, scale) = if scale < 0 {
        (precision - scale, 0)
    } else if scale > precision {
        (scale, scale)
    } else {
        (precision, scale)
    };
    let precision = u8::try_from(precision).ok().filter(|p| (1..=WIDEST_DECIMAL).contains(p))?;
    Some(ColumnType::Decimal { precision, scale: u8::try_from(scale).ok()? })
}

/// A decimal that holds all the values that the statistics show, with room; `None` where one is no number or
/// they are too long.
///
/// `statistics` are arrays as the server prints them: `{1.5,-20}`.
pub(crate) fn suggest_decimal<'a>(statistics: impl Iterator<Item = &'a str>) -> Option<ColumnType> {
    let (mut whole, mut scale, mut seen) = (1, 0, false);
    for text in statistics {
        for value in text.trim_matches(['{', '}']).split(',').filter(|value| !value.is_empty()) {
            let digits = value.trim_matches('"').trim_start_matches('-');
            let (integer, fraction) = digits.split_once('.').unwrap_or((digits, ""));
            if !integer.bytes().chain(fraction.bytes()).all(|byte| byte.is_ascii_digit()) {
                return None;
            }
            // Zeros at the end are how the server prints a result's scale, not digits of the value.
            let fraction = fraction.trim_end_matches('0');
            whole = whole.max(integer.len());
            scale = scale.max(fraction.len());
            seen = true;
        }
    }
    // Statistics are a sample: the whole part gets room up to the next usual width.
    let precision = [18, 38, 76].into_iter().find(|precision| whole + scale + 2 <= *precision)?;
    seen.then_some(ColumnType::Decimal { precision: precision as u8, scale: scale as u8 })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(kind: u8) -> TypeRow {
        TypeRow {
            kind: kind as i8,
            base: 0,
            typmod: -1,
            element: 0,
            sends_text: false,
            attributes: String::new(),
        }
    }

    #[test]
    fn numerics_of_every_shape() {
        let typmod = |p: i32, s: i32| ((p << 16) | (s & 0x7ff)) + 4;
        let decimal = |precision, scale| Some(ColumnType::Decimal { precision, scale });
        assert_eq!(numeric(typmod(10, 2)), decimal(10, 2));
        assert_eq!(numeric(typmod(5, -3)), decimal(8, 0));
        assert_eq!(numeric(typmod(3, 5)), decimal(5, 5));
        assert_eq!(numeric(typmod(38, 0)), decimal(38, 0));
        assert_eq!(numeric(typmod(39, 0)), None);
        assert_eq!(numeric(typmod(1000, 1000)), None);
        assert!(holds_more(oid::NUMERIC, typmod(10, 2), typmod(14, 3)));
        assert!(!holds_more(oid::NUMERIC, typmod(10, 2), typmod(10, 3)));
        assert!(!holds_more(oid::NUMERIC, -1, typmod(10, 3)));
        assert_eq!(numeric(-1), None);
    }

    #[test]
    fn domains_and_arrays_are_followed() {
        let types = Types::from([
            (100, TypeRow { base: 101, ..row(b'd') }),
            (101, TypeRow { base: oid::NUMERIC, typmod: ((9 << 16) | 1) + 4, ..row(b'd') }),
            (102, TypeRow { element: 100, ..row(b'b') }),
            (103, TypeRow { sends_text: true, ..row(b'e') }),
        ]);
        let mapped = map(&types, 100, -1, &ColumnType::Text);
        assert_eq!(mapped.column_type, ColumnType::Decimal { precision: 9, scale: 1 });
        let mapped = map(&types, 102, -1, &ColumnType::Text);
        assert_eq!(mapped.pg_type, PgType::Array(Box::new(PgType::Numeric)));
        assert_eq!(mapped.column_type.to_string(), "list<decimal(9,1)>");
        assert_eq!(map(&types, 103, -1, &ColumnType::Text).pg_type, PgType::Text);
        assert_eq!(map(&types, 999, -1, &ColumnType::Text).pg_type, PgType::TextOnly);
        let mapped = map(&types, oid::NUMERIC, -1, &ColumnType::Float64);
        assert!(mapped.unconstrained && mapped.column_type == ColumnType::Float64);
    }

    #[test]
    fn suggestions_follow_the_statistics() {
        let suggest = |texts: &[&str]| suggest_decimal(texts.iter().copied());
        assert_eq!(suggest(&["{1.5200,-20}", "{3}"]), Some(ColumnType::Decimal { precision: 18, scale: 2 }));
        assert_eq!(suggest(&["{NaN,1}"]), None);
        assert_eq!(suggest(&[]), None);
        assert_eq!(
            suggest(&["{12345678901234567890.1}"]),
            Some(ColumnType::Decimal { precision: 38, scale: 1 })
        );
    }
}
