//! TLS of the proxy: a server to its clients, a client to the API server.

use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

use crate::certs::Authority;
use crate::error::{Error, Result};

const WHAT: &str = "prepare TLS for the proxy";

/// To the API server.
pub(super) struct Connector(TlsConnector);

/// To the clients.
pub(super) struct Acceptor(TlsAcceptor);

impl Connector {
    pub(super) fn new(authority: &Authority) -> Result<Self> {
        let mut roots = RootCertStore::empty();
        let root = CertificateDer::from_pem_slice(authority.pem().as_bytes()).map_err(Error::doing(WHAT))?;
        roots.add(root).map_err(Error::doing(WHAT))?;
        let config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(Error::doing(WHAT))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self(TlsConnector::from(Arc::new(config))))
    }

    pub(super) async fn connect(&self, stream: TcpStream) -> std::io::Result<client::TlsStream<TcpStream>> {
        let name = ServerName::try_from("localhost").map_err(std::io::Error::other)?;
        self.0.connect(name, stream).await
    }
}

impl Acceptor {
    pub(super) fn new(authority: &Authority) -> Result<Self> {
        let serving = authority.serving_loopback()?;
        let chain = CertificateDer::from_pem_slice(serving.certificate.as_bytes()).map_err(Error::doing(WHAT))?;
        let key = PrivateKeyDer::from_pem_slice(serving.key.as_bytes()).map_err(Error::doing(WHAT))?;
        let config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(Error::doing(WHAT))?
            .with_no_client_auth()
            .with_single_cert(vec![chain], key)
            .map_err(Error::doing(WHAT))?;
        Ok(Self(TlsAcceptor::from(Arc::new(config))))
    }

    pub(super) async fn accept(&self, stream: TcpStream) -> std::io::Result<server::TlsStream<TcpStream>> {
        self.0.accept(stream).await
    }
}

impl std::fmt::Debug for Connector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Connector")
    }
}

impl std::fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Acceptor")
    }
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}
