//! One error type: a kind that decides what happens next, context for the operator, and the cause.

use std::error::Error as StdError;
use std::fmt;

/// The result of everything in Lakeward.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What sort of failure it is. The kind alone decides on retries ([`retry_policy`]) and on the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// A connection could not be made, was cut, timed out, or the server is going down.
    Connection,
    /// The snapshot that a backfill reads is gone (server restarted, holder ended). A new session may be begun.
    SessionLost,
    /// A config file, a command line or streams.json cannot be used as it is.
    Config,
    /// The source is not fit for what is asked: privileges, settings, versions.
    Source,
    /// A stream's columns or types do not allow what is asked, or changed against the declared policy.
    Schema,
    /// A value that the declared policy refuses.
    Data,
    /// The destination failed to write, or holds what it should not.
    Destination,
    /// Another run or pipeline owns this stream at the destination.
    Conflict,
    /// The state file is locked, torn, foreign, or behind what the destination holds.
    State,
    /// Stopped on request.
    Cancelled,
    /// A broken invariant of Lakeward itself.
    Bug,
}

/// Whether a failed step may be tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// The outcome will not change by itself.
    Never,
    /// The same step may succeed after a pause.
    Again,
    /// Only after a new session has been begun.
    NewSession,
}

/// Whether, and how, an error of `kind` is retried.
pub fn retry_policy(kind: ErrorKind) -> Retry {
    match kind {
        ErrorKind::Connection => Retry::Again,
        ErrorKind::SessionLost => Retry::NewSession,
        ErrorKind::Config
        | ErrorKind::Source
        | ErrorKind::Schema
        | ErrorKind::Data
        | ErrorKind::Destination
        | ErrorKind::Conflict
        | ErrorKind::State
        | ErrorKind::Cancelled
        | ErrorKind::Bug => Retry::Never,
    }
}

/// A failure: its kind, what was being done, where, what the operator can do, and the cause.
///
/// No row value and no secret is ever put into one.
pub struct Error {
    kind: ErrorKind,
    message: String,
    context: Vec<(&'static str, String)>,
    hint: Option<String>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// A failure of `kind`; `message` says what could not be done.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), context: Vec::new(), hint: None, source: None }
    }

    /// A broken invariant of Lakeward itself.
    pub fn bug(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Bug, message)
    }

    /// The run was asked to stop.
    pub fn cancelled() -> Self {
        Self::new(ErrorKind::Cancelled, "stopped on request")
    }

    /// Names a place: a stream, a column, a file, a position. The innermost place is named first, and none twice.
    #[must_use]
    pub fn at(mut self, what: &'static str, value: impl fmt::Display) -> Self {
        let place = (what, value.to_string());
        if !self.context.contains(&place) {
            self.context.push(place);
        }
        self
    }

    /// Says what the operator can do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Keeps the cause.
    #[must_use]
    pub fn source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// The same failure under another kind, where a caller knows more than the callee did.
    #[must_use]
    pub fn with_kind(mut self, kind: ErrorKind) -> Self {
        self.kind = kind;
        self
    }

    /// What sort of failure it is.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// What the operator can do about it, where that is known.
    pub fn remedy(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// What could not be done, without places and causes.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The places that were named, innermost first.
    pub fn places(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.context.iter().map(|(what, value)| (*what, value.as_str()))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        for (index, (what, value)) in self.context.iter().enumerate() {
            write!(f, "{}{what} {value}", if index == 0 { " (" } else { ", " })?;
        }
        if !self.context.is_empty() {
            f.write_str(")")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {self}", self.kind)?;
        let mut cause = self.source.as_deref().map(|e| e as &dyn StdError);
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|e| e as _)
    }
}

/// Turns foreign errors into ours where they cross into Lakeward.
pub trait ResultExt<T> {
    /// Gives the failure a kind and says what could not be done; the foreign error becomes the cause.
    fn or_fail(self, kind: ErrorKind, message: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Into<Box<dyn StdError + Send + Sync>>> ResultExt<T> for std::result::Result<T, E> {
    fn or_fail(self, kind: ErrorKind, message: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|source| Error::new(kind, message()).source(source))
    }
}
