//! Decides which gateway URLs shards may connect to. The URLs come from `/gateway/bot`, from READY or from a state
//! file. Pure.
//!
//! Promises: once `/gateway/bot` has named a `wss://` URL, no shard connects without TLS to another machine. With
//! `gateway_hosts`, no shard connects to a host that is not listed.

use crate::websocket::Endpoint;
use std::net::IpAddr;

/// The hosts of `gateway_hosts`, each with its subdomains. An empty list allows all hosts.
#[derive(Clone, Debug, Default)]
pub struct Hosts(pub Vec<String>);

/// Why a shard may not connect to a host.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// The host is not listed.
    #[error("{0} is not one of `gateway_hosts`")]
    NotListed(String),
    /// The URL would give up the encryption that the first one had.
    #[error("it is not encrypted, and the URL that /gateway/bot named is")]
    NotEncrypted,
}

impl Hosts {
    /// Checks whether shards may connect to this host. The error says why not.
    pub fn allow(&self, endpoint: &Endpoint) -> Result<(), HostError> {
        let host = endpoint.host.trim_end_matches('.').to_ascii_lowercase();
        let is_listed = |listed: &String| {
            let listed = listed.trim_end_matches('.').to_ascii_lowercase();
            host.strip_suffix(&listed).is_some_and(|below| below.is_empty() || below.ends_with('.'))
        };
        if self.0.is_empty() || self.0.iter().any(is_listed) { Ok(()) } else { Err(HostError::NotListed(host)) }
    }

    /// Checks whether a shard may connect to `wanted`, if `/gateway/bot` has named `first`. The error says why not.
    pub fn allow_after(&self, first: &Endpoint, wanted: &Endpoint) -> Result<(), HostError> {
        if first.tls && !wanted.tls && !is_this_machine(&wanted.host) {
            return Err(HostError::NotEncrypted);
        }
        self.allow(wanted)
    }
}

/// Says whether connections to this host stay on this machine.
fn is_this_machine(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(url: &str) -> Endpoint {
        Endpoint::parse(url).unwrap()
    }

    #[test]
    fn encryption_is_not_given_up() {
        let any = Hosts::default();
        let secure = endpoint("wss://gateway.discord.gg");
        assert!(any.allow_after(&secure, &endpoint("wss://gateway-us-east1-b.discord.gg")).is_ok());
        for local in ["ws://127.0.0.1:1", "ws://127.8.8.8", "ws://[::1]:1", "ws://localhost:1", "ws://LOCALHOST"] {
            assert!(any.allow_after(&secure, &endpoint(local)).is_ok(), "{local}");
        }
        for plain in ["ws://gateway.discord.gg", "ws://192.0.2.1", "ws://localhost.example", "ws://127.0.0.1.example"] {
            assert!(
                any.allow_after(&secure, &endpoint(plain)).unwrap_err().to_string().contains("not encrypted"),
                "{plain}"
            );
        }
        // If `/gateway/bot` has named a URL without TLS, other URLs without TLS are allowed too.
        assert!(any.allow_after(&endpoint("ws://10.0.0.1"), &endpoint("ws://10.0.0.2")).is_ok());
    }

    #[test]
    fn only_listed_hosts_and_those_below_them() {
        let hosts = Hosts(vec!["Discord.gg".into(), "127.0.0.1".into()]);
        for good in ["wss://discord.gg", "wss://gateway.DISCORD.gg.", "wss://a.b.discord.gg", "ws://127.0.0.1:1"] {
            assert!(hosts.allow(&endpoint(good)).is_ok(), "{good}");
        }
        for bad in ["wss://evildiscord.gg", "wss://discord.gg.evil", "wss://discord.com", "ws://127.0.0.2", "wss://gg"]
        {
            assert!(hosts.allow(&endpoint(bad)).unwrap_err().to_string().contains("`gateway_hosts`"), "{bad}");
        }
    }
}
