//! A blocking HTTP/1.1 client that is just enough for the simulator's and the proxy's own routes.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use serde_json::Value;

/// How long a server may be silent within one answer.
const SILENCE: Duration = Duration::from_secs(60);

/// An answer, whatever its status.
#[derive(Debug)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// Lines of the header, as they came.
    pub header: String,
    /// The body, which has to be UTF-8.
    pub body: String,
}

/// GET `path` of the server at `address`. `Err` is for a server that cannot be reached or does not answer in full.
pub fn get(address: SocketAddr, path: &str) -> Result<Response, String> {
    request(address, "GET", path, b"")
}

/// GET `path`, which has to be answered by 200 and JSON.
pub fn get_json(address: SocketAddr, path: &str) -> Result<Value, String> {
    json(path, get(address, path)?)
}

/// POST `path` (with its parameters in the query and no body), which has to be answered by 2xx and JSON or nothing.
pub fn post(address: SocketAddr, path: &str) -> Result<Value, String> {
    post_body(address, path, b"")
}

/// As [`post`], with a body.
pub fn post_body(address: SocketAddr, path: &str, body: &[u8]) -> Result<Value, String> {
    json(path, request(address, "POST", path, body)?)
}

fn json(path: &str, response: Response) -> Result<Value, String> {
    let Response { status, body, .. } = response;
    if !(200..300).contains(&status) {
        return Err(format!("{path}: status {status}: {body}"));
    }
    if body.is_empty() {
        return Ok(Value::Null);
    }
    serde_json::from_str(&body).map_err(|error| format!("{path}: {error} in {body}"))
}

fn request(address: SocketAddr, method: &str, path: &str, body: &[u8]) -> Result<Response, String> {
    let fault = |error: std::io::Error| format!("{method} http://{address}{path}: {error}");
    let mut stream = TcpStream::connect_timeout(&address, SILENCE).map_err(fault)?;
    stream.set_read_timeout(Some(SILENCE)).map_err(fault)?;
    stream.set_write_timeout(Some(SILENCE)).map_err(fault)?;
    let size = body.len();
    let head =
        format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\nContent-Length: {size}\r\nConnection: close\r\n\r\n");
    stream.write_all(&[head.as_bytes(), body].concat()).map_err(fault)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).map_err(fault)?;
    parse(&answer).ok_or_else(|| format!("{method} {path}: not an answer: {:?}", String::from_utf8_lossy(&answer)))
}

/// The answer in everything that the server sent before it closed the connection; `None` if it is cut short.
fn parse(answer: &[u8]) -> Option<Response> {
    let answer = str::from_utf8(answer).ok()?;
    let (header, body) = answer.split_once("\r\n\r\n")?;
    let status = header.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
    let length = header.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>())
    });
    let body = match length {
        Some(length) => body.get(..length.ok()?)?,
        None => body,
    };
    Some(Response { status, header: header.to_owned(), body: body.to_owned() })
}
