//! Networks and addresses in the configuration: the networks that are believed about a client's address, and the
//! address of the operators' routes.

use super::{ConfigError, reader::Reader};
use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

/// An IP address, or a network of all addresses with the same prefix (`10.0.0.0/8`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    prefix: u32,
}

impl Network {
    /// Reads `address` or `address/bits`.
    pub fn parse(text: &str) -> Option<Self> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix.parse().ok()?)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().ok()?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.unwrap_or(most);
        (prefix <= most).then_some(Self { address, prefix })
    }

    /// Says whether an address is in the network. An IPv4-mapped IPv6 address counts as the IPv4 address.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                (own.to_bits() ^ other.to_bits()).checked_shr(32 - self.prefix).unwrap_or(0) == 0
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => {
                (own.to_bits() ^ other.to_bits()).checked_shr(128 - self.prefix).unwrap_or(0) == 0
            }
            _ => false,
        }
    }
}

/// The address at which the operators' routes are served, apart from the gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AdminAddress {
    /// An address and port.
    Tcp(SocketAddr),
    /// A Unix socket at this path.
    Unix(PathBuf),
}

impl fmt::Display for AdminAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Reads a list of networks.
pub(super) fn read_networks(reader: &mut Reader, key: &'static str) -> Result<Vec<Network>, ConfigError> {
    const EXPECTED: &str = "a list of addresses and networks such as [\"127.0.0.1\", \"10.0.0.0/8\"]";
    let names = reader.strings(key, EXPECTED)?;
    let networks: Option<Vec<Network>> = names.iter().map(|name| Network::parse(name)).collect();
    networks.ok_or_else(|| reader.error(key, &names.into(), EXPECTED))
}

/// Reads `admin_listen`.
pub(super) fn read_admin_listen(reader: &mut Reader) -> Result<Option<AdminAddress>, ConfigError> {
    const KEY: &str = "admin_listen";
    const EXPECTED: &str =
        "an address and port such as \"127.0.0.1:7879\", or a socket such as \"unix:/run/gateway-proxy/admin\"";
    let Some(text) = reader.string(KEY, EXPECTED)? else { return Ok(None) };
    let address = match text.strip_prefix("unix:") {
        Some(path) => (!path.is_empty()).then(|| AdminAddress::Unix(path.into())),
        None => text.parse().ok().filter(|address: &SocketAddr| address.port() > 0).map(AdminAddress::Tcp),
    };
    address.map(Some).ok_or_else(|| reader.error(KEY, &text.into(), EXPECTED))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_contain_addresses() {
        let contains =
            |network: &str, address: &str| Network::parse(network).unwrap().contains(address.parse().unwrap());
        assert!(contains("10.0.0.0/8", "10.255.1.2") && !contains("10.0.0.0/8", "11.0.0.0"));
        assert!(contains("10.1.2.3", "10.1.2.3") && !contains("10.1.2.3", "10.1.2.2"));
        assert!(contains("0.0.0.0/0", "192.0.2.1") && !contains("0.0.0.0/0", "2001:db8::1"));
        assert!(contains("10.0.0.0/8", "::ffff:10.1.1.1"));
        assert!(contains("2001:db8::/32", "2001:db8:ffff::1") && !contains("2001:db8::/32", "2001:db9::"));
        assert!(contains("::/0", "2001:db8::1") && contains("::1", "::1") && !contains("::1", "::2"));
        for bad in ["", "10.0.0.0/33", "::/129", "10.0.0.0/x", "10.0.0.0/-1", "example.com", "10.0.0.0/8/8"] {
            assert_eq!(Network::parse(bad), None, "{bad}");
        }
    }
}
