//! One table from a real server to Arrow: `copy_batches` in text and binary against `tokio_postgres`'s `copy_out`
//! into the same decoder, in turn. `LAKEWARD_TEST_POSTGRES15_PORT=… cargo bench -p lakeward-postgres --bench copy`
//! needs the table `trips` in the database `postgres`.
#![allow(missing_docs, clippy::print_stdout, clippy::unwrap_used)]

use std::time::{Duration, Instant};

use futures::StreamExt;
use lakeward_core::{ColumnType, MemoryBudget, OnBadValue, ReadContext, Secret};
use lakeward_postgres::decode::{CopyFormat, PgType, RowDecoder, WireColumn};
use lakeward_postgres::tls::{TlsMode, TlsSettings};
use lakeward_postgres::wire::{
    DEFAULT_CONNECT_TIMEOUT, DEFAULT_READ_TIMEOUT, Endpoint, Readers, copy_batches,
};
use tokio_util::sync::CancellationToken;

const SHAPE: &str = "l i i t t b i n n n n i n n n n n n n n n n n i i i i i i";
const BATCH_BYTES: usize = 8 << 20;

fn decoder(format: CopyFormat) -> RowDecoder {
    let column = |(index, letter): (usize, &str)| {
        let (pg_type, target) = match letter {
            "l" => (PgType::Int8, ColumnType::Int64),
            "i" => (PgType::Int4, ColumnType::Int32),
            "t" => (PgType::Timestamp, ColumnType::Timestamp),
            "b" => (PgType::Bool, ColumnType::Boolean),
            _ => (PgType::Numeric, ColumnType::Text),
        };
        WireColumn::new(format!("c{index}"), pg_type, target, OnBadValue::Clamp)
    };
    RowDecoder::new(format, &SHAPE.split(' ').enumerate().map(column).collect::<Vec<_>>()).unwrap()
}

fn sql(format: CopyFormat) -> &'static str {
    match format {
        CopyFormat::Text => "COPY trips TO STDOUT",
        CopyFormat::Binary => "COPY trips TO STDOUT (FORMAT binary)",
    }
}

async fn ours(endpoint: Endpoint, format: CopyFormat) -> usize {
    let context = ReadContext {
        budget: MemoryBudget::new(64 << 20),
        batch_bytes: BATCH_BYTES,
        cancel: CancellationToken::new(),
    };
    let mut stream =
        copy_batches(Readers::new(endpoint), Vec::new(), sql(format).to_owned(), decoder(format), context);
    let mut rows = 0;
    while let Some(batch) = stream.next().await {
        rows += batch.unwrap().rows.num_rows();
    }
    rows
}

async fn theirs(port: u16, format: CopyFormat) -> usize {
    let config = format!("host=127.0.0.1 port={port} user=postgres password=lakeward dbname=postgres");
    let (client, connection) = tokio_postgres::connect(&config, tokio_postgres::NoTls).await.unwrap();
    let connection = tokio::spawn(connection);
    let mut decoder = decoder(format);
    let mut rows = 0;
    {
        let mut stream = Box::pin(client.copy_out(sql(format)).await.unwrap());
        while let Some(payload) = stream.next().await {
            decoder.push(&payload.unwrap()).unwrap();
            if decoder.rows().is_multiple_of(64) && decoder.bytes() >= BATCH_BYTES {
                rows += decoder.finish_batch().unwrap().rows.num_rows();
            }
        }
    }
    rows += decoder.finish().unwrap().map_or(0, |batch| batch.rows.num_rows());
    drop(client);
    connection.await.unwrap().unwrap();
    rows
}

/// User and system time of this process so far, in hundredths of a second.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    Duration::from_millis(10 * (fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()))
}

#[tokio::main]
async fn main() {
    let port: u16 = std::env::var("LAKEWARD_TEST_POSTGRES15_PORT").unwrap().parse().unwrap();
    let endpoint = Endpoint {
        host: "127.0.0.1".into(),
        port,
        database: "postgres".into(),
        user: "postgres".into(),
        password: Secret::new("lakeward"),
        application_name: "copy-bench".into(),
        tls: TlsSettings { mode: TlsMode::Disable, ..TlsSettings::default() },
        connect_timeout: DEFAULT_CONNECT_TIMEOUT,
        read_timeout: DEFAULT_READ_TIMEOUT,
        options: Vec::new(),
    };
    for round in 0..4 {
        for format in [CopyFormat::Text, CopyFormat::Binary] {
            for own in [true, false] {
                let (start, before) = (Instant::now(), cpu());
                let rows =
                    if own { ours(endpoint.clone(), format).await } else { theirs(port, format).await };
                let (wall, cpu) = (start.elapsed().as_secs_f64(), (cpu() - before).as_secs_f64());
                let name = if own { "copy_batches" } else { "tokio_postgres" };
                println!(
                    "round {round} {format:?} {name:16} {rows} rows in {wall:.2} s, {:.2} M rows/s, {cpu:.2} s CPU",
                    rows as f64 / wall / 1e6,
                );
            }
        }
    }
}
