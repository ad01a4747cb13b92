"""Pre-labelling as a job, gone on with after a kill; the refresh after a swap, and what Label Studio then shows."""

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import insert
from support.jobs import claimed, connect, job_of, make_due, make_old
from support.label_studio import LEGACY, VERSION, FakeLabelStudio

from ram_backend.database.engine import Database
from ram_backend.errors import ProjectNotFound
from ram_backend.jobs.job import Job, JobOptions
from ram_backend.jobs.service import JobService
from ram_backend.jobs.table import database_now
from ram_backend.projects.keys import ProjectKey
from ram_backend.projects.table import key_columns
from ram_backend.settings import Settings
from ram_backend.versions.records import ServedRow
from ram_backend.worker import prelabel
from ram_backend.worker.run_job import JobContext, claim_and_run

OLD, NEW = "starter-aaaaaaaaaaaa", "starter-v0003-bbbbbbbbbbbb"
ALL = JobOptions(("all",))
TASKS = 14


@pytest.fixture
def studio(database: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeLabelStudio]:
    monkeypatch.setattr(prelabel, "LOOK_S", 0.01)
    monkeypatch.setattr(prelabel, "SWAP_S", 0.3)
    with FakeLabelStudio.with_tasks(TASKS) as there:
        connect(database, there.key)
        yield there


class Pushes:
    """Pre-labellings and refreshes of the project, done in this process."""

    def __init__(self, settings: Settings, database: Database, studio: FakeLabelStudio) -> None:
        known = {"label_studio_url": studio.url, "label_studio_api_key": LEGACY, "refresh_portion": 3}
        self.settings, self.database, self.key = settings.model_copy(update=known), database, studio.key
        self.service = JobService(self.settings, database)
        self.queue = self.service.table

    def request(self, options: JobOptions) -> Job:
        return self.service.request_prelabelling(self.key, options, "for the test").job

    def claim(self, job: Job) -> Job:
        make_due(self.database, job.id)
        return claimed(self.queue, job.id)

    def do(self, job: Job, **changes: Any) -> Job:
        make_due(self.database, job.id)
        claim_and_run(self.settings.model_copy(update=changes), self.database, job.id)
        return job_of(self.queue, job.id)

    def push(self, options: JobOptions) -> Job:
        return self.do(self.request(options))

    def refresh(self, served: str | None = "v0003", **changes: Any) -> Job:
        """After a swap to that version."""
        with self.database.writing() as session:
            row = {**key_columns(self.key), "version": served, "pinned": False, "change": 1}
            session.execute(insert(ServedRow).values(**row, updated_at=database_now(session)))
        return self.do(self.queue.request(self.key, "refresh", f"{served} is served").job, **changes)


@pytest.fixture
def jobs(settings: Settings, database: Database, studio: FakeLabelStudio) -> Pushes:
    return Pushes(settings, database, studio)


@pytest.fixture
def swapped(studio: FakeLabelStudio) -> FakeLabelStudio:
    """Its backend serves v0003 by now, and Label Studio shows what the backend serves."""
    studio.connected[0]["model_version"] = NEW
    studio.record["model_version"] = studio.connected[0]["title"]
    return studio


def test_a_result_and_its_message(jobs: Pushes, studio: FakeLabelStudio) -> None:
    studio.broken = {3}
    job = jobs.push(JobOptions(("unlabelled",)))
    assert job.state == "done"
    assert f"14 tasks have got their prediction of {VERSION}. 1 of them are empty" in job.message
    assert "(tasks 3). Asking with --retry-failed tries those again." in job.message
    assert studio.counts() == {1: TASKS}
    assert (job.result["model_version"], job.result["tasks"], job.result["empty"]) == (VERSION, TASKS, 1)
    assert "Nothing to do" in jobs.push(JobOptions(("unlabelled",))).message


def test_requests_while_one_waits_are_one_job(jobs: Pushes, studio: FakeLabelStudio) -> None:
    for number in range(1, TASKS + 1):
        studio.annotate(number, number, "red")
    first = jobs.request(JobOptions(tasks=(1, 2)))
    second = jobs.request(JobOptions(tasks=(2, 5), per_second=100))
    assert first.id == second.id
    assert JobOptions.of(second.options) == JobOptions(tasks=(1, 2, 5), per_second=100)
    jobs.do(first)
    assert sorted(studio.requested) == [1, 2, 5]


def test_a_request_while_one_runs_is_done_after_it(jobs: Pushes, studio: FakeLabelStudio) -> None:
    claim = jobs.claim(jobs.request(JobOptions(tasks=(1,))))
    jobs.request(JobOptions(tasks=(9,)))
    jobs.queue.fail(claim, "It failed.", retry=False)
    following = jobs.queue.jobs()[0]
    assert following.id != claim.id
    assert jobs.do(following).state == "done"
    assert sorted(studio.requested) == [1, 9]


def test_an_unknown_project_gets_none(jobs: Pushes) -> None:
    with pytest.raises(ProjectNotFound, match="not known yet"):
        jobs.service.request_prelabelling(ProjectKey("", 99, 1), ALL, "late")


def test_progress_makes_an_attempt_the_first(jobs: Pushes) -> None:
    """A long job may be killed more often than one that gets nowhere."""
    job = jobs.request(ALL)
    for _ in range(5):
        jobs.queue.checkpoint(jobs.claim(job), {"version": VERSION, "portion": []}, progressed=True)
        make_old(jobs.database, job.id, 16)
        assert jobs.queue.expire()[0].state == "requested"


def test_others_go_first(jobs: Pushes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prelabel, "SLICE_S", 0.0)
    monkeypatch.setattr(prelabel, "OVERDUE_S", -1.0)
    training = jobs.queue.request(jobs.key, "train", "pressed").job
    aside = jobs.push(ALL)
    assert (aside.state, aside.attempt, aside.message[:20]) == ("requested", 0, "Another job goes fir")
    jobs.queue.fail(jobs.claim(training), "", retry=False)
    assert jobs.do(aside).state == "done"


def test_a_token_that_is_not_taken(jobs: Pushes, studio: FakeLabelStudio) -> None:
    """A pre-labelling waits; a refresh leaves the project as it is, and says so."""
    studio.legacy = "another"
    job, refresh = jobs.push(ALL), jobs.refresh()
    assert job.state == "requested"
    assert (refresh.state, (refresh.result or {})["order"]) == ("done", "random")
    assert refresh.message.startswith("Predictions stay live, and the order by uncertainty is random: ")
    assert all("LABEL_STUDIO_API_KEY" in each.message for each in (job, refresh))
    studio.legacy = LEGACY
    assert jobs.do(job).state == "done"


def test_portions_then_the_title(jobs: Pushes, swapped: FakeLabelStudio) -> None:
    for number in range(7, TASKS + 1):
        swapped.annotate(number, number, "red")
    swapped.store(1, OLD)
    job = jobs.refresh()
    assert job.state == "done", job.message
    assert swapped.portions == [[1, 2, 3], [4, 5, 6]]
    assert (swapped.connected[0]["title"], swapped.record["model_version"]) == (NEW, NEW)
    assert (job.result["model_version"], job.result["tasks"], job.result["order"]) == (NEW, 6, "by uncertainty")


def test_it_waits_for_the_swap(jobs: Pushes, swapped: FakeLabelStudio, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prelabel, "SWAP_S", 300.0)
    swapped.connected[0]["model_version"] = OLD
    threading.Timer(0.2, lambda: swapped.connected[0].update(model_version=NEW)).start()
    assert jobs.refresh().state == "done"
    assert swapped.counts(NEW) == {1: TASKS}


def test_after_a_rollback_to_the_base(jobs: Pushes, swapped: FakeLabelStudio) -> None:
    swapped.connected[0]["model_version"] = OLD
    assert jobs.refresh(served=None).state == "done"
    assert (swapped.counts(OLD), swapped.record["model_version"]) == ({1: TASKS}, OLD)


@pytest.mark.parametrize(
    ("before", "after", "order", "message"),
    [("", NEW, "by uncertainty", "Label Studio shows these"), ("theirs", "theirs", "as set", "those of 'theirs'")],
    ids=["none", "chosen by somebody"],
)
def test_the_version_that_a_project_shows(
    jobs: Pushes, swapped: FakeLabelStudio, before: str, after: str, order: str, message: str
) -> None:
    """Deleting predictions under Settings clears it (protocol section 4)."""
    swapped.record["model_version"] = before
    job = jobs.refresh()
    assert (swapped.record["model_version"], swapped.counts(NEW)) == (after, {1: TASKS})
    assert (job.result or {})["order"] == order
    assert message in job.message


def test_a_server_that_serves_something_else(jobs: Pushes, swapped: FakeLabelStudio) -> None:
    """A quarantined version, for instance: Label Studio is left as it is."""
    swapped.connected[0]["model_version"] = OLD
    job = jobs.refresh()
    assert (job.state, swapped.portions) == ("done", [])
    assert "knows no backend of the project that serves v0003" in job.message
    assert swapped.connected[0]["title"] != NEW


def test_more_tasks_than_wanted(jobs: Pushes, swapped: FakeLabelStudio) -> None:
    job = jobs.refresh(refresh_tasks=4)
    assert (job.result["tasks"], job.result["left"]) == (4, 10)
    assert "10 more unlabelled tasks exceed RAM_REFRESH_TASKS" in job.message


def test_label_studio_is_away_or_stores_nothing(jobs: Pushes, swapped: FakeLabelStudio) -> None:
    """It answers as if all were well where the backend did not answer in time."""
    swapped.seconds, swapped.gives_up_after = 0.001, 0
    job = jobs.refresh()
    assert (job.state, job.attempt, "stores no predictions" in job.message) == ("requested", 1, True)
    job = jobs.do(job, label_studio_url="http://127.0.0.1:1")
    assert (job.state, job.attempt) == ("requested", 2)


def test_no_label_studio(jobs: Pushes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(JobContext, "open_project", lambda _: (None, None))
    for job, state in ((jobs.refresh(), "done"), (jobs.push(ALL), "requested")):
        assert (job.state, "Nobody has named the Label Studio" in job.message) == (state, True)
