//! A client for the HTTP routes of a running proxy, which it finds by its configuration or a URL.

use gateway_proxy::config::{AdminAddress, Config, ConfigError};
use serde_json::Value;
use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};
use ureq::Agent;

/// The variable whose value takes precedence over `http_token` of the file.
const HTTP_TOKEN_VARIABLE: &str = "HTTP_TOKEN";
/// Longest wait for an answer. The proxy itself waits up to 5 s for its data cores.
const TIMEOUT: Duration = Duration::from_secs(15);
/// Longest answer that is read, in bytes. The status of 65,536 shards has about 15 MB.
const MAX_BODY: u64 = 64 << 20;

/// Why a running proxy can not be asked, or does not do what it was asked. No variant holds the `http_token`.
#[derive(Debug, thiserror::Error)]
pub enum RunningError {
    /// The text of `--url` is no URL of a proxy.
    #[error("--url is {0:?}, expected http://HOST:PORT")]
    Url(String),
    /// The configuration, which says where the proxy is, can not be read.
    #[error("{0}\nName the running proxy with --url http://HOST:PORT")]
    Config(#[source] Box<ConfigError>),
    /// The operators' routes are at this Unix socket.
    #[error(
        "`admin_listen` is a socket in the file system, where only other programs can ask: curl --unix-socket {} http://localhost/status.json",
        .0.display()
    )]
    UnixSocket(PathBuf),
    /// The request was not answered.
    #[error("no proxy answers at {base}: {source}. Is it running? --url names another one")]
    NoAnswer {
        /// The base URL of the proxy.
        base: String,
        /// Why the request failed.
        source: ureq::Error,
    },
    /// The proxy has answered 401.
    #[error(
        "the proxy at {base} wants {}: name its configuration with --config, or set HTTP_TOKEN",
        if *shown { "another `http_token` than the one shown" } else { "an `http_token`" }
    )]
    Refused {
        /// The base URL of the proxy.
        base: String,
        /// Whether the request had an `http_token`.
        shown: bool,
    },
    /// The proxy has answered with another status than the expected ones.
    #[error("the proxy at {base} answers {status}: {why}")]
    Unexpected {
        /// The base URL of the proxy.
        base: String,
        /// The HTTP status.
        status: u16,
        /// The reason that the body of the answer gives.
        why: String,
    },
}

/// A running proxy: its base URL, the `http_token` to show, and an HTTP client.
pub struct Running {
    base: String,
    token: Option<String>,
    agent: Agent,
}

impl Running {
    /// A client for the proxy of the configuration at `path`, or for the proxy at `url`. With a URL the file may be
    /// missing.
    pub fn find(path: &Path, url: Option<String>) -> Result<Self, RunningError> {
        // A request to a running proxy does not need the bot's token, so the configuration may lack it.
        let config = Config::load(path, Some("unused".into()));
        let (base, configured) = match (url, config) {
            (Some(url), config) => {
                if !url.starts_with("http://") {
                    return Err(RunningError::Url(url));
                }
                (url.trim_end_matches('/').to_owned(), config.ok().and_then(|(config, _)| config.http_token))
            }
            (None, Ok((config, _))) => (format!("http://{}", for_operators(&config)?), config.http_token),
            (None, Err(error)) => return Err(RunningError::Config(error.into())),
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
    pub fn get(&self, path: &str) -> Result<(u16, String), RunningError> {
        let mut request = self.agent.get(format!("{}{path}", self.base));
        if let Some(token) = &self.token {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        self.read(request.call())
    }

    /// Sends a POST request. Returns the status and the JSON body. A body that is not JSON becomes a string.
    pub fn post(&self, path: &str) -> Result<(u16, Value), RunningError> {
        let mut request = self.agent.post(format!("{}{path}", self.base));
        if let Some(token) = &self.token {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        let (status, text) = self.read(request.send_empty())?;
        Ok((status, serde_json::from_str(&text).unwrap_or_else(|_| text.trim().into())))
    }

    fn read(
        &self,
        answer: Result<ureq::http::Response<ureq::Body>, ureq::Error>,
    ) -> Result<(u16, String), RunningError> {
        let no_answer = |source| RunningError::NoAnswer { base: self.base.clone(), source };
        let mut answer = answer.map_err(no_answer)?;
        let status = answer.status().as_u16();
        let text = answer.body_mut().with_config().limit(MAX_BODY).read_to_string();
        Ok((status, text.map_err(no_answer)?))
    }

    /// The error for an answer with status 401.
    pub fn refused(&self) -> RunningError {
        RunningError::Refused { base: self.base.clone(), shown: self.token.is_some() }
    }

    /// The error for an answer with an unexpected status.
    pub fn unexpected(&self, status: u16, body: &Value) -> RunningError {
        let why = body["error"].as_str().or(body.as_str()).unwrap_or("no reason given");
        RunningError::Unexpected { base: self.base.clone(), status, why: why.to_owned() }
    }
}

/// The TCP address of the operators' routes.
fn for_operators(config: &Config) -> Result<SocketAddr, RunningError> {
    match &config.admin_listen {
        None => Ok(reachable(config.listen)),
        Some(AdminAddress::Tcp(address)) => Ok(reachable(*address)),
        Some(AdminAddress::Unix(path)) => Err(RunningError::UnixSocket(path.clone())),
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
