//! A network that misbehaves on command: a TCP proxy between the program under test and a server.
//!
//! It runs on a thread of its own, so that a test that blocks does not stop it, and takes no
//! notice of what it forwards: PostgreSQL's cancel requests pass through as any connection does.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{oneshot, watch};

/// What happens to the bytes of the connections that exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flow {
    Forwarding,
    Stalled,
}

/// What happens to one generation of connections; a new one begins with each `cut` or `half_open`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Alive,
    Reset,
    Silent,
}

/// A proxy on a free port of 127.0.0.1. Ends, with all its connections, when dropped.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    shared: Arc<Shared>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    target: AtomicU16,
    refusing: AtomicBool,
    /// Bytes a second for each direction of each connection; 0 for no limit.
    rate: AtomicU64,
    /// Bytes from the server that may still pass before all is cut; negative for no such limit.
    allowance: AtomicI64,
    to_server: AtomicU64,
    to_client: AtomicU64,
    accepted: AtomicU64,
    flow: watch::Sender<Flow>,
    /// That of the connections accepted from now on.
    fate: Mutex<watch::Sender<Fate>>,
}

impl Proxy {
    /// Forwards connections to a port on this machine.
    pub fn start(target: u16) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            target: AtomicU16::new(target),
            refusing: AtomicBool::new(false),
            rate: AtomicU64::new(0),
            allowance: AtomicI64::new(-1),
            to_server: AtomicU64::new(0),
            to_client: AtomicU64::new(0),
            accepted: AtomicU64::new(0),
            flow: watch::Sender::new(Flow::Forwarding),
            fate: Mutex::new(watch::Sender::new(Fate::Alive)),
        });
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let port = listener.local_addr()?.port();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = oneshot::channel();
        let serving = shared.clone();
        let thread = std::thread::Builder::new().name("proxy".to_owned()).spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    _ = stopped => {}
                    () = serve(listener, serving) => {}
                }
            });
        })?;
        Ok(Self { port, shared, stop: Some(stop), thread: Some(thread) })
    }

    /// The port to connect to instead of the server's.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Ends all connections at once with a reset on both sides. New ones are served.
    pub fn cut(&self) {
        self.shared.seal(Fate::Reset);
    }

    /// Leaves the connections that exist open and silent for good, as when the network between is
    /// gone: nothing passes, not even that one side closes its end. New ones are served.
    pub fn half_open(&self) {
        self.shared.seal(Fate::Silent);
    }

    /// Holds back all bytes of all connections, also of new ones, until [`resume`](Self::resume).
    pub fn stall(&self) {
        self.shared.flow.send_replace(Flow::Stalled);
    }

    /// Lets what was held back pass.
    pub fn resume(&self) {
        self.shared.flow.send_replace(Flow::Forwarding);
    }

    /// Lets so many bytes a second pass in each direction of each connection; none: all.
    pub fn throttle(&self, bytes_per_second: Option<u64>) {
        self.shared.rate.store(bytes_per_second.map_or(0, |rate| rate.max(1)), Ordering::Relaxed);
    }

    /// Whether new connections are reset as soon as they are made.
    pub fn refuse_new(&self, refuse: bool) {
        self.shared.refusing.store(refuse, Ordering::Relaxed);
    }

    /// Lets exactly `bytes` more come from the server, over all connections, and then cuts.
    pub fn cut_after_bytes(&self, bytes: u64) {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        self.shared.allowance.store(bytes, Ordering::SeqCst);
    }

    /// Sends new connections to another port: another server behind the same address.
    pub fn set_target(&self, port: u16) {
        self.shared.target.store(port, Ordering::Relaxed);
    }

    /// Bytes forwarded to the server so far.
    pub fn bytes_to_server(&self) -> u64 {
        self.shared.to_server.load(Ordering::Relaxed)
    }

    /// Bytes forwarded from the server so far.
    pub fn bytes_to_client(&self) -> u64 {
        self.shared.to_client.load(Ordering::Relaxed)
    }

    /// Connections taken so far, refused ones not counted.
    pub fn connections(&self) -> u64 {
        self.shared.accepted.load(Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn fate(&self) -> MutexGuard<'_, watch::Sender<Fate>> {
        self.fate.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn seal(&self, fate: Fate) {
        // The new sender first: a connection accepted meanwhile belongs to one or the other.
        let sealed = std::mem::replace(&mut *self.fate(), watch::Sender::new(Fate::Alive));
        sealed.send_replace(fate);
    }

    /// How many of `wanted` bytes from the server may pass, and whether all is cut after them.
    fn allow(&self, wanted: usize) -> (usize, bool) {
        let signed = i64::try_from(wanted).unwrap_or(i64::MAX);
        let take = |left: i64| (left >= 0).then(|| if left > signed { left - signed } else { -1 });
        match self.allowance.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take) {
            Ok(left) if left <= signed => (usize::try_from(left).unwrap_or(wanted), true),
            _ => (wanted, false),
        }
    }
}

async fn serve(listener: std::net::TcpListener, shared: Arc<Shared>) {
    let Ok(listener) = TcpListener::from_std(listener) else { return };
    loop {
        let Ok((client, _)) = listener.accept().await else { continue };
        if shared.refusing.load(Ordering::Relaxed) {
            let _ = client.set_zero_linger();
            continue;
        }
        shared.accepted.fetch_add(1, Ordering::Relaxed);
        let fate = shared.fate().subscribe();
        tokio::spawn(connection(client, shared.clone(), fate));
    }
}

async fn connection(client: TcpStream, shared: Arc<Shared>, mut fate: watch::Receiver<Fate>) {
    let target = SocketAddr::from((Ipv4Addr::LOCALHOST, shared.target.load(Ordering::Relaxed)));
    let Ok(server) = TcpStream::connect(target).await else {
        let _ = client.set_zero_linger();
        return;
    };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let ended = tokio::select! {
        biased;
        fate = ended(&mut fate) => fate,
        // Each direction may end before the other: the halves close on their own.
        _ = async { tokio::join!(
            forward(&mut from_client, &mut to_server, &shared, Direction::ToServer),
            forward(&mut from_server, &mut to_client, &shared, Direction::ToClient),
        ) } => return,
    };
    if ended == Fate::Silent {
        // Both sockets stay open, unread, as long as the proxy lives.
        std::future::pending::<()>().await;
    }
    // With nothing lingering, dropping a socket is a reset; dropping its write half alone would be
    // an end in good order first.
    for half in [to_client, to_server] {
        let _ = half.as_ref().set_zero_linger();
        half.forget();
    }
}

async fn ended(fate: &mut watch::Receiver<Fate>) -> Fate {
    // The sender is dropped after it has said which, or with the proxy.
    let _ = fate.wait_for(|fate| *fate != Fate::Alive).await;
    *fate.borrow()
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    ToServer,
    ToClient,
}

async fn forward(from: &mut OwnedReadHalf, to: &mut OwnedWriteHalf, shared: &Shared, direction: Direction) {
    let mut flow = shared.flow.subscribe();
    let mut buffer = vec![0; 64 << 10];
    loop {
        if flow.wait_for(|flow| *flow == Flow::Forwarding).await.is_err() {
            return;
        }
        // The rate is that of the moment in which the bytes come, not of the wait for them.
        if from.readable().await.is_err() {
            break;
        }
        let rate = shared.rate.load(Ordering::Relaxed);
        // A tenth of a second's worth at a time.
        let most = if rate == 0 {
            buffer.len()
        } else {
            usize::try_from(rate / 10).map_or(1, |n| n.clamp(1, 64 << 10))
        };
        let count = match from.read(&mut buffer[..most]).await {
            Ok(0) | Err(_) => break,
            Ok(count) => count,
        };
        // What was read while a stall began is held back too.
        if flow.wait_for(|flow| *flow == Flow::Forwarding).await.is_err() {
            return;
        }
        let (count, last) = match direction {
            Direction::ToServer => (count, false),
            Direction::ToClient => shared.allow(count),
        };
        // Counted first, so that who has received a byte finds it counted.
        let counter = if direction == Direction::ToServer { &shared.to_server } else { &shared.to_client };
        counter.fetch_add(count as u64, Ordering::Relaxed);
        if to.write_all(&buffer[..count]).await.is_err() {
            break;
        }
        if last {
            shared.seal(Fate::Reset);
            // This connection is reset by its fate; it must not be closed in good order before.
            std::future::pending::<()>().await;
        }
        if rate > 0 {
            tokio::time::sleep(Duration::from_secs_f64(count as f64 / rate as f64)).await;
        }
    }
    let _ = to.shutdown().await;
}
