//! Following a log: one half of the connection reads, the other says how far the pipeline has come.

use std::time::{Duration, Instant, SystemTime};

use bytes::{BufMut, BytesMut};
use lakeward_core::{Error, ErrorKind, Result, ResultExt};

use super::EPOCH_MICROS;
use super::cancel::CancelHandle;
use super::connection::unexpected;
use super::frames::{Frames, Pace};
use super::server_error;
use super::socket::WriteHalf;
use crate::error::sqlstate;

/// How long a reader waits before it looks at what else there is to do.
const TICK: Duration = Duration::from_millis(50);

/// What the server says while its log is followed.
#[derive(Debug)]
pub(crate) enum LogMessage<'a> {
    /// A message of the output plugin.
    Data(&'a [u8]),
    /// Everything before `end` was sent.
    Keepalive {
        /// A place in the log.
        end: u64,
        /// When it was said, by the server's clock: microseconds since 1970.
        sent: i64,
        /// Whether it is asked how far we are.
        reply: bool,
    },
}

/// The half that reads the log.
#[derive(Debug)]
pub(crate) struct LogReader {
    frames: Frames,
    cancel: CancelHandle,
    silence_limit: Duration,
    heard: Instant,
    received: u64,
}

/// The half that says how far the pipeline is.
#[derive(Debug)]
pub(crate) struct LogWriter {
    half: WriteHalf,
    message: BytesMut,
}

impl LogReader {
    pub(super) fn new(mut frames: Frames, cancel: CancelHandle, silence_limit: Duration) -> Result<Self> {
        frames.set_pace(Pace::Log);
        frames
            .set_read_timeout(TICK)
            .or_fail(ErrorKind::Connection, || "the socket cannot be used".to_owned())?;
        Ok(Self { frames, cancel, silence_limit, heard: Instant::now(), received: 0 })
    }

    /// What stops the connection from another thread.
    pub(crate) fn cancel_handle(&self) -> CancelHandle {
        self.cancel.clone()
    }

    /// The length of a message that needs a buffer of its own, if one has begun to arrive.
    pub(crate) fn large(&self) -> Option<usize> {
        self.frames.announced().filter(|length| Frames::is_large(*length))
    }

    /// Nothing was expected from the server for a while: what it did not say does not count.
    pub(crate) fn rested(&mut self) {
        self.heard = Instant::now();
    }

    /// The next message; `None` where there is none yet, so that the caller can look around.
    ///
    /// # Errors
    /// `Connection` where the server is gone, silent for too long, or has ended the stream; its own error where
    /// it said one.
    pub(crate) fn poll(&mut self) -> Result<Option<LogMessage<'_>>> {
        loop {
            let Some((tag, range)) = self.frames.poll()? else {
                let received = self.frames.total();
                if received != self.received {
                    self.received = received;
                    self.heard = Instant::now();
                } else if !self.silence_limit.is_zero() && self.heard.elapsed() > self.silence_limit {
                    let seconds = self.silence_limit.as_secs_f64();
                    return Err(Error::new(
                        ErrorKind::Connection,
                        format!("nothing came from the server for {seconds} s"),
                    )
                    .hint("the connection is half-open; silence_limit says how long to wait"));
                }
                return Ok(None);
            };
            match tag {
                b'd' => return message(self.frames.body(range)).map(Some),
                b'E' => return Err(undecodable(server_error::parse(self.frames.body(range)))),
                b'c' | b'C' | b'Z' => {
                    return Err(Error::new(ErrorKind::Connection, "the server ended the stream of changes")
                        .hint("it is shutting down, or somebody ended its session"));
                }
                b'N' | b'S' | b'A' => {}
                _ => return Err(unexpected(tag)),
            }
        }
    }
}

/// An error of the server, with a way out where it is the server that cannot read its own log. Before version 16 that
/// happens where a table was truncated or rewritten in a transaction that was open while a slot was made. What it reads
/// next time begins elsewhere: it is worth another attempt.
fn undecodable(error: Error) -> Error {
    match sqlstate(&error) {
        Some("XX000") => error.with_kind(ErrorKind::Connection).hint(
            "the server cannot decode its log here: run again, and where that is of no use drop the slot and set \
             replication.on_slot_lost to resnapshot, which reads all rows again",
        ),
        _ => error,
    }
}

fn message(body: &[u8]) -> Result<LogMessage<'_>> {
    let torn = || Error::new(ErrorKind::Connection, "the server's stream of changes is torn");
    match body.split_first() {
        // Start, end and time of sending: the plugin's own message says all that counts.
        Some((b'w', rest)) => rest.get(24..).map(LogMessage::Data).ok_or_else(torn),
        Some((b'k', rest)) => {
            let (end, rest) = rest.split_first_chunk().ok_or_else(torn)?;
            let (sent, rest) = rest.split_first_chunk().ok_or_else(torn)?;
            let reply = rest.first().ok_or_else(torn)?;
            let end = u64::from_be_bytes(*end);
            let sent = i64::from_be_bytes(*sent).saturating_add(EPOCH_MICROS);
            Ok(LogMessage::Keepalive { end, sent, reply: *reply != 0 })
        }
        _ => Err(torn()),
    }
}

impl LogWriter {
    pub(super) fn new(half: WriteHalf) -> Self {
        Self { half, message: BytesMut::new() }
    }

    /// Says that everything before `lsn` is safe. With `reply` the server is asked to answer at once.
    pub(crate) fn status(&mut self, lsn: u64, reply: bool) -> Result<()> {
        let epoch = SystemTime::UNIX_EPOCH + Duration::from_micros(EPOCH_MICROS.cast_unsigned());
        let now = SystemTime::now().duration_since(epoch).unwrap_or_default();
        self.message.clear();
        self.message.put_u8(b'd');
        self.message.put_u32(4 + 34);
        self.message.put_u8(b'r');
        // Written, flushed, applied: to us they are the same.
        (0..3).for_each(|_| self.message.put_u64(lsn));
        self.message.put_i64(i64::try_from(now.as_micros()).unwrap_or(i64::MAX));
        self.message.put_u8(u8::from(reply));
        self.half.send(&self.message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_told_apart_and_torn_ones_refused() {
        let keepalive = [b"k".as_slice(), &7_u64.to_be_bytes(), &[0; 8], &[1]].concat();
        assert!(matches!(
            message(&keepalive),
            Ok(LogMessage::Keepalive { end: 7, sent: EPOCH_MICROS, reply: true })
        ));
        let data = [b"w".as_slice(), &[0; 24], b"xy"].concat();
        assert!(matches!(message(&data), Ok(LogMessage::Data(b"xy"))));
        for end in 0..keepalive.len() {
            assert!(message(&keepalive[..end]).is_err());
        }
        assert!(message(&data[..24]).is_err());
    }
}
