#!/usr/bin/env bash
# Real streams through real resolvers, and to and from independent peers.
# Usage: scripts/interop.sh [seconds of the long stream]     default 300
set -euo pipefail
cd "$(dirname "$0")/.."
tests/interop/setup.sh
python=tests/interop/.venv/bin/python
(cd tests/interop && .venv/bin/python -W ignore -m unittest -q)
"$python" -W ignore tests/interop/selftest.py
AODNS_INTEROP_SECONDS=${1:-300} cargo test --locked --release --test interop -- \
    --ignored --nocapture --test-threads=16
cargo test --locked --release --test faults -- --ignored --nocapture
