//! What a connection's encoding costs in memory. One test, because it counts the memory of the whole process.

use gateway_proxy::{
    compression::{PayloadCompressor, Transport},
    downstream::outbox::Outbox,
    protocol::{Encoding, payload},
};

/// Many, so that what they share does not count.
const CONNECTIONS: usize = 64;

/// Bytes that are allocated, by Rust and by C.
fn allocated() -> usize {
    // SAFETY: the call reads statistics of the allocator and writes to nothing but its result.
    let counted = unsafe { libc::mallinfo2() };
    counted.uordblks + counted.hblkhd
}

/// Sends a payload and takes everything as written.
fn send(outbox: &mut Outbox, payload: &[u8]) {
    outbox.message(&[payload]);
    let length = outbox.pending().len();
    outbox.wrote(length);
    outbox.release();
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
                // What all connections of a thread share.
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
