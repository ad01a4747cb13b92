"""One job from its claim to its end, whatever happens in between."""

import logging
import threading
from collections.abc import Callable

import pytest
from support.jobs import KEY, connect, correct, job_of, make_due, make_old
from support.label_studio import LEGACY, FakeLabelStudio
from support.processes import wait_until

from ram_backend.database.engine import Database
from ram_backend.errors import DatabaseUnavailable, JobLost, LabelStudioUnreachable
from ram_backend.feedback.ledger import Ledger
from ram_backend.jobs.job import Job, JobResult
from ram_backend.jobs.table import JobTable
from ram_backend.logs import request_id, with_request_id
from ram_backend.settings import Settings
from ram_backend.worker import heartbeat
from ram_backend.worker.run_job import JobContext, JobFunction, claim_and_run

Do = Callable[..., Job]


@pytest.fixture
def ends() -> list[str]:
    """Reasons for which the process would have ended."""
    return []


@pytest.fixture
def do(settings: Settings, database: Database, queue: JobTable, ends: list[str], monkeypatch: pytest.MonkeyPatch) -> Do:
    """Requests a training and does it with a function."""
    monkeypatch.setattr(heartbeat, "PROGRESS_INTERVAL_S", 0.02)

    def done(function: JobFunction, **changes: object) -> Job:
        job = queue.request(KEY, "train", "asked").job
        make_due(database, job.id)
        changed = settings.model_copy(update={"train_after": 0, **changes})
        claim_and_run(changed, database, job.id, {"train": function}, on_end=ends.append)
        return job_of(queue, job.id)

    return done


def test_a_reconciliation_brings_what_webhooks_missed(settings: Settings, database: Database, queue: JobTable) -> None:
    with FakeLabelStudio() as studio:
        key = studio.key
        connect(database, key)
        for task in (1, 2):
            studio.annotate(task, task, "red")
        job = queue.request(key, "reconcile", "scheduled").job
        make_due(database, job.id)
        trusted = {"label_studio_url": studio.url, "label_studio_api_key": LEGACY}
        claim_and_run(settings.model_copy(update=trusted), database, job.id)
    done = job_of(queue, job.id)
    assert (done.state, done.message) == ("done", "2 annotations: 2 new ones, 0 gone.")
    assert (done.result or {})["added"] == len(Ledger(database).annotations(key)) == 2


def failing(error: Exception) -> JobFunction:
    def function(context: JobContext) -> JobResult:
        raise error

    return function


def test_done_once(do: Do, settings: Settings, database: Database) -> None:
    def function(context: JobContext) -> JobResult:
        context.heartbeat("one")
        context.heartbeat("two", 1, 2)
        return JobResult("learned", {"verdict": {"outcome": "reject"}}, 3, refresh=None)

    job = do(function)
    assert (job.state, job.message, job.verdict, job.last_event) == ("done", "learned", "reject", 3)
    again = claim_and_run(settings, database, job.id, {"train": failing(AssertionError())})
    assert "done, taken, or not due" in again


def test_log_lines_and_what_follows_name_the_request(do: Do, queue: JobTable, caplog: pytest.LogCaptureFixture) -> None:
    def function(context: JobContext) -> JobResult:
        logging.getLogger("ram_backend.test").warning("in the name of %s", request_id.get())
        return JobResult("learned", {}, refresh="another version is served")

    with with_request_id("first"):
        queue.request(KEY, "train", "pressed")
    do(function)
    assert "in the name of first" in caplog.messages
    (refresh,) = queue.jobs(KEY, kind="refresh")
    assert refresh.request_id == "first"
    assert request_id.get() is None


def test_what_is_away_is_tried_again_until_given_up(do: Do, database: Database) -> None:
    correct(database, 1, 2, 3)
    states = [do(failing(LabelStudioUnreachable("Label Studio is away."))) for _ in range(3)]
    assert [job.state for job in states] == ["requested", "requested", "failed"]
    assert states[2].message == "Given up after 3 attempts. The last one: Label Studio is away."
    assert (states[2].last_event or 0) > 0


def test_what_cannot_work_fails_at_once(do: Do, database: Database) -> None:
    """What it has seen asks for no other attempt."""
    correct(database, 1, 2, 3)
    job = do(failing(ZeroDivisionError("division by zero")))
    said = "It failed unexpectedly (ZeroDivisionError: division by zero); the worker's log tells where."
    assert (job.state, job.message) == ("failed", said)
    assert job.last_event == Ledger(database).last_event(KEY)


def test_heartbeats_keep_a_claim_and_show_progress(do: Do, queue: JobTable) -> None:
    def function(context: JobContext) -> JobResult:
        began = context.job.started_at
        context.heartbeat("fit", 1, 4)

        def is_seen() -> bool:
            job = job_of(queue, context.job.id)
            return job.heartbeat_at > began and (job.stage, job.step, job.steps) == ("fit", 1, 4)

        wait_until(is_seen)
        return JobResult("learned")

    assert do(function).state == "done"


def test_corrections_that_came_meanwhile_lead_to_another_job(do: Do, database: Database, queue: JobTable) -> None:
    def function(context: JobContext) -> JobResult:
        seen = context.service.ledger.last_event(KEY)
        correct(database, 5, 6, 7)
        return JobResult("learned", {}, seen)

    job = do(function, train_after=3)
    following = [each for each in queue.jobs(KEY) if each.id != job.id]
    assert [(each.state, each.reason) for each in following] == [("requested", "3 corrections have changed")]


def until_the_end(ends: list[str]) -> JobFunction:
    def function(context: JobContext) -> JobResult:
        wait_until(lambda: ends)
        with pytest.raises(JobLost):
            context.heartbeat("fit")
        return JobResult("learned")

    return function


@pytest.mark.parametrize("failures", [0, 3])
def test_out_of_time(do: Do, ends: list[str], monkeypatch: pytest.MonkeyPatch, failures: int) -> None:
    """Also where the database is away at first."""
    left = iter(range(failures))
    fail = JobTable.fail

    def away(queue: JobTable, *args: object, **named: object) -> object:
        if next(left, None) is not None:
            raise DatabaseUnavailable("The database is away.")
        return fail(queue, *args, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(JobTable, "fail", away)
    job = do(until_the_end(ends), job_timeout_seconds=0.1)
    assert job.state == "failed"
    assert job.message.startswith("It took longer than 0.1 s: ")
    assert ends == ["It took longer than 0.1 s"]


def test_whoever_loses_the_lease_is_told(do: Do, database: Database, queue: JobTable, ends: list[str]) -> None:
    def function(context: JobContext) -> JobResult | None:
        wait_until(lambda: make_old(database, context.job.id, 16) or queue.expire())  # a heartbeat may come between
        return until_the_end(ends)(context)

    job = do(function)
    assert (job.state, job.fence) == ("requested", 2)
    assert "no heartbeat for 15 s" in job.message
    assert len(ends) == 1


@pytest.mark.parametrize("end", ["finish", "release"])
def test_whoever_ends_the_job_itself_goes_on(do: Do, ends: list[str], end: str) -> None:
    """A training ends its row in the transaction that publishes, and has more to do then."""

    def function(context: JobContext) -> JobResult | None:
        if end == "finish":
            context.service.table.finish(context.job, JobResult("published"))
        else:
            context.service.table.release(context.job, "Others go first.")
        threading.Event().wait(0.3)  # many heartbeats
        context.heartbeat("remove old versions")
        return None

    job = do(function, lease_seconds=0.1)
    assert job.state == ("done" if end == "finish" else "requested")
    assert ends == []
