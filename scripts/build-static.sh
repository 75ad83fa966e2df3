#!/usr/bin/env bash
# Builds statsring as a static binary, which runs on any Linux of this architecture and in an empty container image:
#
#   scripts/build-static.sh [OUTPUT]
#
# OUTPUT defaults to target/static/statsring. Requires Rust, a C compiler for linking and glibc's static libraries
# (Debian: gcc libc6-dev). Further cargo settings are taken from the environment.
set -euo pipefail
cd "$(dirname "$0")/.."

target_dir=${CARGO_TARGET_DIR:-target}
output=${1:-$target_dir/static/statsring}
# With an explicit target, RUSTFLAGS do not apply to build scripts and procedural macros, which cannot be static.
host=$(rustc -vV | sed -n 's/^host: //p')

# Strips debug information but keeps the symbols for backtraces.
RUSTFLAGS="${RUSTFLAGS:-} -C target-feature=+crt-static" CARGO_PROFILE_RELEASE_STRIP="${CARGO_PROFILE_RELEASE_STRIP:-debuginfo}" \
    cargo build --release --locked --bin statsring --target "$host"

mkdir -p "$(dirname "$output")"
cp "$target_dir/$host/release/statsring" "$output"
echo "$output"
