"""The simulator, the proxy and bots as child processes, for the scripts that measure."""

import atexit
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent
TOKEN = "MTAwMDAwMDAwMDAwMDAwMDAx.simula.tor"
INTENTS = 53_608_447
CACHED = ["channels", "presences", "emojis", "current_member", "members", "roles", "scheduled_events", "stage_instances",
          "stickers", "users", "voice_states"]
# One line of a bot each second: see `report` in src/bin/discord-sim/bot/mod.rs.
LINE = re.compile(r"shards (\d+)/\d+ +guilds \d+ +events/s (\d+) +latency p50 (\d+) us p99 (\d+) us +gaps (\d+) +duplicates (\d+)")


def fail(message):
    sys.exit(f"{pathlib.Path(sys.argv[0]).name}: {message}")


def find_binaries(directory):
    """The directory with the programs: the given one, or the release build, which is made."""
    if directory is None:
        print("building (some minutes the first time)", file=sys.stderr)
        subprocess.run(["cargo", "build", "--release", "--bins", "--locked"], cwd=ROOT, check=True)
        directory = ROOT / os.environ.get("CARGO_TARGET_DIR", "target") / "release"
    for program in ["discord-sim", "gateway-proxy"]:
        if not (directory / program).is_file():
            fail(f"there is no {directory / program}")
    return directory


class Process:
    """A child that never outlives this program. Its output goes to a file."""

    def __init__(self, command, log, **options):
        self.log = log
        output = open(log, "w")
        self.process = subprocess.Popen(list(map(str, command)), stderr=output, **{"stdout": output, **options})
        atexit.register(self.kill)

    def pid(self):
        return self.process.pid

    def has_ended(self):
        return self.process.poll() is not None

    def signal(self, number):
        self.process.send_signal(number)

    def kill(self):
        if not self.has_ended():
            self.process.kill()
            self.process.wait()

    def stop(self, limit=100):
        """SIGTERM, and the wait for the end. Returns the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(limit)


def request(address, path, method="GET"):
    request = urllib.request.Request(f"http://{address}{path}", method=method)
    with urllib.request.urlopen(request, timeout=30) as response:
        return response.read()


class Simulator(Process):
    def __init__(self, directory, binaries, options):
        command = [binaries / "discord-sim", "serve", "--listen", "127.0.0.1:0", "--token", TOKEN, *options]
        super().__init__(command, directory / "discord-sim.log", stdout=subprocess.PIPE, text=True)
        line = self.process.stdout.readline()
        if not line.startswith("listening on "):
            fail(f"discord-sim does not start, see {self.log}")
        self.address = line.split()[2]

    def stats(self):
        return json.loads(request(self.address, "/sim/stats"))

    def post(self, path):
        return json.loads(request(self.address, f"/sim/{path}", "POST"))


class Proxy(Process):
    """The proxy in front of a simulator. `changes` are keys of its configuration."""

    def __init__(self, directory, binaries, simulator, changes):
        port = changes.get("port") or free_port()
        self.address = f"127.0.0.1:{port}"
        self.path = directory / "config.json"
        config = {"token": TOKEN, "intents": INTENTS, "host": "127.0.0.1", "port": port, "log_level": "info",
                  "twilight_http_proxy": simulator.address, "externally_accessible_url": f"ws://{self.address}",
                  "cache": {flag: True for flag in CACHED}, **changes}
        self.path.write_text(json.dumps(config))
        environment = {name: value for name, value in os.environ.items() if name != "TOKEN"}
        self.started = time.monotonic()
        super().__init__([binaries / "gateway-proxy", "--config", self.path], directory / "gateway-proxy.log", env=environment)

    def wait_until_ready(self, limit):
        """The seconds from the start until all shards are active."""
        while time.monotonic() < self.started + limit:
            if self.has_ended():
                fail(f"the proxy has ended, see {self.log}")
            try:
                request(self.address, "/health")
                return time.monotonic() - self.started
            except OSError:
                time.sleep(0.05)
        fail(f"the proxy's shards do not become ready in {limit} s, see {self.log}")

    def status(self):
        return json.loads(request(self.address, "/status.json"))

    def resident(self):
        """Bytes of memory, by the kernel's count."""
        text = pathlib.Path(f"/proc/{self.pid()}/status").read_text()
        return int(re.search(r"VmRSS:\s*(\d+) kB", text)[1]) << 10

    def files(self):
        """Open descriptors. The proxy hides itself, so another user than root can not count them."""
        return len(os.listdir(f"/proc/{self.pid()}/fd"))


class Bot(Process):
    """`discord-sim bot` on all shards. Its last line of figures is kept."""

    def __init__(self, log, binaries, address, shards, *options):
        command = [binaries / "discord-sim", "bot", "--url", f"ws://{address}", "--token", TOKEN, "--shards", shards, *options]
        self.ready = self.events = self.p50 = self.p99 = self.gaps = self.duplicates = 0
        self.last = ""
        super().__init__(command, log, stdout=subprocess.PIPE, text=True)
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()

    def read(self):
        for line in self.process.stdout:
            self.last = line.strip()
            if found := LINE.search(line):
                self.ready, self.events, self.p50, self.p99, self.gaps, self.duplicates = map(int, found.groups())


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
