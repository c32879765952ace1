#!/usr/bin/env python3
"""Proves that a recording is one continuous stretch of a reference signal, or shows where it is not.

Windows of the recording are looked up in the reference by normalised cross-correlation of the band
that a low-rate speech codec keeps in shape. The lag of a window is its position in the reference
minus its position in the recording: constant over a continuous recording, larger after a loss,
smaller after a repeat. What keeps its place but not its content (silence, concealment) is found
by comparing short blocks at the lag found. Windows where the recording is silent are left out.

A player that follows another clock plays a little faster or slower. A lag that changes by no more
than MAX_STRETCH of the time is such a stretch and no fault: it is taken out, and told, before the
recording is judged. A loss or repeat is a step, and stays one.
"""
from __future__ import annotations

import argparse
import json
import sys
import wave
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace

import numpy as np

BAND = (300.0, 3000.0)  # Hz
WINDOW = 0.2  # seconds
HOP = 0.1  # seconds
NEAR = 1.0  # seconds around the lag so far that are searched first
MIN_CORRELATION = 0.45  # of a window; chance reaches 0.2
CHANGE_GAIN = 0.05  # by which another lag must be better than the one so far
KEEP_CORRELATION = 0.65  # at the lag so far, that is enough to stay with it
TOLERANCE = 0.003  # seconds between lags that count as one
BLOCK = 0.04  # seconds
BLOCK_HOP = 0.01  # seconds
MIN_BLOCKS = 2  # in a row that make a dropout
MIN_BLOCK_CORRELATION = 0.2
MIN_BLOCK_LEVEL = 0.1  # of the level expected
MAX_STRETCH = 0.002  # seconds of lag per second
MIN_STRETCH = 0.00025  # seconds; less is within what the judgement tolerates
MAX_TURNS = 4
STRETCH_WINDOWS = 21  # windows over which a lag must persist to count as a stretch
QUIET = 10 ** (-30 / 20)  # below the signal's own level: too quiet to judge


@dataclass(frozen=True)
class Window:
    """One window with sound, by its start in the recording."""

    start: float  # seconds
    lag: float  # seconds; 0 if the window was not found
    correlation: float
    centre: float  # seconds: where its energy lies, and so what its lag is the lag of


@dataclass(frozen=True)
class Fault:
    """A place where the recording is not the reference."""

    kind: str  # "loss" or "repeat": the lag changes; "dropout": place kept, content wrong
    position: float  # seconds in the recording
    size: float  # milliseconds


@dataclass(frozen=True)
class Alignment:
    """The outcome for a whole recording."""

    found: tuple[Window, ...]
    unmatched: tuple[Window, ...]  # sound that is nowhere in the reference
    faults: tuple[Fault, ...]
    correlation: float  # median over the windows found
    seconds: float  # of the recording
    stretch: float = 0.0  # milliseconds by which the recording was played slower or faster in all

    @property
    def continuous(self) -> bool:
        """Whether the recording is one stretch of the reference."""
        return bool(self.found) and not self.unmatched and not self.faults

    def total(self, kind: str) -> float:
        """Milliseconds of all faults of one kind."""
        return sum(f.size for f in self.faults if f.kind == kind)


def read_wav(path: str) -> tuple[np.ndarray, int]:
    """16-bit PCM mixed down to one channel, full scale 1.0, and its sample rate."""
    with wave.open(path, "rb") as wav:
        if wav.getsampwidth() != 2:
            raise ValueError(f"{path}: not 16-bit PCM")
        pcm = np.frombuffer(wav.readframes(wav.getnframes()), "<i2")
        return pcm.reshape(-1, wav.getnchannels()).mean(axis=1) / 32768, wav.getframerate()


def band_pass(signal: np.ndarray, rate: int) -> np.ndarray:
    """The signal within BAND, with zero phase and edges 100 Hz wide."""
    frequencies = np.fft.rfftfreq(len(signal), 1 / rate)
    low, high = BAND
    gain = np.clip((frequencies - low) / 100, 0, 1) * np.clip((high - frequencies) / 100, 0, 1)
    return np.fft.irfft(np.fft.rfft(signal) * gain, len(signal))


def correlate(window: np.ndarray, track: np.ndarray, floor: float) -> np.ndarray:
    """Normalised correlation of `window` with every stretch of `track` of its length.

    `floor` is an energy added to the norm, so that near silence does not correlate by chance.
    """
    size = 1 << (len(track) - 1).bit_length()
    spectrum = np.fft.rfft(track, size) * np.conj(np.fft.rfft(window, size))
    products = np.fft.irfft(spectrum, size)[:len(track) - len(window) + 1]
    sums = np.concatenate(([0.0], np.cumsum(track**2)))
    energies = np.maximum(sums[len(window):] - sums[:-len(window)], 0)
    return products / np.sqrt((np.dot(window, window) + floor) * (energies + floor))


def runs(flags: np.ndarray) -> Iterator[tuple[int, int]]:
    """Start and end of each run of true values."""
    edges = np.flatnonzero(np.diff(np.concatenate(([0], flags.astype(np.int8), [0]))))
    return zip(edges[::2].tolist(), edges[1::2].tolist())


class Aligner:
    """Aligns one recording with its reference; both are mono and of one sample rate."""

    def __init__(self, reference: np.ndarray, recording: np.ndarray, rate: int,
                 max_lag: float | None = None) -> None:
        self._rate = rate
        self._reference = band_pass(reference, rate)
        self._recording = band_pass(recording, rate)
        self._max_lag = (len(reference) + len(recording) if max_lag is None
                         else int(max_lag * rate))
        self._tolerance = round(TOLERANCE * rate)
        self._quiet_reference = QUIET * self._level(self._reference)
        self._quiet_recording = QUIET * self._level(self._recording)

    def align(self) -> Alignment:
        """Finds the lags, then the faults."""
        windows = self._windows()
        lags = [(start, lag) for start, lag, _ in windows if lag is not None]
        changes = self._changes(lags)
        faults = [Fault("loss" if size > 0 else "repeat", position / self._rate,
                        1000 * abs(size) / self._rate) for position, size in changes]
        faults += self._dropouts(lags, changes)
        found = tuple(self._window(*window) for window in windows if window[1] is not None)
        unmatched = tuple(self._window(*window) for window in windows if window[1] is None)
        return Alignment(found, unmatched,
                         tuple(sorted(faults, key=lambda fault: fault.position)),
                         float(np.median([w.correlation for w in found])) if found else 0.0,
                         len(self._recording) / self._rate)

    def _window(self, start: int, lag: int | None, score: float) -> Window:
        size = int(WINDOW * self._rate)
        power = self._recording[start:start + size]**2
        centre = start + float(np.dot(power, np.arange(size)) / power.sum())
        return Window(start / self._rate, (lag or 0) / self._rate, score, centre / self._rate)

    def _level(self, signal: np.ndarray) -> float:
        """Root mean square over the louder half of the blocks."""
        size = int(BLOCK * self._rate)
        blocks = signal[:len(signal) // size * size].reshape(-1, size)
        powers = np.sort((blocks**2).mean(axis=1))
        return float(np.sqrt(powers[len(powers) // 2:].mean())) if len(powers) else 0.0

    def _sounding(self, window: np.ndarray) -> bool:
        """Whether at least half of the window is not quiet."""
        quarters = np.array_split(window, 4)
        levels = [np.sqrt(np.mean(quarter**2)) for quarter in quarters]
        return sum(level > self._quiet_recording for level in levels) >= 2

    def _windows(self) -> list[tuple[int, int | None, float]]:
        """Start, lag and correlation of each window that is not silent, in samples."""
        size, hop = int(WINDOW * self._rate), int(HOP * self._rate)
        windows: list[tuple[int, int | None, float]] = []
        current: int | None = None
        for start in range(0, len(self._recording) - size + 1, hop):
            window = self._recording[start:start + size]
            if not self._sounding(window):
                continue
            lag, score = self._find(start, window, current)
            windows.append((start, lag, score))
            if lag is not None:
                current = lag
        return self._without_strays(windows)

    def _find(self, start: int, window: np.ndarray,
              current: int | None) -> tuple[int | None, float]:
        """The lag of one window: near the current one if it is there, else anywhere."""
        if current is not None:
            near = int(NEAR * self._rate)
            lag, score = self._best(start, window, max(-self._max_lag, current - near),
                                    min(self._max_lag, current + near), current)
            if score >= MIN_CORRELATION:
                return lag, score
        lag, score = self._best(start, window, -self._max_lag, self._max_lag, current)
        return (lag if score >= MIN_CORRELATION else None), score

    def _best(self, start: int, window: np.ndarray, low: int, high: int,
              current: int | None) -> tuple[int, float]:
        """The best lag within `low`..`high`; the current one if it is nearly as good."""
        size = len(window)
        first = max(-size, start + low)  # a window may begin before the reference does
        last = min(len(self._reference), start + high)
        if last < first:
            return low, 0.0
        track = self._at(first, last + size)
        scores = correlate(window, track, size * self._quiet_reference**2)
        best = int(np.argmax(scores))
        if current is not None:
            place = start + current - first
            around = max(0, place - self._tolerance)
            kept = scores[around:max(0, place + self._tolerance + 1)]
            if len(kept) and (kept.max() >= KEEP_CORRELATION
                              or kept.max() + CHANGE_GAIN >= scores[best]):
                best = around + int(np.argmax(kept))
        return first + best - start, float(scores[best])

    def _without_strays(
            self, windows: list[tuple[int, int | None, float]],
    ) -> list[tuple[int, int | None, float]]:
        """Drops the lag of a window that agrees with neither neighbour's.

        Beside a lag change such a window holds parts of two stretches and is left out altogether.
        """
        def agree(a: int | None, b: int | None) -> bool:
            return a is not None and b is not None and abs(a - b) <= self._tolerance

        lags = [lag for _, lag, _ in windows]
        kept = []
        for i, (start, lag, score) in enumerate(windows):
            before = lags[i - 1] if i else None
            after = lags[i + 1] if i + 1 < len(lags) else None
            if agree(before, lag) or agree(lag, after) or len(lags) == 1:
                kept.append((start, lag, score))
            elif before is None or after is None or agree(before, after):
                kept.append((start, None, score))
        return kept

    def _changes(self, lags: list[tuple[int, int]]) -> list[tuple[int, int]]:
        """Position in the recording and size of each jump of the lag, in samples."""
        size = int(WINDOW * self._rate)
        changes = []
        for (start, old), (next_start, new) in zip(lags, lags[1:]):
            if abs(new - old) <= self._tolerance:
                continue
            stop = next_start + size
            fit_old = self._products(start, stop, old)
            fit_new = self._products(start, stop, new)
            split = np.argmax(np.concatenate(([0.0], np.cumsum(fit_old - fit_new))))
            changes.append((start + int(split), new - old))
        return changes

    def _products(self, start: int, stop: int, lag: int) -> np.ndarray:
        return self._recording[start:stop] * self._at(start + lag, stop + lag)

    def _at(self, start: int, stop: int) -> np.ndarray:
        """A stretch of the reference, zero outside of it."""
        stretch = np.zeros(stop - start)
        low, high = max(0, start), min(len(self._reference), stop)
        if low < high:
            stretch[low - start:high - start] = self._reference[low:high]
        return stretch

    def _dropouts(self, lags: list[tuple[int, int]],
                  changes: list[tuple[int, int]]) -> list[Fault]:
        """Runs of blocks, away from lag changes, that are not what the reference has there."""
        if not lags:
            return []
        begin, end = lags[0][0], lags[-1][0] + int(WINDOW * self._rate)
        size, hop = int(BLOCK * self._rate), int(BLOCK_HOP * self._rate)
        starts = np.arange(begin, end - size + 1, hop)
        lag_at = np.array([lag for _, lag in lags])[
            np.maximum(np.searchsorted([start for start, _ in lags], starts, "right") - 1, 0)]
        bad = np.zeros(len(starts), dtype=bool)
        sounding = np.zeros(len(starts), dtype=bool)
        for i, (start, lag) in enumerate(zip(starts.tolist(), lag_at.tolist())):
            block = self._recording[start:start + size]
            expected = self._at(start + lag, start + lag + size)
            energy, expected_energy = np.dot(block, block), np.dot(expected, expected)
            level = np.sqrt(energy / size) / self._quiet_recording
            expected_level = np.sqrt(expected_energy / size) / self._quiet_reference
            sounding[i] = level > 1
            if expected_level > 1:
                product, norm = np.dot(block, expected), np.sqrt(energy * expected_energy)
                bad[i] = (product <= MIN_BLOCK_CORRELATION * norm
                          or level < MIN_BLOCK_LEVEL * expected_level)
        inside = np.flatnonzero(sounding)  # silence before and after the sound is no dropout
        bad[:inside.min(initial=len(bad))] = False
        bad[inside.max(initial=-1) + 1:] = False
        for position, _ in changes:
            bad &= np.abs(starts + size / 2 - position) > WINDOW * self._rate
        return [Fault("dropout", float(starts[a] / self._rate),
                      1000 * (BLOCK_HOP * (b - a - 1) + BLOCK))
                for a, b in runs(bad) if b - a >= MIN_BLOCKS]


def align(reference: np.ndarray, recording: np.ndarray, rate: int,
          max_lag: float | None = None) -> Alignment:
    """Aligns mono signals of one sample rate; lags are sought within `max_lag` seconds."""
    result = Aligner(reference, recording, rate, max_lag).align()
    straight, seconds, stretch = recording, result.seconds, 0.0
    # Each turn leaves less: the first finds its windows stretched, and so not quite in their place.
    for _ in range(MAX_TURNS):
        starts, slow = slow_lags(result)
        if len(starts) == 0 or np.abs(slow).max() < MIN_STRETCH:
            break
        # What was recorded at p belongs at p + slow(p).
        warped = np.arange(len(straight)) / rate
        warped += np.interp(warped, starts, slow)
        straight = np.interp(np.arange(0, warped[-1], 1 / rate), warped, straight)
        stretch += 1000 * float(slow[-1])
        result = Aligner(reference, straight, rate, max_lag).align()
    return replace(result, stretch=stretch, seconds=seconds)


def slow_lags(result: Alignment) -> tuple[np.ndarray, np.ndarray]:
    """Centres of the windows found, and how far a stretch has moved the lag by then; steps left out."""
    starts = np.array([window.centre for window in result.found])
    lags = np.array([window.lag for window in result.found])
    if len(starts) < STRETCH_WINDOWS:
        return starts[:0], lags[:0]
    smooth = np.array([_local_lag(starts, lags, i) for i in range(len(starts))])
    steps, times = np.diff(smooth), np.diff(starts)
    steps[np.abs(steps) > MAX_STRETCH * times + 0.0005] = 0
    return starts, np.concatenate(([0.0], np.cumsum(steps)))


def _local_lag(times: np.ndarray, lags: np.ndarray, i: int) -> float:
    """The lag at window `i` by the line through its neighbours, which strays and steps do not bend."""
    near = slice(max(0, i - STRETCH_WINDOWS // 2), i + STRETCH_WINDOWS // 2 + 1)
    time, lag = times[near], lags[near]
    slope = np.median((lag[3:] - lag[:-3]) / (time[3:] - time[:-3]))
    return float(np.median(lag - slope * (time - times[i])))


def align_files(reference: str, recording: str, max_lag: float | None = None) -> Alignment:
    """Aligns two WAV files of one sample rate."""
    expected, rate = read_wav(reference)
    recorded, recorded_rate = read_wav(recording)
    if rate != recorded_rate:
        raise ValueError(f"sample rates differ: {rate} Hz and {recorded_rate} Hz")
    return align(expected, recorded, rate, max_lag)


def describe(result: Alignment) -> Iterator[str]:
    """The outcome in lines for people."""
    found = result.found
    lags = f"lag {found[0].lag:.4f} s to {found[-1].lag:.4f} s, " if found else ""
    yield (f"{result.seconds:.2f} s: {len(found)} windows found, {lags}"
           f"median correlation {result.correlation:.3f}, {len(result.unmatched)} unmatched, "
           f"{len(result.faults)} faults, stretched by {result.stretch:.1f} ms")
    for fault in result.faults:
        yield f"{fault.position:9.3f} s  {fault.kind:8}{fault.size:8.1f} ms"
    for window in result.unmatched:
        yield f"{window.start:9.3f} s  unmatched (best correlation {window.correlation:.2f})"
    yield "continuous" if result.continuous else "NOT continuous"


def main() -> int:
    parser = argparse.ArgumentParser(description="Is a recording one stretch of a reference?")
    parser.add_argument("reference", metavar="REFERENCE.wav")
    parser.add_argument("recording", metavar="RECORDING.wav")
    parser.add_argument("--max-lag", type=float, metavar="SECONDS", help="limit of the search")
    parser.add_argument("--expect-continuous", action="store_true",
                        help="exit with 1 if the recording is not continuous")
    parser.add_argument("--json", action="store_true", help="print all as JSON")
    args = parser.parse_args()
    try:
        result = align_files(args.reference, args.recording, args.max_lag)
    except (OSError, EOFError, ValueError, wave.Error) as error:
        print(f"align: {error}", file=sys.stderr)
        return 2
    if args.json:
        print(json.dumps({"continuous": result.continuous, **asdict(result)}))
    else:
        print("\n".join(describe(result)))
    return 1 if args.expect_continuous and not result.continuous else 0


if __name__ == "__main__":
    sys.exit(main())
