"""A worker's own queue server: found, started, stopped with its process, started again after a kill."""

import os
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis
from support.processes import processes, wait_until

from ram_backend.errors import NotAvailable
from ram_backend.jobs import valkey as valkey_module
from ram_backend.jobs.valkey import Valkey, running_urls
from ram_backend.settings import Settings, load_settings

pytestmark = pytest.mark.service


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Settings]:
    """Settings with a data folder of our own; no server is left behind."""
    settings = load_settings(data_dir=tmp_path / "data")
    yield settings
    left = running_urls(settings)
    for url in left:
        Redis.from_url(url).shutdown(nosave=True)
    assert not left, "a server was left running"


def user(settings: Settings) -> subprocess.Popen[str]:
    """A process that uses the server, and prints its address, until a line comes."""
    program = """
import sys
from pathlib import Path
from ram_backend.jobs.valkey import Valkey
from ram_backend.settings import load_settings
with Valkey(load_settings(data_dir=Path(sys.argv[1]))) as valkey:
    print(valkey.url, flush=True)
    sys.stdin.readline()
"""
    command = [sys.executable, "-c", program, str(settings.data_dir)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_it_is_there_while_it_is_used(own: Settings) -> None:
    """However long the name of the data folder; each user has one."""
    deep = own.model_copy(update={"data_dir": own.data_dir / ("deep" * 20) / ("deeper" * 20)})
    for settings in (own, deep):
        assert running_urls(settings) == []
        with Valkey(settings) as valkey, Valkey(settings) as other:
            assert Redis.from_url(valkey.url).ping()
            assert set(running_urls(settings)) == {valkey.url, other.url}
            folder = Path(valkey.url.removeprefix("unix://")).parent
            assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert running_urls(settings) == []
        assert not folder.exists()


def test_an_external_one_is_neither_started_nor_stopped(own: Settings) -> None:
    with Valkey(own) as valkey:
        external = own.model_copy(update={"redis_url": valkey.url, "data_dir": own.data_dir / "other"})
        with Valkey(external) as other:
            assert other.url == valkey.url
            assert other.revive()
        assert Redis.from_url(valkey.url).ping()
        assert not external.data_dir.exists()
    with Valkey(own.model_copy(update={"redis_url": "redis://127.0.0.1:1/0"})) as away:
        assert not away.revive()


@pytest.mark.parametrize("pause_s", [None, 0.0, 0.01, 0.05])
def test_it_ends_with_a_process_that_is_killed(own: Settings, pause_s: float | None) -> None:
    """Whatever the moment: while it starts, too."""
    process = user(own)
    if pause_s is None:
        folder = Path(process.stdout.readline().strip().removeprefix("unix://")).parent
    else:
        wait_until(lambda: processes("valkey-server", f"/tmp/{valkey_module._prefix(own)}"))
        time.sleep(pause_s)
    process.kill()
    process.communicate()
    wait_until(lambda: not processes(f"/tmp/{valkey_module._prefix(own)}"))
    if pause_s is None:
        assert not folder.exists()


def test_a_signal_for_its_process_is_not_for_it(own: Settings) -> None:
    """Ctrl-C in a terminal goes to the whole group of processes."""
    with Valkey(own) as valkey:
        (pid,) = processes("valkey-server", valkey.url.removeprefix("unix://"))[-1:]
        assert os.getpgid(pid) != os.getpgid(0)


def test_one_that_does_not_start_says_why(own: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(valkey_module, "_OPTIONS", ("--no-such-option", "1"))
    with pytest.raises(NotAvailable, match="did not start"):
        Valkey(own).__enter__()
    monkeypatch.undo()
    with Valkey(own) as valkey:  # and nothing stands in the way later
        assert Redis.from_url(valkey.url).ping()
