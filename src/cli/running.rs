//! A client for the HTTP routes of a running proxy, which it finds by its configuration or a URL.

use gateway_proxy::config::{AdminAddress, Config};
use serde_json::Value;
use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
    time::Duration,
};
use ureq::Agent;

/// The variable whose value takes precedence over `http_token` of the file.
const HTTP_TOKEN_VARIABLE: &str = "HTTP_TOKEN";
/// Longest wait for an answer. The proxy itself waits up to 5 s for its data cores.
const TIMEOUT: Duration = Duration::from_secs(15);
/// Longest answer that is read, in bytes. The status of 65,536 shards has about 15 MB.
const MAX_BODY: u64 = 64 << 20;

/// A running proxy: its base URL, the `http_token` to show, and an HTTP client.
pub struct Running {
    base: String,
    token: Option<String>,
    agent: Agent,
}

impl Running {
    /// A client for the proxy of the configuration at `path`, or for the proxy at `url`. With a URL the file may be
    /// missing.
    pub fn find(path: &Path, url: Option<String>) -> Result<Self, String> {
        // A request to a running proxy does not need the bot's token, so the configuration may lack it.
        let config = Config::load(path, Some("unused".into()));
        let (base, configured) = match (url, config) {
            (Some(url), config) => {
                if !url.starts_with("http://") {
                    return Err(format!("--url is {url:?}, expected http://HOST:PORT"));
                }
                (url.trim_end_matches('/').to_owned(), config.ok().and_then(|(config, _)| config.http_token))
            }
            (None, Ok((config, _))) => (format!("http://{}", for_operators(&config)?), config.http_token),
            (None, Err(error)) => return Err(format!("{error}\nName the running proxy with --url http://HOST:PORT")),
        };
        let token = std::env::var(HTTP_TOKEN_VARIABLE).ok().filter(|token| !token.is_empty());
        let token = token.or_else(|| configured.map(|token| token.bare().to_owned()));
        let agent = Agent::config_builder()
            .timeout_global(Some(TIMEOUT))
            .http_status_as_error(false)
            .proxy(None)
            .build()
            .new_agent();
        Ok(Self { base, token, agent })
    }

    /// Sends a GET request. Returns the status and the body.
    pub fn get(&self, path: &str) -> Result<(u16, String), String> {
        let mut request = self.agent.get(format!("{}{path}", self.base));
        if let Some(token) = &self.token {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        self.read(request.call())
    }

    /// Sends a POST request. Returns the status and the JSON body. A body that is not JSON becomes a string.
    pub fn post(&self, path: &str) -> Result<(u16, Value), String> {
        let mut request = self.agent.post(format!("{}{path}", self.base));
        if let Some(token) = &self.token {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        let (status, text) = self.read(request.send_empty())?;
        Ok((status, serde_json::from_str(&text).unwrap_or_else(|_| text.trim().into())))
    }

    fn read(&self, answer: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> Result<(u16, String), String> {
        let unreachable = |error: &dyn std::fmt::Display| {
            format!("no proxy answers at {}: {error}. Is it running? --url names another one", self.base)
        };
        let mut answer = answer.map_err(|error| unreachable(&error))?;
        let status = answer.status().as_u16();
        let text = answer.body_mut().with_config().limit(MAX_BODY).read_to_string();
        Ok((status, text.map_err(|error| unreachable(&error))?))
    }

    /// The error for an answer with status 401.
    pub fn refused(&self) -> String {
        let shown = if self.token.is_some() { "another `http_token` than the one shown" } else { "an `http_token`" };
        format!("the proxy at {} wants {shown}: name its configuration with --config, or set HTTP_TOKEN", self.base)
    }

    /// The error for an answer with an unexpected status.
    pub fn unexpected(&self, status: u16, body: &Value) -> String {
        let why = body["error"].as_str().or(body.as_str()).unwrap_or("no reason given");
        format!("the proxy at {} answers {status}: {why}", self.base)
    }
}

/// The TCP address of the operators' routes.
fn for_operators(config: &Config) -> Result<SocketAddr, String> {
    match &config.admin_listen {
        None => Ok(reachable(config.listen)),
        Some(AdminAddress::Tcp(address)) => Ok(reachable(*address)),
        Some(AdminAddress::Unix(path)) => Err(format!(
            "`admin_listen` is a socket in the file system, where only other programs can ask: curl --unix-socket {} \
             http://localhost/status.json",
            path.display()
        )),
    }
}

/// The address at which this machine reaches a proxy that listens at `listen`: loopback for an unspecified address.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_on_all_addresses_is_reached_by_loopback() {
        for (listen, reached) in [("0.0.0.0:1", "127.0.0.1:1"), ("[::]:2", "[::1]:2"), ("192.0.2.1:3", "192.0.2.1:3")] {
            assert_eq!(reachable(listen.parse().unwrap()), reached.parse().unwrap());
        }
    }
}
