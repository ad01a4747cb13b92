"""Real workers, real queue: what happens when one of them goes away."""

import os
import signal
import subprocess
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest
from redis import Redis
from support.jobs import KEY, OTHER, connect, job_of
from support.processes import wait_until
from worker.working import RunningWorker, busy, job_processes, working

from ram_backend.database.engine import Database
from ram_backend.jobs.job import Job
from ram_backend.jobs.schedules import ScheduleTable
from ram_backend.jobs.service import JobService
from ram_backend.jobs.table import JobTable
from ram_backend.jobs.valkey import Valkey, running_urls
from ram_backend.projects.keys import ProjectKey
from ram_backend.settings import Settings, load_settings
from ram_backend.worker.main import NICENESS, OOM_SCORE

pytestmark = [pytest.mark.service, pytest.mark.usefixtures("nothing_left")]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """No lease runs out while its process lives, however slow the machine."""
    return load_settings(data_dir=tmp_path / "data", train_after=0, lease_seconds=60)


class Requests:
    """Trainings that are requested, and waited for."""

    def __init__(self, settings: Settings, database: Database) -> None:
        connect(database, OTHER)
        self.queue = JobTable(database)
        self._service = JobService(settings, database)

    def request(self, key: ProjectKey = KEY) -> str:
        return str(self._service.request_training_message(key, "pressed")["job"])

    def job(self, job_id: str) -> Job:
        return job_of(self.queue, job_id)

    def until(self, job_id: str, state: str) -> Job:
        wait_until(lambda: self.job(job_id).state == state)
        return self.job(job_id)

    def requested_and_running(self) -> tuple[str, int]:
        """A job, and the process that does it."""
        job = self.request()
        wait_until(lambda: self.job(job).attempt == 1 and job_processes(self.queue))
        return job, job_processes(self.queue)[0]


@pytest.fixture
def jobs(settings: Settings, database: Database) -> Requests:
    return Requests(settings, database)


def test_five_presses_train_once(settings: Settings, jobs: Requests) -> None:
    """Also where neither worker nor queue were there."""
    (pressed,) = {jobs.request() for _ in range(5)}
    other = jobs.request(OTHER)
    with working(settings):
        assert [jobs.until(job, "done").attempt for job in (pressed, other)] == [1, 1]
    assert len(jobs.queue.jobs()) == 2


def test_what_is_scheduled_is_done(settings: Settings, jobs: Requests, database: Database) -> None:
    ScheduleTable(database).set(KEY, "train", "0 3 * * *", now=datetime(2026, 7, 1, tzinfo=UTC))
    with working(settings):
        wait_until(lambda: [job.state for job in jobs.queue.jobs(KEY, kind="train")] == ["done"])
    assert jobs.queue.jobs(KEY)[0].reason == "scheduled: 0 3 * * *, UTC"


def test_a_queue_that_loses_everything_loses_nothing(settings: Settings, jobs: Requests) -> None:
    """It is emptied, then killed while a worker waits, and while it works."""

    def kill_queue() -> None:
        os.kill(int(Redis.from_url(*running_urls(settings)).info("server")["process_id"]), signal.SIGKILL)

    with working(settings) as worker:
        jobs.until(jobs.request(), "done")
        Redis.from_url(*running_urls(settings)).flushall()
        for _ in range(2):
            jobs.until(jobs.request(), "done")
        kill_queue()
        file = busy(settings)
        job, _ = jobs.requested_and_running()
        kill_queue()
        file.unlink()
        assert jobs.until(job, "done").attempt == 1
        jobs.until(jobs.request(OTHER), "done")
        assert worker.process.poll() is None


def test_a_job_that_takes_too_long_is_ended(settings: Settings, jobs: Requests) -> None:
    """By the limit of the worker that does it, whoever has asked for it."""
    with working(settings.model_copy(update={"job_timeout_seconds": 1}), "endless"):
        assert "longer than 1 s" in jobs.until(jobs.request(), "failed").message


def test_told_to_stop_it_ends_its_job_first(settings: Settings, jobs: Requests) -> None:
    with working(settings) as worker:
        file = busy(settings)
        job, pid = jobs.requested_and_running()
        assert os.getpriority(os.PRIO_PROCESS, pid) >= min(19, os.getpriority(os.PRIO_PROCESS, 0) + NICENESS)
        assert int(Path(f"/proc/{pid}/oom_score_adj").read_text()) == OOM_SCORE, "servers on the machine go first"
        worker.process.terminate()
        time.sleep(0.3)
        assert worker.process.poll() is None
        file.unlink()
        assert worker.process.wait(300) == 0
        assert jobs.job(job).state == "done"


def test_told_twice_it_stops_at_once(settings: Settings, jobs: Requests) -> None:
    short = settings.model_copy(update={"lease_seconds": 3})
    with working(short) as worker:
        file = busy(short)
        job, _ = jobs.requested_and_running()

        def is_stopped() -> bool:
            worker.process.terminate()
            with suppress(subprocess.TimeoutExpired):
                worker.process.wait(1.2)  # RQ takes a second signal within a second for the same one
            return worker.process.poll() is not None

        wait_until(is_stopped)
        assert jobs.job(job).is_open
        file.unlink()
    with working(short):
        assert jobs.until(job, "done").attempt > 1


def test_the_job_of_a_killed_worker_goes_on(settings: Settings, jobs: Requests) -> None:
    """Its process renews the lease as before: nothing is computed twice, and nobody else begins it."""
    patient = settings.model_copy(update={"lease_seconds": 6})
    file = busy(settings)
    worker = RunningWorker(patient)
    job, orphan = jobs.requested_and_running()
    worker.kill()
    killed_at = jobs.job(job).heartbeat_at
    with working(patient):
        wait_until(lambda: (jobs.job(job).heartbeat_at - killed_at).total_seconds() > patient.lease_seconds)  # type: ignore[operator]
        assert job_processes(jobs.queue) == [orphan]
        file.unlink()
        assert jobs.until(job, "done").attempt == 1


def test_no_password_stands_on_a_command_line(settings: Settings, jobs: Requests) -> None:
    """Of the worker and of the process that does a job, which has both passwords all the same."""
    redis_password, token = "redis-password-0815", "label-studio-token-4711"
    with Valkey(settings) as valkey:
        url = f"{valkey.url}?password={redis_password}"
        Redis.from_url(valkey.url).config_set("requirepass", redis_password)
        try:
            secret = settings.model_copy(update={"redis_url": url, "label_studio_api_key": token})
            with working(secret) as worker:
                busy(settings)
                _, process = jobs.requested_and_running()
                lines = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in (worker.process.pid, process)]
                environment = Path(f"/proc/{process}/environ").read_bytes()
        finally:
            Redis.from_url(url).config_set("requirepass", "")
    for password in (redis_password, token):
        assert password.encode() in environment
        assert not any(password.encode() in line for line in lines)
