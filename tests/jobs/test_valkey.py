"""The data folder's own queue server: found, started, shared, stopped by the last one out, alive after a kill."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from redis import Redis
from support.processes import processes, wait_until

from ram_backend.errors import ValkeyUnavailable
from ram_backend.jobs import valkey as valkey_module
from ram_backend.jobs.valkey import Valkey, running_url
from ram_backend.settings import Settings, load_settings

pytestmark = pytest.mark.service


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Settings]:
    """Settings with a data folder of our own; no server is left behind."""
    settings = load_settings(data_dir=tmp_path / "data")
    yield settings
    left = running_url(settings)
    if left is not None:
        Redis.from_url(left).shutdown(nosave=True)
        pytest.fail("a server was left running")


def pid_of(url: str) -> int:
    with Redis.from_url(url) as connection:
        return int(connection.info("server")["process_id"])


def servers(settings: Settings) -> list[int]:
    return processes("valkey-server", Valkey(settings).url.removeprefix("unix://"))


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


def address(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_it_is_there_while_it_is_used(own: Settings) -> None:
    """However long the name of the data folder."""
    deep = own.model_copy(update={"data_dir": own.data_dir / ("deep" * 20) / ("deeper" * 20)})
    for settings in (own, deep):
        assert running_url(settings) is None
        with Valkey(settings) as valkey:
            assert Redis.from_url(valkey.url).ping()
            assert running_url(settings) == valkey.url
            folder = Path(valkey.url.removeprefix("unix://")).parent
            assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert running_url(settings) is None
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


def test_many_at_once_start_one_and_the_last_one_out_stops_it(own: Settings) -> None:
    users = [user(own) for _ in range(6)]
    assert len({address(process) for process in users}) == 1
    for process in users:
        assert len(servers(own)) == 1
        process.communicate("go\n")
    assert servers(own) == []


def test_it_survives_the_kill_of_its_starter(own: Settings) -> None:
    starter = user(own)
    url = address(starter)
    pid = pid_of(url)
    starter.kill()
    starter.communicate()
    with Valkey(own) as valkey:
        assert (valkey.url, pid_of(valkey.url)) == (url, pid)
    wait_until(lambda: servers(own) == [])


def test_killed_while_it_starts_it(own: Settings) -> None:
    """Whatever the moment: the next one finds or starts exactly one."""
    for pause_s in (0.0, 0.01, 0.05, 0.1):
        process = user(own)
        wait_until(lambda: servers(own))
        time.sleep(pause_s)
        process.kill()
        process.communicate()
        with Valkey(own) as valkey:
            assert Redis.from_url(valkey.url).ping()
            assert len(servers(own)) == 1
        assert servers(own) == []


def test_it_is_revived(own: Settings) -> None:
    with Valkey(own) as valkey, Valkey(own) as other:
        os.kill(pid_of(valkey.url), signal.SIGKILL)
        assert other.revive()
        assert valkey.revive()
        assert len(servers(own)) == 1


def test_stop_and_start_at_the_same_time(own: Settings) -> None:
    def come_and_go(_: int) -> None:
        for _ in range(8):
            with Valkey(own) as valkey:
                assert Redis.from_url(valkey.url).ping()

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(come_and_go, range(4)))
    assert servers(own) == []


def test_a_folder_that_others_may_write_to_is_not_used(own: Settings) -> None:
    with Valkey(own) as valkey:
        place = Path(valkey.url.removeprefix("unix://")).parent
    place.mkdir(mode=0o777)
    try:
        place.chmod(0o777)
        assert running_url(own) is None
        with pytest.raises(ValkeyUnavailable, match="not a folder of this user alone"):
            Valkey(own).__enter__()
    finally:
        place.rmdir()


def test_one_that_does_not_start_says_why(own: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(valkey_module, "_OPTIONS", ("--no-such-option", "1"))
    with pytest.raises(ValkeyUnavailable, match="did not start"):
        Valkey(own).__enter__()
    monkeypatch.undo()
    with Valkey(own) as valkey:  # and nothing stands in the way later
        assert Redis.from_url(valkey.url).ping()
