"""`ram-backend studio` without a Label Studio: processes, ports, the account, what is said when something is missing.

With a real Label Studio: tests/e2e/test_commands.py.
"""

import os
import re
import signal
import sys
from pathlib import Path

import pytest
from support.commands import run
from support.label_studio import LEGACY, FakeLabelStudio

from ram_backend.cli.servers import (
    Account,
    Server,
    Service,
    ended_by_signals,
    free_port,
    open_account,
    start_label_studio,
)
from ram_backend.errors import InputError, NotAvailable

SLEEPS = "import time; print('up', flush=True); time.sleep(600)"
STUBBORN = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {SLEEPS}"
ENDS = "print('the port is taken'); raise SystemExit(3)"


def started(code: str, log: Path) -> Service:
    return Service("It", [sys.executable, "-c", code], log, os.environ)


@pytest.mark.parametrize("code", [SLEEPS, STUBBORN])
def test_a_service_is_stopped_whether_it_wants_or_not(tmp_path: Path, code: str) -> None:
    service, shown = started(code, tmp_path / "it.log"), list[str]()
    service.wait_for(lambda: any(line.endswith("up") for line in shown) or None, 60, show=shown.append)
    assert re.fullmatch(r"It starts: \d+ s  up", shown[-1])
    assert service.alive
    service.stop(seconds=0.3)
    assert not service.alive
    service.stop()
    with pytest.raises(ProcessLookupError):
        os.kill(service.pid, 0)


@pytest.mark.parametrize(
    ("code", "seconds", "said"),
    [(ENDS, 60, r"It ended by itself: the port is taken.*it\.log"), (SLEEPS, 0, "not ready after 0 s")],
)
def test_a_service_that_does_not_start_says_why(tmp_path: Path, code: str, seconds: float, said: str) -> None:
    service = started(code, tmp_path / "log" / "it.log")
    with pytest.raises(NotAvailable, match=said):
        service.wait_for(lambda: None, seconds)
    assert not service.alive
    with pytest.raises(NotAvailable, match="can't be started"):
        Service("It", [tmp_path / "nothing"], tmp_path / "it.log", os.environ)


def test_sigterm_ends_as_ctrl_c_does_and_handlers_are_put_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with ended_by_signals(), pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before


def test_the_account_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    first = open_account(tmp_path / "new")
    assert open_account(tmp_path / "new") == first
    assert open_account(tmp_path / "other") != first
    assert (tmp_path / "new" / "account.json").stat().st_mode & 0o077 == 0
    assert not {first.password, first.token} & set(repr(first).split("'"))


def test_a_label_studio_whose_login_is_lost_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "label_studio.sqlite3").write_bytes(b"precious")
    with pytest.raises(NotAvailable, match="move it away"):
        open_account(tmp_path)
    (tmp_path / "account.json").write_text("{")
    with pytest.raises(NotAvailable, match=r"account\.json"):
        open_account(tmp_path)
    assert (tmp_path / "label_studio.sqlite3").read_bytes() == b"precious"


def test_a_label_studio_that_runs_already_is_used_as_it_is(tmp_path: Path) -> None:
    with FakeLabelStudio() as running:
        (tmp_path / "address").write_text(running.url)
        server = start_label_studio(tmp_path / "never started", tmp_path, Account(token=LEGACY), 18_080)
        assert server == Server(running.url, None)
        assert free_port(running.port) > running.port, "a port that is taken is passed over"


def test_the_command_says_how_to_get_label_studio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NotAvailable, match="make studio"):
        run("studio", "--label-studio", tmp_path / "none")
    with pytest.raises(InputError, match=f"No photos in {tmp_path}"):
        run("studio", "--label-studio", sys.executable, "--photos", tmp_path)
    with pytest.raises(InputError, match=r"none\.xml"):
        run("studio", "--label-studio", sys.executable, "--label-config", tmp_path / "none.xml")
