# What one does with this repository. `make` lists it.

SECONDS ?=
CPU ?= x86-64
CLIENTS ?=
IMAGE ?= gateway-proxy
DESTDIR ?=
PREFIX ?= /usr/local

.DEFAULT_GOAL := help
.PHONY: help demo test flaky lint setup-operations live-page fmt setup test-portable test-clients sim sim-planted chaos fuzz attacks bench \
	startup-times capacity soak build release install deb deb-check sbom image profile

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

demo: ## the simulator, the proxy and a bot that is restarted (SECONDS=20 ends by itself)
	@SECONDS_TO_RUN="$(if $(filter command line,$(origin SECONDS)),$(SECONDS))" scripts/demo

test: lint setup ## formatting, lints, all tests, real client libraries
	cargo test

flaky: ## all tests ten times (RUNS=) under CPU load: each failure with the path of its log
	scripts/flaky $(if $(RUNS),--runs $(RUNS))

lint: ## formatting, lints, tidiness, generated parts and links of the documentation
	cargo fmt --all --check
	scripts/readme-recipes --check
	scripts/readme-clients --check
	scripts/check-links
	cargo clippy --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --document-private-items
	cargo test --test tidy
	@if cargo deny --version >/dev/null 2>&1; then cargo deny --offline check bans licenses sources; \
		else echo "lint: cargo-deny is not there, so only the tests check licences (cargo install --locked cargo-deny)"; fi

fmt: ## format the code
	cargo fmt --all

setup: ## check what the tests need, install the client libraries that they use
	@scripts/setup

setup-operations: ## what the tests of operations use besides: Chromium, promtool (Debian), kubernetes-validate (PyPI)
	@scripts/operations-setup

live-page: ## the picture of the live page in docs/, made by its test
	LIVE_PAGE_PNG=docs/live-page.png cargo test --test operations the_page_shows

test-portable: ## the tests of code that depends on the CPU, on one without AVX2 (needs qemu-user)
	@scripts/test-portable

test-clients: ## the tests with all client libraries, or CLIENTS="eris hikari"
	@scripts/clients-setup $(or $(CLIENTS),all)
	CLIENTS="$(or $(CLIENTS),all)" cargo test --test libraries -- real_clients client_state voice_clients
	$(if $(CLIENTS),,scripts/readme-clients)

sim: ## deterministic simulation with faults (SEEDS=100000), or one seed told in full (SEED=17)
	SEEDS="$(SEEDS)" FROM="$(FROM)" SEED="$(SEED)" cargo test --release --test simulation

sim-planted: ## planted bugs, each of which the simulation has to find
	scripts/sim-planted

chaos: ## real processes and libraries with faults, restarts and kills at random (SECONDS=600, SEED=)
	@scripts/clients-setup
	SECONDS_OF_CHAOS="$(if $(filter command line,$(origin SECONDS)),$(SECONDS),600)" SEED="$(SEED)" cargo test --test libraries -- --nocapture chaos

fuzz: ## hostile bytes for everything that reads them (SECONDS=60, SEED=)
	SECONDS_TO_FUZZ="$(if $(filter command line,$(origin SECONDS)),$(SECONDS),60)" SEED="$(SEED)" cargo test --release --test fuzz

attacks: ## how long a bot waits for its events while each attack goes on, as a table (SECONDS=5 for each)
	SECONDS_OF_EACH="$(if $(filter command line,$(origin SECONDS)),$(SECONDS),5)" cargo test --release --test attacks latency -- --ignored --nocapture

bench: ## the proxy beside a null relay, as a table and target/bench.json (QUICK=1, ONLY=loads|joining|memory|stuck|restarting)
	cargo build --release --bins
	cargo bench --bench end_to_end

startup-times: ## how long large bots take to start, directly and through the proxy (45 minutes; ONLY=jda,discord.js SHARDS=16)
	@scripts/startup-times $(if $(ONLY),--only $(ONLY)) $(if $(SHARDS),--shards $(SHARDS))

capacity: ## memory, cores and start times for bots of several sizes (SIZES="16x2000x200": shards x guilds x members)
	@scripts/capacity $(SIZES)

soak: ## a day compressed: waves, restarts, faults; memory, descriptors and latency as CSV and SVG (SECONDS=3600)
	@scripts/soak --seconds $(if $(filter command line,$(origin SECONDS)),$(SECONDS),3600)

build: ## a development build
	cargo build

release: ## an optimised build for CPU=znver3, haswell or x86-64
	RUSTFLAGS="-C target-cpu=$(CPU)" cargo build --release --locked --bins
	scripts/sbom

install: ## what `make release` has built, its units, man pages and completions (DESTDIR=, PREFIX=/usr/local)
	@DESTDIR="$(DESTDIR)" PREFIX="$(PREFIX)" scripts/install

deb: release ## a Debian package of the release build (needs cargo-deb)
	@cargo deb --version >/dev/null 2>&1 || { echo "deb: cargo-deb is missing: cargo install --locked cargo-deb" >&2; exit 1; }
	rm -rf target/deb
	@DESTDIR=target/deb PREFIX=/usr scripts/install
	cargo deb --no-build --no-strip --output target/debian/

deb-check: ## the package, installed in a new Debian, with the demo (needs root and debootstrap)
	@scripts/deb-check

sbom: ## what the programs are made of: target/sbom.json (CycloneDX)
	@scripts/sbom

image: ## a container image for CPU=znver3, haswell or x86-64
	docker build -f Dockerfile.$(CPU) -t $(IMAGE):$(CPU) .

profile: ## a flame graph of a running proxy, or of one under load (PID=, SECONDS=10; needs perf and root)
	@PID="$(PID)" SECONDS_TO_SAMPLE="$(if $(filter command line,$(origin SECONDS)),$(SECONDS),10)" scripts/profile
