//! The live page at `/`: one HTML document that contains its style and its script, so that a browser loads nothing else
//! from the proxy but `/status.json`. The document holds no figures and is the same for every operator; its script
//! fetches the figures.

use super::http::Response;
use std::sync::LazyLock;

const HTML: &str = include_str!("page/page.html");
const STYLE: &str = include_str!("page/page.css");
const SCRIPT: &str = include_str!("page/page.js");

/// The document, and its header lines.
static PAGE: LazyLock<(String, String)> = LazyLock::new(|| {
    let document = HTML.replace("/*style*/", STYLE).replace("/*script*/", SCRIPT);
    // The browser applies only this style and runs only this script, whatever else gets into the page. The page may
    // connect to this proxy only.
    let headers = format!(
        "Content-Security-Policy: default-src 'none'; style-src '{}'; script-src '{}'; connect-src 'self'; \
         img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'\r\n\
         Referrer-Policy: no-referrer\r\nCache-Control: no-store\r\n",
        source(STYLE),
        source(SCRIPT)
    );
    (document, headers)
});

/// A response with the page and this status.
pub fn response(status: &'static str) -> Response {
    let (document, headers) = &*PAGE;
    Response { status, content_type: "text/html; charset=utf-8", headers: headers.clone(), body: document.clone() }
}

/// The source expression of an inline text for a Content-Security-Policy: its SHA-256 hash.
fn source(text: &str) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
    format!("sha256-{}", base64(digest.as_ref()))
}

/// Encodes bytes as base64 (RFC 4648, section 4).
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let bits = chunk.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for place in 0..4 {
            let digit = bits >> (18 - 6 * place) & 63;
            text.push(if place <= chunk.len() { char::from(ALPHABET[digit as usize]) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_of_the_rfc() {
        for (bytes, text) in
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg=="), ("foobar", "Zm9vYmFy")]
        {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
    }

    #[test]
    fn the_page_is_one_document_that_loads_nothing() {
        let page = response("200 OK");
        assert!(!page.body.contains("/*style*/") && !page.body.contains("/*script*/"));
        // The browser hashes the text between the tags, so that text must be the one that the header's hash was made
        // of.
        assert!(page.body.contains(&format!("<style>{STYLE}</style>")));
        assert!(page.body.contains(&format!("<script>{SCRIPT}</script>")));
        for loads in ["src=", "href=\"http", "url(", "@import", "//cdn"] {
            assert!(!page.body.contains(loads), "the page has {loads}");
        }
        assert!(page.headers.contains("default-src 'none'"));
        assert!(page.headers.lines().all(|line| line.contains(": ")) && page.headers.ends_with("\r\n"));
    }
}
