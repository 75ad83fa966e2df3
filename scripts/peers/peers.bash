# A test beside real peers: the program found or built, the peers installed into a temporary folder, the test run and
# bounded. To be sourced by a script that sets `name` and `seconds_max`.
#
# Sets: STATSRING (the program), PYTHON and NODE_MODULES (where the peers are), work (a folder, gone in the end).

die() {
    echo "$name: $*" >&2
    echo "$name: 0 passed, 1 failed"
    exit 1
}

test_pid=
# shellcheck disable=SC2317,SC2329 # called by the trap
finish() {
    # The test ends what it started when it is told to end.
    if [ -n "$test_pid" ] && kill -TERM "$test_pid" 2>/dev/null; then
        wait "$test_pid" 2>/dev/null || true
    fi
    rm -rf "$work"
}

# The tools it needs as arguments.
begin() {
    local tool
    for tool in "$@"; do
        command -v "$tool" >/dev/null || die "$tool is not installed; this test needs $*"
    done
    if [ -z "${STATSRING:-}" ]; then
        cargo build --release
        STATSRING=${CARGO_TARGET_DIR:-target}/release/statsring
    fi
    [ -x "$STATSRING" ] || die "no program at $STATSRING"
    STATSRING=$(readlink -f "$STATSRING")
    work=$(mktemp -d)
    trap finish EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
    export STATSRING
}

python_packages() {
    python3 -m venv "$work/venv" >"$work/venv.log" 2>&1 || {
        cat "$work/venv.log" >&2
        die "python3 cannot make a venv; on Debian: apt-get install python3-venv"
    }
    export PYTHON=$work/venv/bin/python
    "$PYTHON" -m pip install --quiet --disable-pip-version-check "$@" >"$work/pip.log" 2>&1 || {
        cat "$work/pip.log" >&2
        die "pip could not install $*"
    }
}

npm_packages() {
    # No scripts and no optional parts: they are for syslog and Windows.
    npm install --prefix "$work" --no-audit --no-fund --ignore-scripts --omit=optional --loglevel=error \
        "$@" >"$work/npm.log" 2>&1 || {
        cat "$work/npm.log" >&2
        die "npm could not install $*"
    }
    export NODE_MODULES=$work/node_modules
}

# Runs a test of scripts/peers to its verdict, by the command that follows if there is one; in the background, so that a
# signal to this script reaches the trap at once.
run_test() {
    local code=0 test=$1
    shift
    mkdir "$work/test"
    PYTHONPATH=scripts/compare timeout -k 10 "$seconds_max" "$@" python3 -B "scripts/peers/$test" "$work/test" &
    test_pid=$!
    wait "$test_pid" || code=$?
    test_pid=
    [ "$code" != 124 ] || die "not finished after $seconds_max s"
    exit "$code"
}
