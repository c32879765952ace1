#!/usr/bin/env python3
"""A test signal like speech over music: the same for the same seed, and alike nowhere to itself."""
from __future__ import annotations

import argparse
import sys
import wave

import numpy as np

PAUSE_EVERY = 7.0  # seconds
PAUSE = 0.3  # seconds of digital silence


def _add(track: np.ndarray, start: int, sound: np.ndarray) -> None:
    end = min(start + len(sound), len(track))
    track[start:end] += sound[:end - start]


def _glide(rng: np.random.Generator, f0: float, seconds: float, rate: int) -> np.ndarray:
    """Phase in radians of a tone that glides from `f0` to a random frequency within a fifth."""
    t = np.arange(int(seconds * rate)) / rate
    slope = f0 * (rng.uniform(0.67, 1.5) - 1) / seconds
    return 2 * np.pi * (f0 * t + slope * t**2 / 2)


def _syllable(rng: np.random.Generator, seconds: float, rate: int) -> np.ndarray:
    """A gliding voice with two formants and a consonant of noise before it."""
    f0 = rng.uniform(90, 220)
    phase = _glide(rng, f0, seconds, rate)
    formants = rng.uniform((250, 900), (800, 2600))
    voice = np.zeros_like(phase)
    for harmonic in range(1, int(min(3400, 0.42 * rate) / (1.5 * f0))):
        distance = np.min(np.abs(harmonic * f0 - formants))
        voice += np.exp(-distance / 200) * np.sin(harmonic * phase + rng.uniform(0, 2 * np.pi))
    voice *= np.sin(np.pi * np.arange(len(voice)) / len(voice)) ** 0.5
    noise = rng.standard_normal(int(0.03 * rate)) * rng.uniform(0.05, 0.3)
    return np.concatenate((noise, voice))


def _note(rng: np.random.Generator, seconds: float, rate: int) -> np.ndarray:
    """Three gliding tones that die away."""
    chord = sum(np.sin(_glide(rng, rng.uniform(200, 2000), seconds, rate)) for _ in range(3))
    return chord * np.exp(-3 * np.arange(len(chord)) / len(chord))


def generate(rate: int, channels: int, seconds: float, seed: int = 1) -> np.ndarray:
    """16-bit samples, one row per channel; the channels differ by their mix."""
    rng = np.random.default_rng(seed)
    total = int(seconds * rate)
    voice, music = np.zeros(total), np.zeros(total)
    for track, sound, shortest, longest in ((voice, _syllable, 0.12, 0.3), (music, _note, 0.15, 0.4)):
        start = 0
        while start < total:
            length = rng.uniform(shortest, longest)
            _add(track, start, sound(rng, length, rate))
            start += int(length * rate)
    mixes = ((1.0, 0.25), (0.5, 0.5))[:channels]
    signal = np.stack([v * voice + m * music for v, m in mixes])
    for pause in np.arange(PAUSE_EVERY, seconds, PAUSE_EVERY):
        signal[:, int(pause * rate):int((pause + PAUSE) * rate)] = 0
    return np.round(signal * (24_000 / np.abs(signal).max())).astype(np.int16)


def write_wav(path: str, samples: np.ndarray, rate: int) -> None:
    """Writes 16-bit samples, one row per channel."""
    with wave.open(path, "wb") as wav:
        wav.setparams((len(samples), 2, rate, 0, "NONE", "not compressed"))
        wav.writeframes(samples.T.astype("<i2").tobytes())


def main() -> int:
    parser = argparse.ArgumentParser(description="Writes the test signal to a WAV file.")
    parser.add_argument("output", metavar="WAV")
    parser.add_argument("--rate", type=int, default=16000)
    parser.add_argument("--channels", type=int, choices=(1, 2), default=1)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    write_wav(args.output, generate(args.rate, args.channels, args.seconds, args.seed), args.rate)
    return 0


if __name__ == "__main__":
    sys.exit(main())
