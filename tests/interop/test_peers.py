#!/usr/bin/env python3
"""Tests of the peers' behaviour on the wire, over loopback only."""
from __future__ import annotations

import itertools
import json
import tempfile
import threading
import time
import unittest
from pathlib import Path
from typing import Any, Callable

import base91
import dns.exception
import dns.flags
import dns.message
import dns.query
import dns.rcode
import numpy as np
import opuslib
from dnslib import QTYPE, RCODE, RR, TXT, A, DNSRecord
from dnslib.server import DNSHandler, DNSLogger, DNSServer

import base_layer
import testsignal
from base_server import split_frames
from processes import HOST, ROOT, base_client, base_server, free_port

RATE = 8000
Answer = Callable[[DNSRecord, str], DNSRecord]  # of a request and its protocol


class ServerTest(unittest.TestCase):
    """base_server.py with the loudest noise at the widest form: packets that need the cap."""

    port: int

    @classmethod
    def setUpClass(cls) -> None:
        directory = tempfile.TemporaryDirectory()
        cls.addClassCleanup(directory.cleanup)
        noise = np.random.default_rng(1).integers(-32768, 32768, (2, 48000 * 10))
        path = str(Path(directory.name, "noise.wav"))
        testsignal.write_wav(path, noise, 48000)
        server = base_server("--rate", 48000, "--channels", 2, "--input", path, "--loop",
                             "--speed", 20, "--first-number", 2**63, "--max-sequences", 200,
                             "--max-frames-per-segment", 7)
        cls.port = server.__enter__()
        cls.addClassCleanup(server.__exit__, None, None, None)
        deadline = time.monotonic() + 20
        while not cls.ask("sequence").answer:
            if time.monotonic() > deadline:
                raise TimeoutError("nothing was published")
            time.sleep(0.1)

    @classmethod
    def ask(cls, label: str, kind: str = "TXT", over: Callable[..., Any] = dns.query.udp,
            **options: Any) -> dns.message.Message:
        query = dns.message.make_query(f"{label}.{ROOT}", kind, **options)
        query.id = 0x1234  # not one that the server takes for white space
        return over(query, HOST, 2, cls.port)

    def test_packets_are_capped(self) -> None:
        numbers = base_layer.decode_list(self.ask("sequence").answer[0][0].strings[0])
        self.assertGreaterEqual(numbers[0], 2**63)
        answer = self.ask(f"seq_{numbers[-1]}").answer[0]
        strings = [record.strings for record in answer]
        self.assertLessEqual(len(strings), 7)
        self.assertTrue(all(len(s) == 1 and len(s[0]) <= 250 for s in strings))
        self.assertEqual(base_layer.decode_segment([s[0] for s in strings])[1], [])

    def test_unknown_names_are_no_data(self) -> None:
        for label in ("config", "now_a1", "seq_0", "Sequence", "nothing"):
            for over in (dns.query.udp, dns.query.tcp):
                response = self.ask(label, over=over)
                self.assertEqual(response.rcode(), dns.rcode.NOERROR)
                self.assertEqual(response.answer, [])
                soa = response.authority[0]
                self.assertEqual((str(soa.name), soa.ttl, soa[0].minimum), (ROOT + ".", 60, 3600))

    def test_never_truncates_and_has_no_edns(self) -> None:
        number = base_layer.decode_list(self.ask("sequence").answer[0][0].strings[0])[-1]
        over_udp = self.ask(f"seq_{number}", use_edns=0, payload=512)
        over_tcp = self.ask(f"seq_{number}", over=dns.query.tcp)
        self.assertEqual(over_udp.edns, -1)
        self.assertFalse(over_udp.flags & dns.flags.TC)
        self.assertGreater(len(over_udp.to_wire()), 512)
        self.assertEqual(over_udp.answer, over_tcp.answer)

    def test_white_space_id_is_never_answered(self) -> None:
        query = dns.message.make_query(f"sequence.{ROOT}", "TXT")
        query.id = 0x0A00
        with self.assertRaises(dns.exception.Timeout):
            dns.query.udp(query, HOST, 0.3, self.port)

    def test_wrong_input_is_told(self) -> None:
        with tempfile.TemporaryDirectory() as directory:
            path = str(Path(directory, "mono.wav"))
            testsignal.write_wav(path, np.zeros((1, 8000)), 8000)
            with self.assertRaisesRegex(RuntimeError, "8000 Hz, 1 channels.*needs 16000 Hz"), \
                    base_server("--input", path):
                pass

    def test_loop_has_no_seam(self) -> None:
        self.assertEqual(list(split_frames(b"abcde", 2, loop=False)), [b"ab", b"cd"])
        self.assertEqual(list(itertools.islice(split_frames(b"abcde", 2, loop=True), 5)),
                         [b"ab", b"cd", b"ea", b"bc", b"de"])


class Script:
    """A name server whose answers a test sets by label; keeps when it was asked what."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer] = {}
        self.asked: list[tuple[float, str, str]] = []  # time, label, protocol
        self.requests: list[DNSRecord] = []
        self._lock = threading.Lock()

    def resolve(self, request: DNSRecord, handler: DNSHandler) -> DNSRecord:
        label = str(request.q.qname).partition(".")[0]
        with self._lock:
            self.asked.append((time.monotonic(), label, handler.protocol))
            self.requests.append(request)
        answer = self.answers.get(label)
        return answer(request, handler.protocol) if answer else request.reply()


def text(*records: tuple[str, ...]) -> Answer:
    """An answer of TXT records, each of some strings."""
    def answer(request: DNSRecord, _protocol: str) -> DNSRecord:
        reply = request.reply()
        for strings in records:
            reply.add_answer(RR(request.q.qname, QTYPE.TXT, ttl=5, rdata=TXT(list(strings))))
        return reply
    return answer


def rcode(name: str) -> Answer:
    """An answer that is only an rcode."""
    def answer(request: DNSRecord, _protocol: str) -> DNSRecord:
        reply = request.reply()
        reply.header.rcode = getattr(RCODE, name)
        return reply
    return answer


class ClientTest(unittest.TestCase):
    """base_client.py against scripted answers."""

    def setUp(self) -> None:
        self.directory = tempfile.TemporaryDirectory()
        self.addCleanup(self.directory.cleanup)
        self.script = Script()
        self.port = free_port()
        for tcp in (False, True):
            server = DNSServer(self.script, HOST, self.port, tcp=tcp, handler=DNSHandler,
                               logger=DNSLogger("-request,-reply,-truncated,-error"))
            server.start_thread()
            self.addCleanup(server.server.server_close)
            self.addCleanup(server.stop)
        encoder = opuslib.Encoder(RATE, 1, opuslib.APPLICATION_VOIP)
        sound = testsignal.generate(RATE, 1, 0.24)
        self.strings = [base_layer.encode_string(i, encoder.encode(part.tobytes(), len(part)))
                        for i, part in enumerate(np.split(sound[0], 4))]
        self.publish(7, 9)
        self.script.answers["seq_7"] = text(*((s, "second string") for s in self.strings[::-1]))
        self.script.answers["seq_9"] = text(*((s,) for s in self.strings))

    def publish(self, *numbers: int) -> None:
        self.script.answers["sequence"] = text((base_layer.encode_list(list(numbers)),))

    def listen(self, duration: float = 0.7) -> tuple[int, str, dict[str, Any]]:
        """Exit status, standard error and report."""
        report = Path(self.directory.name, "report.json")
        client = base_client(self.port, "--rate", RATE, "--duration", duration, "--report", report,
                             "--output", Path(self.directory.name, "out.wav"))
        return client.returncode, client.stderr, json.loads(report.read_text(encoding="utf-8"))

    def labels(self) -> list[str]:
        return [label for _, label, _ in self.script.asked]

    def test_plays_in_order_and_once(self) -> None:
        status, _, report = self.listen(4.7)
        self.assertEqual(status, 0)
        self.assertEqual(self.labels(), ["sequence", "seq_7", "seq_9", "sequence"])
        times = [when for when, label, _ in self.script.asked if label == "sequence"]
        self.assertGreaterEqual(times[1] - times[0], 3.9)
        self.assertEqual((report["played"], report["first"], report["last"]), (2, 7, 9))
        self.assertEqual((report["missing"], report["errors"]), ([8], []))
        self.assertEqual((report["samples"], report["seconds"]), (8 * 480, 0.48))
        self.assertTrue(all(not request.ar for request in self.script.requests), "EDNS was sent")

    def test_ends_on_rcodes(self) -> None:
        for name in ("NXDOMAIN", "SERVFAIL", "REFUSED", "FORMERR"):
            for label in ("sequence", "seq_7"):
                with self.subTest(name, label=label):
                    self.publish(7)
                    self.script.answers[label] = rcode(name)
                    status, errors, report = self.listen()
                    self.assertEqual(status, 3)
                    self.assertIn(f"{label}.{ROOT}: {name}", errors)
                    self.assertEqual(report["played"], 0)

    def test_ends_on_a_second_rrset(self) -> None:
        def answer(request: DNSRecord, protocol: str) -> DNSRecord:
            reply = text(("1",))(request, protocol)
            reply.add_answer(RR(request.q.qname, QTYPE.A, ttl=5, rdata=A("127.0.0.1")))
            return reply

        self.script.answers["sequence"] = answer
        status, errors, _ = self.listen()
        self.assertEqual(status, 4)
        self.assertIn("not one TXT RRset", errors)

    def test_survives_no_data(self) -> None:
        del self.script.answers["seq_7"]
        status, _, report = self.listen()
        self.assertEqual((status, report["no_data"], report["first"]), (0, 1, 9))

    def test_truncated_goes_over_tcp(self) -> None:
        whole = self.script.answers["seq_7"]

        def answer(request: DNSRecord, protocol: str) -> DNSRecord:
            reply = whole(request, protocol)
            return reply if protocol == "tcp" else reply.truncate()

        self.script.answers["seq_7"] = answer
        status, _, report = self.listen()
        self.assertEqual((status, report["truncated"], report["played"]), (0, 1, 2))

    def test_retries_every_250_ms_up_to_ten_times(self) -> None:
        def late(request: DNSRecord, _protocol: str) -> DNSRecord:
            time.sleep(0.2)
            return request.reply()

        self.script.answers["seq_7"] = late
        status, _, report = self.listen(3.5)
        times = [when for when, label, _ in self.script.asked if label == "seq_7"]
        self.assertEqual(len(times), 11)
        self.assertAlmostEqual(times[-1] - times[0], 2.5, delta=0.2)
        self.assertEqual((status, report["no_answer"], report["first"]), (0, 1, 9))
        self.assertGreaterEqual(report["retries"], 10)

    def test_counts_damage(self) -> None:
        good, other = self.strings[0], self.strings[2]
        self.script.answers["seq_7"] = text((good,), (other,))
        self.script.answers["seq_9"] = text((good,), ("nothing",), ("001'''\\",))
        status, _, report = self.listen()
        self.assertEqual((status, len(report["errors"])), (0, 3))
        self.script.answers["sequence"] = text((base91.encode(b"not zlib"),))
        status, _, report = self.listen()
        self.assertEqual((status, report["played"], len(report["errors"])), (0, 0, 1))


if __name__ == "__main__":
    unittest.main()
