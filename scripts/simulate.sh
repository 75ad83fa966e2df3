#!/usr/bin/env bash
# Runs the deterministic simulation with seeds that the tests do not run, on all cores, for a given time: one worker on a
# fake kernel, and whole proxies with restarts, reloads, health checks, kills and pauses, by turns, in virtual time. Tells
# seeds, virtual hours, datagrams, faults by kind; of a seed that fails the cause and the command that replays it.
#
#   scripts/simulate.sh [SECONDS [FIRST_SEED]]      60 seconds; seeds from the present second on, so that no two runs are the same
#
# Exit code: 0 all promises held, 1 a seed failed, 64 wrong arguments.
set -euo pipefail
cd "$(dirname "$0")/.."

seconds=${1:-60}
first=${2:-$(($(date +%s) * 100000))}
if ! [[ $seconds =~ ^[1-9][0-9]*$ && $first =~ ^[0-9]+$ ]] || (($# > 2)); then
  echo "usage: scripts/simulate.sh [SECONDS [FIRST_SEED]]" >&2
  exit 64
fi

cargo test --quiet --test simulation --no-run
echo "seeds from $first on, for $seconds seconds, on $(nproc) cores"
# The panics of failing seeds are told below, each with its cause.
if STATSRING_SECONDS=$seconds STATSRING_FIRST_SEED=$first RUST_BACKTRACE=0 \
  cargo test --quiet --test simulation -- --ignored --exact seeds_for_a_given_time --nocapture 2>/dev/null; then
  echo "every promise held"
else
  echo "a promise was broken: see above" >&2
  exit 1
fi
