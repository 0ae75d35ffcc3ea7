//! Messages of the server, cut out of a large buffer in place.

use std::io;
use std::ops::Range;
use std::time::Duration;

use lakeward_core::{Error, ErrorKind, Result};

use super::socket::{ReadHalf, Socket};

const BUFFER: usize = 256 << 10;
/// A read of less than this drained the socket.
const SHORT_READ: usize = 64 << 10;
/// How long data gathers after the first short read; each further one doubles it. The server sends in pieces of 8 KiB,
/// or of a message where it sends its log, and a reader that is woken by each would take the core that the server needs.
const SHORTEST_NAP: Duration = Duration::from_micros(200);
/// How long a COPY gathers at most: its end is waited for as long.
const COPY_NAP: Duration = Duration::from_millis(5);
/// How long a log gathers at most. A server whose earlier messages are not fetched yet puts them together before it
/// sends them, which is much less work for it than to send each by itself.
const LOG_NAP: Duration = Duration::from_millis(20);
/// Tag and length.
const HEADER: usize = 5;
/// The most that PostgreSQL sends in one message.
const MAX_BODY: usize = 1 << 30;

/// Whether data is left to gather.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pace {
    /// The answer is waited for.
    Prompt,
    /// Many rows, which are worth more in large pieces.
    Copy,
    /// Small messages without end.
    Log,
}

/// The messages of one connection.
#[derive(Debug)]
pub(super) struct Frames {
    half: ReadHalf,
    buffer: Vec<u8>,
    /// What of `buffer` was received and not taken yet.
    received: Range<usize>,
    /// The longest time for which data is left to gather; none where the next is waited for.
    longest_nap: Option<Duration>,
    /// How long data gathers before the next read; the longer, the more came of late.
    nap: Duration,
    drained: bool,
    timeout: Duration,
    /// Bytes received in all.
    total: u64,
}

impl Frames {
    pub(super) fn new(half: ReadHalf, timeout: Duration) -> Self {
        Self {
            half,
            buffer: vec![0; BUFFER],
            received: 0..0,
            longest_nap: None,
            nap: SHORTEST_NAP,
            drained: false,
            timeout,
            total: 0,
        }
    }

    pub(super) fn set_pace(&mut self, pace: Pace) {
        self.longest_nap = match pace {
            Pace::Prompt => None,
            // It has no window that grows, and soon holds the sender up.
            Pace::Copy | Pace::Log if self.half.is_unix() => Some(SHORTEST_NAP),
            Pace::Copy => Some(COPY_NAP),
            Pace::Log => Some(LOG_NAP),
        };
        self.wake();
    }

    /// The next data is taken as soon as it comes.
    fn wake(&mut self) {
        self.nap = SHORTEST_NAP;
        self.drained = false;
    }

    pub(super) fn set_timeout(&mut self, timeout: Duration) -> io::Result<()> {
        self.timeout = timeout;
        self.half.set_timeout(timeout)
    }

    /// The longest wait of a [`poll`](Self::poll).
    pub(super) fn set_read_timeout(&mut self, timeout: Duration) -> io::Result<()> {
        self.timeout = timeout;
        self.half.set_read_timeout(timeout)
    }

    /// Bytes received since the connection was made.
    pub(super) fn total(&self) -> u64 {
        self.total
    }

    pub(super) fn try_clone_socket(&self) -> io::Result<Socket> {
        self.half.try_clone_socket()
    }

    /// The tag of the next message, and how long its body is, before all of it is received.
    pub(super) fn peek(&mut self) -> Result<(u8, usize)> {
        self.receive(HEADER)?;
        self.header()
    }

    /// The header of the next message, which was received.
    fn header(&self) -> Result<(u8, usize)> {
        let Some([tag, l0, l1, l2, l3]) = self.buffer[self.received.clone()].first_chunk::<HEADER>() else {
            return Err(Error::bug("a header was received and is not there"));
        };
        let tag = *tag;
        // The length counts itself; one below that wraps to more than is ever sent.
        let body = (u32::from_be_bytes([*l0, *l1, *l2, *l3]) as usize).wrapping_sub(4);
        if body > MAX_BODY {
            return Err(Error::new(ErrorKind::Connection, "the server does not speak PostgreSQL's protocol")
                .hint("check host and port"));
        }
        Ok((tag, body))
    }

    /// Takes the next message if it arrives within the read timeout; what came of it is kept otherwise. A large
    /// one is not received at the first call, so that the caller can make room for it.
    pub(super) fn poll(&mut self) -> Result<Option<(u8, Range<usize>)>> {
        let known = self.received.len() >= HEADER;
        if !self.fill(HEADER)? {
            return Ok(None);
        }
        let (tag, length) = self.header()?;
        if (Self::is_large(length) && !known) || !self.fill(HEADER + length)? {
            return Ok(None);
        }
        let start = self.received.start + HEADER;
        self.received.start = start + length;
        Ok(Some((tag, start..start + length)))
    }

    /// How long the next message is, if its header was received.
    pub(super) fn announced(&self) -> Option<usize> {
        let known = self.received.len() >= HEADER;
        known.then(|| self.header().ok()).flatten().map(|(_, length)| length)
    }

    /// Whether a message needs more than the buffer that is always there.
    pub(super) fn is_large(length: usize) -> bool {
        length > BUFFER - HEADER
    }

    /// Takes the next message; its body stands in [`body`](Self::body) until the next call.
    pub(super) fn next(&mut self) -> Result<(u8, Range<usize>)> {
        let (tag, length) = self.peek()?;
        self.receive(HEADER + length)?;
        let start = self.received.start + HEADER;
        self.received.start = start + length;
        Ok((tag, start..start + length))
    }

    /// The bytes of a message that was taken last.
    pub(super) fn body(&self, range: Range<usize>) -> &[u8] {
        &self.buffer[range]
    }

    /// Reads until `length` bytes stand there.
    fn receive(&mut self, length: usize) -> Result<()> {
        if self.fill(length)? { Ok(()) } else { Err(self.silent()) }
    }

    /// Reads until `length` bytes stand there, or nothing comes for as long as a read may take.
    fn fill(&mut self, length: usize) -> Result<bool> {
        if self.received.len() >= length {
            return Ok(true);
        }
        self.make_room(length);
        while self.received.len() < length {
            if self.drained
                && let Some(longest) = self.longest_nap
            {
                std::thread::sleep(self.nap);
                self.nap = (self.nap * 2).min(longest);
            }
            match self.half.read(&mut self.buffer[self.received.end..]) {
                Ok(0) => {
                    return Err(Error::new(ErrorKind::Connection, "the server closed the connection"));
                }
                Ok(count) => {
                    self.received.end += count;
                    self.total += count as u64;
                    self.drained = count < SHORT_READ;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                    self.wake();
                    return Ok(false);
                }
                Err(error) => {
                    return Err(
                        Error::new(ErrorKind::Connection, "the connection to the server broke").source(error)
                    );
                }
            }
        }
        Ok(true)
    }

    /// Makes the buffer hold `length` bytes from where the next message starts. One that grew for a large
    /// message is given back after it.
    fn make_room(&mut self, length: usize) {
        if self.received.is_empty() {
            self.received = 0..0;
            if self.buffer.len() > BUFFER && length <= BUFFER {
                self.buffer = vec![0; BUFFER];
            }
        }
        // A read into the last corner of the buffer would be short without the socket being drained.
        if self.buffer.len() - self.received.start < length
            || self.buffer.len() - self.received.end < SHORT_READ
        {
            self.buffer.copy_within(self.received.clone(), 0);
            self.received = 0..self.received.len();
        }
        if self.buffer.len() < length {
            self.buffer.reserve_exact(length - self.buffer.len());
            self.buffer.resize(length, 0);
        }
    }

    fn silent(&self) -> Error {
        let seconds = self.timeout.as_secs_f64();
        Error::new(ErrorKind::Connection, format!("nothing came from the server for {seconds} s"))
            .hint("the connection is half-open, or the query waits for a lock for longer than the limit")
    }
}
