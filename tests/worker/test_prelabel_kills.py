"""Real workers that push predictions, killed while Label Studio waits for the backend."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import pytest
from support.jobs import CONFIG
from support.label_studio import LEGACY, FakeLabelStudio
from support.processes import wait_until
from worker.working import RunningWorker, job_processes, kill, none_is_left, working

from ram_backend.database.engine import Database
from ram_backend.database.migrate import open_migrated
from ram_backend.jobs.queue import JobQueue
from ram_backend.jobs.service import JobService
from ram_backend.jobs.valkey import Valkey
from ram_backend.projects.project import Setup
from ram_backend.projects.table import ProjectTable
from ram_backend.settings import Settings, load_settings

pytestmark = pytest.mark.service
TASKS = 3000
KILLS = 30


@pytest.fixture
def studio() -> Iterator[FakeLabelStudio]:
    with FakeLabelStudio.with_tasks(TASKS) as there:
        there.seconds, there.gives_up_after = 0.05, 60
        yield there


@pytest.fixture
def settings(tmp_path: Path, studio: FakeLabelStudio) -> Settings:
    known = {"label_studio_url": studio.url, "label_studio_api_key": LEGACY}
    return load_settings(data_dir=tmp_path / "data", train_after=0, refresh_portion=20, lease_seconds=2, **known)


@pytest.fixture
def database(settings: Settings, studio: FakeLabelStudio) -> Iterator[Database]:
    there = open_migrated(settings)
    ProjectTable(there).apply(Setup.read(studio.key, label_config=CONFIG, access_token=None, extra_params=None))
    yield there
    there.close()
    none_is_left()


def test_thirty_kills_and_each_task_has_exactly_one(
    settings: Settings, database: Database, studio: FakeLabelStudio
) -> None:
    chance = random.Random(5)
    queue, service = JobQueue(database), JobService(settings, database)
    worker: RunningWorker | None = None

    def ask_again() -> None:
        """As people do where three attempts in a row were killed before they got anywhere."""
        if queue.jobs()[0].state == "failed":
            service.prelabel(studio.key, range(1, TASKS + 1), "late")

    def is_running() -> bool:
        ask_again()
        return bool(job_processes(queue))

    def is_done() -> bool:
        ask_again()
        return queue.jobs()[0].state == "done"

    service.prelabel(studio.key, range(1, TASKS + 1), "late")
    with Valkey(settings):
        try:
            for _ in range(KILLS):
                if worker is None or worker.process.poll() is not None:
                    worker = RunningWorker(settings)
                victim = chance.choice(("worker", "job", "both"))
                wait_until(is_running, 300)
                time.sleep(chance.uniform(0, 0.5))
                for pid in job_processes(queue) if victim != "worker" else ():
                    kill(pid)
                if victim != "job":
                    worker.kill()
                assert studio.counts()[2] == 0
            assert studio.counts()[1] < TASKS
            studio.seconds = 0  # what is left may be quick
        finally:
            if worker is not None:
                worker.stop()
        with working(settings):
            wait_until(is_done, 600)
    assert studio.counts() == {1: TASKS}
    asked_for = list(chain.from_iterable(studio.portions))
    assert len(asked_for) == len(set(asked_for)), "nothing is computed twice"
