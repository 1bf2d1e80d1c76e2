//! Clients whose compression takes memory.

use super::*;
use support::Gone;

/// In an earlier version the number of clients with compression had no limit, and each one took 300 KiB: 4,450 clients
/// took 1.4 GB.
#[test]
fn clients_take_no_more_memory_than_they_may() {
    const LIMIT: u64 = 16 << 20;
    let (simulator, proxy) = start_with("client_memory", &json!({"client_memory": LIMIT}));
    let before = rss(proxy.id());
    let mut clients = Vec::new();
    let refusal = loop {
        assert!(clients.len() < 200, "nobody was refused");
        let mut gateway = Gateway::connect(proxy.address, Transport::Zlib);
        gateway.identify((0, 1), INTENTS);
        match gateway.receive() {
            Ok(ready) => assert_eq!(ready.t.as_deref(), Some("READY")),
            Err(gone) => break gone,
        }
        clients.push(gateway);
    };
    assert!(matches!(&refusal, Gone::Closed(Some(4008), reason) if reason.contains("`client_memory`")), "{refusal:?}");
    eprintln!("{} clients, {} KiB more", clients.len(), (rss(proxy.id()) - before) >> 10);
    assert!(clients.len() > 20, "{} clients are few", clients.len());
    support::wait_until("the refusal to be counted", || {
        let refused = metric(&proxy, "gateway_client_memory_refused_total");
        if refused == 1.0 { Ok(()) } else { Err(format!("{refused}")) }
    });
    assert!(metric(&proxy, "gateway_client_memory_bytes") <= LIMIT as f64);
    assert_eq!(metric(&proxy, "gateway_client_memory_limit_bytes"), LIMIT as f64);
    // The connected clients are still served, and a client that disconnects makes room for another.
    let (first, _) = simulator.emit(0, 1);
    for client in &mut clients {
        while client.receive().expect("an event").number() != Some(first) {}
    }
    assert_eq!(clients.pop().expect("a client").close(1000), Some(1000));
    let mut gateway = Gateway::connect(proxy.address, Transport::Zlib);
    gateway.identify((0, 1), INTENTS);
    assert_eq!(gateway.receive().expect("READY").t.as_deref(), Some("READY"));
    drop((gateway, clients));
    support::wait_until("their memory to be free", || {
        let used = metric(&proxy, "gateway_client_memory_bytes");
        if used == 0.0 { Ok(()) } else { Err(format!("{used}")) }
    });
}
