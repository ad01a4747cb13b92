"""Real workers that push predictions, killed while Label Studio waits for the backend."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import pytest
from fake_label_studio import LEGACY
from jobs.making import CONFIG, wait_until
from jobs.predicting import PredictingProject
from jobs.working import RunningWorker, horses, kill, no_horse_is_left, working

from ram_backend.database.engine import Database, open_database
from ram_backend.database.migrate import upgrade
from ram_backend.jobs.service import Desk
from ram_backend.jobs.table import JobTable
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
    return load_settings(data_dir=tmp_path / "data", train_after=0, refresh_portion=20, **known)


@pytest.fixture
def database(settings: Settings, studio: PredictingProject) -> Iterator[Database]:
    there = open_database(settings)
    upgrade(there)
    ProjectTable(there).apply(Setup.read(studio.key, label_config=CONFIG, access_token=None, extra_params=None))
    yield there
    there.close()
    no_horse_is_left()


def test_killed_twice_each_task_has_exactly_one(
    settings: Settings, database: Database, studio: PredictingProject
) -> None:
    table = JobTable(database)
    with Valkey(settings) as valkey, Desk(settings, database, valkey) as desk:
        job = desk.prelabel(studio.key, range(1, TASKS + 1), "late")["job"]
        for _ in range(2):
            worker, asked = RunningWorker(settings), len(studio.portions)
            wait_until(lambda asked=asked: len(studio.portions) > asked + 1 and studio.waiting)
            own = horses(table)
            worker.kill()
            for horse in own:
                kill(horse)
            assert studio.counts()[1] < TASKS
        with working(settings):
            wait_until(lambda: table.jobs()[0].state == "done", 120)
    assert table.jobs()[0].id == job
    assert studio.counts() == {1: TASKS}
    asked_for = list(chain.from_iterable(studio.portions))
    assert len(asked_for) == len(set(asked_for)), "nothing is computed twice"
