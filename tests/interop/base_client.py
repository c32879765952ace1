#!/usr/bin/env python3
"""Listener of the base layer alone, modelled on the existing Python system (protocol, section 1.6).

It is as unforgiving as that system: no EDNS, only the first string of a TXT record, exactly one RRset
in the answer section, one socket per attempt (so a late answer is lost), and the end at the first
rcode other than NOERROR. It writes what it decodes to a WAV file as fast as it is published.

Exit status: 0 the duration has passed; 3 an rcode ended it; 4 an unusable message ended it.
"""
from __future__ import annotations

import argparse
import json
import sys
import time
import wave
from dataclasses import asdict, dataclass, field

import dns.exception
import dns.message
import dns.query
import dns.rcode
import dns.rdatatype
import opuslib

import base_layer

ATTEMPT_TIMEOUT = 0.1  # seconds
ATTEMPT_INTERVAL = 0.25  # seconds from one start to the next
MAX_RETRIES = 10
LIST_LIFETIME = 4.0  # seconds
MAX_PACKET_MS = 120  # of audio (RFC 6716, 2.1.4)


class GaveUp(Exception):
    """An rcode on which this listener ends."""


class Unusable(Exception):
    """A message on which this listener ends."""


class NoAnswer(Exception):
    """All attempts of a lookup went unanswered."""


@dataclass
class Report:
    """What was played and what it took."""

    played: int = 0  # segments
    first: int | None = None
    last: int | None = None
    missing: list[int] = field(default_factory=list)  # numbers between first and last
    lookups: int = 0
    retries: int = 0
    truncated: int = 0  # UDP answers with TC, asked again over TCP
    no_data: int = 0
    no_answer: int = 0
    errors: list[str] = field(default_factory=list)
    samples: int = 0  # decoded, per channel
    seconds: float = 0.0  # of audio


class Stub:
    """A stub resolver for TXT that asks one server."""

    def __init__(self, server: str, port: int, report: Report) -> None:
        self._server = server
        self._port = port
        self._report = report

    def lookup(self, name: str) -> list[bytes]:
        """The first string of each TXT record at `name`; empty for NODATA."""
        self._report.lookups += 1
        for attempt in range(1 + MAX_RETRIES):
            self._report.retries += attempt > 0
            next_start = time.monotonic() + ATTEMPT_INTERVAL
            try:
                return self._first_strings(name, self._exchange(name))
            except (dns.exception.Timeout, OSError):
                time.sleep(max(0.0, next_start - time.monotonic()))
            except dns.exception.DNSException as error:
                raise Unusable(f"{name}: {type(error).__name__}: {error}") from error
        raise NoAnswer(name)

    def _exchange(self, name: str) -> dns.message.Message:
        query = dns.message.make_query(name, "TXT", use_edns=False)
        try:
            return dns.query.udp(query, self._server, ATTEMPT_TIMEOUT, self._port,
                                 raise_on_truncation=True)
        except dns.message.Truncated:
            self._report.truncated += 1
            return dns.query.tcp(query, self._server, ATTEMPT_TIMEOUT, self._port)

    @staticmethod
    def _first_strings(name: str, response: dns.message.Message) -> list[bytes]:
        if response.rcode() != dns.rcode.NOERROR:
            raise GaveUp(f"{name}: {dns.rcode.to_text(response.rcode())}")
        if not response.answer:
            return []
        if len(response.answer) > 1 or response.answer[0].rdtype != dns.rdatatype.TXT:
            raise Unusable(f"{name}: not one TXT RRset in the answer section: {response.answer}")
        return [record.strings[0] for record in response.answer[0]]


class Listener:
    """Follows a stream and appends it to a WAV file."""

    def __init__(self, root: str, stub: Stub, wav: wave.Wave_write, report: Report) -> None:
        self._root = root
        self._stub = stub
        self._wav = wav
        self._report = report
        self._max_samples = wav.getframerate() * MAX_PACKET_MS // 1000
        self._decoder = opuslib.Decoder(wav.getframerate(), wav.getnchannels())

    def run(self, duration: float) -> None:
        """Listens for `duration` seconds."""
        deadline = time.monotonic() + duration
        while time.monotonic() < deadline:
            expires = time.monotonic() + LIST_LIFETIME
            for number in self._list():
                if self._report.last is not None and number <= self._report.last:
                    continue
                if time.monotonic() >= deadline:
                    return
                self._play(number)
            time.sleep(max(0.0, min(expires, deadline) - time.monotonic()))

    def _list(self) -> list[int]:
        """The numbers on offer, oldest first; none if there was no usable answer."""
        strings = self._lookup("sequence")
        if not strings:
            return []
        try:
            return base_layer.decode_list(strings[0])
        except base_layer.DamagedText as error:
            self._report.errors.append(str(error))
            return []

    def _lookup(self, label: str) -> list[bytes]:
        try:
            strings = self._stub.lookup(f"{label}.{self._root}")
        except NoAnswer:
            self._report.no_answer += 1
            return []
        self._report.no_data += not strings
        return strings

    def _play(self, number: int) -> None:
        strings = self._lookup(f"seq_{number}")
        report = self._report
        if not strings:
            return
        if report.last is None:
            report.first = number
        else:
            report.missing.extend(range(report.last + 1, number))
        report.last = number
        report.played += 1
        packets, faults = base_layer.decode_segment(strings)
        report.errors += [f"seq_{number}: {fault}" for fault in faults]
        for packet in packets:
            try:
                pcm = self._decoder.decode(packet, self._max_samples)
            except opuslib.OpusError as error:
                report.errors.append(f"seq_{number}: {error}")
                continue
            self._wav.writeframes(pcm)
            report.samples += len(pcm) // (2 * self._wav.getnchannels())


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Listener of the base layer of audio over DNS.")
    parser.add_argument("root", help="domain of the stream")
    parser.add_argument("server", help="address of the name server or resolver")
    parser.add_argument("--dns-port", type=int, default=53)
    parser.add_argument("--rate", type=int, choices=base_layer.SAMPLE_RATES, default=16000)
    parser.add_argument("--channels", type=int, choices=(1, 2), default=1)
    parser.add_argument("--output", required=True, metavar="WAV")
    parser.add_argument("--duration", type=float, required=True, metavar="SECONDS")
    parser.add_argument("--report", metavar="JSON", help="write the counters to this file")
    return parser.parse_args()


def main() -> int:
    args = parse_arguments()
    report = Report()
    status = 0
    with wave.open(args.output, "wb") as wav:
        wav.setparams((args.channels, 2, args.rate, 0, "NONE", "not compressed"))
        stub = Stub(args.server, args.dns_port, report)
        try:
            Listener(args.root, stub, wav, report).run(args.duration)
        except (GaveUp, Unusable) as error:
            print(f"base_client: {error}", file=sys.stderr)
            status = 3 if isinstance(error, GaveUp) else 4
    report.seconds = report.samples / args.rate
    if args.report:
        with open(args.report, "w", encoding="utf-8") as file:
            json.dump(asdict(report), file, indent=1)
            file.write("\n")
    return status


if __name__ == "__main__":
    sys.exit(main())
