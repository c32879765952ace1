#!/usr/bin/env bash
# Cross-builds aodns for small boards on Debian, and runs its demo under qemu-user.
# Usage: scripts/cross.sh aarch64|armv7 [seconds]     seconds of demo, 0 for none; default 8
#
# Without a rustup toolchain that has the target, Debian's own is used: rustc-web and cargo-web, and
# the target's standard library unpacked below target/cross, so that no package of another
# architecture has to be installed. Needs root (or sudo) to install packages that are missing.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh

case ${1:-} in
aarch64) target=aarch64-unknown-linux-gnu gnu=aarch64-linux-gnu arch=arm64 qemu=qemu-aarch64-static ;;
armv7) target=armv7-unknown-linux-gnueabihf gnu=arm-linux-gnueabihf arch=armhf qemu=qemu-arm-static ;;
*) echo "usage: scripts/cross.sh aarch64|armv7 [seconds of demo]" >&2; exit 2 ;;
esac
seconds=${2:-8}
cargo=cargo rustc=rustc flags=

need_packages "gcc-$gnu" "libc6-dev-$arch-cross" cmake make qemu-user-static
if [ -d "$(rustc --print sysroot 2>/dev/null)/lib/rustlib/$target" ]; then
    say "standard library for $target: that of $(rustc --version)"
else
    cargo=/usr/bin/cargo rustc=/usr/bin/rustc
    dpkg --print-foreign-architectures | grep -qx "$arch" || as_root dpkg --add-architecture "$arch"
    # An index that cannot be fetched now is no reason to stop: an older one will do.
    as_root apt-get update -qq || say "some package indexes are not up to date"
    # The newest version that both architectures have: their mirrors are not always in step.
    versions() { apt-cache madison "$1" | awk -F'|' -v p="$2" '$3 ~ p {gsub(/ /, "", $2); print $2}'; }
    own=$(dpkg --print-architecture)
    version=$(comm -12 <(versions libstd-rust-web-dev " $own " | sort -u) \
        <(versions "libstd-rust-web-dev:$arch" " $arch " | sort -u) | sort -V | tail -n 1)
    [ -n "$version" ] || { echo "no libstd-rust-web-dev for both $own and $arch" >&2; exit 1; }
    if [ "$(dpkg-query -W -f '${Version}' rustc-web 2>/dev/null)" != "$version" ]; then
        minor=$(echo "$version" | cut -d. -f1,2)
        say "installing Debian's Rust $version"
        as_root env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --allow-downgrades \
            --no-install-recommends "rustc-web=$version" "cargo-web=$version" \
            "libstd-rust-web-dev=$version" "libstd-rust-web-$minor=$version" >/dev/null
    fi
    sysroot=$PWD/target/cross/sysroot-$arch-$version
    if [ ! -d "$sysroot/lib/rustlib/$target" ]; then
        rm -rf "$sysroot"
        mkdir -p "$sysroot/lib/rustlib"
        (cd "$sysroot" && apt-get download -qq "libstd-rust-web-dev:$arch=$version" 2>/dev/null \
            && dpkg -x libstd-rust-web-dev_*.deb unpacked \
            && mv "unpacked/usr/lib/rustlib/$target" lib/rustlib/ && rm -r unpacked ./*.deb)
    fi
    flags="--sysroot=$sysroot"
fi

upper=$(echo "$target" | tr 'a-z-' 'A-Z_')
under=$(echo "$target" | tr - _)
export "CARGO_TARGET_${upper}_LINKER=$gnu-gcc" "CARGO_TARGET_${upper}_RUSTFLAGS=$flags"
export "CC_$under=$gnu-gcc" "CXX_$under=$gnu-g++" "AR_$under=$gnu-ar"
# libopus is built with NEON on 32 bits: every Raspberry Pi from the second on has it.
[ "$arch" != armhf ] || export "CFLAGS_$under=-mfpu=neon"
export RUSTC=$rustc CARGO_TARGET_DIR=$PWD/target/cross
say "building with $($rustc --version)"
"$cargo" build --release --locked --target "$target" --no-default-features --features opus
program=$CARGO_TARGET_DIR/$target/release/aodns
"$gnu-strip" -o "$program.stripped" "$program"
say "size: $(stat -c %s "$program") octets, stripped $(stat -c %s "$program.stripped")"

[ "$seconds" != 0 ] || exit 0
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
"$qemu" -L "/usr/$gnu" "$program" demo --seconds "$seconds" --output "$directory/demo.wav" &
demo=$!
peak=0
while kill -0 "$demo" 2>/dev/null; do
    now=$(awk '/^VmHWM/ {print $2}' "/proc/$demo/status" 2>/dev/null || true)
    [ "${now:-0}" -le "$peak" ] || peak=$now
    sleep 0.2
done
wait "$demo"
say "memory: at most $peak kB resident, the emulator's own included"
octets=$(stat -c %s "$directory/demo.wav")
[ "$octets" -gt $((seconds * 16000)) ] || { echo "the demo wrote only $octets octets" >&2; exit 1; }
say "the demo wrote $octets octets of sound"
