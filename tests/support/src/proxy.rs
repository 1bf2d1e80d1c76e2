//! gateway-proxy as a child process.

use std::{
    net::{SocketAddr, TcpListener},
    os::{fd::AsRawFd, unix::process::CommandExt},
    path::Path,
    process::Command,
};

use serde_json::{Value, json};

use super::{Process, Simulator, TOKEN, free_port, get, program, wait_until};

/// A running proxy.
pub struct Proxy {
    process: Process,
    /// The address that it listens on, for clients and for HTTP.
    pub address: SocketAddr,
}

impl Proxy {
    /// Starts the proxy in front of `simulator` and returns when all shards are ready. The configuration caches
    /// everything; the keys of `changes` (an object) replace the defaults of the tests, and null removes a key.
    ///
    /// # Panics When the proxy does not become ready.
    pub fn start(directory: &Path, simulator: &Simulator, changes: &Value) -> Self {
        let proxy = Self::spawn(directory, simulator, changes);
        proxy.wait_until_ready()
    }

    /// As [`Self::start`], without waiting.
    pub fn spawn(directory: &Path, simulator: &Simulator, changes: &Value) -> Self {
        Self::spawn_before(directory, simulator.address, changes, &[])
    }

    /// As [`Self::spawn`], in front of a Discord at the address `discord` that need not run yet, with additional
    /// environment variables.
    pub fn spawn_before(directory: &Path, discord: SocketAddr, changes: &Value, variables: &[(&str, &str)]) -> Self {
        let mut command = Command::new(program("gateway-proxy"));
        command.envs(variables.iter().copied());
        Self::run(directory, discord, changes, command)
    }

    /// As [`Self::spawn_before`], by a command that runs the proxy with the arguments that are added to the command.
    pub fn spawn_by(command: Command, directory: &Path, discord: SocketAddr, changes: &Value) -> Self {
        Self::run(directory, discord, changes, command)
    }

    /// As [`Self::start`], with an inherited socket that outlives the proxy, as systemd's socket activation provides
    /// it.
    pub fn start_on(socket: &TcpListener, directory: &Path, simulator: &Simulator, changes: &Value) -> Self {
        let mut changes = changes.clone();
        changes["port"] = json!(socket.local_addr().expect("a bound socket").port());
        // The shell knows the process id before the program starts.
        let mut command = Command::new("sh");
        command.args(["-c", r#"LISTEN_PID=$$ LISTEN_FDS=1 exec "$0" "$@""#]).arg(program("gateway-proxy"));
        let descriptor = socket.as_raw_fd();
        // SAFETY: between fork and exec the closure only calls dup2 and fcntl, which are async-signal-safe.
        unsafe {
            command.pre_exec(move || {
                // A descriptor that already is 3 only has to survive the exec.
                let done = if descriptor == 3 { libc::fcntl(3, libc::F_SETFD, 0) } else { libc::dup2(descriptor, 3) };
                if done < 0 { Err(std::io::Error::last_os_error()) } else { Ok(()) }
            });
        }
        Self::run(directory, simulator.address, &changes, command).wait_until_ready()
    }

    /// As [`Self::start`], with a limit of `files` open files.
    pub fn start_with_files(directory: &Path, simulator: &Simulator, changes: &Value, files: u32) -> Self {
        let mut command = Command::new("sh");
        command.args(["-c", r#"ulimit -n "$1"; shift; exec "$@""#, "sh", &files.to_string()]);
        command.arg(program("gateway-proxy"));
        Self::run(directory, simulator.address, changes, command).wait_until_ready()
    }

    fn run(directory: &Path, discord: SocketAddr, changes: &Value, mut command: Command) -> Self {
        // A restarted proxy listens on the same port.
        let port = changes["port"].as_u64().map_or_else(free_port, |port| port as u16);
        let path = directory.join("config.json");
        let config = configuration(discord, port, changes);
        std::fs::write(&path, config.to_string()).expect("writing the config");
        // A token in the environment of the test run must not reach the proxy.
        command.arg("--config").arg(&path).current_dir(directory).env_remove("TOKEN");
        let process = Process::start("gateway-proxy", command, directory);
        Self { process, address: SocketAddr::from(([127, 0, 0, 1], port)) }
    }

    /// Waits until `/health` reports that all shards are ready.
    pub fn wait_until_ready(mut self) -> Self {
        wait_until("the proxy to be healthy", || {
            if let Some(status) = self.process.ended() {
                panic!("the proxy has ended: {status}");
            }
            match get(self.address, "/health") {
                Ok(response) if response.status == 200 => Ok(()),
                Ok(response) => Err(format!("/health: {}: {}", response.status, response.body)),
                Err(reason) => Err(reason),
            }
        });
        self
    }

    /// Sends SIGTERM and waits until the process has ended.
    ///
    /// # Panics When the process does not end, or ends with an error.
    pub fn stop(mut self) {
        self.process.signal("TERM");
        let status = wait_until("the proxy to stop", || self.process.ended().ok_or("it runs".to_owned()));
        assert!(status.success(), "{status}");
    }

    /// Kills the proxy with SIGKILL.
    pub fn kill(mut self) {
        self.process.kill();
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: &str) {
        self.process.signal(signal);
    }

    /// The exit status; `None`: the proxy is running.
    pub fn ended(&mut self) -> Option<std::process::ExitStatus> {
        self.process.ended()
    }
}

fn configuration(discord: SocketAddr, port: u16, changes: &Value) -> Value {
    const CACHED: [&str; 11] = [
        "channels",
        "presences",
        "emojis",
        "current_member",
        "members",
        "roles",
        "scheduled_events",
        "stage_instances",
        "stickers",
        "users",
        "voice_states",
    ];
    let cache: serde_json::Map<_, _> = CACHED.iter().map(|flag| ((*flag).to_owned(), json!(true))).collect();
    let mut config = json!({
        "token": TOKEN,
        "intents": 53_608_447,
        "host": "127.0.0.1",
        "port": port,
        "shards": 2,
        "twilight_http_proxy": discord.to_string(),
        "externally_accessible_url": format!("ws://127.0.0.1:{port}"),
        "cores": 1,
        "cache": cache,
        "log_level": "debug",
        // Tests say when the file is read again.
        "reload_on_change": false,
    });
    for (key, value) in changes.as_object().expect("changes are an object") {
        if value.is_null() {
            config.as_object_mut().expect("the config is an object").remove(key);
        } else {
            config[key] = value.clone();
        }
    }
    config
}
