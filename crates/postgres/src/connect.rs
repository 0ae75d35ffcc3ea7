//! Connections for catalog queries and snapshot holders, and the endpoint that readers use.
//!
//! Guarantee: every connection has the same settings, sent before its first query, so that no default of the
//! role, the database or the server changes what a value looks like or ends a snapshot by itself.

use std::collections::HashMap;
use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lakeward_core::{Error, ErrorKind, Result};
use tokio::runtime::Handle;
use tokio::sync::OnceCell;
use tokio::task::JoinHandle;
use tokio_postgres::Statement;
use tokio_postgres::config::SslMode as ClientSslMode;
use tokio_postgres_rustls::MakeRustlsConnect;
use tokio_util::sync::CancellationToken;

use crate::catalog;
use crate::config::Settings;
use crate::error::from_client;
use crate::mapping::Types;
use crate::resting::Resting;
use crate::tls::{TlsMode, verdict};
use crate::wire::{Endpoint, Readers};

const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_RETRIES: u32 = 3;
const OLDEST_VERSION: u32 = 10;
/// Queries that a connection keeps ready. There are a few dozen in all.
const MAX_STATEMENTS: usize = 64;

/// A connection; closed when dropped.
pub(crate) struct Connection {
    client: tokio_postgres::Client,
    /// Queries of the catalog are long, and come again for every stream: parsed and planned once.
    statements: Mutex<HashMap<String, Statement>>,
    pid: OnceCell<i32>,
    driver: JoinHandle<()>,
    silence_limit: Duration,
    closed: CancellationToken,
    /// Whether it is encrypted.
    pub(crate) encrypted: bool,
}

impl Deref for Connection {
    type Target = tokio_postgres::Client;

    fn deref(&self) -> &Self::Target {
        &self.client
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Connection {
    /// Rows of a query of the catalog, whose text is the same every time; a server that stays silent is given up.
    pub(crate) async fn rows(
        &self,
        sql: &str,
        parameters: &[&(dyn tokio_postgres::types::ToSql + Sync)],
    ) -> Result<Vec<tokio_postgres::Row>> {
        let query = async { self.client.query(&self.prepared(sql).await?, parameters).await };
        self.within(query).await
    }

    /// The only row of a query of the catalog.
    pub(crate) async fn row(
        &self,
        sql: &str,
        parameters: &[&(dyn tokio_postgres::types::ToSql + Sync)],
    ) -> Result<tokio_postgres::Row> {
        let query = async { self.client.query_one(&self.prepared(sql).await?, parameters).await };
        self.within(query).await
    }

    /// Rows of a query that does not come again: it names values, or a user's table.
    pub(crate) async fn rows_once(&self, sql: &str) -> Result<Vec<tokio_postgres::Row>> {
        self.within(self.client.query(sql, &[])).await
    }

    /// Rows of a query that says nothing until it ends, however long it takes. That the server is still there is
    /// left to keepalives.
    pub(crate) async fn long_rows(&self, sql: &str) -> Result<Vec<tokio_postgres::Row>> {
        self.client.query(sql, &[]).await.map_err(from_client)
    }

    /// Statements without a result.
    pub(crate) async fn run(&self, sql: &str) -> Result<()> {
        self.within(self.client.batch_execute(sql)).await
    }

    /// The number of the server's process behind it.
    pub(crate) async fn pid(&self) -> Result<i32> {
        let ask = async || Ok(self.row("SELECT pg_backend_pid()", &[]).await?.get(0));
        self.pid.get_or_try_init(ask).await.copied()
    }

    /// Cancelled once the connection has ended, for whatever reason.
    pub(crate) fn closed(&self) -> CancellationToken {
        self.closed.clone()
    }

    async fn prepared(&self, sql: &str) -> Result<Statement, tokio_postgres::Error> {
        let known = self.statements().get(sql).cloned();
        if let Some(statement) = known {
            return Ok(statement);
        }
        let statement = self.client.prepare(sql).await?;
        let mut statements = self.statements();
        if statements.len() < MAX_STATEMENTS {
            statements.insert(sql.to_owned(), statement.clone());
        }
        Ok(statement)
    }

    fn statements(&self) -> MutexGuard<'_, HashMap<String, Statement>> {
        self.statements.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn within<T>(&self, work: impl Future<Output = Result<T, tokio_postgres::Error>>) -> Result<T> {
        match tokio::time::timeout(self.silence_limit, work).await {
            Ok(result) => result.map_err(from_client),
            Err(_) => Err(Error::new(ErrorKind::Connection, "the server did not answer in time")
                .hint("silence_limit says how long it may be silent")),
        }
    }
}

/// Makes connections. The first one learns the server's version, which decides what settings may be sent.
pub(crate) struct Connector {
    settings: Settings,
    version: OnceCell<u32>,
    resting: Arc<Resting<Connection>>,
    readers: OnceCell<Readers>,
    own_types: OnceCell<Types>,
}

impl Connector {
    pub(crate) fn new(settings: Settings) -> Self {
        Self {
            settings,
            version: OnceCell::new(),
            resting: Arc::default(),
            readers: OnceCell::new(),
            own_types: OnceCell::new(),
        }
    }

    pub(crate) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The server's major version.
    pub(crate) async fn version(&self) -> Result<u32> {
        match self.version.get() {
            Some(version) => Ok(*version),
            None => self.connect().await.and_then(|_| {
                self.version.get().copied().ok_or_else(|| Error::bug("a connection left the version unknown"))
            }),
        }
    }

    /// A connection with all settings made: one that rests, or a new one.
    pub(crate) async fn connect(&self) -> Result<Connection> {
        while let Some(connection) = self.resting.take() {
            if !connection.is_closed() {
                return Ok(connection);
            }
        }
        self.connect_anew().await
    }

    /// Where a connection is put that is not needed any more and has nothing left in it: no transaction, no setting.
    pub(crate) fn resting(&self) -> Arc<Resting<Connection>> {
        self.resting.clone()
    }

    /// Lets a connection rest, which has nothing left in it.
    pub(crate) fn rest(&self, connection: Connection) {
        self.resting.put(connection, &Handle::current());
    }

    async fn connect_anew(&self) -> Result<Connection> {
        let version = self.version.get().copied();
        let (connection, reported) = self.open(version).await?;
        if version.is_none() {
            if reported < OLDEST_VERSION {
                return Err(Error::new(
                    ErrorKind::Source,
                    format!("the server's version {reported} is too old: {OLDEST_VERSION} is needed"),
                ));
            }
            let _ = self.version.set(reported);
            let late: Vec<String> = versioned_options(reported)
                .into_iter()
                .map(|(name, value)| format!("SET {name} = '{value}'"))
                .collect();
            connection.run(&late.join("; ")).await?;
        }
        Ok(connection)
    }

    /// The types that the server brings with it.
    pub(crate) async fn own_types(&self, connection: &Connection) -> Result<&Types> {
        self.own_types.get_or_try_init(|| catalog::own_types(connection)).await
    }

    /// What reads in bulk, with the same settings.
    pub(crate) async fn readers(&self) -> Result<Readers> {
        self.readers.get_or_try_init(async || Ok(Readers::new(self.endpoint().await?))).await.cloned()
    }

    /// Where others connect that speak the protocol themselves, with the same settings.
    pub(crate) async fn endpoint(&self) -> Result<Endpoint> {
        let version = self.version().await?;
        let settings = &self.settings;
        Ok(Endpoint {
            host: settings.host.clone(),
            port: settings.port,
            database: settings.database.clone(),
            user: settings.username.clone(),
            password: settings.password.clone(),
            application_name: settings.application_name.clone(),
            tls: settings.tls.clone(),
            connect_timeout: settings.connect_timeout,
            read_timeout: settings.silence_limit,
            options: self
                .options(Some(version))
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value))
                .collect(),
        })
    }

    /// Host, port and database, for people and for a session's endpoint.
    pub(crate) fn address(&self) -> String {
        format!("{}:{}/{}", self.settings.host, self.settings.port, self.settings.database)
    }

    fn options(&self, version: Option<u32>) -> Vec<(&'static str, String)> {
        let mut options: Vec<(&'static str, String)> = [
            ("row_security", "off"),
            ("search_path", ""),
            ("DateStyle", "ISO,YMD"),
            ("IntervalStyle", "postgres"),
            ("TimeZone", "UTC"),
            ("bytea_output", "hex"),
            ("lc_monetary", "C"),
            ("xmlbinary", "base64"),
            // It would quote the names in regclass and its kin.
            ("quote_all_identifiers", "off"),
            ("client_encoding", "UTF8"),
            ("statement_timeout", "0"),
            ("idle_in_transaction_session_timeout", "0"),
        ]
        .map(|(name, value)| (name, value.to_owned()))
        .into();
        options.push(("lock_timeout", self.settings.lock_timeout.as_millis().to_string()));
        options.extend(version.map(versioned_options).unwrap_or_default());
        options
    }

    async fn open(&self, version: Option<u32>) -> Result<(Connection, u32)> {
        let mode = match self.settings.tls.mode {
            // As libpq does: nothing on a Unix socket leaves the machine.
            _ if self.settings.is_local() => ClientSslMode::Disable,
            TlsMode::Disable => ClientSslMode::Disable,
            TlsMode::Prefer => ClientSslMode::Prefer,
            TlsMode::Require | TlsMode::VerifyCa | TlsMode::VerifyFull => ClientSslMode::Require,
        };
        let first = self.open_with(mode, version).await;
        // As libpq does: what merely prefers encryption does without where it fails, or where the server's
        // rules refuse it.
        let refused = |error: &Error| {
            crate::error::sqlstate(error).is_some_and(|code| code.starts_with("28"))
                || verdict(error).is_some()
        };
        match first {
            Err(error) if mode == ClientSslMode::Prefer && refused(&error) => {
                self.open_with(ClientSslMode::Disable, version).await.map_err(|_| error)
            }
            other => other,
        }
        .map_err(|error| error.at("server", self.address()))
    }

    async fn open_with(&self, mode: ClientSslMode, version: Option<u32>) -> Result<(Connection, u32)> {
        let settings = &self.settings;
        let mut config = tokio_postgres::Config::new();
        config
            .host(&settings.host)
            .port(settings.port)
            .dbname(&settings.database)
            .user(&settings.username)
            .application_name(&settings.application_name)
            .options(command_line(&self.options(version)))
            .ssl_mode(mode)
            .connect_timeout(settings.connect_timeout)
            .keepalives(true)
            .keepalives_idle(KEEPALIVE_IDLE)
            .keepalives_interval(KEEPALIVE_INTERVAL)
            .keepalives_retries(KEEPALIVE_RETRIES)
            .tcp_user_timeout(settings.silence_limit);
        if !settings.password.is_empty() {
            config.password(settings.password.expose());
        }
        let tls = MakeRustlsConnect::new(settings.tls.client_config()?);
        let connecting = tokio::time::timeout(settings.connect_timeout, config.connect(tls));
        let (client, connection) = match connecting.await {
            Ok(result) => result.map_err(from_client)?,
            Err(_) => {
                return Err(Error::new(
                    ErrorKind::Connection,
                    "the server did not accept a connection in time",
                )
                .hint("connect_timeout says how long it may take"));
            }
        };
        let reported = connection.parameter("server_version").and_then(major).unwrap_or_default();
        let closed = CancellationToken::new();
        let ended = closed.clone().drop_guard();
        let driver = tokio::spawn(async move {
            let _ended = ended;
            if let Err(error) = connection.await {
                let error = from_client(error);
                tracing::debug!(%error, "a connection ended");
            }
        });
        let mut connection = Connection {
            client,
            statements: Mutex::default(),
            pid: OnceCell::new(),
            driver,
            silence_limit: settings.silence_limit,
            closed,
            encrypted: false,
        };
        if mode != ClientSslMode::Disable {
            let sql = "SELECT coalesce((SELECT ssl FROM pg_catalog.pg_stat_ssl \
                       WHERE pid = pg_catalog.pg_backend_pid()), false)";
            connection.encrypted = connection.row(sql, &[]).await?.get(0);
        }
        Ok((connection, reported))
    }
}

/// Settings that older servers do not know.
fn versioned_options(version: u32) -> Vec<(&'static str, String)> {
    // From 12 on any value above 0 means the shortest exact form; before, 3 is what makes floats exact.
    let mut options = vec![("extra_float_digits", if version >= 12 { "1" } else { "3" }.to_owned())];
    if version >= 14 {
        options.push(("idle_session_timeout", "0".to_owned()));
    }
    if version >= 17 {
        options.push(("transaction_timeout", "0".to_owned()));
    }
    options
}

/// Settings as a server's command line, where blanks and backslashes are escaped.
fn command_line(options: &[(&'static str, String)]) -> String {
    let escape = |value: &str| value.replace('\\', "\\\\").replace(' ', "\\ ");
    let words: Vec<_> = options.iter().map(|(name, value)| format!("-c {name}={}", escape(value))).collect();
    words.join(" ")
}

fn major(version: &str) -> Option<u32> {
    version.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_known_settings_are_sent() {
        let names = |version| versioned_options(version).into_iter().map(|(n, _)| n).collect::<Vec<_>>();
        assert_eq!(names(10), ["extra_float_digits"]);
        assert_eq!(names(17), ["extra_float_digits", "idle_session_timeout", "transaction_timeout"]);
        assert_eq!(versioned_options(11)[0].1, "3");
    }

    #[test]
    fn versions_and_blanks() {
        assert_eq!(major("15.18 (Debian)"), Some(15));
        assert_eq!(major("18beta1"), Some(18));
        assert_eq!(command_line(&[("a", "b c".to_owned())]), "-c a=b\\ c");
    }
}
