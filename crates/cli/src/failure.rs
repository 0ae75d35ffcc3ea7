//! How a failure reaches the user: an exit code and a message that names places, causes and a remedy.
//!
//! Guaranteed: every kind of error has the exit code that the help documents, and no backtrace is shown to people
//! who did not ask for one.

use std::error::Error as _;
use std::fmt::Write as _;

use lakeward_core::{Error, ErrorKind};
use serde_json::{Value, json};

/// The process's exit code, as documented in `lakeward --help`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExitCode(pub(crate) u8);

impl ExitCode {
    /// Done.
    pub const DONE: Self = Self(0);
    /// A bug of Lakeward.
    pub const BUG: Self = Self(1);
    /// Usage or config.
    pub const USAGE: Self = Self(2);
    /// The source is not fit: `check` found an error.
    pub const SOURCE: Self = Self(4);
    /// Rows or columns are not what they should be.
    pub const DATA: Self = Self(5);
    /// Interrupted; what was committed stands.
    pub const INTERRUPTED: Self = Self(130);

    /// The code of a failure of that kind.
    pub fn of(kind: ErrorKind) -> Self {
        match kind {
            ErrorKind::Bug => Self::BUG,
            ErrorKind::Config => Self::USAGE,
            ErrorKind::Connection | ErrorKind::SessionLost => Self(3),
            ErrorKind::Source => Self::SOURCE,
            ErrorKind::Schema | ErrorKind::Data => Self::DATA,
            ErrorKind::Destination | ErrorKind::Conflict => Self(6),
            ErrorKind::State => Self(7),
            ErrorKind::Cancelled => Self::INTERRUPTED,
        }
    }

    /// The number.
    pub fn code(self) -> u8 {
        self.0
    }
}

impl From<ExitCode> for std::process::ExitCode {
    fn from(code: ExitCode) -> Self {
        Self::from(code.0)
    }
}

/// The failure that decides the exit code of a run in which several streams failed: the first one that the user
/// has to act on. A stop on request counts least, a bug most.
pub(crate) fn gravest<'a>(errors: impl IntoIterator<Item = &'a Error>) -> Option<&'a Error> {
    let weight = |error: &Error| match error.kind() {
        ErrorKind::Bug => 5,
        ErrorKind::Conflict | ErrorKind::State => 4,
        ErrorKind::Destination => 3,
        ErrorKind::Config | ErrorKind::Source | ErrorKind::Schema | ErrorKind::Data => 2,
        ErrorKind::Connection | ErrorKind::SessionLost => 1,
        ErrorKind::Cancelled => 0,
    };
    // `max_by_key` takes the last of equals; the first is what happened first.
    errors.into_iter().fold(None, |gravest, error| match gravest {
        Some(other) if weight(other) >= weight(error) => Some(other),
        _ => Some(error),
    })
}

/// A failure for people.
pub(crate) fn text(error: &Error) -> String {
    let mut result = format!("error: {}", error.message());
    for (what, value) in error.places() {
        let _ = write!(result, "\n  {what}: {value}");
    }
    for cause in causes(error) {
        let _ = write!(result, "\n  because: {cause}");
    }
    if let Some(hint) = error.remedy() {
        let _ = write!(result, "\n  what to do: {hint}");
    }
    if error.kind() == ErrorKind::Bug {
        result.push_str(
            "\n  this is a bug in Lakeward. What was committed stands, and a new run goes on from there. Please \
             report it with this message.",
        );
    }
    result
}

/// A failure for programs.
pub(crate) fn value(error: &Error) -> Value {
    let places: Vec<Value> =
        error.places().map(|(what, value)| json!({ "what": what, "value": value })).collect();
    json!({
        "event": "failed",
        "kind": format!("{:?}", error.kind()),
        "message": error.message(),
        "places": places,
        "causes": causes(error),
        "hint": error.remedy(),
        "exit_code": ExitCode::of(error.kind()).code(),
    })
}

/// The failure that another process of ours told by [`value`]; its places become part of the message.
pub(crate) fn told(value: &Value) -> Option<Error> {
    const KINDS: [ErrorKind; 11] = [
        ErrorKind::Connection,
        ErrorKind::SessionLost,
        ErrorKind::Config,
        ErrorKind::Source,
        ErrorKind::Schema,
        ErrorKind::Data,
        ErrorKind::Destination,
        ErrorKind::Conflict,
        ErrorKind::State,
        ErrorKind::Cancelled,
        ErrorKind::Bug,
    ];
    let kind = value.get("kind")?.as_str()?;
    let kind = *KINDS.iter().find(|known| format!("{known:?}") == kind)?;
    let mut message = value.get("message")?.as_str()?.to_owned();
    for place in value["places"].as_array().into_iter().flatten() {
        let text = |name: &str| place[name].as_str().unwrap_or_default().to_owned();
        let _ = write!(message, ", {} {}", text("what"), text("value"));
    }
    let mut error = Error::new(kind, message);
    let causes: Vec<&str> =
        value["causes"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    if !causes.is_empty() {
        error = error.source(causes.join(": "));
    }
    Some(match value["hint"].as_str() {
        Some(hint) => error.hint(hint),
        None => error,
    })
}

/// The chain of causes. A cause that is one of our own errors shows its places too.
fn causes(error: &Error) -> Vec<String> {
    let mut result: Vec<String> = Vec::new();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        // Wrappers often repeat what they wrap.
        if result.last().is_none_or(|last| !last.contains(&text)) {
            result.push(text);
        }
        cause = error.source();
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_its_documented_code() {
        let expected = [
            (ErrorKind::Bug, 1),
            (ErrorKind::Config, 2),
            (ErrorKind::Connection, 3),
            (ErrorKind::SessionLost, 3),
            (ErrorKind::Source, 4),
            (ErrorKind::Schema, 5),
            (ErrorKind::Data, 5),
            (ErrorKind::Destination, 6),
            (ErrorKind::Conflict, 6),
            (ErrorKind::State, 7),
            (ErrorKind::Cancelled, 130),
        ];
        for (kind, code) in expected {
            assert_eq!(ExitCode::of(kind).code(), code, "{kind:?}");
        }
    }

    #[test]
    fn a_failure_names_places_causes_and_the_remedy() {
        let error = Error::new(ErrorKind::Connection, "the server cannot be reached")
            .source(std::io::Error::other("connection refused"))
            .at("host", "db.internal")
            .hint("start the server");
        assert_eq!(
            text(&error),
            "error: the server cannot be reached\n  host: db.internal\n  because: connection refused\n  \
             what to do: start the server"
        );
        assert_eq!(value(&error)["exit_code"], 3);
        let told = told(&value(&error)).unwrap();
        assert_eq!(told.kind(), ErrorKind::Connection);
        assert_eq!(told.message(), "the server cannot be reached, host db.internal");
        assert_eq!((told.remedy(), causes(&told).len()), (error.remedy(), 1));
    }

    #[test]
    fn the_gravest_of_several_failures_decides_and_the_first_of_equals() {
        let errors = [
            Error::cancelled(),
            Error::new(ErrorKind::Data, "first"),
            Error::new(ErrorKind::Schema, "second"),
            Error::new(ErrorKind::Connection, "third"),
        ];
        assert_eq!(gravest(&errors).unwrap().message(), "first");
        assert!(gravest(&[]).is_none());
    }
}
