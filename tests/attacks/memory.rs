//! Clients whose compression takes memory.

use super::*;
use support::{Gone, free_port, wait_until};
use terminator::terminator;

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
    wait_until("the refusal to be counted", || {
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
    wait_until("their memory to be free", || {
        let used = metric(&proxy, "gateway_client_memory_bytes");
        if used == 0.0 { Ok(()) } else { Err(format!("{used}")) }
    });
}

/// The clients of one address may not take the memory that those of other addresses need.
#[test]
fn the_clients_of_one_address_leave_memory_to_others() {
    const LIMIT: u64 = 16 << 20;
    const OF_ONE: u64 = 4 << 20;
    let directory = scratch("address_memory");
    let simulator = Simulator::start(&directory, WORLD);
    let admin = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let changes = json!({
        "shards": 1, "log_level": "info", "client_memory": LIMIT, "client_memory_per_address": OF_ONE,
        "proxy_protocol_from": ["127.0.0.1"], "admin_listen": admin.to_string(),
    });
    let proxy = Proxy::spawn(&directory, &simulator, &changes);
    wait_until("health", || match get(admin, "/health") {
        Ok(health) if health.status == 200 => Ok(()),
        other => Err(format!("{other:?}")),
    });
    let metric = |name: &str| {
        let metrics = get(admin, "/metrics").expect("metrics").body;
        let line = metrics.lines().find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(' ')));
        line.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .unwrap_or_else(|| panic!("{name} in {metrics}"))
    };
    let (greedy, modest) = (terminator(proxy.address, 1), terminator(proxy.address, 2));
    let enter = |address: SocketAddr| {
        let mut gateway = Gateway::connect(address, Transport::Zlib);
        gateway.identify((0, 1), INTENTS);
        gateway.receive().map(|ready| (ready, gateway))
    };
    let mut clients = Vec::new();
    let refusal = loop {
        assert!(clients.len() < 100, "nobody was refused");
        match enter(greedy) {
            Ok((ready, gateway)) => {
                assert_eq!(ready.t.as_deref(), Some("READY"));
                clients.push(gateway);
            }
            Err(gone) => break gone,
        }
    };
    let wanted = "`client_memory_per_address`";
    assert!(matches!(&refusal, Gone::Closed(Some(4008), reason) if reason.contains(wanted)), "{refusal:?}");
    assert!(clients.len() > 5, "{} clients are few", clients.len());
    // A client of another address finds room.
    let (ready, other) = enter(modest).expect("READY");
    assert_eq!(ready.t.as_deref(), Some("READY"));
    for (name, expected) in [
        ("gateway_client_memory_address_limit_bytes", OF_ONE as f64),
        ("gateway_client_addresses", 2.0),
        ("gateway_client_memory_address_refused_total", 1.0),
        ("gateway_client_memory_refused_total", 0.0),
    ] {
        wait_until(name, || match metric(name) {
            value if value == expected => Ok(()),
            value => Err(format!("{value}")),
        });
    }
    assert!(metric("gateway_client_memory_address_bytes") <= OF_ONE as f64);
    // The end of a client makes room for another one of its address.
    assert_eq!(clients.pop().expect("a client").close(1000), Some(1000));
    clients.push(wait_until("room for another client", || enter(greedy).map_err(|gone| format!("{gone:?}"))).1);
    drop((clients, other));
    wait_until("their memory to be free", || {
        match (metric("gateway_client_addresses"), metric("gateway_client_memory_bytes")) {
            (0.0, 0.0) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
}
