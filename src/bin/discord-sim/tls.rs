//! Certificates for tests: a new CA, and a certificate for `localhost` and the loopback addresses. Also a client
//! configuration that trusts one CA.

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use std::path::Path;
use std::sync::Arc;
use std::{fs, io};

/// Makes a CA and a leaf for `localhost` and the loopback addresses, and writes the CA's certificate to `ca.pem` in the
/// directory, which is made if it is missing. The keys stay in memory.
///
/// # Errors
/// When the directory cannot be written.
pub fn server_config(directory: &Path) -> io::Result<Arc<ServerConfig>> {
    let mut ca = CertificateParams::default();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    ca.distinguished_name.push(DnType::CommonName, "discord-sim CA");
    let ca_key = KeyPair::generate().map_err(io::Error::other)?;
    let ca_certificate = ca.self_signed(&ca_key).map_err(io::Error::other)?;
    let issuer = Issuer::new(ca, ca_key);

    let names = ["localhost", "127.0.0.1", "::1"].map(str::to_owned).to_vec();
    let mut leaf = CertificateParams::new(names).map_err(io::Error::other)?;
    leaf.distinguished_name.push(DnType::CommonName, "discord-sim");
    let leaf_key = KeyPair::generate().map_err(io::Error::other)?;
    let leaf = leaf.signed_by(&leaf_key, &issuer).map_err(io::Error::other)?;

    fs::create_dir_all(directory)?;
    fs::write(directory.join("ca.pem"), ca_certificate.pem())?;
    let chain = vec![leaf.der().clone(), ca_certificate.der().clone()];
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(leaf_key.serialize_der()));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(io::Error::other)?;
    Ok(Arc::new(config))
}

/// A client configuration that trusts the certificates in this PEM file and no others.
///
/// # Errors
/// When the file cannot be read or holds no certificate.
pub fn client_config(ca: &Path) -> io::Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(ca).map_err(io::Error::other)? {
        roots.add(certificate.map_err(io::Error::other)?).map_err(io::Error::other)?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::{ClientConnection, ServerConnection};

    fn handshake(name: &str, server: Arc<ServerConfig>, client: Arc<ClientConfig>) -> Result<(), rustls::Error> {
        let mut server = ServerConnection::new(server)?;
        let mut client = ClientConnection::new(client, name.to_owned().try_into().unwrap())?;
        while client.is_handshaking() || server.is_handshaking() {
            let mut wire = Vec::new();
            client.write_tls(&mut wire).unwrap();
            server.read_tls(&mut wire.as_slice()).unwrap();
            server.process_new_packets()?;
            wire.clear();
            server.write_tls(&mut wire).unwrap();
            client.read_tls(&mut wire.as_slice()).unwrap();
            client.process_new_packets()?;
        }
        Ok(())
    }

    #[test]
    fn the_leaf_is_good_for_this_machine_under_the_written_ca() {
        let directory = std::env::temp_dir().join(format!("discord-sim-tls-{}", std::process::id()));
        let server = server_config(&directory).unwrap();
        let client = client_config(&directory.join("ca.pem")).unwrap();
        for name in ["localhost", "127.0.0.1"] {
            handshake(name, Arc::clone(&server), Arc::clone(&client)).unwrap();
        }
        assert!(handshake("discord.com", Arc::clone(&server), client).is_err());
        let other = server_config(&directory).unwrap();
        let client = client_config(&directory.join("ca.pem")).unwrap();
        assert!(handshake("localhost", server, Arc::clone(&client)).is_err(), "another CA");
        handshake("localhost", other, client).unwrap();
        fs::remove_dir_all(directory).unwrap();
    }
}
