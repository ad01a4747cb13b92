"""Workers and work horses killed at random moments while corrections stream in."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.jobs import connect, correct
from support.processes import wait_until
from worker.working import RunningWorker, job_processes, kill, none_is_left

from ram_backend.database.engine import Database
from ram_backend.database.migrate import open_migrated
from ram_backend.feedback.ledger import Ledger
from ram_backend.jobs.queue import JobQueue
from ram_backend.jobs.service import JobService
from ram_backend.jobs.valkey import Valkey, running_url
from ram_backend.projects.keys import ProjectKey
from ram_backend.settings import Settings, load_settings
from ram_backend.versions.directory import folder_of, open_version, version_path
from ram_backend.versions.table import VersionTable

pytestmark = pytest.mark.service

KILLS = 30
KEY = ProjectKey("", 7, 1_795_452_148)


class Annotators:
    """Corrections that come without end, and are acknowledged: in the ledger."""

    def __init__(self, database: Database) -> None:
        self.acknowledged: list[int] = []
        self._database = database
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._stop.wait(0.1):
            self.correct()

    def correct(self) -> None:
        number = len(self.acknowledged) + 1
        correct(self._database, number, key=KEY)
        self.acknowledged.append(number)

    def __enter__(self) -> Annotators:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    quick = {"train_after": 1, "train_debounce_seconds": 0.1, "lease_seconds": 2}
    return load_settings(data_dir=tmp_path / "data", keep_versions=1000, **quick)


@pytest.fixture
def database(settings: Settings) -> Iterator[Database]:
    there = open_migrated(settings)
    connect(there, KEY)
    yield there
    there.close()


def test_thirty_kills(settings: Settings, database: Database) -> None:
    chance = random.Random(4)
    queue, versions, ledger = JobQueue(database), VersionTable(database), Ledger(database)
    service = JobService(settings, database)
    worker: RunningWorker | None = None
    try:
        with Valkey(settings), Annotators(database) as annotators:
            for number in range(KILLS):
                if worker is None or worker.process.poll() is not None:
                    worker = RunningWorker(settings, "learn")
                victim = chance.choice(("worker", "job", "both"))
                if number % 6:
                    wait_until(lambda: job_processes(queue))
                    time.sleep(chance.uniform(0, 0.5))
                else:
                    time.sleep(chance.uniform(0, 2))  # anywhere between two jobs, too
                if victim != "worker":
                    for pid in job_processes(queue):
                        kill(pid)
                if victim != "job":
                    worker.kill()
        if worker is not None and worker.process.poll() is not None:
            worker = RunningWorker(settings, "learn")

        def is_settled() -> bool:
            return service.pending(KEY) == 0 and not any(job.is_open for job in queue.jobs(KEY))

        wait_until(is_settled, 300)
        last = queue.jobs(KEY, kind="train", limit=1)[0]
        if last.state == "failed":  # all its attempts were killed: the next correction brings another job
            assert "Given up after 3 attempts" in (last.message or "")
            annotators.correct()
            wait_until(is_settled, 300)
    finally:
        if worker is not None:
            worker.stop()
    none_is_left()
    assert running_url(settings) is None

    said = [annotation.stated.id for annotation in ledger.annotations(KEY)]
    assert said == sorted(annotators.acknowledged)
    assert len(ledger.lines(KEY)) == len(annotators.acknowledged)

    jobs = queue.jobs(KEY, kind="train", limit=1000)
    published = {(job.result or {}).get("version"): job for job in jobs if job.state == "done"}
    published.pop(None, None)  # nothing had changed since the last attempt
    recorded = versions.list(KEY)
    assert {record.name for record in recorded} == set(published)
    folder = settings.versions_dir / folder_of(KEY)
    for record in recorded:
        version = open_version(version_path(settings.versions_dir, KEY, record.name), None, key=KEY)
        assert version.digest == record.digest
        assert version.lineage.corrections.last_event == published[record.name].last_event
    served = versions.served(KEY)
    latest = max(published.values(), key=lambda job: job.last_event or 0)
    assert served.version == (latest.result or {})["version"]
    assert latest.last_event == ledger.last_event(KEY)
    assert {path.name for path in folder.iterdir() if path.is_dir()} == {record.name for record in recorded}
    assert sum(job.attempt > 1 for job in jobs) >= 5  # kills did hit jobs
