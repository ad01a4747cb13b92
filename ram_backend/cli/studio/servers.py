"""A real Label Studio and a real backend, each started as a process, or used as it is where it runs already."""

from __future__ import annotations

import json
import os
import re
import secrets
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import requests

from ram_backend.cli.studio.process import Service, free_port
from ram_backend.errors import NotAvailable

LABEL_STUDIO_SECONDS = 300.0
"""A first start makes the database: 30 to 60 s on two idle cores."""

BACKEND_SECONDS = 300.0
"""A first start installs the starter bundle and its text encoder."""

_SERVES = re.compile(r"^ram-backend serves (http://\S+)", re.MULTILINE)
_LOOK_S = 3.0
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


@dataclass(frozen=True)
class Account:
    """The only user of a Label Studio that was made here."""

    email: str = "admin@example.com"
    password: str = field(repr=False, default_factory=lambda: secrets.token_urlsafe(9))
    token: str = field(repr=False, default_factory=lambda: secrets.token_hex(20))


@dataclass(frozen=True)
class Server:
    """A server that answers.

    Attributes:
        url: its address.
        service: its process; None: it ran already, and goes on running when we stop.
    """

    url: str
    service: Service | None


def open_account(folder: Path) -> Account:
    """The account of Label Studio's data folder; made, readable by its owner alone, where there is none.

    Raises:
        NotAvailable: the folder has a database but no account, or the account's file can't be used.
    """
    path = folder / "account.json"
    if path.exists():
        try:
            return Account(**json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            raise NotAvailable(f"{path} can't be read: delete {folder}, which makes Label Studio anew.") from None
    if (folder / "label_studio.sqlite3").exists():
        raise NotAvailable(f"{folder} has a Label Studio whose login is not known: move it away, and try again.")
    account = Account()
    folder.mkdir(parents=True, exist_ok=True)
    written = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(written, "w", encoding="utf-8") as file:
        json.dump(asdict(account), file)
    return account


def start_label_studio(executable: Path, folder: Path, account: Account, first_port: int) -> Server:
    """Starts Label Studio with that data folder, unless it runs already; returns when it answers.

    Args:
        executable: `bin/label-studio` of a virtual environment.
        folder: its data folder, which also says where it was started last.
        account: from `open_account`.
        first_port: port, or the next free one.

    Raises:
        NotAvailable: it doesn't start; the message has its last words.
    """
    address = folder / "address"
    if address.exists() and _is_ours(before := address.read_text(encoding="utf-8").strip(), account):
        return Server(before, None)
    port = free_port(first_port)
    url = f"http://127.0.0.1:{port}"
    environment = _environment() | _FOR_LABEL_STUDIO
    environment["LABEL_STUDIO_HOST"] = url
    environment["LABEL_STUDIO_USERNAME"] = account.email
    environment["LABEL_STUDIO_PASSWORD"] = account.password
    environment["LABEL_STUDIO_USER_TOKEN"] = account.token
    command: list[str | Path] = [
        executable,
        "start",
        "--no-browser",
        "--data-dir",
        folder,
        "--internal-host",
        "127.0.0.1",
    ]
    service = Service("Label Studio", [*command, "--port", str(port)], folder / "label-studio.log", environment)
    try:
        service.wait_for(lambda: _is_ours(url, account) or None, LABEL_STUDIO_SECONDS)
    except BaseException:
        service.stop()
        raise
    address.write_text(url, encoding="utf-8")
    return Server(url, service)


def start_backend(
    log: Path, first_port: int, label_studio: str, token: str, extra: Mapping[str, str] | None = None
) -> Server:
    """Starts `ram-backend serve` for that Label Studio, with this process's settings; returns when its model is loaded.

    Args:
        log: file for all that it prints.
        first_port: port, or the next free one.
        label_studio: address.
        token: what it fetches images with.
        extra: further environment variables, which win.

    Raises:
        NotAvailable: it doesn't start; the message has its last words.
    """
    known = {"RAM_LABEL_STUDIO_URL": label_studio, "RAM_LABEL_STUDIO_API_KEY": token}
    environment = {**os.environ, **_no_proxy(), **known, **(extra or {})}
    command = [sys.executable, "-m", "ram_backend", "serve", "--host", "127.0.0.1", "--port", str(first_port)]
    service = Service("The backend", command, log, environment)
    try:
        url = service.wait_for(lambda: _served_at(service), BACKEND_SECONDS)
        service.wait_for(lambda: _answer(f"{url}/ready"), BACKEND_SECONDS)
    except BaseException:
        service.stop()
        raise
    return Server(url, service)


def running_backend(port: int) -> Server | None:
    """A `ram-backend serve` that listens at that port already."""
    url = f"http://127.0.0.1:{port}"
    health = _answer(f"{url}/health")
    return Server(url, None) if isinstance(health, dict) and {"bundle", "model"} <= health.keys() else None


def _served_at(service: Service) -> str | None:
    told = _SERVES.search(service.printed())
    return told.group(1) if told else None


def _is_ours(url: str, account: Account) -> bool:
    user = _answer(f"{url}/api/current-user/whoami", {"Authorization": f"Token {account.token}"})
    return isinstance(user, dict) and user.get("email") == account.email


def _answer(url: str, headers: Mapping[str, str] | None = None) -> object | None:
    """The JSON of a 200, else None."""
    with requests.Session() as session:
        session.trust_env = False
        try:
            answer = session.get(url, headers=headers, timeout=_LOOK_S, allow_redirects=False)
            found: object = answer.json() if answer.status_code == 200 else None
        except (requests.RequestException, ValueError):
            return None
    return found


def _environment() -> dict[str, str]:
    """This process's variables, less those that Label Studio would take for its own settings."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("LABEL_STUDIO_", "HEARTEX_"))}
    return kept | _no_proxy()


def _no_proxy() -> dict[str, str]:
    own = "127.0.0.1,localhost"
    named = os.environ.get("NO_PROXY") or os.environ.get("no_proxy")
    value = f"{named},{own}" if named else own
    return {"NO_PROXY": value, "no_proxy": value}
