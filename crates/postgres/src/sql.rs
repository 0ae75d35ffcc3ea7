//! SQL text: names, literals and row filters, quoted in one place.

use lakeward_core::{FilterExpr, Literal};

/// Begins a transaction whose queries all see the database as it was when the first of them began.
pub(crate) const AT_ONE_MOMENT: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";

/// A name as it must be written in SQL.
pub(crate) fn ident(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A name within a schema.
pub(crate) fn qualified(schema: &str, name: &str) -> String {
    format!("{}.{}", ident(schema), ident(name))
}

/// A text as a literal of unknown type, the same under either setting of `standard_conforming_strings`.
pub(crate) fn literal(text: &str) -> String {
    let quoted = text.replace('\'', "''");
    if quoted.contains('\\') {
        format!(" E'{}'", quoted.replace('\\', "\\\\"))
    } else {
        format!("'{quoted}'")
    }
}

/// A text as a literal of a type; `sql_type` is the server's own spelling of it.
pub(crate) fn typed(text: &str, sql_type: &str) -> String {
    format!("({}::{sql_type})", literal(text))
}

/// A row filter as SQL, in parentheses. Three-valued logic is the server's own.
pub(crate) fn filter(expr: &FilterExpr) -> String {
    match expr {
        FilterExpr::And(a, b) => format!("({} AND {})", filter(a), filter(b)),
        FilterExpr::Or(a, b) => format!("({} OR {})", filter(a), filter(b)),
        FilterExpr::Not(inner) => format!("(NOT {})", filter(inner)),
        FilterExpr::Compare { column, op, literal } => {
            format!("({} {} {})", ident(column), op.sql(), filter_literal(literal))
        }
        FilterExpr::In { column, literals, negated } => {
            let list: Vec<_> = literals.iter().map(filter_literal).collect();
            format!("({} {}IN ({}))", ident(column), not(*negated), list.join(", "))
        }
        FilterExpr::IsNull { column, negated } => {
            format!("({} IS {}NULL)", ident(column), not(*negated))
        }
        FilterExpr::Like { column, pattern, negated } => {
            format!("({} {}LIKE {})", ident(column), not(*negated), literal(pattern))
        }
    }
}

fn not(negated: bool) -> &'static str {
    if negated { "NOT " } else { "" }
}

/// Numbers stand bare, so that an integer column can be compared with a fraction; texts take the column's type.
fn filter_literal(value: &Literal) -> String {
    match value {
        Literal::Number(digits) => format!("({digits})"),
        Literal::Text(text) => literal(text),
        Literal::Boolean(true) => "true".to_owned(),
        Literal::Boolean(false) => "false".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use lakeward_core::CompareOp;

    use super::*;

    #[test]
    fn names_and_literals_cannot_break_out() {
        assert_eq!(qualified("a\"b", "C d"), "\"a\"\"b\".\"C d\"");
        assert_eq!(literal("it's"), "'it''s'");
        assert_eq!(literal("\\'; --"), " E'\\\\''; --'");
        assert_eq!(typed("1", "integer"), "('1'::integer)");
    }

    #[test]
    fn filters_render_with_parentheses() {
        let compare = |column: &str, literal| {
            Box::new(FilterExpr::Compare { column: column.to_owned(), op: CompareOp::Ge, literal })
        };
        let tree = FilterExpr::Or(
            compare("a", Literal::Number("-1.5".to_owned())),
            Box::new(FilterExpr::Not(compare("B", Literal::Text("x'y".to_owned())))),
        );
        assert_eq!(filter(&tree), "((\"a\" >= (-1.5)) OR (NOT (\"B\" >= 'x''y')))");
        let within = FilterExpr::In {
            column: "a".to_owned(),
            literals: vec![Literal::Boolean(true), Literal::Boolean(false)],
            negated: true,
        };
        assert_eq!(filter(&within), "(\"a\" NOT IN (true, false))");
    }
}
