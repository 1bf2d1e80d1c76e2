//! Headless Chromium, controlled by the DevTools protocol over a pipe (`--remote-debugging-pipe`). Descriptors 3 and 4
//! of the browser carry JSON messages, each with a zero byte at its end.

use serde_json::{Value, json};
use std::{
    io::{Read, Write},
    os::{
        fd::AsRawFd,
        unix::{net::UnixStream, process::CommandExt},
    },
    path::Path,
    process::Command,
};
use support::{PATIENCE, Process, wait_until};

/// Names under which Chromium is installed.
const NAMES: [&str; 3] = ["chromium", "chromium-browser", "google-chrome"];

/// A running browser.
pub struct Browser {
    stream: UnixStream,
    received: Vec<u8>,
    calls: u64,
    /// Events that the browser has sent between answers.
    events: Vec<Value>,
    _process: Process,
}

/// A tab, identified by its session of the protocol.
pub struct Tab(String);

/// Whether the program can be run.
fn runs(name: &str) -> bool {
    Command::new(name).arg("--version").output().is_ok_and(|output| output.status.success())
}

impl Browser {
    /// Starts Chromium. Where it is not installed, the result is `None` and a line on stderr says so.
    pub fn start(directory: &Path) -> Option<Self> {
        let Some(name) = NAMES.into_iter().find(|name| runs(name)) else {
            eprintln!("SKIPPED: there is no Chromium; scripts/operations-setup installs it");
            return None;
        };
        let (ours, theirs) = UnixStream::pair().expect("a pair of sockets");
        let mut command = Command::new(name);
        command
            .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"])
            .args(["--disable-background-networking", "--disable-component-update", "--disable-extensions"])
            .args(["--hide-scrollbars", "--remote-debugging-pipe", "--lang=en"])
            .arg(format!("--user-data-dir={}", directory.join("profile").display()))
            .arg("about:blank");
        let descriptor = theirs.as_raw_fd();
        // SAFETY: between fork and exec only fcntl and dup2 are called, which are async-signal-safe.
        unsafe {
            command.pre_exec(move || {
                // The copy is above 4, in case the descriptor itself is 3 or 4.
                let copy = libc::fcntl(descriptor, libc::F_DUPFD, 10);
                let done = copy >= 0 && libc::dup2(copy, 3) >= 0 && libc::dup2(copy, 4) >= 0;
                if done { Ok(()) } else { Err(std::io::Error::last_os_error()) }
            });
        }
        let process = Process::start("chromium", command, directory);
        drop(theirs);
        ours.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        Some(Self { stream: ours, received: Vec::new(), calls: 0, events: Vec::new(), _process: process })
    }

    /// Opens a page in a window of this size.
    pub fn open(&mut self, url: &str, (width, height): (u32, u32), dark: bool) -> Tab {
        let target = self.call(None, "Target.createTarget", &json!({"url": "about:blank"}));
        let target = target["targetId"].as_str().expect("a target").to_owned();
        let session = self.call(None, "Target.attachToTarget", &json!({"targetId": target, "flatten": true}));
        let tab = Tab(session["sessionId"].as_str().expect("a session").to_owned());
        for domain in ["Page.enable", "Runtime.enable", "Log.enable", "Network.enable"] {
            self.on(&tab, domain, &json!({}));
        }
        let metrics = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600});
        self.on(&tab, "Emulation.setDeviceMetricsOverride", &metrics);
        let scheme = if dark { "dark" } else { "light" };
        let media = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        self.on(&tab, "Emulation.setEmulatedMedia", &media);
        self.on(&tab, "Page.navigate", &json!({"url": url}));
        tab
    }

    /// Evaluates a JavaScript expression. Panics if the expression throws.
    pub fn evaluate(&mut self, tab: &Tab, expression: &str) -> Value {
        self.try_evaluate(tab, expression).unwrap_or_else(|thrown| panic!("{expression}: {thrown}"))
    }

    /// Evaluates a JavaScript expression. The error is what the expression throws.
    fn try_evaluate(&mut self, tab: &Tab, expression: &str) -> Result<Value, Value> {
        let parameters = json!({"expression": expression, "returnByValue": true, "awaitPromise": true});
        let mut answer = self.on(tab, "Runtime.evaluate", &parameters);
        if answer["exceptionDetails"].is_null() { Ok(answer["result"]["value"].take()) } else { Err(answer) }
    }

    /// Waits until an expression is true. The expression may throw while the page is not loaded.
    pub fn wait_for(&mut self, tab: &Tab, expression: &str) {
        wait_until(expression, || match self.try_evaluate(tab, expression) {
            Ok(Value::Bool(true)) => Ok(()),
            other => {
                let seen = self.evaluate(tab, "document.body ? document.body.innerText.slice(0, 600) : ''");
                Err(format!("it is {other:?}; the page shows: {seen}"))
            }
        });
    }

    /// Presses and releases a key, such as `ArrowRight`.
    pub fn press(&mut self, tab: &Tab, key: &str) {
        let text = if key == "Enter" { json!("\r") } else { Value::Null };
        let code = match key {
            "Enter" => 13,
            "Tab" => 9,
            "Escape" => 27,
            "ArrowRight" => 39,
            "ArrowLeft" => 37,
            "Home" => 36,
            "End" => 35,
            other => panic!("no code for {other}"),
        };
        for kind in ["keyDown", "keyUp"] {
            let mut parameters = json!({"type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code});
            if kind == "keyDown" && !text.is_null() {
                parameters["text"] = text.clone();
            }
            self.on(tab, "Input.dispatchKeyEvent", &parameters);
        }
    }

    /// Enters text into the focused element.
    pub fn write(&mut self, tab: &Tab, text: &str) {
        self.on(tab, "Input.insertText", &json!({"text": text}));
    }

    /// A screenshot of the window as PNG in base64.
    pub fn screenshot(&mut self, tab: &Tab) -> String {
        let picture = self.on(tab, "Page.captureScreenshot", &json!({"format": "png"}));
        picture["data"].as_str().expect("a picture").to_owned()
    }

    /// The URLs that the tab has requested.
    pub fn requests(&self, tab: &Tab) -> Vec<String> {
        let sent = self
            .events
            .iter()
            .filter(|event| event["sessionId"] == tab.0.as_str() && event["method"] == "Network.requestWillBeSent");
        sent.map(|event| event["params"]["request"]["url"].as_str().expect("a URL").to_owned()).collect()
    }

    /// Exceptions of the page and messages on its console, except those about failed requests.
    pub fn complaints(&self) -> Vec<String> {
        let wrong = self.events.iter().filter(|event| match event["method"].as_str() {
            Some("Runtime.exceptionThrown") => true,
            Some("Log.entryAdded") => event["params"]["entry"]["source"] != "network",
            Some("Runtime.consoleAPICalled") => true,
            _ => false,
        });
        wrong.map(ToString::to_string).collect()
    }

    fn on(&mut self, tab: &Tab, method: &str, parameters: &Value) -> Value {
        self.call(Some(&tab.0), method, parameters)
    }

    fn call(&mut self, session: Option<&str>, method: &str, parameters: &Value) -> Value {
        self.calls += 1;
        let id = self.calls;
        let mut message = json!({"id": id, "method": method, "params": parameters});
        if let Some(session) = session {
            message["sessionId"] = session.into();
        }
        let mut bytes = message.to_string().into_bytes();
        bytes.push(0);
        self.stream.write_all(&bytes).expect("a browser that listens");
        loop {
            let message = self.receive();
            if message["id"].as_u64() == Some(id) {
                assert!(message["error"].is_null(), "{method}: {message}");
                return message["result"].clone();
            }
            self.events.push(message);
        }
    }

    fn receive(&mut self) -> Value {
        loop {
            if let Some(end) = self.received.iter().position(|byte| *byte == 0) {
                let message: Vec<u8> = self.received.drain(..=end).collect();
                return serde_json::from_slice(&message[..end]).expect("JSON of the browser");
            }
            let mut piece = [0; 1 << 16];
            let n = self.stream.read(&mut piece).expect("a browser that answers");
            assert_ne!(n, 0, "the browser has ended");
            self.received.extend_from_slice(&piece[..n]);
        }
    }
}
