"""One job from its claim to its end, whatever happens in between."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
from jobs.making import KEY, correct, make_due, this_worker, wait_until

from ram_backend.database.engine import Database
from ram_backend.errors import DatabaseUnavailable, JobLost, LabelConfigError, LabelStudioUnreachable
from ram_backend.jobs.job import Job, Outcome
from ram_backend.jobs.table import JobTable
from ram_backend.settings import Settings
from ram_backend.worker import heartbeat as pulse_module
from ram_backend.worker.run_job import Function, Task, carry_out


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pulse_module, "NEWS_S", 0.02)
    monkeypatch.setattr(pulse_module, "BEAT_S", 0.02)


@pytest.fixture
def do(settings: Settings, database: Database, table: JobTable) -> Callable[..., Job]:
    """Asks for a training and does it with a function."""

    def done(function: Function, **options: object) -> Job:
        job = table.request(KEY, "train", "asked").job
        make_due(database, job.id)
        carry_out(settings, database, job.id, {"train": function}, worker=this_worker(), **options)  # type: ignore[arg-type]
        found = table.get(job.id)
        assert found is not None
        return found

    return done


def failing(error: Exception) -> Function:
    def function(task: Task) -> Outcome:
        raise error

    return function


def test_done(do: Callable[..., Job]) -> None:
    def function(task: Task) -> Outcome:
        task.pulse("one")
        task.pulse("two", 1, 2)
        return Outcome("learned", {"verdict": {"outcome": "reject"}}, 3, refresh=None)

    job = do(function)
    assert (job.state, job.message, job.verdict, job.last_event) == ("done", "learned", "reject", 3)
    assert set((job.result or {})["seconds"]) == {"one", "two"}


def test_a_second_time_there_is_nothing_to_do(do: Callable[..., Job], settings: Settings, database: Database) -> None:
    job = do(lambda task: Outcome("learned"))
    said = carry_out(settings, database, job.id, {"train": failing(AssertionError())}, worker=this_worker())
    assert "done, taken, or not due" in said


def test_what_is_away_is_tried_again_until_given_up(do: Callable[..., Job], database: Database) -> None:
    correct(database, 1, 2, 3)
    states = [do(failing(LabelStudioUnreachable("Label Studio is away."))) for _ in range(3)]
    assert [job.state for job in states] == ["requested", "requested", "failed"]
    assert states[2].message == "Given up after 3 attempts. The last one: Label Studio is away."
    assert (states[2].last_event or 0) > 0


def test_what_cannot_work_fails_at_once(do: Callable[..., Job]) -> None:
    job = do(failing(LabelConfigError("Nothing to tag: add a Choices.")))
    assert (job.state, job.message) == ("failed", "Nothing to tag: add a Choices.")


def test_mistakes_of_ours_fail_at_once_and_say_so(do: Callable[..., Job]) -> None:
    job = do(failing(ZeroDivisionError("division by zero")))
    assert job.state == "failed"
    assert "ZeroDivisionError: division by zero" in job.message


def test_out_of_time(do: Callable[..., Job]) -> None:
    told: list[str] = []

    def function(task: Task) -> Outcome:
        wait_until(lambda: told)
        with pytest.raises(JobLost):
            task.pulse("fit")
        return Outcome("learned")

    job = do(function, on_lost=told.append, limit_s=0.1)
    assert job.state == "failed"
    assert job.message.startswith("It took longer than 0.1 s: ")
    assert told == [f"job {job.id} has failed: {job.message}"]


def test_in_time(do: Callable[..., Job]) -> None:
    told: list[str] = []

    def function(task: Task) -> Outcome:
        threading.Event().wait(0.2)
        return Outcome("learned")

    assert do(function, on_lost=told.append, limit_s=60).state == "done"
    assert told == []


def test_out_of_time_while_the_database_is_away(do: Callable[..., Job], monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    failures = iter(range(3))
    fail = JobTable.fail

    def away(table: JobTable, *args: object, **named: object) -> object:
        if next(failures, None) is not None:
            raise DatabaseUnavailable("The database is away.")
        return fail(table, *args, **named)  # type: ignore[arg-type]

    def function(task: Task) -> Outcome:
        wait_until(lambda: told)
        raise JobLost("ended")

    monkeypatch.setattr(JobTable, "fail", away)
    job = do(function, on_lost=told.append, limit_s=0.1)
    assert (job.state, len(told)) == ("failed", 1)


def test_progress_is_seen_while_it_runs(do: Callable[..., Job], table: JobTable) -> None:
    seen: list[Job] = []

    def function(task: Task) -> Outcome:
        task.pulse("fit", 1, 4)

        def is_there() -> bool:
            job = table.get(task.claim.job.id)
            assert job is not None
            seen.append(job)
            return (job.stage, job.step, job.steps) == ("fit", 1, 4)

        wait_until(is_there)
        return Outcome("learned")

    do(function)
    assert seen[-1].eta_s is not None
    assert seen[-1].to_json()["stage"] == "fit"


def test_time_left_comes_from_the_round_before(do: Callable[..., Job], table: JobTable) -> None:
    def first(task: Task) -> Outcome:
        for stage in ("gather", "fit", "gate"):
            task.pulse(stage)
            threading.Event().wait(0.1)
        return Outcome("learned")

    def second(task: Task) -> Outcome:
        task.pulse("gather")
        progress = task.pulse.progress()
        assert progress is not None
        assert progress.eta_s is not None
        assert 0.1 < progress.eta_s < 5
        return Outcome("learned")

    assert do(first).state == "done"
    job = do(second)
    assert job.state == "done", job.message


def test_heartbeats_keep_a_claim(do: Callable[..., Job], table: JobTable) -> None:
    def function(task: Task) -> Outcome:
        before = table.get(task.claim.job.id)
        assert before is not None
        assert before.heartbeat_at is not None

        def is_later() -> bool:
            job = table.get(task.claim.job.id)
            assert job is not None
            assert job.heartbeat_at is not None
            assert before.heartbeat_at is not None
            return job.heartbeat_at > before.heartbeat_at

        wait_until(is_later)
        return Outcome("learned")

    assert do(function).state == "done"


def test_who_loses_the_claim_is_told_and_writes_nothing(do: Callable[..., Job], table: JobTable) -> None:
    told: list[str] = []

    def function(task: Task) -> Outcome:
        table.fail(task.claim, "taken away", retry=False)
        wait_until(lambda: told)
        with pytest.raises(JobLost):
            task.pulse("fit")
        return Outcome("mine")

    job = do(function, on_lost=told.append)
    assert (job.state, job.message) == ("failed", "taken away")
    assert len(told) == 1


def test_an_orphan_is_told(do: Callable[..., Job]) -> None:
    told: list[str] = []

    def function(task: Task) -> Outcome:
        wait_until(lambda: told)
        raise JobLost("ended")

    do(function, on_lost=told.append, is_orphan=lambda: True)
    assert told == ["the worker that it belongs to has ended"]


def test_corrections_that_came_meanwhile_and_a_press_lead_to_another_job(
    do: Callable[..., Job], table: JobTable, database: Database
) -> None:
    def function(task: Task) -> Outcome:
        seen = task.triggers.ledger.last_event(KEY)
        correct(database, 5)
        task.triggers.train(KEY, "pressed again")
        return Outcome("learned", {}, seen)

    correct(database, 1)
    job = do(function)
    following = [each for each in table.jobs(KEY) if each.id != job.id]
    assert [(each.state, each.reason) for each in following] == [("requested", "pressed again")]


def test_a_press_while_nothing_changed_leads_to_none(
    do: Callable[..., Job], table: JobTable, database: Database
) -> None:
    def function(task: Task) -> Outcome:
        task.triggers.train(KEY, "pressed again")
        return Outcome("learned", {}, task.triggers.ledger.last_event(KEY))

    correct(database, 1)
    job = do(function)
    assert [each.id for each in table.jobs(KEY)] == [job.id]


def test_enough_corrections_that_came_meanwhile_lead_to_another_job(
    settings: Settings, database: Database, table: JobTable
) -> None:
    def function(task: Task) -> Outcome:
        seen = task.triggers.ledger.last_event(KEY)
        correct(database, 5, 6, 7)
        return Outcome("learned", {}, seen)

    job = table.request(KEY, "train", "asked").job
    few = settings.model_copy(update={"train_after": 3})
    carry_out(few, database, job.id, {"train": function}, worker=this_worker())
    following = [each for each in table.jobs(KEY) if each.id != job.id]
    assert [(each.state, each.reason) for each in following] == [("requested", "3 corrections have changed")]
