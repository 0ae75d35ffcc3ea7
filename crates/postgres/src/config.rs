//! The config of a PostgreSQL source: as it is written, and as it is used once checked.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use lakeward_core::{ColumnType, Error, ErrorKind, Result, Secret, parse_config};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::tls::{TlsMode, TlsSettings};
use crate::{url, wire};

const DEFAULT_PORT: u16 = 5432;
const DEFAULT_MAX_CONNECTIONS: usize = 4;
const DEFAULT_LOCK_TIMEOUT: Period = Period::from_secs(30);
const DEFAULT_CONNECT_TIMEOUT: Period = Period::from_secs(10);
const DEFAULT_SILENCE_LIMIT: Period = Period::from_secs(600);
const DEFAULT_APPLICATION_NAME: &str = "lakeward";

/// A PostgreSQL source, version 10 or later, as written in source.json.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PostgresConfig {
    /// Always `postgres`.
    #[serde(rename = "type")]
    #[schemars(extend("const" = "postgres"))]
    pub kind: String,
    /// `postgresql://user:password@host:port/database?sslmode=require` instead of the parts.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub url: Option<Secret>,
    /// Host name, address, or directory of the server's Unix socket.
    #[serde(default)]
    pub host: Option<String>,
    /// Port; 5432 where none is named.
    #[serde(default)]
    pub port: Option<u16>,
    /// Database.
    #[serde(default)]
    pub database: Option<String>,
    /// Role that connects.
    #[serde(default)]
    pub username: Option<String>,
    /// Its password.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub password: Option<Secret>,
    /// How the connection is encrypted.
    #[serde(default)]
    pub ssl: Option<SslConfig>,
    /// Schemas whose tables and views are offered; all but the system's where none are named.
    #[serde(default)]
    pub schemas: Vec<String>,
    /// How many connections may read at once.
    #[serde(default = "default_max_connections")]
    pub max_connections: usize,
    /// How often a step is tried again when the server does not answer. Without it 5 times, some eight seconds; but
    /// what `--follow` reads is tried until it answers.
    #[serde(default)]
    pub max_retries: Option<u32>,
    /// What a `numeric` without precision becomes: `text` (exact), `double`, or `decimal(p,s)`.
    #[serde(default)]
    #[schemars(with = "String")]
    pub unconstrained_numeric: UnconstrainedNumeric,
    /// How rows are asked from the server.
    #[serde(default)]
    pub copy_format: CopyChoice,
    /// How long to wait for a table's lock (ACCESS SHARE, which only DDL conflicts with): `30s`, `500ms`, `2m`.
    #[serde(default = "default_lock_timeout")]
    pub lock_timeout: Period,
    /// How long a connection may take to be made.
    #[serde(default = "default_connect_timeout")]
    pub connect_timeout: Period,
    /// How long the server may be silent while it is asked for rows before the connection is given up. A pass over
    /// a large table whose cursor has no index is silent until the first row.
    #[serde(default = "default_silence_limit")]
    pub silence_limit: Period,
    /// The name under which sessions stand in `pg_stat_activity`.
    #[serde(default = "default_application_name")]
    pub application_name: String,
    /// The change stream.
    #[serde(default)]
    pub replication: Option<ReplicationConfig>,
}

/// How the connection is encrypted, with libpq's meanings.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SslConfig {
    /// What is demanded of the connection.
    #[serde(default)]
    pub mode: Option<SslMode>,
    /// The authority that signed the server's certificate, as PEM text (`file:///…` reads a file).
    #[serde(default)]
    pub server_ca: Option<String>,
    /// A certificate to present, as PEM text.
    #[serde(default)]
    pub client_cert: Option<String>,
    /// Its private key, as PEM text.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub client_key: Option<Secret>,
}

/// libpq's `sslmode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum SslMode {
    /// Never encrypted.
    Disable,
    /// Encrypted where the server can.
    #[default]
    Prefer,
    /// Encrypted; the server's certificate is not checked.
    Require,
    /// Encrypted, by a certificate of a known authority.
    VerifyCa,
    /// As `verify-ca`, and the certificate names the host.
    VerifyFull,
}

/// The change stream's settings.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ReplicationConfig {
    /// Replication slot; `lakeward_<pipeline>` where none is named.
    #[serde(default)]
    pub slot: Option<String>,
    /// Publication; `lakeward_<pipeline>` where none is named.
    #[serde(default)]
    pub publication: Option<String>,
    /// Whether slot and publication are made and altered as needed.
    #[serde(default = "default_manage")]
    pub manage: bool,
    /// What to do when the slot is gone or has lost changes.
    #[serde(default)]
    pub on_slot_lost: OnSlotLost,
    /// How often to write a heartbeat message into the log while captured tables are idle.
    #[serde(default)]
    pub heartbeat: Option<Period>,
}

/// What to do when the slot is gone or has lost changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnSlotLost {
    /// Stop, and say so.
    #[default]
    Error,
    /// Read all rows again.
    Resnapshot,
}

/// How rows are asked from the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum CopyChoice {
    /// By table: what costs the server less.
    #[default]
    Auto,
    /// Always text.
    Text,
    /// Binary wherever every column can be read so.
    Binary,
}

/// What a `numeric` without precision becomes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(try_from = "String")]
pub enum UnconstrainedNumeric {
    /// Its exact text.
    #[default]
    Text,
    /// The nearest double.
    Double,
    /// A decimal; values that do not fit follow the stream's policy.
    Decimal {
        /// All digits.
        precision: u8,
        /// Digits after the point.
        scale: u8,
    },
}

impl UnconstrainedNumeric {
    /// The column type that it stands for.
    pub(crate) fn column_type(&self) -> ColumnType {
        match self {
            Self::Text => ColumnType::Text,
            Self::Double => ColumnType::Float64,
            Self::Decimal { precision, scale } => {
                ColumnType::Decimal { precision: *precision, scale: *scale }
            }
        }
    }
}

impl TryFrom<String> for UnconstrainedNumeric {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.parse::<ColumnType>() {
            Ok(ColumnType::Text) => Ok(Self::Text),
            Ok(ColumnType::Float64) => Ok(Self::Double),
            Ok(ColumnType::Decimal { precision, scale }) => Ok(Self::Decimal { precision, scale }),
            _ => Err("unconstrained_numeric is text, double or decimal(p,s) with s <= p <= 76".to_owned()),
        }
    }
}

/// A length of time as people write it: `500ms`, `30s`, `10m`, `2h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Period(Duration);

impl Period {
    const fn from_secs(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }

    /// The same as a `Duration`.
    pub fn duration(self) -> Duration {
        self.0
    }
}

impl FromStr for Period {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let unit = match &text[digits.len()..] {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            _ => return Err("a length of time is written 500ms, 30s, 10m or 2h".to_owned()),
        };
        // The server keeps such settings in milliseconds, as a signed 32-bit number.
        let milliseconds = digits.trim().parse::<u64>().ok().and_then(|n| n.checked_mul(unit));
        match milliseconds.filter(|n| *n <= i32::MAX as u64) {
            Some(n) => Ok(Self(Duration::from_millis(n))),
            None => Err("a length of time is a whole number and a unit, at most 24 days".to_owned()),
        }
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let milliseconds = self.0.as_millis();
        if milliseconds.is_multiple_of(1000) {
            write!(f, "{}s", milliseconds / 1000)
        } else {
            write!(f, "{milliseconds}ms")
        }
    }
}

impl<'de> Deserialize<'de> for Period {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl Serialize for Period {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl JsonSchema for Period {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Period".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string", "pattern": "^[0-9]+(ms|s|m|h)$", "description": "A length of time: 500ms, 30s, 10m, 2h."
        })
    }
}

fn default_max_connections() -> usize {
    DEFAULT_MAX_CONNECTIONS
}
fn default_lock_timeout() -> Period {
    DEFAULT_LOCK_TIMEOUT
}
fn default_connect_timeout() -> Period {
    DEFAULT_CONNECT_TIMEOUT
}
fn default_silence_limit() -> Period {
    DEFAULT_SILENCE_LIMIT
}
fn default_application_name() -> String {
    DEFAULT_APPLICATION_NAME.to_owned()
}
impl Default for ReplicationConfig {
    fn default() -> Self {
        Self {
            slot: None,
            publication: None,
            manage: default_manage(),
            on_slot_lost: OnSlotLost::default(),
            heartbeat: None,
        }
    }
}

/// The server cuts off what is longer (`NAMEDATALEN`), in bytes.
const LONGEST_NAME: usize = 63;
/// What a publication's name gets behind it for streams of which only inserts are followed.
pub(crate) const INSERT_ONLY: &str = "_insert_only";

impl ReplicationConfig {
    /// What the server would refuse, or cut off without a word.
    fn validate(&self) -> Result<()> {
        let refuse = |field: &str, message: &str| {
            Error::new(ErrorKind::Config, message).at("field", format!("replication.{field}"))
        };
        let fits = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_');
        if let Some(slot) = &self.slot
            && !((1..=LONGEST_NAME).contains(&slot.len()) && slot.bytes().all(fits))
        {
            return Err(refuse("slot", "the slot's name is none that a slot can have")
                .hint(format!("a slot's name has 1 to {LONGEST_NAME} of the characters a-z, 0-9 and _")));
        }
        // Where it is ours, another one is made whose name begins with it.
        let room = LONGEST_NAME - if self.manage { INSERT_ONLY.len() } else { 0 };
        if let Some(publication) = &self.publication
            && (!(1..=room).contains(&publication.len()) || publication.contains('\0'))
        {
            return Err(refuse("publication", "the publication's name is too long, or empty")
                .hint(format!("it may have {room} bytes; the server cuts off what is longer")));
        }
        if self.heartbeat.is_some_and(|period| period.0.is_zero()) {
            return Err(refuse("heartbeat", "the heartbeat's period is 0")
                .hint("set a period above 0, or leave heartbeat out"));
        }
        Ok(())
    }
}

fn default_manage() -> bool {
    true
}

/// The JSON Schema of [`PostgresConfig`].
pub fn spec() -> Value {
    schemars::schema_for!(PostgresConfig).to_value()
}

/// A config that has been checked: nothing in it is missing or said twice.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) database: String,
    pub(crate) username: String,
    pub(crate) password: Secret,
    pub(crate) tls: TlsSettings,
    pub(crate) schemas: Vec<String>,
    pub(crate) max_connections: usize,
    pub(crate) max_retries: Option<u32>,
    pub(crate) unconstrained_numeric: ColumnType,
    pub(crate) copy_format: CopyChoice,
    pub(crate) lock_timeout: Duration,
    pub(crate) connect_timeout: Duration,
    pub(crate) silence_limit: Duration,
    pub(crate) application_name: String,
    pub(crate) replication: Option<ReplicationConfig>,
}

impl Settings {
    /// Whether the host is a directory, in which the server has a Unix socket.
    pub(crate) fn is_local(&self) -> bool {
        wire::is_socket_directory(&self.host)
    }
}

impl PostgresConfig {
    /// Reads a config.
    ///
    /// # Errors
    /// `Config`, naming the field; an unknown one is answered with the nearest known name.
    pub fn parse(value: Value) -> Result<Self> {
        parse_config(value, &spec(), "the postgres source")
    }

    /// Checks that the parts fit together.
    ///
    /// # Errors
    /// `Config`, naming the field and the remedy.
    pub(crate) fn validate(self) -> Result<Settings> {
        let refuse = |message: &str, hint: &str| Err(Error::new(ErrorKind::Config, message).hint(hint));
        if self.kind != "postgres" {
            return refuse("the config is of another type", "a postgres source has \"type\": \"postgres\"");
        }
        let parts = match &self.url {
            Some(url) => {
                let doubled = self.host.is_some()
                    || self.port.is_some()
                    || self.database.is_some()
                    || self.username.is_some()
                    || self.password.is_some();
                if doubled {
                    return refuse(
                        "\"url\" stands beside its own parts",
                        "keep either url, or host, port, database, username and password",
                    );
                }
                url::parse(url.expose())?
            }
            None => url::Parts {
                host: self.host,
                port: self.port,
                database: self.database,
                username: self.username,
                password: self.password,
                ..url::Parts::default()
            },
        };
        let require = |field: &str, value: Option<String>| {
            value.filter(|text| !text.is_empty() && !text.contains('\0')).ok_or_else(|| {
                Error::new(ErrorKind::Config, format!("\"{field}\" is missing"))
                    .hint(format!("set {field}, or url"))
            })
        };
        let ssl = self.ssl.unwrap_or_default();
        if ssl.mode.is_some() && parts.ssl_mode.is_some() {
            return refuse("ssl.mode and the url's sslmode both stand", "keep one of them");
        }
        if ssl.client_cert.is_some() != ssl.client_key.is_some() {
            return refuse(
                "a client certificate needs its key",
                "set ssl.client_cert and ssl.client_key together",
            );
        }
        if self.max_connections == 0 {
            return refuse("max_connections is 0", "let at least one connection read");
        }
        if self.connect_timeout.0.is_zero() || self.silence_limit.0.is_zero() {
            return refuse("a time limit is 0", "connect_timeout and silence_limit are above 0");
        }
        if let Some(replication) = &self.replication {
            replication.validate()?;
        }
        if self.application_name.contains('\0') {
            return refuse("\"application_name\" holds a zero byte", "a name is text without one");
        }
        let bytes = |text: String| text.into_bytes();
        Ok(Settings {
            host: require("host", parts.host)?,
            port: parts.port.unwrap_or(DEFAULT_PORT),
            database: require("database", parts.database)?,
            username: require("username", parts.username)?,
            password: parts.password.unwrap_or_default(),
            tls: TlsSettings {
                mode: tls_mode(ssl.mode.or(parts.ssl_mode).unwrap_or_default()),
                server_ca: ssl.server_ca.map(bytes),
                client_cert: ssl.client_cert.map(bytes),
                client_key: ssl.client_key.map(|key| key.expose().as_bytes().to_vec()),
            },
            schemas: self.schemas,
            max_connections: self.max_connections,
            max_retries: self.max_retries,
            unconstrained_numeric: self.unconstrained_numeric.column_type(),
            copy_format: self.copy_format,
            lock_timeout: self.lock_timeout.0,
            connect_timeout: self.connect_timeout.0,
            silence_limit: self.silence_limit.0,
            application_name: parts.application_name.unwrap_or(self.application_name),
            replication: self.replication,
        })
    }
}

fn tls_mode(mode: SslMode) -> TlsMode {
    match mode {
        SslMode::Disable => TlsMode::Disable,
        SslMode::Prefer => TlsMode::Prefer,
        SslMode::Require => TlsMode::Require,
        SslMode::VerifyCa => TlsMode::VerifyCa,
        SslMode::VerifyFull => TlsMode::VerifyFull,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn settings(value: Value) -> Result<Settings> {
        PostgresConfig::parse(value)?.validate()
    }

    #[test]
    fn defaults_fill_what_is_not_said() {
        let config =
            settings(json!({"type": "postgres", "host": "h", "database": "d", "username": "u"})).unwrap();
        assert_eq!((config.port, config.max_connections), (DEFAULT_PORT, DEFAULT_MAX_CONNECTIONS));
        assert_eq!(config.tls.mode, TlsMode::Prefer);
        assert_eq!(config.lock_timeout, Duration::from_secs(30));
    }

    #[test]
    fn names_that_the_server_would_cut_off_are_refused() {
        let with = |replication: Value| {
            settings(
                json!({"type": "postgres", "host": "h", "database": "d", "username": "u", "replication": replication}),
            )
        };
        for refused in [
            json!({"slot": "s".repeat(64)}),
            json!({"slot": "Bad-Slot"}),
            json!({"slot": ""}),
            json!({"publication": "p".repeat(52)}),
            json!({"publication": "p".repeat(64), "manage": false}),
            json!({"publication": ""}),
            json!({"heartbeat": "0s"}),
        ] {
            let error = with(refused.clone()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config, "{refused}");
            assert!(error.remedy().is_some(), "{refused}");
        }
        for accepted in [
            json!({"slot": "s".repeat(63)}),
            json!({"publication": "P".repeat(51)}),
            json!({"publication": "p".repeat(63), "manage": false}),
            json!({"heartbeat": "1s"}),
        ] {
            with(accepted.clone()).unwrap_or_else(|error| panic!("{accepted}: {error}"));
        }
    }

    #[test]
    fn url_and_parts_exclude_each_other() {
        let error =
            settings(json!({"type": "postgres", "url": "postgres://u@h/d", "host": "x"})).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        let config = settings(json!({"type": "postgres", "url": "postgres://u:p@h:1/d?sslmode=disable"}));
        assert_eq!(config.unwrap().tls.mode, TlsMode::Disable);
    }

    #[test]
    fn mistakes_name_the_field() {
        for (value, expected) in [
            (json!({"type": "postgres", "hsot": "h"}), "hsot"),
            (json!({"type": "postgres", "host": "h", "database": "d"}), "username"),
            (json!({"type": "postgres", "url": "postgres://u@h/d", "max_connections": 0}), "max_connections"),
        ] {
            let error = settings(value).unwrap_err();
            assert!(error.to_string().contains(expected), "{error}");
        }
    }

    #[test]
    fn periods_and_numerics_are_read_as_people_write_them() {
        assert_eq!("500ms".parse::<Period>().unwrap().duration(), Duration::from_millis(500));
        assert_eq!("2m".parse::<Period>().unwrap().to_string(), "120s");
        assert!("2".parse::<Period>().is_err());
        let decimal = UnconstrainedNumeric::try_from("decimal(20,4)".to_owned()).unwrap();
        assert_eq!(decimal.column_type(), ColumnType::Decimal { precision: 20, scale: 4 });
        assert!(UnconstrainedNumeric::try_from("int8".to_owned()).is_err());
    }
}
