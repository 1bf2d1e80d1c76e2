//! TLS without a socket: the owner of the socket passes bytes in and out, so reading, writing and batching stay with
//! that owner.

use crate::websocket::FrameDecoder;
use rustls::{ClientConfig, ClientConnection, RootCertStore, pki_types::ServerName};
use std::{
    io::{self, Read, Write},
    sync::Arc,
};

/// Why TLS can not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// No root certificate could be loaded. The text has the errors of the files that were tried.
    #[error("no TLS root certificates found ({0}): install the ca-certificates package or set SSL_CERT_FILE")]
    NoRoots(String),
    /// The TLS library refuses the settings.
    #[error(transparent)]
    Settings(#[from] rustls::Error),
    /// The certificate of the server could not be checked against the host of the URL.
    #[error("the host of the gateway URL is not a host name")]
    HostName,
}

/// The configuration for connections to Discord, with the root certificates of the system or of `SSL_CERT_FILE`.
/// Loading these takes tens of milliseconds, so the caller should do it once. Certificates that can not be
/// read or parsed are left out.
///
/// # Errors
/// When no certificate is left. The error lists what could not be read.
pub fn client_config() -> Result<Arc<ClientConfig>, TlsError> {
    let loaded = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(loaded.certs);
    if added == 0 {
        let errors: Vec<String> = loaded.errors.iter().map(ToString::to_string).collect();
        return Err(TlsError::NoRoots(errors.join("; ")));
    }
    let config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// The cryptography library that all TLS connections use.
pub fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// The client side of one TLS connection.
pub struct Tls {
    connection: ClientConnection,
}

fn invalid(error: rustls::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

impl Tls {
    /// Starts a connection to `host`.
    pub fn new(config: Arc<ClientConfig>, host: &str) -> Result<Self, TlsError> {
        let name = ServerName::try_from(host.to_owned()).map_err(|_| TlsError::HostName)?;
        let mut connection = ClientConnection::new(config, name)?;
        // The caller bounds what it encrypts.
        connection.set_buffer_limit(None);
        Ok(Self { connection })
    }

    /// Decrypts bytes from the socket and appends the plaintext to the frame decoder. Returns how many bytes of
    /// plaintext there were; `None` when the peer has ended the stream.
    pub fn decrypt(&mut self, mut wire: &[u8], inbound: &mut FrameDecoder) -> io::Result<Option<usize>> {
        let mut total = 0;
        loop {
            while !wire.is_empty() && self.connection.read_tls(&mut wire)? > 0 {
                self.connection.process_new_packets().map_err(invalid)?;
                // rustls accepts no more records while plaintext waits, so the plaintext is read at once.
                loop {
                    match self.connection.reader().read(inbound.space()) {
                        Ok(0) => return Ok((total > 0).then_some(total)),
                        Ok(n) => {
                            inbound.filled(n);
                            total += n;
                        }
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                        Err(error) => return Err(error),
                    }
                }
            }
            if wire.is_empty() {
                return Ok(Some(total));
            }
        }
    }

    /// Encrypts bytes. [`Tls::take_wire`] returns the records.
    pub fn encrypt(&mut self, plain: &[u8]) -> io::Result<()> {
        self.connection.writer().write_all(plain)
    }

    /// Appends to `out` the records that have to be written to the socket.
    pub fn take_wire(&mut self, out: &mut Vec<u8>) -> io::Result<()> {
        while self.connection.wants_write() {
            self.connection.write_tls(out)?;
        }
        Ok(())
    }
}
