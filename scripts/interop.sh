#!/usr/bin/env bash
# Real streams through real resolvers, to and from independent peers, over bad networks, and a crowd
# behind one resolver (AODNS_CROWD_SECONDS, 20 by default, for each of three).
# Usage: scripts/interop.sh [seconds of the long stream]     default 300
#
# These run in real time, all at once. A machine that stalls for half a second is heard as a gap, so
# what fails is run once more, by itself and with other dice, and says so; failing again is a failure.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh
tests/interop/setup.sh
python=tests/interop/.venv/bin/python
# The peers themselves, and their programs at the same time: both wait more than they compute.
(cd tests/interop && .venv/bin/python -W ignore -m unittest -q) &
peers=$!
"$python" -W ignore tests/interop/selftest.py
wait "$peers"
export AODNS_INTEROP_SECONDS=${1:-300} AODNS_CROWD_SECONDS=${AODNS_CROWD_SECONDS:-20}
log=$(mktemp)
trap 'rm -f "$log"' EXIT

run() {
    test=$1
    shift
    cargo test --locked --release --test "$test" -- --ignored --nocapture "$@" 2>&1 | tee "$log"
}
# Those that start resolvers of their own go by themselves: that takes the processor from the others.
for batch in interop "faults --skip _behind_" "faults _behind_" crowd; do
    read -r -a filter <<<"$batch"
    test=${filter[0]}
    # A crowd is busy enough by itself.
    threads=40
    [ "$test" != crowd ] || threads=1
    run "${filter[@]}" --test-threads=$threads && continue
    failed=$(sed -n '/^failures:$/,/^test result/s/^    \([a-z0-9_]*\)$/\1/p' "$log" | sort -u)
    [ -n "$failed" ] || exit 1
    for name in $failed; do
        # What the dice of a bad network did once they would do again.
        say "AGAIN, BY ITSELF, WITH OTHER DICE: $name"
        AODNS_FAULT_SEED=$((${AODNS_FAULT_SEED:-0} + 1)) run "$test" --exact "$name"
    done
done
