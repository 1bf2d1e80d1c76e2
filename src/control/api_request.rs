//! A client's request for Discord's REST API: what the proxy has to know of its head before it may be forwarded. Pure.
//!
//! An HTTP proxy for the API adds the bot's token to every request. So a client has to show the bot's token. With
//! `rest_proxy_without_token`, the documented routes of interactions and webhooks whose path carries a token of its own
//! do not need the bot's token.

use super::body::Body;

/// Most digits of an id.
const ID_DIGITS: usize = 20;
/// Lengths of a token of a webhook or an interaction, in characters.
const TOKEN_LENGTH: std::ops::RangeInclusive<usize> = 32..=1024;
/// Headers that concern one connection and not the request (RFC 9110, 7.6.1). They are not forwarded.
const HOP_BY_HOP: [&str; 5] = ["connection", "keep-alive", "proxy-connection", "upgrade", "te"];

/// A request to forward.
#[derive(Debug, PartialEq, Eq)]
pub struct ApiRequest {
    /// The request line and the headers, without `Host`, `Authorization` and the headers of the connection, and without
    /// the empty line at the end.
    head: Vec<u8>,
    body: Body,
    /// The value of `Authorization`.
    pub authorization: Option<String>,
    /// The request is for a documented route whose path carries a token.
    pub has_own_token: bool,
}

impl ApiRequest {
    /// Takes a request whose path is below `/api`. `route` is the path behind the API version. The error says why the
    /// request can not be forwarded.
    pub fn new(request: &httparse::Request<'_, '_>, route: &str) -> Result<Self, &'static str> {
        let body = Body::of(request.headers)?;
        let (method, target) = (request.method.unwrap_or("GET"), request.path.unwrap_or("/"));
        // The version is kept: a client that speaks HTTP/1.0 can not read the chunks that a response to HTTP/1.1 may
        // come in.
        let version = request.version.unwrap_or(1).min(1);
        if version == 0 && request.headers.iter().any(|header| header.name.eq_ignore_ascii_case("transfer-encoding")) {
            return Err("HTTP/1.0 knows no Transfer-Encoding");
        }
        let mut head = format!("{method} {target} HTTP/1.{version}\r\n").into_bytes();
        let ours = |name: &str| name.eq_ignore_ascii_case("host") || name.eq_ignore_ascii_case("authorization");
        copy_headers(request.headers, &mut head, |name| !ours(name));
        let authorization = request.headers.iter().find(|header| header.name.eq_ignore_ascii_case("authorization"));
        let authorization = authorization.and_then(|header| String::from_utf8(header.value.to_vec()).ok());
        Ok(Self { head, body, authorization, has_own_token: carries_token(method, route) })
    }

    /// The state before the request's body.
    pub fn body(&self) -> Body {
        self.body
    }

    /// Removes `Authorization`. Its value is not the bot's token, and a request with it would reach Discord from this
    /// machine's address.
    pub fn without_authorization(self) -> Self {
        Self { authorization: None, ..self }
    }

    /// The request's head for the server `host` (`host:port`).
    pub fn encode(mut self, host: &str) -> Vec<u8> {
        if let Some(authorization) = &self.authorization {
            self.head.extend_from_slice(format!("Authorization: {authorization}\r\n").as_bytes());
        }
        self.head.extend_from_slice(format!("Host: {host}\r\nConnection: close\r\n\r\n").as_bytes());
        self.head
    }
}

/// Appends the headers that `wanted` selects to `out`, without those that concern one connection.
pub fn copy_headers(headers: &[httparse::Header<'_>], out: &mut Vec<u8>, wanted: impl Fn(&str) -> bool) {
    for header in headers {
        if wanted(header.name) && !HOP_BY_HOP.iter().any(|name| header.name.eq_ignore_ascii_case(name)) {
            out.extend_from_slice(header.name.as_bytes());
            out.extend_from_slice(b": ");
            out.extend_from_slice(header.value);
            out.extend_from_slice(b"\r\n");
        }
    }
}

/// Says whether the route is a documented one whose path carries a token (docs: Interactions, Create Interaction
/// Response and the followup messages; Webhook Resource, the routes "with Token", "Execute" and those for messages).
/// Only spellings that every server reads in the same way are accepted: no `..`, no `%`, no empty segment.
fn carries_token(method: &str, route: &str) -> bool {
    let path = route.split('?').next().unwrap_or("");
    let is_id = |id: &str| (1..=ID_DIGITS).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_digit());
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    let is_token = |token: &str| TOKEN_LENGTH.contains(&token.len()) && token.bytes().all(plain);
    let segments: Vec<&str> = path.split('/').take(7).collect();
    let ["", kind, id, token, rest @ ..] = &segments[..] else { return false };
    is_id(id)
        && is_token(token)
        && match (*kind, rest) {
            ("interactions", ["callback"]) => method == "POST",
            ("webhooks", []) => matches!(method, "GET" | "POST" | "PATCH" | "DELETE"),
            ("webhooks", ["slack" | "github"]) => method == "POST",
            ("webhooks", ["messages", message]) => {
                (*message == "@original" || is_id(message)) && matches!(method, "GET" | "PATCH" | "DELETE")
            }
            _ => false,
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(head: &str, route: &str) -> ApiRequest {
        let mut headers = [httparse::EMPTY_HEADER; 16];
        let mut request = httparse::Request::new(&mut headers);
        assert!(request.parse(head.as_bytes()).unwrap().is_complete());
        ApiRequest::new(&request, route).unwrap()
    }

    #[test]
    fn a_request_is_passed_on_without_what_is_about_the_connection() {
        let forward = request(
            "POST /api/v10/channels/1/messages?a=b HTTP/1.1\r\nHost: proxy:7878\r\nConnection: keep-alive\r\n\
             Authorization: Bot x\r\nTransfer-Encoding: chunked\r\nKeep-Alive: 5\r\n\r\n",
            "/channels/1/messages?a=b",
        );
        assert_eq!(forward.authorization.as_deref(), Some("Bot x"));
        assert!(!forward.has_own_token);
        let text = String::from_utf8(forward.encode("rest:80")).unwrap();
        assert_eq!(
            text,
            "POST /api/v10/channels/1/messages?a=b HTTP/1.1\r\nTransfer-Encoding: chunked\r\nAuthorization: Bot x\r\n\
             Host: rest:80\r\nConnection: close\r\n\r\n"
        );
    }

    #[test]
    fn only_documented_routes_with_a_token_need_none() {
        let token = &"aW50ZXJhY3Rpb246MTIz-_x.".repeat(3);
        for (method, good) in [
            ("POST", format!("/interactions/123/{token}/callback")),
            ("POST", format!("/interactions/123/{token}/callback?with_response=true")),
            ("POST", format!("/webhooks/123/{token}?wait=true")),
            ("GET", format!("/webhooks/123/{token}")),
            ("DELETE", format!("/webhooks/123/{token}")),
            ("POST", format!("/webhooks/123/{token}/github")),
            ("PATCH", format!("/webhooks/123/{token}/messages/@original")),
            ("GET", format!("/webhooks/123/{token}/messages/456?thread_id=1")),
        ] {
            assert!(carries_token(method, &good), "{method} {good}");
        }
        for (method, bad) in [
            ("GET", "/users/@me".to_owned()),
            ("GET", "/webhooks/123".to_owned()),
            ("GET", "/webhooks/123/short".to_owned()),
            ("GET", format!("/webhooks/123/{}", "a".repeat(2000))),
            ("GET", format!("/webhooks/abc/{token}")),
            ("GET", format!("/webhooks/{}/{token}", "1".repeat(21))),
            ("GET", format!("/webhooks/123/{token}/../../../users/@me")),
            ("GET", format!("/webhooks/123/{token}/%2e%2e/users")),
            ("GET", format!("/webhooks//123/{token}")),
            ("GET", format!("webhooks/123/{token}")),
            ("GET", format!("/webhooks/123/{token}/")),
            ("GET", format!("/webhooks/123/{token}/anything")),
            ("GET", format!("/webhooks/123/{token}/messages/456/7")),
            ("GET", format!("/webhooks/123/{token}/messages/../456")),
            ("PUT", format!("/webhooks/123/{token}")),
            ("POST", format!("/webhooks/123/{token}/messages/456")),
            ("GET", format!("/interactions/123/{token}/callback")),
            ("POST", format!("/interactions/123/{token}")),
            ("OPTIONS", format!("/webhooks/123/{token}")),
        ] {
            assert!(!carries_token(method, &bad), "{method} {bad}");
        }
    }

    #[test]
    fn a_foreign_authorization_does_not_go_out() {
        let forward =
            request("GET /api/users/@me HTTP/1.1\r\nauthorization: Bearer foreign\r\nX: y\r\n\r\n", "/users/@me");
        let text = String::from_utf8(forward.without_authorization().encode("rest:80")).unwrap();
        assert_eq!(text, "GET /api/users/@me HTTP/1.1\r\nX: y\r\nHost: rest:80\r\nConnection: close\r\n\r\n");
    }
}
