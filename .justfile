# What `.ci/run` calls, and what a person calls before a commit. `just --list` shows them.

set shell := ["bash", "-euo", "pipefail", "-c"]

# Formatting, lints, tests: before every commit.
check: lint test

# Formatting and lints, warnings denied.
lint:
    cargo fmt --check
    cargo clippy --locked --all-targets -- -D warnings

# The README's test command.
test:
    cargo test --locked

# Every test on the optimised build, Mosquitto required. Takes minutes.
slow:
    CI=1 cargo test --locked --release

# What needs no answer within a minute: the manual of the library, the example, the build without a broker, the
# dependencies.
deep:
    RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps
    cargo run --locked --quiet --example embed
    cargo clippy --locked --no-default-features --lib --bins -- -D warnings
    @if command -v cargo-deny >/dev/null; then cargo deny --locked check --config .deny.toml; \
    else echo "cargo-deny is not installed, so licences and advisories were not looked at: cargo install cargo-deny --locked"; fi

# A failure prints its seed; `BOLERO_RANDOM_SEED` throws it again. `just fuzz frames 600` is ten minutes of one.
# Random input for whatever reads what comes from outside.
fuzz target="" seconds="60":
    BOLERO_RANDOM_TEST_TIME_MS={{seconds}}000 cargo test --locked --lib fuzz_{{target}} -- --nocapture

# Throughput, latency, and one hook call against bare mlua.
bench:
    cargo bench --locked
