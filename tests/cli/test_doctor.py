"""`ram-backend doctor` looks at each step between Label Studio and the house, and names the remedy."""

import sys
from collections.abc import Iterator

import pytest
from sqlalchemy import text, update
from support.commands import connect, run
from support.jobs import CONFIG, claimed, make_old
from support.label_studio import LEGACY, VERSION, FakeLabelStudio
from support.server import choices_config, serving, setup_body
from support.tiny_model import colour_model

from ram_backend.cli.doctor import check_projects, examine
from ram_backend.database.engine import Database
from ram_backend.database.migrate import open_migrated
from ram_backend.jobs.job import Job
from ram_backend.jobs.table import JobTable
from ram_backend.labelstudio.provisioning import Check
from ram_backend.projects.keys import ProjectKey
from ram_backend.projects.table import ProjectTable
from ram_backend.server.app import create_app
from ram_backend.settings import load_settings


@pytest.fixture
def studio() -> Iterator[FakeLabelStudio]:
    with FakeLabelStudio.with_tasks() as there:
        there.hook("http://backend:9090/webhook")
        there.connected[0]["title"] = there.record["model_version"] = VERSION
        yield there


@pytest.fixture
def connected(studio: FakeLabelStudio, monkeypatch: pytest.MonkeyPatch) -> FakeLabelStudio:
    monkeypatch.setenv("LABEL_STUDIO_URL", studio.url)
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", LEGACY)
    connect(studio.key, CONFIG)
    return studio


@pytest.fixture
def database(connected: FakeLabelStudio) -> Database:
    return open_migrated(load_settings())


def projects() -> dict[str, Check]:
    settings = load_settings()
    return {each.what.partition(": ")[2]: each for each in check_projects(settings, open_migrated(settings))}


def report() -> dict[str, Check]:
    return {each.what: each for each in examine(load_settings())}


def test_a_fresh_installation_is_well_and_says_how_to_get_ram() -> None:
    found = report()
    assert {found[what].state for what in ("RAM_BUNDLE", "device", "database", "Redis")} == {"ok"}
    none = found["projects"]
    assert (none.state, "ram-backend connect" in none.remedy) == ("note", True)
    assert not load_settings().data_dir.exists(), "looking makes nothing"
    assert "bundles pull" in run("doctor")


@pytest.mark.parametrize(
    ("setting", "value", "what", "said"),
    [
        ("RAM_BUNDLE", "ram-huge", "served bundle", "ram-huge"),
        ("RAM_REDIS_URL", "redis://me:hidden@127.0.0.1:1/0", "Redis", "doesn't answer"),
        ("RAM_REDIS_URL", "localhost", "Redis", "RAM_REDIS_URL"),
        ("RAM_DATA_DIR", __file__, "data folder", "RAM_DATA_DIR"),
        ("LABEL_STUDIO_URL", "http://127.0.0.1:1", "Label Studio", "LABEL_STUDIO_URL"),
    ],
)
def test_a_wrong_setting(monkeypatch: pytest.MonkeyPatch, setting: str, value: str, what: str, said: str) -> None:
    monkeypatch.setenv(setting, value)
    finding = report()[what]
    assert finding.state == "bad"
    assert said in f"{finding.found} {finding.remedy}"
    assert "hidden" not in str(finding)
    run("doctor", status=1)


@pytest.mark.usefixtures("with_starter")
def test_a_starter_of_another_release(monkeypatch: pytest.MonkeyPatch) -> None:
    assert report()["RAM_BUNDLE"].state == "ok"
    monkeypatch.setattr(sys.modules["ram_backend.cli.doctor"], "starter_digest", lambda: "0" * 64)
    finding = report()["RAM_BUNDLE"]
    assert (finding.state, "another release" in finding.found, "remove" in finding.remedy) == ("note", True, True)


def test_all_is_well(connected: FakeLabelStudio, monkeypatch: pytest.MonkeyPatch) -> None:
    found = projects()
    assert {each.state for each in found.values()} == {"ok"}
    assert {"backend", "webhook", "predictions"} <= set(found)
    token = report()["Label Studio token"]
    assert (token.state, "a legacy token, of admin@example.com" in token.found) == ("ok", True)
    monkeypatch.delenv("LABEL_STUDIO_API_KEY")
    monkeypatch.setenv("LABEL_STUDIO_URL", f"{connected.url}/")
    found = report()
    assert (found["Label Studio"].state, "1.23.2" in found["Label Studio"].found) == ("ok", True)
    assert found["Label Studio token"].state == "note", "there is none"


def test_a_token_that_is_refused(connected: FakeLabelStudio, monkeypatch: pytest.MonkeyPatch) -> None:
    """Label Studio hands over a legacy token in `/setup` also where it takes none (protocol section 2)."""
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", "b" * 40)
    token = report()["Label Studio token"]
    assert token.state == "bad"
    assert "personal access token" in token.remedy
    assert "b" * 40 not in f"{token}"
    assert projects()["connection"].state == "note"
    connected.legacy = "another"
    monkeypatch.delenv("LABEL_STUDIO_API_KEY")
    token = projects()["token"]
    assert token.state != "ok"
    assert "LABEL_STUDIO_API_KEY" in token.remedy


def test_secret_and_backend(connected: FakeLabelStudio, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAM_WEBHOOK_SECRET", "hush")
    connected.connected[0] |= {"state": "DI", "url": "http://localhost:9090"}
    connected.hooks[0]["url"] = "http://localhost:9090/webhook"
    found = projects()
    assert "host.docker.internal" in found["backend"].remedy
    assert "X-RAM-Webhook-Secret" in found["webhook"].found
    assert "hush" not in str(found)


@pytest.mark.parametrize(
    ("pinned", "state", "remedy"),
    [
        ("http://localhost:1", "bad", "set LABEL_STUDIO_URL to its address as this machine sees it; `localhost`"),
        ("http://elsewhere:8080", "note", "pin-host"),
    ],
)
def test_the_host_that_setup_named_is_not_there_or_not_the_pinned_one(pinned: str, state: str, remedy: str) -> None:
    """From another container Label Studio's own idea of its address leads nowhere."""
    ProjectTable(connect(ProjectKey("http://localhost:1", 7, 70), CONFIG)).pin_host(pinned)
    finding = projects()["Label Studio"]
    assert (finding.state, remedy in finding.remedy) == (state, True)


def test_jobs_that_wait_or_failed_or_whose_worker_is_silent(connected: FakeLabelStudio, database: Database) -> None:
    queue = JobTable(database)
    job = queue.request(connected.key, "train", "pressed").job
    assert report()["workers"].state == "note"
    with database.writing() as session:
        early = job.requested_at.replace(year=2020)
        session.execute(update(Job).values(not_before=early, requested_at=early))
    finding = report()["jobs"]
    assert (finding.state, "ram-backend worker" in finding.remedy) == ("bad", True)
    claim = claimed(queue, job.id)
    make_old(database, job.id, 600)
    assert "no heartbeat" in report()["jobs"].found
    queue.fail(claim, "The folder can't be written.", retry=False)
    finding = report()["jobs"]
    assert (finding.state, finding.remedy) == ("note", "The folder can't be written.")
    with database.writing() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    assert report()["database"].state == "bad", "of a newer version"


def test_what_the_server_refused_has_a_remedy(studio: FakeLabelStudio, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "refused" not in report()
    settings = load_settings(max_new_tags=1)
    with serving(create_app(settings, model=colour_model(settings))) as server:
        monkeypatch.setenv("RAM_PORT", str(server.base_url.port))
        body = setup_body(choices_config("teal", "umber", "ochre"), studio)
        assert server.post("/setup", json=body).status_code == 400
        refused = report()["refused"]
    assert refused.state == "note"
    assert "1 requests with too many new tags" in refused.found
    assert "RAM_MAX_NEW_TAGS" in refused.remedy
