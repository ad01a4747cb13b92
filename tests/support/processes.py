"""Processes: waiting for them, finding them, and `ram-backend serve` with the tiny network."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

PROGRAM = """
import sys
sys.path.insert(0, {tests!r})
from support.tiny_model import ColourNetwork, identity
from ram_backend.server import model, running

class Slow(ColourNetwork):
    def __init__(self):
        super().__init__(seconds={seconds!r})

model.load_network = lambda *args, **options: Slow()
running.prepare = lambda settings, say: None
model.identify = lambda settings: identity()
from ram_backend.cli.main import main
sys.argv = ["ram-backend", "serve", *sys.argv[1:]]
main()
"""


def wait_until(condition: Callable[[], object], seconds: float = 60) -> None:
    """Fails where the condition does not hold in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.005)


def processes(*words: str) -> list[int]:
    """Processes with all these words on their command line."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if all(word in line for word in words):
                found.append(int(folder.name))
    return found


@contextmanager
def served(
    *options: str, seconds: float = 0.7, environment: Mapping[str, str] | None = None
) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    """The process, and its output as it comes; the network takes so many seconds for each batch."""
    program = PROGRAM.format(tests=str(Path(__file__).resolve().parent.parent), seconds=seconds)
    process = subprocess.Popen(
        [sys.executable, "-c", program, *options], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1", **(environment or {})},
    )  # fmt: skip
    lines: list[str] = []

    def follow() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line)

    reader = threading.Thread(target=follow, daemon=True)
    reader.start()
    try:
        wait_until(lambda: any("Next:" in line for line in lines) or process.poll() is not None, 60)
        yield process, lines
    finally:
        if process.poll() is None:
            process.terminate()  # killed, it would leave its queue running
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        reader.join(5)


def url_in(lines: list[str]) -> str:
    """The address that it says it serves."""
    return next(word for line in lines if "serves" in line for word in line.split() if word.startswith("http://"))
