"""Where the server asks: answered at once, five presses one job, corrections counted a little later."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from jobs.making import KEY, OTHER, connect, correct, make_due, this_worker, wait_until
from sqlalchemy import update

from ram_backend.database.engine import Database
from ram_backend.jobs.job import Outcome
from ram_backend.jobs.rows import JobRow
from ram_backend.jobs.service import Desk
from ram_backend.jobs.table import JobTable
from ram_backend.jobs.triggers import Triggers
from ram_backend.jobs.valkey import Valkey
from ram_backend.projects.keys import ProjectKey
from ram_backend.settings import Settings
from ram_backend.versions.table import VersionTable


@pytest.fixture
def few(settings: Settings) -> Settings:
    return settings.model_copy(update={"train_after": 3, "train_debounce_seconds": 0.05})


@pytest.fixture
def desk(few: Settings, database: Database) -> Iterator[Desk]:
    with Desk(few, database) as there:
        yield there


def end(table: JobTable, job_id: str, last_event: int) -> None:
    claim = table.claim(job_id, this_worker())
    assert claim is not None
    table.finish(claim, Outcome("learned", {}, last_event))


def test_five_presses_are_one_job(desk: Desk, table: JobTable) -> None:
    said = [desk.request(KEY, "Start Training was pressed") for _ in range(5)]
    assert len({each["job"] for each in said}) == 1
    assert "is queued as job" in said[0]["message"]
    assert "was queued already" in said[4]["message"]
    assert [job["reason"] for job in desk.jobs()] == ["Start Training was pressed"]


def test_while_one_runs_the_answer_says_so(desk: Desk, table: JobTable) -> None:
    job = desk.request(KEY, "pressed")["job"]
    table.claim(job, this_worker())
    said = desk.request(KEY, "pressed")
    assert said["job"] == job
    assert "is running" in said["message"]


def test_it_is_answered_without_any_queue(few: Settings, database: Database, table: JobTable) -> None:
    away = Valkey(few.model_copy(update={"redis_url": "redis://127.0.0.1:1/0"}))
    with Desk(few, database, away) as desk:
        job = desk.request(KEY, "pressed")["job"]
    assert [due.job_id for due in table.due()] == [job]


def test_a_pinned_project_is_not_trained(desk: Desk, database: Database, table: JobTable) -> None:
    VersionTable(database).pin(KEY)
    said = desk.request(KEY, "pressed")
    assert "job" not in said
    assert "pinned to base" in said["message"]
    assert "unpin" in said["message"]
    assert table.jobs() == []


def test_an_unknown_project_is_not_trained(desk: Desk, table: JobTable) -> None:
    said = desk.request(OTHER, "pressed")
    assert "job" not in said
    assert "not known yet" in said["message"]
    assert table.jobs() == []


def test_a_project_whose_label_studio_the_event_does_not_name(desk: Desk, table: JobTable) -> None:
    desk.request(ProjectKey("", KEY.id, KEY.created), "pressed")
    assert [job.key for job in table.jobs()] == [KEY]


def test_enough_corrections_ask_by_themselves(desk: Desk, database: Database, table: JobTable) -> None:
    correct(database, 1, 2, 3)
    for _ in range(3):
        desk.corrections_changed(KEY)
    wait_until(table.jobs)
    assert [job.reason for job in table.jobs()] == ["3 corrections have changed"]


def test_too_few_do_not(desk: Desk, database: Database, table: JobTable) -> None:
    correct(database, 1, 2)
    desk.corrections_changed(KEY)
    connect(database, OTHER)
    correct(database, 1, 2, 3, key=OTHER)
    desk.corrections_changed(OTHER)
    wait_until(table.jobs)
    assert [job.key for job in table.jobs()] == [OTHER]


def test_an_edit_counts_and_a_repetition_does_not(desk: Desk, database: Database, table: JobTable) -> None:
    correct(database, 1, 2, 3)
    desk.corrections_changed(KEY)
    wait_until(table.jobs)
    end(table, table.jobs()[0].id, 3)
    correct(database, 1, 2, 3)  # the same events again
    assert desk._triggers.pending(KEY) == 0
    correct(database, 1, 2, second=1)  # saved again, with the same tags
    assert desk._triggers.pending(KEY) in (0, 2)
    correct(database, 4, 5, 6)
    desk.corrections_changed(KEY)
    wait_until(lambda: len(table.jobs()) == 2)


def test_a_rejected_candidate_does_not_ask_again(desk: Desk, database: Database, table: JobTable) -> None:
    """Pending is what changed since the last attempt, whatever came of it."""
    correct(database, 1, 2, 3)
    job = desk.request(KEY, "pressed")["job"]
    end(table, job, 3)
    assert desk._triggers.check(KEY) is None
    correct(database, 4, 5)
    assert desk._triggers.check(KEY) is None
    correct(database, 6)
    assert desk._triggers.check(KEY) is not None


def test_what_came_while_nobody_counted_is_counted_at_the_start(
    few: Settings, database: Database, table: JobTable
) -> None:
    correct(database, 1, 2, 3)
    with Desk(few, database):
        wait_until(table.jobs)


def test_counting_can_be_turned_off(few: Settings, database: Database, table: JobTable) -> None:
    correct(database, 1, 2, 3)
    with Desk(few.model_copy(update={"train_after": 0}), database) as desk:
        desk.corrections_changed(KEY)
        assert desk._triggers.check_all() == []
        assert desk.request(KEY, "pressed")["job"]


def test_jobs_are_json(desk: Desk) -> None:
    desk.request(KEY, "pressed")
    (job,) = desk.jobs(KEY)
    assert job["state"] == "requested"
    assert job["project"] == str(KEY)
    assert desk.jobs(OTHER) == []


def test_what_was_submitted_comes_after_the_job_has_ended(settings: Settings, database: Database) -> None:
    """Label Studio says START_TRAINING before the annotation that it is about."""
    triggers = Triggers(settings.model_copy(update={"train_after": 3, "train_debounce_seconds": 5.0}), database)
    table = triggers.jobs
    for number in (1, 2):
        correct(database, number)
        claim = table.claim(table.request(KEY, "train", "pressed").job.id, this_worker())
        assert claim is not None
        assert not table.request(KEY, "train", "submitted").is_new
        table.finish(claim, Outcome("learned", {}, triggers.ledger.last_event(KEY)))
        assert triggers.follow_up() == []
        if number == 1:
            correct(database, 8)
            (following,) = triggers.follow_up()
            assert following.reason == "submitted"
            make_due(database, following.id)
            end(table, following.id, triggers.ledger.last_event(KEY))
    with database.writing() as session:
        session.execute(update(JobRow).values(finished_at=datetime.now(UTC) - timedelta(seconds=60)))
    assert triggers.follow_up() == []
    assert table.owed() == [], "nothing came"
