"""Asking for jobs: five presses one job, and corrections that are enough."""

import pytest
from support.jobs import KEY, OTHER, claimed, connect, correct, statement

from ram_backend.database.engine import Database
from ram_backend.jobs.job import JobResult
from ram_backend.jobs.service import JobService
from ram_backend.jobs.table import JobTable
from ram_backend.settings import Settings
from ram_backend.versions.table import VersionTable


@pytest.fixture
def few(settings: Settings) -> Settings:
    return settings.model_copy(update={"train_after": 3, "train_debounce_seconds": 0.05})


@pytest.fixture
def service(few: Settings, database: Database) -> JobService:
    return JobService(few, database)


def end(queue: JobTable, job_id: str, last_event: int) -> None:
    queue.finish(claimed(queue, job_id), JobResult("learned", {}, last_event))


def test_five_presses_are_one_job(service: JobService, queue: JobTable) -> None:
    answers = [service.request_training_message(KEY, "Start Training was pressed") for _ in range(5)]
    (job,) = {each["job"] for each in answers}
    assert "is queued as job" in answers[0]["message"]
    assert "was queued already" in answers[4]["message"]
    assert [(each.key, each.reason) for each in queue.jobs()] == [(KEY, "Start Training was pressed")]
    queue.claim(job, "here/1")
    running = service.request_training_message(KEY, "pressed")
    assert (running["job"], "is running" in running["message"]) == (job, True)


def test_a_pinned_project_is_not_trained(service: JobService, database: Database, queue: JobTable) -> None:
    VersionTable(database).pin(KEY)
    answer = service.request_training_message(KEY, "pressed")
    assert set(answer) == {"message"}
    assert "pinned to base" in answer["message"]
    assert "unpin" in answer["message"]
    assert queue.jobs() == []


def test_an_unknown_project_is_not_trained(service: JobService, database: Database, queue: JobTable) -> None:
    """However many corrections it has."""
    correct(database, 1, 2, 3, key=OTHER)
    answer = service.request_training_message(OTHER, "pressed")
    assert set(answer) == {"message"}
    assert "not known yet" in answer["message"]
    assert service.request_due_trainings(OTHER) == []
    assert queue.jobs() == []


def test_enough_corrections_ask_by_themselves(service: JobService, database: Database, queue: JobTable) -> None:
    connect(database, OTHER)
    correct(database, 1, 2)
    correct(database, 1, 2, 3, key=OTHER)
    assert [each.changed for _, each in sorted(service.new_corrections().items())] == [2, 3]
    assert [job.reason for job in service.request_due_trainings()] == ["3 corrections have changed"]
    assert service.request_due_trainings() == []
    assert [job.key for job in queue.jobs()] == [OTHER]


def test_an_edit_counts_and_a_repetition_does_not(service: JobService, database: Database, queue: JobTable) -> None:
    """Pending is what changed since the last attempt, whatever came of it."""
    correct(database, 1, 2, 3)
    end(queue, service.request_due_trainings(KEY)[0].id, 3)
    correct(database, 1, 2, 3)  # the same events again
    correct(database, 1, 2, at=1)  # saved again, with the same tags
    assert service.new_corrections(KEY)[KEY].changed == 0
    service.ledger.record(KEY, [statement(number, ["green"], at=2) for number in (1, 2)])
    assert service.new_corrections(KEY)[KEY].changed == 2
    correct(database, 4, 5, 6)
    assert len(service.request_due_trainings(KEY)) == 1


def test_each_attempt_needs_half_as_many_again(service: JobService, database: Database, queue: JobTable) -> None:
    rounds, last = [], 0
    for number in range(1, 60):
        correct(database, number)
        if jobs := service.request_due_trainings(KEY):
            last = service.ledger.last_event(KEY)
            end(queue, jobs[0].id, last)
            rounds.append(number)
    assert rounds == [3, 5, 8, 12, 18, 27, 41]
    assert service.new_corrections(KEY)[KEY].next_training == "next training at 21"


def test_counting_can_be_turned_off(few: Settings, database: Database) -> None:
    correct(database, 1, 2, 3)
    service = JobService(few.model_copy(update={"train_after": 0}), database)
    assert service.request_due_trainings(KEY) == []
    assert service.request_training_message(KEY, "pressed")["job"]
