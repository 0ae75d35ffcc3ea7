//! Stopping a query from another thread.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::BytesMut;
use lakeward_core::{ErrorKind, Result, ResultExt};
use postgres_protocol::message::frontend;

use super::Endpoint;
use super::socket::{Peer, Socket, negotiate};

/// Stops what a connection does. Clones stop the same one.
#[derive(Clone)]
pub struct CancelHandle(Arc<Target>);

impl fmt::Debug for CancelHandle {
    /// Without the key: who has it can cancel.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CancelHandle").field("process_id", &self.0.process_id).finish_non_exhaustive()
    }
}

struct Target {
    endpoint: Endpoint,
    /// The very server: a name may lead elsewhere by now.
    peer: Peer,
    process_id: i32,
    secret_key: i32,
    socket: Socket,
    cancelled: AtomicBool,
}

impl CancelHandle {
    pub(super) fn new(
        endpoint: Endpoint,
        peer: Peer,
        socket: Socket,
        process_id: i32,
        secret_key: i32,
    ) -> Self {
        Self(Arc::new(Target {
            endpoint,
            peer,
            process_id,
            secret_key,
            socket,
            cancelled: AtomicBool::new(false),
        }))
    }

    /// Ends the connection at once, and its query at the server. Blocks for as long as a connection may take.
    ///
    /// Whoever waits on the connection gets `Cancelled`. A server that cannot be reached any more notices by
    /// itself when it writes to the connection.
    pub fn cancel(&self) {
        let target = &*self.0;
        if target.cancelled.swap(true, Ordering::SeqCst) {
            return;
        }
        // First what cannot block. A query that waits or computes would not notice it: hence the request.
        target.socket.shutdown();
        self.request();
    }

    /// The server's process.
    pub(crate) fn process_id(&self) -> i32 {
        self.0.process_id
    }

    /// Ends the connection at once. The server notices by itself.
    pub(crate) fn hang_up(&self) {
        self.0.socket.shutdown();
    }

    /// Asks the server to end a query that nobody waits for any more, without waiting for it.
    pub(super) fn abandon(&self) {
        let handle = self.clone();
        let spawned = std::thread::Builder::new().name("postgres-cancel".to_owned()).spawn(move || {
            handle.0.socket.shutdown();
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
        let target = &*self.0;
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
        self.0.cancelled.load(Ordering::SeqCst)
    }
}
