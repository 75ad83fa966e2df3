#!/usr/bin/env bash
# Runs the deterministic simulation with new seeds on all cores for a given time: alternately one worker on a fake kernel, and
# whole proxies with restarts, reloads, health checks, kills and pauses, in virtual time. Prints seeds, virtual hours, datagrams
# and faults by kind; for a failing seed the cause and the command to replay it.
#
#   scripts/simulate.sh [SECONDS [FIRST_SEED]]      default: 60 seconds, seeds from the current time
#
# Exit 0 if all properties held, 1 if a seed failed, 64 on usage errors.
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
# Failing seeds are reported on stdout; their panics on stderr are redundant.
if STATSRING_SECONDS=$seconds STATSRING_FIRST_SEED=$first RUST_BACKTRACE=0 \
  cargo test --quiet --test simulation -- --ignored --exact seeds_for_a_given_time --nocapture 2>/dev/null; then
  echo "all properties held"
else
  echo "a property was violated: see above" >&2
  exit 1
fi
