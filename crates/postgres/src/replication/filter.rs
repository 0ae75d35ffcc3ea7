//! Row filters over changes: the server's three-valued logic on the server's text output.
//!
//! Literals are brought into the column's own canonical text by the server once; what cannot be judged from text
//! as the server would is refused by name.

use std::cmp::Ordering;

use lakeward_core::{CompareOp, Error, ErrorKind, FilterExpr, Literal, Result};

use super::number::Number;
use super::pgoutput::Value;
use crate::connect::Connection;
use crate::decode::moment;
use crate::sql;

/// How values of a type are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Domain {
    /// Exactly, whatever the digits.
    Number,
    /// As doubles.
    Double,
    /// As doubles, of what a float4 holds.
    Single,
    /// By their text; what is printed is canonical, and sorts as the values do where they have an order.
    Text,
    /// By their text without the blanks at its end.
    Padded,
    /// As microseconds, or days.
    Date,
    Time,
    Timestamp,
    Timestamptz,
}

impl Domain {
    /// By the OID of a base type, fixed in the server's sources, or its kind.
    fn of(base: u32, kind: u8) -> Option<Self> {
        Some(match base {
            20 | 21 | 23 | 26 | 1700 => Self::Number,
            701 => Self::Double,
            700 => Self::Single,
            // bool, bytea, name, text, cidr, macaddr, inet, varchar, bit, varbit, uuid
            16 | 17 | 19 | 25 | 650 | 829 | 869 | 1043 | 1560 | 1562 | 2950 => Self::Text,
            1042 => Self::Padded,
            1082 => Self::Date,
            1083 => Self::Time,
            1114 => Self::Timestamp,
            1184 => Self::Timestamptz,
            _ if kind == b'e' => Self::Text,
            _ => return None,
        })
    }
}

/// A value that can be compared.
#[derive(Debug, Clone, PartialEq)]
enum Comparable {
    Number(Number),
    Double(f64),
    Text(Vec<u8>),
    Moment(i64),
}

impl Comparable {
    fn of(domain: Domain, text: &[u8]) -> Option<Self> {
        let utf8 = || std::str::from_utf8(text).ok();
        Some(match domain {
            Domain::Number => Self::Number(Number::parse(utf8()?)?),
            Domain::Double => Self::Double(utf8()?.parse().ok()?),
            Domain::Single => Self::Double(f64::from(utf8()?.parse::<f32>().ok()?)),
            Domain::Text => Self::Text(text.to_vec()),
            Domain::Padded => Self::Text(trimmed(text).to_vec()),
            Domain::Date => Self::Moment(moment::date(text)?),
            Domain::Time => Self::Moment(moment::time(text)?),
            Domain::Timestamp | Domain::Timestamptz => Self::Moment(moment::timestamp(text)?),
        })
    }

    /// How a value on the wire relates to it, without a copy of texts.
    fn compare(&self, domain: Domain, value: &[u8]) -> Option<Ordering> {
        match self {
            Self::Text(literal) if domain == Domain::Padded => Some(trimmed(value).cmp(literal)),
            Self::Text(literal) => Some(value.cmp(literal)),
            Self::Number(literal) => Some(Number::parse(std::str::from_utf8(value).ok()?)?.cmp(literal)),
            _ => match (Self::of(domain, value)?, self) {
                // NaN is greater than every number, and equal to itself.
                (Self::Double(value), Self::Double(literal)) => {
                    Some(value.partial_cmp(literal).unwrap_or(Ordering::Greater))
                }
                (Self::Moment(value), Self::Moment(literal)) => Some(value.cmp(literal)),
                _ => None,
            },
        }
    }
}

fn trimmed(text: &[u8]) -> &[u8] {
    let end = text.iter().rposition(|byte| *byte != b' ').map_or(0, |last| last + 1);
    &text[..end]
}

/// A filter that can be asked about a row.
#[derive(Debug)]
pub(crate) struct RowFilter {
    /// The columns that it looks at.
    pub(crate) columns: Vec<String>,
    expr: Node,
}

#[derive(Debug)]
enum Node {
    And(Box<Node>, Box<Node>),
    Or(Box<Node>, Box<Node>),
    Not(Box<Node>),
    Compare { column: usize, domain: Domain, op: CompareOp, literal: Comparable },
    In { column: usize, domain: Domain, literals: Vec<Comparable>, negated: bool },
    IsNull { column: usize, negated: bool },
    Like { column: usize, pattern: String, negated: bool },
}

/// What is known of a column that a filter names.
#[derive(Debug, Clone)]
pub(crate) struct FilterColumn {
    pub(crate) name: String,
    pub(crate) type_oid: u32,
    pub(crate) collation: u32,
    /// What literals are cast to.
    pub(crate) sql_type: String,
}

impl RowFilter {
    /// Makes a filter ready.
    ///
    /// # Errors
    /// `Config`, naming the column, where its values cannot be judged here; the server's own for a literal that
    /// it refuses.
    pub(crate) async fn compile(
        connection: &Connection,
        version: u32,
        expr: &FilterExpr,
        columns: &[FilterColumn],
    ) -> Result<Self> {
        let mut compiler = Compiler { connection, columns: Vec::new() };
        for column in columns {
            let domain = domain(connection, version, column).await?;
            compiler.columns.push((column, domain));
        }
        let expr = compiler.node(expr).await?;
        Ok(Self { columns: columns.iter().map(|column| column.name.clone()).collect(), expr })
    }

    /// Whether a row is replicated: what is neither true nor false is not. `None` where that hangs on a value that
    /// was not sent.
    pub(crate) fn passes<'a>(&self, value: impl Fn(usize) -> Value<'a>) -> Option<bool> {
        let truth = self.expr.truth(&value);
        let unknown = || (0..self.columns.len()).any(|column| value(column) == Value::Unchanged);
        if truth.is_none() && unknown() { None } else { Some(truth == Some(true)) }
    }
}

async fn domain(connection: &Connection, version: u32, column: &FilterColumn) -> Result<Option<Domain>> {
    let sql = "WITH RECURSIVE base(oid) AS (SELECT $1::oid UNION ALL SELECT t.typbasetype FROM base b \
          JOIN pg_catalog.pg_type t ON t.oid = b.oid WHERE t.typtype = 'd') \
        SELECT t.oid, t.typtype FROM base b JOIN pg_catalog.pg_type t ON t.oid = b.oid WHERE t.typtype <> 'd'";
    let rows = connection.rows(sql, &[&column.type_oid]).await?;
    let domain = rows.first().and_then(|row| Domain::of(row.get(0), row.get::<_, i8>(1) as u8));
    if version < 12 || column.collation == 0 {
        return Ok(domain);
    }
    let sql = "SELECT collisdeterministic FROM pg_catalog.pg_collation WHERE oid = $1";
    let rows = connection.rows(sql, &[&column.collation]).await?;
    Ok(domain.filter(|_| rows.first().is_none_or(|row| row.get(0))))
}

struct Compiler<'a> {
    connection: &'a Connection,
    columns: Vec<(&'a FilterColumn, Option<Domain>)>,
}

impl Compiler<'_> {
    fn column(&self, name: &str) -> Result<(usize, &FilterColumn, Option<Domain>)> {
        self.columns
            .iter()
            .enumerate()
            .find(|(_, (column, _))| column.name == name)
            .map(|(index, (column, domain))| (index, *column, *domain))
            .ok_or_else(|| {
                Error::new(ErrorKind::Schema, "a column that the filter names is gone").at("column", name)
            })
    }

    async fn node(&self, expr: &FilterExpr) -> Result<Node> {
        Ok(match expr {
            FilterExpr::And(a, b) => {
                Node::And(Box::new(Box::pin(self.node(a)).await?), Box::new(Box::pin(self.node(b)).await?))
            }
            FilterExpr::Or(a, b) => {
                Node::Or(Box::new(Box::pin(self.node(a)).await?), Box::new(Box::pin(self.node(b)).await?))
            }
            FilterExpr::Not(inner) => Node::Not(Box::new(Box::pin(self.node(inner)).await?)),
            FilterExpr::IsNull { column, negated } => {
                Node::IsNull { column: self.column(column)?.0, negated: *negated }
            }
            FilterExpr::Like { column, pattern, negated } => {
                let (index, column, domain) = self.column(column)?;
                if !matches!(domain, Some(Domain::Text | Domain::Padded)) {
                    return Err(refused(column));
                }
                Node::Like { column: index, pattern: pattern.clone(), negated: *negated }
            }
            FilterExpr::Compare { column, op, literal } => {
                let (index, column, domain) = self.column(column)?;
                let domain = domain.ok_or_else(|| refused(column))?;
                let literal = self.literal(column, domain, literal).await?;
                Node::Compare { column: index, domain, op: *op, literal }
            }
            FilterExpr::In { column, literals, negated } => {
                let (index, column, domain) = self.column(column)?;
                let domain = domain.ok_or_else(|| refused(column))?;
                let mut ready = Vec::with_capacity(literals.len());
                for literal in literals {
                    ready.push(self.literal(column, domain, literal).await?);
                }
                Node::In { column: index, domain, literals: ready, negated: *negated }
            }
        })
    }

    async fn literal(&self, column: &FilterColumn, domain: Domain, literal: &Literal) -> Result<Comparable> {
        let ready = match literal {
            // A number is compared as a number, or as a double: a float4 is widened, not the number narrowed.
            Literal::Number(digits) if domain == Domain::Single => {
                Comparable::of(Domain::Double, digits.as_bytes())
            }
            Literal::Number(digits) => Comparable::of(domain, digits.as_bytes()),
            Literal::Boolean(truth) => Comparable::of(domain, if *truth { b"t" } else { b"f" }),
            Literal::Text(text) => {
                let sql = format!("SELECT format('%s', {})", sql::typed(text, &column.sql_type));
                let rows = self.connection.rows_once(&sql).await?;
                rows.first().and_then(|row| Comparable::of(domain, row.get::<_, &str>(0).as_bytes()))
            }
        };
        // Beyond the years 1 to 9999 moments are not told apart.
        ready
            .filter(|ready| !matches!(ready, Comparable::Moment(i64::MIN | i64::MAX)))
            .ok_or_else(|| refused(column))
    }
}

fn refused(column: &FilterColumn) -> Error {
    Error::new(ErrorKind::Config, "a filter cannot judge changes by a column of this type")
        .at("column", &column.name)
        .at("type", &column.sql_type)
        .hint("filter by a number, text, date, time, uuid or enum, or take the stream out of cdc")
}

impl Node {
    /// What is true or false whatever an unchanged value is, is so.
    fn truth<'a>(&self, value: &impl Fn(usize) -> Value<'a>) -> Option<bool> {
        let text = |column: usize| match value(column) {
            Value::Text(text) => Some(text),
            Value::Null | Value::Unchanged => None,
        };
        match self {
            Self::And(a, b) => match (a.truth(value), b.truth(value)) {
                (Some(false), _) | (_, Some(false)) => Some(false),
                (Some(true), Some(true)) => Some(true),
                _ => None,
            },
            Self::Or(a, b) => match (a.truth(value), b.truth(value)) {
                (Some(true), _) | (_, Some(true)) => Some(true),
                (Some(false), Some(false)) => Some(false),
                _ => None,
            },
            Self::Not(inner) => inner.truth(value).map(|truth| !truth),
            Self::IsNull { column, negated } => Some((value(*column) == Value::Null) != *negated),
            Self::Compare { column, domain, op, literal } => {
                let order = literal.compare(*domain, text(*column)?)?;
                Some(match op {
                    CompareOp::Eq => order.is_eq(),
                    CompareOp::Ne => order.is_ne(),
                    CompareOp::Lt => order.is_lt(),
                    CompareOp::Le => order.is_le(),
                    CompareOp::Gt => order.is_gt(),
                    CompareOp::Ge => order.is_ge(),
                })
            }
            Self::In { column, domain, literals, negated } => {
                let text = text(*column)?;
                let found =
                    literals.iter().any(|literal| literal.compare(*domain, text) == Some(Ordering::Equal));
                Some(found != *negated)
            }
            Self::Like { column, pattern, negated } => {
                let text = std::str::from_utf8(text(*column)?).ok()?;
                Some(like(text, pattern) != *negated)
            }
        }
    }
}

/// LIKE: `%` is anything, `_` one character, a backslash takes the next one as it is.
fn like(text: &str, pattern: &str) -> bool {
    #[derive(PartialEq)]
    enum Piece {
        Any,
        One,
        Exactly(char),
    }
    let mut pieces = Vec::new();
    let mut chars = pattern.chars();
    while let Some(char) = chars.next() {
        pieces.push(match char {
            '%' => Piece::Any,
            '_' => Piece::One,
            '\\' => Piece::Exactly(chars.next().unwrap_or('\\')),
            char => Piece::Exactly(char),
        });
    }
    let text: Vec<char> = text.chars().collect();
    let (mut at, mut piece) = (0, 0);
    // Where the last `%` stands, and up to where it has swallowed.
    let mut last: Option<(usize, usize)> = None;
    while at < text.len() {
        match pieces.get(piece) {
            Some(Piece::Any) => {
                last = Some((piece, at));
                piece += 1;
                continue;
            }
            Some(Piece::One) => {
                (at, piece) = (at + 1, piece + 1);
                continue;
            }
            Some(Piece::Exactly(char)) if *char == text[at] => {
                (at, piece) = (at + 1, piece + 1);
                continue;
            }
            _ => {}
        }
        let Some((any, swallowed)) = last else { return false };
        last = Some((any, swallowed + 1));
        (at, piece) = (swallowed + 1, any + 1);
    }
    pieces[piece..].iter().all(|piece| *piece == Piece::Any)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compare(domain: Domain, value: &str, op: CompareOp, literal: &str) -> Option<bool> {
        let literal = Comparable::of(domain, literal.as_bytes()).unwrap();
        Node::Compare { column: 0, domain, op, literal }.truth(&|_| Value::Text(value.as_bytes()))
    }

    #[test]
    fn values_are_compared_by_their_type() {
        assert_eq!(compare(Domain::Number, "10", CompareOp::Gt, "9.5"), Some(true));
        assert_eq!(compare(Domain::Number, "1.50", CompareOp::Eq, "15e-1"), Some(true));
        assert_eq!(compare(Domain::Number, "NaN", CompareOp::Gt, "1e300"), Some(true));
        assert_eq!(compare(Domain::Double, "NaN", CompareOp::Gt, "1"), Some(true));
        assert_eq!(compare(Domain::Single, "0.1", CompareOp::Eq, "0.1"), Some(true));
        assert_eq!(compare(Domain::Padded, "ab   ", CompareOp::Eq, "ab"), Some(true));
        assert_eq!(compare(Domain::Text, "ab ", CompareOp::Eq, "ab"), Some(false));
        assert_eq!(compare(Domain::Date, "2024-02-01", CompareOp::Ge, "2024-01-31"), Some(true));
        assert_eq!(compare(Domain::Date, "infinity", CompareOp::Gt, "9999-12-31"), Some(true));
        assert_eq!(
            compare(Domain::Timestamp, "0044-03-15 00:00:00 BC", CompareOp::Lt, "0001-01-01 00:00:00"),
            Some(true)
        );
    }

    #[test]
    fn logic_has_three_values() {
        let known = |value: bool| Node::IsNull { column: 1, negated: value };
        let unknown = || Node::Like { column: 1, pattern: "x".to_owned(), negated: false };
        let truth = |node: Node| node.truth(&|_| Value::Null);
        assert_eq!(truth(unknown()), None);
        assert_eq!(truth(Node::Not(Box::new(unknown()))), None);
        assert_eq!(truth(Node::And(Box::new(unknown()), Box::new(known(true)))), Some(false));
        assert_eq!(truth(Node::And(Box::new(unknown()), Box::new(known(false)))), None);
        assert_eq!(truth(Node::Or(Box::new(unknown()), Box::new(known(false)))), Some(true));
        // What was not sent is not null.
        assert_eq!(known(true).truth(&|_| Value::Unchanged), Some(true));
    }

    #[test]
    fn patterns() {
        for (text, pattern, expected) in [
            ("", "", true),
            ("", "%", true),
            ("abc", "a%", true),
            ("abc", "a_c", true),
            ("abc", "a_", false),
            ("a%c", "a\\%c", true),
            ("abc", "a\\%c", false),
            ("aXbXc", "%X%X_", true),
            ("äöü", "_ö_", true),
            ("mississippi", "%iss%ip%", true),
            ("mississippi", "%iss%ix%", false),
        ] {
            assert_eq!(like(text, pattern), expected, "{text} {pattern}");
        }
    }
}
