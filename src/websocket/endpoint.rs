//! Gateway URLs: `ws://` and `wss://` (RFC 6455 section 3).

use tungstenite::http::{Uri, uri::InvalidUri};

/// The parts of a gateway URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Whether the connection uses TLS.
    pub tls: bool,
    /// Host name or IP address, without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Path, which begins with a slash.
    pub path: String,
}

/// A text that is not a gateway URL.
#[derive(Debug, thiserror::Error)]
#[error("{url:?} is not a gateway URL: {fault}")]
pub struct EndpointError {
    url: String,
    #[source]
    fault: Fault,
}

/// What is wrong with a gateway URL.
#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error(transparent)]
    Uri(#[from] InvalidUri),
    #[error("it has to begin with ws:// or wss://")]
    Scheme,
    #[error("it has no host")]
    Host,
    #[error("its port is not a number from 0 to 65535")]
    Port,
}

impl Endpoint {
    /// Parses a `ws://` or `wss://` URL. Its query is dropped, because the proxy adds its own.
    pub fn parse(url: &str) -> Result<Self, EndpointError> {
        Self::parts(url).map_err(|fault| EndpointError { url: url.to_owned(), fault })
    }

    fn parts(url: &str) -> Result<Self, Fault> {
        let uri: Uri = url.parse()?;
        let tls = match uri.scheme_str() {
            Some("wss") => true,
            Some("ws") => false,
            _ => return Err(Fault::Scheme),
        };
        let host = uri.host().filter(|host| !host.is_empty()).ok_or(Fault::Host)?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let names_port =
            uri.authority().is_some_and(|all| all.as_str().rsplit(['@', ']']).next().unwrap_or("").contains(':'));
        if names_port && uri.port_u16().is_none() {
            return Err(Fault::Port);
        }
        let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
        let path = if uri.path().is_empty() { "/".to_owned() } else { uri.path().to_owned() };
        Ok(Self { tls, host, port, path })
    }

    /// The value of the `Host` header.
    pub fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        match (self.tls, self.port) {
            (true, 443) | (false, 80) => host,
            (_, port) => format!("{host}:{port}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_taken_apart() {
        let endpoint = |tls, host: &str, port, path: &str| Endpoint { tls, host: host.into(), port, path: path.into() };
        for (url, expected, authority) in [
            ("wss://gateway.discord.gg", endpoint(true, "gateway.discord.gg", 443, "/"), "gateway.discord.gg"),
            ("wss://a.gg/?v=9", endpoint(true, "a.gg", 443, "/"), "a.gg"),
            ("ws://127.0.0.1:7979/r/x", endpoint(false, "127.0.0.1", 7979, "/r/x"), "127.0.0.1:7979"),
            ("ws://[::1]:80", endpoint(false, "::1", 80, "/"), "[::1]"),
        ] {
            let parsed = Endpoint::parse(url).unwrap();
            assert_eq!(parsed, expected);
            assert_eq!(parsed.authority(), authority);
        }
        for bad in ["", "http://a.gg", "wss://", "gateway.discord.gg", "ws://a:99999", "wss:///x"] {
            assert!(Endpoint::parse(bad).unwrap_err().to_string().contains("is not a gateway URL"), "{bad}");
        }
    }
}
