//! Proving who we are: SCRAM-SHA-256, MD5, cleartext.

use bytes::BytesMut;
use lakeward_core::{Error, ErrorKind, Result, ResultExt};
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, ScramSha256};
use postgres_protocol::message::frontend;

use super::Endpoint;

/// The client's side of an authentication.
pub(super) struct Authentication<'a> {
    endpoint: &'a Endpoint,
    scram: Option<ScramSha256>,
}

/// Codes of `Authentication…` messages.
const OK: u32 = 0;
const CLEARTEXT: u32 = 3;
const MD5: u32 = 5;
const SASL: u32 = 10;
const SASL_CONTINUE: u32 = 11;
const SASL_FINAL: u32 = 12;

impl<'a> Authentication<'a> {
    pub(super) fn new(endpoint: &'a Endpoint) -> Self {
        Self { endpoint, scram: None }
    }

    /// Answers a request of the server; the answer may be empty.
    ///
    /// # Errors
    /// `Config` where the server wants what we do not have, or does not prove that it knows the password.
    pub(super) fn answer(&mut self, body: &[u8]) -> Result<BytesMut> {
        let (code, data) = body.split_first_chunk().ok_or_else(foreign)?;
        let mut out = BytesMut::new();
        match u32::from_be_bytes(*code) {
            // A server that breaks SCRAM off has not proved that it is the one that knows the password.
            OK if self.scram.is_some() => return Err(unproven()),
            OK => {}
            CLEARTEXT => {
                frontend::password_message(self.password()?, &mut out).map_err(unusable_password)?;
            }
            MD5 => {
                let salt = data.try_into().map_err(|_| foreign())?;
                let hash = md5_hash(self.endpoint.user.as_bytes(), self.password()?, salt);
                frontend::password_message(hash.as_bytes(), &mut out).map_err(unusable_password)?;
            }
            SASL => {
                if !data.split(|byte| *byte == 0).any(|name| name == SCRAM_SHA_256.as_bytes()) {
                    return Err(Error::new(ErrorKind::Config, "the server offers no SCRAM-SHA-256"));
                }
                let scram = ScramSha256::new(self.password()?, ChannelBinding::unsupported());
                frontend::sasl_initial_response(SCRAM_SHA_256, scram.message(), &mut out)
                    .map_err(|_| foreign())?;
                self.scram = Some(scram);
            }
            SASL_CONTINUE => {
                let scram = self.scram.as_mut().ok_or_else(foreign)?;
                scram.update(data).or_fail(ErrorKind::Connection, || "SCRAM broke off".to_owned())?;
                frontend::sasl_response(scram.message(), &mut out).map_err(|_| foreign())?;
            }
            SASL_FINAL => {
                let mut scram = self.scram.take().ok_or_else(foreign)?;
                scram.finish(data).map_err(|_| unproven())?;
            }
            other => {
                return Err(Error::new(
                    ErrorKind::Config,
                    "the server wants an authentication we do not have",
                )
                .at("method", other)
                .hint("use scram-sha-256 in the server's pg_hba.conf"));
            }
        }
        Ok(out)
    }

    fn password(&self) -> Result<&[u8]> {
        if self.endpoint.password.is_empty() {
            return Err(Error::new(ErrorKind::Config, "the server asks for a password and there is none")
                .hint("set the password in the source's config"));
        }
        Ok(self.endpoint.password.expose().as_bytes())
    }
}

fn foreign() -> Error {
    Error::new(ErrorKind::Connection, "the server does not authenticate as PostgreSQL does")
}

fn unproven() -> Error {
    Error::new(ErrorKind::Config, "the server did not prove that it knows the password")
        .hint("check that host and port are those of the server you mean")
}

fn unusable_password(_: std::io::Error) -> Error {
    // The cause might quote it.
    Error::new(ErrorKind::Config, "the password holds a zero byte")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use lakeward_core::Secret;

    use super::*;
    use crate::tls::TlsSettings;

    fn endpoint(password: &str) -> Endpoint {
        Endpoint {
            host: "localhost".into(),
            port: 5432,
            database: "d".into(),
            user: "user".into(),
            password: Secret::new(password),
            application_name: "a".into(),
            tls: TlsSettings::default(),
            connect_timeout: Duration::from_secs(1),
            read_timeout: Duration::from_secs(1),
            options: Vec::new(),
        }
    }

    #[test]
    fn passwords_are_sent_as_asked_for() {
        let endpoint = endpoint("secret");
        let mut authentication = Authentication::new(&endpoint);
        assert_eq!(&authentication.answer(&[0, 0, 0, 3]).unwrap()[..], b"p\0\0\0\x0bsecret\0");
        let hash = md5_hash(b"user", b"secret", [1, 2, 3, 4]);
        let answer = authentication.answer(&[0, 0, 0, 5, 1, 2, 3, 4]).unwrap();
        assert_eq!(&answer[5..answer.len() - 1], hash.as_bytes());
        assert!(authentication.answer(&[0, 0, 0, 0]).unwrap().is_empty());
    }

    #[test]
    fn a_server_that_skips_its_own_proof_is_refused() {
        let endpoint = endpoint("secret");
        let mut authentication = Authentication::new(&endpoint);
        authentication.answer(b"\0\0\0\x0aSCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0").unwrap();
        assert_eq!(authentication.answer(&[0, 0, 0, 0]).unwrap_err().kind(), ErrorKind::Config);
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        let endpoint = endpoint("");
        for body in [
            &b""[..],
            b"\0\0\0",
            b"\0\0\0\x07",
            b"\0\0\0\x03",
            b"\0\0\0\x05ab",
            b"\0\0\0\x0bx",
            b"\0\0\0\x0cx",
        ] {
            assert!(Authentication::new(&endpoint).answer(body).is_err());
        }
    }
}
