//! The servers that `scripts/servers` started, and databases of one's own on them.

use std::fs;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Config, NoTls};

use crate::project_root;

/// The user that all tests connect as; a superuser.
pub const USERNAME: &str = "postgres";
/// The password of [`USERNAME`]; it is asked for on every connection.
pub const PASSWORD: &str = "lakeward";
/// All servers listen on loopback only.
pub const HOST: &str = "127.0.0.1";

/// The PostgreSQL versions that tests run against.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Version {
    /// PostgreSQL 15, with TLS.
    Pg15,
    /// PostgreSQL 18, without TLS.
    Pg18,
}

impl Version {
    /// All of them, for tests that run on each.
    pub const ALL: [Version; 2] = [Version::Pg15, Version::Pg18];

    /// The name by which `scripts/servers` knows it.
    pub fn name(self) -> &'static str {
        match self {
            Version::Pg15 => "postgres15",
            Version::Pg18 => "postgres18",
        }
    }

    /// The directory in which `scripts/servers` says what others need to know of it.
    pub fn directory(self) -> PathBuf {
        project_root().join("target/servers").join(self.name())
    }

    /// The directory of its programs. Fails where `scripts/servers` has not fetched them.
    pub fn bindir(self) -> Result<PathBuf> {
        let file = self.directory().join("bindir");
        let text = fs::read_to_string(&file).with_context(|| self.advice())?;
        Ok(PathBuf::from(text.trim()))
    }

    fn advice(self) -> String {
        format!("{0} is not there: run scripts/servers start {0}", self.name())
    }
}

/// A running server: one shared by all tests, or that of a
/// [`PrivateServer`](crate::private_server::PrivateServer).
#[derive(Clone, Debug)]
pub struct PgServer {
    version: Version,
    port: u16,
    bindir: PathBuf,
}

impl PgServer {
    /// The server that `scripts/servers start` runs: its port is taken from the environment
    /// (`LAKEWARD_TEST_POSTGRES15_PORT`, …), else from what the script wrote.
    ///
    /// # Panics
    /// If it is not there, saying what to run: a test without its server has failed.
    #[allow(clippy::panic)]
    pub fn shared(version: Version) -> Self {
        match Self::find(version) {
            Ok(server) => server,
            Err(error) => panic!("{error:#}"),
        }
    }

    fn find(version: Version) -> Result<Self> {
        let variable = format!("LAKEWARD_TEST_{}_PORT", version.name().to_uppercase());
        let port = match std::env::var(&variable) {
            Ok(port) => port,
            Err(_) => {
                fs::read_to_string(version.directory().join("port")).with_context(|| version.advice())?
            }
        };
        let port = port.trim().parse().with_context(|| format!("{variable} is no port"))?;
        std::net::TcpStream::connect((HOST, port)).with_context(|| version.advice())?;
        Ok(Self::at(version, port, version.bindir()?))
    }

    pub(crate) fn at(version: Version, port: u16, bindir: PathBuf) -> Self {
        Self { version, port, bindir }
    }

    /// Its version.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Its port on [`HOST`].
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The path of one of its programs, such as `psql` or `pg_recvlogical`.
    pub fn program(&self, name: &str) -> PathBuf {
        self.bindir.join(name)
    }

    /// The certificate of the authority that signed this server's, for `verify-ca` and
    /// `verify-full`; none where it was built without TLS.
    pub fn certificate_authority(&self) -> Option<PathBuf> {
        Some(self.version.directory().join("tls/ca.pem")).filter(|file| file.exists())
    }

    /// Connects to one of its databases as superuser.
    pub async fn connect(&self, database: &str) -> Result<Client> {
        let mut config = Config::new();
        config.host(HOST).port(self.port).user(USERNAME).password(PASSWORD).dbname(database);
        config.application_name("lakeward-testkit").connect_timeout(Duration::from_secs(10));
        let (client, connection) = config.connect(NoTls).await.with_context(|| {
            format!("cannot connect to {} on {HOST}:{}, database {database}", self.version.name(), self.port)
        })?;
        // Ends with its client; an error on it is seen by the query that it fails.
        tokio::spawn(connection);
        Ok(client)
    }

    /// A new, empty database that no other test has. Its name begins with `prefix`, which may hold
    /// what a test wants names to hold: quotes, upper case, dots. Dropped, with its replication
    /// slots, when the handle is; kept for inspection where `LAKEWARD_TEST_KEEP` is set.
    pub async fn create_database(&self, prefix: &str) -> Result<TestDatabase> {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_micros();
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let name = format!("{prefix}_{since:x}_{:x}_{number}", std::process::id());
        ensure!(name.len() < 64, "{prefix} is too long for the name of a database");
        let client = self.connect("postgres").await?;
        client.batch_execute(&format!("CREATE DATABASE {} TEMPLATE template0", quote_ident(&name))).await?;
        Ok(TestDatabase { server: self.clone(), name, ours: true })
    }
}

/// A database of one test's own, dropped with this handle, or an [existing](Self::existing) one.
#[derive(Debug)]
pub struct TestDatabase {
    server: PgServer,
    name: String,
    ours: bool,
}

impl TestDatabase {
    /// A database that was there before and stays.
    pub fn existing(server: &PgServer, name: &str) -> Self {
        Self { server: server.clone(), name: name.to_owned(), ours: false }
    }

    /// The server that it is on.
    pub fn server(&self) -> &PgServer {
        &self.server
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A new connection to it, as superuser.
    pub async fn client(&self) -> Result<Client> {
        self.server.connect(&self.name).await
    }

    /// Runs statements, separated by semicolons, on a connection of their own: outside of a
    /// transaction if it is one, in one transaction if they are several.
    pub async fn execute(&self, sql: &str) -> Result<()> {
        let client = self.client().await?;
        client.batch_execute(sql).await.with_context(|| format!("failed: {}", shortened(sql)))
    }

    /// The single value that a query returns, as the server prints it; none for NULL.
    pub async fn value(&self, sql: &str) -> Result<Option<String>> {
        let client = self.client().await?;
        let messages =
            client.simple_query(sql).await.with_context(|| format!("failed: {}", shortened(sql)))?;
        for message in messages {
            if let tokio_postgres::SimpleQueryMessage::Row(row) = message {
                return Ok(row.get(0).map(str::to_owned));
            }
        }
        bail!("no row from: {}", shortened(sql))
    }

    /// Waits up to a minute until a query says `t`.
    pub async fn until(&self, sql: &str) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            match self.value(sql).await {
                Ok(answer) if answer.as_deref() == Some("t") => return Ok(()),
                Err(error) if !in_recoverys_way(&error) => return Err(error),
                Ok(_) | Err(_) => ensure!(Instant::now() < deadline, "it takes too long: {sql}"),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// A query whether somebody reads the log by this database's slot, and has confirmed what the log holds by now.
    pub async fn confirmed(&self) -> Result<String> {
        let end =
            self.value("SELECT pg_current_wal_insert_lsn()").await?.context("a server without a log")?;
        Ok(format!(
            "SELECT EXISTS (SELECT FROM pg_replication_slots
             WHERE database = current_database() AND NOT temporary AND active AND confirmed_flush_lsn >= '{end}')"
        ))
    }

    /// Waits until this standby has all that the primary has.
    pub async fn catch_up_with(&self, primary: &TestDatabase) -> Result<()> {
        let end =
            primary.value("SELECT pg_current_wal_insert_lsn()").await?.context("a primary without a log")?;
        self.until(&format!("SELECT pg_last_wal_replay_lsn() >= '{end}'")).await
    }

    /// Runs a script by `psql`, with its `\` commands, each statement in its own transaction.
    /// Returns what it printed, unaligned and without headings; stops at the first error.
    pub async fn psql(&self, sql: &str) -> Result<String> {
        let mut command = tokio::process::Command::new(self.server.program("psql"));
        command.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-h", HOST, "-U", USERNAME]);
        command.args(["-p", &self.server.port.to_string(), "-d", &self.name, "-f", "-"]);
        command.env("PGPASSWORD", PASSWORD).env("PGSSLMODE", "prefer");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().context("cannot run psql")?;
        let mut stdin = child.stdin.take().context("psql without stdin")?;
        let write = async {
            // psql that stops at an error closes its end; its own message says more than that.
            let _ = tokio::io::AsyncWriteExt::write_all(&mut stdin, sql.as_bytes()).await;
            drop(stdin);
        };
        let ((), output) = tokio::join!(write, child.wait_with_output());
        let output = output?;
        ensure!(output.status.success(), "psql: {}", String::from_utf8_lossy(&output.stderr).trim());
        Ok(String::from_utf8(output.stdout)?)
    }

    /// A `source.json` for this database; `overrides` are merged into it, object by object, with
    /// null removing a field. For example `json!({"port": proxy.port(), "schemas": ["public"]})`.
    pub fn source_config(&self, overrides: Value) -> Value {
        let mut config = json!({
            "type": "postgres",
            "host": HOST,
            "port": self.server.port,
            "database": self.name,
            "username": USERNAME,
            "password": PASSWORD,
            "ssl": { "mode": "disable" },
        });
        merge(&mut config, overrides);
        config
    }

    /// A connection string, for programs that take one.
    pub fn url(&self) -> String {
        format!("postgresql://{USERNAME}:{PASSWORD}@{HOST}:{}/{}", self.server.port, self.name)
    }
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        if !self.ours {
            return;
        }
        if std::env::var_os("LAKEWARD_TEST_KEEP").is_some() {
            eprintln!("kept: {}", self.url());
            return;
        }
        let (server, name) = (self.server.clone(), self.name.clone());
        // A thread of its own: `drop` may be called on a runtime, where it must not wait for one.
        let dropped = std::thread::spawn(move || -> Result<()> {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(drop_database(&server, &name))
        });
        if let Ok(Err(error)) = dropped.join() {
            eprintln!("could not drop the database {}: {error:#}", self.name);
        }
    }
}

async fn drop_database(server: &PgServer, name: &str) -> Result<()> {
    let client = server.connect("postgres").await?;
    // A slot of the database forbids its end, and one in use forbids the slot's.
    for _ in 0..100 {
        let active = "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots \
                      WHERE database = $1 AND active";
        if client.query(active, &[&name]).await?.is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let slots = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = $1";
    client.query(slots, &[&name]).await?;
    client.batch_execute(&format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", quote_ident(name))).await?;
    Ok(())
}

/// A place in the log as the server prints it, in bytes.
pub fn lsn(text: &str) -> Option<u64> {
    let (high, low) = text.split_once('/')?;
    Some(u64::from_str_radix(high, 16).ok()? << 32 | u64::from_str_radix(low, 16).ok()?)
}

/// Quotes a name for use in SQL.
pub fn quote_ident(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Merges `overrides` into `base`: objects field by field, null removes, anything else replaces.
pub(crate) fn merge(base: &mut Value, overrides: Value) {
    match (base, overrides) {
        (Value::Object(base), Value::Object(overrides)) => {
            for (name, value) in overrides {
                if value.is_null() {
                    base.shift_remove(&name);
                } else {
                    merge(base.entry(name).or_insert(Value::Null), value);
                }
            }
        }
        (_, Value::Null) => {}
        (base, value) => *base = value,
    }
}

/// Whether a standby cancelled the question because it stood in the way of what it replays.
fn in_recoverys_way(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<tokio_postgres::Error>()
        .is_some_and(|error| error.code() == Some(&SqlState::T_R_SERIALIZATION_FAILURE))
}

fn shortened(sql: &str) -> String {
    let mut text: String = sql.chars().take(200).collect();
    if text.len() < sql.len() {
        text.push('…');
    }
    text
}
