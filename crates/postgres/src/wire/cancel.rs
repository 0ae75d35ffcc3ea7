//! Stopping a query from another thread.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::BytesMut;
use lakeward_core::{ErrorKind, Result, ResultExt};
use postgres_protocol::message::frontend;

use super::Endpoint;
use super::socket::{Peer, Socket, negotiate};

/// Stops what a connection does. Clones stop the same one.
///
/// A handle is good for one use of the connection: one that is kept from an earlier use stops nothing.
#[derive(Clone)]
pub struct CancelHandle {
    target: Arc<Target>,
    /// The use of the connection that is stopped.
    of: u64,
}

impl fmt::Debug for CancelHandle {
    /// Without the key: who has it can cancel.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CancelHandle").field("process_id", &self.target.process_id).finish_non_exhaustive()
    }
}

struct Target {
    endpoint: Endpoint,
    /// The very server: a name may lead elsewhere by now.
    peer: Peer,
    process_id: i32,
    secret_key: i32,
    socket: Socket,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Which use of the connection this is.
    current: u64,
    cancelled: bool,
}

impl Target {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl CancelHandle {
    pub(super) fn new(
        endpoint: Endpoint,
        peer: Peer,
        socket: Socket,
        process_id: i32,
        secret_key: i32,
    ) -> Self {
        let state = Mutex::default();
        Self { target: Arc::new(Target { endpoint, peer, process_id, secret_key, socket, state }), of: 0 }
    }

    /// The handle of the connection's next use, in which handles of this one mean nothing; `None` where it was
    /// cancelled.
    pub(super) fn next_use(&self) -> Option<Self> {
        let mut state = self.target.state();
        if state.cancelled || state.current != self.of {
            return None;
        }
        state.current += 1;
        Some(Self { target: self.target.clone(), of: state.current })
    }

    /// Ends the connection at once, and its query at the server. Blocks for as long as a connection may take.
    ///
    /// Whoever waits on the connection gets `Cancelled`. A server that cannot be reached any more notices by
    /// itself when it writes to the connection.
    pub fn cancel(&self) {
        {
            let mut state = self.target.state();
            if state.current != self.of || std::mem::replace(&mut state.cancelled, true) {
                return;
            }
        }
        // First what cannot block. A query that waits or computes would not notice it: hence the request.
        self.target.socket.shutdown();
        self.request();
    }

    /// The server's process.
    pub(crate) fn process_id(&self) -> i32 {
        self.target.process_id
    }

    /// Ends the connection at once. The server notices by itself.
    pub(crate) fn hang_up(&self) {
        self.target.socket.shutdown();
    }

    /// Asks the server to end a query that nobody waits for any more, without waiting for it.
    pub(super) fn abandon(&self) {
        let handle = self.clone();
        let spawned = std::thread::Builder::new().name("postgres-cancel".to_owned()).spawn(move || {
            handle.target.socket.shutdown();
            handle.request();
        });
        if let Err(error) = spawned {
            tracing::debug!(%error, "no thread can be started to cancel a query");
        }
    }

    fn request(&self) {
        if let Err(error) = self.try_request() {
            tracing::debug!(%error, "a query could not be cancelled at the server");
        }
    }

    fn try_request(&self) -> Result<()> {
        let target = &*self.target;
        let socket = Socket::connect_to(&target.peer, &target.endpoint)
            .or_fail(ErrorKind::Connection, || "cannot connect to cancel".to_owned())?;
        let (mut read, mut write) = negotiate(socket, &target.endpoint)?;
        let mut message = BytesMut::new();
        frontend::cancel_request(target.process_id, target.secret_key, &mut message);
        write.send(&message)?;
        // The server closes when it has signalled the backend; how it closes says nothing.
        let _ = read.read(&mut [0; 16]);
        Ok(())
    }

    pub(super) fn is_cancelled(&self) -> bool {
        self.target.state().cancelled
    }
}
