"""Jobs in the database: one open one per kind and project, claims with fencing numbers, expired leases."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from typing import get_args

import pytest
from support.jobs import KEY, OTHER, claimed, correct, job_of, make_due, make_old

from ram_backend.database.engine import Database
from ram_backend.errors import JobLost
from ram_backend.feedback.ledger import Ledger
from ram_backend.jobs import table as queue_module
from ram_backend.jobs.job import OPEN, Job, JobKind, JobResult
from ram_backend.jobs.table import JobTable, database_now
from ram_backend.projects.keys import ProjectKey


def running(queue: JobTable, key: ProjectKey = KEY, kind: JobKind = "train", worker: str = "here/1") -> Job:
    return claimed(queue, queue.request(key, kind, "asked").job.id, worker)


def open_jobs(queue: JobTable) -> list[tuple[str, str, str]]:
    return [(job.kind, job.state, job.reason) for job in queue.jobs() if job.is_open]


def expire(queue: JobTable, database: Database, job: Job) -> Job:
    """As if its worker were dead: the lease runs out."""
    make_old(database, job.id, 16)
    (expired,) = queue.expire()
    return expired


def end(queue: JobTable, job: Job, how: str) -> None:
    match how:
        case "finish":
            queue.finish(job, JobResult("mine", {}, 5))
        case "release":
            queue.release(job, "others first")
        case _:
            queue.fail(job, "mine", retry=how == "retry")


def test_kinds_and_projects_have_jobs_of_their_own(queue: JobTable) -> None:
    kinds: list[tuple[ProjectKey, JobKind]] = [(KEY, "train"), (KEY, "refresh"), (OTHER, "train")]
    assert all(queue.request(key, kind, "asked").is_new for key, kind in kinds)
    assert {job.kind for job in queue.jobs(KEY)} == {"train", "refresh"}
    running(queue)
    counts = {("train", "requested"): 1, ("train", "running"): 1, ("refresh", "requested"): 1}
    assert queue.open_jobs() == dict.fromkeys(product(get_args(JobKind), OPEN), 0) | counts


def test_of_requests_and_claims_at_once_one_wins(queue: JobTable) -> None:
    with ThreadPoolExecutor(8) as threads:
        (job,) = set(threads.map(lambda _: queue.request(KEY, "train", "asked").job.id, range(16)))
        claims = list(threads.map(lambda _: queue.claim(job, "here/1"), range(16)))
    assert len([claim for claim in claims if claim is not None]) == 1


def test_from_request_to_end(queue: JobTable) -> None:
    claim = running(queue)
    now = job_of(queue, claim.id)
    assert (now.state, now.attempt, now.fence) == ("running", 1, 1)
    assert queue.heartbeat(claim, "fit", 3, 10)
    now = job_of(queue, claim.id)
    assert (now.stage, now.step, now.steps) == ("fit", 3, 10)
    queue.finish(claim, JobResult("v0001 is served", {"verdict": {"outcome": "accept"}}, 17, refresh="v0001 is served"))
    done = job_of(queue, claim.id)
    assert (done.state, done.verdict, done.last_event, done.message) == ("done", "accept", 17, "v0001 is served")
    assert queue.last_attempts(KEY)[KEY] == 17
    assert open_jobs(queue) == [("refresh", "requested", "v0001 is served")]
    assert queue.request(KEY, "train", "later").is_new


def test_a_request_may_begin_later_but_makes_no_open_one_wait(queue: JobTable) -> None:
    later = queue.request(KEY, "train", "submitted", delay_s=60).job
    assert queue.due() == []
    queue.request(KEY, "train", "submitted", delay_s=600)
    assert job_of(queue, later.id).not_before == later.not_before
    queue.request(KEY, "train", "pressed")
    assert [due.id for due in queue.due()] == [later.id]


def test_a_failed_attempt_waits_and_is_tried_again(queue: JobTable, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next attempt covers what was asked for while it ran."""
    monkeypatch.setattr(queue_module, "BACKOFF_S", (60.0, 300.0))  # a machine may be slow
    claim = running(queue)
    queue.request(KEY, "train", "pressed again")
    assert queue.fail(claim, "Label Studio is away.", retry=True)
    job = job_of(queue, claim.id)
    assert (job.state, job.message) == ("requested", "Label Studio is away.")
    assert (queue.due(), queue.claim(claim.id, "here/1")) == ([], None)
    queue.request(KEY, "train", "a person presses the button: now")
    assert [job.id for job in queue.due()] == [claim.id]
    assert queue.due(waited_s=60) == []
    again = claimed(queue, job.id)
    assert again.rerun_reason is None
    end(queue, again, "finish")
    assert open_jobs(queue) == []


@pytest.mark.parametrize("how", ["finish", "fail"])
@pytest.mark.parametrize("delay_s", [0, 60])
def test_a_request_while_it_runs_leads_to_another_job_at_its_end(queue: JobTable, how: str, delay_s: float) -> None:
    claim = running(queue)
    again = queue.request(KEY, "train", "pressed again", delay_s=delay_s)
    assert (again.is_new, again.job.id) == (False, claim.id)
    end(queue, claim, how)
    assert open_jobs(queue) == [("train", "requested", "pressed again")]
    assert len(queue.due()) == (delay_s == 0)


def test_a_lease_runs_out_after_fifteen_seconds(queue: JobTable, database: Database) -> None:
    claim = running(queue)
    for seconds in (0, 14):
        make_old(database, claim.id, seconds)
        assert queue.expire() == []
    make_old(database, claim.id, 2)
    (expired,) = queue.expire()
    assert (expired.state, expired.attempt, expired.fence) == ("requested", 1, 2)
    assert "no heartbeat for 15 s" in expired.message
    assert [job.id for job in queue.due()] == [claim.id]


def test_whoever_lost_a_lease_writes_nothing(queue: JobTable, database: Database) -> None:
    claim = running(queue)
    expire(queue, database, claim)
    later = claimed(queue, claim.id)
    assert later.fence > claim.fence
    before = job_of(queue, claim.id)
    writes: list[Callable[[], object]] = [
        lambda: queue.heartbeat(claim, "fit"),
        lambda: queue.checkpoint(claim, {"portion": []}),
        *(lambda how=how: end(queue, claim, how) for how in ("finish", "retry", "release")),
    ]
    for write in writes:
        with pytest.raises(JobLost, match="another worker"):
            write()
    after = job_of(queue, claim.id)
    assert (after.to_json(), after.heartbeat_at) == (before.to_json(), before.heartbeat_at)
    end(queue, later, "finish")


@pytest.mark.parametrize("how", ["finish", "fail", "retry", "release"])
def test_whoever_has_ended_a_job_has_not_lost_it(queue: JobTable, how: str) -> None:
    """A heartbeat that comes late says so, instead of "another worker has it"."""
    claim = running(queue)
    end(queue, claim, how)
    before = job_of(queue, claim.id)
    assert queue.heartbeat(claim, "fit") is False
    assert job_of(queue, claim.id).to_json() == before.to_json()


def test_pauses_between_attempts_grow(database: Database) -> None:
    queue = JobTable(database, attempts=5)
    job, pauses = queue.request(KEY, "train", "asked").job, []
    for _ in range(4):
        make_due(database, job.id)
        claim = running(queue)
        with database.reading() as session:
            now = database_now(session)
        assert queue.fail(claim, "away", retry=True)
        pauses.append(round((job_of(queue, job.id).not_before - now).total_seconds()))
    assert pauses == [1, 10, 100, 300]


def test_killed_three_times_is_given_up(queue: JobTable, database: Database) -> None:
    """Whoever looks, and before it has said what it has seen: else its corrections would ask for the same again."""
    correct(database, 1, 2, 3)
    last_event = Ledger(database).last_event(KEY)
    for attempt in (1, 2, 3):
        expired = expire(JobTable(database), database, running(queue))
        assert expired.attempt == attempt
        make_due(database, expired.id)
    assert expired.state == "failed"
    assert "Given up after 3 attempts" in expired.message
    assert queue.last_attempts(KEY)[KEY] == last_event
    assert queue.due() == []
    assert queue.request(KEY, "train", "asked later").is_new


def test_old_jobs_are_forgotten_but_not_the_last_attempt(queue: JobTable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue_module, "MAX_ENDED", 10)
    for number in range(15):
        queue.finish(running(queue), JobResult("done", {}, 1000 if number == 0 else number))
    assert len(queue.jobs()) == 11
    assert queue.last_attempts(KEY)[KEY] == 1000
    for _ in range(15):
        end(queue, running(queue, kind="refresh"), "fail")
    assert len(queue.jobs(kind="refresh")) == 10
