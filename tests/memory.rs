//! How much memory the outbox of a connection takes, by encoding and compression. This file has only one test, because
//! the test measures the memory of the whole process.

use gateway_proxy::{
    compression::{PayloadCompressor, Transport},
    downstream::outbox::Outbox,
    protocol::{Encoding, payload},
};

/// Number of connections. The result is an average, so with many connections the memory that they share does not count.
const CONNECTIONS: usize = 64;

/// Bytes that are allocated in this process, by Rust code and by C code.
fn allocated() -> usize {
    // SAFETY: the call reads the allocator's statistics, and writes only to the struct that it returns.
    let counted = unsafe { libc::mallinfo2() };
    counted.uordblks + counted.hblkhd
}

/// Puts a payload into the outbox, and tells the outbox that all bytes were written to the socket.
fn send(outbox: &mut Outbox, payload: &[u8]) {
    outbox.message(&[payload]);
    let (bytes, from) = outbox.take().expect("there is a payload");
    let length = bytes.len() - from;
    outbox.returned(bytes, length);
}

#[test]
fn each_encoding_has_its_bound() {
    let payload = format!(r#"{{"t":"X","s":1,"op":0,"d":[{}0]}}"#, r#"{"name":"value","id":"1234"},"#.repeat(20_000));
    let before = allocated();
    let compressors: Vec<PayloadCompressor> =
        std::iter::repeat_with(PayloadCompressor::default).take(CONNECTIONS).collect();
    let shared = allocated().saturating_sub(before) / CONNECTIONS;
    println!("payload compression: {shared} bytes for each core");
    assert!(shared <= 200 << 10, "{shared} bytes for each core");
    drop(compressors);
    let cases = [
        (Transport::None, 1 << 10, 1 << 10),
        (Transport::Zlib, 1 << 10, 376 << 10),
        (Transport::Zstd, 1 << 10, 312 << 10),
    ];
    for (transport, at_the_door, identified) in cases {
        for encoding in [Encoding::Json, Encoding::Etf] {
            for payloads in [false, true] {
                // The first outbox allocates what all outboxes of a thread share. It is not measured.
                let mut first = Outbox::new(transport, encoding);
                first.start_compressing(payloads);
                send(&mut first, payload.as_bytes());
                let mut outboxes: Vec<Outbox> = Vec::with_capacity(CONNECTIONS);
                let before = allocated();
                let each = || allocated().saturating_sub(before) / CONNECTIONS;
                for _ in 0..CONNECTIONS {
                    outboxes.push(Outbox::new(transport, encoding));
                }
                for outbox in &mut outboxes {
                    send(outbox, &payload::hello(41_250));
                }
                let door = each();
                for outbox in &mut outboxes {
                    outbox.start_compressing(payloads);
                    for _ in 0..3 {
                        send(outbox, payload.as_bytes());
                    }
                }
                let then = each();
                println!("{transport:?} {encoding:?} compress={payloads}: {door} bytes at the door, {then} later");
                assert!(door <= at_the_door, "{transport:?} {encoding:?}: {door} bytes at the door");
                assert!(then <= identified, "{transport:?} {encoding:?}: {then} bytes");
            }
        }
    }
}
