//! HTTP on the gateway's port: parses request heads, decides their routes, encodes responses. Pure.

use super::api_request::ApiRequest;
use crate::{
    compression::Transport,
    data_core::Repair,
    downstream::session::{SessionId, session_in},
    protocol::Encoding,
    websocket::{HandshakeError, Upgrade, upgrade_of},
};

/// Longest request head, in bytes.
pub const MAX_HEAD: usize = 8 << 10;
/// Most headers of a request.
const MAX_HEADERS: usize = 64;

/// What a request asks for.
#[derive(Debug, PartialEq, Eq)]
pub enum Route {
    /// A gateway connection.
    Gateway(Upgrade, GatewayQuery),
    /// `/shard-count`.
    ShardCount,
    /// A route for operators, and the `http_token` that the request shows.
    Operator(Operator, Option<String>),
    /// `/health`.
    Health,
    /// `/api/v*/gateway`.
    GatewayUrl,
    /// `/api/v*/gateway/bot`, with the value of `Authorization`.
    GatewayBot(Option<String>),
    /// Any other route below `/api`: a request to forward to Discord's API.
    Api(ApiRequest),
    /// A request that is refused with this response.
    Refused(Response),
}

/// The routes for operators.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    /// `/`: the live page.
    Page,
    /// `/status.json`, with the details of this shard.
    Status(Option<u32>),
    /// `/metrics`.
    Metrics,
    /// POST `/admin/reload`.
    Reload,
    /// POST `/admin/shards/<id>/reconnect` and `…/identify`.
    Repair(u32, Repair),
    /// POST `/admin/shards/<id>/trace/on` and `…/trace/off`.
    Trace(u32, bool),
}

/// The parameters of a gateway URL (docs: Gateway, Connecting).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GatewayQuery {
    /// API version, echoed in READY.
    pub version: u8,
    /// Encoding of payloads.
    pub encoding: Encoding,
    /// Transport compression.
    pub transport: Transport,
    /// The session that the path names. The `resume_gateway_url` of READY can have such a path.
    pub session: Option<SessionId>,
}

/// A response with a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// Status code and phrase.
    pub status: &'static str,
    /// `Content-Type`. Some libraries compare the whole value with `application/json`.
    pub content_type: &'static str,
    /// Further header lines, each with its line end.
    pub headers: String,
    /// The body.
    pub body: String,
}

impl Response {
    /// A response with a plain text body.
    pub fn text(status: &'static str, body: impl Into<String>) -> Self {
        Self { status, content_type: "text/plain; charset=utf-8", headers: String::new(), body: body.into() }
    }

    /// A response with a JSON body.
    pub fn json(status: &'static str, body: impl Into<String>) -> Self {
        Self { status, content_type: "application/json", headers: String::new(), body: body.into() }
    }

    /// The encoded response. Its header tells the client that the connection closes after it.
    pub fn encode(&self) -> Vec<u8> {
        format!(
            "HTTP/1.1 {}\r\nContent-Type: {}\r\nContent-Length: {}\r\n{}X-Content-Type-Options: nosniff\r\nConnection: close\r\n\r\n{}",
            self.status,
            self.content_type,
            self.body.len(),
            self.headers,
            self.body
        )
        .into_bytes()
    }
}

/// The origins and host names whose requests are accepted.
///
/// A web page in a user's browser must not use the proxy. Browsers name the page's origin in `Origin`. With DNS
/// rebinding, where a name of the attacker's suddenly resolves to this proxy's address, that name is in `Host`. Bots
/// send no `Origin`.
#[derive(Clone, Debug, Default)]
pub struct OriginPolicy {
    /// Values of `Origin` that are accepted, without regard to case.
    pub origins: Vec<String>,
    /// Values of `Host`, without a port, that are accepted. Addresses, names without a dot, and names that exist in
    /// private networks only are always accepted.
    pub hosts: Vec<String>,
}

impl OriginPolicy {
    /// The response that refuses the request; `None`: it is accepted. A WebSocket upgrade is accepted with any `Host`.
    fn refuses(&self, request: &httparse::Request<'_, '_>, upgrades: bool) -> Option<Response> {
        let header = |name: &str| {
            let header = request.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name))?;
            Some(String::from_utf8_lossy(header.value).trim().to_ascii_lowercase())
        };
        let host = header("host").unwrap_or_default();
        let knows_host = self.knows_host(&host);
        if let Some(origin) = header("origin") {
            // Some libraries send the server's own name in `Origin`.
            let is_own = knows_host && origin.split_once("://").is_some_and(|(_, authority)| authority == host);
            if !is_own && !self.origins.iter().any(|known| known.eq_ignore_ascii_case(&origin)) {
                let body = "the origin of this web page is not allowed: list it in `allowed_origins` of the configuration if it may\n";
                return Some(Response::text("403 Forbidden", body));
            }
        }
        if !upgrades && !knows_host {
            let body = "the name in the Host header is not one of this proxy: list it in `allowed_hosts` of the configuration if it is\n";
            return Some(Response::text("421 Misdirected Request", body));
        }
        None
    }

    /// Says whether `host` is a configured name of this proxy, or one that an attacker can not resolve to its address.
    fn knows_host(&self, host: &str) -> bool {
        const PRIVATE: [&str; 4] = [".localhost", ".local", ".internal", ".home.arpa"];
        let name = match host.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
            _ => host,
        };
        let name = name.trim_end_matches('.');
        let is_address = name.parse::<std::net::Ipv4Addr>().is_ok() || name.starts_with('[');
        is_address
            || !name.contains('.')
            || PRIVATE.iter().any(|suffix| name.ends_with(suffix))
            || self.hosts.iter().any(|known| known.eq_ignore_ascii_case(name))
    }
}

/// Reads a request head from any origin; see [`parse_for`].
pub fn parse(bytes: &[u8]) -> Option<(usize, Route)> {
    parse_for(bytes, None)
}

/// Reads a request head. `None`: the head is incomplete. Otherwise returns its length in bytes and its route. A request
/// that `origin_policy` does not accept has the route [`Route::Refused`].
pub fn parse_for(bytes: &[u8], origin_policy: Option<&OriginPolicy>) -> Option<(usize, Route)> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(bytes) {
        Ok(httparse::Status::Complete(size)) => {
            let route = route(&request);
            let upgrades = matches!(route, Route::Gateway(..));
            let refusal = origin_policy.and_then(|origin_policy| origin_policy.refuses(&request, upgrades));
            Some((size, refusal.map_or(route, Route::Refused)))
        }
        Ok(httparse::Status::Partial) if bytes.len() < MAX_HEAD => None,
        Ok(httparse::Status::Partial) => {
            Some((bytes.len(), refused("431 Request Header Fields Too Large", "the request head is longer than 8 KiB")))
        }
        Err(error) => Some((bytes.len(), refused("400 Bad Request", format!("not HTTP/1.1: {error}")))),
    }
}

/// Says whether a head can end behind the first `seen` of these bytes. A head ends with an empty line.
pub fn may_end_after(bytes: &[u8], seen: usize) -> bool {
    let from = seen.saturating_sub(3);
    memchr::memmem::find(&bytes[from..], b"\n\n").is_some() || memchr::memmem::find(&bytes[from..], b"\n\r\n").is_some()
}

fn refused(status: &'static str, body: impl Into<String>) -> Route {
    Route::Refused(Response::text(status, body))
}

fn route(request: &httparse::Request<'_, '_>) -> Route {
    let target = request.path.unwrap_or("/");
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let api = api_route(path);
    if request.method != Some("GET") {
        if let Some(operator) = changing(path) {
            return match request.method {
                Some("POST") => Route::Operator(operator, bearer(request)),
                _ => refused("405 Method Not Allowed", "only POST is served here\n"),
            };
        }
        return match api {
            Some("/gateway" | "/gateway/bot") | None => refused("405 Method Not Allowed", "only GET is served here"),
            Some(_) => forward(request, target),
        };
    }
    match upgrade_of(request.headers) {
        Some(_) if request.version == Some(0) => {
            return refused("426 Upgrade Required", "HTTP/1.0 knows no WebSocket: it has to be HTTP/1.1");
        }
        Some(Ok(upgrade)) => {
            return match gateway_query(query) {
                Ok(query) => Route::Gateway(upgrade, GatewayQuery { session: session_in(path), ..query }),
                Err(error) => refused("400 Bad Request", error.to_string()),
            };
        }
        Some(Err(error @ HandshakeError::Header("Sec-WebSocket-Version"))) => {
            return refused("426 Upgrade Required", format!("{error}: it has to be 13"));
        }
        Some(Err(error)) => return refused("400 Bad Request", format!("not a WebSocket handshake: {error}")),
        None => {}
    }
    match path {
        "/shard-count" => Route::ShardCount,
        "/" => Route::Operator(Operator::Page, bearer(request).or_else(|| parameter(query, "token"))),
        "/status.json" => match parameter(query, "shard").map(|shard| shard.parse()) {
            None => Route::Operator(Operator::Status(None), bearer(request)),
            Some(Ok(shard)) => Route::Operator(Operator::Status(Some(shard)), bearer(request)),
            Some(Err(_)) => refused("400 Bad Request", "`shard` has to be the id of a shard, such as 17\n"),
        },
        "/metrics" => Route::Operator(Operator::Metrics, bearer(request)),
        _ if changing(path).is_some() => refused("405 Method Not Allowed", "only POST is served here\n"),
        "/health" => Route::Health,
        _ => match api {
            Some("/gateway") => Route::GatewayUrl,
            Some("/gateway/bot") => {
                let header = request.headers.iter().find(|header| header.name.eq_ignore_ascii_case("authorization"));
                Route::GatewayBot(header.and_then(|header| String::from_utf8(header.value.to_vec()).ok()))
            }
            Some(_) => forward(request, target),
            None => refused(
                "404 Not Found",
                "served here: /, /status.json, /shard-count, /metrics, /health, /api/v10/gateway, /api/v10/gateway/bot, and the gateway itself as a WebSocket\n",
            ),
        },
    }
}

/// The operator's route for a path that changes the running proxy; `None`: the path is none of these.
fn changing(path: &str) -> Option<Operator> {
    let action = path.strip_prefix("/admin/")?;
    if action == "reload" {
        return Some(Operator::Reload);
    }
    let (shard, action) = action.strip_prefix("shards/")?.split_once('/')?;
    let shard = shard.parse().ok()?;
    match action {
        "reconnect" => Some(Operator::Repair(shard, Repair::Reconnect)),
        "identify" => Some(Operator::Repair(shard, Repair::Identify)),
        "trace/on" => Some(Operator::Trace(shard, true)),
        "trace/off" => Some(Operator::Trace(shard, false)),
        _ => None,
    }
}

/// The token in `Authorization: Bearer …`.
fn bearer(request: &httparse::Request<'_, '_>) -> Option<String> {
    let header = request.headers.iter().find(|header| header.name.eq_ignore_ascii_case("authorization"))?;
    let (scheme, token) = std::str::from_utf8(header.value).ok()?.trim().split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim().to_owned())
}

/// The value of a parameter in the query, without percent-decoding.
fn parameter(query: &str, name: &str) -> Option<String> {
    query
        .split('&')
        .find_map(|pair| pair.split_once('=').filter(|(key, _)| *key == name))
        .map(|(_, value)| value.to_owned())
}

fn forward(request: &httparse::Request<'_, '_>, target: &str) -> Route {
    match ApiRequest::new(request, api_route(target).unwrap_or(target)) {
        Ok(request) => Route::Api(request),
        Err(what) => refused("400 Bad Request", what),
    }
}

/// The path behind `/api` or `/api/v<number>`.
fn api_route(path: &str) -> Option<&str> {
    let rest = path.strip_prefix("/api")?;
    let rest = match rest.strip_prefix("/v") {
        Some(versioned) => versioned.trim_start_matches(|digit: char| digit.is_ascii_digit()),
        None => rest,
    };
    rest.starts_with('/').then_some(rest)
}

/// A parameter of a gateway URL that is not served.
#[derive(Debug, thiserror::Error)]
enum QueryError {
    #[error("v={0}: versions 9 and 10 of the gateway are served")]
    Version(String),
    #[error("encoding={0}: expected json or etf")]
    Encoding(String),
    #[error("compress={0}: expected zlib-stream or zstd-stream")]
    Compression(String),
}

/// Reads the query of a gateway URL. A `v`, `encoding` or `compress` that is not served is an error: an answer in
/// another encoding or compression would be bytes that the client can not read.
fn gateway_query(query: &str) -> Result<GatewayQuery, QueryError> {
    let (encoding, transport) = (Encoding::Json, Transport::None);
    let mut parsed = GatewayQuery { version: 10, encoding, transport, session: None };
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        match key {
            "v" => {
                parsed.version = match value {
                    "9" => 9,
                    "10" => 10,
                    _ => return Err(QueryError::Version(value.to_owned())),
                }
            }
            "encoding" => {
                parsed.encoding = Encoding::from_name(value).ok_or_else(|| QueryError::Encoding(value.to_owned()))?;
            }
            "compress" => {
                parsed.transport =
                    Transport::from_name(value).ok_or_else(|| QueryError::Compression(value.to_owned()))?;
            }
            _ => {}
        }
    }
    Ok(parsed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(target: &str) -> Route {
        parse(format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes()).unwrap().1
    }

    fn upgrade(target: &str) -> Route {
        let head = format!(
            "GET {target} HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        let (size, route) = parse(format!("{head}rest").as_bytes()).unwrap();
        assert_eq!(size, head.len());
        route
    }

    #[test]
    fn routes() {
        assert_eq!(get("/shard-count"), Route::ShardCount);
        assert_eq!(get("/metrics?x=1"), Route::Operator(Operator::Metrics, None));
        assert_eq!(get("/"), Route::Operator(Operator::Page, None));
        assert_eq!(get("/health"), Route::Health);
        for base in ["/api", "/api/v9", "/api/v10"] {
            assert_eq!(get(&format!("{base}/gateway")), Route::GatewayUrl);
            assert_eq!(get(&format!("{base}/gateway/bot")), Route::GatewayBot(None));
        }
        let with_token = b"GET /api/v10/gateway/bot HTTP/1.1\r\nauthorization: Bot abc\r\n\r\n";
        assert_eq!(parse(with_token).unwrap().1, Route::GatewayBot(Some("Bot abc".into())));
        for target in ["/apix", "/admin/reload/x", "/admin/shards/-1/identify", "/status", "/api", "/api/v10"] {
            assert!(matches!(get(target), Route::Refused(response) if response.status == "404 Not Found"), "{target}");
        }
        assert!(matches!(get("/api/v10/users/@me"), Route::Api(forward) if !forward.has_own_token));
        let post = |target| parse(format!("POST {target} HTTP/1.1\r\n\r\n").as_bytes()).unwrap().1;
        for target in ["/metrics", "/api/v10/gateway/bot"] {
            assert!(matches!(post(target), Route::Refused(response) if response.status.starts_with("405")));
        }
        assert!(matches!(post("/api/v10/channels/1/messages"), Route::Api(_)));
        assert!(matches!(
            post("/api/interactions/1/aW50ZXJhY3Rpb246MTIzNDU2Nzg5MDEyMzQ1/callback?x=/.."),
            Route::Api(forward) if forward.has_own_token
        ));
    }

    #[test]
    fn operators_show_their_token() {
        let ask = |head: &str| parse(format!("{head}\r\n\r\n").as_bytes()).unwrap().1;
        let shown = |operator, token: Option<&str>| Route::Operator(operator, token.map(str::to_owned));
        assert_eq!(ask("GET /?token=a-b HTTP/1.1"), shown(Operator::Page, Some("a-b")));
        assert_eq!(ask("GET /?token=a HTTP/1.1\r\nauthorization: bearer  b"), shown(Operator::Page, Some("b")));
        // A token in this URL is ignored, because the page fetches the URL again and again.
        assert_eq!(ask("GET /status.json?token=a HTTP/1.1"), shown(Operator::Status(None), None));
        assert_eq!(
            ask("GET /status.json?shard=17 HTTP/1.1\r\nAuthorization: Bearer b"),
            shown(Operator::Status(Some(17)), Some("b"))
        );
        assert_eq!(ask("GET /metrics HTTP/1.1\r\nAuthorization: Bot b"), shown(Operator::Metrics, None));
        assert_eq!(ask("POST /admin/reload HTTP/1.1"), shown(Operator::Reload, None));
        assert_eq!(
            ask("POST /admin/shards/3/identify HTTP/1.1\r\nAuthorization: Bearer b"),
            shown(Operator::Repair(3, Repair::Identify), Some("b"))
        );
        let status = |head: &str| match ask(head) {
            Route::Refused(response) => response.status[..3].to_owned(),
            other => panic!("{other:?}"),
        };
        assert_eq!(status("GET /admin/shards/3/identify HTTP/1.1"), "405");
        assert_eq!(status("PUT /admin/reload HTTP/1.1"), "405");
        assert_eq!(status("POST / HTTP/1.1"), "405");
        assert_eq!(status("GET /status.json?shard=x HTTP/1.1"), "400");
    }

    #[test]
    fn any_path_upgrades_and_the_query_counts() {
        let query = |target| match upgrade(target) {
            Route::Gateway(_, query) => Ok((query.version, query.transport)),
            Route::Refused(response) => Err(response.body),
            other => panic!("{other:?}"),
        };
        assert_eq!(query("/"), Ok((10, Transport::None)));
        assert_eq!(query("//?v=10&encoding=json"), Ok((10, Transport::None)));
        assert_eq!(query("/r/abc/?v=9&compress=zlib-stream&x"), Ok((9, Transport::Zlib)));
        assert_eq!(query("/metrics?encoding=json&compress=zstd-stream"), Ok((10, Transport::Zstd)));
        for bad in
            ["/?v=8", "/?encoding=msgpack", "/?encoding=", "/?encoding=ETF", "/?compress=gzip", "/?compress=", "/?v="]
        {
            assert!(query(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn web_pages_are_refused() {
        let origin_policy =
            OriginPolicy { origins: vec!["https://dash.example".into()], hosts: vec!["Proxy.Example.com".into()] };
        let status = |method: &str, headers: &str| {
            let head = format!("{method} /api/v10/users/@me HTTP/1.1\r\n{headers}\r\n");
            match parse_for(head.as_bytes(), Some(&origin_policy)).unwrap().1 {
                Route::Refused(response) => response.status[..3].to_owned(),
                _ => "ok".to_owned(),
            }
        };
        for origin in ["https://evil.example", "null", "http://127.0.0.1:1", "https://dash.example.evil.example", ""] {
            let headers = format!("Host: 127.0.0.1:7878\r\nOrigin: {origin}\r\n");
            assert_eq!(status("POST", &headers), "403", "{origin}");
        }
        for origin in ["https://dash.example", "HTTPS://Dash.example", "http://127.0.0.1:7878"] {
            let headers = format!("Host: 127.0.0.1:7878\r\norigin: {origin}\r\n");
            assert_eq!(status("POST", &headers), "ok", "{origin}");
        }
        for host in [
            "",
            "127.0.0.1",
            "192.0.2.1:7878",
            "[::1]:7878",
            "localhost:7878",
            "gateway-proxy",
            "proxy.bots.svc.cluster.local",
            "proxy.example.com:7878",
            "a.internal",
        ] {
            assert_eq!(status("GET", &format!("Host: {host}\r\n")), "ok", "{host}");
        }
        assert_eq!(status("GET", ""), "ok");
        for host in [
            "rebound.example",
            "rebound.example:7878",
            "rebound.example.",
            "127.0.0.1.nip.example",
            "xproxy.example.com",
        ] {
            assert_eq!(status("GET", &format!("Host: {host}\r\n")), "421", "{host}");
            // A page whose own name is in `Host` is refused by its `Origin`.
            assert_eq!(status("GET", &format!("Host: {host}\r\nOrigin: http://{host}\r\n")), "403", "{host}");
        }
    }

    #[test]
    fn a_head_is_looked_at_when_it_may_be_complete() {
        let head = b"GET / HTTP/1.1\r\nA: b\r\n\r\n";
        for seen in 1..head.len() {
            assert!(may_end_after(head, seen), "{seen}");
            assert!(!may_end_after(&head[..head.len() - 1], seen.min(head.len() - 1)), "{seen}");
        }
        assert!(may_end_after(b"GET / HTTP/1.1\n\n", 3));
    }

    #[test]
    fn bad_heads_end_quickly() {
        assert_eq!(parse(b"GET / HT"), None);
        assert!(matches!(parse(b"\x16\x03\x01 garbage\r\n\r\n"), Some((_, Route::Refused(_)))));
        let endless = format!("GET / HTTP/1.1\r\nX: {}", "a".repeat(MAX_HEAD));
        assert!(matches!(parse(endless.as_bytes()), Some((_, Route::Refused(r))) if r.status.starts_with("431")));
        let many = format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(100));
        assert!(matches!(parse(many.as_bytes()), Some((_, Route::Refused(_)))));
    }

    #[test]
    fn the_content_type_is_exact() {
        let text = String::from_utf8(Response::json("200 OK", "{}").encode()).unwrap();
        assert!(text.contains("\r\nContent-Type: application/json\r\n"));
        assert!(text.contains("\r\nContent-Length: 2\r\nX-Content-Type-Options: nosniff\r\n"));
        assert!(text.ends_with("\r\nConnection: close\r\n\r\n{}"));
    }
}
