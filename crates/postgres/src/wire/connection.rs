//! One session: its start, simple queries, COPY out.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::time::Duration;

use bytes::BytesMut;
use lakeward_core::{Error, ErrorKind, Result, ResultExt};
use postgres_protocol::message::frontend;

use super::auth::Authentication;
use super::cancel::CancelHandle;
use super::frames::{Frames, Pace};
use super::replication::{LogReader, LogWriter};
use super::socket::{Socket, WriteHalf, negotiate};
use super::{Endpoint, server_error, sqlstate};

/// A session over a blocking socket. Dropped, its socket closes.
#[derive(Debug)]
pub struct Connection {
    frames: Frames,
    writer: WriteHalf,
    parameters: HashMap<String, String>,
    cancel: CancelHandle,
    silence_limit: Duration,
}

/// What takes the data of a COPY.
pub(super) trait CopySink {
    /// A message of so many bytes comes that needs a buffer of its own.
    fn announce(&mut self, bytes: usize) -> Result<()>;

    /// The payload of one message. `Break` ends the COPY.
    fn data(&mut self, payload: &[u8]) -> Result<ControlFlow<()>>;
}

impl<F: FnMut(&[u8]) -> Result<ControlFlow<()>>> CopySink for F {
    fn announce(&mut self, _: usize) -> Result<()> {
        Ok(())
    }

    fn data(&mut self, payload: &[u8]) -> Result<ControlFlow<()>> {
        self(payload)
    }
}

impl Connection {
    /// Connects, encrypts, authenticates and waits until the session is ready.
    ///
    /// # Errors
    /// `Connection` where the server cannot be reached or does not take connections now, `Config` where it
    /// refuses who we are or we refuse who it is.
    pub fn connect(endpoint: &Endpoint) -> Result<Self> {
        let (socket, peer) = Socket::connect(endpoint)?;
        let (read, mut writer) = negotiate(socket, endpoint)?;
        let mut frames = Frames::new(read, endpoint.connect_timeout);
        writer.send(&startup(endpoint)?)?;

        let mut authentication = Authentication::new(endpoint);
        let mut parameters = HashMap::new();
        let mut key = (0, 0);
        loop {
            let (tag, range) = frames.next()?;
            let body = frames.body(range);
            match tag {
                b'R' => writer.send(&authentication.answer(body)?)?,
                b'S' => note_parameter(&mut parameters, body),
                b'K' => key = key_data(body).ok_or_else(|| unexpected(tag))?,
                b'E' => return Err(server_error::parse(body)),
                b'N' | b'v' => {}
                b'Z' => break,
                _ => return Err(unexpected(tag)),
            }
        }
        let broken = || "the socket cannot be used".to_owned();
        frames.set_timeout(endpoint.read_timeout).or_fail(ErrorKind::Connection, broken)?;
        let socket = frames.try_clone_socket().or_fail(ErrorKind::Connection, broken)?;
        let cancel = CancelHandle::new(endpoint.clone(), peer, socket, key.0, key.1);
        let silence_limit = endpoint.read_timeout;
        Ok(Self { frames, writer, parameters, cancel, silence_limit })
    }

    /// Runs statements whose results are of no interest.
    pub fn simple(&mut self, sql: &str) -> Result<()> {
        self.run(sql, |tag, _| match tag {
            b'T' | b'D' | b'C' | b'I' => Ok(()),
            _ => Err(unexpected(tag)),
        })
    }

    /// Runs a query and returns its rows, each value as text.
    pub fn query_rows(&mut self, sql: &str) -> Result<Vec<Vec<Option<String>>>> {
        let mut rows = Vec::new();
        self.run(sql, |tag, body| match tag {
            b'D' => {
                rows.push(data_row(body).ok_or_else(|| unexpected(tag))?);
                Ok(())
            }
            b'T' | b'C' | b'I' => Ok(()),
            _ => Err(unexpected(tag)),
        })?;
        Ok(rows)
    }

    /// What stops this connection from another thread.
    pub fn cancel_handle(&self) -> CancelHandle {
        self.cancel.clone()
    }

    /// A setting that the server reports, such as `server_version`.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.get(name).map(String::as_str)
    }

    /// Runs a `COPY … TO STDOUT` and hands over each payload; returns how many rows the server says it sent.
    ///
    /// # Errors
    /// Those of the server; those of `on_data`; `Cancelled` where `on_data` breaks off. After either of the last
    /// two the query is cancelled and the connection closed.
    pub fn copy_out(
        &mut self,
        sql: &str,
        mut on_data: impl FnMut(&[u8]) -> Result<ControlFlow<()>>,
    ) -> Result<u64> {
        self.copy_to(sql, &mut on_data)
    }

    pub(super) fn copy_to(&mut self, sql: &str, sink: &mut impl CopySink) -> Result<u64> {
        self.frames.set_pace(Pace::Copy);
        let result = self.copy_to_end(sql, sink);
        self.frames.set_pace(Pace::Prompt);
        result
    }

    fn copy_to_end(&mut self, sql: &str, sink: &mut impl CopySink) -> Result<u64> {
        self.send_query(sql)?;
        let mut rows = None;
        let mut done = false;
        let mut failure = None;
        loop {
            let (tag, length) = self.frames.peek().map_err(|error| self.lost(error, &mut failure))?;
            if tag == b'd' && Frames::is_large(length) {
                sink.announce(length).inspect_err(|_| self.cancel.cancel())?;
            }
            let (tag, range) = self.frames.next().map_err(|error| self.lost(error, &mut failure))?;
            let body = self.frames.body(range);
            match tag {
                b'd' => match sink.data(body) {
                    Ok(ControlFlow::Continue(())) => {}
                    Ok(ControlFlow::Break(())) => {
                        self.cancel.cancel();
                        return Err(Error::cancelled());
                    }
                    Err(error) => {
                        self.cancel.cancel();
                        return Err(error);
                    }
                },
                b'c' => done = true,
                b'C' => rows = copied_rows(body),
                b'E' => failure = failure.or(Some(server_error::parse(body))),
                b'S' => note_parameter(&mut self.parameters, body),
                b'H' | b'N' | b'A' => {}
                b'Z' => break,
                _ => return Err(unexpected(tag)),
            }
        }
        match (failure, rows) {
            (Some(error), _) => Err(self.explain(error)),
            (None, Some(rows)) if done => Ok(rows),
            (None, _) => Err(Error::new(ErrorKind::Connection, "a COPY ended without being complete")),
        }
    }

    /// Sends a replication command that starts to follow a log, and takes the connection apart.
    pub(crate) fn follow(mut self, command: &str) -> Result<(LogReader, LogWriter)> {
        self.send_query(command)?;
        loop {
            let (tag, range) = self.frames.next().map_err(|error| self.explain(error))?;
            match tag {
                b'W' => break,
                b'E' => return Err(server_error::parse(self.frames.body(range))),
                b'N' | b'S' | b'A' => {}
                _ => return Err(unexpected(tag)),
            }
        }
        let reader = LogReader::new(self.frames, self.cancel, self.silence_limit)?;
        Ok((reader, LogWriter::new(self.writer)))
    }

    /// Ends the transaction and makes the connection fit for another use. `None` where it cannot be: it was
    /// cancelled, or is broken.
    pub(super) fn renew(mut self) -> Option<Self> {
        self.simple("COMMIT").ok()?;
        self.cancel = self.cancel.next_use()?;
        Some(self)
    }

    /// Says good-bye. Merely dropping the connection is as good, but for a line in the server's log.
    pub fn close(mut self) {
        let mut message = BytesMut::new();
        frontend::terminate(&mut message);
        // It is over in either case.
        let _ = self.writer.send(&message);
    }

    /// Runs statements and hands over the messages of their results.
    fn run(&mut self, sql: &str, mut on_message: impl FnMut(u8, &[u8]) -> Result<()>) -> Result<()> {
        self.send_query(sql)?;
        let mut failure = None;
        loop {
            let (tag, range) = self.frames.next().map_err(|error| self.lost(error, &mut failure))?;
            let body = self.frames.body(range);
            match tag {
                b'E' => failure = failure.or(Some(server_error::parse(body))),
                b'S' => note_parameter(&mut self.parameters, body),
                b'N' | b'A' => {}
                b'Z' => break,
                _ => on_message(tag, body)?,
            }
        }
        match failure {
            Some(error) => Err(of_snapshot(sql, self.explain(error))),
            None => Ok(()),
        }
    }

    fn send_query(&mut self, sql: &str) -> Result<()> {
        let mut message = BytesMut::with_capacity(sql.len() + 6);
        frontend::query(sql, &mut message)
            .or_fail(ErrorKind::Bug, || "a statement holds a zero byte".to_owned())?;
        self.writer.send(&message).map_err(|error| self.explain(error))
    }

    /// A query that we cancelled did not fail.
    fn explain(&self, error: Error) -> Error {
        if self.cancel.is_cancelled() { Error::cancelled() } else { error }
    }

    /// Why nothing more comes. A server that hangs up has often said why. One that has not may still be at the
    /// query behind a dead connection, in the way of the next attempt.
    fn lost(&self, error: Error, said_before: &mut Option<Error>) -> Error {
        let error = said_before.take().unwrap_or_else(|| {
            if !self.cancel.is_cancelled() {
                self.cancel.abandon();
            }
            error
        });
        self.explain(error)
    }
}

fn startup(endpoint: &Endpoint) -> Result<BytesMut> {
    let fixed = [
        ("user", endpoint.user.as_str()),
        ("database", &endpoint.database),
        ("application_name", &endpoint.application_name),
        // Text that is not UTF-8 is refused by the server, not by us.
        ("client_encoding", "UTF8"),
    ];
    let options = endpoint.options.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let mut message = BytesMut::new();
    frontend::startup_message(fixed.into_iter().chain(options), &mut message)
        .or_fail(ErrorKind::Config, || "a name in the source's config holds a zero byte".to_owned())?;
    Ok(message)
}

/// A snapshot that cannot be taken over is gone with the session that held it.
fn of_snapshot(sql: &str, error: Error) -> Error {
    const STATEMENT: &str = "SET TRANSACTION SNAPSHOT";
    let takes_over =
        sql.trim_start().get(..STATEMENT.len()).is_some_and(|start| start.eq_ignore_ascii_case(STATEMENT));
    match sqlstate(&error) {
        // "invalid snapshot identifier", since PostgreSQL 18 "does not exist"; "source process is not running".
        Some("22023" | "42704" | "55000") if takes_over => error
            .with_kind(ErrorKind::SessionLost)
            .hint("the session that held the snapshot has ended; a new one is begun"),
        _ => error,
    }
}

pub(super) fn unexpected(tag: u8) -> Error {
    Error::new(ErrorKind::Connection, "the server sent a message that does not belong here")
        .at("message", char::from(tag).escape_default())
}

fn note_parameter(parameters: &mut HashMap<String, String>, body: &[u8]) {
    let mut parts = body.split(|byte| *byte == 0).map(String::from_utf8_lossy);
    if let (Some(name), Some(value)) = (parts.next(), parts.next()) {
        parameters.insert(name.into_owned(), value.into_owned());
    }
}

fn key_data(body: &[u8]) -> Option<(i32, i32)> {
    let (process, rest) = body.split_first_chunk()?;
    let secret = rest.try_into().ok()?;
    Some((i32::from_be_bytes(*process), i32::from_be_bytes(secret)))
}

fn data_row(body: &[u8]) -> Option<Vec<Option<String>>> {
    let (count, mut rest) = body.split_first_chunk()?;
    let mut row = Vec::new();
    for _ in 0..u16::from_be_bytes(*count) {
        let (length, after) = rest.split_first_chunk()?;
        let Ok(length) = usize::try_from(i32::from_be_bytes(*length)) else {
            row.push(None);
            rest = after;
            continue;
        };
        let (value, after) = after.split_at_checked(length)?;
        row.push(Some(std::str::from_utf8(value).ok()?.to_owned()));
        rest = after;
    }
    Some(row)
}

/// The count in `COPY n`.
fn copied_rows(body: &[u8]) -> Option<u64> {
    std::str::from_utf8(body).ok()?.strip_prefix("COPY ")?.trim_end_matches('\0').parse().ok()
}
