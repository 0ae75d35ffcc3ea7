//! Each fault of the proxy, seen from a plain client of a plain server.
#![allow(missing_docs, clippy::unwrap_used)]

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use lakeward_testkit::proxy::Proxy;
use lakeward_testkit::server::{PASSWORD, PgServer, USERNAME, Version};

/// A server that sends back what it gets, each connection prefixed by its letter.
fn echo(letter: u8) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            std::thread::spawn(move || {
                let _ = stream.write_all(&[letter]);
                let mut buffer = [0; 4096];
                while let Ok(count @ 1..) = stream.read(&mut buffer) {
                    if stream.write_all(&buffer[..count]).is_err() {
                        break;
                    }
                }
            });
        }
    });
    port
}

fn connect(proxy: &Proxy) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", proxy.port())).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    stream
}

fn greeted(proxy: &Proxy) -> TcpStream {
    let mut stream = connect(proxy);
    assert_eq!(read(&mut stream, 1), b"a");
    stream
}

fn read(stream: &mut TcpStream, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    stream.read_exact(&mut bytes).unwrap();
    bytes
}

fn is_quiet(stream: &mut TcpStream, for_ms: u64) -> bool {
    stream.set_read_timeout(Some(Duration::from_millis(for_ms))).unwrap();
    let quiet = matches!(stream.read(&mut [0]), Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut));
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    quiet
}

#[test]
fn bytes_pass_and_are_counted_and_an_end_is_an_end() {
    let proxy = Proxy::start(echo(b'a')).unwrap();
    let mut stream = greeted(&proxy);
    stream.write_all(b"hello").unwrap();
    assert_eq!(read(&mut stream, 5), b"hello");
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    assert_eq!((proxy.bytes_to_server(), proxy.bytes_to_client(), proxy.connections()), (5, 6, 1));
}

#[test]
fn cut_resets_what_is_there_and_serves_what_comes() {
    let proxy = Proxy::start(echo(b'a')).unwrap();
    let (mut one, mut two) = (greeted(&proxy), greeted(&proxy));
    proxy.cut();
    assert_eq!(one.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert_eq!(two.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    greeted(&proxy);
    proxy.refuse_new(true);
    let refused =
        TcpStream::connect(("127.0.0.1", proxy.port())).and_then(|mut stream| stream.read(&mut [0]));
    assert!(refused.is_err() || refused.is_ok_and(|count| count == 0));
    proxy.refuse_new(false);
    greeted(&proxy);
}

#[test]
fn half_open_is_silence_without_end() {
    let proxy = Proxy::start(echo(b'a')).unwrap();
    let mut stream = greeted(&proxy);
    proxy.half_open();
    stream.write_all(b"anybody?").unwrap();
    assert!(is_quiet(&mut stream, 300));
    proxy.resume();
    assert!(is_quiet(&mut stream, 100));
    greeted(&proxy);
}

#[test]
fn a_stall_ends() {
    let proxy = Proxy::start(echo(b'a')).unwrap();
    let mut stream = greeted(&proxy);
    proxy.stall();
    stream.write_all(b"late").unwrap();
    assert!(is_quiet(&mut stream, 300));
    let mut new = connect(&proxy);
    assert!(is_quiet(&mut new, 100));
    proxy.resume();
    assert_eq!(read(&mut stream, 4), b"late");
    assert_eq!(read(&mut new, 1), b"a");
}

#[test]
fn throttled_bytes_take_their_time() {
    let proxy = Proxy::start(echo(b'a')).unwrap();
    let mut stream = greeted(&proxy);
    proxy.throttle(Some(100_000));
    let start = Instant::now();
    stream.write_all(&[7; 50_000]).unwrap();
    assert_eq!(read(&mut stream, 50_000), [7; 50_000]);
    let took = start.elapsed();
    assert!(took > Duration::from_millis(350) && took < Duration::from_secs(5), "{took:?}");
    proxy.throttle(None);
}

#[test]
fn a_cut_after_so_many_bytes_lets_exactly_those_pass() {
    let proxy = Proxy::start(echo(b'a')).unwrap();
    let mut stream = greeted(&proxy);
    let before = proxy.bytes_to_client();
    proxy.cut_after_bytes(1000);
    stream.write_all(&[7; 5000]).unwrap();
    let mut count = 0;
    let error = loop {
        match stream.read(&mut [0; 512]) {
            Ok(more) if more > 0 => count += more,
            other => break other,
        }
    };
    // A reset may overtake bytes that were not yet read.
    assert!(count <= 1000 && error.is_err(), "{count} {error:?}");
    assert_eq!(proxy.bytes_to_client() - before, 1000);
    greeted(&proxy);
}

#[test]
fn another_server_behind_the_same_address() {
    let proxy = Proxy::start(echo(b'a')).unwrap();
    greeted(&proxy);
    proxy.set_target(echo(b'b'));
    assert_eq!(read(&mut connect(&proxy), 1), b"b");
}

#[tokio::test]
async fn postgres_speaks_through_it() {
    let server = PgServer::shared(Version::Pg18);
    let proxy = Proxy::start(server.port()).unwrap();
    let mut config = tokio_postgres::Config::new();
    config.host("127.0.0.1").port(proxy.port()).user(USERNAME).password(PASSWORD).dbname("postgres");
    let (client, connection) = config.connect(tokio_postgres::NoTls).await.unwrap();
    let connection = tokio::spawn(connection);
    let sum: i64 =
        client.query_one("SELECT sum(n) FROM generate_series(1, 100000) n", &[]).await.unwrap().get(0);
    assert_eq!(sum, 5_000_050_000);
    proxy.cut();
    assert!(client.query("SELECT 1", &[]).await.is_err());
    assert!(connection.await.unwrap().is_err());
}
