# What compare.sh, load-curve.sh and burst.sh need before they measure: tools and builds. Sourced by them.
# shellcheck shell=bash

missing() {
    echo "$(basename "$0"): $1 is needed and not installed (Debian: $2)" >&2
    exit 71
}

# prepare ARGUMENTS: builds, unless only help is asked for.
prepare() {
    local argument
    command -v python3 >/dev/null || missing python3 python3
    command -v taskset >/dev/null || missing taskset util-linux
    for argument in "$@"; do
        case $argument in
            -h | --help | --from-json | --from-json=* | --from-csv | --from-csv=*) return ;;
        esac
    done
    command -v cargo >/dev/null || missing cargo "from https://rustup.rs"
    export PYTHONDONTWRITEBYTECODE=1
    if [ -z "${STATSRING:-}" ]; then
        cargo build --quiet --release
    fi
    cargo build --quiet --release --example discard
}
