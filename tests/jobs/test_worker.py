"""Real workers, real queue: what happens when one of them goes away."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from jobs.making import KEY, OTHER, connect, correct, wait_until
from jobs.working import RunningWorker, busy, horses, kill, no_horse_is_left, working
from redis import Redis

from ram_backend.database.engine import Database, open_database
from ram_backend.database.migrate import upgrade
from ram_backend.errors import DatabaseUnavailable
from ram_backend.jobs.job import Job
from ram_backend.jobs.service import Desk
from ram_backend.jobs.table import JobTable
from ram_backend.jobs.valkey import Valkey, running_url
from ram_backend.settings import Settings, load_settings
from ram_backend.versions.table import VersionTable

pytestmark = pytest.mark.service


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings(data_dir=tmp_path / "data", train_after=0)


@pytest.fixture
def database(settings: Settings) -> Iterator[Database]:
    there = open_database(settings)
    upgrade(there)
    connect(there, KEY)
    connect(there, OTHER)
    yield there
    there.close()
    no_horse_is_left()
    assert running_url(settings) is None


@pytest.fixture
def table(database: Database) -> JobTable:
    return JobTable(database)


@pytest.fixture
def queue(settings: Settings, table: JobTable) -> Iterator[Valkey]:
    with Valkey(settings) as there:
        yield there


@pytest.fixture
def desk(settings: Settings, database: Database, queue: Valkey) -> Iterator[Desk]:
    with Desk(settings, database, queue) as there:
        yield there


def job_of(table: JobTable, said: dict[str, object]) -> Job:
    job = table.get(str(said["job"]))
    assert job is not None
    return job


def becomes(table: JobTable, said: dict[str, object], state: str) -> Callable[[], bool]:
    return lambda: job_of(table, said).state == state


def test_five_presses_train_once(settings: Settings, desk: Desk, table: JobTable) -> None:
    with working(settings):
        said = [desk.request(KEY, "pressed") for _ in range(5)]
        wait_until(becomes(table, said[0], "done"))
        assert len(table.jobs()) == 1
        assert job_of(table, said[0]).attempt == 1


def test_what_was_asked_while_no_worker_was_there(settings: Settings, desk: Desk, table: JobTable) -> None:
    said = [desk.request(key, "pressed") for key in (KEY, OTHER)]
    with working(settings):
        for each in said:
            wait_until(becomes(table, each, "done"))


def test_requests_without_any_queue_are_found(settings: Settings, database: Database, table: JobTable) -> None:
    with Desk(settings, database, None) as desk:
        said = desk.request(KEY, "pressed")
    with working(settings):
        wait_until(becomes(table, said, "done"))


def test_a_queue_that_loses_everything_loses_nothing(
    settings: Settings, desk: Desk, queue: Valkey, table: JobTable
) -> None:
    first = desk.request(KEY, "pressed")
    with working(settings):
        wait_until(becomes(table, first, "done"))
        Redis.from_url(queue.url).flushall()
        for _ in range(2):
            said = desk.request(KEY, "pressed")
            wait_until(becomes(table, said, "done"))


def test_a_queue_that_is_killed_loses_nothing(settings: Settings, desk: Desk, queue: Valkey, table: JobTable) -> None:
    with working(settings) as worker:
        first = desk.request(KEY, "pressed")
        wait_until(becomes(table, first, "done"))
        file = busy(settings)
        for moment in ("while it waits", "while it works"):
            if moment == "while it works":
                said = desk.request(KEY, "pressed")
                wait_until(lambda: horses(table))
            os.kill(int(Redis.from_url(queue.url).info("server")["process_id"]), signal.SIGKILL)
        file.unlink()
        wait_until(becomes(table, said, "done"))
        assert job_of(table, said).attempt == 1
        last = desk.request(OTHER, "pressed")
        wait_until(becomes(table, last, "done"))
        assert worker.process.poll() is None


def test_a_killed_horse_is_replaced(settings: Settings, desk: Desk, table: JobTable) -> None:
    with working(settings):
        file = busy(settings)
        said = desk.request(KEY, "pressed")
        wait_until(lambda: horses(table))
        kill(horses(table)[0])
        wait_until(lambda: job_of(table, said).attempt == 2)
        file.unlink()
        wait_until(becomes(table, said, "done"))


def test_a_killed_worker_is_replaced_at_once_and_its_horse_ends(
    settings: Settings, desk: Desk, table: JobTable
) -> None:
    file = busy(settings)
    first = RunningWorker(settings)
    said = desk.request(KEY, "pressed")
    wait_until(lambda: horses(table))
    orphan = horses(table)[0]
    first.kill()
    began = time.monotonic()
    with working(settings):
        wait_until(lambda: job_of(table, said).attempt == 2)
        assert time.monotonic() - began < settings.claim_seconds  # it waited for no heartbeat to grow old
        wait_until(lambda: not Path(f"/proc/{orphan}").exists())
        file.unlink()
        wait_until(becomes(table, said, "done"))


def send_to_sleep(pid: int, database: Database) -> None:
    """Stops a process, but not within a transaction, which would keep everybody out of SQLite."""
    while True:
        kill(pid, signal.SIGSTOP)
        with suppress(DatabaseUnavailable), database.writing():
            return
        kill(pid, signal.SIGCONT)
        time.sleep(0.1)


def test_an_orphan_that_sleeps_through_it_all_publishes_nothing(
    settings: Settings, desk: Desk, database: Database, table: JobTable
) -> None:
    correct(database, 1, 2, 3)
    file = busy(settings)
    first = RunningWorker(settings, "learn")
    said = desk.request(KEY, "pressed")
    wait_until(lambda: job_of(table, said).stage == "gate")
    orphan = horses(table)[0]
    send_to_sleep(orphan, database)
    try:
        first.kill()  # where nobody minds SIGHUP, the system wakes the orphan now: it waits for the file, and ends
        with working(settings, "learn"):
            wait_until(lambda: job_of(table, said).attempt == 2)
            file.unlink()
            wait_until(becomes(table, said, "done"))
            before = job_of(table, said), VersionTable(database).served(KEY), VersionTable(database).list(KEY)
            kill(orphan, signal.SIGCONT)
            wait_until(lambda: not Path(f"/proc/{orphan}").exists())
            after = job_of(table, said), VersionTable(database).served(KEY), VersionTable(database).list(KEY)
    finally:
        kill(orphan)
    assert after == before
    assert after[0].attempt == 2
    assert after[1].version is not None


def test_a_job_that_kills_its_horse_each_time_is_given_up(settings: Settings, desk: Desk, table: JobTable) -> None:
    two = settings.model_copy(update={"job_attempts": 2})
    with working(two):
        file = busy(settings)
        said = desk.request(KEY, "pressed")
        for attempt in (1, 2):
            wait_until(lambda attempt=attempt: job_of(table, said).attempt == attempt and horses(table))
            kill(horses(table)[0])
        wait_until(becomes(table, said, "failed"))
        assert "Given up after 2 attempts" in job_of(table, said).message
        file.unlink()
        later = desk.request(OTHER, "pressed")
        wait_until(becomes(table, later, "done"))


@pytest.mark.parametrize("function", ["endless", "deaf"])
def test_a_job_that_takes_too_long_is_ended(settings: Settings, desk: Desk, table: JobTable, function: str) -> None:
    """By the limit of the worker that does it, whoever has asked for it."""
    short = settings.model_copy(update={"job_timeout_seconds": 1})
    with working(short, function):
        said = desk.request(KEY, "pressed")
        wait_until(becomes(table, said, "failed"))
        assert "longer than 1 s" in job_of(table, said).message


def test_told_to_stop_it_ends_its_job_first(settings: Settings, desk: Desk, table: JobTable) -> None:
    with working(settings) as worker:
        file = busy(settings)
        said = desk.request(KEY, "pressed")
        wait_until(lambda: horses(table))
        worker.process.terminate()
        time.sleep(0.3)
        assert worker.process.poll() is None
        file.unlink()
        assert worker.process.wait(30) == 0
        assert job_of(table, said).state == "done"


def test_told_twice_it_stops_at_once(settings: Settings, desk: Desk, table: JobTable) -> None:
    with working(settings) as worker:
        busy(settings)
        said = desk.request(KEY, "pressed")
        wait_until(lambda: horses(table))
        worker.process.terminate()
        time.sleep(1.2)  # RQ takes a second signal within a second for the same one
        worker.process.terminate()
        worker.process.wait(30)
        assert job_of(table, said).is_open
        (settings.data_dir / "busy").unlink()
    with working(settings):
        wait_until(becomes(table, said, "done"))
        assert job_of(table, said).attempt == 2


def test_two_workers_share_the_work(settings: Settings, desk: Desk, table: JobTable) -> None:
    with working(settings), working(settings):
        file = busy(settings)
        said = [desk.request(key, "pressed") for key in (KEY, OTHER)]
        wait_until(lambda: len(horses(table)) == 2)
        file.unlink()
        for each in said:
            wait_until(becomes(table, each, "done"))
            assert job_of(table, each).attempt == 1


def test_no_password_stands_on_a_command_line(settings: Settings, desk: Desk, table: JobTable) -> None:
    secret = settings.model_copy(update={"label_studio_api_key": "very-secret-token"})
    told: list[bytes] = []
    with working(settings.model_copy(update={"label_studio_api_key": None})):
        busy(settings)
        desk.request(KEY, "pressed")
        wait_until(lambda: horses(table))
        line = Path(f"/proc/{horses(table)[0]}/cmdline").read_bytes()
        told.append(line)
    assert b"ram_backend.worker.job_process" in told[0]
    assert secret.label_studio_api_key is not None
    assert b"unix:" not in told[0]
