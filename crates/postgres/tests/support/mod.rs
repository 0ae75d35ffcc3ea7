//! A server to test against, and servers that misbehave.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use lakeward_core::Secret;
use lakeward_postgres::tls::{TlsMode, TlsSettings};
use lakeward_postgres::wire::Endpoint;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

const PORT: &str = "LAKEWARD_TEST_POSTGRES15_PORT";

fn port() -> u16 {
    let Ok(port) = std::env::var(PORT) else {
        panic!(
            "{PORT} is not set: start a PostgreSQL 15 on 127.0.0.1 whose superuser is \"postgres\" with the \
             password \"lakeward\", and set it to its port"
        );
    };
    port.parse().unwrap_or_else(|_| panic!("{PORT} is no port"))
}

pub(crate) fn endpoint() -> Endpoint {
    endpoint_at(port())
}

pub(crate) fn endpoint_at(port: u16) -> Endpoint {
    Endpoint {
        host: "127.0.0.1".into(),
        port,
        database: "postgres".into(),
        user: "postgres".into(),
        password: Secret::new("lakeward"),
        application_name: "wire-test".into(),
        tls: TlsSettings { mode: TlsMode::Disable, ..TlsSettings::default() },
        connect_timeout: Duration::from_secs(10),
        read_timeout: Duration::from_secs(60),
        options: Vec::new(),
    }
}

pub(crate) fn certificate(name: &str) -> Vec<u8> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/certificates/");
    std::fs::read(format!("{path}{name}")).unwrap()
}

/// How a connection through the proxy goes bad, after so many bytes from the server.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Stall {
    /// It stays open and says nothing more.
    Silent(usize),
    /// It is closed.
    Closed(usize),
}

/// A proxy in front of the server.
pub(crate) struct Proxy(u16);

impl Proxy {
    pub(crate) fn start(stall: Stall) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let own = listener.local_addr().unwrap().port();
        let server = port();
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let client = client.unwrap();
                let upstream = TcpStream::connect(("127.0.0.1", server)).unwrap();
                let (from, to) = (client.try_clone().unwrap(), upstream.try_clone().unwrap());
                std::thread::spawn(move || forward(from, to, usize::MAX));
                std::thread::spawn(move || {
                    let (limit, close) = match stall {
                        Stall::Silent(limit) => (limit, false),
                        Stall::Closed(limit) => (limit, true),
                    };
                    let held = client.try_clone().unwrap();
                    forward(upstream, client, limit);
                    if close {
                        let _ = held.shutdown(Shutdown::Both);
                    } else {
                        std::thread::sleep(Duration::from_secs(60));
                    }
                });
            }
        });
        Self(own)
    }

    pub(crate) fn port(&self) -> u16 {
        self.0
    }
}

fn forward(mut from: TcpStream, mut to: TcpStream, mut limit: usize) {
    let mut buffer = [0; 4096];
    while limit > 0 {
        let Ok(count @ 1..) = from.read(&mut buffer[..limit.min(4096)]) else { return };
        limit -= count;
        if to.write_all(&buffer[..count]).is_err() {
            return;
        }
    }
}

/// A server that speaks TLS with a certificate of ours, and is never ready.
pub(crate) struct FakeServer(u16);

impl FakeServer {
    pub(crate) fn start(name: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let chain = vec![CertificateDer::from_pem_slice(&certificate(&format!("{name}.pem"))).unwrap()];
        let key = PrivateKeyDer::from_pem_slice(&certificate(&format!("{name}.key"))).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        std::thread::spawn(move || {
            let (mut socket, _) = listener.accept().unwrap();
            let mut request = [0; 8];
            socket.read_exact(&mut request).unwrap();
            socket.write_all(b"S").unwrap();
            let mut tls = rustls::ServerConnection::new(Arc::new(config)).unwrap();
            let mut stream = rustls::Stream::new(&mut tls, &mut socket);
            let mut startup = [0; 1024];
            if stream.read(&mut startup).is_ok() {
                let fields = b"SFATAL\0C57P03\0Mnot ready\0\0";
                let length = (fields.len() as u32 + 4).to_be_bytes();
                let _ = stream.write_all(&[b"E", &length[..], fields].concat());
            }
        });
        Self(port)
    }

    pub(crate) fn port(&self) -> u16 {
        self.0
    }
}
