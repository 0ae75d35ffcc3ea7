//! TLS as libpq's `sslmode` has it, by rustls on ring.

use std::sync::Arc;

use lakeward_core::{Error, ErrorKind, Result, ResultExt};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

/// What is asked of a connection's encryption, with the meaning of libpq's `sslmode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TlsMode {
    /// None.
    Disable,
    /// Where the server offers it; the certificate is not verified.
    #[default]
    Prefer,
    /// Always; the certificate is verified only where a CA is given.
    Require,
    /// Always, with a certificate that a trusted CA signed for any host.
    VerifyCa,
    /// Always, with a certificate that a trusted CA signed for this host.
    VerifyFull,
}

/// Encryption and who is trusted. Certificates and keys are PEM.
#[derive(Clone, Default)]
pub struct TlsSettings {
    /// What is asked for.
    pub mode: TlsMode,
    /// The CAs to trust; the system's where there are none.
    pub server_ca: Option<Vec<u8>>,
    /// Our own certificate and those that lead to its CA.
    pub client_cert: Option<Vec<u8>>,
    /// The key of our certificate.
    pub client_key: Option<Vec<u8>>,
}

impl std::fmt::Debug for TlsSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TlsSettings")
            .field("mode", &self.mode)
            .field("server_ca", &self.server_ca.is_some())
            .field("client_cert", &self.client_cert.is_some())
            .finish_non_exhaustive()
    }
}

/// The verdict of the TLS library behind an error.
pub(crate) fn verdict<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a rustls::Error> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        // An io error hides what it wraps from `source`.
        let wrapped = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        let found = wrapped.and_then(|inner| inner.downcast_ref()).or_else(|| error.downcast_ref());
        if found.is_some() {
            return found;
        }
        cause = error.source();
    }
    None
}

/// What to say of a certificate that was refused, if it is that. One that is refused today is refused tomorrow.
pub(crate) fn refused_certificate(error: &(dyn std::error::Error + 'static)) -> Option<Error> {
    matches!(verdict(error), Some(rustls::Error::InvalidCertificate(_))).then(|| {
        Error::new(ErrorKind::Config, "the server's certificate cannot be trusted").hint(
            "check ssl.server_ca and, for verify-full, that the certificate names the host that is configured",
        )
    })
}

impl TlsSettings {
    /// How to verify the server and who we are.
    ///
    /// # Errors
    /// `Config` where a certificate or key cannot be read, or there is no CA to verify with.
    pub fn client_config(&self) -> Result<ClientConfig> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = self.verifier(&provider)?;
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .or_fail(ErrorKind::Bug, || "ring offers no TLS version".to_owned())?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        match (&self.client_cert, &self.client_key) {
            (None, None) => Ok(builder.with_no_client_auth()),
            (Some(certificate), Some(key)) => {
                let chain = certificates(certificate, "the client certificate")?;
                let key = PrivateKeyDer::from_pem_slice(key)
                    .or_fail(ErrorKind::Config, || "the client key is no PEM private key".to_owned())
                    .map_err(|error| error.hint(PEM_HINT))?;
                builder.with_client_auth_cert(chain, key).or_fail(ErrorKind::Config, || {
                    "the client certificate and its key do not fit together".to_owned()
                })
            }
            _ => Err(Error::new(ErrorKind::Config, "a client certificate and its key are given together")),
        }
    }

    fn verifier(&self, provider: &Arc<CryptoProvider>) -> Result<Verifier> {
        // As in libpq, a CA that is given is used: `require` with one means `verify-ca`.
        let trust = match self.mode {
            TlsMode::VerifyFull => Trust::ChainAndName,
            TlsMode::VerifyCa => Trust::Chain,
            TlsMode::Require if self.server_ca.is_some() => Trust::Chain,
            TlsMode::Disable | TlsMode::Prefer | TlsMode::Require => {
                return Ok(Verifier { provider: provider.clone(), chain: None });
            }
        };
        let roots = match &self.server_ca {
            Some(pem) => certificates(pem, "the server CA")?,
            None => rustls_native_certs::load_native_certs().certs,
        };
        let mut store = RootCertStore::empty();
        let (added, _) = store.add_parsable_certificates(roots.iter().cloned());
        if added == 0 {
            return Err(Error::new(ErrorKind::Config, "there is no CA to verify the server with")
                .hint("name the server's CA certificate in the source's TLS settings"));
        }
        let webpki = WebPkiServerVerifier::builder_with_provider(Arc::new(store), provider.clone())
            .build()
            .or_fail(ErrorKind::Config, || "the server CA cannot be used".to_owned())?;
        let pinned = if self.server_ca.is_some() { roots } else { Vec::new() };
        Ok(Verifier { provider: provider.clone(), chain: Some(Chain { webpki, trust, pinned }) })
    }
}

const PEM_HINT: &str = "it begins with -----BEGIN; write file:///path for what is in a file";

fn certificates(pem: &[u8], what: &str) -> Result<Vec<CertificateDer<'static>>> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let found = found
        .or_fail(ErrorKind::Config, || format!("{what} is no PEM certificate"))
        .map_err(|error| error.hint(PEM_HINT))?;
    if found.is_empty() {
        return Err(Error::new(ErrorKind::Config, format!("{what} holds no PEM certificate")).hint(PEM_HINT));
    }
    Ok(found)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trust {
    Chain,
    ChainAndName,
}

#[derive(Debug)]
struct Verifier {
    provider: Arc<CryptoProvider>,
    /// `None` accepts every certificate; that the server owns its key is still verified.
    chain: Option<Chain>,
}

#[derive(Debug)]
struct Chain {
    webpki: Arc<WebPkiServerVerifier>,
    trust: Trust,
    /// The CAs that the user gave, one of which may be the server's own certificate.
    pinned: Vec<CertificateDer<'static>>,
}

impl Chain {
    fn verify(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        use CertificateError as Bad;
        match self.webpki.verify_server_cert(certificate, intermediates, name, ocsp, now) {
            Ok(_) => Ok(()),
            // The name is verified last: the chain is good.
            Err(rustls::Error::InvalidCertificate(
                Bad::NotValidForName | Bad::NotValidForNameContext { .. },
            )) if self.trust == Trust::Chain => Ok(()),
            // A self-signed server certificate that the user gave as its own CA, as PostgreSQL's manual makes
            // one; webpki refuses a CA as a server. Validity is checked before that.
            Err(rustls::Error::InvalidCertificate(Bad::Other(_))) if self.pinned.contains(certificate) => {
                match self.trust {
                    Trust::Chain => Ok(()),
                    Trust::ChainAndName => rustls::client::verify_server_name(
                        &rustls::server::ParsedCertificate::try_from(certificate)?,
                        name,
                    ),
                }
            }
            Err(error) => Err(error),
        }
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if let Some(chain) = &self.chain {
            chain.verify(end_entity, intermediates, server_name, ocsp_response, now)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
