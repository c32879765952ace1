#!/usr/bin/env python3
"""Checks the Python code of the base layer against every vector in ../vectors."""
from __future__ import annotations

import json
import unittest
import zlib
from pathlib import Path
from typing import Any

import base91
import dns.flags
import dns.message
import dns.rdatatype
import opuslib
from dnslib import DNSRecord

import base_layer
import base_server

VECTORS = Path(__file__).resolve().parent.parent / "vectors"


def load(name: str) -> list[dict[str, Any]]:
    return json.loads((VECTORS / name).read_text(encoding="utf-8"))


def stream_form(exchange: dict[str, Any]) -> tuple[int, int]:
    """Sample rate and channels, from a setting like '16000 Hz, 1 channel, 60 ms frames, ...'."""
    words = exchange["setting"].split()
    return int(words[0]), int(words[2])


class TextTest(unittest.TestCase):
    def test_base91(self) -> None:
        for vector in load("base91.json"):
            with self.subTest(vector["hex"]):
                self.assertEqual(base91.encode(bytes.fromhex(vector["hex"])), vector["text"])
                self.assertEqual(base_layer.decode_text(vector["text"]).hex(), vector["hex"])

    def test_base91_alphabet(self) -> None:
        self.assertEqual(len(base_layer.ALPHABET), 91)
        for character in "'-\\ \n\x00\xff":
            with self.assertRaises(base_layer.DamagedText):
                base_layer.decode_text("AB" + character)

    def test_longest_packet_fits(self) -> None:
        for limit in range(64, base_layer.MAX_STRING + 1):
            octets = base_layer.max_packet_octets(limit)
            for value in (0, 0xFF, 0x58):
                self.assertLessEqual(
                    len(base_layer.encode_string(999, bytes([value]) * octets)), limit)

    def test_sequence(self) -> None:
        for vector in load("sequence.json"):
            with self.subTest(vector["list"]):
                packed = bytes.fromhex(vector["zlib_hex"])
                self.assertEqual(base_layer.decode_text(vector["text"]), packed)
                self.assertEqual(zlib.decompress(packed).decode(),
                                 ",".join(map(str, vector["list"])))
                self.assertEqual(base_layer.decode_list(vector["text"].encode()), vector["list"])
                self.assertEqual(len(vector["text"]) <= base_layer.MAX_STRING,
                                 vector["fits_one_string"])

    def test_sequence_is_cut_to_fit(self) -> None:
        for vector in load("sequence.json"):
            text = base_layer.encode_list(vector["list"])
            self.assertLessEqual(len(text), base_layer.MAX_STRING)
            listed = base_layer.decode_list(text.encode())
            self.assertEqual(listed, vector["list"][-len(listed):])
            if vector["fits_one_string"]:
                self.assertEqual(listed, vector["list"])

    def test_damaged_sequence(self) -> None:
        def text(joined: str) -> bytes:
            return base91.encode(zlib.compress(joined.encode())).encode()

        whole = text("1,2,3")
        for raw in (b"", whole[:-2], b"A" + whole, b"'" + whole, text(""), text("1,,2"), text("01,2"),
                    text("1 ,2"), text("2,1"), text("1,1"), text("-1,2")):
            with self.subTest(raw), self.assertRaises(base_layer.DamagedText):
                base_layer.decode_list(raw)

    def test_damaged_segment(self) -> None:
        good = [b"000'''nB", b"001'''kpA"]
        self.assertEqual(base_layer.decode_segment(good[::-1]), ([b"\x82", b"\xb7\x0e"], []))
        for extra in (b"nB", b"02'''nB", b"002''nB", b"002'''", b"x02'''nB", b"002'''n-B",
                      b"002'''n\xffB", b"000'''kpA", b"003'''nB"):
            with self.subTest(extra):
                packets, faults = base_layer.decode_segment([*good, extra])
                self.assertEqual(packets[:2], [b"\x82", b"\xb7\x0e"])
                self.assertEqual(len(faults), 1)


class ResponseTest(unittest.TestCase):
    exchanges: list[dict[str, Any]]

    @classmethod
    def setUpClass(cls) -> None:
        cls.exchanges = load("responses.json")

    def test_decoded_fields(self) -> None:
        for exchange in self.exchanges:
            with self.subTest(exchange["qname"]):
                decoded = exchange["decoded"]
                wire = bytes.fromhex(exchange["response_hex"])
                self.assertEqual(len(wire), decoded["response_bytes"])
                response = dns.message.from_wire(wire, one_rr_per_rrset=True)
                request = dns.message.from_wire(bytes.fromhex(exchange["request_hex"]))
                self.assertTrue(request.is_response(response))
                self.assertEqual(response.id, decoded["id"])
                self.assertEqual(response.rcode(), decoded["flags"]["rcode"])
                for flag in ("qr", "aa", "tc", "rd", "ra"):
                    is_set = bool(response.flags & dns.flags.from_text(flag.upper()))
                    self.assertEqual(is_set, bool(decoded["flags"][flag]), flag)
                counts = [len(section) for section in response.sections]
                self.assertEqual(counts, [decoded["counts"][s] for s in ("qd", "an", "ns", "ar")])
                for section, expected in ((response.answer[:1], decoded["answers"]),
                                          (response.authority, decoded["authority"])):
                    self.assertEqual(
                        [(str(r.name), dns.rdatatype.to_text(r.rdtype), r.ttl) for r in section],
                        [(r["name"], r["type"], r["ttl"]) for r in expected])
                self.assertEqual([str(r[0]) for r in response.authority],
                                 [r["rdata"] for r in decoded["authority"]])

    def test_lists(self) -> None:
        lists = [e for e in self.exchanges if "list" in e["decoded"]]
        self.assertEqual(len(lists), 4)
        for exchange in lists:
            strings = self.strings(exchange)
            self.assertEqual(strings, [exchange["decoded"]["text"].encode()])
            self.assertEqual(base_layer.decode_text(strings[0].decode()).hex(),
                             exchange["decoded"]["zlib_hex"])
            self.assertEqual(base_layer.decode_list(strings[0]), exchange["decoded"]["list"])

    def test_segments(self) -> None:
        segments = [e for e in self.exchanges if "frames" in e["decoded"]]
        self.assertEqual(len(segments), 14)
        for exchange in segments:
            with self.subTest(exchange["setting"], name=exchange["qname"]):
                rate, channels = stream_form(exchange)
                decoded = exchange["decoded"]
                strings = self.strings(exchange)
                packets, faults = base_layer.decode_segment(strings)
                self.assertEqual(faults, [])
                self.assertEqual([[i, strings[i].decode()[6:], p.hex()]
                                  for i, p in enumerate(packets)], decoded["frames"])
                self.assertEqual([base_layer.encode_string(i, p).encode()
                                  for i, p in enumerate(packets)], strings)
                self.assertEqual(decoded["samples_per_channel_per_packet"],
                                 base_layer.frame_samples(rate))
                decoder = opuslib.Decoder(rate, channels)
                for packet in packets:
                    pcm = decoder.decode(packet, rate * 120 // 1000)
                    self.assertEqual(len(pcm), 2 * channels * base_layer.frame_samples(rate))

    def test_segments_close_by_size(self) -> None:
        """The consecutive segments of 16 kHz mono, cut again by the server's own rule."""
        segments = [self.strings(e) for e in self.exchanges
                    if e["setting"].startswith("16000 Hz, 1 ")
                    and "frames" in e["decoded"] and not e.get("note")]
        self.assertEqual(len(segments), 5)
        segmenter = base_server.Segmenter(2000, base_server.MAX_PACKETS)
        closed = [segmenter.add(packet) for strings in segments
                  for packet in base_layer.decode_segment(strings)[0]]
        self.assertEqual([[s.encode() for s in strings] for strings in closed if strings],
                         segments[:-1])

    def test_server_gives_the_same_octets(self) -> None:
        """Every exchange asked again of the server here."""
        for exchange in self.exchanges:
            with self.subTest(exchange["setting"], name=exchange["qname"]):
                zone = base_server.Zone("music.example.com", 75)
                for segment in self.on_offer(exchange):
                    zone.publish(segment)
                request = DNSRecord.parse(bytes.fromhex(exchange["request_hex"]))
                self.assertEqual(zone.resolve(request, None).pack().hex(), exchange["response_hex"])

    def on_offer(self, exchange: dict[str, Any]) -> list[base_server.Segment]:
        """The segments that the answer of an exchange tells of, without strings if it has none."""
        decoded = exchange["decoded"]
        if "frames" in decoded:
            number = int(exchange["qname"].partition(".")[0][len("seq_"):])
            strings = tuple(s.decode() for s in self.strings(exchange))
            ttl = base_server.segment_ttl(len(strings), *stream_form(exchange), 75)
            return [base_server.Segment(number, strings, ttl)]
        return [base_server.Segment(number, (), 0) for number in decoded.get("list", ())]

    @staticmethod
    def strings(exchange: dict[str, Any]) -> list[bytes]:
        """The one string of each TXT record in the answer."""
        response = dns.message.from_wire(bytes.fromhex(exchange["response_hex"]))
        records = list(response.answer[0])
        assert all(len(record.strings) == 1 for record in records)
        return [record.strings[0] for record in records]


if __name__ == "__main__":
    unittest.main()
