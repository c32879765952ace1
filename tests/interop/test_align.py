#!/usr/bin/env python3
"""Unit tests of align.py: it must see one 60 ms frame lost, repeated or silenced. Needs only numpy."""
from __future__ import annotations

import contextlib
import io
import tempfile
import unittest
from pathlib import Path
from unittest import mock

import numpy as np

import align
import testsignal

RATE = 8000
FRAME = RATE * 60 // 1000
DELAY = 52  # samples: 6.5 ms, what Opus delays by
START = 3 * RATE  # of the recording in the reference
PLACES = [int(t * RATE) for t in (0.5, 1.0, 1.73, 2.5, 5.2, 6.05)]  # in the recording


def like_a_codec(signal: np.ndarray) -> np.ndarray:
    """Low-passed, with noise 8 dB below the signal of each 20 ms: worse than Opus at 16 kbit/s."""
    noise = np.random.default_rng(7).standard_normal(len(signal))
    size = RATE // 50
    power = np.convolve(signal**2, np.ones(size) / size, "same")
    low = np.convolve(signal, [0.25, 0.5, 0.25], "same")
    return low + noise * np.sqrt(power) * 10 ** (-8 / 20)


class AlignTest(unittest.TestCase):
    reference: np.ndarray
    recording: np.ndarray

    @classmethod
    def setUpClass(cls) -> None:
        samples = testsignal.generate(RATE, 2, 15)
        cls.reference = samples.mean(axis=0) / 32768
        coded = like_a_codec(cls.reference)
        cls.recording = coded[START - DELAY:START - DELAY + 8 * RATE]

    def align(self, recording: np.ndarray) -> align.Alignment:
        return align.align(self.reference, recording, RATE)

    def assert_one_fault(self, recording: np.ndarray, kind: str, place: int, size: float) -> None:
        result = self.align(recording)
        self.assertFalse(result.continuous)
        self.assertEqual([fault.kind for fault in result.faults], [kind])
        self.assertAlmostEqual(result.faults[0].size, size, delta=25 if kind == "dropout" else 2)
        self.assertAlmostEqual(result.faults[0].position, place / RATE, delta=0.1)

    def test_continuous(self) -> None:
        result = self.align(self.recording)
        self.assertTrue(result.continuous, list(align.describe(result)))
        for window in result.found:
            self.assertAlmostEqual(window.lag, (START - DELAY) / RATE, delta=0.0005)
        self.assertGreater(result.correlation, 0.8)

    def test_begins_before_the_reference(self) -> None:
        result = self.align(np.concatenate((np.zeros(DELAY), self.reference[:3 * RATE])))
        self.assertTrue(result.continuous)
        self.assertEqual({round(window.lag * RATE) for window in result.found}, {-DELAY})

    def test_frame_lost(self) -> None:
        for place in PLACES:
            with self.subTest(place=place):
                cut = np.delete(self.recording, slice(place, place + FRAME))
                self.assert_one_fault(cut, "loss", place, 60)

    def test_frame_repeated(self) -> None:
        for place in PLACES:
            with self.subTest(place=place):
                frame = self.recording[place - FRAME:place]
                self.assert_one_fault(np.insert(self.recording, place, frame), "repeat", place, 60)

    def test_frame_silenced(self) -> None:
        for place in PLACES:
            with self.subTest(place=place):
                silenced = self.recording.copy()
                silenced[place:place + FRAME] = 0
                self.assert_one_fault(silenced, "dropout", place, 60)

    def test_frame_replaced_by_the_one_before(self) -> None:
        for place in PLACES:
            with self.subTest(place=place):
                concealed = self.recording.copy()
                concealed[place:place + FRAME] = concealed[place - FRAME:place]
                self.assertFalse(self.align(concealed).continuous)

    def test_long_loss(self) -> None:
        cut = np.delete(self.recording, slice(PLACES[0], PLACES[0] + 3 * RATE))
        self.assert_one_fault(cut, "loss", PLACES[0], 3000)

    def test_every_fault_is_counted(self) -> None:
        frames = [self.recording[i:i + FRAME] for i in range(0, len(self.recording), FRAME)]
        del frames[20]
        frames.insert(60, frames[60])
        frames[90] = np.zeros(FRAME)
        result = self.align(np.concatenate(frames))
        self.assertEqual([fault.kind for fault in result.faults], ["loss", "repeat", "dropout"])
        self.assertAlmostEqual(result.total("loss"), 60, delta=2)

    def test_silence_around_and_within_is_ignored(self) -> None:
        silence = np.zeros(int(0.73 * RATE))
        self.assertTrue(self.align(np.concatenate((silence, self.recording, silence))).continuous)
        self.assertFalse(self.align(silence).continuous)

    def test_foreign_sound_is_unmatched(self) -> None:
        foreign = testsignal.generate(RATE, 1, 2, seed=99)[0] / 32768
        result = self.align(np.concatenate((self.recording, foreign)))
        self.assertGreater(len(result.unmatched), 10)
        self.assertFalse(self.align(foreign).continuous)

    def stretched(self, recording: np.ndarray, ppm: float) -> np.ndarray:
        """Played slower, first by nothing and then by more and more up to `ppm`."""
        steps = np.linspace(1, 1 - 2 * ppm / 1e6, len(recording))
        places = np.concatenate(([0.0], np.cumsum(steps)))[:len(recording)]
        return np.interp(places, np.arange(len(recording)), recording)

    def test_a_slow_stretch_is_no_fault(self) -> None:
        for ppm in (300, 950, -950):
            with self.subTest(ppm=ppm):
                result = self.align(self.stretched(self.recording, ppm))
                self.assertTrue(result.continuous, list(align.describe(result)))
                self.assertAlmostEqual(result.stretch, -ppm * 8e-3, delta=abs(ppm) * 1e-3 + 1)

    def test_a_stretch_is_taken_out_to_the_sample(self) -> None:
        # Bursts: the sound of a window lies anywhere in it, and so does the place its lag is of.
        rate, burst = 16000, 1200
        reference = testsignal.generate(rate, 1, 14, seed=4)[0] / 32768
        loud = np.random.default_rng(0).uniform(-1, 1, len(reference) // burst + 1) > 0
        edges = np.convolve(np.repeat(loud, burst)[:len(reference)], np.ones(160) / 160, "same")
        reference *= edges + 0.02
        recording = reference[2 * rate:11 * rate]
        for ppm in (950, -950):
            with self.subTest(ppm=ppm):
                result = align.align(reference, self.stretched(recording, ppm), rate)
                lags = np.array([window.lag for window in result.found]) * rate
                self.assertTrue(result.continuous, list(align.describe(result)))
                self.assertLess(np.abs(lags - np.median(lags)).max(), 1.5)

    def test_a_stretch_hides_neither_loss_nor_repeat_nor_dropout(self) -> None:
        place = PLACES[4]
        frame = self.recording[place - FRAME:place]
        silenced = self.recording.copy()
        silenced[place:place + FRAME] = 0
        for kind, recording in (("loss", np.delete(self.recording, slice(place, place + FRAME))),
                                ("repeat", np.insert(self.recording, place, frame)),
                                ("dropout", silenced)):
            with self.subTest(kind=kind):
                result = self.align(self.stretched(recording, 950))
                self.assertEqual([fault.kind for fault in result.faults], [kind])
                self.assertFalse(result.continuous)

    def test_max_lag(self) -> None:
        self.assertTrue(align.align(self.reference, self.recording, RATE, 3.5).continuous)
        self.assertFalse(align.align(self.reference, self.recording, RATE, 2.0).continuous)

    def test_shorter_than_a_window(self) -> None:
        self.assertFalse(self.align(np.zeros(10)).continuous)


class CommandTest(unittest.TestCase):
    def run_main(self, *arguments: str) -> int:
        with mock.patch("sys.argv", ["align.py", *arguments]), \
                contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            return align.main()

    def test_status_and_downmix(self) -> None:
        samples = testsignal.generate(RATE, 2, 4)
        with tempfile.TemporaryDirectory() as directory:
            paths = {name: str(Path(directory, name + ".wav"))
                     for name in ("stereo", "mono", "cut", "other")}
            mono = samples.mean(axis=0, keepdims=True)
            testsignal.write_wav(paths["stereo"], samples, RATE)
            testsignal.write_wav(paths["mono"], mono, RATE)
            testsignal.write_wav(paths["cut"], np.delete(mono, slice(9000, 9000 + FRAME), 1), RATE)
            testsignal.write_wav(paths["other"], mono, 16000)
            expect = "--expect-continuous"
            self.assertEqual(self.run_main(paths["stereo"], paths["mono"], expect), 0)
            self.assertEqual(self.run_main(paths["stereo"], paths["cut"], expect, "--json"), 1)
            self.assertEqual(self.run_main(paths["stereo"], paths["cut"]), 0)
            self.assertEqual(self.run_main(paths["stereo"], paths["other"], expect), 2)


if __name__ == "__main__":
    unittest.main()
