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

    /// Decrypts bytes from the socket and appends the plaintext to the frame decoder. Returns whether the peer has ended
    /// the stream; what it sent before is in the decoder then. Bytes after the end are ignored.
    pub fn decrypt(&mut self, mut wire: &[u8], inbound: &mut FrameDecoder) -> io::Result<bool> {
        while !wire.is_empty() {
            // rustls reads nothing more after the end of the stream.
            if self.connection.read_tls(&mut wire)? == 0 {
                return Ok(true);
            }
            self.connection.process_new_packets().map_err(invalid)?;
            // rustls accepts no more records while plaintext waits, so the plaintext is read at once.
            loop {
                match self.connection.reader().read(inbound.space()) {
                    Ok(0) => return Ok(true),
                    Ok(n) => inbound.filled(n),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(false)
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

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::websocket::Role;
    use rustls::{
        ServerConfig, ServerConnection,
        pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
    };

    /// The configurations of a server with a certificate for `localhost`, and of a client that trusts this certificate.
    pub fn configs() -> (Arc<ClientConfig>, Arc<ServerConfig>) {
        let rcgen::CertifiedKey { cert, signing_key } =
            rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(cert.der().clone()).unwrap();
        let client = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(signing_key.serialize_der()));
        let server = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![cert.der().clone()], key)
            .unwrap();
        (Arc::new(client), Arc::new(server))
    }

    /// A client and a server that have shaken hands.
    fn connected() -> (Tls, FrameDecoder, ServerConnection) {
        let (client, server) = configs();
        let mut tls = Tls::new(client, "localhost").unwrap();
        let mut server = ServerConnection::new(server).unwrap();
        let mut inbound = FrameDecoder::new(Role::Client, 1 << 20);
        while server.is_handshaking() || tls.connection.is_handshaking() {
            let mut wire = Vec::new();
            tls.take_wire(&mut wire).unwrap();
            let mut wire = &wire[..];
            while !wire.is_empty() {
                server.read_tls(&mut wire).unwrap();
                server.process_new_packets().unwrap();
            }
            assert!(!tls.decrypt(&records(&mut server), &mut inbound).unwrap());
        }
        (tls, inbound, server)
    }

    /// What the server has to send.
    fn records(server: &mut ServerConnection) -> Vec<u8> {
        let mut records = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut records).unwrap();
        }
        records
    }

    #[test]
    fn the_end_of_the_stream_is_noticed_with_what_came_before_it() {
        let (mut tls, mut inbound, mut server) = connected();
        server.writer().write_all(b"first").unwrap();
        assert!(!tls.decrypt(&records(&mut server), &mut inbound).unwrap());
        server.writer().write_all(b" and last").unwrap();
        server.send_close_notify();
        assert!(tls.decrypt(&records(&mut server), &mut inbound).unwrap());
        assert_eq!(inbound.unconsumed(), b"first and last");
        // Anybody between the two can append bytes to the TCP stream.
        assert!(tls.decrypt(b"x", &mut inbound).unwrap());
        assert_eq!(inbound.unconsumed(), b"first and last");
    }

    #[test]
    fn records_that_come_in_parts_are_put_together() {
        let (mut tls, mut inbound, mut server) = connected();
        let text = vec![b'a'; 100_000];
        let mut sent = &text[..];
        while !sent.is_empty() {
            let n = server.writer().write(sent).unwrap();
            sent = &sent[n..];
            for part in records(&mut server).chunks(1_000) {
                assert!(!tls.decrypt(part, &mut inbound).unwrap());
            }
        }
        assert!(inbound.unconsumed() == text);
        assert!(tls.decrypt(&[0xff; 100], &mut inbound).is_err(), "these bytes are no records");
    }
}
