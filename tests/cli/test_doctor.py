"""`ram-backend doctor` looks at each step between Label Studio and the house, and names the remedy."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest
from sqlalchemy import text, update
from support.jobs import CONFIG, make_old
from support.label_studio import LEGACY, VERSION, FakeLabelStudio
from typer.testing import CliRunner

from ram_backend.cli.doctor import examine
from ram_backend.cli.label_studio_checks import check_projects
from ram_backend.cli.main import app
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


def report() -> dict[str, Finding]:
    return {each.what: each for each in examine(load_settings())}


def test_a_fresh_installation_is_well_and_says_how_to_get_ram() -> None:
    found = report()
    assert {found[what].state for what in ("RAM_BUNDLE", "device", "database", "Redis")} == {State.ok}
    (none,) = check_projects(load_settings())
    assert (none.state, "ram-backend connect" in none.remedy) == (State.note, True)
    assert not load_settings().data_dir.exists(), "looking makes nothing"
    result = CliRunner().invoke(app, ["doctor"])
    assert (result.exit_code, "bundles pull" in result.stdout) == (0, True)


@pytest.mark.parametrize(
    ("setting", "value", "what", "said"),
    [
        ("RAM_BUNDLE", "ram-huge", "served bundle", "ram-huge"),
        ("RAM_REDIS_URL", "redis://me:hidden@127.0.0.1:1/0", "Redis", "RAM_REDIS_URL"),
        ("RAM_REDIS_URL", "redis://me:hidden@127.0.0.1:1/0", "workers", "doesn't answer"),
        ("RAM_REDIS_URL", "localhost", "Redis", "RAM_REDIS_URL"),
        ("RAM_DATA_DIR", __file__, "data folder", "RAM_DATA_DIR"),
        ("LABEL_STUDIO_URL", "http://127.0.0.1:1", "Label Studio", "LABEL_STUDIO_URL"),
    ],
)
def test_a_setting_that_leads_nowhere(
    monkeypatch: pytest.MonkeyPatch, setting: str, value: str, what: str, said: str
) -> None:
    monkeypatch.setenv(setting, value)
    finding = report()[what]
    assert finding.state is State.bad
    assert said in f"{finding.found} {finding.remedy}"
    assert "hidden" not in str(finding)
    assert CliRunner().invoke(app, ["doctor"]).exit_code == 1


@pytest.mark.usefixtures("with_starter")
def test_a_starter_of_another_release(monkeypatch: pytest.MonkeyPatch) -> None:
    assert report()["RAM_BUNDLE"].state is State.ok
    monkeypatch.setattr(sys.modules["ram_backend.cli.doctor"], "starter_digest", lambda: "0" * 64)
    finding = report()["RAM_BUNDLE"]
    assert finding.state is State.note
    assert "another release" in finding.found
    assert "remove" in finding.remedy


def test_label_studio_without_a_token(studio: FakeLabelStudio, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LABEL_STUDIO_URL", f"{studio.url}/")
    found = report()
    assert (found["Label Studio"].state, "1.23.2" in found["Label Studio"].found) == (State.ok, True)
    assert found["Label Studio token"].state is State.note


def test_all_is_well(connected: FakeLabelStudio) -> None:
    found = projects()
    assert {each.state for each in found.values()} == {State.ok}
    assert {"backend", "webhook", "predictions"} <= set(found)
    token = report()["Label Studio token"]
    assert (token.state, "a legacy token, of admin@example.com" in token.found) == (State.ok, True)


def test_a_token_that_is_refused(connected: FakeLabelStudio, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", "b" * 40)
    token = report()["Label Studio token"]
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
    found = projects()
    assert "host.docker.internal" in found["backend"].remedy
    assert "X-RAM-Webhook-Secret" in found["webhook"].found
    assert "hush" not in str(found)


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
    assert report()["workers"].state is State.note
    with database.writing() as session:
        early = job.requested_at.replace(year=2020)
        session.execute(update(Job).values(not_before=early, requested_at=early))
    finding = report()["jobs"]
    assert (finding.state, "ram-backend worker" in finding.remedy) == (State.bad, True)


def test_a_job_whose_worker_is_silent(connected: FakeLabelStudio, database: Database) -> None:
    queue = JobQueue(database)
    job = queue.request(connected.key, "train", "pressed").job
    assert queue.claim(job.id, "dead/1") is not None
    make_old(database, job.id, 600)
    assert "no sign of life" in report()["jobs"].found


def test_a_job_that_failed(connected: FakeLabelStudio, database: Database) -> None:
    queue = JobQueue(database)
    claim = queue.claim(queue.request(connected.key, "train", "pressed").job.id, "here/1")
    assert claim is not None
    queue.fail(claim, "The folder can't be written.", retry=False)
    finding = report()["jobs"]
    assert (finding.state, finding.remedy) == (State.note, "The folder can't be written.")


def test_a_database_of_a_newer_version(database: Database) -> None:
    with database.writing() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    assert report()["database"].state is State.bad
    assert {each.state for each in check_projects(load_settings())} <= {State.note}
