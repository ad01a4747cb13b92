"""Who works on a job: told apart from any other process, so that a dead one is known as such at once."""

from __future__ import annotations

import hashlib
import socket
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")


@dataclass(frozen=True)
class Worker:
    """Processes of one machine that together carry out a job: they all have to live for it.

    Attributes:
        host: names the machine since its last start, and the room of process numbers in it (a container's).
        processes: number and start time of each; the start time is "" where it can't be told.
    """

    host: str
    processes: tuple[tuple[int, str], ...]

    @classmethod
    def of(cls, *pids: int) -> Worker:
        """Processes of this machine that live now."""
        return cls(this_host(), tuple((pid, _started(pid) or "") for pid in pids))

    @classmethod
    def parse(cls, text: str) -> Worker | None:
        """What `str` gives, read again; None where it is something else."""
        host, *processes = text.split("/")
        try:
            return cls(host, tuple((int(pid), start) for pid, _, start in (one.partition("@") for one in processes)))
        except ValueError:
            return None

    def __str__(self) -> str:
        return "/".join([self.host, *(f"{pid}@{started}" for pid, started in self.processes)])

    @property
    def is_known_dead(self) -> bool:
        """Whether one of the processes has certainly ended; of another machine that is never certain."""
        return self.host == this_host() and any(_is_gone(pid, started) for pid, started in self.processes)


def this_host() -> str:
    """Names this machine since its last start, and the room of process numbers that this process is in."""
    identity = [socket.gethostname()]
    with suppress(OSError):  # there is no /proc on macOS
        identity.append((_PROC / "sys/kernel/random/boot_id").read_text().strip())
        identity.append(str((_PROC / "self/ns/pid").readlink()))
    digest = hashlib.sha256("\n".join(identity).encode()).hexdigest()
    return f"{socket.gethostname().replace('/', '-')}-{digest[:8]}"


def _is_gone(pid: int, started: str) -> bool:
    now = _started(pid)
    return now is None or bool(started and now and now != started)


def _started(pid: int) -> str | None:
    """When a process was started, in the machine's own units; "" where that can't be told; None: it has ended."""
    try:
        fields = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except FileNotFoundError:
        return None if (_PROC / "self").exists() else _started_elsewhere(pid)
    except OSError:
        return None  # it has ended while we looked
    return None if fields[0] in "ZX" else fields[19]


def _started_elsewhere(pid: int) -> str | None:
    """The same where there is no /proc (macOS)."""
    asked = subprocess.run(["ps", "-o", "stat=,lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    state, _, started = asked.stdout.strip().partition(" ")
    return None if not state or state.startswith("Z") else "".join(started.split())
