"""`ram-backend doctor` looks at each step between Label Studio and the house, and names the remedy."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import text, update
from support.jobs import CONFIG, make_old
from support.label_studio import LEGACY, VERSION, FakeLabelStudio

from ram_backend.cli.doctor import examine
from ram_backend.cli.label_studio_checks import check_label_studio, check_projects
from ram_backend.database.engine import Database
from ram_backend.database.migrate import open_migrated
from ram_backend.jobs.job import Job
from ram_backend.jobs.queue import JobQueue
from ram_backend.labelstudio.diagnosis import Finding, State
from ram_backend.projects.keys import ProjectKey
from ram_backend.projects.project import Setup
from ram_backend.projects.table import ProjectTable
from ram_backend.settings import load_settings


@pytest.fixture
def studio() -> Iterator[FakeLabelStudio]:
    with FakeLabelStudio.with_tasks() as there:
        there.hook("http://backend:9090/webhook")
        there.connected[0]["title"] = there.record["model_version"] = VERSION
        yield there


@pytest.fixture
def database() -> Iterator[Database]:
    there = open_migrated(load_settings())
    yield there
    there.close()


@pytest.fixture
def connected(studio: FakeLabelStudio, database: Database, monkeypatch: pytest.MonkeyPatch) -> FakeLabelStudio:
    monkeypatch.setenv("LABEL_STUDIO_URL", studio.url)
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", LEGACY)
    ProjectTable(database).apply(Setup.read(studio.key, label_config=CONFIG, access_token=None, extra_params=None))
    return studio


def projects() -> dict[str, Finding]:
    return {each.what.partition(": ")[2]: each for each in check_projects(load_settings())}


def house() -> dict[str, Finding]:
    return {each.what: each for each in examine(load_settings())}


def test_all_is_well(connected: FakeLabelStudio) -> None:
    report = projects()
    assert {each.state for each in report.values()} == {State.ok}
    assert {"backend", "webhook", "predictions"} <= set(report)
    token = {each.what: each for each in check_label_studio(load_settings())}["Label Studio token"]
    assert (token.state, "a legacy token, of admin@example.com" in token.found) == (State.ok, True)


def test_a_fresh_installation_is_no_error() -> None:
    settings = load_settings()
    assert house()["database"].state is State.ok
    (none,) = check_projects(settings)
    assert (none.state, "ram-backend connect" in none.remedy) == (State.note, True)
    assert not settings.data_dir.exists(), "looking makes nothing"


def test_a_token_that_is_refused(connected: FakeLabelStudio, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", "b" * 40)
    token = {each.what: each for each in check_label_studio(load_settings())}["Label Studio token"]
    assert token.state is State.bad
    assert "personal access token" in token.remedy
    assert "b" * 40 not in f"{token}"
    assert projects()["connection"].state is State.note


def test_the_token_of_setup_is_off_by_default(connected: FakeLabelStudio, monkeypatch: pytest.MonkeyPatch) -> None:
    """Label Studio hands over a legacy token also where it takes none (protocol section 2)."""
    monkeypatch.delenv("LABEL_STUDIO_API_KEY")
    token = projects()["token"]
    assert token.state is not State.ok
    assert "LABEL_STUDIO_API_KEY" in token.remedy


def test_secret_and_backend(connected: FakeLabelStudio, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAM_WEBHOOK_SECRET", "hush")
    connected.connected[0] |= {"state": "DI", "url": "http://localhost:9090"}
    connected.hooks[0]["url"] = "http://localhost:9090/webhook"
    report = projects()
    assert "host.docker.internal" in report["backend"].remedy
    assert "X-RAM-Webhook-Secret" in report["webhook"].found
    assert "hush" not in str(report)


def test_label_studio_that_calls_itself_localhost(
    studio: FakeLabelStudio, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From another container its own idea of its address leads nowhere."""
    queue = ProjectTable(database)
    key = ProjectKey("http://localhost:1", 7, 70)
    queue.apply(Setup.read(key, label_config=CONFIG, access_token="t" * 40, extra_params=None))
    queue.pin_host("http://localhost:1")
    finding = projects()["Label Studio"]
    assert finding.state is State.bad
    assert "set LABEL_STUDIO_URL" in finding.remedy
    assert "this container" in finding.remedy


def test_another_host_than_the_pinned_one(studio: FakeLabelStudio, database: Database) -> None:
    queue = ProjectTable(database)
    queue.apply(Setup.read(studio.key, label_config=CONFIG, access_token="t" * 40, extra_params=None))
    queue.pin_host("http://elsewhere:8080")
    finding = projects()["Label Studio"]
    assert (finding.state, "pin-host" in finding.remedy) == (State.note, True)


def test_no_worker_and_jobs_that_wait(connected: FakeLabelStudio, database: Database) -> None:
    queue = JobQueue(database)
    job = queue.request(connected.key, "train", "pressed").job
    assert house()["workers"].state is State.note
    with database.writing() as session:
        early = job.requested_at.replace(year=2020)
        session.execute(update(Job).values(not_before=early, requested_at=early))
    finding = house()["jobs"]
    assert (finding.state, "ram-backend worker" in finding.remedy) == (State.bad, True)


def test_a_job_whose_worker_is_silent(connected: FakeLabelStudio, database: Database) -> None:
    queue = JobQueue(database)
    job = queue.request(connected.key, "train", "pressed").job
    assert queue.claim(job.id, "dead/1") is not None
    make_old(database, job.id, 600)
    assert "no sign of life" in house()["jobs"].found


def test_a_job_that_failed(connected: FakeLabelStudio, database: Database) -> None:
    queue = JobQueue(database)
    claim = queue.claim(queue.request(connected.key, "train", "pressed").job.id, "here/1")
    assert claim is not None
    queue.fail(claim, "The folder can't be written.", retry=False)
    finding = house()["jobs"]
    assert (finding.state, finding.remedy) == (State.note, "The folder can't be written.")


def test_a_queue_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAM_REDIS_URL", "redis://127.0.0.1:1/0")
    assert house()["workers"].state is State.bad


def test_a_database_of_a_newer_version(database: Database) -> None:
    with database.writing() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    assert house()["database"].state is State.bad
    assert {each.state for each in check_projects(load_settings())} <= {State.note}
