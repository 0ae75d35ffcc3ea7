//! A database of its own for every test, on a real server.

#![allow(dead_code)] // Each test binary uses a part of it.

use std::sync::Arc;

use arrow::util::display::array_value_to_string;
use futures::TryStreamExt;
use lakeward_core::{
    BatchStream, Chunk, ConfiguredStream, DriverInterface, MemoryBudget, ReadContext, Result, Selection,
    Session, Stream, StreamId,
};
use lakeward_postgres::PostgresDriver;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

/// The servers that every test runs on, by major version.
pub(crate) const VERSIONS: [u32; 2] = [15, 18];

pub(crate) struct Database {
    pub(crate) port: u16,
    pub(crate) name: String,
    pub(crate) client: tokio_postgres::Client,
}

pub(crate) async fn connect(port: u16, database: &str) -> tokio_postgres::Client {
    let mut config = tokio_postgres::Config::new();
    config.host("127.0.0.1").port(port).user("postgres").password("lakeward").dbname(database);
    let (client, connection) = config.connect(tokio_postgres::NoTls).await.expect("the test server answers");
    tokio::spawn(connection);
    client
}

fn port(version: u32) -> u16 {
    let variable = format!("LAKEWARD_TEST_POSTGRES{version}_PORT");
    let port = std::env::var(&variable)
        .unwrap_or_else(|_| panic!("{variable} is not set: start PostgreSQL {version} and name its port"));
    port.parse().expect("a port is a number")
}

impl Database {
    /// A connection to the server itself. A missing one is a failure with a reason.
    pub(crate) async fn connect_admin(version: u32) -> tokio_postgres::Client {
        connect(port(version), "postgres").await
    }

    /// Makes an empty database.
    pub(crate) async fn create(version: u32, test: &str) -> Self {
        let port = port(version);
        let name = format!("lw_driver_{test}");
        let admin = Self::connect_admin(version).await;
        admin.batch_execute(&format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)")).await.unwrap();
        admin.batch_execute(&format!("CREATE DATABASE {name}")).await.unwrap();
        Self { port, client: connect(port, &name).await, name }
    }

    pub(crate) async fn run(&self, sql: &str) {
        self.client.batch_execute(sql).await.unwrap_or_else(|error| panic!("{error:?}: {sql}"));
    }

    /// Sets what sessions to come find, walsenders too.
    pub(crate) async fn set(&self, setting: &str, value: &str) {
        self.run(&format!("ALTER DATABASE {} SET {setting} = '{value}'", self.name)).await;
    }

    pub(crate) async fn number(&self, sql: &str) -> i64 {
        self.client.query_one(sql, &[]).await.unwrap().get(0)
    }

    /// Waits until every transaction that runs now has ended, whatever test it belongs to: until then rows
    /// written meanwhile count as new to a later snapshot.
    pub(crate) async fn settle(&self) {
        let now = self.number("SELECT txid_current()").await;
        while self.number("SELECT txid_snapshot_xmin(txid_current_snapshot())").await <= now {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }

    pub(crate) async fn connect(&self) -> tokio_postgres::Client {
        connect(self.port, &self.name).await
    }

    pub(crate) fn config(&self) -> Value {
        json!({"type": "postgres", "host": "127.0.0.1", "port": self.port, "database": self.name,
               "username": "postgres", "password": "lakeward"})
    }

    pub(crate) fn driver(&self) -> PostgresDriver {
        self.driver_with(json!({}))
    }

    /// A driver whose config has these fields beside the usual ones.
    pub(crate) fn driver_with(&self, fields: Value) -> PostgresDriver {
        let mut config = self.config();
        for (name, value) in fields.as_object().unwrap() {
            config[name] = value.clone();
        }
        PostgresDriver::from_config(config).unwrap()
    }
}

pub(crate) async fn stream(driver: &PostgresDriver, name: &str) -> Stream {
    let mut streams = driver.produce_schema(&[StreamId::new("public", name)]).await.unwrap();
    assert_eq!(streams.len(), 1, "{name} is described");
    streams.remove(0)
}

pub(crate) async fn configured(
    driver: &PostgresDriver,
    name: &str,
    selection: Value,
) -> Arc<ConfiguredStream> {
    let mut fields = json!({"stream_name": name});
    for (name, value) in selection.as_object().unwrap() {
        fields[name] = value.clone();
    }
    let selection: Selection = serde_json::from_value(fields).unwrap();
    let stream = stream(driver, name).await;
    Arc::new(ConfiguredStream::resolve(&selection, &stream, |c, t| driver.accepts_override(c, t)).unwrap())
}

pub(crate) fn context() -> ReadContext {
    ReadContext {
        budget: MemoryBudget::new(64 << 20),
        batch_bytes: 1 << 20,
        cancel: CancellationToken::new(),
    }
}

/// All rows as texts, `null` for nulls, and whether each is in the next window.
pub(crate) async fn rows(batches: BatchStream) -> Result<Vec<(Vec<String>, Option<bool>)>> {
    let batches: Vec<_> = batches.try_collect().await?;
    let mut result = Vec::new();
    for batch in &batches {
        for row in 0..batch.rows.num_rows() {
            // Without a time zone database Arrow does not print an instant; no test needs it to.
            let text = |column: &arrow::array::ArrayRef| match column.is_null(row) {
                true => "null".to_owned(),
                false => array_value_to_string(column, row).unwrap_or_else(|_| "?".to_owned()),
            };
            let values = batch.rows.columns().iter().map(text).collect();
            result.push((values, batch.in_next_window.as_ref().map(|window| window.value(row))));
        }
    }
    Ok(result)
}

/// The first column of a chunk's rows.
pub(crate) async fn read(
    driver: &PostgresDriver,
    stream: &Arc<ConfiguredStream>,
    chunk: &Chunk,
    session: &Session,
) -> Result<Vec<String>> {
    let batches = driver.chunk_iterator(stream.clone(), chunk.clone(), session, context()).await?;
    Ok(rows(batches).await?.into_iter().map(|(mut values, _)| values.swap_remove(0)).collect())
}

/// The first column of all chunks' rows, sorted as numbers.
pub(crate) async fn read_all(
    driver: &PostgresDriver,
    stream: &Arc<ConfiguredStream>,
    plan: &[Chunk],
    session: &Session,
) -> Result<Vec<i64>> {
    let mut ids = Vec::new();
    for chunk in plan {
        ids.extend(read(driver, stream, chunk, session).await?.iter().map(|id| id.parse::<i64>().unwrap()));
    }
    ids.sort_unstable();
    Ok(ids)
}
