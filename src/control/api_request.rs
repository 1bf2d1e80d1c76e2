//! A client's request for Discord's REST API: what the proxy has to know of its head before it may be forwarded. Pure.
//!
//! An HTTP proxy for the API adds the bot's token to every request. So a client has to show the bot's token. With
//! `rest_proxy_without_token`, the documented routes of interactions and webhooks whose path carries a token of its own
//! do not need the bot's token.

/// Most digits of an id.
const ID_DIGITS: usize = 20;
/// Lengths of a token of a webhook or an interaction, in characters.
const TOKEN_LENGTH: std::ops::RangeInclusive<usize> = 32..=1024;

/// Why a request can not be forwarded. The texts are for its client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unforwardable {
    /// `Content-Length` is not one decimal number of a sensible size.
    #[error("Content-Length is no number, or a number that is too large")]
    Length,
    /// There are two of `Content-Length` and `Transfer-Encoding`.
    #[error("the length of the body is given twice")]
    TwoLengths,
    /// `Transfer-Encoding` is not `chunked` alone.
    #[error("Transfer-Encoding has to be chunked alone")]
    Coding,
    /// A request of HTTP/1.0 has a `Transfer-Encoding`.
    #[error("HTTP/1.0 knows no Transfer-Encoding")]
    OldCoding,
    /// The method is CONNECT.
    #[error("CONNECT is not forwarded: Discord's API has no tunnels")]
    Tunnel,
    /// The target has characters that a URI can not have.
    #[error("the path has characters that a URI can not have")]
    Target,
}

/// What decides whether a request may be forwarded.
#[derive(Debug, PartialEq, Eq)]
pub struct ApiRequest {
    /// The value of `Authorization` that is forwarded.
    pub authorization: Option<String>,
    /// The request is for a documented route whose path carries a token.
    pub has_own_token: bool,
}

impl ApiRequest {
    /// Takes the head of a request whose path is below `/api`. `route` is the path behind the API version.
    pub fn new(request: &httparse::Request<'_, '_>, route: &str) -> Result<Self, Unforwardable> {
        check_framing(request)?;
        let (method, target) = (request.method.unwrap_or("GET"), request.path.unwrap_or("/"));
        if method == "CONNECT" {
            return Err(Unforwardable::Tunnel);
        }
        if target.parse::<hyper::Uri>().is_err() {
            return Err(Unforwardable::Target);
        }
        let authorization = request.headers.iter().find(|header| header.name.eq_ignore_ascii_case("authorization"));
        let authorization = authorization.and_then(|header| String::from_utf8(header.value.to_vec()).ok());
        Ok(Self { authorization, has_own_token: carries_token(method, route) })
    }

    /// Removes `Authorization`. Its value is not the bot's token, and a request with it would reach Discord from this
    /// machine's address.
    pub fn without_authorization(self) -> Self {
        Self { authorization: None, ..self }
    }
}

/// Checks that the end of the body can be read in one way only (RFC 9112, 6.1 to 6.3). hyper is more lenient: of a length
/// and chunks it takes the chunks, and of two equal lengths one. Who writes such a request hopes that some server takes
/// what follows the body for another request, which the proxy has not checked.
fn check_framing(request: &httparse::Request<'_, '_>) -> Result<(), Unforwardable> {
    let mut framed = false;
    for header in &*request.headers {
        if header.name.eq_ignore_ascii_case("content-length") {
            // No body is longer than an `i64` can say. hyper gives the largest values of a `u64` meanings of their own.
            let digits =
                std::str::from_utf8(header.value).ok().filter(|digits| digits.bytes().all(|b| b.is_ascii_digit()));
            digits.and_then(|digits| digits.parse::<i64>().ok()).ok_or(Unforwardable::Length)?;
        } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
            if request.version == Some(0) {
                return Err(Unforwardable::OldCoding);
            }
            if !header.value.eq_ignore_ascii_case(b"chunked") {
                return Err(Unforwardable::Coding);
            }
        } else {
            continue;
        }
        if std::mem::replace(&mut framed, true) {
            return Err(Unforwardable::TwoLengths);
        }
    }
    Ok(())
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

    fn request(head: &str) -> Result<ApiRequest, Unforwardable> {
        let mut headers = [httparse::EMPTY_HEADER; 16];
        let mut request = httparse::Request::new(&mut headers);
        assert!(request.parse(head.as_bytes()).unwrap().is_complete());
        ApiRequest::new(&request, "/channels/1/messages?a=b")
    }

    #[test]
    fn the_head_says_in_one_way_only_where_the_body_ends() {
        let with = |version: &str, headers: &str| {
            request(&format!("POST /api/v10/channels/1/messages?a=b HTTP/{version}\r\n{headers}\r\n"))
        };
        for good in ["", "content-length: 17\r\n", "Transfer-Encoding: Chunked\r\n", "Content-Length: 0\r\n"] {
            assert!(with("1.1", good).is_ok(), "{good}");
        }
        for bad in [
            "Content-Length: \r\n",
            "Content-Length: +5\r\n",
            "Content-Length: -5\r\n",
            "Content-Length: 5, 5\r\n",
            "Content-Length: 18446744073709551615\r\n",
            "Content-Length: 99999999999999999999\r\n",
            "Transfer-Encoding: gzip, chunked\r\n",
            "Transfer-Encoding: identity\r\n",
            "Content-Length: 5\r\nContent-Length: 5\r\n",
            "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
            "Transfer-Encoding: chunked\r\ntransfer-encoding: chunked\r\n",
        ] {
            assert!(with("1.1", bad).is_err(), "{bad}");
        }
        assert!(with("1.0", "Content-Length: 5\r\n").is_ok());
        assert!(with("1.0", "Transfer-Encoding: chunked\r\n").is_err());
    }

    #[test]
    fn a_request_shows_its_authorization() {
        let with = request("GET /api/x HTTP/1.1\r\nauthorization: Bot x\r\nAuthorization: Bot y\r\n\r\n").unwrap();
        assert_eq!(with.authorization.as_deref(), Some("Bot x"));
        assert!(!with.has_own_token);
        assert_eq!(with.without_authorization().authorization, None);
    }

    #[test]
    fn what_is_no_path_is_refused() {
        let ask = |start: &str| request(&format!("{start} HTTP/1.1\r\n\r\n"));
        assert!(ask("GET /api/channels/1/messages/2/reactions/\u{1f525}/@me").is_ok());
        assert!(ask("GET /api/channels/1/messages/2/reactions/name:3/@me?x={\"}").is_err());
        assert!(ask("GET /api/a`b").is_err());
        assert!(ask("CONNECT /api/x").is_err());
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
}
