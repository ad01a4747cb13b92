"""Pre-labelling as a job: asked for by people and by the server, gone on with after a kill."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest
from support.jobs import CONFIG, KEY, make_due, make_old
from support.label_studio import LEGACY, VERSION, FakeLabelStudio
from support.processes import wait_until

from ram_backend.database.engine import Database
from ram_backend.jobs.job import Job, PrelabelOptions
from ram_backend.jobs.queue import JobQueue
from ram_backend.jobs.service import JobService
from ram_backend.projects.keys import ProjectKey
from ram_backend.projects.project import Setup
from ram_backend.projects.table import ProjectTable
from ram_backend.settings import Settings
from ram_backend.worker import prelabel as prelabel_job
from ram_backend.worker import prelabel as push_module
from ram_backend.worker.run_job import carry_out

Ask = Callable[[PrelabelOptions], Job]
Do = Callable[[str], Job]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(push_module, "LOOK_S", 0.02)


@pytest.fixture
def studio(database: Database) -> Iterator[FakeLabelStudio]:
    with FakeLabelStudio.with_tasks(30) as there:
        setup = Setup.read(there.key, label_config=CONFIG, access_token=None, extra_params=None)
        ProjectTable(database).apply(setup)
        yield there


@pytest.fixture
def own(settings: Settings, studio: FakeLabelStudio) -> Settings:
    return settings.model_copy(update={"label_studio_url": studio.url, "label_studio_api_key": LEGACY})


@pytest.fixture
def do(own: Settings, database: Database, queue: JobQueue) -> Do:
    def done(job_id: str) -> Job:
        make_due(database, job_id)
        carry_out(own, database, job_id, {"prelabel": prelabel_job.prelabel})  # type: ignore[dict-item]
        found = queue.get(job_id)
        assert found is not None
        return found

    return done


@pytest.fixture
def service(own: Settings, database: Database) -> JobService:
    return JobService(own, database)


@pytest.fixture
def ask(service: JobService, studio: FakeLabelStudio) -> Ask:
    return lambda options: service.push(studio.key, options, "for the test").job


def claimed(queue: JobQueue, job: Job) -> Job:
    claim = queue.claim(job.id, "here/1")
    assert claim is not None
    return claim


def test_done_and_told(ask: Ask, do: Do, studio: FakeLabelStudio) -> None:
    studio.broken = {3}
    job = do(ask(PrelabelOptions(("unlabelled",))).id)
    assert (job.state, job.message[:53]) == ("done", f"30 tasks have got their prediction of {VERSION[:15]}")
    assert "1 of them are empty" in job.message
    assert "tasks 3" in job.message
    assert studio.counts() == {1: 30}
    assert job.result is not None
    assert (job.result["model_version"], job.result["tasks"], job.result["empty"]) == (VERSION, 30, 1)
    nothing = do(ask(PrelabelOptions(("unlabelled",))).id)
    assert "Nothing to do" in nothing.message


def test_what_is_asked_for_while_one_waits_is_one_job(ask: Ask, do: Do, studio: FakeLabelStudio) -> None:
    for number in range(1, 31):
        studio.annotate(number, number, "red")
    first = ask(PrelabelOptions(tasks=(1, 2)))
    second = ask(PrelabelOptions(tasks=(2, 5), per_second=100))
    assert first.id == second.id
    assert PrelabelOptions.of(second.options) == PrelabelOptions(tasks=(1, 2, 5), per_second=100)
    do(first.id)
    assert sorted(task for portion in studio.portions for task in portion) == [1, 2, 5]


def test_what_is_asked_for_while_one_runs_is_done_after_it(
    ask: Ask, do: Do, studio: FakeLabelStudio, queue: JobQueue
) -> None:
    job = ask(PrelabelOptions(tasks=(1,)))
    claim = claimed(queue, job)
    ask(PrelabelOptions(tasks=(9,)))
    queue.fail(claim, "It failed.", retry=False)
    following = queue.jobs()[0]
    assert following.id != job.id
    assert do(following.id).state == "done"
    assert sorted(task for portion in studio.portions for task in portion) == [1, 9]


def test_its_own_portion_asks_for_no_further_job(
    ask: Ask, studio: FakeLabelStudio, queue: JobQueue, service: JobService
) -> None:
    """A portion that is late within the server comes from the job that is running."""
    job = ask(PrelabelOptions(("all",)))
    claim = claimed(queue, job)
    queue.checkpoint(claim, {"version": VERSION, "portion": [4, 5, 6]})
    assert service.prelabel(studio.key, [4, 5], "late")["job"] == job.id
    found = queue.get(job.id)
    assert found is not None
    assert found.rerun_reason is None
    service.prelabel(studio.key, [5, 7], "late")
    found = queue.get(job.id)
    assert found is not None
    assert (found.rerun_reason, PrelabelOptions.of(found.options).tasks) == ("late", (5, 7))


def test_the_server_hands_over_late_tasks(studio: FakeLabelStudio, service: JobService) -> None:
    said = service.prelabel(ProjectKey("", studio.key.id, studio.key.created), range(1, 501), "late")
    (job,) = service.queue.jobs(studio.key)
    assert (job.id, job.kind, job.reason) == (said["job"], "prelabel", "late")
    assert f"500 tasks were not done in time: job {job.id} goes on with them" in said["message"]
    unknown = service.prelabel(ProjectKey("", 99, 1), [1, 2], "late")
    assert "job" not in unknown
    assert "not known yet" in unknown["message"]


def test_a_kill_leaves_a_portion_that_the_next_attempt_waits_for(
    ask: Ask, do: Do, studio: FakeLabelStudio, queue: JobQueue, database: Database
) -> None:
    job = ask(PrelabelOptions(("all",)))
    claim = claimed(queue, job)
    queue.checkpoint(claim, {"version": VERSION, "portion": [1, 2, 3]}, progressed=True)
    make_old(database, job.id, 16)
    (taken,) = queue.expire()
    assert (taken.state, taken.attempt) == ("requested", 1)
    began = time.monotonic()

    def late(*_: object) -> None:
        wait_until(lambda: time.monotonic() - began > 0.3)
        for number in (1, 2, 3):
            studio.store(number, VERSION)

    threading.Thread(target=late).start()
    assert do(job.id).state == "done"
    assert studio.counts() == {1: 30}
    assert not {1, 2, 3} & {task for portion in studio.portions for task in portion}


def test_progress_makes_an_attempt_the_first(ask: Ask, queue: JobQueue, database: Database) -> None:
    """A long job may be killed more often than one that gets nowhere."""
    job = ask(PrelabelOptions(("all",)))
    for _ in range(5):
        make_due(database, job.id)
        claim = claimed(queue, job)
        queue.checkpoint(claim, {"version": VERSION, "portion": []}, progressed=True)
        make_old(database, job.id, 16)
        assert queue.expire()[0].state == "requested"


def test_others_go_first(ask: Ask, do: Do, queue: JobQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prelabel_job, "SLICE_S", 0.0)
    monkeypatch.setattr(prelabel_job, "OVERDUE_S", -1.0)
    job = ask(PrelabelOptions(("all",)))
    training = queue.request(KEY, "train", "pressed").job
    aside = do(job.id)
    assert (aside.state, aside.attempt, aside.message[:20]) == ("requested", 0, "Another job goes fir")
    claim = claimed(queue, training)
    queue.fail(claim, "", retry=False)
    assert do(job.id).state == "done"


def test_label_studio_is_away(ask: Ask, do: Do, studio: FakeLabelStudio) -> None:
    studio.legacy = "another"
    job = do(ask(PrelabelOptions(("all",))).id)
    assert job.state == "requested"
    assert "LABEL_STUDIO_API_KEY" in job.message
    studio.legacy = LEGACY
    assert do(job.id).state == "done"
