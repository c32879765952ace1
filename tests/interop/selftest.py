#!/usr/bin/env python3
"""base_client.py listens to base_server.py at four stream forms; all sound must arrive, once.

The sound goes at SPEED times real time. The server's first packet must be in the recording, so the
lag is Opus's own delay of 6.5 ms (its lookahead) and nothing more.
"""
from __future__ import annotations

import json
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import align
import testsignal
from processes import base_client, base_server

FORMS = ((16000, 1), (8000, 1), (16000, 2), (8000, 2))  # sample rate, channels
SPEED = 4
LISTEN = 15.0  # seconds of wall clock
SOUND = 80.0  # seconds in the input: more than is played
LEAST = 30.0  # seconds that must be played
OPUS_DELAY = 0.0065  # seconds


@dataclass(frozen=True)
class Outcome:
    """One stream form: what the client reports, and how its recording aligns."""

    report: dict[str, Any]
    alignment: align.Alignment
    failures: list[str]


def run_form(form: tuple[int, int], directory: Path) -> Outcome:
    """One server, one client, and the comparison."""
    rate, channels = form
    reference, recording, report_path = (
        str(directory / f"{name}-{rate}-{channels}") for name in ("in.wav", "out.wav", "report.json"))
    testsignal.write_wav(reference, testsignal.generate(rate, channels, SOUND), rate)
    options = ("--rate", rate, "--channels", channels)
    with base_server(*options, "--input", reference, "--speed", SPEED) as port:
        client = base_client(port, *options, "--output", recording, "--duration", LISTEN,
                             "--report", report_path)
    report = json.loads(Path(report_path).read_text(encoding="utf-8"))
    alignment = align.align_files(reference, recording)
    checks = {
        f"client status {client.returncode}: {client.stderr}": client.returncode == 0,
        f"errors {report['errors']}": not report["errors"],
        f"missing numbers {report['missing']}": not report["missing"],
        f"first number {report['first']}": report["first"] == 0,
        f"only {report['seconds']:.1f} s played": report["seconds"] >= LEAST,
        "; ".join(align.describe(alignment)): alignment.continuous,
        "the beginning is not in its place":
            all(abs(window.lag + OPUS_DELAY) < 0.001 for window in alignment.found),
    }
    return Outcome(report, alignment, [text for text, passed in checks.items() if not passed])


def row(form: tuple[int, int], outcome: Outcome) -> str:
    """One line of the table."""
    alignment, report = outcome.alignment, outcome.report
    lag = f"{1000 * alignment.found[0].lag:7.1f}" if alignment.found else "   none"
    lost = alignment.total("loss") + alignment.total("dropout")
    return (f"{form[0]:5} Hz {form[1]} ch {report['seconds']:8.2f} {report['played']:9} "
            f"{report['retries']:7} {lag} {alignment.correlation:11.3f} {lost:7.0f} "
            f"{alignment.total('repeat'):11.0f}  {'FAIL' if outcome.failures else 'ok'}")


def main() -> int:
    with tempfile.TemporaryDirectory() as directory, ThreadPoolExecutor(len(FORMS)) as pool:
        outcomes = list(pool.map(lambda form: run_form(form, Path(directory)), FORMS))
    print("stream        seconds  segments retries  lag ms correlation lost ms repeated ms")
    for form, outcome in zip(FORMS, outcomes):
        print(row(form, outcome))
        for failure in outcome.failures:
            print(f"  {failure}")
    failed = sum(bool(outcome.failures) for outcome in outcomes)
    print(f"{len(outcomes) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
