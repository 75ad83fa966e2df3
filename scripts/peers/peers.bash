# Common code of the tests against real peers: installs them into a temporary directory and runs a test with a time limit. Source
# it from the top directory, with `name` and `seconds_max` set.
#
# Sets: STATSRING (the program), PYTHON and NODE_MODULES (of the peers), work (temporary directory).

# shellcheck source=scripts/proxy.bash
. scripts/proxy.bash

die() {
    echo "$name: $*" >&2
    echo "$name: 0 passed, 1 failed"
    exit 1
}

# Arguments: the required tools.
begin() {
    local tool
    for tool in "$@"; do
        command -v "$tool" >/dev/null || die "$tool is not installed; this test needs $*"
    done
    find_program
    export STATSRING=$program
}

python_packages() {
    python3 -m venv "$work/venv" >"$work/venv.log" 2>&1 || {
        cat "$work/venv.log" >&2
        die "python3 cannot create a venv (Debian: python3-venv)"
    }
    export PYTHON=$work/venv/bin/python
    "$PYTHON" -m pip install --quiet --disable-pip-version-check "$@" >"$work/pip.log" 2>&1 || {
        cat "$work/pip.log" >&2
        die "pip failed to install $*"
    }
}

npm_packages() {
    # Optional dependencies are for syslog and Windows.
    npm install --prefix "$work" --no-audit --no-fund --ignore-scripts --omit=optional --loglevel=error \
        "$@" >"$work/npm.log" 2>&1 || {
        cat "$work/npm.log" >&2
        die "npm failed to install $*"
    }
    export NODE_MODULES=$work/node_modules
}

# Runs a command with the time limit and exits with its code. In the background, so that traps run at once.
run() {
    local code=0
    timeout -k 10 "$seconds_max" "$@" &
    children=($!)
    wait "${children[0]}" || code=$?
    children=()
    [ "$code" != 124 ] || die "not finished after $seconds_max s"
    exit "$code"
}

# run_test FILE [COMMAND...]: runs a test of scripts/peers, through the command if given.
run_test() {
    local test=$1
    shift
    mkdir "$work/test"
    run env PYTHONPATH=scripts/compare "$@" python3 -B "scripts/peers/$test" "$work/test"
}
