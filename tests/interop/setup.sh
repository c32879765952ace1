#!/bin/sh
# Makes the Python environment of the interoperation tests; running it again does no harm.
# Usage: setup.sh [DIRECTORY]    default: .venv beside this script; PYTHON selects the interpreter
set -eu

here=$(cd "$(dirname "$0")" && pwd)
venv=${1:-$here/.venv}
python=${PYTHON:-python3}

missing=
"$python" -c 'import ensurepip, venv' 2>/dev/null || missing="$missing python3-venv"
"$python" -c 'import ctypes.util, sys; sys.exit(not ctypes.util.find_library("opus"))' ||
    missing="$missing libopus0"
if [ -n "$missing" ]; then
    echo "missing Debian packages:$missing (apt-get install$missing)" >&2
    exit 1
fi

[ -x "$venv/bin/pip" ] || "$python" -m venv "$venv"
"$venv/bin/pip" install --quiet --use-pep517 --requirement "$here/requirements.txt"
# Compiled once here, opuslib does not warn about its comparisons with literals at every start.
"$venv/bin/python" -W ignore -m compileall -q "$("$venv/bin/python" -c \
    'import importlib.util as u; print(u.find_spec("opuslib").submodule_search_locations[0])' 2>/dev/null)"
echo "ready: $venv/bin/python"
