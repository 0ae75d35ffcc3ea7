//! The wire connection against a real PostgreSQL 15 and against servers that misbehave.
//!
//! `LAKEWARD_TEST_POSTGRES15_PORT` names the port on 127.0.0.1 of a server whose superuser is `postgres` with the
//! password `lakeward`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on should stop where it stands"
)]

mod support;

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use futures::StreamExt;
use lakeward_core::{ColumnType, Error, ErrorKind, MemoryBudget, OnBadValue, ReadContext, Result};
use lakeward_postgres::decode::{CopyFormat, PgType, RowDecoder, WireColumn};
use lakeward_postgres::tls::{TlsMode, TlsSettings};
use lakeward_postgres::wire::{Connection, Readers, copy_batches, sqlstate};
use support::{FakeServer, Proxy, Stall, endpoint};
use tokio_util::sync::CancellationToken;

fn connect() -> Connection {
    Connection::connect(&endpoint()).unwrap()
}

fn context(budget: usize, batch_bytes: usize) -> ReadContext {
    ReadContext { budget: MemoryBudget::new(budget), batch_bytes, cancel: CancellationToken::new() }
}

fn column(name: &str, pg_type: PgType, target: ColumnType) -> WireColumn {
    WireColumn::new(name, pg_type, target, OnBadValue::Clamp)
}

fn numbers() -> RowDecoder {
    let columns = [column("n", PgType::Int8, ColumnType::Int64), column("t", PgType::Text, ColumnType::Text)];
    RowDecoder::new(CopyFormat::Text, &columns).unwrap()
}

fn many(rows: u64) -> String {
    format!("COPY (SELECT n, 'value ' || n FROM generate_series(1::int8, {rows}) n) TO STDOUT")
}

/// How many sessions run something that holds `marker`, besides the one that asks.
fn running(connection: &mut Connection, marker: &str) -> usize {
    let sql = format!(
        "SELECT 1 FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%{marker}%' AND pid <> pg_backend_pid()"
    );
    connection.query_rows(&sql).unwrap().len()
}

fn within(limit: Duration, mut done: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    while start.elapsed() < limit {
        if done() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    false
}

#[test]
fn rows_come_back_as_text() {
    let mut connection = connect();
    let rows = connection.query_rows("SELECT 1, NULL, '', 'é' UNION ALL SELECT 2, 'a', 'b', 'c'").unwrap();
    let some = |text: &str| Some(text.to_owned());
    assert_eq!(rows[0], [some("1"), None, some(""), some("é")]);
    assert_eq!(rows.len(), 2);
    assert!(connection.parameter("server_version").unwrap().starts_with("15"));
    assert_eq!(connection.parameter("client_encoding"), Some("UTF8"));
    connection.simple("SET application_name = 'other'; SELECT 1; ").unwrap();
    assert_eq!(connection.parameter("application_name"), Some("other"));
    connection.simple("").unwrap();
    connection.close();
}

#[test]
fn settings_are_sent_with_the_start() {
    let mut endpoint = endpoint();
    endpoint.options = vec![("row_security".into(), "off".into()), ("search_path".into(), String::new())];
    let mut connection = Connection::connect(&endpoint).unwrap();
    assert_eq!(connection.query_rows("SHOW row_security").unwrap(), [[Some("off".to_owned())]]);
    assert_eq!(connection.query_rows("SHOW application_name").unwrap(), [[Some("wire-test".to_owned())]]);
}

#[test]
fn refusals_have_the_kind_that_says_what_comes_next() {
    let mut connection = connect();
    for (sql, code, kind) in [
        ("SELECT * FROM nowhere", "42P01", ErrorKind::Schema),
        ("SELECT nothing", "42703", ErrorKind::Schema),
        ("SELECT 'canary'::int", "22P02", ErrorKind::Source),
        ("DO $$BEGIN RAISE 'canary'; END$$", "P0001", ErrorKind::Source),
        ("SET statement_timeout = 20; SELECT pg_sleep(5)", "57014", ErrorKind::Connection),
        ("SET TRANSACTION SNAPSHOT 'nonsense'", "22023", ErrorKind::SessionLost),
        ("SET TRANSACTION SNAPSHOT '00000003-0000001B-1'", "22023", ErrorKind::SessionLost),
        ("SELECT 1", "25P02", ErrorKind::SessionLost),
    ] {
        if sql.starts_with("SET TRANSACTION") {
            connection.simple("ROLLBACK; BEGIN ISOLATION LEVEL REPEATABLE READ").unwrap();
        }
        let error = connection.simple(sql).unwrap_err();
        assert_eq!((sqlstate(&error), error.kind()), (Some(code), kind), "{sql}");
        assert!(!format!("{error} {error:?}").contains("canary"));
        // The session goes on.
        if !sql.starts_with("SET TRANSACTION") && code != "25P02" {
            connection.simple("RESET statement_timeout").unwrap();
        }
    }
}

#[test]
fn who_we_are_is_a_matter_of_config() {
    for (database, user, password, code) in [
        ("postgres", "postgres", "wrong-canary", Some("28P01")),
        ("postgres", "nobody-here", "lakeward", Some("28P01")),
        ("postgres", "postgres", "", None),
        ("nowhere", "postgres", "lakeward", Some("3D000")),
    ] {
        let mut endpoint = endpoint();
        endpoint.database = database.to_owned();
        endpoint.user = user.to_owned();
        endpoint.password = lakeward_core::Secret::new(password);
        let error = Connection::connect(&endpoint).unwrap_err();
        assert_eq!((error.kind(), sqlstate(&error)), (ErrorKind::Config, code), "{error:?}");
        assert!(error.remedy().is_some());
        assert!(!format!("{error:?} {endpoint:?}").contains("canary"));
    }
}

#[test]
fn nothing_listens() {
    let mut endpoint = endpoint();
    endpoint.port = 1;
    assert_eq!(Connection::connect(&endpoint).unwrap_err().kind(), ErrorKind::Connection);
    endpoint.host = "no-such-host.invalid".into();
    assert_eq!(Connection::connect(&endpoint).unwrap_err().kind(), ErrorKind::Connection);
}

#[test]
fn tls_as_the_server_has_it() {
    let on = connect().query_rows("SHOW ssl").unwrap()[0][0].as_deref() == Some("on");
    for mode in [TlsMode::Disable, TlsMode::Prefer, TlsMode::Require] {
        let mut endpoint = endpoint();
        endpoint.tls.mode = mode;
        let result = Connection::connect(&endpoint);
        if mode == TlsMode::Require && !on {
            assert_eq!(result.unwrap_err().kind(), ErrorKind::Config);
            continue;
        }
        let mut connection = result.unwrap();
        let rows = connection.query_rows("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()").unwrap();
        let encrypted = rows[0][0].as_deref() == Some("t");
        assert_eq!(encrypted, on && mode != TlsMode::Disable);
        let mut bytes = 0;
        let counted = connection.copy_out(&many(200_000), |data| {
            bytes += data.len();
            Ok(ControlFlow::Continue(()))
        });
        assert_eq!(counted.unwrap(), 200_000);
        assert!(bytes > 3_000_000);
        let statement = format!("SELECT length('{}')", "x".repeat(300_000));
        assert_eq!(connection.query_rows(&statement).unwrap()[0][0].as_deref(), Some("300000"));
        let handle = connection.cancel_handle();
        let waiting = std::thread::spawn(move || connection.simple("SELECT pg_sleep(30)"));
        std::thread::sleep(Duration::from_millis(200));
        handle.cancel();
        assert_eq!(waiting.join().unwrap().unwrap_err().kind(), ErrorKind::Cancelled);
    }
}

#[test]
fn certificates_are_verified_as_far_as_the_mode_says() {
    let ca = Some(support::certificate("ca.pem"));
    let own = Some(support::certificate("self.pem"));
    let cases = [
        ("server", "localhost", TlsMode::Require, &None, true),
        ("server", "localhost", TlsMode::Require, &ca, true),
        ("server", "localhost", TlsMode::Require, &own, false),
        ("server", "localhost", TlsMode::VerifyFull, &ca, true),
        ("server", "127.0.0.1", TlsMode::VerifyFull, &ca, false),
        ("server", "127.0.0.1", TlsMode::VerifyCa, &ca, true),
        ("server", "localhost", TlsMode::VerifyCa, &own, false),
        ("self", "localhost", TlsMode::VerifyFull, &own, true),
        ("self", "127.0.0.1", TlsMode::VerifyFull, &own, false),
        ("self", "127.0.0.1", TlsMode::VerifyCa, &own, true),
        ("self", "localhost", TlsMode::VerifyCa, &ca, false),
    ];
    for (certificate, host, mode, server_ca, trusted) in cases {
        let server = FakeServer::start(certificate);
        let mut endpoint = support::endpoint_at(server.port());
        endpoint.host = host.to_owned();
        endpoint.tls = TlsSettings { mode, server_ca: server_ca.clone(), ..TlsSettings::default() };
        // Behind TLS the fake server refuses everybody.
        let error = Connection::connect(&endpoint).unwrap_err();
        let expected =
            if trusted { (ErrorKind::Connection, Some("57P03")) } else { (ErrorKind::Config, None) };
        assert_eq!((error.kind(), sqlstate(&error)), expected, "{certificate} {host} {mode:?}: {error:?}");
    }
    let settings = TlsSettings {
        server_ca: Some(b"no certificate".to_vec()),
        mode: TlsMode::VerifyCa,
        ..TlsSettings::default()
    };
    assert_eq!(settings.client_config().unwrap_err().kind(), ErrorKind::Config);
}

#[test]
fn a_copy_that_is_broken_off_is_cancelled() {
    let mut watcher = connect();
    for stop in [true, false] {
        let mut connection = connect();
        let mut seen = 0;
        let error = connection
            .copy_out("COPY (SELECT generate_series(1, 1000000000) AS broken_off) TO STDOUT", |_| {
                seen += 1;
                match (seen, stop) {
                    (..1000, _) => Ok(ControlFlow::Continue(())),
                    (_, true) => Ok(ControlFlow::Break(())),
                    (_, false) => Err(Error::bug("of the consumer")),
                }
            })
            .unwrap_err();
        assert_eq!(error.kind(), if stop { ErrorKind::Cancelled } else { ErrorKind::Bug });
        assert!(within(Duration::from_secs(5), || running(&mut watcher, "AS broken_off") == 0));
    }
}

#[test]
fn a_failed_copy_leaves_the_session_usable() {
    let mut connection = connect();
    let error = connection
        .copy_out("COPY (SELECT 1 / (500 - n) FROM generate_series(1, 1000) n) TO STDOUT", |_| {
            Ok(ControlFlow::Continue(()))
        })
        .unwrap_err();
    assert_eq!(sqlstate(&error), Some("22012"));
    connection.simple("SELECT 1").unwrap();
}

#[test]
fn silence_ends_within_the_limit() {
    for stall in [Stall::Silent(0), Stall::Silent(100_000), Stall::Closed(100_000)] {
        let proxy = Proxy::start(stall);
        let mut endpoint = support::endpoint_at(proxy.port());
        endpoint.connect_timeout = Duration::from_secs(2);
        endpoint.read_timeout = Duration::from_secs(2);
        let start = Instant::now();
        let error = Connection::connect(&endpoint)
            .and_then(|mut connection| {
                connection.copy_out(&many(1_000_000), |_| Ok(ControlFlow::Continue(())))
            })
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Connection);
        assert!(start.elapsed() < Duration::from_secs(15), "{stall:?} took {:?}", start.elapsed());
    }
}

async fn collect(stream: lakeward_core::BatchStream) -> Result<u64> {
    let mut rows = 0;
    let mut stream = stream;
    while let Some(batch) = stream.next().await {
        rows += batch?.rows.num_rows() as u64;
    }
    Ok(rows)
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_are_of_the_size_asked_for_and_paid() {
    let context = context(4 << 20, 256 << 10);
    let budget = context.budget.clone();
    let setup = vec!["BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY".to_owned()];
    let mut stream = copy_batches(Readers::new(endpoint()), setup, many(300_000), numbers(), context);
    let (mut rows, mut batches) = (0, 0);
    while let Some(batch) = stream.next().await {
        let batch = batch.unwrap();
        let size = batch.rows.get_array_memory_size();
        let reserved = batch.reservation.as_ref().unwrap().bytes();
        assert!(reserved + 1024 >= size, "{reserved} for {size}");
        assert!(size < 512 << 10);
        rows += batch.rows.num_rows();
        batches += 1;
    }
    assert_eq!(rows, 300_000);
    assert!(batches > 10);
    assert_eq!(budget.available(), budget.total());
    // An empty result is a success too.
    let empty = copy_batches(
        Readers::new(endpoint()),
        Vec::new(),
        many(0),
        numbers(),
        self::context(1 << 20, 1 << 20),
    );
    assert_eq!(collect(empty).await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_waits_holds_no_memory() {
    // Room for one batch: each is waited for until the one before it is dropped.
    let context = context(256 << 10, 256 << 10);
    let streams = (0..3).map(|_| {
        collect(copy_batches(Readers::new(endpoint()), Vec::new(), many(50_000), numbers(), context.clone()))
    });
    for rows in futures::future::join_all(streams).await {
        assert_eq!(rows.unwrap(), 50_000);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_of_100_mb() {
    for format in [CopyFormat::Text, CopyFormat::Binary] {
        let columns =
            [column("a", PgType::Int4, ColumnType::Int32), column("b", PgType::Text, ColumnType::Text)];
        let decoder = RowDecoder::new(format, &columns).unwrap();
        let sql = format!(
            "COPY (SELECT n, repeat('x', CASE WHEN n % 2 = 0 THEN 100 << 20 ELSE 10 END) FROM generate_series(1, 4) n) \
             TO STDOUT (FORMAT {})",
            if format == CopyFormat::Text { "text" } else { "binary" },
        );
        let context = context(300 << 20, 1 << 20);
        let mut stream = copy_batches(Readers::new(endpoint()), Vec::new(), sql, decoder, context.clone());
        let mut rows = 0;
        while let Some(batch) = stream.next().await {
            let batch = batch.unwrap();
            let reserved = batch.reservation.as_ref().unwrap().bytes();
            assert!(reserved + 1024 >= batch.rows.get_array_memory_size());
            rows += batch.rows.num_rows();
        }
        assert_eq!(rows, 4);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_stream_and_a_cancelled_one_end_at_the_server() {
    let mut watcher = tokio::task::spawn_blocking(connect).await.unwrap();
    for drop_it in [true, false] {
        let context = context(1 << 20, 64 << 10);
        let sql =
            "COPY (SELECT n, 'given_up' FROM (SELECT generate_series(1::int8, 1000000000) n) s) TO STDOUT"
                .to_owned();
        let mut stream = copy_batches(Readers::new(endpoint()), Vec::new(), sql, numbers(), context.clone());
        stream.next().await.unwrap().unwrap();
        if drop_it {
            drop(stream);
        } else {
            context.cancel.cancel();
            assert_eq!(collect(stream).await.unwrap_err().kind(), ErrorKind::Cancelled);
        }
        let ended = tokio::task::spawn_blocking(move || {
            (within(Duration::from_secs(5), || running(&mut watcher, "given_up") == 0), watcher)
        });
        let (ended, again) = ended.await.unwrap();
        watcher = again;
        assert!(ended, "dropped: {drop_it}");
        let budget = context.budget.clone();
        assert!(
            tokio::task::spawn_blocking(
                move || within(Duration::from_secs(5), || budget.available() == budget.total())
            )
            .await
            .unwrap()
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelling_reaches_a_query_that_waits() {
    let context = context(1 << 20, 64 << 10);
    let cancel = context.cancel.clone();
    let sql = "COPY (SELECT 1::int8, pg_sleep(60)::text || 'waits_long') TO STDOUT".to_owned();
    let reader =
        tokio::spawn(collect(copy_batches(Readers::new(endpoint()), Vec::new(), sql, numbers(), context)));
    tokio::time::sleep(Duration::from_millis(300)).await;
    cancel.cancel();
    let error = tokio::time::timeout(Duration::from_secs(2), reader).await.unwrap().unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    let ended = tokio::task::spawn_blocking(|| {
        let mut watcher = connect();
        within(Duration::from_secs(5), || running(&mut watcher, "waits_long") == 0)
    });
    assert!(ended.await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_that_is_ended_is_an_error() {
    let context = context(1 << 20, 64 << 10);
    let sql =
        "COPY (SELECT n, 'ended_soon' FROM (SELECT generate_series(1::int8, 1000000000) n) s) TO STDOUT"
            .to_owned();
    let mut stream = copy_batches(Readers::new(endpoint()), Vec::new(), sql, numbers(), context);
    stream.next().await.unwrap().unwrap();
    tokio::task::spawn_blocking(|| {
        let sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                   WHERE query LIKE '%ended_soon%' AND pid <> pg_backend_pid()";
        connect().query_rows(sql).unwrap();
    })
    .await
    .unwrap();
    let error = collect(stream).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Connection, "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn setup_that_fails_is_the_streams_error() {
    let setup = vec![
        "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY".to_owned(),
        "SET TRANSACTION SNAPSHOT '00000003-0000001B-1'".to_owned(),
    ];
    let stream =
        copy_batches(Readers::new(endpoint()), setup, many(10), numbers(), context(1 << 20, 1 << 20));
    assert_eq!(collect(stream).await.unwrap_err().kind(), ErrorKind::SessionLost);
}

/// Reads under a transaction, and says which of the server's processes it was read from.
async fn backend(readers: &Readers, context: ReadContext) -> i64 {
    let setup = vec!["BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY".to_owned()];
    let sql = "COPY (SELECT pg_backend_pid()::int8, 'rests') TO STDOUT".to_owned();
    let mut stream = copy_batches(readers.clone(), setup, sql, numbers(), context);
    let batch = stream.next().await.unwrap().unwrap();
    assert!(stream.next().await.is_none());
    batch.rows.column(0).as_primitive::<Int64Type>().value(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_is_used_again_unless_it_broke() {
    let readers = Readers::new(endpoint());
    let ask = |sql: String| tokio::task::spawn_blocking(move || connect().query_rows(&sql).unwrap());
    let first = context(1 << 20, 64 << 10);
    let process = backend(&readers, first.clone()).await;
    let idle = format!("SELECT 1 FROM pg_stat_activity WHERE pid = {process} AND state = 'idle'");
    assert_eq!(ask(idle).await.unwrap().len(), 1, "it rests outside a transaction");
    // Whoever stops what is over stops nothing.
    first.cancel.cancel();
    assert_eq!(backend(&readers, context(1 << 20, 64 << 10)).await, process);
    // What broke while it rested is nobody's failure.
    ask(format!("SELECT pg_terminate_backend({process})")).await.unwrap();
    let gone = format!("SELECT 1 FROM pg_stat_activity WHERE pid = {process}");
    let gone = tokio::task::spawn_blocking(move || {
        within(Duration::from_secs(5), || connect().query_rows(&gone).unwrap().is_empty())
    });
    assert!(gone.await.unwrap());
    assert_ne!(backend(&readers, context(1 << 20, 64 << 10)).await, process);
}

/// The server is the judge: what the decoder prints from the binary form of a value is what the server's own
/// output function prints.
#[test]
fn binary_prints_as_the_server_does() {
    use PgType as P;
    let array = |item| P::Array(Box::new(item));
    let floats = "SELECT v FROM (SELECT (sign * (5 ^ j) * (2.0::float8 ^ k) * q) v \
                  FROM generate_series(0, 23) j, generate_series(-60, 90) k, (VALUES (1), (3)) q(q), (VALUES (1), (-1)) s(sign)) t \
                  UNION ALL SELECT (random() * 2 - 1) * 10.0::float8 ^ n FROM generate_series(-320, 300) n, generate_series(1, 5) \
                  UNION ALL SELECT 2.0::float8 ^ n FROM generate_series(-1074, 1023) n \
                  UNION ALL SELECT unnest('{1e23,0,-0,NaN,Infinity,-Infinity,5e-324,1.7976931348623157e308,9007199254740993}'::float8[])";
    let float4s =
        format!("SELECT v::float4 FROM ({floats}) t(v) WHERE abs(v) BETWEEN 1e-37 AND 3e38 OR v = 0");
    let micros = "SELECT (i * 1000003) % 1000000 FROM generate_series(1, 3) i";
    let cases = [
        (P::Float8, floats.to_owned()),
        (P::Float4, float4s.clone()),
        (array(P::Float8), format!("SELECT array_agg(v) FROM ({floats}) t(v)")),
        (
            P::Numeric,
            "SELECT v FROM (SELECT (n * 7.123456789::numeric) ^ e v FROM generate_series(-9, 9) n, generate_series(0, 40) e) t \
             UNION ALL SELECT round(1 / 3.0, n) FROM generate_series(0, 40) n \
             UNION ALL SELECT 10::numeric ^ n FROM generate_series(-50, 50) n \
             UNION ALL SELECT unnest('{0,0.000,NaN,Infinity,-Infinity,-0.00001,10000,1e1000}'::numeric[])"
                .to_owned(),
        ),
        (P::Date, "SELECT '4713-01-01 BC'::date + n * 9973 FROM generate_series(0, 215000) n \
                   UNION ALL SELECT unnest('{infinity,-infinity,5874897-12-31,0001-12-31 BC}'::date[])".to_owned()),
        (
            P::Timestamp,
            format!("SELECT '4713-01-01 BC'::timestamp + n * interval '299 days 5 hours' + u * interval '1 microsecond' \
             FROM generate_series(0, 300000, 7) n, ({micros}) u(u) UNION ALL SELECT unnest('{{infinity,-infinity}}'::timestamp[])"),
        ),
        (P::Timestamptz, "SELECT '0010-01-01 BC'::timestamptz + n * interval '37 days 1.5 seconds' FROM generate_series(0, 200000) n".to_owned()),
        (P::Time, "SELECT unnest('{00:00,24:00,23:59:59.999999,12:00:00.1}'::time[])".to_owned()),
        (P::Uuid, "SELECT gen_random_uuid() FROM generate_series(1, 100)".to_owned()),
        (P::Bytea, "SELECT decode(repeat(md5(n::text), n), 'hex') FROM generate_series(0, 50) n".to_owned()),
        (P::Bool, "SELECT unnest('{t,f,NULL}'::bool[])".to_owned()),
        (P::Jsonb, r#"SELECT '{"b": [1.0, "x\ty"], "a": null}'::jsonb"#.to_owned()),
        (
            array(P::Text),
            r#"VALUES ('{}'::text[]), ('{a,"b c","",NULL,"null","x\"y","back\\slash","{x}"}'), ('[2:3]={a,b}'),
             ('{{a,b},{c,d}}'), ('[0:1][-1:0][1:1]={{{a},{b}},{{c},{" d"}}}'),
             (ARRAY[E'tab\there', E'line\nfeed', E'v\x0b', E'\f\r', 'é']), (NULL)"#
                .to_owned(),
        ),
        (array(P::Timestamptz), "SELECT ARRAY[now()::timestamptz(0), 'infinity', NULL, '0044-03-15 BC']".to_owned()),
        (array(P::Numeric), "SELECT ARRAY[[1.50, NULL], ['NaN'::numeric, -2]]".to_owned()),
        (array(P::Bytea), "SELECT ARRAY['\\x00'::bytea, '']".to_owned()),
        (array(P::Bool), "SELECT ARRAY[true, NULL, false]".to_owned()),
        (array(P::Jsonb), r#"SELECT ARRAY['{"a": [1, "b"]}'::jsonb, 'null', '""']"#.to_owned()),
    ];
    let mut endpoint = endpoint();
    let options = [("TimeZone", "UTC"), ("DateStyle", "ISO, YMD"), ("extra_float_digits", "1")];
    endpoint.options = options.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    let mut connection = Connection::connect(&endpoint).unwrap();
    for (pg_type, sql) in cases {
        // random() differs from one query to the next.
        connection
            .simple(&format!("DROP TABLE IF EXISTS judged; CREATE TEMP TABLE judged AS {sql}"))
            .unwrap();
        let [text, binary] = [CopyFormat::Text, CopyFormat::Binary].map(|format| {
            let columns = [column("c", pg_type.clone(), ColumnType::Text)];
            let mut decoder = RowDecoder::new(format, &columns).unwrap();
            let name = if format == CopyFormat::Text { "text" } else { "binary" };
            let sql = format!("COPY judged TO STDOUT (FORMAT {name})");
            let counted =
                connection.copy_out(&sql, |data| decoder.push(data).map(ControlFlow::Continue)).unwrap();
            let batch = decoder.finish().unwrap().unwrap();
            assert_eq!(batch.rows.num_rows() as u64, counted);
            batch.rows
        });
        let strings = |batch: &arrow::array::RecordBatch| -> Vec<Option<String>> {
            use arrow::array::AsArray;
            batch.column(0).as_string::<i32>().iter().map(|text| text.map(str::to_owned)).collect()
        };
        for (server, ours) in strings(&text).into_iter().zip(strings(&binary)) {
            assert_eq!(ours, server, "{pg_type:?}");
        }
    }
}
