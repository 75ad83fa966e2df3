#!/usr/bin/env bash
# Builds statsring as one static file, which runs on any Linux of this machine's kind and in an empty container image:
#
#   scripts/build-static.sh [OUTPUT]
#
# OUTPUT defaults to target/static/statsring. Needs Rust and a C compiler for linking, with glibc's static libraries
# (Debian: gcc libc6-dev). Other `cargo` settings are taken from the environment as usual.
set -euo pipefail
cd "$(dirname "$0")/.."

target_dir=${CARGO_TARGET_DIR:-target}
output=${1:-$target_dir/static/statsring}
# With the target named, the flags hold for the program alone: what runs during the build cannot be linked so.
host=$(rustc -vV | sed -n 's/^host: //p')

# Names for a debugger are left out, those for a panic's message are not.
RUSTFLAGS="${RUSTFLAGS:-} -C target-feature=+crt-static" CARGO_PROFILE_RELEASE_STRIP="${CARGO_PROFILE_RELEASE_STRIP:-debuginfo}" \
    cargo build --release --locked --bin statsring --target "$host"

mkdir -p "$(dirname "$output")"
cp "$target_dir/$host/release/statsring" "$output"
echo "$output"
