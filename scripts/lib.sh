# shellcheck shell=bash
# For the scripts beside it: messages, and packages of the system. Not to be run by itself.

say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }

# Runs a command as root: as it is for root, through sudo for others.
as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        say "not root and no sudo: run as root: $*"
        return 1
    fi
}

# Which of the named Debian packages are not installed.
missing_packages() {
    for package in "$@"; do
        case $(dpkg-query -W -f '${db:Status-Abbrev}' "$package" 2>/dev/null) in
        ii*) ;;
        *) printf ' %s' "$package" ;;
        esac
    done
}

# Installs the named Debian packages that are missing. Services that come with them are neither
# started now nor at the next boot: only the programs are wanted.
need_packages() {
    missing=$(missing_packages "$@")
    [ -n "$missing" ] || return 0
    say "installing$missing"
    as_root sh -c '
        set -eu
        policy=/usr/sbin/policy-rc.d
        units() { systemctl list-unit-files --state=enabled --no-legend 2>/dev/null | cut -d" " -f1 | sort; }
        before=$(units)
        if [ ! -e $policy ]; then
            printf "#!/bin/sh\nexit 101\n" >$policy
            chmod 755 $policy
            trap "rm -f $policy" EXIT
        fi
        export DEBIAN_FRONTEND=noninteractive
        log=$(mktemp)
        apt-get install -qq -y --no-install-recommends $1 >"$log" 2>&1 ||
            { apt-get update -qq && apt-get install -qq -y --no-install-recommends $1 >"$log" 2>&1; } ||
            { tail -n 20 "$log" >&2; exit 1; }
        rm -f "$log"
        for unit in $(units); do
            case " $(echo $before) " in *" $unit "*) ;; *) systemctl disable -q "$unit" || true ;; esac
        done' sh "$missing"
}
