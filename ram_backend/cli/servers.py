"""Child processes of `ram-backend studio`: Label Studio and the backend."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TypeVar

from urllib3 import PoolManager
from urllib3.exceptions import HTTPError

from ram_backend.errors import NotAvailable

START_SECONDS = 300.0
"""Limit of a start; the first one takes 30 to 60 s."""

_SERVES = re.compile(r"^ram-backend serves (http://\S+)", re.MULTILINE)
_POLL_S = 0.2
_ANSWER_S = 3.0
_LOG_LINES = 6
_FOR_LABEL_STUDIO = {
    # It connects to backends on this machine, and to nothing outside of it.
    "ML_BLOCK_LOCAL_IP": "false",
    "SSRF_PROTECTION_ENABLED": "false",
    "COLLECT_ANALYTICS": "false",
    "LATEST_VERSION_CHECK": "false",
    "SENTRY_DSN": "",
    "FRONTEND_SENTRY_DSN": "",
    "LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN": "true",
    "DEBUG": "false",
}

Found = TypeVar("Found")


class Service:
    """A child process out of reach of the terminal's Ctrl-C; `log` has its output."""

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
        """Its output so far."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    def check(self) -> None:
        """Raises NotAvailable with its last lines where it ended by itself."""
        if not self.alive:
            last = " / ".join(line.strip() for line in self.printed().splitlines()[-_LOG_LINES:] if line.strip())
            raise NotAvailable(f"{self.name} ended by itself: {last or 'no word'}. What it printed: {self.log}")

    def wait_for(
        self,
        look: Callable[[], Found | None],
        seconds: float = START_SECONDS,
        show: Callable[[str], None] = lambda _: None,
    ) -> Found:
        """Polls `look` until it finds something; else stops, and raises NotAvailable.

        Meanwhile `show` is called with the time so far and the last line that
        the process has printed.
        """
        start = time.monotonic()
        try:
            while (found := look()) is None:
                self.check()
                last = (self.printed().rstrip().rpartition("\n")[2]).strip()[:90]
                show(f"{self.name} starts: {time.monotonic() - start:.0f} s  {last}")
                if time.monotonic() > start + seconds:
                    raise NotAvailable(f"{self.name} is not ready after {seconds:.0f} s. What it printed: {self.log}")
                time.sleep(_POLL_S)
        except BaseException:
            self.stop()
            raise
        return found

    def stop(self, seconds: float = 20) -> None:
        """Terminates it, and kills it after that time, or at Ctrl-C."""
        if not self.alive:
            return
        self._process.terminate()
        try:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(seconds)
        finally:
            if self.alive:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self.pid, signal.SIGKILL)
                self._process.wait()


@dataclass(frozen=True)
class Account:
    """The only user of a Label Studio that was made here."""

    email: str = "admin@example.com"
    password: str = field(repr=False, default_factory=lambda: secrets.token_urlsafe(9))
    token: str = field(repr=False, default_factory=lambda: secrets.token_hex(20))


@dataclass(frozen=True)
class Server:
    """A server that answers; `service` None: it ran already."""

    url: str
    service: Service | None

    def stop(self) -> None:
        """Stops it if it was started here."""
        if self.service is not None:
            self.service.stop()


def open_account(folder: Path) -> Account:
    """The account of Label Studio's data folder; only its owner may read it."""
    path = folder / "account.json"
    if path.exists():
        try:
            return Account(**json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            raise NotAvailable(f"{path} can't be read: delete {folder} to make Label Studio anew.") from None
    if (folder / "label_studio.sqlite3").exists():
        raise NotAvailable(f"{folder} has a Label Studio whose login is not known: move it away, and try again.")
    account = Account()
    folder.mkdir(parents=True, exist_ok=True)
    path.touch(0o600, exist_ok=False)
    path.write_text(json.dumps(asdict(account)), encoding="utf-8")
    return account


def start_label_studio(
    executable: Path, folder: Path, account: Account, first_port: int, show: Callable[[str], None] = lambda _: None
) -> Server:
    """Starts Label Studio, unless it runs there; returns when it answers.

    It listens at `first_port` or the next free one; the folder also says where
    it was started last.
    """
    address = folder / "address"
    if address.exists() and _is_ours(before := address.read_text(encoding="utf-8").strip(), account):
        return Server(before, None)
    port = free_port(first_port)
    url = f"http://127.0.0.1:{port}"
    reserved = ("LABEL_STUDIO_", "HEARTEX_")  # Label Studio's own settings
    environment = {name: value for name, value in os.environ.items() if not name.startswith(reserved)}
    environment |= {
        **_no_proxy(),
        **_FOR_LABEL_STUDIO,
        "LABEL_STUDIO_HOST": url,
        "LABEL_STUDIO_USERNAME": account.email,
        "LABEL_STUDIO_PASSWORD": account.password,
        "LABEL_STUDIO_USER_TOKEN": account.token,
    }
    options = ("--no-browser", "--data-dir", folder, "--internal-host", "127.0.0.1", "--port", str(port))
    service = Service("Label Studio", [executable, "start", *options], folder / "label-studio.log", environment)
    service.wait_for(lambda: _is_ours(url, account) or None, show=show)
    address.write_text(url, encoding="utf-8")
    return Server(url, service)


def start_backend(
    log: Path, first_port: int, label_studio: str, token: str, extra: Mapping[str, str] | None = None
) -> Server:
    """Starts `ram-backend serve`; returns when its model is loaded.

    It has this process's settings, the token, and `extra` environment
    variables, which win.
    """
    known = {"RAM_LABEL_STUDIO_URL": label_studio, "RAM_LABEL_STUDIO_API_KEY": token}
    environment = {**os.environ, **_no_proxy(), **known, **(extra or {})}
    command = [sys.executable, "-m", "ram_backend", "serve", "--host", "127.0.0.1", "--port", str(first_port)]
    service = Service("The backend", command, log, environment)
    url = service.wait_for(lambda: _SERVES.search(service.printed()))[1]
    service.wait_for(lambda: _answer(f"{url}/ready"))
    return Server(url, service)


def free_port(first: int) -> int:
    """The first free port from `first` on; raises SettingsError if none near is free."""
    from ram_backend.server.uvicorn_runner import bind

    with bind("127.0.0.1", first) as listening:
        return int(listening.getsockname()[1])


@contextlib.contextmanager
def ended_by_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP end the block as Ctrl-C does: by KeyboardInterrupt."""
    with contextlib.ExitStack() as restored:
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup leaves it
                restored.callback(signal.signal, number, signal.signal(number, signal.default_int_handler))
        yield


def _is_ours(url: str, account: Account) -> bool:
    user = _answer(f"{url}/api/current-user/whoami", {"Authorization": f"Token {account.token}"})
    return isinstance(user, dict) and user.get("email") == account.email


def _answer(url: str, headers: Mapping[str, str] | None = None) -> object | None:
    """The JSON of a 200, else None; no proxy is asked."""
    try:
        with PoolManager(retries=False, timeout=_ANSWER_S) as pool:
            answer = pool.request("GET", url, headers=headers, redirect=False)
            return answer.json() if answer.status == 200 else None
    except (HTTPError, ValueError):
        return None


def _no_proxy() -> dict[str, str]:
    named = os.environ.get("NO_PROXY") or os.environ.get("no_proxy")
    value = ",".join(filter(None, (named, "127.0.0.1,localhost")))
    return {"NO_PROXY": value, "no_proxy": value}
