"""Servers that `ram-backend studio` starts as processes of their own, and stops again."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from ram_backend.errors import NotAvailable

PORTS_TRIED = 50
_POLL_S = 0.2
_LOG_LINES = 6

Found = TypeVar("Found")


class Service:
    """A process that was started here, in a session of its own: a Ctrl-C in the terminal reaches only its starter.

    Args:
        name: what people call it, for messages.
        command: program and arguments.
        log: file that takes all it prints; made anew.
        environment: all its environment variables.

    Raises:
        NotAvailable: it can't be started.
    """

    def __init__(self, name: str, command: Sequence[str | Path], log: Path, environment: Mapping[str, str]) -> None:
        self.name = name
        self.log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        try:
            with log.open("wb") as written:
                self._process = subprocess.Popen(
                    [str(part) for part in command],
                    stdin=subprocess.DEVNULL,
                    stdout=written,
                    stderr=subprocess.STDOUT,
                    env=dict(environment),
                    start_new_session=True,
                )
        except OSError as error:
            raise NotAvailable(f"{name} can't be started: {error.strerror}: {command[0]}.") from None

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return self._process.poll() is None

    def printed(self) -> str:
        """All that it has printed so far."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    def check(self) -> None:
        """Makes sure that it still runs.

        Raises:
            NotAvailable: it ended by itself; the message has its last words.
        """
        if not self.alive:
            last = " / ".join(line.strip() for line in self.printed().splitlines()[-_LOG_LINES:] if line.strip())
            raise NotAvailable(f"{self.name} ended by itself: {last or 'no word'}. What it printed: {self.log}")

    def wait_for(self, look: Callable[[], Found | None], seconds: float) -> Found:
        """What `look` finds, asked again and again until it is something.

        Raises:
            NotAvailable: the process ended first, or the time is up.
        """
        end = time.monotonic() + seconds
        while True:
            found = look()
            if found is not None:
                return found
            self.check()
            if time.monotonic() > end:
                raise NotAvailable(f"{self.name} is not ready after {seconds:.0f} s. What it printed: {self.log}")
            time.sleep(_POLL_S)

    def stop(self, seconds: float = 20) -> None:
        """Asks it to end, and ends it where it hasn't after so many seconds. Harmless where it has ended."""
        if not self.alive:
            return
        self._process.terminate()
        try:
            self._process.wait(seconds)
        except (subprocess.TimeoutExpired, KeyboardInterrupt) as reason:
            if self.alive:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self.pid, signal.SIGKILL)
                self._process.wait()
            if isinstance(reason, KeyboardInterrupt):
                raise


def free_port(first: int) -> int:
    """The first port of this machine from `first` on that nobody listens at.

    Raises:
        NotAvailable: none of the next 50 is free.
    """
    for port in range(first, first + PORTS_TRIED):
        with socket.socket() as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                tried.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise NotAvailable(f"The ports {first} to {first + PORTS_TRIED - 1} are all taken: choose another one.")


@contextlib.contextmanager
def ended_by_signals() -> Iterator[None]:
    """SIGTERM, and SIGHUP of a closed terminal, end the block as Ctrl-C does: by KeyboardInterrupt."""

    def interrupt(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:  # as nohup leaves it
            signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
