//! What the server refuses, as an error that says what happens next.

use std::fmt;

use lakeward_core::{Error, ErrorKind};

use crate::error::from_sqlstate;

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
    let error = from_sqlstate(sqlstate, message).source(ServerError { sqlstate: sqlstate.to_owned() });
    match sqlstate {
        // What failed in the transaction before is not known here: it is begun again.
        "25P02" => error.with_kind(ErrorKind::SessionLost),
        _ => error,
    }
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
