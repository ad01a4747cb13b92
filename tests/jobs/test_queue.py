"""Jobs in the database: one open one per kind and project, claims with fencing numbers, takeovers."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from support.jobs import KEY, OTHER, correct, make_due, make_old

from ram_backend.database.engine import Database
from ram_backend.errors import JobLost
from ram_backend.feedback.ledger import Ledger
from ram_backend.jobs import queue as queue_module
from ram_backend.jobs.job import Job, JobResult
from ram_backend.jobs.queue import JobQueue, moment
from ram_backend.projects.keys import ProjectKey
from ram_backend.projects.rows import BackendRow


def claimed(queue: JobQueue, key: ProjectKey = KEY, worker: str = "here/1") -> Job:
    job = queue.request(key, "train", "asked").job
    claim = queue.claim(job.id, worker)
    assert claim is not None
    return claim


def test_five_requests_are_one_job(queue: JobQueue) -> None:
    asked = [queue.request(KEY, "train", f"press {number}") for number in range(5)]
    assert len({each.job.id for each in asked}) == 1
    assert [each.is_new for each in asked] == [True, False, False, False, False]
    assert [job.reason for job in queue.jobs()] == ["press 0"]


def test_kinds_and_projects_have_jobs_of_their_own(queue: JobQueue) -> None:
    for key, kind in ((KEY, "train"), (KEY, "refresh"), (OTHER, "train")):
        assert queue.request(key, kind, "asked").is_new  # type: ignore[arg-type]
    assert len(queue.jobs()) == 3
    assert {job.kind for job in queue.jobs(KEY)} == {"train", "refresh"}


def test_requests_at_once_are_one_job(queue: JobQueue) -> None:
    begin, found = threading.Barrier(8), []

    def ask() -> None:
        begin.wait()
        found.append(queue.request(KEY, "train", "asked").job.id)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(found)) == 1


def test_one_of_many_workers_gets_it(queue: JobQueue) -> None:
    job = queue.request(KEY, "train", "asked").job
    begin, claims = threading.Barrier(8), []

    def take() -> None:
        begin.wait()
        claims.append(queue.claim(job.id, "here/1"))

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len([claim for claim in claims if claim is not None]) == 1


def test_from_request_to_end(queue: JobQueue) -> None:
    claim = claimed(queue)
    running = queue.get(claim.id)
    assert running is not None
    assert (running.state, running.attempt, running.fence) == ("running", 1, 1)
    assert queue.heartbeat(claim, "fit", 3, 10)
    seen = queue.get(claim.id)
    assert seen is not None
    assert (seen.stage, seen.step, seen.steps) == ("fit", 3, 10)
    queue.finish(claim, JobResult("v0001 is served", {"verdict": {"outcome": "accept"}}, 17, refresh="v0001 is served"))
    done = queue.get(claim.id)
    assert done is not None
    assert (done.state, done.verdict, done.last_event, done.message) == ("done", "accept", 17, "v0001 is served")
    assert queue.last_attempt(KEY) == 17
    assert [(job.kind, job.state) for job in queue.jobs(KEY) if job.is_open] == [("refresh", "requested")]
    assert queue.request(KEY, "train", "later").is_new


def test_moments_are_the_databases(queue: JobQueue, database: Database) -> None:
    with database.reading() as session:
        now = moment(session)
    assert abs(now - datetime.now(UTC)) < timedelta(seconds=5)
    job = queue.request(KEY, "train", "asked").job
    assert now - timedelta(seconds=1) < job.requested_at < now + timedelta(seconds=20)


def test_a_request_may_begin_later_but_makes_no_open_one_wait(queue: JobQueue) -> None:
    later = queue.request(KEY, "train", "submitted", delay_s=60).job
    assert queue.due() == []
    queue.request(KEY, "train", "submitted", delay_s=600)
    found = queue.get(later.id)
    assert found is not None
    assert found.not_before == later.not_before
    queue.request(KEY, "train", "pressed")
    assert [due.id for due in queue.due()] == [later.id]


def test_a_failed_attempt_waits_and_is_tried_again(queue: JobQueue, database: Database) -> None:
    claim = claimed(queue)
    assert queue.fail(claim, "Label Studio is away.", retry=True)
    job = queue.get(claim.id)
    assert job is not None
    assert (job.state, job.message) == ("requested", "Label Studio is away.")
    assert job.not_before > job.requested_at
    make_due(database, job.id)
    assert queue.claim(job.id, "here/1") is not None


def test_jobs_of_a_project_that_nobody_had_named(queue: JobQueue) -> None:
    nameless = ProjectKey("", KEY.id, KEY.created)
    queue.finish(claimed(queue, nameless), JobResult("done", {}, 9))
    assert [job.key for job in queue.jobs(KEY)] == [nameless]
    assert queue.last_attempt(KEY) == 9


def expire(queue: JobQueue, database: Database, job: Job) -> Job:
    """As if its worker were dead: the lease runs out."""
    make_old(database, job.id, 16)
    (expired,) = queue.expire()
    return expired


def test_a_request_while_it_runs_leads_to_another_job_at_its_end(queue: JobQueue) -> None:
    for end in ("finish", "fail"):
        claim = claimed(queue)
        again = queue.request(KEY, "train", f"pressed again before {end}")
        assert (again.is_new, again.job.id) == (False, claim.id)
        if end == "finish":
            queue.finish(claim, JobResult("done", {}, 5))
        else:
            queue.fail(claim, "It can't work.", retry=False)
        (following,) = (job for job in queue.jobs() if job.is_open)
        assert (following.state, following.reason) == ("requested", f"pressed again before {end}")
        queue.finish(queue.claim(following.id, "here/1") or following, JobResult("done", {}, 6))
        assert not any(job.is_open for job in queue.jobs())


def test_a_request_while_it_runs_keeps_its_delay(queue: JobQueue) -> None:
    claim = claimed(queue)
    queue.request(KEY, "train", "submitted", delay_s=60)
    queue.finish(claim, JobResult("done", {}, 5))
    assert queue.due() == []
    assert queue.jobs()[0].state == "requested"


def test_a_retry_does_what_was_asked_for_while_it_ran(queue: JobQueue, database: Database) -> None:
    claim = claimed(queue)
    queue.request(KEY, "train", "pressed again")
    assert queue.fail(claim, "away", retry=True)
    make_due(database, claim.id)
    again = queue.claim(claim.id, "here/1")
    assert again is not None
    assert again.again is None
    queue.finish(again, JobResult("done", {}, 5))
    assert not any(job.is_open for job in queue.jobs())


def test_a_lease_runs_out_after_fifteen_seconds(queue: JobQueue, database: Database) -> None:
    claim = claimed(queue)
    assert queue.expire() == []
    make_old(database, claim.id, 14)
    assert queue.expire() == []
    make_old(database, claim.id, 2)
    (expired,) = queue.expire()
    assert (expired.state, expired.attempt, expired.fence) == ("requested", 1, 2)
    assert "no sign of life for 15 s" in expired.message
    assert [job.id for job in queue.due()] == [claim.id]


def test_a_process_that_is_known_to_have_ended_loses_its_lease_at_once(queue: JobQueue) -> None:
    claimed(queue, worker="here/1")
    other = claimed(queue, OTHER, worker="here/2")
    assert queue.expire((other.id, "here/1")) == []
    (expired,) = queue.expire((other.id, "here/2"))
    assert expired.key == OTHER
    assert "ended before the job did" in expired.message
    assert queue.expire((other.id, "here/2")) == []


def test_whoever_lost_a_lease_writes_nothing(queue: JobQueue, database: Database) -> None:
    claim = claimed(queue)
    expire(queue, database, claim)
    later = queue.claim(claim.id, "here/2")
    assert later is not None
    assert later.fence > claim.fence
    before = queue.get(claim.id)
    writes: list[Callable[[], object]] = [
        lambda: queue.heartbeat(claim, "fit"),
        lambda: queue.note_seen(claim, 99),
        lambda: queue.checkpoint(claim, {"portion": []}),
        lambda: queue.release(claim, "mine"),
        lambda: queue.finish(claim, JobResult("mine", {})),
        lambda: queue.fail(claim, "mine", retry=True),
    ]
    for write in writes:
        with pytest.raises(JobLost, match="another worker"):
            write()
    after = queue.get(claim.id)
    assert before is not None
    assert after is not None
    assert (after.to_json(), after.heartbeat_at) == (before.to_json(), before.heartbeat_at)
    queue.finish(later, JobResult("theirs", {}))


@pytest.mark.parametrize("end", ["finish", "fail", "retry", "release"])
def test_whoever_has_ended_a_job_has_not_lost_it(queue: JobQueue, end: str) -> None:
    """A heartbeat that comes late says so, instead of "another worker has it"."""
    claim = claimed(queue)
    match end:
        case "finish":
            queue.finish(claim, JobResult("mine"))
        case "release":
            queue.release(claim, "others first")
        case _:
            queue.fail(claim, "mine", retry=end == "retry")
    before = queue.get(claim.id)
    assert queue.heartbeat(claim, "fit") is False
    after = queue.get(claim.id)
    assert before is not None
    assert after is not None
    assert after.to_json() == before.to_json()


def test_a_lost_lease_undoes_the_whole_transaction(queue: JobQueue, database: Database) -> None:
    """As when a version is published and the job ended in one."""
    claim = claimed(queue)
    expire(queue, database, claim)

    def publish() -> None:
        with database.writing() as session:
            session.get_one(BackendRow, 1).change += 1000
            session.flush()
            queue.finish(claim, JobResult("mine", {}), session)

    with pytest.raises(JobLost):
        publish()
    with database.reading() as session:
        assert session.get_one(BackendRow, 1).change < 1000


def test_pauses_between_attempts_grow(queue: JobQueue, database: Database) -> None:
    patient = JobQueue(database, attempts=5)
    job, pauses = patient.request(KEY, "train", "asked").job, []
    for _ in range(4):
        make_due(database, job.id)
        claim = patient.claim(job.id, "here/1")
        assert claim is not None
        with database.reading() as session:
            now = moment(session)
        assert patient.fail(claim, "away", retry=True)
        waiting = patient.get(job.id)
        assert waiting is not None
        pauses.append(round((waiting.not_before - now).total_seconds()))
    assert pauses == [1, 10, 100, 300]


def test_what_waits_is_not_claimed(queue: JobQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue_module, "BACKOFF_S", (60.0, 300.0))  # a machine may be slow
    claim = claimed(queue)
    queue.fail(claim, "away", retry=True)
    assert queue.due() == []
    assert queue.claim(claim.id, "here/1") is None
    queue.request(KEY, "train", "a person presses the button: now")
    assert [job.id for job in queue.due()] == [claim.id]
    assert queue.due(waited_s=60) == []


def test_one_that_was_released_waits_as_if_it_had_not_begun(queue: JobQueue, database: Database) -> None:
    claim = claimed(queue)
    queue.checkpoint(claim, {"portion": [1, 2]})
    queue.release(claim, "Others go first.")
    job = queue.get(claim.id)
    assert job is not None
    assert (job.state, job.attempt, job.message, (job.kept or {})["portion"]) == (
        *("requested", 0, "Others go first."),
        [1, 2],
    )


@pytest.mark.parametrize("other_asks", [False, True])
def test_killed_three_times_is_given_up(queue: JobQueue, database: Database, other_asks: bool) -> None:
    """Whoever looks, and before it has said what it has seen: else its corrections would ask for the same again."""
    correct(database, 1, 2, 3)
    last_event = Ledger(database).last_event(KEY)
    job = queue.request(KEY, "train", "asked").job
    for attempt in (1, 2, 3):
        make_due(database, job.id)
        claim = queue.claim(job.id, "here/1")
        assert claim is not None
        expired = expire(JobQueue(database) if other_asks else queue, database, claim)
        assert expired.attempt == attempt
    assert expired.state == "failed"
    assert "Given up after 3 attempts" in expired.message
    assert queue.last_attempt(KEY) == last_event
    assert queue.due() == []
    assert queue.request(KEY, "train", "asked later").is_new


def test_what_cannot_be_helped_fails_at_once(queue: JobQueue, database: Database) -> None:
    correct(database, 1, 2, 3)
    claim = claimed(queue)
    assert not queue.fail(claim, "The label config has nothing to tag.", retry=False)
    job = queue.get(claim.id)
    assert job is not None
    assert (job.state, job.message) == ("failed", "The label config has nothing to tag.")
    assert job.last_event == Ledger(database).last_event(KEY)


def test_old_jobs_are_forgotten_but_not_the_last_attempt(queue: JobQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue_module, "KEPT", 10)
    for number in range(15):
        queue.finish(claimed(queue), JobResult("done", {}, 1000 if number == 0 else number))
    assert 10 <= len(queue.jobs()) <= 12
    assert queue.last_attempt(KEY) == 1000


def test_failed_jobs_are_forgotten_too(queue: JobQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue_module, "KEPT", 10)
    for kind in ("refresh", "train"):
        for _ in range(15):
            job = queue.request(KEY, kind, "asked").job  # type: ignore[arg-type]
            claim = queue.claim(job.id, "here/1")
            assert claim is not None
            queue.fail(claim, "It can't work.", retry=False)
    assert len(queue.jobs(limit=100)) == 20
