"""Text forms of the base layer: what is inside the TXT strings (protocol, sections 1.1 to 1.4)."""
from __future__ import annotations

import re
import string
import zlib
from collections.abc import Iterable

import base91

FRAME_MS = 60
SAMPLE_RATES = (8000, 12000, 16000, 24000, 48000)
MARK = "'''"
LIST_TTL = 10  # seconds
MAX_STRING = 255  # octets of one character-string (RFC 1035, 3.3)
ALPHABET = frozenset(string.ascii_letters + string.digits + "!#$%&()*+,./:;<=>?@[]^_`{|}~\"")

_STRING = re.compile(r"([0-9]{3,})'''(.+)", re.DOTALL)
_LIST = re.compile(r"(0|[1-9][0-9]*)(,(0|[1-9][0-9]*))*")


class DamagedText(ValueError):
    """A text that the protocol does not allow."""


def frame_samples(rate: int) -> int:
    """Samples per channel in one packet."""
    return rate * FRAME_MS // 1000


def max_packet_octets(max_string: int) -> int:
    """The longest packet whose string, prefix included, surely fits `max_string` octets.

    basE91 of n octets has at most ceil(16 n / 13) characters.
    """
    return (max_string - len("000" + MARK)) * 13 // 16


def encode_string(index: int, packet: bytes) -> str:
    """The TXT string of the packet at `index` of its segment."""
    return f"{index:03d}{MARK}{base91.encode(packet)}"


def decode_text(text: str) -> bytes:
    """basE91, strictly: the base91 package by itself skips what is outside the alphabet."""
    if not ALPHABET.issuperset(text):
        raise DamagedText(f"outside the basE91 alphabet: {text!r}")
    return bytes(base91.decode(text))


def decode_segment(strings: Iterable[bytes]) -> tuple[list[bytes], list[str]]:
    """The packets of a segment in index order, and a line for each fault found."""
    texts: dict[int, str] = {}
    faults: list[str] = []
    for raw in strings:
        match = _STRING.fullmatch(raw.decode("latin-1"))
        if match is None:
            faults.append(f"no index and text: {raw!r}")
            continue
        index, text = int(match[1]), match[2]
        if texts.setdefault(index, text) != text:
            faults.append(f"two texts with index {index}")
    faults += [f"no text with index {i}" for i in range(max(texts, default=0)) if i not in texts]

    packets = []
    for _, text in sorted(texts.items()):
        try:
            packets.append(decode_text(text))
        except DamagedText as error:
            faults.append(str(error))
    return packets, faults


def encode_list(numbers: list[int]) -> str:
    """The text of `sequence`; the oldest numbers are left out until it fits one string."""
    for oldest in range(len(numbers)):
        joined = ",".join(map(str, numbers[oldest:]))
        text = base91.encode(zlib.compress(joined.encode(), 9))
        if len(text) <= MAX_STRING:
            return text
    raise ValueError("no numbers to list")


def decode_list(raw: bytes) -> list[int]:
    """The numbers in the text of `sequence`, oldest first."""
    try:
        joined = zlib.decompress(decode_text(raw.decode("latin-1"))).decode("latin-1")
    except zlib.error as error:
        raise DamagedText(f"sequence list: {error}") from error
    if _LIST.fullmatch(joined) is None:
        raise DamagedText(f"sequence list: {joined!r}")
    numbers = [int(number) for number in joined.split(",")]
    if any(a >= b for a, b in zip(numbers, numbers[1:])):
        raise DamagedText(f"sequence list does not ascend: {joined!r}")
    return numbers
