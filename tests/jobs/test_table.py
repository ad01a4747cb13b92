"""Jobs in the database: one open one per kind and project, claims with fencing numbers, takeovers."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from jobs.making import KEY, OTHER, dead_worker, make_due, make_old, this_worker

from ram_backend.database.engine import Database
from ram_backend.errors import JobLost
from ram_backend.jobs import transactions
from ram_backend.jobs.job import Claim, Outcome, Progress
from ram_backend.jobs.processes import Worker
from ram_backend.jobs.table import JobTable
from ram_backend.jobs.transactions import finish_in, moment
from ram_backend.projects.keys import ProjectKey
from ram_backend.projects.rows import BackendRow

ELSEWHERE = Worker("another-machine", ((1, "1"),))


def claimed(table: JobTable, key: ProjectKey = KEY, worker: Worker | None = None) -> Claim:
    job = table.request(key, "train", "asked").job
    claim = table.claim(job.id, worker or this_worker())
    assert claim is not None
    return claim


def test_five_requests_are_one_job(table: JobTable) -> None:
    asked = [table.request(KEY, "train", f"press {number}") for number in range(5)]
    assert len({each.job.id for each in asked}) == 1
    assert [each.is_new for each in asked] == [True, False, False, False, False]
    assert [job.reason for job in table.jobs()] == ["press 0"]


def test_kinds_and_projects_have_jobs_of_their_own(table: JobTable) -> None:
    for key, kind in ((KEY, "train"), (KEY, "refresh"), (OTHER, "train")):
        assert table.request(key, kind, "asked").is_new  # type: ignore[arg-type]
    assert len(table.jobs()) == 3
    assert {job.kind for job in table.jobs(KEY)} == {"train", "refresh"}


def test_requests_at_once_are_one_job(table: JobTable) -> None:
    begin, found = threading.Barrier(8), []

    def ask() -> None:
        begin.wait()
        found.append(table.request(KEY, "train", "asked").job.id)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(found)) == 1


def test_one_of_many_workers_gets_it(table: JobTable) -> None:
    job = table.request(KEY, "train", "asked").job
    begin, claims = threading.Barrier(8), []

    def take() -> None:
        begin.wait()
        claims.append(table.claim(job.id, this_worker()))

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len([claim for claim in claims if claim is not None]) == 1


def test_from_request_to_end(table: JobTable) -> None:
    claim = claimed(table)
    running = table.get(claim.job.id)
    assert running is not None
    assert (running.state, running.attempt, running.fence) == ("running", 1, 1)
    assert table.beat(claim, Progress("fit", 3, 10, 4.5))
    seen = table.get(claim.job.id)
    assert seen is not None
    assert (seen.stage, seen.step, seen.steps, seen.eta_s) == ("fit", 3, 10, 4.5)
    table.finish(claim, Outcome("v0001 is served", {"verdict": {"outcome": "accept"}}, 17, refresh="v0001 is served"))
    done = table.get(claim.job.id)
    assert done is not None
    assert (done.state, done.verdict, done.last_event, done.message) == ("done", "accept", 17, "v0001 is served")
    assert table.last_attempt(KEY) == 17
    assert [(job.kind, job.state) for job in table.jobs(KEY) if job.is_open] == [("refresh", "requested")]
    assert table.request(KEY, "train", "later").is_new


def test_moments_are_the_databases(table: JobTable, database: Database) -> None:
    with database.reading() as session:
        now = moment(session)
    assert abs(now - datetime.now(UTC)) < timedelta(seconds=5)
    job = table.request(KEY, "train", "asked").job
    assert now - timedelta(seconds=1) < job.requested_at < now + timedelta(seconds=20)


def test_a_request_while_it_runs_is_owed(table: JobTable) -> None:
    claim = claimed(table)
    assert not table.request(KEY, "train", "pressed again").is_new
    assert table.owed() == []
    table.finish(claim, Outcome("done", {}, 5))
    ((owed, _),) = table.owed()
    following = table.settle_owed(owed, request=True)
    assert following is not None
    assert (following.state, following.reason) == ("requested", "pressed again")
    assert table.owed() == []
    assert table.settle_owed(owed, request=True) is None


def test_a_request_may_begin_later_but_makes_no_open_one_wait(table: JobTable) -> None:
    later = table.request(KEY, "train", "submitted", delay_s=60).job
    assert table.due() == []
    table.request(KEY, "train", "submitted", delay_s=600)
    found = table.get(later.id)
    assert found is not None
    assert found.not_before == later.not_before
    table.request(KEY, "train", "pressed")
    assert [due.job_id for due in table.due()] == [later.id]


def test_what_is_owed_can_be_nothing(table: JobTable) -> None:
    claim = claimed(table)
    table.request(KEY, "train", "pressed again")
    table.finish(claim, Outcome("done", {}, 5))
    assert table.settle_owed(table.owed()[0][0], request=False) is None
    assert table.owed() == []
    assert not any(job.is_open for job in table.jobs())


def test_old_heartbeats_are_taken_over(table: JobTable, database: Database) -> None:
    claim = claimed(table, worker=ELSEWHERE)
    assert table.take_over() == []
    make_old(database, claim.job.id, 14)
    assert table.take_over() == []
    make_old(database, claim.job.id, 2)
    (taken,) = table.take_over()
    assert (taken.state, taken.attempt, taken.fence) == ("requested", 1, 2)
    assert "no sign of life for 15 s" in taken.message


def test_the_silent_are_spared_after_the_database_was_away(table: JobTable, database: Database) -> None:
    silent = claimed(table, worker=ELSEWHERE)
    make_old(database, silent.job.id, 60)
    claimed(table, OTHER, worker=dead_worker())
    assert [job.key for job in table.take_over(silent_too=False)] == [OTHER]
    assert [job.key for job in table.take_over()] == [silent.job.key]


def test_who_gives_a_sign_of_life_meanwhile_keeps_it(table: JobTable, database: Database) -> None:
    """As after a stall of the database: all that waited goes on at once, in any order."""
    claim = claimed(table, worker=ELSEWHERE)
    make_old(database, claim.job.id, 60)
    stale = table._is_stale

    def then_a_beat(*args: Any) -> str | None:
        reason = stale(*args)
        if not beaten:
            beaten.append(table.beat(claim))
        return reason

    beaten: list[bool] = []
    table._is_stale = then_a_beat  # type: ignore[method-assign]
    assert table.take_over() == []
    assert beaten == [True]
    table.finish(claim, Outcome("done", {}, 5))


def test_dead_processes_are_taken_over_at_once(table: JobTable) -> None:
    claimed(table, worker=dead_worker())
    claimed(table, OTHER, worker=this_worker())
    (taken,) = table.take_over()
    assert taken.key == KEY
    assert "ended before the job did" in taken.message


def test_who_lost_a_claim_writes_nothing(table: JobTable, database: Database) -> None:
    claim = claimed(table, worker=dead_worker())
    table.take_over()
    make_due(database, claim.job.id)
    later = table.claim(claim.job.id, this_worker())
    assert later is not None
    assert later.fence > claim.fence
    before = table.get(claim.job.id)
    assert not table.beat(claim, Progress("fit"))
    lost: list[Callable[[], object]] = [
        lambda: table.note_seen(claim, 99),
        lambda: table.finish(claim, Outcome("mine", {})),
        lambda: table.fail(claim, "mine", retry=True),
    ]
    for write in lost:
        with pytest.raises(JobLost, match="another worker"):
            write()
    assert table.get(claim.job.id) == before
    table.finish(later, Outcome("theirs", {}))


def test_a_lost_claim_undoes_the_whole_transaction(table: JobTable, database: Database) -> None:
    """As when a version is published and the job ended in one."""
    claim = claimed(table, worker=dead_worker())
    table.take_over()

    def publish() -> None:
        with database.writing() as session:
            session.get_one(BackendRow, 1).change += 1000
            session.flush()
            finish_in(session, claim, Outcome("mine", {}))

    with pytest.raises(JobLost):
        publish()
    with database.reading() as session:
        assert session.get_one(BackendRow, 1).change < 1000


def test_a_failed_attempt_waits_and_is_tried_again(table: JobTable, database: Database) -> None:
    claim = claimed(table)
    assert table.fail(claim, "Label Studio is away.", retry=True)
    job = table.get(claim.job.id)
    assert job is not None
    assert (job.state, job.message) == ("requested", "Label Studio is away.")
    assert job.not_before > job.requested_at
    make_due(database, job.id)
    assert table.claim(job.id, this_worker()) is not None


def test_what_waits_is_not_claimed(table: JobTable) -> None:
    claim = claimed(table)
    table.take_over()
    table.fail(claim, "away", retry=True)
    assert table.due() == []
    assert table.claim(claim.job.id, this_worker()) is None
    table.request(KEY, "train", "a person presses the button: now")
    assert [due.job_id for due in table.due()] == [claim.job.id]


def test_killed_three_times_is_given_up(table: JobTable, database: Database) -> None:
    job = table.request(KEY, "train", "asked").job
    for attempt in (1, 2, 3):
        make_due(database, job.id)
        assert table.claim(job.id, dead_worker()) is not None
        (taken,) = table.take_over(lambda key: 41)
        assert taken.attempt == attempt
    assert taken.state == "failed"
    assert "Given up after 3 attempts" in taken.message
    assert table.last_attempt(KEY) == 41
    assert table.due() == []
    assert table.request(KEY, "train", "asked later").is_new


def test_what_cannot_be_helped_fails_at_once(table: JobTable) -> None:
    claim = claimed(table)
    assert not table.fail(claim, "The label config has nothing to tag.", retry=False, seen=12)
    job = table.get(claim.job.id)
    assert job is not None
    assert (job.state, job.message, job.last_event) == ("failed", "The label config has nothing to tag.", 12)


def test_the_queue_is_noted_once(table: JobTable) -> None:
    table.request(KEY, "train", "asked")
    (due,) = table.due()
    assert due.queued_as is None
    assert table.note_queued(due, "one")
    assert not table.note_queued(due, "two")
    (due,) = table.due()
    assert due.queued_as == "one"


def test_old_jobs_are_forgotten_but_not_the_last_attempt(table: JobTable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transactions, "KEPT", 10)
    for number in range(15):
        claim = claimed(table)
        table.finish(claim, Outcome("done", {}, 1000 if number == 0 else number))
    assert 10 <= len(table.jobs()) <= 12
    assert table.last_attempt(KEY) == 1000


def test_jobs_of_a_project_that_nobody_had_named(table: JobTable) -> None:
    nameless = ProjectKey("", KEY.id, KEY.created)
    table.finish(claimed(table, nameless), Outcome("done", {}, 9))
    assert [job.key for job in table.jobs(KEY)] == [nameless]
    assert table.last_attempt(KEY) == 9
