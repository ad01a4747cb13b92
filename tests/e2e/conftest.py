"""A real Label Studio, the real backend as a process of its own, and a real browser; each started once and stopped.

Label Studio's virtual environment is made by `make label-studio`; the environment variable RAM_STUDIO_VENV says where
it is, RAM_ARTEFACTS where screenshots and logs are kept (default: artefacts/, which git ignores).
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.server import choices_config
from support.starter import lend
from support.studio_api import StudioApi

from ram_backend.cli.servers import (
    Account,
    Server,
    Service,
    ended_by_signals,
    open_account,
    start_backend,
    start_label_studio,
)
from ram_backend.demo import photo_paths

REPOSITORY = Path(__file__).resolve().parents[2]
VENV = Path(os.environ.get("RAM_STUDIO_VENV", REPOSITORY / ".venv-studio"))
ARTEFACTS = Path(os.environ.get("RAM_ARTEFACTS", REPOSITORY / "artefacts"))
pytest.register_assert_rewrite("e2e.browser", "e2e.reading")
BORROWED = 6
_SHIFT = 20 * int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:])  # test processes side by side share no port
STUDIO_PORT, BACKEND_PORT = 18_080 + _SHIFT, 19_090 + _SHIFT
STRICT = "fflag_feat_utc_210_prediction_validation_15082025"
Start = Callable[[str, Callable[[], Server]], Server]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything in this folder starts servers."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.e2e)


def label_config(name: str) -> str:
    return (REPOSITORY / "label_configs" / f"{name}.xml").read_text(encoding="utf-8")


def confident_config(tags: Iterable[str], attributes: str = "") -> str:
    """A label config of these tags, with a confidence each."""
    lines = '<TextArea name="confidence" toName="image" editable="false" maxSubmissions="0" rows="1"/>'
    return choices_config(*tags, attributes=attributes, more=lines)


@contextmanager
def unset() -> Iterator[None]:
    """What is started inside sees no setting of this machine; Label Studio checks predictions strictly."""
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith(("RAM_", "LABEL_STUDIO_", "BASIC_AUTH_")):
                patch.delenv(name)
        patch.setenv(STRICT, "true")
        yield


@pytest.fixture(scope="session")
def start() -> Iterator[Start]:
    """Starts a server, which is stopped at the end of the session; what it printed is kept."""
    ARTEFACTS.mkdir(parents=True, exist_ok=True)
    started: list[tuple[Service, str]] = []

    def begin(name: str, starting: Callable[[], Server]) -> Server:
        with unset():
            server = starting()
        assert server.service is not None
        started.append((server.service, name))
        return server

    with ended_by_signals():
        yield begin
        for service, name in reversed(started):
            service.stop()
            shutil.copyfile(service.log, ARTEFACTS / f"{name}.log")


@pytest.fixture(scope="session")
def studio_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("label-studio")


@pytest.fixture(scope="session")
def account(studio_folder: Path) -> Account:
    return open_account(studio_folder)


@pytest.fixture(scope="session")
def label_studio(start: Start, account: Account, studio_folder: Path) -> Server:
    """A new Label Studio, with nothing in it."""
    executable = VENV / "bin" / "label-studio"
    if not executable.exists():
        pytest.skip(f"there is no Label Studio in {VENV.name}/: make label-studio")
    return start("label-studio", lambda: start_label_studio(executable, studio_folder, account, STUDIO_PORT))


@pytest.fixture(scope="session")
def api(label_studio: Server, account: Account) -> StudioApi:
    return StudioApi(label_studio.url, account.token)


@pytest.fixture(scope="session")
def backend_data(starter_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Makes a data folder in which the starter bundle is installed already."""

    def make(name: str) -> Path:
        return lend(starter_data, tmp_path_factory.mktemp(name))

    return make


class Installation:
    """A server with a data folder of its own, and commands with the same settings."""

    def __init__(self, server: Server, environment: dict[str, str]) -> None:
        self.server = server
        self.environment = environment
        self.folder = Path(environment["RAM_DATA_DIR"])

    def begin(self, *arguments: str) -> subprocess.Popen[str]:
        with unset():
            environment = os.environ | self.environment
        command = [sys.executable, "-m", "ram_backend", *arguments]
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def run(self, *arguments: str) -> str:
        """What a command prints."""
        process = self.begin(*arguments)
        printed, _ = process.communicate(timeout=600)
        assert process.returncode == 0, printed
        return printed

    def rows(self, *arguments: str) -> list[dict[str, Any]]:
        """What a command prints with --json: one object a line."""
        return [json.loads(line) for line in self.run(*arguments, "--json").splitlines() if line.startswith("{")]


@pytest.fixture(scope="session")
def install(
    start: Start, backend_data: Callable[[str], Path], label_studio: Server, account: Account
) -> Callable[..., Installation]:
    """Starts `ram-backend serve` with the starter bundle; settings by name."""

    def make(name: str, port: int, **settings: str) -> Installation:
        folder = backend_data(name)
        known = {"RAM_LABEL_STUDIO_URL": label_studio.url, "RAM_LABEL_STUDIO_API_KEY": account.token}
        environment = {"RAM_DATA_DIR": str(folder), **known, **settings}
        log = folder / "backend.log"
        server = start(name, lambda: start_backend(log, port, label_studio.url, account.token, environment))
        return Installation(server, environment)

    return make


@pytest.fixture(scope="session")
def installation(install: Callable[..., Installation]) -> Installation:
    """The backend of most tests."""
    return install("backend", BACKEND_PORT)


@pytest.fixture(scope="session")
def backend(installation: Installation) -> Server:
    return installation.server


@pytest.fixture(scope="session")
def photos() -> list[Path]:
    """Photos to upload: those that come with the package, and labelled ones where the reference data are."""
    found = photo_paths()
    labels = Path(os.environ.get("RAM_SHARED", REPOSITORY.parent / "shared")) / "data" / "coco_objects" / "labels.jsonl"
    if labels.exists():
        rows = [json.loads(line) for line in labels.read_text(encoding="utf-8").splitlines()]
        tested = [row["file"] for row in rows if row["split"] == "test"]
        found = found + [labels.parent / "images" / name for name in sorted(tested)[:BORROWED]]
        assert len(found) >= 20
    return found


@pytest.fixture(scope="session")
def new_project(api: StudioApi) -> Callable[..., int]:
    """Makes a project with photos, or tasks with data of their own, and connects a backend; returns its number."""

    def make(title: str, config: str, tasks: Sequence[Path | dict[str, Any]], url: str, **connection: Any) -> int:
        project = int(api.create_project(title, config)["id"])
        photos = [each for each in tasks if isinstance(each, Path)]
        if photos:
            api.upload(project, photos)
        else:
            api.call("POST", f"/api/projects/{project}/import", json=[{"data": each} for each in tasks])
        api.connect(project, url, **connection)
        return project

    return make


@pytest.fixture(scope="module")
def studio_page(label_studio: Server, account: Account) -> Iterator[Any]:
    """A browser window that is logged in to Label Studio."""
    from e2e.browser import open_browser

    with open_browser(label_studio.url, account, ARTEFACTS) as page:
        yield page
