# Checks tools and builds programs for the measurement scripts, which source it.
# shellcheck shell=bash

missing() {
    echo "$(basename "$0"): $1 is not installed (Debian: $2)" >&2
    exit 71
}

# prepare ARGUMENTS: builds, unless the arguments request no measurement.
prepare() {
    local argument manifest
    manifest=$(dirname "${BASH_SOURCE[0]}")/../../Cargo.toml
    command -v python3 >/dev/null || missing python3 python3
    command -v taskset >/dev/null || missing taskset util-linux
    for argument in "$@"; do
        case $argument in
            -h | --help | --from-json | --from-json=* | --from-csv | --from-csv=* | --write-only) return ;;
        esac
    done
    command -v cargo >/dev/null || missing cargo "from https://rustup.rs"
    export PYTHONDONTWRITEBYTECODE=1
    if [ -z "${STATSRING:-}" ]; then
        cargo build --quiet --release --manifest-path "$manifest"
    fi
    cargo build --quiet --release --manifest-path "$manifest" --example receive_floor --example forward_floor
}
