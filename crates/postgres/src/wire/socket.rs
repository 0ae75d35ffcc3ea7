//! Sockets, with or without TLS, in two halves that two threads may hold.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lakeward_core::{Error, ErrorKind, Result, ResultExt};
use rustls::ClientConnection;
use rustls::pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};

use super::Endpoint;
use crate::tls::{TlsMode, refused_certificate};

/// A peer that does not acknowledge for this long is gone.
const DEAD_PEER: Duration = Duration::from_secs(30);
/// Encrypted bytes taken from the socket at once.
const ENCRYPTED_BUFFER: usize = 256 << 10;
/// What is encrypted at once; rustls keeps no more than 64 KiB.
const ENCRYPTED_WRITE: usize = 32 << 10;
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];

/// Where a socket leads, names resolved.
#[derive(Debug, Clone)]
pub(super) enum Peer {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// A connected socket.
#[derive(Debug)]
pub(super) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Socket {
    /// Connects to the first address of the endpoint that answers.
    pub(super) fn connect(endpoint: &Endpoint) -> Result<(Self, Peer)> {
        let failed = || format!("cannot connect to {}:{}", endpoint.host, endpoint.port);
        if super::is_socket_directory(&endpoint.host) {
            let path = PathBuf::from(&endpoint.host).join(format!(".s.PGSQL.{}", endpoint.port));
            let peer = Peer::Unix(path);
            let socket = Self::connect_to(&peer, endpoint).or_fail(ErrorKind::Connection, failed)?;
            return Ok((socket, peer));
        }
        let addresses = (endpoint.host.as_str(), endpoint.port)
            .to_socket_addrs()
            .or_fail(ErrorKind::Connection, || format!("cannot resolve the host {}", endpoint.host))?;
        let mut last = None;
        for peer in addresses.map(Peer::Tcp) {
            match Self::connect_to(&peer, endpoint) {
                Ok(socket) => return Ok((socket, peer)),
                Err(error) => last = Some(error),
            }
        }
        let error = Error::new(ErrorKind::Connection, failed());
        Err(match last {
            Some(last) => error.source(last),
            None => error,
        })
    }

    /// Connects to where another socket led, and waits for answers no longer than the connect time-out.
    pub(super) fn connect_to(peer: &Peer, endpoint: &Endpoint) -> io::Result<Self> {
        let timeout = endpoint.connect_timeout.max(Duration::from_millis(1));
        let socket = match peer {
            Peer::Unix(path) => Self::Unix(UnixStream::connect(path)?),
            Peer::Tcp(address) => {
                let stream = TcpStream::connect_timeout(address, timeout)?;
                stream.set_nodelay(true)?;
                let options = SockRef::from(&stream);
                let keepalive =
                    TcpKeepalive::new().with_time(DEAD_PEER).with_interval(DEAD_PEER / 6).with_retries(6);
                options.set_tcp_keepalive(&keepalive)?;
                #[cfg(target_os = "linux")]
                options.set_tcp_user_timeout(Some(DEAD_PEER))?;
                Self::Tcp(stream)
            }
        };
        socket.set_timeout(timeout)?;
        Ok(socket)
    }

    /// The longest wait for the peer, when reading and when writing; zero is no limit.
    pub(super) fn set_timeout(&self, timeout: Duration) -> io::Result<()> {
        let timeout = (!timeout.is_zero()).then_some(timeout);
        match self {
            Self::Tcp(stream) => {
                stream.set_read_timeout(timeout)?;
                stream.set_write_timeout(timeout)
            }
            Self::Unix(stream) => {
                stream.set_read_timeout(timeout)?;
                stream.set_write_timeout(timeout)
            }
        }
    }

    /// The longest wait when reading alone: a message that is half written cannot be taken back.
    pub(super) fn set_read_timeout(&self, timeout: Duration) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.set_read_timeout(Some(timeout)),
            Self::Unix(stream) => stream.set_read_timeout(Some(timeout)),
        }
    }

    pub(super) fn try_clone(&self) -> io::Result<Self> {
        Ok(match self {
            Self::Tcp(stream) => Self::Tcp(stream.try_clone()?),
            Self::Unix(stream) => Self::Unix(stream.try_clone()?),
        })
    }

    /// Ends both directions; whoever waits on the socket wakes.
    pub(super) fn shutdown(&self) {
        // A socket that is closed already is what is wanted.
        let _ = match self {
            Self::Tcp(stream) => stream.shutdown(Shutdown::Both),
            Self::Unix(stream) => stream.shutdown(Shutdown::Both),
        };
    }
}

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(buffer),
            Self::Unix(stream) => stream.read(buffer),
        }
    }
}

impl Write for Socket {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write(buffer),
            Self::Unix(stream) => stream.write(buffer),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

type SharedTls = Arc<Mutex<ClientConnection>>;

/// The lock is held while bytes are turned, never while the socket is waited for.
fn lock(tls: &SharedTls) -> MutexGuard<'_, ClientConnection> {
    tls.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The half that receives.
#[derive(Debug)]
pub(super) struct ReadHalf {
    socket: Socket,
    tls: Option<SharedTls>,
    encrypted: Vec<u8>,
    /// What of `encrypted` was received and not decrypted yet.
    pending: std::ops::Range<usize>,
}

impl ReadHalf {
    /// Receives some bytes; 0 at the end of the stream.
    pub(super) fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self.tls.clone() {
            None => self.socket.read(into),
            Some(tls) => self.read_tls(&tls, into),
        }
    }

    fn read_tls(&mut self, tls: &SharedTls, into: &mut [u8]) -> io::Result<usize> {
        loop {
            let filled = self.decrypt(&mut lock(tls), into)?;
            if let Some(filled) = filled {
                return Ok(filled);
            }
            let received = self.socket.read(&mut self.encrypted)?;
            if received == 0 {
                return Ok(0);
            }
            self.pending = 0..received;
        }
    }

    /// Decrypts what there is; `None` where more is needed.
    fn decrypt(&mut self, tls: &mut ClientConnection, into: &mut [u8]) -> io::Result<Option<usize>> {
        let mut filled = 0;
        loop {
            while filled < into.len() {
                match tls.reader().read(&mut into[filled..]) {
                    // The peer closed the stream.
                    Ok(0) => return Ok(Some(filled)),
                    Ok(count) => filled += count,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error),
                }
            }
            if filled == into.len() || self.pending.is_empty() {
                return Ok((filled > 0).then_some(filled));
            }
            let mut rest = &self.encrypted[self.pending.clone()];
            tls.read_tls(&mut rest)?;
            self.pending.start = self.pending.end - rest.len();
            tls.process_new_packets().map_err(io::Error::other)?;
        }
    }

    pub(super) fn is_unix(&self) -> bool {
        matches!(self.socket, Socket::Unix(_))
    }

    pub(super) fn set_timeout(&self, timeout: Duration) -> io::Result<()> {
        self.socket.set_timeout(timeout)
    }

    pub(super) fn set_read_timeout(&self, timeout: Duration) -> io::Result<()> {
        self.socket.set_read_timeout(timeout)
    }

    pub(super) fn try_clone_socket(&self) -> io::Result<Socket> {
        self.socket.try_clone()
    }
}

/// The half that sends.
#[derive(Debug)]
pub(super) struct WriteHalf {
    socket: Socket,
    tls: Option<SharedTls>,
    encrypted: Vec<u8>,
}

impl WriteHalf {
    pub(super) fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.write(bytes).or_fail(ErrorKind::Connection, || "the server cannot be written to".to_owned())
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let Some(tls) = &self.tls else { return self.socket.write_all(bytes) };
        for part in bytes.chunks(ENCRYPTED_WRITE) {
            {
                let mut tls = lock(tls);
                tls.writer().write_all(part)?;
                while tls.wants_write() {
                    tls.write_tls(&mut self.encrypted)?;
                }
            }
            self.socket.write_all(&self.encrypted)?;
            self.encrypted.clear();
        }
        Ok(())
    }
}

/// Encrypts the connection as the endpoint asks and takes it apart.
///
/// # Errors
/// `Connection` where the server does not answer or the handshake fails, `Config` where it has no TLS and it is
/// asked for.
pub(super) fn negotiate(mut socket: Socket, endpoint: &Endpoint) -> Result<(ReadHalf, WriteHalf)> {
    let tls = match (&socket, endpoint.tls.mode) {
        (Socket::Unix(_), _) | (_, TlsMode::Disable) => None,
        (_, mode) => match request_tls(&mut socket)? {
            true => Some(Arc::new(Mutex::new(handshake(&mut socket, endpoint)?))),
            false if mode == TlsMode::Prefer => None,
            false => {
                return Err(Error::new(ErrorKind::Config, "the server offers no TLS")
                    .hint("turn it on at the server (ssl = on), or choose the TLS mode \"disable\""));
            }
        },
    };
    let other = socket.try_clone().or_fail(ErrorKind::Connection, || "cannot share the socket".to_owned())?;
    let encrypted = if tls.is_some() { vec![0; ENCRYPTED_BUFFER] } else { Vec::new() };
    let read = ReadHalf { socket, tls: tls.clone(), encrypted, pending: 0..0 };
    Ok((read, WriteHalf { socket: other, tls, encrypted: Vec::new() }))
}

/// Asks whether the server has TLS. Exactly one byte is read: what follows it belongs to the handshake, and
/// nothing that was injected before it is ever taken for the server's.
fn request_tls(socket: &mut Socket) -> Result<bool> {
    let mut answer = [0];
    let exchanged = socket.write_all(&SSL_REQUEST).and_then(|()| socket.read_exact(&mut answer));
    exchanged.or_fail(ErrorKind::Connection, || "the server does not answer".to_owned())?;
    match answer {
        [b'S'] => Ok(true),
        [b'N'] => Ok(false),
        // A server that cannot take connections now says so before it speaks TLS.
        _ => Err(Error::new(ErrorKind::Connection, "the server does not answer as PostgreSQL does")
            .hint("check host and port")),
    }
}

fn handshake(socket: &mut Socket, endpoint: &Endpoint) -> Result<ClientConnection> {
    let name = ServerName::try_from(endpoint.host.clone())
        .or_fail(ErrorKind::Config, || format!("{} is no name that TLS can verify", endpoint.host))?;
    let config = Arc::new(endpoint.tls.client_config()?);
    let mut tls = ClientConnection::new(config, name)
        .or_fail(ErrorKind::Config, || "TLS cannot be set up".to_owned())?;
    while tls.is_handshaking() {
        tls.complete_io(socket).map_err(|source| handshake_error(source, endpoint))?;
    }
    while tls.wants_write() {
        tls.write_tls(socket).or_fail(ErrorKind::Connection, || "the TLS handshake broke off".to_owned())?;
    }
    Ok(tls)
}

fn handshake_error(source: io::Error, endpoint: &Endpoint) -> Error {
    let error = refused_certificate(&source)
        .unwrap_or_else(|| Error::new(ErrorKind::Connection, "the TLS handshake failed"));
    error.at("host", &endpoint.host).source(source)
}
