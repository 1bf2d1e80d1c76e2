//! The REST call of the proxy: GET `/gateway/bot` (docs: Gateway, Get Gateway Bot). It runs on a thread of its own,
//! because it waits for name lookups, handshakes and timeouts.

use super::identify::SessionStartLimit;
use crate::{
    config::MAX_SHARDS,
    net::hosts::{HostError, Hosts},
    protocol::token::bare,
    websocket::{Endpoint, EndpointError},
};
use serde::Deserialize;
use std::{sync::Arc, time::Duration};
use ureq::{
    Agent,
    config::ConfigBuilder,
    tls::{RootCerts, TlsConfig},
    typestate::AgentScope,
};

/// The route below `/api/v10`.
const GATEWAY: &str = "/gateway/bot";
/// Discord's own address.
const DISCORD: &str = "https://discord.com";
/// Longest wait for an answer.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Longest body that is read, in bytes.
const MAX_BODY: u64 = 64 << 10;
/// Longest wait that an answer can ask for; a longer one is cut to this. Discord's own bans last about as long. One
/// request an hour does no harm when it is too early, and an absurd figure must not keep the proxy from starting.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(3600);
/// Longest time until the budget of IDENTIFYs is renewed; Discord's is a day.
const MAX_RESET_AFTER: Duration = Duration::from_secs(7 * 24 * 3600);
/// The `User-Agent` of the requests, in the form that Discord asks for (docs: API Reference, User Agent). The address
/// is the `repository` of Cargo.toml. If there is none, it is a name below `.invalid`, which can not be registered (RFC
/// 2606).
const USER_AGENT: &str = if env!("CARGO_PKG_REPOSITORY").is_empty() {
    concat!("DiscordBot (https://", env!("CARGO_PKG_NAME"), ".invalid, ", env!("CARGO_PKG_VERSION"), ")")
} else {
    concat!("DiscordBot (", env!("CARGO_PKG_REPOSITORY"), ", ", env!("CARGO_PKG_VERSION"), ")")
};

/// The answer of `/gateway/bot`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewayInfo {
    /// The gateway URL that shards connect to.
    pub url: String,
    /// How many shards Discord recommends.
    pub shards: u32,
    /// The budget of IDENTIFYs.
    pub budget: SessionStartLimit,
}

/// Why a request has failed. After every error but [`RestError::Unauthorized`] a later request may succeed. The texts
/// do not name the URL of the request.
#[derive(Debug, thiserror::Error)]
pub enum RestError {
    /// Discord refuses the token (401). Another request with it is useless.
    #[error("Discord refuses the token (401)")]
    Unauthorized,
    /// The request was not answered, or the answer can not be read.
    #[error(transparent)]
    Http(#[from] ureq::Error),
    /// The answer has a status that is neither 200 nor 401.
    #[error("status {status}{}", if (300..400).contains(status) { ", and redirects are not followed" } else { "" })]
    Status {
        /// The HTTP status.
        status: u16,
        /// How long the answer asks to wait (docs: Rate Limits), at most [`MAX_RETRY_AFTER`].
        retry_after: Option<Duration>,
    },
    /// The answer has the status 200 and makes no sense.
    #[error(transparent)]
    Answer(#[from] AnswerError),
}

impl RestError {
    /// How long the answer asks to wait before the next request; `None`: the answer asks for nothing, or there is none.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Status { retry_after, .. } => *retry_after,
            Self::Unauthorized | Self::Http(_) | Self::Answer(_) => None,
        }
    }
}

/// What is wrong with an answer whose status is 200.
#[derive(Debug, thiserror::Error)]
pub enum AnswerError {
    /// The answer is not JSON, or lacks a documented field.
    #[error("not the expected answer: {0}")]
    Unexpected(#[from] serde_json::Error),
    /// A number has a value that Discord never sends.
    #[error("not a sensible answer: `{key}` is {value}, expected {expected}")]
    Value {
        /// The field.
        key: &'static str,
        /// Its value.
        value: u64,
        /// What the field may have.
        expected: String,
    },
    /// The URL of the gateway can not be used.
    #[error("not a sensible answer: {0}")]
    Url(#[from] EndpointError),
    /// Shards may not connect to the gateway that the answer names.
    #[error("not a sensible answer: {0}")]
    Host(#[from] HostError),
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

/// The part of the answer of `/applications/@me` that is used.
#[derive(Deserialize)]
struct Application {
    approximate_guild_count: Option<u64>,
}

/// The HTTP client for GET `/gateway/bot`.
pub struct Rest {
    agent: Agent,
    url: String,
    token: Arc<str>,
    hosts: Hosts,
}

impl Rest {
    /// `proxy` is `host:port` of a plain HTTP proxy for Discord's API (config key `twilight_http_proxy`). An answer
    /// whose URL has none of `hosts` is an error.
    pub fn new(token: Arc<str>, proxy: Option<&str>, hosts: Hosts) -> Self {
        let agent = agent_builder().timeout_global(Some(TIMEOUT)).build().new_agent();
        Self { agent, url: url(proxy), token, hosts }
    }

    /// Asks how many guilds the bot is in, about (docs: Application, Get Current Application). `None`: Discord does not
    /// say. Only for a check before a start: the running proxy does not need it.
    pub fn guilds(&self) -> Option<u64> {
        let url = self.url.replace(GATEWAY, "/applications/@me");
        let authorization = format!("Bot {}", bare(&self.token));
        let mut response = self.agent.get(&url).header("Authorization", authorization).call().ok()?;
        let body = response.body_mut().with_config().limit(MAX_BODY).read_to_string().ok()?;
        serde_json::from_str::<Application>(&body).ok()?.approximate_guild_count
    }

    /// Sends one request and blocks until it is answered or has failed.
    pub fn gateway(&self) -> Result<GatewayInfo, RestError> {
        let mut response =
            self.agent.get(&self.url).header("Authorization", format!("Bot {}", bare(&self.token))).call()?;
        let status = response.status().as_u16();
        let header = response.headers().get("Retry-After").and_then(|value| value.to_str().ok()).map(str::to_owned);
        let body = response.body_mut().with_config().limit(MAX_BODY).read_to_string();
        match status {
            200 => Ok(parse(&body?, &self.hosts)?),
            401 => Err(RestError::Unauthorized),
            // If the body can not be read, the error has the status alone.
            _ => {
                let retry_after = retry_after(header.as_deref(), &body.unwrap_or_default());
                Err(RestError::Status { status, retry_after })
            }
        }
    }
}

/// The settings of all HTTP clients of the proxy: TLS with the system's root certificates, no proxy from the
/// environment, and a status other than 2xx is an answer and not an error.
pub(super) fn agent_builder() -> ConfigBuilder<AgentScope> {
    let roots = rustls_native_certs::load_native_certs().certs;
    let roots: Vec<_> = roots.iter().map(|der| ureq::tls::Certificate::from_der(der).to_owned()).collect();
    let tls = TlsConfig::builder()
        .root_certs(RootCerts::new_with_certs(&roots))
        .unversioned_rustls_crypto_provider(crate::net::tls::provider())
        .build();
    Agent::config_builder()
        .tls_config(tls)
        .http_status_as_error(false)
        .user_agent(USER_AGENT)
        .proxy(None)
        // Redirects are not followed, so no other server gets a request, with the token or without.
        .max_redirects(0)
}

/// The URL of `/gateway/bot`. `proxy` is `host:port` of a plain HTTP proxy for Discord's API.
pub fn url(proxy: Option<&str>) -> String {
    let base = proxy.map_or_else(|| DISCORD.to_owned(), |address| format!("http://{address}"));
    format!("{base}/api/v10{GATEWAY}")
}

/// How long an answer asks to wait: seconds, whole or not, in the header `Retry-After` and in `retry_after` of the
/// body. Discord's header is rounded and Cloudflare sends the header alone, so the longer one counts.
fn retry_after(header: Option<&str>, body: &str) -> Option<Duration> {
    #[derive(Deserialize)]
    struct RateLimited {
        retry_after: f64,
    }
    let from_header = header.and_then(|seconds| seconds.trim().parse::<f64>().ok());
    let from_body = serde_json::from_str::<RateLimited>(body).ok().map(|body| body.retry_after);
    let longer = [from_header, from_body].into_iter().flatten().filter(|seconds| *seconds >= 0.0).reduce(f64::max)?;
    Some(Duration::from_secs_f64(longer.min(MAX_RETRY_AFTER.as_secs_f64())))
}

/// Parses an answer. The error says why it can not be parsed or which value makes no sense; the next answer may be
/// another one.
fn parse(body: &str, hosts: &Hosts) -> Result<GatewayInfo, AnswerError> {
    let body: Body = serde_json::from_str(body)?;
    let Limit { total, remaining, reset_after, max_concurrency } = body.session_start_limit;
    let absurd = |key, value, expected| Err(AnswerError::Value { key, value, expected });
    if !(1..=MAX_SHARDS).contains(&u64::from(body.shards)) {
        return absurd("shards", body.shards.into(), format!("1 to {MAX_SHARDS}"));
    }
    if !(1..=MAX_SHARDS).contains(&u64::from(max_concurrency)) {
        return absurd("max_concurrency", max_concurrency.into(), format!("1 to {MAX_SHARDS}"));
    }
    if Duration::from_millis(reset_after) > MAX_RESET_AFTER {
        return absurd("reset_after", reset_after, format!("{} ms at most", MAX_RESET_AFTER.as_millis()));
    }
    hosts.allow(&Endpoint::parse(&body.url)?)?;
    Ok(GatewayInfo {
        url: body.url,
        shards: body.shards,
        budget: SessionStartLimit {
            total,
            remaining,
            reset_after: Duration::from_millis(reset_after),
            max_concurrency,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(body: &str) -> Result<GatewayInfo, String> {
        super::parse(body, &Hosts::default()).map_err(|error| error.to_string())
    }

    #[test]
    fn the_documented_answer() {
        let info = parse(
            r#"{"url":"wss://gateway.discord.gg/","shards":9,"session_start_limit":
                {"total":1000,"remaining":999,"reset_after":14400000,"max_concurrency":16}}"#,
        )
        .unwrap();
        assert_eq!((info.url.as_str(), info.shards), ("wss://gateway.discord.gg/", 9));
        let reset_after = Duration::from_secs(14_400);
        assert_eq!(info.budget, SessionStartLimit { total: 1000, remaining: 999, reset_after, max_concurrency: 16 });
        assert!(parse("{}").unwrap_err().contains("url"));
    }

    #[test]
    fn an_absurd_answer_is_named() {
        let answer = |url: &str, shards: u64, reset_after: u64, max_concurrency: u64| {
            let limit = format!(
                r#"{{"total":1000,"remaining":999,"reset_after":{reset_after},"max_concurrency":{max_concurrency}}}"#
            );
            parse(&format!(r#"{{"url":"{url}","shards":{shards},"session_start_limit":{limit}}}"#))
        };
        let url = "wss://gateway.discord.gg";
        assert!(answer(url, MAX_SHARDS, 0, 1).is_ok());
        for (answer, named) in [
            (answer(url, 0, 1, 1), "`shards` is 0, expected 1 to 65536"),
            (answer(url, 1 << 31, 1, 1), "`shards` is 2147483648"),
            (answer(url, 1, u64::MAX, 1), "`reset_after` is 18446744073709551615, expected 604800000 ms at most"),
            (answer(url, 1, 1, 0), "`max_concurrency` is 0"),
            (answer("https://a", 1, 1, 1), "it has to begin with ws:// or wss://"),
            (answer("", 1, 1, 1), "is not a gateway URL"),
        ] {
            let error = answer.unwrap_err();
            assert!(error.contains(named), "{named}: {error}");
        }
    }

    #[test]
    fn an_answer_that_leads_to_a_host_that_is_not_listed_is_not_taken() {
        let body = r#"{"url":"wss://gateway.discord.gg","shards":1,"session_start_limit":
            {"total":1000,"remaining":999,"reset_after":1,"max_concurrency":1}}"#;
        assert!(super::parse(body, &Hosts(vec!["discord.gg".into()])).is_ok());
        let error = super::parse(body, &Hosts(vec!["example.com".into()])).unwrap_err().to_string();
        assert!(error.contains("gateway.discord.gg is not one of `gateway_hosts`"), "{error}");
    }

    #[test]
    fn an_answer_says_how_long_to_wait() {
        let seconds = |header: Option<&str>, body: &str| retry_after(header, body).map(|wait| wait.as_secs_f64());
        assert_eq!(seconds(Some("65"), ""), Some(65.0));
        assert_eq!(seconds(Some(" 1.25 "), "{}"), Some(1.25));
        assert_eq!(seconds(None, r#"{"message":"x","retry_after":64.57,"global":false}"#), Some(64.57));
        assert_eq!(seconds(None, r#"{"retry_after":3}"#), Some(3.0));
        // The longer of the two waits counts.
        assert_eq!(seconds(Some("1"), r#"{"retry_after":1.4}"#), Some(1.4));
        assert_eq!(seconds(Some("9"), r#"{"retry_after":1.4}"#), Some(9.0));
        assert_eq!(seconds(Some("1e300"), ""), Some(3600.0));
        assert_eq!(seconds(Some("inf"), ""), Some(3600.0));
        assert_eq!(seconds(Some("NaN"), r#"{"retry_after":2}"#), Some(2.0));
        for nothing in [None, Some("-1"), Some("soon"), Some("Fri, 31 Dec 1999 23:59:59 GMT"), Some("")] {
            assert_eq!(seconds(nothing, "<html>"), None, "{nothing:?}");
        }
    }

    #[test]
    fn a_redirect_is_told_from_other_statuses() {
        let text = |status| RestError::Status { status, retry_after: None }.to_string();
        assert_eq!(text(302), "status 302, and redirects are not followed");
        assert_eq!(text(500), "status 500");
    }

    #[test]
    fn the_user_agent_has_the_documented_form() {
        let inside = USER_AGENT.strip_prefix("DiscordBot (").and_then(|rest| rest.strip_suffix(')')).unwrap();
        let (url, version) = inside.split_once(", ").unwrap();
        assert!(url.starts_with("https://"), "{url}");
        assert_eq!(version, env!("CARGO_PKG_VERSION"));
    }
}
