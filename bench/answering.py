#!/usr/bin/env python3
"""CPU per query of aodns beside Knot DNS and NSD, which serve the same records in the same run.

The measure is user and system time of the server's processes over the queries that dnsperf saw
answered: a load generator on the same cores cannot blur it. Rounds are interleaved, the median of
the rounds is told, and the spread beside it; and the median of aodns over the best of the others in the
same round, with the quartiles of the rounds.

Usage: bench/answering.py [--seconds 4] [--rounds 3] [--markdown FILE]
Needs: cargo, and Debian's packages knot, nsd, dnsperf; a server that is missing is left out, loudly.
"""
from __future__ import annotations

import argparse
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = "music.example.com"
FIRST = 17_955_718_000
TICKS = os.sysconf("SC_CLK_TCK")
HERE = Path(__file__).resolve().parent.parent

# Name of the row, what is asked, how dnsperf asks.
ROWS = (
    ("UDP sequence", "sequence", ["-e"]),
    ("UDP seq_<n>, 2.2 kB", "seq", ["-e"]),
    ("UDP truncated", "seq", []),
    ("TCP, connections reused", "seq", ["-m", "tcp", "-c", "10"]),
    ("TCP, one query each", "seq", ["-m", "tcp", "-c", "10", "-O", "num-queries-per-conn=1"]),
)


def free_port() -> int:
    with socket.socket() as tcp:
        tcp.bind(("127.0.0.1", 0))
        return tcp.getsockname()[1]


def find(program: str) -> str | None:
    return shutil.which(program, path=os.environ["PATH"] + ":/usr/sbin:/sbin:/usr/local/sbin")


class Server:
    """A running server: its processes are the child and all that it forked."""

    def __init__(self, name: str, command: list[str], port: int, stdin: int | None = None) -> None:
        self.name, self.port = name, port
        self.child = subprocess.Popen(command, stdin=stdin, stdout=subprocess.DEVNULL,
                                      stderr=subprocess.DEVNULL, start_new_session=True)

    def processes(self) -> list[int]:
        """Ids of all processes of its session."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
                except OSError:
                    continue
                if int(fields[3]) == self.child.pid:
                    found.append(int(entry.name))
        return found

    def cpu(self) -> float:
        """Seconds of user and system time so far."""
        total = 0
        for pid in self.processes():
            fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            total += int(fields[11]) + int(fields[12])
        return total / TICKS

    def memory(self) -> int:
        """Resident kB, shared pages counted once a process."""
        total = 0
        for pid in self.processes():
            match = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
            total += int(match[1]) if match else 0
        return total

    def wait_ready(self) -> None:
        query = b"\x00\x01\x00\x00\x00\x01" + bytes(6) + b"".join(
            bytes([len(label)]) + label.encode() for label in ROOT.split(".")) + b"\0\0\x06\0\x01"
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
            udp.settimeout(0.2)
            udp.connect(("127.0.0.1", self.port))
            for _ in range(100):
                try:
                    udp.send(query)
                    if udp.recv(512)[3] & 15 == 0:
                        return
                except OSError:
                    time.sleep(0.05)
        sys.exit(f"{self.name} does not answer")

    def stop(self) -> None:
        self.child.terminate()
        self.child.wait(10)


def start_aodns(directory: Path) -> Server:
    port = free_port()
    program = HERE / "target/release/examples/fixed_zone"
    server = Server("aodns", [str(program), str(port), str(directory / "zone")], port,
                    stdin=subprocess.PIPE)
    server.wait_ready()
    return server


def start_knot(directory: Path) -> Server | None:
    program = find("knotd")
    if program is None:
        return None
    port, place = free_port(), directory / "knot"
    place.mkdir()
    (place / "knot.conf").write_text(f"""
server:
    listen: 127.0.0.1@{port}
    rundir: {place}
    udp-max-payload: 4096
    tcp-max-clients: 1000
database:
    storage: {place}
log:
  - target: stderr
    any: error
template:
  - id: default
    storage: {place}
    journal-content: none
    zonefile-load: whole
zone:
  - domain: {ROOT}
    file: {directory / "zone"}
""")
    server = Server("Knot", [program, "-c", str(place / "knot.conf")], port)
    server.wait_ready()
    return server


def start_nsd(directory: Path) -> Server | None:
    program = find("nsd")
    if program is None:
        return None
    port, place = free_port(), directory / "nsd"
    place.mkdir()
    (place / "nsd.conf").write_text(f"""
server:
    ip-address: 127.0.0.1@{port}
    username: ""
    chroot: ""
    pidfile: ""
    zonesdir: "{place}"
    database: ""
    zonelistfile: "{place}/zone.list"
    xfrdfile: "{place}/xfrd.state"
    xfrdir: "{place}"
    server-count: {os.cpu_count()}
    tcp-count: 1000
    ipv4-edns-size: 4096
    rrl-ratelimit: 0
remote-control:
    control-enable: no
zone:
    name: {ROOT}
    zonefile: {directory / "zone"}
""")
    server = Server("NSD", [program, "-d", "-c", str(place / "nsd.conf")], port)
    server.wait_ready()
    return server


def prepare(*what: str) -> None:
    """Sees that dnsperf is there, and builds what is measured."""
    if find("dnsperf") is None:
        sys.exit("dnsperf is not installed (Debian package dnsperf)")
    subprocess.run(["cargo", "build", "-q", "--release", "--locked", *what], cwd=HERE, check=True)


def measure(server: Server, data: Path, options: list[str], seconds: float) -> tuple[float, float]:
    """CPU microseconds a query, and queries a second."""
    before = server.cpu()
    run = subprocess.run(
        ["dnsperf", "-s", "127.0.0.1", "-p", str(server.port), "-d", str(data), "-l", str(seconds),
         "-t", "2", "-q", "100", *options],
        capture_output=True, text=True, check=False)
    used = server.cpu() - before
    completed = re.search(r"Queries completed:\s+(\d+)", run.stdout)
    rate = re.search(r"Queries per second:\s+([\d.]+)", run.stdout)
    if completed is None or rate is None or int(completed[1]) == 0:
        sys.exit(f"dnsperf against {server.name} failed: {run.stdout[-500:]}{run.stderr[-500:]}")
    return used / int(completed[1]) * 1e6, float(rate[1])


def of_rounds(ours: list[tuple[float, float]], best: list[tuple[float, float]]) -> str:
    """Median and quartiles of the ratios of costs that were measured one after the other."""
    ratios = sorted(a / b for (a, _), (b, _) in zip(ours, best, strict=True))
    at = [ratios[round(part * (len(ratios) - 1))] for part in (0.25, 0.75)]
    return f"{statistics.median(ratios):.2f} ({at[0]:.2f} to {at[1]:.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--markdown", type=Path)
    arguments = parser.parse_args()
    prepare("--example", "fixed_zone")
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        (directory / "sequence").write_text(f"sequence.{ROOT} TXT\n")
        (directory / "seq").write_text(
            "".join(f"seq_{FIRST + n}.{ROOT} TXT\n" for n in range(75)))
        servers = [start_aodns(directory)]
        for start in (start_knot, start_nsd):
            server = start(directory)
            if server is None:
                print(f"LEFT OUT: {start.__name__[6:]} is not installed", file=sys.stderr)
            else:
                servers.append(server)
        try:
            results: dict[tuple[str, str], list[tuple[float, float]]] = {}
            for round_ in range(arguments.rounds):
                for row, data, options in ROWS:
                    for server in servers[round_ % len(servers):] + servers[:round_ % len(servers)]:
                        result = measure(server, directory / data, options, arguments.seconds)
                        results.setdefault((row, server.name), []).append(result)
            lines = ["| CPU microseconds a query (spread; queries a second) | "
                     + " | ".join(server.name for server in servers) + " | aodns / best, by rounds |",
                     "|---|" + "---|" * (len(servers) + 1)]
            for row, _, _ in ROWS:
                medians, cells = {}, []
                for server in servers:
                    costs = [cost for cost, _ in results[row, server.name]]
                    rate = statistics.median(rate for _, rate in results[row, server.name])
                    medians[server.name] = statistics.median(costs)
                    cells.append(f"{medians[server.name]:.1f} ({min(costs):.1f} to {max(costs):.1f}; "
                                 f"{rate / 1000:.0f} k)")
                ratio = "-"
                if len(medians) > 1:
                    best = min((name for name in medians if name != "aodns"), key=medians.get)
                    ratio = of_rounds(results[row, "aodns"], results[row, best]) + f" {best}"
                lines.append(f"| {row} | " + " | ".join(cells) + f" | {ratio} |")
            lines.append("| resident memory, kB | "
                         + " | ".join(str(server.memory()) for server in servers) + " | |")
            table = "\n".join(lines)
            print(table)
            if arguments.markdown:
                arguments.markdown.write_text(table + "\n")
        finally:
            for server in servers:
                server.stop()


if __name__ == "__main__":
    main()
