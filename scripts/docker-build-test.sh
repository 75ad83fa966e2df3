#!/usr/bin/env bash
# Builds the image as documented, `docker build -t statsring -f docker/Dockerfile .`, including the compile stage, in a private
# Docker Engine without network access. The base image of that stage is created here under the name used in the Dockerfile:
# a Debian compiler by mmdebstrap, this machine's Rust, and the crates of Cargo.lock (cargo vendor). It differs from the real
# one in the Rust version, and the crates do not come from the registry.
#
# Usage: scripts/docker-build-test.sh [OUTPUT]   writes the program of the image to OUTPUT
#        CARGO_PROFILE_RELEASE_LTO=off ...       CARGO_PROFILE_RELEASE_ settings are passed to the build, to speed it up
#
# Requires root; installs docker.io and mmdebstrap if missing, and creates the Debian once in target/docker-RELEASE. Exit 0 on
# success, 1 on failure, 71 if no engine runs here.
set -euo pipefail
cd "$(dirname "$0")/.."

name=docker-build-test
# shellcheck source=scripts/proxy.bash
. scripts/proxy.bash
# shellcheck source=scripts/docker/engine.bash
. scripts/docker/engine.bash

output=${1:-}
needs_engine mmdebstrap
work=$(mktemp -d)
trap finish_engine EXIT
trap 'exit 143' TERM
trap 'exit 130' INT

# Prints the default of a Dockerfile argument.
argument() {
    local value
    value=$(sed -n "s/^ARG $1=//p" docker/Dockerfile)
    [ -n "$value" ] || fail "docker/Dockerfile has no default for $1"
    echo "$value"
}
release=$(argument DEBIAN_RELEASE)
from="rust:$(argument RUST_VERSION)-slim-$release"
# shellcheck disable=SC2016 # literal text of the Dockerfile
grep -q '^FROM rust:${RUST_VERSION}-slim-${DEBIAN_RELEASE} AS built$' docker/Dockerfile ||
    fail "docker/Dockerfile uses another base image than the one created here"

# --- The base image.

debian=${CARGO_TARGET_DIR:-target}/docker-$release
if [ ! -e "$debian/etc/debian_version" ]; then
    rm -rf "$debian.new"
    mmdebstrap --variant=minbase --include=gcc,libc6-dev --dpkgopt=force-unsafe-io \
        --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
        --dpkgopt='path-exclude=/usr/share/locale/*' "$release" "$debian.new" >&2 ||
        die "mmdebstrap failed to create Debian $release in $debian.new"
    mv "$debian.new" "$debian"
fi

# As in the real image: cargo and rustc in /usr/local/cargo/bin, which is in PATH and below CARGO_HOME.
rust=$work/rust
mkdir -p "$rust/usr/local/cargo/bin" "$rust/usr/local/rustup"
sysroot=$(rustc --print sysroot)
tar -C "$sysroot" --create --exclude=lib/rustlib/src bin/cargo bin/rustc lib |
    tar -C "$rust/usr/local/rustup" --extract
ln -s ../../rustup/bin/cargo ../../rustup/bin/rustc "$rust/usr/local/cargo/bin/"
cargo vendor --locked --quiet "$rust/usr/local/vendor" >/dev/null
cat >"$rust/usr/local/cargo/config.toml" <<'TOML'
[source.crates-io]
replace-with = "vendored"
[source.vendored]
directory = "/usr/local/vendor"
TOML

begin_engine "$(grep -qw overlay /proc/filesystems && echo overlay2 || echo vfs)"
changes=(--change "ENV CARGO_HOME=/usr/local/cargo PATH=/usr/local/cargo/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
while IFS= read -r setting; do
    changes+=(--change "ENV $setting")
done < <(env | grep '^CARGO_PROFILE_RELEASE_[A-Z_]*=[a-z0-9]*$')
tar --create --directory "$debian" . --directory "$rust" usr/local/rustup usr/local/cargo usr/local/vendor |
    docker import "${changes[@]}" - "$from" >/dev/null || fail "docker import of $from"
rm -rf "$rust"
docker run --rm --network none "$from" rustc --version

# --- The image.

commit=$(git rev-parse HEAD 2>/dev/null || echo 0123456789abcdef)
docker build --network none --progress plain --tag statsring --file docker/Dockerfile --build-arg COMMIT="$commit" . \
    >"$work/build-log" 2>&1 || { tail -40 "$work/build-log" >&2; fail "docker build"; }
version=$(docker run --rm --network none statsring --version)
[[ $version == "statsring "*" (${commit:0:10}, "*static\) ]] || fail "--version in the container: $version"

container=$(docker create statsring)
files=$(docker export "$container" | tar --list | grep -vE '/$|^(dev|etc|proc|sys)/|^\.dockerenv$' | sort | tr '\n' ' ')
[ "$files" = "LICENSE statsring " ] || fail "files in the image: $files"
user=$(docker image inspect --format '{{.Config.User}}' statsring)
[ "$user" = 8125:8125 ] || fail "the image's user: $user"
docker cp "$container:/statsring" "$work/statsring" >/dev/null
docker rm "$container" >/dev/null
container=

# The example config is readable in the container by its user.
docker run --rm --network none --read-only --cap-drop ALL --volume "$PWD/docker/statsring.json:/etc/statsdproxy.json:ro" \
    statsring --check >"$work/check" 2>"$work/check-log" || { cat "$work/check-log" >&2; fail "--check in the container"; }
grep -q '"managementHost": "0.0.0.0"' "$work/check" || fail "--check in the container did not read docker/statsring.json"

if [ -n "$output" ]; then
    mkdir -p "$(dirname "$output")"
    cp "$work/statsring" "$output"
fi
bytes=$(docker image inspect --format '{{.Size}}' statsring)
echo "docker build from $from: $version, $((bytes / 1000)) kB, only /statsring and /LICENSE"
