use super::*;
use crate::{
    compression::Inflater,
    websocket::{FrameDecoder, Message, Role},
};

/// Reads all pending bytes as a client does, in writes of at most `step` bytes. Returns the messages.
fn read(outbox: &mut Outbox, inbound: &mut FrameDecoder, inflater: &mut Inflater, step: usize) -> Vec<String> {
    let mut got = Vec::new();
    while !outbox.pending().is_empty() {
        let space = inbound.space();
        let n = outbox.pending().len().min(step).min(space.len());
        space[..n].copy_from_slice(&outbox.pending()[..n]);
        inbound.filled(n);
        outbox.wrote(n);
        while let Some(message) = inbound.next().unwrap() {
            got.push(match message {
                Message::Text(bytes) => String::from_utf8(bytes.to_vec()).unwrap(),
                Message::Binary(bytes) => {
                    let mut out = Vec::new();
                    assert!(inflater.inflate(bytes, &mut out).unwrap());
                    String::from_utf8(out).unwrap()
                }
                other => format!("{other:?}"),
            });
        }
    }
    got
}

#[test]
fn payloads_of_all_sizes_arrive_whole() {
    for transport in [Transport::None, Transport::Zlib, Transport::Zstd] {
        let mut outbox = Outbox::new(transport, Encoding::Json);
        let mut inbound = FrameDecoder::new(Role::Client, 16 << 20);
        let mut inflater = Inflater::new(transport, 16 << 20);
        let mut random = fastrand::Rng::with_seed(1);
        for size in [0, 1, 100, 125, 126, 1_000, 65_535, 65_536, 300_000] {
            let text: String = (0..size).map(|_| random.alphanumeric()).collect();
            let (a, b) = text.split_at(size / 3);
            outbox.message(&[a.as_bytes(), b.as_bytes()]);
            outbox.message(&[b"x"]);
            assert_eq!(read(&mut outbox, &mut inbound, &mut inflater, 7_777), [text, "x".into()]);
            if size == 126 {
                outbox.start_compressing(false);
            }
        }
    }
}

/// Returns the pending messages: their opcodes and payloads.
fn messages(outbox: &mut Outbox) -> Vec<(Opcode, Vec<u8>)> {
    let mut inbound = FrameDecoder::new(Role::Client, 64 << 20);
    let mut got = Vec::new();
    while !outbox.pending().is_empty() {
        let space = inbound.space();
        let n = outbox.pending().len().min(space.len());
        space[..n].copy_from_slice(&outbox.pending()[..n]);
        inbound.filled(n);
        outbox.wrote(n);
        while let Some(message) = inbound.next().unwrap() {
            got.push(match message {
                Message::Text(bytes) => (Opcode::Text, bytes.to_vec()),
                Message::Binary(bytes) => (Opcode::Binary, bytes.to_vec()),
                other => panic!("{other:?}"),
            });
        }
    }
    got
}

#[test]
fn large_payloads_are_packed_if_that_pays() {
    let mut outbox = Outbox::new(Transport::None, Encoding::Json);
    let small = "a".repeat(COMPRESS_FROM - 1);
    let large = "a".repeat(10 << 20);
    outbox.message(&[large.as_bytes()]);
    assert_eq!(messages(&mut outbox)[0].0, Opcode::Text, "before the client has asked for it");
    outbox.start_compressing(true);
    let mut random = fastrand::Rng::with_seed(1);
    let noise: Vec<u8> = (0..2 * COMPRESS_FROM).map(|_| random.u8(..128)).collect();
    outbox.message(&[small.as_bytes()]);
    outbox.message(&[large.as_bytes(), b"b", large.as_bytes()]);
    outbox.message(&[b"a", small.as_bytes()]);
    outbox.message(&[&noise]);
    let got = messages(&mut outbox);
    let kinds: Vec<_> = got.iter().map(|(opcode, _)| *opcode).collect();
    assert_eq!(kinds, [Opcode::Text, Opcode::Binary, Opcode::Binary, Opcode::Text]);
    let mut text = String::new();
    std::io::Read::read_to_string(&mut flate2::read::ZlibDecoder::new(&got[1].1[..]), &mut text).unwrap();
    assert!(text == format!("{large}b{large}"));
    assert!(got[3].1 == noise);
    assert_eq!(outbox.wire.capacity(), 0, "what large payloads need is given back");
    ENCODERS.with_borrow(|encoders| assert!(encoders.scratch.capacity() <= KEEP));
    outbox.start_compressing(false);
    outbox.message(&[large.as_bytes()]);
    assert_eq!(messages(&mut outbox)[0].0, Opcode::Text, "the client identifies again and does not ask for it");
}

#[test]
fn etf_comes_in_binary_messages() {
    let payload = br#"{"t":null,"s":null,"op":11,"d":null}"#;
    let mut term = Vec::new();
    etf::Encoder::default().encode(&[payload], &mut term).unwrap();
    for transport in [Transport::None, Transport::Zlib, Transport::Zstd] {
        let mut outbox = Outbox::new(transport, Encoding::Etf);
        let mut inflater = Inflater::new(transport, 1 << 20);
        for compressed in [false, true] {
            if compressed {
                outbox.start_compressing(true);
            }
            outbox.message(&[payload]);
            outbox.message(&[b"{]"]); // Discord's fault, and of no use to the client
            outbox.message(&[&payload[..5], &payload[5..]]);
            let mut text = Vec::new();
            for (opcode, bytes) in messages(&mut outbox) {
                assert_eq!(opcode, Opcode::Binary);
                assert!(inflater.inflate(&bytes, &mut text).unwrap());
            }
            assert_eq!(text, term.repeat(2));
        }
        assert_eq!(outbox.encoding(), Encoding::Etf);
    }
}

#[test]
fn a_payload_in_pieces_is_one_message_and_others_wait_for_it() {
    for transport in [Transport::None, Transport::Zlib, Transport::Zstd] {
        for pending in [false, true] {
            let mut outbox = Outbox::new(transport, Encoding::Json);
            outbox.start_compressing(false);
            let mut expected = Vec::new();
            if pending {
                outbox.message(&[b"first"]);
                expected.push("first".to_owned());
            }
            for size in [0, 3, 100, 70_000] {
                let piece = "p".repeat(size);
                assert!(outbox.begin());
                outbox.message(&[b"me", b"anwhile"]);
                outbox.piece(piece.as_bytes());
                outbox.piece(piece.as_bytes());
                outbox.end();
                expected.extend([piece.repeat(2), "meanwhile".to_owned()]);
            }
            let mut inbound = FrameDecoder::new(Role::Client, 16 << 20);
            let got = read(&mut outbox, &mut inbound, &mut Inflater::new(transport, 16 << 20), 1_000);
            assert!(got == expected, "{transport:?}");
            assert_eq!(outbox.pending(), b"");
        }
    }
    let mut outbox = Outbox::new(Transport::None, Encoding::Json);
    assert!(outbox.begin());
    for _ in 0..2 * MAX_DEFERRED {
        outbox.message(&[b"meanwhile"]);
    }
    outbox.end();
    assert_eq!(messages(&mut outbox).len(), 1 + MAX_DEFERRED);
    assert!(outbox.begin());
    outbox.piece(b"never complete");
    outbox.message(&[b"never sent"]);
    outbox.close(Some(4000), "");
    assert_eq!(outbox.pending(), [0x88, 2, 0x0f, 0xa0]);
    assert!(!outbox.begin() && !Outbox::new(Transport::None, Encoding::Etf).begin());
}

#[test]
fn a_payload_that_is_given_up_leaves_the_connection_usable_if_that_can_be() {
    for (transport, usable) in [(Transport::None, true), (Transport::Zlib, false), (Transport::Zstd, false)] {
        let mut outbox = Outbox::new(transport, Encoding::Json);
        outbox.start_compressing(false);
        assert!(outbox.abandon(), "there is none");
        outbox.message(&[b"before"]);
        assert!(outbox.begin());
        outbox.piece(b"never complete");
        outbox.message(&[b"meanwhile"]);
        assert_eq!(outbox.abandon(), usable, "{transport:?}");
        outbox.message(&[b"after"]);
        outbox.close(Some(4000), "");
        let mut inbound = FrameDecoder::new(Role::Client, 1 << 20);
        let got = read(&mut outbox, &mut inbound, &mut Inflater::new(transport, 1 << 20), 1_000);
        let all = ["before", "meanwhile", "after", "Close(Some((4000, \"\")))"];
        let expected: Vec<_> = if usable { all.to_vec() } else { vec![all[0], all[3]] };
        assert_eq!(got, expected, "{transport:?}");
    }
}

#[test]
fn nothing_follows_a_close() {
    let mut outbox = Outbox::new(Transport::None, Encoding::Json);
    outbox.message(&[b"1"]);
    outbox.close(Some(4000), "bye");
    outbox.message(&[b"2"]);
    outbox.pong(b"");
    outbox.close(Some(4001), "");
    let got = read(&mut outbox, &mut FrameDecoder::new(Role::Client, 99), &mut Inflater::new(Transport::None, 99), 1);
    assert_eq!(got, ["1", "Close(Some((4000, \"bye\")))"]);
}

#[test]
fn memory_is_given_back() {
    let mut outbox = Outbox::new(Transport::None, Encoding::Json);
    outbox.message(&[&vec![0; 1 << 20]]);
    assert!(outbox.is_full());
    outbox.wrote(outbox.pending().len());
    assert_eq!(outbox.wire.capacity(), 0);
}
