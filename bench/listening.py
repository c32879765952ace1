#!/usr/bin/env python3
"""CPU and memory of `aodns listen` beside decoding the same packets alone.

A server plays the built-in programme at 16 kHz mono; a listener with the sink `null` takes it for
some minutes. The kernel tells the time of each of its threads to the nanosecond; what it takes is
told for each part of that time, because the resampler runs only while the latency is corrected. To
tell whether it did, `--json` lets the listener write its status each second, which is then in its time.
Decoding is measured during each part, as a machine is not as fast in each minute, and three times: at a
stretch, a segment each 720 ms, and a packet each 60 ms, with the caches cold again each time; so is the
resampler, a segment each 720 ms. The medians of all parts come last.

Usage: bench/listening.py [--seconds 60] [--parts 5] [--json]
"""
from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from answering import HERE, ROOT, free_port

SETTLE = 3  # seconds for joining


def cpu(pid: int) -> dict[str, int]:
    """Nanoseconds of CPU by the name of each thread."""
    used = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        name = (task / "comm").read_text().strip()
        used[name] = used.get(name, 0) + int((task / "schedstat").read_text().split()[0])
    return used


def resident(pid: int) -> int:
    """Resident kB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    sys.exit("no VmRSS")


def build() -> None:
    subprocess.run(["cargo", "build", "--quiet", "--release", "--locked", "--bin", "aodns",
                    "--example", "decoding"], cwd=HERE, check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60, help="of each part")
    parser.add_argument("--parts", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="let the listener write its status each second")
    arguments = parser.parse_args()
    build()
    release = HERE / "target/release"
    rows = []
    port = str(free_port())
    with tempfile.TemporaryDirectory() as place:
        status = Path(place) / "status"
        server = subprocess.Popen([release / "aodns", "serve", ROOT, "--dns-port", port, "-i", "demo"],
                                  stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(1)
        options = ["--json"] if arguments.json else []
        with status.open("w") as out:
            listener = subprocess.Popen([release / "aodns", "listen", ROOT, f"127.0.0.1:{port}",
                                         "-o", "null", *options], stdout=out)
        try:
            time.sleep(SETTLE)
            for part in range(arguments.parts):
                before = cpu(listener.pid)
                began = time.monotonic()
                # Three of the four manners take as long as their sound.
                decoding = subprocess.run(
                    [release / "examples/decoding", str(max(int(arguments.seconds / 3), 1))],
                    stdout=subprocess.PIPE, text=True, check=True).stdout
                alone, packets, segments, corrected = (
                    float(line.split()[1]) for line in decoding.splitlines())
                passed = time.monotonic() - began
                used = {name: (ns - before.get(name, 0)) / 1000 / passed
                        for name, ns in cpu(listener.pid).items()}
                total = sum(used.values())
                threads = ", ".join(f"{name} {us:.0f}" for name, us in sorted(used.items()))
                if server.poll() is not None or listener.poll() is not None:
                    sys.exit("server or listener ended")
                seen = ""
                if arguments.json:
                    last = json.loads(status.read_text().splitlines()[-1])
                    seen = f"; {last['gaps']} gaps, correction {last['correction_ppm']:.0f} ppm"
                rows.append((total, alone, segments, packets, corrected,
                             total / alone, total / segments, total / packets))
                print(f"part {part + 1}, {passed:.0f} s, us per second of sound: listening {total:.0f} "
                      f"({threads}); decoding at a stretch {alone:.0f}, a segment each 720 ms "
                      f"{segments:.0f}, a packet each 60 ms {packets:.0f}; playing faster {corrected:.0f}; "
                      f"{resident(listener.pid)} kB resident{seen}", flush=True)
            total, alone, segments, packets, corrected, *ratios = map(statistics.median, zip(*rows))
            print(f"medians: listening {total:.0f}, decoding at a stretch {alone:.0f}, a segment each "
                  f"720 ms {segments:.0f}, a packet each 60 ms {packets:.0f}; playing faster "
                  f"{corrected:.0f}; listening to decoding: "
                  + ", ".join(f"{ratio:.2f}" for ratio in ratios))
        finally:
            listener.terminate()
            server.terminate()
            listener.wait(10)
            server.wait(10)


if __name__ == "__main__":
    main()
