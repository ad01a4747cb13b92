"""Processes: waiting for them, finding them, and `ram-backend serve` with the tiny network."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import httpx

PROGRAM = """
import sys
sys.path.insert(0, {tests!r})
from support.tiny_model import ColourNetwork, identity
from ram_backend.server import uvicorn_runner
from ram_backend.server import model

class Slow(ColourNetwork):
    def __init__(self):
        super().__init__(seconds={seconds!r})

model.load_network = lambda *args, **options: Slow()
uvicorn_runner.prepare = lambda settings, say: None
model.identify = lambda settings: identity()
from ram_backend.cli.main import main
sys.argv = ["ram-backend", "serve", *sys.argv[1:]]
main()
"""


def wait_until(condition: Callable[[], object], seconds: float = 300, *, pause_s: float = 0.005) -> None:
    """Fails where the condition does not hold in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(pause_s)


def is_up(url: str) -> bool:
    """Whether a server answers at an address."""
    try:
        return httpx.get(f"{url}/health", timeout=60, trust_env=False).is_success
    except httpx.TransportError:
        return False


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
def running(
    command: Sequence[str], environment: Mapping[str, str] | None = None
) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    """A server's process, when it says "Next:" or has ended, and its output as it comes."""
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1", **(environment or {})},
    )  # fmt: skip
    assert process.stdout is not None
    lines: list[str] = []
    reader = threading.Thread(target=lines.extend, args=(process.stdout,), daemon=True)
    reader.start()
    try:
        wait_until(lambda: any("Next:" in line for line in lines) or process.poll() is not None, 300)
        yield process, lines
    finally:
        process.terminate()  # killed, it would leave its queue running
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        reader.join(5)


def served(*options: str, seconds: float = 0.7) -> AbstractContextManager[tuple[subprocess.Popen[str], list[str]]]:
    """`ram-backend serve` with the tiny network, which takes so many seconds for each batch."""
    program = PROGRAM.format(tests=str(Path(__file__).resolve().parent.parent), seconds=seconds)
    return running([sys.executable, "-c", program, *options])


def url_in(lines: list[str]) -> str:
    """The address that it says it serves."""
    return next(word for line in lines if "serves" in line for word in line.split() if word.startswith("http://"))
