"""Shared fixtures, and the rule that a skip is a failure where everything is required (`RAM_REQUIRE_ALL=1`)."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings
from support.http_server import HttpServer
from support.label_studio import LEGACY, FakeLabelStudio

from ram_backend.database.engine import Database
from ram_backend.database.migrate import open_migrated
from ram_backend.feedback.ledger import Ledger
from ram_backend.labelstudio.client import LabelStudio
from ram_backend.labelstudio.project_api import ProjectApi
from ram_backend.settings import Settings, load_settings
from ram_backend.versions.table import VersionTable

if TYPE_CHECKING:
    from support.postgres import Cluster

REPOSITORY = Path(__file__).resolve().parent.parent
NO_SHARED = "the folder of reference data is not beside the repository"

os.environ.pop("COLUMNS", None)  # xdist's own: tables would be as narrow
hypothesis_settings.register_profile(
    "any machine", hypothesis_settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
hypothesis_settings.load_profile("any machine")  # how fast a machine is decides no test


@pytest.fixture(scope="session")
def shared() -> Path:
    """Reference numbers and labelled photos beside the repository; tests that use them skip where they are missing."""
    folder = Path(os.environ.get("RAM_SHARED", REPOSITORY.parent / "shared"))
    if not folder.is_dir():
        pytest.skip(NO_SHARED)
    return folder


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Tests see no setting of the machine they run on, use no GPU, and write to no data folder but their own."""
    for name in list(os.environ):
        if name.startswith(("RAM_", "LABEL_STUDIO_")) and name not in {"RAM_SHARED", "RAM_REQUIRE_ALL"}:
            monkeypatch.delenv(name)
    monkeypatch.setenv("RAM_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("RAM_DEVICE", "cpu")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report = yield
    if os.environ.get("RAM_REQUIRE_ALL") and report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        if NO_SHARED not in reason:
            report.outcome = "failed"
            report.longrepr = f"skipped where everything is required: {reason}"
    return report


@pytest.fixture(scope="session")
def starter_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with the starter bundle and its text encoder, once per session; read-only by agreement."""
    from support import starter

    base = tmp_path_factory.getbasetemp()
    installed = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "installed"
    starter.install(installed)
    return starter.lend(installed, tmp_path_factory.mktemp("starter-data"))


@pytest.fixture
def with_starter(starter_data: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The environment of somebody who has used the starter bundle before."""
    monkeypatch.setenv("RAM_DATA_DIR", str(starter_data))
    return starter_data


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A PostgreSQL server of our own; each `new_database()` is the address of an empty database."""
    from support.postgres import Cluster, find_programs

    made = Cluster(find_programs())
    try:
        made.start()
        yield made
    finally:
        made.stop(for_good=True)
        shutil.rmtree(made.folder, ignore_errors=True)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.service)])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    """Settings with an empty database of either kind."""
    if request.param == "sqlite":
        return load_settings(data_dir=tmp_path / "data")
    return load_settings(data_dir=tmp_path / "data", database_url=request.getfixturevalue("cluster").new_database())


@pytest.fixture
def database(settings: Settings) -> Iterator[Database]:
    """That database, migrated."""
    opened = open_migrated(settings)
    yield opened
    opened.close()


@pytest.fixture
def ledger(database: Database) -> Ledger:
    return Ledger(database)


@pytest.fixture
def table(database: Database) -> VersionTable:
    return VersionTable(database)


@pytest.fixture
def web() -> Iterator[HttpServer]:
    with HttpServer() as web:
        yield web


@pytest.fixture
def studio() -> Iterator[FakeLabelStudio]:
    with FakeLabelStudio() as studio:
        yield studio


@pytest.fixture
def api(studio: FakeLabelStudio) -> ProjectApi:
    """The fake's project."""
    return ProjectApi(LabelStudio(studio.url, LEGACY), studio.project)
