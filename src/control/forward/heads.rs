//! The heads of a forwarded request and of its response: which headers go on to the other side. Pure.

use hyper::{
    HeaderMap, Request, Response, Version,
    header::{AUTHORIZATION, CONNECTION, CONTENT_LENGTH, HOST, HeaderName, HeaderValue, TRANSFER_ENCODING},
};

/// Headers that concern one connection and not the message (RFC 9110, 7.6.1). They are not forwarded.
/// `Transfer-Encoding` is not among them: hyper reads it on one connection and frames the body by it on the other one.
const HOP_BY_HOP: [&str; 5] = ["connection", "keep-alive", "proxy-connection", "upgrade", "te"];

/// Copies the headers that `wanted` selects and that do not concern the connection, in their order. Those that
/// `Connection` names concern the connection, too, but for those that frame the body.
fn copy_headers(headers: &HeaderMap, wanted: impl Fn(&HeaderName) -> bool) -> HeaderMap {
    let named: Vec<&str> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .collect();
    let of_connection = |name: &HeaderName| {
        HOP_BY_HOP.contains(&name.as_str())
            || (*name != CONTENT_LENGTH
                && *name != TRANSFER_ENCODING
                && named.iter().any(|named| named.eq_ignore_ascii_case(name.as_str())))
    };
    let mut copy = HeaderMap::with_capacity(headers.len() + 3);
    for (name, value) in headers {
        if wanted(name) && !of_connection(name) {
            copy.append(name.clone(), value.clone());
        }
    }
    copy
}

/// Makes a client's request one for `rest_proxy`, whose address is `host`. `with_authorization` says whether the value
/// of `Authorization` goes along.
///
/// The version is kept, so that `rest_proxy` can choose a response that a client of HTTP/1.0 understands.
pub fn for_upstream<B>(mut request: Request<B>, host: &HeaderValue, with_authorization: bool) -> Request<B> {
    let mut headers = copy_headers(request.headers(), |name| *name != HOST && *name != AUTHORIZATION);
    // If there are two, the first one is the one whose token was compared.
    if let Some(authorization) = request.headers().get(AUTHORIZATION).filter(|_| with_authorization) {
        headers.insert(AUTHORIZATION, authorization.clone());
    }
    headers.insert(HOST, host.clone());
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    *request.headers_mut() = headers;
    request
}

/// Makes a response of `rest_proxy` one for the client. A length beside a `Transfer-Encoding` means nothing and is
/// dropped (RFC 9112, 6.3).
pub fn for_client<B>(mut response: Response<B>) -> Response<B> {
    let is_coded = response.headers().contains_key(TRANSFER_ENCODING);
    let headers = copy_headers(response.headers(), |name| !(is_coded && *name == CONTENT_LENGTH));
    *response.headers_mut() = headers;
    // hyper answers a client of HTTP/1.0 as one.
    *response.version_mut() = Version::HTTP_11;
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(headers: &[(&str, &str)]) -> Request<()> {
        let mut request = Request::post("/api/v10/channels/1/messages?a=b");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap()
    }

    fn lines(headers: &HeaderMap) -> Vec<(&str, &str)> {
        headers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect()
    }

    #[test]
    fn a_request_is_passed_on_without_what_is_about_the_connection() {
        let request = request(&[
            ("Host", "proxy:7878"),
            ("Connection", "keep-alive, X-Of-Connection, transfer-encoding"),
            ("X-Of-Connection", "y"),
            ("Authorization", "Bot x"),
            ("Transfer-Encoding", "chunked"),
            ("Keep-Alive", "5"),
            ("Upgrade", "h2c"),
            ("TE", "trailers"),
            ("Proxy-Connection", "close"),
            ("Authorization", "Bot another"),
            ("X-Audit-Log-Reason", "why"),
        ]);
        let request = for_upstream(request, &HeaderValue::from_static("rest:80"), true);
        assert_eq!(request.uri(), "/api/v10/channels/1/messages?a=b");
        assert_eq!(
            lines(request.headers()),
            [
                ("transfer-encoding", "chunked"),
                ("x-audit-log-reason", "why"),
                ("authorization", "Bot x"),
                ("host", "rest:80"),
                ("connection", "close"),
            ]
        );
    }

    #[test]
    fn a_foreign_authorization_does_not_go_out() {
        let request = request(&[("authorization", "Bearer foreign"), ("X", "y")]);
        let request = for_upstream(request, &HeaderValue::from_static("rest:80"), false);
        assert_eq!(lines(request.headers()), [("x", "y"), ("host", "rest:80"), ("connection", "close")]);
    }

    #[test]
    fn a_response_is_passed_on_without_what_is_about_the_connection() {
        let response = |headers: &[(&str, &str)]| {
            let mut response = Response::builder().status(201).version(Version::HTTP_10);
            for (name, value) in headers {
                response = response.header(*name, *value);
            }
            for_client(response.body(()).unwrap())
        };
        let with_length =
            response(&[("Set-Cookie", "a=1"), ("Connection", "close"), ("Content-Length", "2"), ("Set-Cookie", "b=2")]);
        assert_eq!((with_length.status().as_u16(), with_length.version()), (201, Version::HTTP_11));
        assert_eq!(
            lines(with_length.headers()),
            [("set-cookie", "a=1"), ("set-cookie", "b=2"), ("content-length", "2")]
        );
        let chunked = response(&[("Content-Length", "2"), ("Transfer-Encoding", "chunked")]);
        assert_eq!(lines(chunked.headers()), [("transfer-encoding", "chunked")]);
    }
}
