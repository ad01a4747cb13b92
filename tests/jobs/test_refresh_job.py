"""After a swap: fresh predictions for unlabelled tasks, and Label Studio told which ones to show."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from types import SimpleNamespace

import pytest
from jobs.making import KEY, this_worker
from sqlalchemy import insert

from ram_backend.database.engine import Database
from ram_backend.errors import LabelStudioRefused, LabelStudioUnauthorized, LabelStudioUnreachable
from ram_backend.jobs.job import Job
from ram_backend.jobs.table import JobTable
from ram_backend.labelstudio.project_api import ConnectedBackend, ListedTask, ProjectState
from ram_backend.settings import Settings
from ram_backend.versions.rows import ServedRow
from ram_backend.worker import refresh as refresh_job
from ram_backend.worker.run_job import carry_out

OLD, NEW = "starter-aaaaaaaaaaaa", "starter-v0003-bbbbbbbbbbbb"


class Api:
    """Label Studio's API, as far as a refresh asks it; notes what was done to it, in order."""

    def __init__(self) -> None:
        self.backend = ConnectedBackend(4, "http://backend:9090", "ram", OLD)
        self.becomes: list[str] = []
        self.done: list[tuple[str, object]] = []
        self.numbers = list(range(1, 8))
        self.predicted: dict[int, str] = {}
        self.project = "ram"
        self.fails: Exception | None = None
        self.stores = True

    def backends(self) -> list[ConnectedBackend]:
        if self.fails is not None:
            raise self.fails
        if self.becomes:
            self.backend = replace(self.backend, model_version=self.becomes.pop(0))
        return [self.backend]

    def unlabelled(self) -> Iterator[int]:
        yield from self.numbers

    def retrieve(self, tasks: Sequence[int]) -> None:
        self.done.append(("retrieve", list(tasks)))
        if self.stores:
            self.predicted |= dict.fromkeys(tasks, str(self.backend.model_version))

    def tasks(self, numbers: Sequence[int]) -> Iterator[ListedTask]:
        for number in numbers:
            yield ListedTask(number, {}, (), ({"model_version": self.predicted.get(number, OLD)},))

    def state(self) -> ProjectState:
        return ProjectState(KEY.created, self.project, "<View/>")

    def set_project_version(self, version: str) -> None:
        self.done.append(("project", version))
        self.project = version

    def set_backend_title(self, backend: ConnectedBackend, title: str, login: object = None) -> None:
        """A project that names the title goes along with it."""
        self.done.append(("title", title))
        if self.project == backend.title:
            self.project = title


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Api:
    there = Api()
    monkeypatch.setattr(refresh_job, "open_place", lambda *_: SimpleNamespace(api=there))
    monkeypatch.setattr(refresh_job, "LOOK_S", 0.01)
    monkeypatch.setattr(refresh_job, "SWAP_S", 0.2)
    return there


@pytest.fixture
def refresh(settings: Settings, database: Database, table: JobTable) -> Callable[..., Job]:
    def done(served: str | None = "v0003", **changes: object) -> Job:
        with database.writing() as session:
            row = {"instance": KEY.instance, "project_id": KEY.id, "created": KEY.created}
            with database.reading() as reading:
                moment = refresh_moment(reading)
            session.execute(insert(ServedRow).values(**row, version=served, pinned=False, change=1, updated_at=moment))
        job = table.request(KEY, "refresh", "v0003 is served").job
        own = settings.model_copy(update={"refresh_portion": 3, **changes})
        functions = {"refresh": refresh_job.refresh}
        carry_out(own, database, job.id, functions, worker=this_worker())  # type: ignore[arg-type]
        found = table.get(job.id)
        assert found is not None
        return found

    return done


def refresh_moment(session: object) -> object:
    from ram_backend.jobs.transactions import moment

    return moment(session)  # type: ignore[arg-type]


def test_portions_then_the_title(api: Api, refresh: Callable[..., Job]) -> None:
    api.becomes = [OLD, OLD, NEW]
    job = refresh()
    assert job.state == "done", job.message
    portions = [("retrieve", [1, 2, 3]), ("retrieve", [4, 5, 6]), ("retrieve", [7])]
    assert api.done == [*portions, ("title", NEW)]
    assert api.project == NEW
    assert job.result is not None
    assert (job.result["model_version"], job.result["tasks"], job.result["order"]) == (NEW, 7, "by uncertainty")


def test_after_a_rollback_to_the_base(api: Api, refresh: Callable[..., Job]) -> None:
    api.becomes = [NEW, NEW, OLD]
    assert refresh(served=None).state == "done"
    assert api.done[-1] == ("title", OLD)
    assert api.project == OLD


def test_what_is_right_is_left_alone(api: Api, refresh: Callable[..., Job]) -> None:
    api.becomes, api.backend, api.project = [NEW], replace(api.backend, title=NEW), NEW
    assert refresh().state == "done"
    assert {what for what, _ in api.done} == {"retrieve"}


def test_a_project_that_shows_none_is_set(api: Api, refresh: Callable[..., Job]) -> None:
    """Deleting predictions under Settings clears it (protocol section 4)."""
    api.becomes, api.project = [NEW], ""
    assert refresh().state == "done"
    assert api.done[-2:] == [("title", NEW), ("project", NEW)]


def test_a_version_that_somebody_has_chosen_stays(api: Api, refresh: Callable[..., Job]) -> None:
    api.becomes, api.project = [NEW], "theirs"
    job = refresh()
    assert {what for what, _ in api.done} == {"retrieve"}
    assert "goes on showing those of 'theirs'" in job.message


def test_a_server_that_serves_something_else(api: Api, refresh: Callable[..., Job]) -> None:
    """A quarantined version, for instance: Label Studio is left as it is."""
    job = refresh()
    assert job.state == "done"
    assert "knows no backend of the project that serves v0003" in job.message
    assert api.done == []


@pytest.mark.parametrize(
    "error", [LabelStudioUnauthorized("It refuses our token."), LabelStudioRefused("You may not do that.")]
)
def test_without_rights_it_stays_live_and_says_so(api: Api, refresh: Callable[..., Job], error: Exception) -> None:
    api.fails = error
    job = refresh()
    assert (job.state, (job.result or {})["order"]) == ("done", "random")
    assert job.message.startswith("Predictions stay live, and the order by uncertainty is random: ")
    assert str(error).rstrip(".") in job.message


def test_label_studio_is_away(api: Api, refresh: Callable[..., Job]) -> None:
    api.fails = LabelStudioUnreachable("Label Studio doesn't answer.")
    job = refresh()
    assert (job.state, job.message) == ("requested", "Label Studio doesn't answer.")


def test_more_tasks_than_wanted(api: Api, refresh: Callable[..., Job]) -> None:
    api.becomes = [NEW]
    job = refresh(refresh_tasks=4)
    assert (job.result or {})["tasks"] == 4
    assert "More tasks are unlabelled than RAM_REFRESH_TASKS" in job.message


def test_predictions_that_are_not_stored(api: Api, refresh: Callable[..., Job]) -> None:
    """Label Studio answers as if all were well where the backend did not answer in time."""
    api.becomes, api.stores = [NEW], False
    job = refresh()
    assert job.state == "requested"
    assert "stores no predictions" in job.message
    assert {what for what, _ in api.done} == {"retrieve"}


def test_no_label_studio(refresh: Callable[..., Job], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refresh_job, "open_place", lambda *_: SimpleNamespace(api=None))
    job = refresh()
    assert (job.state, "nobody has named its Label Studio" in job.message) == ("done", True)
