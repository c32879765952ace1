"""Starting the two peers as processes, for the tests."""
from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
HOST = "127.0.0.1"
ROOT = "music.example.com"


def free_port() -> int:
    """A port of the loopback address that is free for TCP now, and as good as surely for UDP."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return probe.getsockname()[1]


def command(script: str, *arguments: object) -> list[str]:
    """The command line of one of the scripts here."""
    return [sys.executable, str(HERE / script), *map(str, arguments)]


@contextlib.contextmanager
def base_server(*arguments: object) -> Iterator[int]:
    """Runs base_server.py for ROOT on a free port, from "ready" on; it must then end with status 0."""
    port = free_port()
    process = subprocess.Popen(command("base_server.py", ROOT, "--port", port, *arguments),
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        if process.stdout.readline() != "ready\n":
            raise RuntimeError(f"base_server: {process.communicate(timeout=5)[1]}")
        yield port
    finally:
        process.terminate()
        _, errors = process.communicate(timeout=5)
    if process.returncode != 0:
        raise RuntimeError(f"base_server: status {process.returncode}: {errors}")


def base_client(port: int, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Runs base_client.py for ROOT to its end."""
    return subprocess.run(command("base_client.py", ROOT, HOST, "--dns-port", port, *arguments),
                          capture_output=True, text=True, timeout=120, check=False)
