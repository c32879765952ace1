#!/usr/bin/env python3
"""What a flood of TCP connections does to answers over UDP, timed by dnsperf.

500 connections that ask nothing, 200 that ask and never read, each opened again when it is cut off,
and connections that are reset, 10,000 or as many as the time allows, while dnsperf asks over UDP at
each of several rates. Quiet runs and floods take turns, and what is compared is the quantile over all
answers of the one and all of the other: a single quiet run of a shared machine says little about its
99th percentile. Told is also what the server holds before, at most, after.

The client that floods takes its share of the same cores, which one on another machine would not; with
--idle it takes what the others leave of them (SCHED_IDLE), and how many resets it gets to is told. How much
of the difference it makes is told by the controls: aodns is asked while another server is flooded, and Knot
DNS and NSD are flooded and asked as well.

Usage: bench/flood.py [--seconds 10] [--rates 2000,20000,50000,0] [--resets 1000] [--rounds 4]
                      [--alone] [--idle] [--markdown FILE]
--rates are questions a second, 0 for as many as dnsperf can ask.
--resets is a second; 0 for as many as one client can make. --alone leaves the controls out.
Needs: cargo, and Debian's packages dnsperf, knot, nsd; a control that is missing is left out, loudly.
"""
from __future__ import annotations

import argparse
import itertools
import json
import os
import re
import select
import socket
import struct
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from answering import (FIRST, HERE, ROOT, Server, free_port, prepare, start_aodns, start_knot,
                       start_nsd)

IDLE = 500
SLOW = 200
RESETS = 10_000
# A slow client tries anew after so long: longer than aodns bears with it.
SLOW_SECONDS = 3.0
# A server that refuses connections under the flood makes the client wait; it goes on for at most so
# long after the answers were timed.
AFTER_SECONDS = 10.0


# ---- the client that floods, in a process of its own ---------------------------------------------

class Flood:
    """Connections that are kept open, and those that are reset."""

    def __init__(self, port: int, name: str) -> None:
        question = b"\x12\x34\x00\x00\x00\x01" + bytes(6) + b"".join(
            bytes([len(label)]) + label.encode() for label in name.split(".")) + b"\0\0\x10\0\x01"
        self.query = struct.pack("!H", len(question)) + question
        self.port = port
        self.poll = select.epoll()
        self.open: dict[int, tuple[socket.socket, bool, float]] = {}
        self.counts = {"resets": 0, "failed": 0, "reopened": 0}

    def connect(self, slow: bool) -> None:
        """Opens a connection that is kept; a failure is counted."""
        connection = socket.socket()
        connection.settimeout(1)
        try:
            if slow:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.connect(("127.0.0.1", self.port))
            if slow:
                # As many questions as the system takes.
                connection.setblocking(False)
                connection.send(self.query * 500)
        except OSError:
            self.counts["failed"] += 1
            connection.close()
            return
        self.poll.register(connection, select.EPOLLRDHUP)
        self.open[connection.fileno()] = (connection, slow, time.monotonic())

    def close(self, number: int) -> bool:
        """Closes a connection; returns of which kind it was."""
        connection, slow, _ = self.open.pop(number)
        self.poll.unregister(connection)
        connection.close()
        return slow

    def reopen(self) -> None:
        """Opens anew what was cut off."""
        late = time.monotonic() - SLOW_SECONDS
        over = {number for number, _ in self.poll.poll(0)}
        over |= {number for number, (_, slow, since) in self.open.items() if slow and since < late}
        for number in over:
            self.connect(self.close(number))
            self.counts["reopened"] += 1
        for slow, wanted in ((False, IDLE), (True, SLOW)):
            for _ in range(wanted - sum(kind == slow for _, kind, _ in self.open.values())):
                self.connect(slow)

    def reset(self, round_: int) -> None:
        """Opens a connection, asks nothing, a part, five questions or one, and resets it."""
        with socket.socket() as connection:
            connection.settimeout(1)
            try:
                connection.connect(("127.0.0.1", self.port))
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                if round_ % 4 == 1:
                    connection.send(self.query[:round_ % len(self.query)])
                elif round_ % 4 == 2:
                    connection.send(self.query * 5)
                elif round_ % 4 == 3:
                    connection.send(self.query)
                    if not connection.recv(100):
                        raise OSError("no answer")
                self.counts["resets"] += 1
            except OSError:
                self.counts["failed"] += 1


def flood(port: int, name: str, rate: float) -> None:
    """Body of the process: floods from the line "go" to the end of its standard input."""
    this = Flood(port, name)
    this.reopen()
    this.counts["reopened"] = 0
    print(f"ready {len(this.open)}", flush=True)
    sys.stdin.readline()
    begun, looked, cpu = time.monotonic(), 0.0, time.process_time()
    ended = None
    for round_ in itertools.count():
        now = time.monotonic()
        if now - looked > 0.05:
            looked = now
            this.reopen()
            if ended is None and select.select([sys.stdin], [], [], 0)[0]:
                ended = now
            if ended is not None and (round_ >= RESETS or now > ended + AFTER_SECONDS):
                break
        ahead = begun + round_ / rate - now if rate else 0
        while ahead > 0:
            time.sleep(min(ahead, 0.05))
            this.reopen()
            ahead = begun + round_ / rate - time.monotonic()
        this.reset(round_)
    seconds = time.monotonic() - begun
    used = time.process_time() - cpu
    print(json.dumps({**this.counts, "seconds": seconds, "cpu": used}), flush=True)


# ---- measuring -----------------------------------------------------------------------------------

@dataclass
class Held:
    """What a server's processes hold."""
    descriptors: int = 0
    threads: int = 0
    memory: int = 0

    def most(self, other: Held) -> None:
        self.descriptors = max(self.descriptors, other.descriptors)
        self.threads = max(self.threads, other.threads)
        self.memory = max(self.memory, other.memory)


def held(server: Server) -> Held:
    def count(what: str) -> int:
        return sum(len(os.listdir(f"/proc/{pid}/{what}")) for pid in server.processes())
    return Held(count("fd"), count("task"), server.memory())


@dataclass
class Timed:
    """Answers of one run of dnsperf."""
    times: list[float]
    lost: int
    most: Held = field(default_factory=Held)
    flooded: dict[str, float] = field(default_factory=dict)

    def quantile(self, share: float) -> float:
        """Microseconds."""
        return self.times[min(int(len(self.times) * share), len(self.times) - 1)] * 1e6

    def add(self, other: Timed) -> None:
        """Takes over the answers of another run."""
        self.times = sorted(self.times + other.times)
        self.lost += other.lost
        self.most.most(other.most)
        for key, value in other.flooded.items():
            self.flooded[key] = self.flooded.get(key, 0) + value


def connections_cpu(server: Server) -> float:
    """Seconds of CPU of the thread that serves connections; of aodns alone."""
    tasks = [task for pid in server.processes() for task in Path(f"/proc/{pid}/task").iterdir()
             if (task / "comm").read_text().strip() == "tcp"]
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def ask(server: Server, directory: Path, seconds: float, rate: int) -> Timed:
    """Times answers over UDP, and looks at what the server holds meanwhile."""
    output, most = directory / "dnsperf", Held()
    with output.open("w") as file:
        run = subprocess.Popen(
            ["dnsperf", "-s", "127.0.0.1", "-p", str(server.port), "-d", str(directory / "sequence"),
             "-l", str(seconds), "-T", "1", "-c", "8", "-e", "-v",
             *(["-Q", str(rate)] if rate else [])], stdout=file)
        while run.poll() is None:
            most.most(held(server))
            time.sleep(1)
    text = output.read_text()
    lost = re.search(r"Queries lost:\s+(\d+)", text)
    if run.returncode != 0 or lost is None:
        sys.exit(f"dnsperf against {server.name} failed: {text[-500:]}")
    times = sorted(float(time) for time in re.findall(r"^> NOERROR .* ([\d.]+)$", text, re.M))
    return Timed(times, int(lost[1]), most)


def ask_flooded(server: Server, flooded: Server, name: str, directory: Path, rate: int,
                arguments: argparse.Namespace) -> Timed:
    """Times answers of `server` while `flooded` is flooded, and waits until the latter is rid of it."""
    before = held(flooded).descriptors
    client = subprocess.Popen(
        [*(["chrt", "--idle", "0"] if arguments.idle else []), sys.executable, __file__,
         "--flood", str(flooded.port), name, str(arguments.resets)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    ready = client.stdout.readline()
    if not ready.startswith("ready"):
        sys.exit("the flooding client failed")
    client.stdin.write("go\n")
    client.stdin.flush()
    time.sleep(0.2)
    used = connections_cpu(flooded)
    timed = ask(server, directory, arguments.seconds, rate)
    timed.most.most(held(server))
    used = connections_cpu(flooded) - used
    timed.flooded = {**json.loads(client.communicate()[0]), "thread": used}
    deadline = time.monotonic() + 30
    while flooded is server and server.name == "aodns" and held(flooded).descriptors != before:
        if time.monotonic() > deadline:
            sys.exit(f"{held(flooded).descriptors} descriptors, {before} before the flood: a leak")
        time.sleep(0.1)
    return timed


def start_serve() -> tuple[Server, str]:
    """The program as a user starts it, and the name of a segment of its stream."""
    port = free_port()
    program = HERE / "target/release/aodns"
    server = Server("aodns", [str(program), "serve", ROOT, "--input", "demo", "--listen",
                              f"127.0.0.1:{port}", "--ns", f"ns.{ROOT}=127.0.0.1"], port)
    server.wait_ready()
    time.sleep(3)
    query = b"\x00\x01\x00\x00\x00\x01" + bytes(6) + b"".join(
        bytes([len(label)]) + label.encode() for label in f"now_1.{ROOT}".split(".")) + b"\0\0\x10\0\x01"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.settimeout(5)
        udp.connect(("127.0.0.1", port))
        udp.send(query)
        number = re.search(rb"next=(\d+)", udp.recv(2048))
    return server, f"seq_{int(number[1]) - 1}.{ROOT}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--rates", type=lambda text: [int(rate) for rate in text.split(",")],
                        default=[2000, 20_000, 50_000, 0])
    parser.add_argument("--resets", type=float, default=1000)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--alone", action="store_true")
    parser.add_argument("--idle", action="store_true", help="flood with what the others leave of the cores")
    parser.add_argument("--markdown", type=Path)
    parser.add_argument("--flood", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.flood:
        port, name, rate = arguments.flood
        flood(int(port), name, float(rate))
        return
    prepare("--bin", "aodns", "--example", "fixed_zone")
    others: list[Server] = []
    lines = ["| asked over UDP | flooded | asked for, a second | p50, us | p99, us | p99 to quiet | p99.9, us "
             "| lost | resets, a second |", "|---|---|---|---|---|---|---|---|---|"]

    def tell(asked: str, flooded: str, rate: int, timed: Timed, quiet: Timed, keep: bool = True) -> None:
        counts = timed.flooded
        resets = f"{counts['resets']}, {counts['resets'] / counts['seconds']:.0f}" if counts else "-"
        line = (f"| {asked} | {flooded} | {rate or 'all it can'} | {timed.quantile(.5):.0f} | "
                f"{timed.quantile(.99):.0f} | {timed.quantile(.99) / quiet.quantile(.99):.2f} | "
                f"{timed.quantile(.999):.0f} | {timed.lost} of {len(timed.times)} | {resets} |")
        if keep:
            lines.append(line)
        note = f"; {counts['failed']} failed, {counts['reopened']} opened again, " \
               f"{counts['cpu']:.1f} s of the client's CPU in {counts['seconds']:.1f} s, " \
               f"{counts['thread']:.1f} s of the server's thread for connections" if counts else ""
        print(line, note, flush=True)

    def compare(asked: Server, flooded: Server, name: str, rate: int, rounds: int) -> Timed:
        """Quiet runs and floods in turn, each told; then all quiet ones and all floods. Returns the latter."""
        quiet, under = Timed([], 0), Timed([], 0)
        for _ in range(rounds):
            calm = ask(asked, directory, arguments.seconds, rate)
            tell(asked.name, "-", rate, calm, calm, keep=False)
            timed = ask_flooded(asked, flooded, name, directory, rate, arguments)
            tell(asked.name, flooded.name, rate, timed, calm, keep=False)
            quiet.add(calm)
            under.add(timed)
        print(f"all {rounds} together:")
        tell(asked.name, "-", rate, quiet, quiet)
        tell(asked.name, flooded.name, rate, under, quiet)
        return under

    print("\n".join(lines))
    with tempfile.TemporaryDirectory() as path:
        directory = Path(path)
        (directory / "sequence").write_text(f"sequence.{ROOT} TXT\n")
        server, name = start_serve()
        try:
            if not arguments.alone:
                # It writes the zone of the others.
                start_aodns(directory).stop()
                for start in (start_knot, start_nsd):
                    other = start(directory)
                    if other is None:
                        print(f"LEFT OUT: {start.__name__[6:]} is not installed", file=sys.stderr)
                    else:
                        others.append(other)
            first = arguments.rates[0]
            ask(server, directory, 1, first)
            before, most, after = held(server), Held(), []
            for rate in arguments.rates:
                most.most(compare(server, server, name, rate, arguments.rounds).most)
                after.append(held(server))
            time.sleep(2)
            after.append(held(server))
            for other, rate in itertools.product(others, arguments.rates):
                other_name = f"seq_{FIRST + 3}.{ROOT}"
                compare(server, other, other_name, rate, 2)
                compare(other, other, other_name, rate, 2)
        finally:
            for each in [server, *others]:
                each.stop()
    names = [f"after {(n + 1) * arguments.rounds} floods" for n in range(len(arguments.rates))]
    names.append("at the end")
    table = ["", "| aodns | " + " | ".join(["before", "at most", *names]) + " |",
             "|---|" + "---|" * (2 + len(names))]
    for what in ("descriptors", "threads", "memory"):
        row = [getattr(each, what) for each in [before, most, *after]]
        table.append(f"| {what}{', kB' if what == 'memory' else ''} | "
                     + " | ".join(map(str, row)) + " |")
    print("\n".join(table))
    if arguments.markdown:
        arguments.markdown.write_text("\n".join(lines + table) + "\n")


if __name__ == "__main__":
    main()
