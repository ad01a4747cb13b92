"""After a swap: fresh predictions for unlabelled tasks, and Label Studio told which ones to show."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest
from sqlalchemy import insert
from support.jobs import CONFIG
from support.label_studio import LEGACY, FakeLabelStudio

from ram_backend.database.engine import Database
from ram_backend.jobs.job import Job
from ram_backend.jobs.queue import JobQueue, moment
from ram_backend.projects.project import Setup
from ram_backend.projects.table import ProjectTable, key_columns
from ram_backend.settings import Settings
from ram_backend.versions.records import ServedRow
from ram_backend.worker import prelabel as prelabel_module
from ram_backend.worker.run_job import JobContext, carry_out

OLD, NEW = "starter-aaaaaaaaaaaa", "starter-v0003-bbbbbbbbbbbb"

Refresh = Callable[..., Job]


@pytest.fixture
def studio(database: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeLabelStudio]:
    """Its backend serves v0003 by now, and Label Studio shows what the backend serves."""
    monkeypatch.setattr(prelabel_module, "LOOK_S", 0.01)
    monkeypatch.setattr(prelabel_module, "SWAP_S", 0.3)
    with FakeLabelStudio.with_tasks(7) as there:
        there.connected[0]["model_version"] = NEW
        there.record["model_version"] = there.connected[0]["title"]
        setup = Setup.read(there.key, label_config=CONFIG, access_token=None, extra_params=None)
        ProjectTable(database).apply(setup)
        yield there


@pytest.fixture
def refresh(settings: Settings, database: Database, queue: JobQueue, studio: FakeLabelStudio) -> Refresh:
    def done(served: str | None = "v0003", **changes: object) -> Job:
        with database.writing() as session:
            row = {**key_columns(studio.key), "version": served, "pinned": False, "change": 1}
            session.execute(insert(ServedRow).values(**row, updated_at=moment(session)))
        job = queue.request(studio.key, "refresh", "v0003 is served").job
        own = {"label_studio_url": studio.url, "label_studio_api_key": LEGACY, "refresh_portion": 3, **changes}
        carry_out(settings.model_copy(update=own), database, job.id)
        found = queue.get(job.id)
        assert found is not None
        return found

    return done


def test_portions_then_the_title(studio: FakeLabelStudio, refresh: Refresh) -> None:
    studio.annotate(7, 7, "red")
    studio.store(1, OLD)
    job = refresh()
    assert job.state == "done", job.message
    assert studio.portions == [[1, 2, 3], [4, 5, 6]]
    assert (studio.connected[0]["title"], studio.record["model_version"]) == (NEW, NEW)
    assert job.result is not None
    assert (job.result["model_version"], job.result["tasks"], job.result["order"]) == (NEW, 6, "by uncertainty")


def test_it_waits_for_the_swap(studio: FakeLabelStudio, refresh: Refresh, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prelabel_module, "SWAP_S", 30.0)
    studio.connected[0]["model_version"] = OLD
    threading.Timer(0.2, lambda: studio.connected[0].update(model_version=NEW)).start()
    assert refresh().state == "done"
    assert studio.counts(NEW) == {1: 7}


def test_after_a_rollback_to_the_base(studio: FakeLabelStudio, refresh: Refresh) -> None:
    studio.connected[0]["model_version"] = OLD
    assert refresh(served=None).state == "done"
    assert studio.counts(OLD) == {1: 7}
    assert studio.record["model_version"] == OLD


def test_a_project_that_shows_none_is_set(studio: FakeLabelStudio, refresh: Refresh) -> None:
    """Deleting predictions under Settings clears it (protocol section 4)."""
    studio.record["model_version"] = ""
    assert refresh().state == "done"
    assert studio.record["model_version"] == NEW


def test_a_version_that_somebody_has_chosen_stays(studio: FakeLabelStudio, refresh: Refresh) -> None:
    studio.record["model_version"] = "theirs"
    job = refresh()
    assert (studio.record["model_version"], studio.counts(NEW)) == ("theirs", {1: 7})
    assert "goes on showing those of 'theirs'" in job.message
    assert (job.result or {})["order"] == "as set"


def test_a_server_that_serves_something_else(studio: FakeLabelStudio, refresh: Refresh) -> None:
    """A quarantined version, for instance: Label Studio is left as it is."""
    studio.connected[0]["model_version"] = OLD
    job = refresh()
    assert (job.state, studio.portions) == ("done", [])
    assert "knows no backend of the project that serves v0003" in job.message
    assert studio.connected[0]["title"] != NEW


def test_without_rights_it_stays_live_and_says_so(studio: FakeLabelStudio, refresh: Refresh) -> None:
    studio.legacy = "another"
    job = refresh()
    assert (job.state, (job.result or {})["order"]) == ("done", "random")
    assert job.message.startswith("Predictions stay live, and the order by uncertainty is random: ")
    assert "LABEL_STUDIO_API_KEY" in job.message


def test_label_studio_is_away(refresh: Refresh) -> None:
    job = refresh(label_studio_url="http://127.0.0.1:1")
    assert (job.state, job.attempt) == ("requested", 1)


def test_more_tasks_than_wanted(studio: FakeLabelStudio, refresh: Refresh) -> None:
    job = refresh(refresh_tasks=4)
    assert job.result is not None
    assert (job.result["tasks"], job.result["left"]) == (4, 3)
    assert "3 more are unlabelled than RAM_REFRESH_TASKS" in job.message


def test_predictions_that_are_not_stored(studio: FakeLabelStudio, refresh: Refresh) -> None:
    """Label Studio answers as if all were well where the backend did not answer in time."""
    studio.seconds, studio.gives_up_after = 0.001, 0
    for number in range(8, 15):
        studio.task(number)
    job = refresh()
    assert job.state == "requested"
    assert "stores no predictions" in job.message


def test_no_label_studio(refresh: Refresh, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(JobContext, "open_project", lambda _: (None, None))
    job = refresh()
    assert (job.state, "Nobody has named the Label Studio" in job.message) == ("done", True)
