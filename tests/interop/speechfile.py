#!/usr/bin/env python3
"""Makes a file of speech over music as 48 kHz stereo WAV, and beside it what 16 kHz mono makes of it.

The speech is espeak-ng's, the music that of the test signal. Usage: speechfile.py IN.wav REF.wav SECONDS
"""
from __future__ import annotations

import io
import shutil
import subprocess
import sys
import wave
from pathlib import Path

import numpy as np

import testsignal

RATE = 48_000
REFERENCE_RATE = 16_000
HERE = Path(__file__).resolve().parent


def resample(signal: np.ndarray, rate: int, target: int) -> np.ndarray:
    """Band-limited conversion of a whole signal through its spectrum."""
    length = len(signal) * target // rate
    spectrum = np.fft.rfft(signal)
    bins = length // 2 + 1
    fitted = np.zeros(bins, dtype=complex)
    fitted[:min(bins, len(spectrum))] = spectrum[:bins]
    return np.fft.irfft(fitted, length) * (length / len(signal))


def speech(seconds: float) -> np.ndarray:
    """Speech at RATE, the project's own documents read aloud as often as it takes."""
    text = (HERE.parent.parent / "docs" / "protocol.md").read_text(encoding="utf-8")
    program = shutil.which("espeak-ng")
    if program is None:
        sys.exit("espeak-ng is not installed (Debian package espeak-ng)")
    # About 14 characters a second.
    spoken = text[:int(seconds * 20)]
    result = subprocess.run([program, "--stdin", "--stdout", "-v", "en"], input=spoken.encode(),
                            capture_output=True, check=True)
    with wave.open(io.BytesIO(result.stdout)) as wav:
        rate = wav.getframerate()
        pcm = np.frombuffer(wav.readframes(1 << 30), "<i2").astype(float) / 32768
    voice = resample(pcm, rate, RATE)
    return np.resize(voice, int(seconds * RATE))


def main() -> int:
    source, reference, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])
    music = testsignal.generate(RATE, 2, seconds, seed=7).astype(float) / 32768
    mixed = 0.35 * music + 0.5 * speech(seconds)
    mixed *= 0.7 / np.abs(mixed).max()
    testsignal.write_wav(source, np.round(mixed * 32767).astype(np.int16), RATE)
    mono = resample(mixed.mean(axis=0), RATE, REFERENCE_RATE)
    testsignal.write_wav(reference, np.round(mono * 32767).astype(np.int16)[None], REFERENCE_RATE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
