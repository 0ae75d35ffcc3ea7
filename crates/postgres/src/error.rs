//! From the server's errors to ours: one mapping, by SQLSTATE.
//!
//! Guarantee: the server's DETAIL, HINT and CONTEXT, which may hold row values, never get into an error, and
//! neither does a password. The SQLSTATE is kept as a named place (`SQLSTATE`), so that a caller who knows more
//! can tell cases apart without reading messages.

use lakeward_core::{Error, ErrorKind};

use crate::tls::refused_certificate;

/// The place under which an error names its SQLSTATE.
const SQLSTATE: &str = "SQLSTATE";

/// The remedy of 55000 where a relation is locked or read, also by way of a view.
pub(crate) const UNFILLED: &str = "if it names a materialized view: REFRESH MATERIALIZED VIEW fills it";

/// A server's error as ours. `message` is the primary message; messages that quote values are replaced.
pub(crate) fn from_sqlstate(code: &str, message: &str) -> Error {
    let (kind, hint) = classify(code);
    let error = Error::new(kind, public_message(code, message)).at(SQLSTATE, code);
    match hint {
        Some(hint) => error.hint(hint),
        None => error,
    }
}

/// Class 22 (data exceptions) and 23 quote values in their primary message (`invalid input syntax for type integer: "…"`);
/// what is raised by the user's own functions (P0001) may say anything.
fn public_message(code: &str, message: &str) -> String {
    match code.get(..2) {
        Some("22" | "23" | "P0") => "the server refused a value".to_owned(),
        _ => message.to_owned(),
    }
}

fn classify(code: &str) -> (ErrorKind, Option<&'static str>) {
    match code {
        // Going down, just starting, too busy; also a standby that cancels what stands in recovery's way.
        "57P01" | "57P02" | "57P03" | "40001" | "40P01" | "57014" => (ErrorKind::Connection, None),
        "53300" => (
            ErrorKind::Connection,
            Some(
                "lower max_connections in the config, or raise it (or the role's CONNECTION LIMIT) at the server",
            ),
        ),
        "25P02" | "25P03" | "25P04" | "57P05" => (ErrorKind::Connection, None),
        "55P03" => {
            (ErrorKind::Connection, Some("another session holds a lock on the table; see lock_timeout"))
        }
        // Whoever looks at a slot has it for a moment.
        "55006" => (ErrorKind::Connection, Some("another session uses the slot; see pg_replication_slots")),
        "53200" | "53100" | "58030" => (ErrorKind::Connection, None),
        "3D000" => (ErrorKind::Config, Some("the database does not exist: check \"database\" in the config")),
        "42501" => (
            ErrorKind::Source,
            Some("grant the role what it lacks: `lakeward check --streams streams.json` prints each GRANT"),
        ),
        "42P01" | "42703" | "42704" | "3F000" => (
            ErrorKind::Schema,
            Some("the table or one of its columns changed: run `lakeward discover` again"),
        ),
        "42883" | "42804" => (
            ErrorKind::Schema,
            Some("a filter or cursor compares a column in a way that its type does not know"),
        ),
        "22021" | "22P05" => (ErrorKind::Data, Some("a text is not valid in the database's encoding")),
        _ => match code.get(..2) {
            Some("08") => (ErrorKind::Connection, None),
            Some("28") => (
                ErrorKind::Config,
                Some("check username, password and ssl in the config, and pg_hba.conf at the server"),
            ),
            _ => (ErrorKind::Source, None),
        },
    }
}

/// An error of the client library as ours.
pub(crate) fn from_client(error: tokio_postgres::Error) -> Error {
    if let Some(server) = error.as_db_error() {
        return from_sqlstate(server.code().code(), server.message());
    }
    if let Some(refused) = refused_certificate(&error) {
        return refused.source(error);
    }
    let config = error.to_string().starts_with("invalid configuration");
    let kind = if config { ErrorKind::Config } else { ErrorKind::Connection };
    let message = if error.is_closed() { "the connection was closed" } else { "the connection failed" };
    let hint = connection_hint(&error);
    let error = Error::new(kind, message).source(error);
    match hint {
        Some(hint) => error.hint(hint),
        None => error,
    }
}

/// What to do where a connection could not even be made. The client library tells the cases apart in words only.
fn connection_hint(error: &tokio_postgres::Error) -> Option<&'static str> {
    let cause = std::error::Error::source(error);
    let said = cause.map(ToString::to_string).unwrap_or_default();
    let io = cause.and_then(|cause| cause.downcast_ref::<std::io::Error>());
    if said.contains("password missing") {
        return Some("the server wants a password: set \"password\" in the config");
    }
    if said.contains("does not support TLS") {
        return Some("turn TLS on at the server, or set ssl.mode to prefer or disable in the config");
    }
    if said.contains("lookup") {
        return Some("no machine of that name is known here: check \"host\" in the config");
    }
    (io?.kind() == std::io::ErrorKind::ConnectionRefused).then_some(
        "no server listens there: check \"host\" and \"port\" in the config, and that it is running",
    )
}

/// The SQLSTATE that an error carries.
pub(crate) fn sqlstate(error: &Error) -> Option<&str> {
    error.places().find(|(what, _)| *what == SQLSTATE).map(|(_, code)| code)
}

/// The error of a reader that joins a session: what says that the snapshot is gone becomes `SessionLost`.
///
/// 22023, 42704 (17+) and 55000 are what `SET TRANSACTION SNAPSHOT` answers for a snapshot whose holder has
/// ended; 22012 is the readers' own guard on the table's storage, 55P03 that DDL waits for the holder (both in
/// [`join`](crate::session::join)).
pub(crate) fn in_session(error: Error, holder_lost: bool) -> Error {
    let gone = matches!(sqlstate(&error), Some("22023" | "42704" | "55000" | "22012" | "55P03"));
    let error = if sqlstate(&error) == Some("55000") { error.hint(UNFILLED) } else { error };
    if gone || (holder_lost && error.kind() == ErrorKind::Connection) {
        error.with_kind(ErrorKind::SessionLost)
    } else {
        error
    }
}

/// The snapshot of a session is gone.
pub(crate) fn session_lost() -> Error {
    Error::new(ErrorKind::SessionLost, "the snapshot is gone: the session that held it has ended")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sqlstates_decide_on_the_kind() {
        for (code, kind) in [
            ("57P01", ErrorKind::Connection),
            ("08006", ErrorKind::Connection),
            ("53300", ErrorKind::Connection),
            ("40001", ErrorKind::Connection),
            ("55006", ErrorKind::Connection),
            ("28P01", ErrorKind::Config),
            ("3D000", ErrorKind::Config),
            ("42501", ErrorKind::Source),
            ("42P01", ErrorKind::Schema),
            ("XX000", ErrorKind::Source),
            ("", ErrorKind::Source),
        ] {
            assert_eq!(from_sqlstate(code, "m").kind(), kind, "{code}");
        }
    }

    #[test]
    fn values_in_messages_are_not_repeated() {
        let error = from_sqlstate("22P02", "invalid input syntax for type integer: \"canary\"");
        assert!(!format!("{error:?}").contains("canary"));
        assert_eq!(sqlstate(&error), Some("22P02"));
    }

    #[test]
    fn a_missing_snapshot_is_a_lost_session() {
        let lost = in_session(from_sqlstate("22023", "invalid snapshot identifier"), false);
        assert_eq!(lost.kind(), ErrorKind::SessionLost);
        let error = in_session(from_sqlstate("57014", "canceling statement"), false);
        assert_eq!(error.kind(), ErrorKind::Connection);
    }
}
