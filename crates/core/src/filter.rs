//! Row filters: parsed by a library, checked against the stream's columns, kept as a small tree of our own.
//!
//! Grammar: columns, literals, `= <> < <= > >=`, IN, IS NULL, LIKE, AND, OR, NOT. Each driver pushes the tree down
//! in its own dialect and evaluates it over changes by the same three-valued logic.

use std::fmt;

use sqlparser::ast::{BinaryOperator, Expr, UnaryOperator, Value as SqlValue};
use sqlparser::dialect::GenericDialect;
use sqlparser::parser::Parser;

use crate::config::nearest;
use crate::{ColumnType, Error, ErrorKind, Result, Schema};

/// Which rows of a stream are replicated: as the user wrote it, and as a tree.
#[derive(Debug, Clone, PartialEq)]
pub struct Filter {
    text: String,
    expr: FilterExpr,
}

/// The tree of a filter. Columns are named as at the source and exist in its schema.
#[derive(Debug, Clone, PartialEq)]
pub enum FilterExpr {
    /// Both hold.
    And(Box<FilterExpr>, Box<FilterExpr>),
    /// One holds.
    Or(Box<FilterExpr>, Box<FilterExpr>),
    /// It does not hold.
    Not(Box<FilterExpr>),
    /// `column op literal`.
    Compare {
        /// The column.
        column: String,
        /// How.
        op: CompareOp,
        /// With what; never null.
        literal: Literal,
    },
    /// `column [NOT] IN (…)`.
    In {
        /// The column.
        column: String,
        /// Not empty, no nulls.
        literals: Vec<Literal>,
        /// NOT IN.
        negated: bool,
    },
    /// `column IS [NOT] NULL`.
    IsNull {
        /// The column.
        column: String,
        /// IS NOT NULL.
        negated: bool,
    },
    /// `column [NOT] LIKE pattern`, with `%`, `_` and backslash as escape.
    Like {
        /// The column, of type text.
        column: String,
        /// The pattern.
        pattern: String,
        /// NOT LIKE.
        negated: bool,
    },
}

/// A comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CompareOp {
    /// `=`
    Eq,
    /// `<>`
    Ne,
    /// `<`
    Lt,
    /// `<=`
    Le,
    /// `>`
    Gt,
    /// `>=`
    Ge,
}

impl CompareOp {
    /// Its SQL.
    pub fn sql(self) -> &'static str {
        match self {
            Self::Eq => "=",
            Self::Ne => "<>",
            Self::Lt => "<",
            Self::Le => "<=",
            Self::Gt => ">",
            Self::Ge => ">=",
        }
    }

    /// The same comparison seen from the other side.
    fn flipped(self) -> Self {
        match self {
            Self::Lt => Self::Gt,
            Self::Le => Self::Ge,
            Self::Gt => Self::Lt,
            Self::Ge => Self::Le,
            same => same,
        }
    }
}

/// A literal of a filter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Literal {
    /// A number, as written; digits, point, exponent and sign only.
    Number(String),
    /// A text, without quotes.
    Text(String),
    /// A truth value.
    Boolean(bool),
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

fn refuse(what: impl fmt::Display) -> Error {
    Error::new(ErrorKind::Config, format!("the filter cannot be used: {what}")).hint(
        "a filter is made of columns, literals, = <> < <= > >=, IN, IS NULL, LIKE, AND, OR, NOT and parentheses",
    )
}

impl Filter {
    /// Parses a filter and checks it against the stream's columns.
    ///
    /// # Errors
    /// `Config`, naming the column or the construct.
    pub fn parse(text: &str, schema: &Schema) -> Result<Self> {
        let mut parser = Parser::new(&GenericDialect {})
            .try_with_sql(text)
            .map_err(|_| refuse("it is no SQL expression"))?;
        let expr = parser.parse_expr().map_err(|_| refuse("it is no SQL expression"))?;
        if parser.peek_token().token != sqlparser::tokenizer::Token::EOF {
            return Err(refuse("something follows the expression"));
        }
        Ok(Self { text: text.to_owned(), expr: convert(&expr, schema)? })
    }

    /// The tree.
    pub fn expr(&self) -> &FilterExpr {
        &self.expr
    }

    /// The columns that it names, each once.
    pub fn columns(&self) -> Vec<&str> {
        fn walk<'a>(expr: &'a FilterExpr, names: &mut Vec<&'a str>) {
            match expr {
                FilterExpr::And(a, b) | FilterExpr::Or(a, b) => {
                    walk(a, names);
                    walk(b, names);
                }
                FilterExpr::Not(inner) => walk(inner, names),
                FilterExpr::Compare { column, .. }
                | FilterExpr::In { column, .. }
                | FilterExpr::IsNull { column, .. }
                | FilterExpr::Like { column, .. } => {
                    if !names.contains(&column.as_str()) {
                        names.push(column);
                    }
                }
            }
        }
        let mut names = Vec::new();
        walk(&self.expr, &mut names);
        names
    }
}

fn convert(expr: &Expr, schema: &Schema) -> Result<FilterExpr> {
    let both = |left: &Expr, right: &Expr| -> Result<(Box<FilterExpr>, Box<FilterExpr>)> {
        Ok((Box::new(convert(left, schema)?), Box::new(convert(right, schema)?)))
    };
    match expr {
        Expr::Nested(inner) => convert(inner, schema),
        Expr::BinaryOp { left, op: BinaryOperator::And, right } => {
            both(left, right).map(|(a, b)| FilterExpr::And(a, b))
        }
        Expr::BinaryOp { left, op: BinaryOperator::Or, right } => {
            both(left, right).map(|(a, b)| FilterExpr::Or(a, b))
        }
        Expr::UnaryOp { op: UnaryOperator::Not, expr } => {
            Ok(FilterExpr::Not(Box::new(convert(expr, schema)?)))
        }
        Expr::BinaryOp { left, op, right } => {
            let op = match op {
                BinaryOperator::Eq => CompareOp::Eq,
                BinaryOperator::NotEq => CompareOp::Ne,
                BinaryOperator::Lt => CompareOp::Lt,
                BinaryOperator::LtEq => CompareOp::Le,
                BinaryOperator::Gt => CompareOp::Gt,
                BinaryOperator::GtEq => CompareOp::Ge,
                other => return Err(refuse(format!("the operator {other} is not part of the grammar"))),
            };
            let (name, op, value) = match (column_name(left), column_name(right)) {
                (Some(name), None) => (name, op, right),
                (None, Some(name)) => (name, op.flipped(), left),
                _ => {
                    return Err(refuse("a comparison needs a column on one side and a literal on the other"));
                }
            };
            let (column, column_type) = find(&name, schema)?;
            let literal = literal(value, &column, column_type)?;
            if matches!(column_type, ColumnType::Text) && !matches!(op, CompareOp::Eq | CompareOp::Ne) {
                return Err(refuse(format!(
                    "column \"{column}\" is text, whose order depends on the collation"
                ))
                .hint("compare text by = and <> only"));
            }
            Ok(FilterExpr::Compare { column, op, literal })
        }
        Expr::IsNull(inner) => is_null(inner, false, schema),
        Expr::IsNotNull(inner) => is_null(inner, true, schema),
        Expr::InList { expr, list, negated } => {
            let name = column_name(expr).ok_or_else(|| refuse("IN needs a column on its left"))?;
            let (column, column_type) = find(&name, schema)?;
            let literals =
                list.iter().map(|value| literal(value, &column, column_type)).collect::<Result<Vec<_>>>()?;
            if literals.is_empty() {
                return Err(refuse("IN needs at least one literal"));
            }
            Ok(FilterExpr::In { column, literals, negated: *negated })
        }
        Expr::Like { negated, any: false, expr, pattern, escape_char: None } => {
            let name = column_name(expr).ok_or_else(|| refuse("LIKE needs a column on its left"))?;
            let (column, column_type) = find(&name, schema)?;
            match literal(pattern, &column, column_type)? {
                Literal::Text(pattern) if *column_type == ColumnType::Text => {
                    Ok(FilterExpr::Like { column, pattern, negated: *negated })
                }
                _ => Err(refuse(format!("LIKE needs a text column, \"{column}\" is {column_type}"))),
            }
        }
        other => Err(refuse(format!("{} is not part of the grammar", describe(other)))),
    }
}

/// What an expression is, without its literals: one of them may be a row value.
fn describe(expr: &Expr) -> &'static str {
    match expr {
        Expr::Function(_) => "a function call",
        Expr::Subquery(_) | Expr::InSubquery { .. } | Expr::Exists { .. } => "a subquery",
        Expr::Cast { .. } => "a cast",
        Expr::Between { .. } => "BETWEEN (write >= and <=)",
        Expr::Identifier(_) | Expr::CompoundIdentifier(_) => "a column without a comparison",
        Expr::Value(_) => "a literal without a comparison",
        _ => "this construct",
    }
}

fn is_null(expr: &Expr, negated: bool, schema: &Schema) -> Result<FilterExpr> {
    let name = column_name(expr).ok_or_else(|| refuse("IS NULL needs a column"))?;
    let (column, _) = find(&name, schema)?;
    Ok(FilterExpr::IsNull { column, negated })
}

fn column_name(expr: &Expr) -> Option<String> {
    match expr {
        Expr::Identifier(ident) => Some(ident.value.clone()),
        Expr::Nested(inner) => column_name(inner),
        _ => None,
    }
}

fn find<'a>(name: &str, schema: &'a Schema) -> Result<(String, &'a ColumnType)> {
    match schema.column(name) {
        Some(column) => Ok((column.name.clone(), &column.column_type)),
        None => {
            let error = Error::new(ErrorKind::Config, format!("the filter names no column: \"{name}\""));
            Err(match nearest(name, schema.columns.iter().map(|column| column.name.as_str())) {
                Some(near) => error.hint(format!("did you mean \"{near}\"?")),
                None => error.hint("a column with upper case or spaces is written in double quotes"),
            })
        }
    }
}

fn literal(expr: &Expr, column: &str, column_type: &ColumnType) -> Result<Literal> {
    let (expr, sign) = match expr {
        Expr::UnaryOp { op: UnaryOperator::Minus, expr } => (expr.as_ref(), "-"),
        Expr::UnaryOp { op: UnaryOperator::Plus, expr } => (expr.as_ref(), ""),
        other => (other, ""),
    };
    let Expr::Value(value) = expr else {
        return Err(refuse(format!("column \"{column}\" is compared with something that is no literal")));
    };
    let literal = match &value.value {
        SqlValue::Number(digits, _) => Literal::Number(format!("{sign}{digits}")),
        SqlValue::SingleQuotedString(text) if sign.is_empty() => Literal::Text(text.clone()),
        SqlValue::Boolean(truth) if sign.is_empty() => Literal::Boolean(*truth),
        SqlValue::Null => {
            return Err(refuse(format!("column \"{column}\" is compared with NULL: write IS NULL")));
        }
        _ => return Err(refuse(format!("column \"{column}\" is compared with an unusual literal"))),
    };
    let numeric = matches!(
        column_type,
        ColumnType::Int8
            | ColumnType::Int16
            | ColumnType::Int32
            | ColumnType::Int64
            | ColumnType::UInt8
            | ColumnType::UInt16
            | ColumnType::UInt32
            | ColumnType::UInt64
            | ColumnType::Float32
            | ColumnType::Float64
            | ColumnType::Decimal { .. }
    );
    let fits = match &literal {
        // An unconstrained numeric is text at the destination and a number at the source.
        Literal::Number(_) => numeric || *column_type == ColumnType::Text,
        Literal::Boolean(_) => *column_type == ColumnType::Boolean,
        Literal::Text(_) => !numeric && !matches!(column_type, ColumnType::Boolean | ColumnType::List(_)),
    };
    if fits {
        Ok(literal)
    } else {
        Err(refuse(format!("the literal for column \"{column}\" does not fit its type {column_type}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Column;

    fn schema() -> Schema {
        Schema {
            columns: vec![
                Column::new("id", ColumnType::Int64),
                Column::new("region", ColumnType::Text),
                Column::new("created_at", ColumnType::TimestampTz),
                Column::new("Open", ColumnType::Boolean),
            ],
        }
    }

    #[test]
    fn the_grammar_is_accepted() {
        for text in [
            "created_at >= '2024-01-01' AND region = 'eu'",
            "NOT (id IN (1, -2) OR region LIKE 'e%')",
            "5 < id and region is not null",
            "\"Open\" = true",
        ] {
            let filter = Filter::parse(text, &schema()).unwrap();
            assert_eq!(filter.to_string(), text);
        }
        let flipped = Filter::parse("5 < id", &schema()).unwrap();
        assert!(matches!(flipped.expr(), FilterExpr::Compare { op: CompareOp::Gt, .. }));
    }

    #[test]
    fn what_is_outside_the_grammar_is_refused_by_name() {
        for (text, expected) in [
            ("region < 'eu'", "collation"),
            ("regoin = 'eu'", "regoin"),
            ("lower(region) = 'eu'", "column on one side"),
            ("id = 'x'", "does not fit"),
            ("id = NULL", "IS NULL"),
            ("id", "without a comparison"),
            ("id = 1; DROP TABLE x", "follows"),
            ("id BETWEEN 1 AND 2", "BETWEEN"),
            ("id = (SELECT 1)", "no literal"),
        ] {
            let error = Filter::parse(text, &schema()).unwrap_err();
            assert!(error.to_string().contains(expected), "{text}: {error}");
        }
    }
}
