//! Connection URLs: `postgresql://user:password@host:port/database?sslmode=…`, percent-encoded.

use lakeward_core::{Error, ErrorKind, Result, Secret};

use crate::config::SslMode;

/// What a URL says.
#[derive(Debug, Default)]
pub(crate) struct Parts {
    pub(crate) host: Option<String>,
    pub(crate) port: Option<u16>,
    pub(crate) database: Option<String>,
    pub(crate) username: Option<String>,
    pub(crate) password: Option<Secret>,
    pub(crate) ssl_mode: Option<SslMode>,
    pub(crate) application_name: Option<String>,
}

fn refuse(what: &str) -> Error {
    Error::new(ErrorKind::Config, format!("\"url\" cannot be read: {what}"))
        .hint("write postgresql://user:password@host:5432/database, special characters as %XX")
}

/// Reads a URL.
///
/// # Errors
/// `Config`. No part of the URL is quoted, because a mistyped one may hold the password anywhere.
pub(crate) fn parse(url: &str) -> Result<Parts> {
    let rest = url
        .strip_prefix("postgresql://")
        .or_else(|| url.strip_prefix("postgres://"))
        .ok_or_else(|| refuse("it does not begin with postgresql://"))?;
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, database) = rest.split_once('/').unwrap_or((rest, ""));
    let (user, host) = authority.rsplit_once('@').unwrap_or(("", authority));
    let (username, password) = match user.split_once(':') {
        Some((username, password)) => (username, Some(password)),
        None => (user, None),
    };
    if host.contains(',') {
        return Err(refuse("it names several hosts"));
    }
    let (host, port) = match host.strip_prefix('[') {
        Some(rest) => {
            let (address, rest) = rest.split_once(']').ok_or_else(|| refuse("a bracket is not closed"))?;
            (address, rest.strip_prefix(':'))
        }
        None => match host.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (host, None),
        },
    };
    let port = match port.filter(|text| !text.is_empty()) {
        Some(text) => Some(text.parse().map_err(|_| refuse("the port is no number"))?),
        None => None,
    };
    let some = |text: &str| -> Result<Option<String>> {
        if text.is_empty() { Ok(None) } else { decode(text).map(Some) }
    };
    let mut parts = Parts {
        host: some(host)?,
        port,
        database: some(database)?,
        username: some(username)?,
        password: password.map(decode).transpose()?.map(Secret::new),
        ..Parts::default()
    };
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').ok_or_else(|| refuse("a parameter has no value"))?;
        let value = decode(value)?;
        match name {
            "sslmode" => {
                parts.ssl_mode = Some(match value.as_str() {
                    "disable" => SslMode::Disable,
                    "prefer" => SslMode::Prefer,
                    "require" => SslMode::Require,
                    "verify-ca" => SslMode::VerifyCa,
                    "verify-full" => SslMode::VerifyFull,
                    _ => return Err(refuse("its sslmode is unknown")),
                });
            }
            "application_name" => parts.application_name = Some(value),
            _ => {
                return Err(refuse("it has a parameter other than sslmode and application_name")
                    .hint("set it as a field of the config instead"));
            }
        }
    }
    Ok(parts)
}

fn decode(text: &str) -> Result<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digit = |byte: Option<u8>| byte.and_then(|b| char::from(b).to_digit(16));
        match (digit(rest.next()), digit(rest.next())) {
            (Some(high), Some(low)) => bytes.push((high * 16 + low) as u8),
            _ => return Err(refuse("a % is not followed by two hexadecimal digits")),
        }
    }
    String::from_utf8(bytes).map_err(|_| refuse("it is not UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_parts_are_decoded() {
        let parts = parse("postgres://us%40er:p%3Aw%2F@[::1]:6543/my%20db?sslmode=verify-full").unwrap();
        assert_eq!(parts.username.as_deref(), Some("us@er"));
        assert_eq!(parts.password.as_ref().map(Secret::expose), Some("p:w/"));
        assert_eq!((parts.host.as_deref(), parts.port), (Some("::1"), Some(6543)));
        assert_eq!(parts.database.as_deref(), Some("my db"));
        assert_eq!(parts.ssl_mode, Some(SslMode::VerifyFull));
        let parts = parse("postgresql://u@%2Fvar%2Frun/d").unwrap();
        assert_eq!(parts.host.as_deref(), Some("/var/run"));
        assert_eq!(parts.password, None);
    }

    #[test]
    fn errors_quote_nothing() {
        for url in [
            "canary",
            "postgres://u:canary%@h/d",
            "postgres://u:canary@h/d?canary=1",
            "postgres://u@h:canary/d",
        ] {
            let error = parse(url).unwrap_err();
            assert!(!format!("{error:?} {:?}", error.remedy()).contains("canary"), "{error:?}");
        }
    }
}
