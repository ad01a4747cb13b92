"""Workers and processes of jobs are killed at random moments."""

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.jobs import connect, correct
from support.label_studio import LEGACY, FakeLabelStudio
from support.processes import wait_until
from worker.working import kill_at_random, working

from ram_backend.database.engine import Database
from ram_backend.feedback.ledger import Ledger
from ram_backend.jobs.job import JobOptions
from ram_backend.jobs.service import JobService
from ram_backend.jobs.table import JobTable
from ram_backend.projects.keys import ProjectKey
from ram_backend.settings import Settings, load_settings
from ram_backend.versions.directory import folder_of, open_version, version_path
from ram_backend.versions.table import VersionTable

pytestmark = [pytest.mark.service, pytest.mark.usefixtures("nothing_left")]

KEY = ProjectKey("", 9, 1_795_452_148)
TASKS = 1500
"""More than thirty rounds leave time for, at four a second."""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """No job is given up, however often it is killed; that has tests of its own."""
    return load_settings(
        data_dir=tmp_path / "data", lease_seconds=2, job_attempts=1000, keep_versions=1000, train_after=0
    )


@contextmanager
def annotating(database: Database, service: JobService) -> Iterator[list[int]]:
    """Corrections that come without end, each with a press of the button; those that are in the ledger."""
    acknowledged: list[int] = []
    stop = threading.Event()

    def annotate() -> None:
        while not stop.wait(0.1):
            correct(database, len(acknowledged) + 1, key=KEY)
            acknowledged.append(len(acknowledged) + 1)
            service.request_training(KEY, "pressed")

    thread = threading.Thread(target=annotate)
    thread.start()
    try:
        yield acknowledged
    finally:
        stop.set()
        thread.join()


def test_thirty_kills(settings: Settings, database: Database) -> None:
    """While corrections stream in, each of which is learned from in the end."""
    connect(database, KEY)
    queue, versions, ledger = JobTable(database), VersionTable(database), Ledger(database)
    service = JobService(settings, database)
    with annotating(database, service) as acknowledged:
        kill_at_random(settings, queue, random.Random(4), "learn", between_jobs=True)
    service.request_training(KEY, "pressed")
    with working(settings, "learn"):
        wait_until(
            lambda: service.new_corrections(KEY)[KEY].changed == 0 and not any(job.is_open for job in queue.jobs(KEY)),
            600,
        )

    parsed = [annotation.parsed.id for annotation in ledger.annotations(KEY)]
    assert parsed == sorted(acknowledged)
    assert len(ledger.headers(KEY)) == len(acknowledged)

    jobs = queue.jobs(KEY, kind="train", limit=1000)
    published = {(job.result or {}).get("version"): job for job in jobs if job.state == "done"}
    published.pop(None, None)  # nothing had changed since the last attempt
    recorded = versions.list(KEY)
    assert {record.name for record in recorded} == set(published)
    for record in recorded:
        version = open_version(version_path(settings.versions_dir, KEY, record.name), None, key=KEY)
        assert version.digest == record.digest
        assert version.lineage.corrections.last_event == published[record.name].last_event
    latest = max(published.values(), key=lambda job: job.last_event or 0)
    assert versions.served(KEY).version == (latest.result or {})["version"]
    assert latest.last_event == ledger.last_event(KEY)
    folder = settings.versions_dir / folder_of(KEY)
    assert {path.name for path in folder.iterdir() if path.is_dir()} == {record.name for record in recorded}
    assert sum(job.attempt - 1 for job in jobs) >= 5, "kills did hit jobs"


def test_thirty_kills_of_a_pre_labelling(settings: Settings, database: Database) -> None:
    """While Label Studio waits for the backend: each task has exactly one prediction, and none is computed twice."""
    with FakeLabelStudio.with_tasks(TASKS) as studio:
        studio.seconds, studio.gives_up_after = 0.25, 60
        connect(database, studio.key)
        known = {"label_studio_url": studio.url, "label_studio_api_key": LEGACY, "refresh_portion": 4}
        settings = settings.model_copy(update=known)
        queue = JobTable(database)
        options = JobOptions(tasks=tuple(range(1, TASKS + 1)))
        job = JobService(settings, database).request_prelabelling(studio.key, options, "late").job.id
        kill_at_random(settings, queue, random.Random(5))
        assert studio.counts()[1] < TASKS
        studio.seconds = 0
        with working(settings.model_copy(update={"refresh_portion": 100})):
            wait_until(lambda: queue.jobs()[0].state == "done", 600)
        assert [each.id for each in queue.jobs()] == [job]
        assert studio.counts() == {1: TASKS}
        assert len(studio.requested) == len(set(studio.requested))
