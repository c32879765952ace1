#!/usr/bin/env bash
# Sees to it that the machine has what aodns needs.
# Usage: scripts/setup.sh build    what it takes to build and run
#        scripts/setup.sh test     and what the tests are run against
#
# On Debian and Ubuntu missing packages are installed (as root, or through sudo); elsewhere they are
# named. AODNS_NO_INSTALL=1 never installs anything.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh

what=${1:-build}
if ! command -v cargo >/dev/null; then
    say "no cargo: install Rust 1.85 or newer, for example from https://rustup.rs"
    exit 1
fi

build="gcc libc6-dev cmake make pkg-config libasound2-dev"
tests="bind9-dnsutils knot-dnsutils unbound bind9 knot-resolver pdns-recursor dnsmasq nsd knot
    dnsperf pulseaudio pulseaudio-utils libasound2-plugins python3 python3-venv libopus0
    espeak-ng"
case $what in
build) packages=$build ;;
test) packages="$build $tests" ;;
*) echo "usage: scripts/setup.sh build|test" >&2; exit 2 ;;
esac

if command -v apt-get >/dev/null && command -v dpkg-query >/dev/null; then
    # shellcheck disable=SC2086
    missing=$(missing_packages $packages)
    if [ -n "$missing" ] && [ "${AODNS_NO_INSTALL:-}" = 1 ]; then
        say "missing, and not installed as AODNS_NO_INSTALL=1:$missing"
    elif [ "$what" = test ]; then
        # The build comes first; of the programs to test against, each is a test less if it is not
        # to be had, and the test says so.
        # shellcheck disable=SC2086
        need_packages $build
        # shellcheck disable=SC2086
        need_packages $tests || for package in $tests; do
            need_packages "$package" || say "cannot install $package: tests that need it are skipped"
        done
    else
        # shellcheck disable=SC2086
        need_packages $packages
    fi
    exit 0
fi

# Elsewhere: name what is missing.
lacking=
command -v cc >/dev/null || command -v gcc >/dev/null || lacking="$lacking C-compiler"
command -v cmake >/dev/null || lacking="$lacking cmake"
command -v make >/dev/null || lacking="$lacking make"
if [ "$(uname -s)" = Linux ]; then
    command -v pkg-config >/dev/null || lacking="$lacking pkg-config"
    pkg-config --exists alsa 2>/dev/null || lacking="$lacking ALSA-headers"
fi
if [ -n "$lacking" ]; then
    say "missing:$lacking. Their usual packages:"
    cat >&2 <<'LIST'
  Fedora, RHEL   sudo dnf install gcc cmake make pkgconf-pkg-config alsa-lib-devel
  Arch           sudo pacman -S gcc cmake make pkgconf alsa-lib
  Alpine         sudo apk add build-base cmake pkgconf alsa-lib-dev
  openSUSE       sudo zypper install gcc cmake make pkg-config alsa-devel
  macOS          xcode-select --install; brew install cmake
Without sound devices, ALSA is not needed: cargo build --release --no-default-features --features opus
LIST
    exit 1
fi
