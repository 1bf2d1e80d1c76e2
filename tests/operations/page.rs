//! The live page in a browser, and /status.json.

use crate::{HTTP_TOKEN, WORLD, ask, browser::Browser, client, start, status};
use serde_json::{Value, json};
use std::path::Path;
use support::{Proxy, Simulator, TOKEN, Transport, scratch, wait_until};

const SIXTEEN: &str =
    "--shards 16 --max-concurrency 16 --identify-interval-ms 100 --guilds 160 --members 20 --seed 3 --rate 400";
const ALL_ACTIVE: &str = "document.querySelectorAll('#grid [data-state=active]').length === 16 && document.getElementById('health').dataset.health === 'good'";

/// Decodes base64.
fn decode(text: &str) -> Vec<u8> {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digits = text.bytes().filter_map(|byte| ALPHABET.iter().position(|digit| *digit == byte));
    let (mut bytes, mut bits, mut count) = (Vec::new(), 0u32, 0);
    for digit in digits {
        bits = bits << 6 | digit as u32;
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
        }
    }
    bytes
}

/// Writes a screenshot into the directory of the test. `LIVE_PAGE_PNG` names another file for the screenshot of a busy
/// proxy.
fn keep(picture: &str, directory: &Path, name: &str) {
    let png = decode(picture);
    assert!(png.starts_with(b"\x89PNG") && png.len() > 5_000, "{} bytes are no picture of a page", png.len());
    std::fs::write(directory.join(name), &png).expect("writing the picture");
    if let Some(path) = std::env::var_os("LIVE_PAGE_PNG").filter(|_| name == "page.png") {
        std::fs::write(path, &png).expect("writing LIVE_PAGE_PNG");
    }
}

#[test]
fn the_page_shows_states_details_faults_and_a_restart() {
    let directory = scratch("page");
    let Some(mut browser) = Browser::start(&directory) else { return };
    let simulator = Simulator::start(&directory, SIXTEEN);
    let port = support::free_port();
    let changes = json!({"shards": 16, "port": port});
    let proxy = Proxy::start(&directory, &simulator, &changes);
    let clients: Vec<_> = [(0, Transport::Zstd), (1, Transport::Zlib)]
        .map(|(shard, transport)| client(&proxy, (shard, 16), transport))
        .into();
    let tab = browser.open(&format!("http://{}/", proxy.address), (1200, 1250), false);
    browser.wait_for(&tab, ALL_ACTIVE);
    browser.wait_for(&tab, "document.querySelector('#tile-clients b').textContent === '2'");
    browser.wait_for(&tab, "document.querySelector('#tile-events b').textContent !== '–'");
    browser.wait_for(&tab, "/984 of 1000/.test(document.getElementById('identify').innerText)");
    browser.wait_for(
        &tab,
        "/discord.py.*zstd-stream/.test(document.getElementById('clients').innerText.replace(/\\s+/g, ' '))",
    );
    // Uses the keyboard: the focus moves from the first shard to the second one, whose details open.
    browser.evaluate(&tab, "document.querySelector('#grid [tabindex=\"0\"]').focus()");
    browser.press(&tab, "ArrowRight");
    browser.press(&tab, "Enter");
    browser.wait_for(
        &tab,
        "document.getElementById('details').dataset.shard === '1' && !document.getElementById('details').hidden",
    );
    let details = browser.evaluate(&tab, "document.getElementById('details').innerText");
    let details = details.as_str().expect("a text");
    for part in ["Shard 1", "session with Discord since", "sequence", "discord.py", "zlib-stream"] {
        assert!(details.contains(part), "{part} in\n{details}");
    }
    assert!(!details.contains(TOKEN));
    // The sparklines need some updates before they show a line.
    browser.wait_for(&tab, "Number(document.documentElement.dataset.updates) >= 15");
    let picture = browser.screenshot(&tab);
    keep(&picture, &directory, "page.png");
    browser.press(&tab, "Escape");
    browser.wait_for(&tab, "document.getElementById('details').hidden");
    // A lost connection appears in the feed. A shard that Discord closes for good has a state of its own.
    simulator.fault("drop?shard=2&code=4000");
    browser.wait_for(
        &tab,
        "/shard 2: active → disconnected \\(closed 4000\\)/.test(document.getElementById('feed').innerText)",
    );
    simulator.fault("drop?shard=3&code=4014");
    browser.wait_for(&tab, "document.querySelector('[data-shard=\"3\"]').dataset.state === 'fatal'");
    browser.wait_for(&tab, "document.getElementById('health').textContent === '1 of 16 shards is not active'");
    assert_eq!(
        browser.evaluate(&tab, "document.querySelector('[data-shard=\"3\"]').innerText"),
        "✕",
        "not by colour alone"
    );
    let label = browser.evaluate(&tab, "document.querySelector('[data-shard=\"3\"]').getAttribute('aria-label')");
    assert!(label.as_str().expect("a label").starts_with("shard 3, closed by Discord for good"), "{label}");
    // The process ends and starts again.
    drop(clients);
    proxy.kill();
    browser.wait_for(&tab, "document.getElementById('health').textContent.startsWith('The proxy does not answer')");
    let proxy = Proxy::start(&directory, &simulator, &changes);
    browser.wait_for(&tab, ALL_ACTIVE);
    let own = format!("http://{}/", proxy.address);
    for url in browser.requests(&tab) {
        let path = url.strip_prefix(&own).unwrap_or_else(|| panic!("the page asks for {url}"));
        assert!(matches!(path.split('?').next(), Some("" | "status.json")), "the page asks for {url}");
    }
    assert_eq!(browser.complaints(), Vec::<String>::new());
}

#[test]
fn the_page_asks_for_the_token_and_keeps_it_out_of_the_address() {
    let directory = scratch("page_token");
    let Some(mut browser) = Browser::start(&directory) else { return };
    let simulator = Simulator::start(&directory, WORLD);
    let proxy = Proxy::start(&directory, &simulator, &json!({"http_token": HTTP_TOKEN}));
    let url = format!("http://{}/", proxy.address);
    let all = "document.querySelectorAll('#grid [data-state=active]').length === 2";
    let tab = browser.open(&url, (390, 844), true);
    browser.wait_for(&tab, "!document.getElementById('login').hidden");
    assert_eq!(browser.evaluate(&tab, "document.getElementById('main').hidden"), true);
    let enter = |browser: &mut Browser, token: &str| {
        browser.evaluate(&tab, "document.getElementById('token').focus()");
        browser.write(&tab, token);
        browser.press(&tab, "Enter");
    };
    enter(&mut browser, "a-wrong-token-of-somebody");
    browser.wait_for(&tab, "document.getElementById('refused').textContent === 'That is not the token.'");
    enter(&mut browser, HTTP_TOKEN);
    browser.wait_for(&tab, all);
    // On a phone nothing is wider than the screen.
    let overflow = "document.documentElement.scrollWidth - window.innerWidth";
    assert_eq!(browser.evaluate(&tab, overflow), 0, "pixels that are beyond the window");
    let dark = browser.evaluate(&tab, "getComputedStyle(document.body).backgroundColor");
    assert_eq!(dark, "rgb(20, 23, 27)");
    let picture = browser.screenshot(&tab);
    keep(&picture, &directory, "phone.png");
    let tab = browser.open(&format!("{url}?token={HTTP_TOKEN}"), (800, 600), false);
    browser.wait_for(&tab, all);
    let address = browser.evaluate(&tab, "location.href");
    assert_eq!(address, url.as_str());
    assert!(browser.requests(&tab).iter().filter(|url| url.contains("status.json")).all(|url| !url.contains("token")));
    assert_eq!(browser.complaints(), Vec::<String>::new());
}

#[test]
fn a_thousand_shards_fit() {
    let directory = scratch("page_thousand");
    let Some(mut browser) = Browser::start(&directory) else { return };
    let options = "--shards 1000 --max-concurrency 1000 --identify-interval-ms 100 --guilds 1000 --members 2 --channels 2 \
                   --roles 2 --emojis 0 --seed 3 --rate 0 --remaining 5000";
    let simulator = Simulator::start(&directory, options);
    let proxy = Proxy::start(&directory, &simulator, &json!({"shards": 1000, "log_level": "warn"}));
    let tab = browser.open(&format!("http://{}/", proxy.address), (1200, 900), false);
    browser.wait_for(&tab, "document.querySelectorAll('#grid [data-state=active]').length === 1000");
    browser.evaluate(&tab, "document.querySelector('#grid [tabindex=\"0\"]').focus()");
    browser.press(&tab, "End");
    browser.press(&tab, "Enter");
    browser.wait_for(&tab, "document.getElementById('details').dataset.shard === '999'");
    let picture = browser.screenshot(&tab);
    keep(&picture, &directory, "thousand.png");
    assert_eq!(browser.complaints(), Vec::<String>::new());
}

#[test]
fn the_document_has_what_is_documented_and_nothing_secret() {
    let (simulator, proxy) = start("status_json", &json!({}));
    let mut gateway = client(&proxy, (0, 2), Transport::Zlib);
    let session = gateway_session(&proxy);
    simulator.emit(0, 5);
    for _ in 0..5 {
        gateway.receive().expect("a message");
    }
    let document = wait_until("a document that has seen the events", || {
        let document = status(proxy.address);
        let totals = &document["totals"];
        match (totals["events_sent"].as_u64(), totals["sent_bytes"].as_u64(), totals["clients"].as_u64()) {
            (Some(10..), Some(1..), Some(1)) => Ok(document),
            _ => Err(document.to_string()),
        }
    });
    assert_eq!((&document["states"]["active"], &document["shards_of_bot"]), (&json!(2), &json!(2)));
    assert_eq!(document["shards"].as_array().expect("shards").len(), 2);
    assert_eq!(document["totals"]["guilds"], 8);
    assert_eq!(
        document["clients"],
        json!([{"library": "discord.py", "encoding": "json", "compression": "zlib-stream", "clients": 1}])
    );
    assert_eq!(
        (&document["identify"]["remaining"], &document["identify"]["max_concurrency"]),
        (&json!(998), &json!(2))
    );
    assert!(document["memory"]["resident_bytes"].as_u64() > Some(1 << 20));
    assert!(document["cores"][0]["turns"].as_u64() > Some(0) && document["cores"][0]["ring_enters"].as_u64() > Some(0));
    assert!(document["cores"][0]["cpu_seconds"].as_f64() > Some(0.0));
    let feed = document["feed"].as_array().expect("a feed");
    assert!(feed.iter().any(|entry| entry["shard"] == 1 && entry["to"] == "active"), "{document}");
    // The documentation has every field of the document.
    let docs = std::fs::read_to_string(support::root().join("docs/operations.md")).expect("the documentation");
    let details = ask(proxy.address, "GET", "/status.json?shard=0", None).json();
    let mut keys = Vec::new();
    collect_keys(&details, &mut keys);
    for key in keys {
        assert!(docs.contains(&format!("`{key}`")), "`{key}` of /status.json is not in docs/operations.md");
    }
    assert_eq!(details["shard"]["clients"][0]["library"], "discord.py");
    assert_eq!(details["shard"]["clients"][0]["sequence"], 10);
    for text in [document.to_string(), details.to_string()] {
        assert!(!text.contains(TOKEN) && !text.contains(&session) && !text.contains("content"), "{text}");
    }
    assert_eq!(ask(proxy.address, "GET", "/status.json?shard=2", None).status, 404);
    assert_eq!(ask(proxy.address, "GET", "/status.json?shard=a", None).status, 400);
}

/// Collects the names of fields. Objects whose keys are values (types of events, reasons) are skipped.
fn collect_keys(value: &Value, keys: &mut Vec<String>) {
    const COUNTS: [&str; 3] = ["events", "reconnects", "clients_closed"];
    match value {
        Value::Object(object) => {
            for (key, value) in object {
                keys.push(key.clone());
                if !(COUNTS.contains(&key.as_str()) && value.is_object()) {
                    collect_keys(value, keys);
                }
            }
        }
        Value::Array(all) => all.iter().for_each(|value| collect_keys(value, keys)),
        _ => {}
    }
}

/// The session id of a new client.
fn gateway_session(proxy: &Proxy) -> String {
    let mut gateway = support::Gateway::connect(proxy.address, Transport::None);
    gateway.identify((1, 2), crate::INTENTS);
    gateway.receive().expect("READY").data()["session_id"].as_str().expect("an id").to_owned()
}

#[test]
fn everything_but_health_and_the_number_of_shards_asks_for_the_token() {
    let (_simulator, proxy) = start("protected", &json!({"http_token": HTTP_TOKEN}));
    for path in ["/status.json", "/metrics", "/"] {
        for wrong in [None, Some("x"), Some(TOKEN)] {
            let answer = ask(proxy.address, "GET", path, wrong);
            assert_eq!(answer.status, 401, "{path} with {wrong:?}");
            assert!(!answer.body.contains("gateway_shard") && !answer.body.contains("\"shards\":"), "{}", answer.body);
        }
        assert_eq!(ask(proxy.address, "GET", path, Some(HTTP_TOKEN)).status, 200, "{path}");
    }
    assert_eq!(ask(proxy.address, "POST", "/admin/reload", None).status, 401);
    assert_eq!(ask(proxy.address, "GET", "/health", None).status, 200);
    assert_eq!(ask(proxy.address, "GET", "/shard-count", None).body, "2");
    let page = ask(proxy.address, "GET", &format!("/?token={HTTP_TOKEN}"), None);
    assert_eq!(page.status, 200);
    for header in
        ["Content-Security-Policy: default-src 'none'", "Referrer-Policy: no-referrer", "Cache-Control: no-store"]
    {
        assert!(page.header.contains(header), "{header} in\n{}", page.header);
    }
    // Clients connect without the operator's token.
    client(&proxy, (0, 2), Transport::None);
}
