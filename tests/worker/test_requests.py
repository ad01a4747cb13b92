"""From a request to what is done in its name: job rows, what follows them, and log lines name its id."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest
from support.jobs import KEY, OTHER, make_due

from ram_backend.database.engine import Database
from ram_backend.jobs.job import Job, JobResult
from ram_backend.jobs.queue import JobQueue
from ram_backend.logs import request_id, with_request_id
from ram_backend.settings import Settings
from ram_backend.worker.run_job import JobContext, carry_out

Do = Callable[[Job], str]


@pytest.fixture
def do(settings: Settings, database: Database) -> Do:
    def function(context: JobContext) -> JobResult:
        logging.getLogger("ram_backend.test").warning("in the name of %s", request_id.get())
        return JobResult("learned", {}, refresh="another version is served")

    def done(job: Job) -> str:
        make_due(database, job.id)
        return carry_out(settings, database, job.id, {"train": function})

    return done


def test_a_job_names_the_request_that_asked_first(queue: JobQueue) -> None:
    with with_request_id("first"):
        job = queue.request(KEY, "train", "pressed").job
    with with_request_id("second"):
        again = queue.request(KEY, "train", "pressed").job
        other = queue.request(OTHER, "train", "pressed").job
    assert (job.request, again.request, other.request) == ("first", "first", "second")
    assert job.to_json()["request"] == "first"
    found = queue.get(job.id)
    assert found is not None
    assert found.request == "first"


def test_nobody_asked_over_http(queue: JobQueue) -> None:
    assert queue.request(KEY, "train", "100 corrections have changed").job.to_json()["request"] is None


def test_what_is_done_and_what_follows_carries_it(queue: JobQueue, do: Do, caplog: pytest.LogCaptureFixture) -> None:
    with with_request_id("first"):
        job = queue.request(KEY, "train", "pressed").job
    do(job)
    assert "in the name of first" in caplog.messages
    (refresh,) = queue.jobs(KEY, kind="refresh")
    assert refresh.request == "first"
    assert request_id.get() is None


def test_open_jobs_are_counted_by_kind_and_state(queue: JobQueue, do: Do) -> None:
    nothing = dict.fromkeys(((k, s) for k in ("train", "refresh", "prelabel") for s in ("requested", "running")), 0)
    assert queue.open_jobs() == nothing
    job = queue.request(KEY, "train", "pressed").job
    queue.request(OTHER, "train", "pressed")
    assert queue.open_jobs() == {**nothing, ("train", "requested"): 2}
    do(job)
    assert queue.open_jobs() == {**nothing, ("train", "requested"): 1, ("refresh", "requested"): 1}
