"""Projects and corrections to make jobs of, and functions that do jobs in a moment."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from feedback.saying import said

from ram_backend.database.engine import Database
from ram_backend.feedback.events import FeedbackEvent, statement_event
from ram_backend.feedback.ledger import Ledger
from ram_backend.jobs.job import Job
from ram_backend.jobs.table import JobTable
from ram_backend.projects.keys import ProjectKey
from ram_backend.projects.project import Setup
from ram_backend.projects.table import ProjectTable
from support.server import choices_config
from support.tiny_model import inline

KEY = ProjectKey("http://127.0.0.1:1", 7, 1_795_452_148)
OTHER = ProjectKey("http://127.0.0.1:1", 8, 1_795_452_149)
"""Nobody answers at that address."""
CONFIG = choices_config("red", "green", "blue")
TESTS = Path(__file__).resolve().parent.parent


def connect(database: Database, key: ProjectKey, label_config: str = CONFIG, extra_params: object = None) -> None:
    """What `/setup` does."""
    setup = Setup.read(key, label_config=label_config, access_token="t" * 40, extra_params=extra_params)
    ProjectTable(database).apply(setup)


def statement(number: int, tags: Sequence[str] = ("red",), *, image: str = "", **changes: Any) -> FeedbackEvent:
    """Somebody has said these tags of task `number`."""
    parsed = said(number, *tags, **changes)
    return statement_event(parsed, datetime.now(UTC), task_data={"image": image or picture_of(number)})


def picture_of(number: int) -> str:
    """A small picture in a task's data itself; another one for each number."""
    return inline((37 * number % 256, 101 * number % 256, 173 * number % 256), (12, 8))


def correct(database: Database, *numbers: int, key: ProjectKey = KEY, at: int = 0) -> None:
    Ledger(database).record(key, [statement(number, at=at) for number in numbers])


def make_old(database: Database, job_id: str, seconds: float) -> None:
    """The job's heartbeat is that old."""
    with database.writing() as session:
        row = session.get_one(Job, job_id)
        row.heartbeat_at = (row.heartbeat_at or row.requested_at) - timedelta(seconds=seconds)


def make_due(database: Database, job_id: str) -> None:
    """The job waits no longer."""
    with database.writing() as session:
        row = session.get_one(Job, job_id)
        row.not_before = row.requested_at


def job_of(queue: JobTable, job_id: str) -> Job:
    """As it is now."""
    job = queue.get(job_id)
    assert job is not None
    return job


def claimed(queue: JobTable, job_id: str, worker: str = "here/1") -> Job:
    """Claimed now, by a worker on record."""
    claim = queue.claim(job_id, worker)
    assert claim is not None
    return claim
