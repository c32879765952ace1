#!/usr/bin/env python3
"""Server of the base layer alone, modelled on the existing Python system (protocol, section 1).

It follows that system also where the protocol asks for better, because a listener will meet it:

- names are compared with case; an unknown name is NOERROR with no answer and a SOA (minimum 3600 s,
  TTL 60 s), so `config` and `now_<nonce>` are; a name outside the root has not even the SOA;
- TC is never set and EDNS ignored: over UDP an answer is as long as it is (up to 4 kB);
- a request is stripped of white space as if it were text, so the 6 in 256 whose ID begins with a
  white-space octet are never answered;
- a segment closes by size alone, and is gone with its number from the list;
- the TTL of `seq_<n>` is halved for mono and quartered for stereo (section 1.3 tells why).

It does not follow its crashes: packets are capped to fit a string, the list is cut to fit one too.
"""
from __future__ import annotations

import argparse
import json
import signal
import sys
import time
import wave
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import opuslib
import opuslib.api.encoder
from dnslib import CLASS, QTYPE, RR, SOA, TXT, DNSRecord
from dnslib.server import DNSHandler, DNSLogger, DNSServer

import base_layer

STOP_SIGNALS = {signal.SIGTERM, signal.SIGINT}
SOA_TTL = 60  # seconds
SOA_TIMES = (201307231, 3600, 10800, 86400, 3600)  # serial, refresh, retry, expire, minimum
MAX_PACKETS = 1000  # a fourth digit in the index would not be in the packet size limit


@dataclass(frozen=True)
class Segment:
    """What is published under one sequence number."""

    number: int
    strings: tuple[str, ...]
    ttl: int  # seconds


def segment_ttl(packets: int, rate: int, channels: int, max_segments: int) -> int:
    """Seconds, as the modelled server has them: its divisor is octets per second, not samples."""
    duration = base_layer.frame_samples(rate) * packets / (rate * channels * 2)
    return int(duration * max_segments * 0.8)


class Segmenter:
    """Gathers packets into segments (protocol, section 1.3)."""

    def __init__(self, max_text: int, max_packets: int) -> None:
        self._max_text = max_text
        self._max_packets = max_packets
        self._start()

    def _start(self) -> None:
        self._strings: list[str] = []
        self._text_octets = 0

    def add(self, packet: bytes) -> tuple[str, ...] | None:
        """Takes one packet; returns the strings of the segment that this closes, if it does."""
        closed = None
        string = base_layer.encode_string(len(self._strings), packet)
        if self._strings and self._text_octets + len(string) > self._max_text:
            closed = tuple(self._strings)
            self._start()
            string = base_layer.encode_string(0, packet)
        self._strings.append(string)
        self._text_octets += len(string.partition(base_layer.MARK)[2])
        if len(self._strings) == self._max_packets:
            closed = tuple(self._strings)
            self._start()
        return closed


class Zone:
    """The published names, as a resolver for dnslib."""

    def __init__(self, root: str, max_segments: int) -> None:
        self.root = root.rstrip(".") + "."
        self._window: deque[Segment] = deque(maxlen=max_segments)
        self._records: dict[str, tuple[int, tuple[str, ...]]] = {}

    def publish(self, segment: Segment) -> None:
        """Adds the newest segment and drops the oldest one of a full window."""
        self._window.append(segment)
        records = {f"seq_{s.number}.{self.root}": (s.ttl, s.strings) for s in self._window}
        numbers = base_layer.encode_list([s.number for s in self._window])
        records[f"sequence.{self.root}"] = (base_layer.LIST_TTL, (numbers,))
        self._records = records  # readers in other threads see the old or the new, never a mix

    def resolve(self, request: DNSRecord, _handler: DNSHandler | None) -> DNSRecord:
        """The response to one request (the interface of dnslib's resolvers)."""
        reply = request.reply()
        name = str(request.q.qname)
        soa = RR(self.root, QTYPE.SOA, CLASS.IN, SOA_TTL, SOA(".", ".", SOA_TIMES))
        if request.q.qtype == QTYPE.TXT:
            ttl, strings = self._records.get(name, (0, ()))
            for text in strings:
                reply.add_answer(RR(name, QTYPE.TXT, CLASS.IN, ttl, TXT(text)))
        elif request.q.qtype == QTYPE.SOA and name == self.root:
            reply.add_answer(soa)
        if name == self.root or name.endswith("." + self.root):
            reply.add_auth(soa)
        return reply


class StrippingHandler(DNSHandler):
    """Takes binary requests for text, as the modelled server does."""

    def get_reply(self, data: bytes) -> bytes:
        return super().get_reply(data.strip() if self.protocol == "udp" else data.rstrip())


def read_wav(path: str, rate: int, channels: int) -> bytes:
    """The samples of a WAV file, which must have the stream's form and at least one frame."""
    with wave.open(path, "rb") as wav:
        found = (wav.getframerate(), wav.getnchannels(), 8 * wav.getsampwidth())
        if found != (rate, channels, 16):
            raise ValueError(f"{path}: {found[0]} Hz, {found[1]} channels, {found[2]} bits; "
                             f"the stream needs {rate} Hz, {channels} channels, 16 bits")
        if wav.getnframes() < base_layer.frame_samples(rate):
            raise ValueError(f"{path}: shorter than one frame of {base_layer.FRAME_MS} ms")
        return wav.readframes(wav.getnframes())


def split_frames(pcm: bytes, size: int, loop: bool) -> Iterator[bytes]:
    """Frames of `size` octets; in a loop without a seam, else without the last incomplete one."""
    position = 0
    while loop or position + size <= len(pcm):
        frame = pcm[position:position + size]
        position += size
        if len(frame) < size:
            position = size - len(frame)
            frame += pcm[:position]
        yield frame


def block_stop_signals() -> None:
    """Keeps the signals that end the program waiting; threads started from now on inherit it.

    A handler that sets a threading.Event hangs if it comes while its own thread, waiting for the
    event, holds the event's lock.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)


def stopped_within(seconds: float) -> bool:
    """Waits `seconds` at most; whether the program was told to end."""
    return signal.sigtimedwait(STOP_SIGNALS, max(0.0, seconds)) is not None


def run_stream(args: argparse.Namespace, pcm: bytes, zone: Zone) -> bool:
    """Encodes and publishes in real time until the input ends (False) or the program is told to (True)."""
    samples = base_layer.frame_samples(args.rate)
    encoder = opuslib.Encoder(args.rate, args.channels, opuslib.APPLICATION_VOIP)
    max_packet = base_layer.max_packet_octets(args.max_data_per_feed)
    segmenter = Segmenter(args.max_bytes_per_record, args.max_frames_per_segment or MAX_PACKETS)
    number = args.first_number
    first_frame = 0  # of the next segment, counted from the start of the input
    start = time.monotonic()
    for count, frame in enumerate(split_frames(pcm, samples * args.channels * 2, args.loop), 1):
        deadline = start + count * base_layer.FRAME_MS / 1000 / args.speed
        if stopped_within(deadline - time.monotonic()):
            return True
        # opuslib.Encoder.encode has no limit on the packet.
        packet = opuslib.api.encoder.encode(encoder.encoder_state, frame, samples, max_packet)
        strings = segmenter.add(packet)
        if strings is None:
            continue
        ttl = segment_ttl(len(strings), args.rate, args.channels, args.max_sequences)
        segment = Segment(number, strings, ttl)
        zone.publish(segment)
        if args.verbose_json:
            print(json.dumps({"number": number, "packets": len(strings), "first_frame": first_frame,
                              "octets": sum(map(len, strings)), "ttl": segment.ttl,
                              "elapsed": round(time.monotonic() - start, 3)}), flush=True)
        number += 1
        first_frame += len(strings)
    return False


def in_range(low: int, high: int) -> Callable[[str], int]:
    """An argparse type: an integer from `low` to `high`."""
    def parse(text: str) -> int:
        value = int(text)
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{value} is not in {low}..{high}")
        return value
    return parse


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Server of the base layer of audio over DNS.")
    parser.add_argument("root", help="domain of the stream")
    parser.add_argument("--port", type=in_range(1, 65535), required=True, help="UDP and TCP")
    parser.add_argument("--listen", default="127.0.0.1", metavar="ADDRESS")
    parser.add_argument("--rate", type=int, choices=base_layer.SAMPLE_RATES, default=16000)
    parser.add_argument("--channels", type=int, choices=(1, 2), default=1)
    parser.add_argument("--max-sequences", type=in_range(1, 100_000), default=75,
                        help="segments on offer")
    parser.add_argument("--max-data-per-feed", type=in_range(64, base_layer.MAX_STRING), default=250,
                        help="octets of a TXT string, prefix included")
    parser.add_argument("--max-bytes-per-record", type=in_range(64, 40_000), default=2000,
                        help="octets of text in a segment")
    parser.add_argument("--max-frames-per-segment", type=in_range(0, MAX_PACKETS), default=0,
                        help="packets in a segment; 0: by size alone")
    parser.add_argument("--input", required=True, metavar="WAV",
                        help="16-bit PCM at the stream's rate and channels")
    parser.add_argument("--loop", action="store_true", help="repeat the input for ever")
    parser.add_argument("--first-number", type=in_range(0, 2**64 - 1), default=0)
    parser.add_argument("--speed", type=float, default=1.0, help="times real time")
    parser.add_argument("--verbose-json", action="store_true",
                        help="print one line for each published segment")
    args = parser.parse_args()
    if args.speed <= 0:
        parser.error("--speed must be positive")
    return args


def main() -> int:
    args = parse_arguments()
    block_stop_signals()
    zone = Zone(args.root, args.max_sequences)
    try:
        pcm = read_wav(args.input, args.rate, args.channels)
        servers = [DNSServer(zone, args.listen, args.port, tcp=tcp, handler=StrippingHandler,
                             logger=DNSLogger("error", logf=lambda line: print(line, file=sys.stderr)))
                   for tcp in (False, True)]
    except (OSError, EOFError, ValueError, wave.Error) as error:
        print(f"base_server: {error}", file=sys.stderr)
        return 1
    for server in servers:
        server.start_thread()
    print("ready", flush=True)
    if not run_stream(args, pcm, zone):
        signal.sigwait(STOP_SIGNALS)
    for server in servers:
        server.stop()
        server.server.server_close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
