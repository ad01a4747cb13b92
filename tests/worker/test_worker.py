"""Real workers, real queue: what happens when one of them goes away."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from redis import Redis
from support.jobs import KEY, OTHER, connect, correct
from support.processes import processes, wait_until
from worker.working import RunningWorker, busy, job_processes, kill, none_is_left, working

from ram_backend.database.engine import Database
from ram_backend.database.migrate import open_migrated
from ram_backend.errors import DatabaseUnavailable
from ram_backend.jobs.job import Job
from ram_backend.jobs.queue import JobQueue
from ram_backend.jobs.service import JobService
from ram_backend.jobs.valkey import Valkey, running_url
from ram_backend.settings import Settings, load_settings
from ram_backend.versions.records import Served
from ram_backend.versions.table import VersionTable

pytestmark = pytest.mark.service


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings(data_dir=tmp_path / "data", train_after=0, lease_seconds=2)


@pytest.fixture
def database(settings: Settings) -> Iterator[Database]:
    there = open_migrated(settings)
    connect(there, KEY)
    connect(there, OTHER)
    yield there
    there.close()
    none_is_left()
    assert running_url(settings) is None


@pytest.fixture
def queue(database: Database) -> JobQueue:
    return JobQueue(database)


@pytest.fixture
def valkey(settings: Settings, queue: JobQueue) -> Iterator[Valkey]:
    with Valkey(settings) as there:
        yield there


@pytest.fixture
def service(settings: Settings, database: Database, valkey: Valkey) -> JobService:
    return JobService(settings, database)


def job_of(queue: JobQueue, said: dict[str, object]) -> Job:
    job = queue.get(str(said["job"]))
    assert job is not None
    return job


def becomes(queue: JobQueue, said: dict[str, object], state: str) -> Callable[[], bool]:
    return lambda: job_of(queue, said).state == state


def test_five_presses_train_once(settings: Settings, service: JobService, queue: JobQueue) -> None:
    with working(settings):
        said = [service.request(KEY, "pressed") for _ in range(5)]
        wait_until(becomes(queue, said[0], "done"))
        assert len(queue.jobs()) == 1
        assert job_of(queue, said[0]).attempt == 1


def test_what_was_asked_while_no_worker_was_there(settings: Settings, service: JobService, queue: JobQueue) -> None:
    said = [service.request(key, "pressed") for key in (KEY, OTHER)]
    with working(settings):
        for each in said:
            wait_until(becomes(queue, each, "done"))


def test_requests_without_any_queue_are_found(settings: Settings, database: Database, queue: JobQueue) -> None:
    said = JobService(settings, database).request(KEY, "pressed")
    with working(settings):
        wait_until(becomes(queue, said, "done"))


def test_a_queue_that_loses_everything_loses_nothing(
    settings: Settings, service: JobService, valkey: Valkey, queue: JobQueue
) -> None:
    first = service.request(KEY, "pressed")
    with working(settings):
        wait_until(becomes(queue, first, "done"))
        Redis.from_url(valkey.url).flushall()
        for _ in range(2):
            said = service.request(KEY, "pressed")
            wait_until(becomes(queue, said, "done"))


def test_a_queue_that_is_killed_loses_nothing(
    settings: Settings, service: JobService, valkey: Valkey, queue: JobQueue
) -> None:
    with working(settings) as worker:
        first = service.request(KEY, "pressed")
        wait_until(becomes(queue, first, "done"))
        file = busy(settings)
        for moment in ("while it waits", "while it works"):
            if moment == "while it works":
                said = service.request(KEY, "pressed")
                wait_until(lambda: job_processes(queue))
            os.kill(int(Redis.from_url(valkey.url).info("server")["process_id"]), signal.SIGKILL)
        file.unlink()
        wait_until(becomes(queue, said, "done"))
        assert job_of(queue, said).attempt == 1
        last = service.request(OTHER, "pressed")
        wait_until(becomes(queue, last, "done"))
        assert worker.process.poll() is None


def send_to_sleep(pid: int, database: Database) -> None:
    """Stops a process, but not within a transaction, which would keep everybody out of SQLite."""
    while True:
        kill(pid, signal.SIGSTOP)
        with suppress(DatabaseUnavailable), database.writing():
            return
        kill(pid, signal.SIGCONT)
        time.sleep(0.1)


def test_a_job_that_kills_its_process_each_time_is_given_up(
    settings: Settings, service: JobService, queue: JobQueue
) -> None:
    two = settings.model_copy(update={"job_attempts": 2})
    with working(two):
        file = busy(settings)
        said = service.request(KEY, "pressed")
        for attempt in (1, 2):
            wait_until(lambda attempt=attempt: job_of(queue, said).attempt == attempt and job_processes(queue))
            kill(job_processes(queue)[0])
        wait_until(becomes(queue, said, "failed"))
        assert "Given up after 2 attempts" in job_of(queue, said).message
        file.unlink()
        later = service.request(OTHER, "pressed")
        wait_until(becomes(queue, later, "done"))


@pytest.mark.parametrize("function", ["endless", "deaf"])
def test_a_job_that_takes_too_long_is_ended(
    settings: Settings, service: JobService, queue: JobQueue, function: str
) -> None:
    """By the limit of the worker that does it, whoever has asked for it."""
    short = settings.model_copy(update={"job_timeout_seconds": 1})
    with working(short, function):
        said = service.request(KEY, "pressed")
        wait_until(becomes(queue, said, "failed"))
        assert "longer than 1 s" in job_of(queue, said).message


def test_told_to_stop_it_ends_its_job_first(settings: Settings, service: JobService, queue: JobQueue) -> None:
    with working(settings) as worker:
        file = busy(settings)
        said = service.request(KEY, "pressed")
        wait_until(lambda: job_processes(queue))
        worker.process.terminate()
        time.sleep(0.3)
        assert worker.process.poll() is None
        file.unlink()
        assert worker.process.wait(120) == 0
        assert job_of(queue, said).state == "done"


def test_told_twice_it_stops_at_once(settings: Settings, service: JobService, queue: JobQueue) -> None:
    with working(settings) as worker:
        busy(settings)
        said = service.request(KEY, "pressed")
        wait_until(lambda: job_processes(queue))
        worker.process.terminate()
        time.sleep(1.2)  # RQ takes a second signal within a second for the same one
        worker.process.terminate()
        worker.process.wait(120)
        assert job_of(queue, said).is_open
        (settings.data_dir / "busy").unlink()
    with working(settings):
        wait_until(becomes(queue, said, "done"))
        assert job_of(queue, said).attempt == 2


def test_two_workers_share_the_work(settings: Settings, service: JobService, queue: JobQueue) -> None:
    with working(settings), working(settings):
        file = busy(settings)
        said = [service.request(key, "pressed") for key in (KEY, OTHER)]
        wait_until(lambda: len(job_processes(queue)) == 2)
        file.unlink()
        for each in said:
            wait_until(becomes(queue, each, "done"))
            assert job_of(queue, each).attempt == 1


def test_a_killed_process_of_a_job_is_replaced_at_once(
    settings: Settings, service: JobService, queue: JobQueue
) -> None:
    patient = settings.model_copy(update={"lease_seconds": 600})
    with working(patient):
        file = busy(settings)
        said = service.request(KEY, "pressed")
        wait_until(lambda: job_processes(queue))
        kill(job_processes(queue)[0])
        wait_until(lambda: job_of(queue, said).attempt == 2, 300)
        file.unlink()
        wait_until(becomes(queue, said, "done"))


def test_the_job_of_a_killed_worker_goes_on(settings: Settings, service: JobService, queue: JobQueue) -> None:
    """Its process renews the lease as before: nothing is computed twice, and nobody else begins it."""
    settings = settings.model_copy(update={"lease_seconds": 5})
    file = busy(settings)
    worker = RunningWorker(settings)
    said = service.request(KEY, "pressed")
    wait_until(lambda: job_processes(queue))
    (orphan,) = job_processes(queue)
    worker.kill()
    with working(settings):
        time.sleep(2 * settings.lease_seconds)
        assert job_processes(queue) == [orphan]
        file.unlink()
        wait_until(becomes(queue, said, "done"))
        assert job_of(queue, said).attempt == 1


def test_a_job_whose_processes_are_all_killed_is_begun_anew(
    settings: Settings, service: JobService, queue: JobQueue
) -> None:
    file = busy(settings)
    worker = RunningWorker(settings)
    said = service.request(KEY, "pressed")
    wait_until(lambda: job_processes(queue))
    (own,) = job_processes(queue)
    worker.kill()
    kill(own)
    with working(settings):
        wait_until(lambda: job_of(queue, said).attempt == 2, 300)
        file.unlink()
        wait_until(becomes(queue, said, "done"))


def test_an_orphan_that_sleeps_through_it_all_publishes_nothing(
    settings: Settings, service: JobService, database: Database, queue: JobQueue
) -> None:
    correct(database, 1, 2, 3)
    file = busy(settings)
    first = RunningWorker(settings, "learn")
    said = service.request(KEY, "pressed")
    versions = VersionTable(database)

    def outcome() -> tuple[dict[str, object], Served, list[str]]:
        return job_of(queue, said).to_json(), versions.served(KEY), [each.name for each in versions.list(KEY)]

    wait_until(lambda: job_of(queue, said).stage == "gate")
    orphan = job_processes(queue)[0]
    send_to_sleep(orphan, database)
    try:
        first.kill()  # where nobody minds SIGHUP, the system wakes the orphan now: it waits for the file
        kill(orphan, signal.SIGSTOP)
        with working(settings, "learn"):
            wait_until(lambda: job_of(queue, said).attempt == 2)
            file.unlink()
            wait_until(becomes(queue, said, "done"))
            before = outcome()
            kill(orphan, signal.SIGCONT)
            wait_until(lambda: orphan not in processes("do_job"))
            after = outcome()
    finally:
        kill(orphan)
    assert after == before
    assert after[0]["attempt"] == 2
    assert after[1].version is not None


def test_no_password_stands_on_a_command_line(
    settings: Settings, valkey: Valkey, service: JobService, queue: JobQueue
) -> None:
    """Of the worker and of the process that does a job, which has both passwords all the same."""
    redis_password, token = "redis-password-0815", "label-studio-token-4711"
    own = Redis.from_url(valkey.url)
    own.config_set("requirepass", redis_password)
    try:
        secret = settings.model_copy(
            update={"redis_url": f"{valkey.url}?password={redis_password}", "label_studio_api_key": token}
        )
        with working(secret) as worker:
            busy(settings)
            service.request(KEY, "pressed")
            wait_until(lambda: job_processes(queue))
            pids = [worker.process.pid, *job_processes(queue)]
            lines = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in pids]
            environment = Path(f"/proc/{pids[1]}/environ").read_bytes()
    finally:
        Redis.from_url(f"{valkey.url}?password={redis_password}").config_set("requirepass", "")
    for password in (redis_password, token):
        assert password.encode() in environment
        assert not any(password.encode() in line for line in lines)
