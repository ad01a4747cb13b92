"""Real workers that push predictions, killed while Label Studio waits for the backend."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import pytest
from fake_label_studio import LEGACY
from jobs.making import CONFIG, wait_until
from worker.predicting import PredictingProject
from worker.working import RunningWorker, job_processes, kill, none_is_left, working

from ram_backend.database.engine import Database, open_database
from ram_backend.database.migrate import upgrade
from ram_backend.jobs.queue import JobQueue
from ram_backend.jobs.service import JobService
from ram_backend.jobs.valkey import Valkey
from ram_backend.projects.project import Setup
from ram_backend.projects.table import ProjectTable
from ram_backend.settings import Settings, load_settings

pytestmark = pytest.mark.service
TASKS = 200


@pytest.fixture
def studio() -> Iterator[PredictingProject]:
    with PredictingProject(tasks=TASKS) as there:
        assert isinstance(there, PredictingProject)
        there.seconds, there.patience = 0.05, 60
        yield there


@pytest.fixture
def settings(tmp_path: Path, studio: PredictingProject) -> Settings:
    known = {"label_studio_url": studio.url, "label_studio_api_key": LEGACY}
    return load_settings(data_dir=tmp_path / "data", train_after=0, refresh_portion=20, lease_seconds=2, **known)


@pytest.fixture
def database(settings: Settings, studio: PredictingProject) -> Iterator[Database]:
    there = open_database(settings)
    upgrade(there)
    ProjectTable(there).apply(Setup.read(studio.key, label_config=CONFIG, access_token=None, extra_params=None))
    yield there
    there.close()
    none_is_left()


def test_killed_twice_each_task_has_exactly_one(
    settings: Settings, database: Database, studio: PredictingProject
) -> None:
    queue = JobQueue(database)
    with Valkey(settings):
        job = JobService(settings, database).prelabel(studio.key, range(1, TASKS + 1), "late")["job"]
        for _ in range(2):
            worker, asked = RunningWorker(settings), len(studio.portions)
            wait_until(lambda asked=asked: len(studio.portions) > asked + 1 and studio.waiting)
            own = job_processes(queue)
            worker.kill()
            for horse in own:
                kill(horse)
            assert studio.counts()[1] < TASKS
        with working(settings):
            wait_until(lambda: queue.jobs()[0].state == "done", 120)
    assert queue.jobs()[0].id == job
    assert studio.counts() == {1: TASKS}
    asked_for = list(chain.from_iterable(studio.portions))
    assert len(asked_for) == len(set(asked_for)), "nothing is computed twice"
