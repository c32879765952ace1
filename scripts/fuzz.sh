#!/usr/bin/env bash
# Runs every fuzz target for a bounded time, as many at once as there are processors, and prints what
# came of each.
#
#   scripts/fuzz.sh [seconds per target] [target...]
#
# Installs cargo-fuzz if it is missing; needs a C++ compiler. The committed corpus in
# fuzz/corpus is read and never written; what is new goes to fuzz/target/corpus and is used again by
# the next run. A finding is kept in fuzz/artifacts, and makes the exit status 1.
set -euo pipefail
cd "$(dirname "$0")/.."

command -v cargo-fuzz >/dev/null || cargo install --quiet --locked cargo-fuzz

seconds=${1:-60}
[ $# -eq 0 ] || shift
targets=${*:-$(cd fuzz/fuzz_targets && ls | sed 's/\.rs$//')}

# cargo-fuzz wants a nightly compiler for its flags; a stable one takes them like this.
export RUSTC_BOOTSTRAP=1
# Nearly all of this is safe Rust, where a sanitizer finds nothing and halves the speed.
sanitizer=${SANITIZER:-none}
logs=fuzz/target/logs
mkdir -p "$logs"

cargo fuzz build --sanitizer "$sanitizer" >"$logs/build" 2>&1 || { cat "$logs/build" >&2; exit 1; }

# The number after "$1" in the line of log "$3" that matches "$2"; the last such line counts.
number() {
    sed -n "/$2/s/.*$1 *\([0-9][0-9]*\).*/\1/p" "$3" | tail -n 1
}

# Runs one target, and prints its line of the table.
fuzz() {
    local target=$1 log=$logs/$1 mine=fuzz/target/corpus/$1 result=ok
    mkdir -p "$mine" "fuzz/corpus/$target"
    cargo fuzz run --sanitizer "$sanitizer" "$target" "$mine" "fuzz/corpus/$target" -- \
        -max_total_time="$seconds" -timeout=10 -rss_limit_mb=1024 -max_len=8192 \
        -print_final_stats=1 >"$log" 2>&1 || result=FAILED
    local before after execs speed
    before=$(number cov: INITED "$log")
    after=$(number cov: cov: "$log")
    execs=$(number stat::number_of_executed_units: number_of_executed "$log")
    speed=$(number stat::average_exec_per_sec: average_exec "$log")
    [ -n "$execs" ] || result=FAILED
    printf '%-14s %12s %9s %9s %9s  %s\n' "$target" "${execs:--}" "${speed:--}" "${after:--}" \
        "$((${after:-0} - ${before:-0}))" "$result"
    [ "$result" = ok ] && return
    sed -n '/panicked at/,+1p; /^artifact_prefix/p; /^==.*ERROR/p; /Test unit written/p' "$log" |
        sed 's/^/    /'
    return 1
}

failed=0
printf '%-14s %12s %9s %9s %9s  %s\n' target execs execs/s coverage new result
running=0
for target in $targets; do
    if [ "$running" -ge "$(nproc)" ]; then
        wait -n || failed=1
        running=$((running - 1))
    fi
    fuzz "$target" &
    running=$((running + 1))
done
while [ "$running" -gt 0 ]; do
    wait -n || failed=1
    running=$((running - 1))
done
exit "$failed"
