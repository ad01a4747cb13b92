"""`RAMBackend` in both lines of label-studio-ml: the predictions of our own server, from objects that cost nothing."""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar
from unittest.mock import Mock

import httpx
import pytest
from support.label_studio import LEGACY, FakeLabelStudio
from support.processes import wait_until
from support.server import choices_config, connect, predict_body, results, setup_body, tags_of
from support.stock_host import FOLDER, PROGRAM, needs_stock_host
from support.tiny_model import BLUE, GREEN, RED, ColourNetwork, ColourWords, colour_model, identity, inline, picture

from ram_backend.database.engine import open_database
from ram_backend.errors import BundleNotFound, ProjectOptionsError
from ram_backend.labelstudio.request_models import SetupRequest
from ram_backend.projects.table import ProjectTable
from ram_backend.server import in_process, model
from ram_backend.server.in_process import InProcess
from ram_backend.settings import Settings, load_settings

Host = Callable[..., Any]
PLUGIN = FOLDER.parent / "plugin.py"
CONFIG = choices_config("red", "green", "turquoise", "blue", more='<TextArea name="confidence" toName="image"/>')
COLOURS = (RED, GREEN, BLUE, (200, 180, 0), (0, 220, 230))


def load_plugin(base: type, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The plugin's module, made anew on top of a host's base class."""
    package, model = ModuleType("label_studio_ml"), ModuleType("label_studio_ml.model")
    model.LabelStudioMLBase = base  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "label_studio_ml", package)
    monkeypatch.setitem(sys.modules, "label_studio_ml.model", model)
    spec = importlib.util.spec_from_file_location("plugin_on_a_stand_in", PLUGIN)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class FirstBase:
    """1.0.9's: everything comes by keyword."""

    def __init__(self, label_config: str | None = None, **given: Any) -> None:
        self.label_config = label_config
        self.hostname = given.get("hostname", "")
        self.access_token = given.get("access_token", "")


class First:
    """1.0.9's manager: keeps the object that the last `/setup` made, and names versions itself."""

    def __init__(self, model_class: Any, **started_with: Any) -> None:
        self.model_class = model_class
        self.started_with = started_with
        self.model: Any = None

    def setup(self, body: dict[str, Any]) -> None:
        given = {name: body.get(name, "") for name in ("hostname", "access_token", "model_version")}
        self.model = self.model_class(label_config=body["schema"], **given, **self.started_with)

    def predict(self, body: dict[str, Any]) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.model.predict(body["tasks"], **(body.get("params") or {}))
        return found


class SecondBase:
    """2.x's: a table by project keeps label config, extra params and model version."""

    table: ClassVar[dict[tuple[str, str], str]] = {}

    def __init__(self, project_id: str | None = None, label_config: str | None = None) -> None:
        self.project_id = project_id or ""
        if label_config is not None:
            self.set("label_config", label_config)
        self.setup()

    def setup(self) -> None:
        pass

    def get(self, key: str) -> str | None:
        return self.table.get((self.project_id, key))

    def set(self, key: str, value: str) -> None:
        assert isinstance(value, str)
        self.table[self.project_id, key] = value

    def set_extra_params(self, extra_params: Any) -> None:
        self.set("extra_params", extra_params)

    @property
    def label_config(self) -> str | None:
        return self.get("label_config")


class Second:
    """2.x's routes: an object for every request."""

    def __init__(self, model_class: Any) -> None:
        self.model_class = model_class

    def _model(self, body: dict[str, Any], label_config: str | None) -> Any:
        return self.model_class(project_id=str(body.get("project")).split(".", 1)[0], label_config=label_config)

    def setup(self, body: dict[str, Any]) -> str:
        model = self._model(body, body["schema"])
        if body.get("extra_params"):
            model.set_extra_params(body["extra_params"])
        version: str = model.get("model_version")
        return version

    def predict(self, body: dict[str, Any]) -> list[dict[str, Any]]:
        model = self._model(body, body.get("label_config"))
        found: list[dict[str, Any]] = model.predict(body["tasks"], context={}, login=None, password=None)
        return found


@pytest.fixture
def host(settings: Settings, words: ColourWords, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    """Starts a host of either line of label-studio-ml, on services in this process."""
    monkeypatch.setattr(SecondBase, "table", {})
    with ExitStack() as stack:

        def start(kind: type[First | Second], services: InProcess | None = None, **options: Any) -> First | Second:
            module = load_plugin(FirstBase if kind is First else SecondBase, monkeypatch)
            opened = services or InProcess(settings, model=colour_model(settings))
            stack.callback(opened.close)
            monkeypatch.setattr(module, "in_process", lambda: opened)
            return kind(module.RAMBackend, **options)

        yield start


def asked(images: list[str], config: str = CONFIG) -> dict[str, Any]:
    """As Label Studio sends it: each task names its project."""
    body = predict_body(config, images)
    return body | {"tasks": [task | {"project": 1} for task in body["tasks"]]}


def uploaded(studio: FakeLabelStudio) -> list[str]:
    return [studio.upload(f"{number}.png", picture(colour)) for number, colour in enumerate(COLOURS)]


def best(predictions: list[dict[str, Any]]) -> list[str]:
    """The first tag that each prediction ticks."""
    return [tags_of(each)[0] for each in predictions]


def of_both(first: First, client: httpx.Client, body: dict[str, Any]) -> list[dict[str, Any]]:
    """The first line's predictions: the server's, without their version."""
    found, expected = first.predict(body), results(client, body)
    assert found == [{key: each[key] for key in each if key != "model_version"} for each in expected]
    return found


def test_both_lines_give_the_servers_predictions(
    host: Host, client: httpx.Client, settings: Settings, studio: FakeLabelStudio
) -> None:
    """The second line reads uploads with the settings' login."""
    there, version = setup_body(CONFIG, studio), connect(client, studio, CONFIG)
    first, body = host(First), asked([*uploaded(studio), "data:image/png;base64,AAAA"])
    first.setup(there)
    assert best(of_both(first, client, body)[:3]) == ["red", "green", "blue"]
    known = settings.model_copy(update={"label_studio_url": studio.url, "label_studio_api_key": LEGACY})
    second = host(Second, InProcess(known, model=colour_model(known)))
    assert second.setup(there) == version
    found = second.predict(body)
    assert found == results(client, body)
    assert (found[-1]["result"], found[-1]["score"]) == ([], 1.0), "a broken image costs one empty prediction"


def test_objects_of_the_first_line_start_and_learn_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    module = load_plugin(FirstBase, monkeypatch)
    monkeypatch.setattr(module, "in_process", lambda: pytest.fail("an object was made, and services were started"))
    First(module.RAMBackend).setup({"schema": CONFIG, "hostname": "http://127.0.0.1:1", "access_token": "secret"})
    assert module.RAMBackend().fit((), event="START_TRAINING") is None


def test_a_bundle_that_cannot_be_used(host: Host, settings: Settings, studio: FakeLabelStudio) -> None:
    first = host(First, InProcess(settings.model_copy(update={"bundle": "no-such-bundle"})))
    first.setup(setup_body(CONFIG, studio))
    with pytest.raises(BundleNotFound, match="no-such-bundle"):
        first.predict(asked([inline(RED)]))


def test_all_threads_of_a_process_share_one_model_and_a_fork_opens_its_own(
    words: ColourWords, studio: FakeLabelStudio, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = Mock(side_effect=lambda *_, **__: ColourNetwork())
    monkeypatch.setattr(model, "identify", lambda settings: identity())
    monkeypatch.setattr(model, "load_network", load)
    in_process._of_process.cache_clear()
    first = First(load_plugin(FirstBase, monkeypatch).RAMBackend)
    first.setup(setup_body(CONFIG, studio))
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(first.predict, [asked([inline(RED), inline(BLUE)])] * 16))
    assert [best(answer) for answer in answers] == [["red", "blue"]] * 16
    assert load.call_count == 1
    before = in_process.in_process()
    with monkeypatch.context() as forked:
        forked.setattr(os, "getpid", lambda: -1)
        after = in_process.in_process()
        assert after is not before
        before.close()
        assert before.predict(SetupRequest(), []) == [], "only its own process closes it"
        after.close()
    before.close()
    in_process._of_process.cache_clear()


def test_options_of_the_start(host: Host, client: httpx.Client, studio: FakeLabelStudio) -> None:
    options = {"threshold": 0.05, "top_k": 2, "tags": "red,green,blue"}
    first = host(First, **options)
    first.setup(setup_body(CONFIG, studio))
    connect(client, studio, CONFIG, extra_params=options)
    assert {len(tags_of(each)) for each in of_both(first, client, asked(uploaded(studio)))} == {2}
    with pytest.raises(ProjectOptionsError, match=r"--with.*treshold.*did you mean threshold"):
        host(First, treshold=0.5).setup(setup_body(CONFIG, studio))


def test_what_is_known_of_the_project_holds(host: Host, client: httpx.Client, studio: FakeLabelStudio) -> None:
    """In a data folder that our own server has used, the project is the one that it knows, with all its settings."""
    connect(client, studio, CONFIG, extra_params={"threshold": 0.01})
    wait_until(lambda: ProjectTable(open_database(load_settings())).changes().projects)
    first = host(First)
    first.setup(setup_body(CONFIG, studio))
    assert min(len(tags_of(each)) for each in of_both(first, client, asked(uploaded(studio)))) == 4


def test_extra_params_of_the_second_line(host: Host) -> None:
    second = host(Second)

    def setup(extra_params: object) -> str:
        return second.setup({"project": "1.1795452148", "schema": CONFIG, "extra_params": extra_params})

    plain, few = setup(None), setup({"threshold": 0.9, "tags": ["red", "blue"]})
    assert few != plain
    assert setup('{"threshold": 0.9, "tags": "red, blue"}') == few
    found = second.predict(asked([inline(RED), inline(GREEN)]))
    assert [(each["model_version"], tags_of(each)) for each in found] == [(few, [])] * 2
    with pytest.raises(ProjectOptionsError, match="threshold"):
        setup({"threshold": 7})
    assert setup(None) == few
    assert setup("{}") == plain


@pytest.mark.parametrize("project", ["", "None", "abc", "1" * 30])
def test_tasks_of_no_project(host: Host, studio: FakeLabelStudio, project: str) -> None:
    body, first = predict_body(CONFIG, [inline(RED)], project=project), host(First)
    assert tags_of(host(Second).predict(body)[0]) == ["red"]
    first.setup(setup_body(CONFIG, studio))
    assert tags_of(first.predict(body)[0]) == ["red"]
    assert first.predict(body | {"tasks": []}) == []


@needs_stock_host
@pytest.mark.service
@pytest.mark.parametrize(
    ("variables", "options", "said"),
    [
        ({}, ["--with", "treshold=0.5"], "did you mean threshold"),
        ({}, ["--with", "threshold"], "expected NAME=VALUE"),
        ({"RAM_BATCH_SIZE": "many"}, [], "RAM_BATCH_SIZE='many'"),
        ({"RAM_BASIC_AUTH_USER": "me", "RAM_BASIC_AUTH_PASS": "secret"}, [], "checks no webhook secret and no login"),
        ({"RAM_WEBHOOK_SECRET": "secret"}, [], "checks no webhook secret"),
    ],
)
def test_the_real_host_refuses_to_start_in_one_line(
    variables: dict[str, str], options: list[str], said: str, tmp_path: Path
) -> None:
    environment = {**os.environ, "RAM_DATA_DIR": str(tmp_path), **variables}
    command = [PROGRAM.parent / "python", FOLDER / "_wsgi.py", "--port", "0", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=120)
    assert done.returncode == 2
    assert said in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert "secret'" not in done.stderr
    assert list(tmp_path.iterdir()) == []
