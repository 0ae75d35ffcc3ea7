//! What the server refuses, as an error that says what happens next.

use std::fmt;

use lakeward_core::{Error, ErrorKind};

/// An `ErrorResponse`, without the parts that may hold row values.
#[derive(Debug)]
struct ServerError {
    sqlstate: String,
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SQLSTATE {}", self.sqlstate)
    }
}

impl std::error::Error for ServerError {}

/// The SQLSTATE of an error that the server sent over this module's connections.
pub fn sqlstate(error: &Error) -> Option<&str> {
    let source = std::error::Error::source(error)?;
    source.downcast_ref::<ServerError>().map(|error| error.sqlstate.as_str())
}

/// What an SQLSTATE means for what happens next.
///
/// 57014 is a recovery conflict or a statement time-out here: who cancelled a query knows it by other means.
pub fn kind_of_sqlstate(sqlstate: &str) -> ErrorKind {
    match sqlstate {
        "57P01" | "57P02" | "57P03" | "53300" | "40001" | "40P01" | "55P03" | "57014" => {
            ErrorKind::Connection
        }
        // Time-outs of an idle session, or of a transaction, end the connection.
        "57P05" | "25P03" | "25P04" => ErrorKind::Connection,
        "25P02" => ErrorKind::SessionLost,
        "3D000" => ErrorKind::Config,
        "42P01" | "42703" => ErrorKind::Schema,
        code if code.starts_with("08") => ErrorKind::Connection,
        code if code.starts_with("28") => ErrorKind::Config,
        _ => ErrorKind::Source,
    }
}

/// Classes whose message may quote a value: only their name is repeated.
fn class_with_values(sqlstate: &str) -> Option<&'static str> {
    match sqlstate.get(..2)? {
        "22" => Some("data exception"),
        "23" => Some("integrity constraint violation"),
        "P0" => Some("exception raised by a function"),
        _ => None,
    }
}

/// Reads the body of an `ErrorResponse`.
pub(super) fn parse(body: &[u8]) -> Error {
    let mut sqlstate = "";
    let mut message = "";
    let mut rest = body;
    while let Some((field, text)) = rest.split_first() {
        if *field == 0 {
            break;
        }
        let end = memchr::memchr(0, text).unwrap_or(text.len());
        let value = std::str::from_utf8(&text[..end]).unwrap_or("(not UTF-8)");
        match field {
            b'C' => sqlstate = value,
            b'M' => message = value,
            _ => {}
        }
        rest = text.get(end + 1..).unwrap_or_default();
    }
    let kind = kind_of_sqlstate(sqlstate);
    let what = class_with_values(sqlstate).unwrap_or(message);
    let error = Error::new(kind, format!("the server refused: {what}"))
        .at("SQLSTATE", sqlstate)
        .source(ServerError { sqlstate: sqlstate.to_owned() });
    match hint(sqlstate) {
        Some(hint) => error.hint(hint),
        None => error,
    }
}

fn hint(sqlstate: &str) -> Option<&'static str> {
    Some(match sqlstate {
        "28000" => "check user, database, TLS mode and the server's pg_hba.conf",
        "28P01" => "check user and password in the source's config",
        "3D000" => "check the database's name in the source's config",
        "42501" => "grant the role what it lacks, or exclude the table",
        "42P01" | "42703" => "run `lakeward discover`: the table has changed",
        "53300" => "lower max_connections in the source's config, or raise it at the server",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_that_may_hold_a_value_is_not_repeated() {
        let body =
            b"SERROR\0C22P02\0Minvalid input syntax for type integer: \"canary\"\0DKey (a)=(canary)\0\0";
        let error = parse(body);
        assert_eq!(error.kind(), ErrorKind::Source);
        assert_eq!(sqlstate(&error), Some("22P02"));
        assert!(!format!("{error:?} {error}").contains("canary"));
    }

    #[test]
    fn a_torn_body_is_an_error_like_any_other() {
        for body in [&b""[..], b"\0", b"C", b"C42P01", b"M\0\0", b"C42P01\0Mx"] {
            parse(body);
        }
        assert_eq!(parse(b"C42P01").kind(), ErrorKind::Schema);
    }
}
