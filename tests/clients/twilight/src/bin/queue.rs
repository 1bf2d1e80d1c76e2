//! A queue for IDENTIFYs that several proxies share: the queue of the crate `twilight-gateway-queue` behind the HTTP
//! protocol of the program `gateway-queue` of the same project. A GET with `shard=<id>` is answered with 200 when the
//! shard may identify. As there, a client that goes away gives its place back.
//!
//! `LISTEN` is the address, `MAX_CONCURRENCY` the number of buckets. Prints `listening on <address>`, and
//! `permit <shard>` for each permit.

use std::{env, error::Error};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    select,
};
use twilight_gateway::queue::{InMemoryQueue, Queue};

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

const BODY: &str = r#"{"message": "You may identify."}"#;
/// Longest head of a request.
const MAX_HEAD: usize = 8 << 10;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let buckets = env::var("MAX_CONCURRENCY")?.parse()?;
    let queue = InMemoryQueue::new(buckets, 1000, std::time::Duration::from_secs(86_400), 1000);
    let listener = TcpListener::bind(env::var("LISTEN")?).await?;
    println!("listening on {}", listener.local_addr()?);
    loop {
        let (stream, _) = listener.accept().await?;
        let queue = queue.clone();
        tokio::spawn(async move {
            if let Err(error) = serve(stream, queue).await {
                eprintln!("a client: {error}");
            }
        });
    }
}

/// Serves one connection, which may have several requests one after the other.
async fn serve(mut stream: TcpStream, queue: InMemoryQueue) -> Result<()> {
    while let Some(head) = head(&mut stream).await? {
        let query = head.split(' ').nth(1).and_then(|target| target.split_once('?')).map_or("", |(_, query)| query);
        let shard = query.split('&').find_map(|pair| pair.strip_prefix("shard=")).unwrap_or("0").parse()?;
        let mut byte = [0];
        select! {
            permit = queue.enqueue(shard) => permit?,
            _ = stream.read(&mut byte) => return Ok(()),
        }
        println!("permit {shard}");
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{BODY}", BODY.len());
        stream.write_all(answer.as_bytes()).await?;
    }
    Ok(())
}

/// The head of the next request; `None`: the client has closed the connection.
async fn head(stream: &mut TcpStream) -> Result<Option<String>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if stream.read(&mut byte).await? == 0 {
            return Ok(None);
        }
        head.push(byte[0]);
        if head.len() > MAX_HEAD {
            return Err("the head of a request is too long".into());
        }
    }
    Ok(Some(String::from_utf8(head)?))
}
