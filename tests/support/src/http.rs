//! A blocking HTTP/1.1 client, just sufficient for the routes of the simulator and the proxy.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use serde_json::Value;

/// Longest time that a server may be silent during one answer.
const SILENCE: Duration = Duration::from_secs(60);

/// An answer of any status.
#[derive(Debug)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// The lines of the header.
    pub header: String,
    /// The body, which has to be UTF-8.
    pub body: String,
}

/// Sends GET `path`. `Err`: the server can not be reached or does not complete its answer.
pub fn get(address: SocketAddr, path: &str) -> Result<Response, String> {
    request(address, "GET", path, b"")
}

/// Sends GET `path`. The answer has to be 2xx with JSON.
pub fn get_json(address: SocketAddr, path: &str) -> Result<Value, String> {
    json(path, get(address, path)?)
}

/// Sends POST `path` without a body. The answer has to be 2xx with JSON or nothing.
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

/// Parses everything that the server sent before it closed the connection. `None`: the answer is incomplete.
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
