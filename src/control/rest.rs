//! The one REST call that the proxy makes: GET `/gateway/bot` (docs: Gateway, Get Gateway Bot), on a thread of its own,
//! because it may wait for names, handshakes and timeouts.

use super::identify::Budget;
use crate::protocol::token::bare;
use serde::Deserialize;
use std::{sync::Arc, time::Duration};
use ureq::{
    Agent,
    tls::{RootCerts, TlsConfig},
};

/// Discord's own address.
const DISCORD: &str = "https://discord.com";
/// Longest wait for an answer.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Longest body that is read, in bytes.
const MAX_BODY: u64 = 64 << 10;

/// What `/gateway/bot` answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewayInfo {
    /// Where shards connect.
    pub url: String,
    /// How many shards Discord recommends.
    pub shards: u32,
    /// The budget of IDENTIFYs.
    pub budget: Budget,
}

/// Why there is no answer.
#[derive(Debug)]
pub enum RestError {
    /// The token is wrong: trying again is useless.
    Unauthorized,
    /// Anything else may pass.
    Temporary(String),
}

#[derive(Deserialize)]
struct Body {
    url: String,
    shards: u32,
    session_start_limit: Limit,
}

#[derive(Deserialize)]
struct Limit {
    total: u32,
    remaining: u32,
    reset_after: u64,
    max_concurrency: u32,
}

/// The client for that call.
pub struct Rest {
    agent: Agent,
    url: String,
    token: Arc<str>,
}

impl Rest {
    /// `proxy` is `host:port` of a plain HTTP proxy for Discord's API (config key `twilight_http_proxy`).
    pub fn new(token: Arc<str>, proxy: Option<&str>) -> Self {
        let roots = rustls_native_certs::load_native_certs().certs;
        let roots: Vec<_> = roots.iter().map(|der| ureq::tls::Certificate::from_der(der).to_owned()).collect();
        let tls = TlsConfig::builder()
            .root_certs(RootCerts::new_with_certs(&roots))
            .unversioned_rustls_crypto_provider(crate::net::tls::provider())
            .build();
        let agent = Agent::config_builder()
            .tls_config(tls)
            .timeout_global(Some(TIMEOUT))
            .http_status_as_error(false)
            .user_agent(concat!("DiscordBot (https://github.com/gateway-proxy, ", env!("CARGO_PKG_VERSION"), ")"))
            .proxy(None)
            .build()
            .new_agent();
        let base = proxy.map_or_else(|| DISCORD.to_owned(), |address| format!("http://{address}"));
        Self { agent, url: format!("{base}/api/v10/gateway/bot"), token }
    }

    /// Asks once. Blocks.
    pub fn gateway(&self) -> Result<GatewayInfo, RestError> {
        let temporary = |what: String| RestError::Temporary(format!("GET {}: {what}", self.url));
        let mut response = self
            .agent
            .get(&self.url)
            .header("Authorization", format!("Bot {}", bare(&self.token)))
            .call()
            .map_err(|error| temporary(error.to_string()))?;
        match response.status().as_u16() {
            200 => {}
            401 => return Err(RestError::Unauthorized),
            status => return Err(temporary(format!("status {status}"))),
        }
        let body = response
            .body_mut()
            .with_config()
            .limit(MAX_BODY)
            .read_to_string()
            .map_err(|error| temporary(error.to_string()))?;
        parse(&body).map_err(temporary)
    }
}

fn parse(body: &str) -> Result<GatewayInfo, String> {
    let body: Body = serde_json::from_str(body).map_err(|error| format!("not the expected answer: {error}"))?;
    let Limit { total, remaining, reset_after, max_concurrency } = body.session_start_limit;
    Ok(GatewayInfo {
        url: body.url,
        shards: body.shards,
        budget: Budget { total, remaining, reset_after: Duration::from_millis(reset_after), max_concurrency },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documented_answer() {
        let info = parse(
            r#"{"url":"wss://gateway.discord.gg/","shards":9,"session_start_limit":
                {"total":1000,"remaining":999,"reset_after":14400000,"max_concurrency":16}}"#,
        )
        .unwrap();
        assert_eq!((info.url.as_str(), info.shards), ("wss://gateway.discord.gg/", 9));
        let reset_after = Duration::from_secs(14_400);
        assert_eq!(info.budget, Budget { total: 1000, remaining: 999, reset_after, max_concurrency: 16 });
        assert!(parse("{}").unwrap_err().contains("url"));
    }
}
