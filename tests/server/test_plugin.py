"""`RAMBackend` in both lines of label-studio-ml: the predictions of our own server, from objects that cost nothing."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
import requests
from server.hosts import First, FirstBase, Second, SecondBase, load_plugin
from support.label_studio import LEGACY, FakeLabelStudio
from support.processes import wait_until
from support.server import choices_config, predict_body, serving, setup_body, tags_of
from support.stock_host import FOLDER, PROGRAM, needs_stock_host, stock_host
from support.tiny_model import BLUE, GREEN, RED, ColourNetwork, ColourWords, colour_model, identity, picture

from ram_backend.database.engine import open_database
from ram_backend.demo import photo_paths
from ram_backend.errors import BundleNotFound, InputError, ProjectOptionsError
from ram_backend.labelstudio.requests import SetupRequest
from ram_backend.models.network import load_network
from ram_backend.models.store import find_bundle
from ram_backend.projects.table import ProjectTable
from ram_backend.server import in_process, model
from ram_backend.server.app import create_app
from ram_backend.server.in_process import InProcess
from ram_backend.server.model import ModelIdentity
from ram_backend.settings import Settings, load_settings

CONFIG = choices_config("red", "green", "turquoise", "blue", more='<TextArea name="confidence" toName="image"/>')
COLOURS = (RED, GREEN, BLUE, (200, 180, 0), (0, 220, 230))


@pytest.fixture
def host(settings: Settings, words: ColourWords, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
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


def inline(colour: tuple[int, int, int]) -> str:
    return "data:image/png;base64," + base64.b64encode(picture(colour)).decode()


def best(results: list[dict[str, Any]]) -> list[str | None]:
    """The first tag that each prediction ticks."""
    return [next(iter(tags_of(result)), None) for result in results]


def without_version(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in result.items() if key != "model_version"} for result in results]


def test_the_first_line_gives_the_servers_result_and_score_and_no_version(
    host: Callable[..., First], client: httpx.Client, studio: FakeLabelStudio
) -> None:
    body, first = asked(uploaded(studio)), host(First)
    assert first.setup(setup_body(CONFIG, studio)) == "INITIAL"
    results = first.predict(body)
    client.post("/setup", json=setup_body(CONFIG, studio))
    assert results == without_version(client.post("/predict", json=body).json()["results"])
    assert best(results[:3]) == ["red", "green", "blue"]
    assert all(0 < result["score"] < 1 for result in results)


def test_the_second_line_gives_the_servers_predictions_with_the_version_of_its_setup(
    host: Callable[..., Second], client: httpx.Client
) -> None:
    body, second = asked([*map(inline, COLOURS), "data:image/png;base64,AAAA"]), host(Second)
    there = {"project": "1.1795452148", "schema": CONFIG, "hostname": "http://127.0.0.1:1"}
    version = second.setup(there)
    assert client.post("/setup", json=there).json()["model_version"] == version
    results = second.predict(body)
    assert results == client.post("/predict", json=body).json()["results"]
    assert {result["model_version"] for result in results} == {version}
    assert (results[-1]["result"], results[-1]["score"]) == ([], 1.0), "a broken image costs one empty prediction"


def test_the_second_line_reads_uploads_with_the_settings_address_and_token(
    host: Callable[..., Second], settings: Settings, studio: FakeLabelStudio
) -> None:
    known = settings.model_copy(update={"label_studio_url": studio.url, "label_studio_api_key": LEGACY})
    second = host(Second, InProcess(known, model=colour_model(known)))
    assert best(second.predict(asked(uploaded(studio)[:2]))) == ["red", "green"]


def test_objects_of_the_first_line_start_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    module = load_plugin(FirstBase, monkeypatch)
    monkeypatch.setattr(module, "in_process", lambda: pytest.fail("an object was made, and services were started"))
    first = First(module.RAMBackend)
    for _ in range(50):
        first.setup({"schema": CONFIG, "hostname": "http://127.0.0.1:1", "access_token": "secret"})
        first.event("ANNOTATION_CREATED", {"project": {"label_config": CONFIG}})
    module.RAMBackend()


def test_objects_of_the_second_line_know_their_version_before_the_model_is_loaded(
    host: Callable[..., Second], settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = threading.Event()

    def load(*args: object, **options: object) -> ColourNetwork:
        assert go_on.wait(30)
        return ColourNetwork()

    monkeypatch.setattr(model, "load_network", load)
    second = host(Second, InProcess(settings, model=model.Model(settings, identity=identity())))
    body = {"project": "1.1795452148", "schema": CONFIG}
    assert {second.setup(body) for _ in range(20)} == {SecondBase.table["1", "model_version"]}
    assert SecondBase.table["1", "model_version"].startswith("colours-")
    go_on.set()
    assert best(second.predict(asked([inline(RED)]))) == ["red"]


def test_a_bundle_that_cannot_be_used_is_said_and_not_waited_for(
    host: Callable[..., First], settings: Settings, studio: FakeLabelStudio
) -> None:
    first = host(First, InProcess(settings.model_copy(update={"bundle": "no-such-bundle"})))
    first.setup(setup_body(CONFIG, studio))
    with pytest.raises(BundleNotFound, match="no-such-bundle"):
        first.predict(asked([inline(RED)]))


@pytest.fixture
def loaded(words: ColourWords, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[ColourNetwork]]:
    """Networks that were loaded for services of this process."""
    found: list[ColourNetwork] = []

    def load(*args: object, **options: object) -> ColourNetwork:
        found.append(ColourNetwork())
        return found[-1]

    monkeypatch.setattr(model, "identify", lambda settings: identity())
    monkeypatch.setattr(model, "load_network", load)
    in_process._of_process.cache_clear()
    yield found
    in_process._of_process.cache_clear()


def test_many_threads_share_one_model(
    loaded: list[ColourNetwork], studio: FakeLabelStudio, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = First(load_plugin(FirstBase, monkeypatch).RAMBackend)
    first.setup(setup_body(CONFIG, studio))
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(first.predict, [asked([inline(RED), inline(BLUE)])] * 16))
    assert [best(answer) for answer in answers] == [["red", "blue"]] * 16
    assert len(loaded) == 1
    found = in_process.in_process()
    assert in_process.in_process() is found
    found.close()


def test_a_forked_process_opens_services_of_its_own(
    loaded: list[ColourNetwork], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = in_process.in_process()
    with monkeypatch.context() as forked:
        forked.setattr(os, "getpid", lambda: -1)
        after = in_process.in_process()
        assert after is not before
        before.close()
        assert before.predict(SetupRequest(), []) == [], "only its own process closes it"
        after.close()
        after.close()
    before.close()


def test_options_of_the_start_settle_what_extra_params_do(
    host: Callable[..., First], client: httpx.Client, studio: FakeLabelStudio
) -> None:
    options = {"threshold": 0.05, "top_k": 2, "tags": "red,green,blue"}
    body, first = asked(uploaded(studio)), host(First, **options)
    first.setup(setup_body(CONFIG, studio))
    client.post("/setup", json=setup_body(CONFIG, studio, extra_params=options))
    results = first.predict(body)
    assert results == without_version(client.post("/predict", json=body).json()["results"])
    assert {len(tags_of(result)) for result in results} == {2}
    with pytest.raises(ProjectOptionsError, match=r"--with.*treshold.*did you mean threshold"):
        host(First, treshold=0.5).setup(setup_body(CONFIG, studio))


def test_what_is_known_of_the_project_holds(
    host: Callable[..., First], client: httpx.Client, settings: Settings, studio: FakeLabelStudio
) -> None:
    """In a data folder that our own server has used, the project is the one that it knows, with all its settings."""
    client.post("/setup", json=setup_body(CONFIG, studio, extra_params={"threshold": 0.01}))
    wait_until(lambda: ProjectTable(open_database(settings)).changes().projects)
    first, body = host(First), asked(uploaded(studio))
    first.setup(setup_body(CONFIG, studio))
    results = first.predict(body)
    assert results == without_version(client.post("/predict", json=body).json()["results"])
    assert min(len(tags_of(result)) for result in results) == 4


def test_extra_params_of_the_second_line(host: Callable[..., Second]) -> None:
    second = host(Second)

    def setup(extra_params: object) -> str:
        return second.setup({"project": "1.1795452148", "schema": CONFIG, "extra_params": extra_params})

    plain, few = setup(None), setup({"threshold": 0.9, "tags": ["red", "blue"]})
    assert few != plain
    assert setup('{"threshold": 0.9, "tags": "red, blue"}') == few
    results = second.predict(asked([inline(RED), inline(GREEN)]))
    assert {result["model_version"] for result in results} == {few}
    assert best(results) == [None, None]
    with pytest.raises(ProjectOptionsError, match="threshold"):
        setup({"threshold": 7})
    assert setup(None) == few
    assert setup("{}") == plain


def test_nothing_is_learned_and_the_version_stays(host: Callable[..., Any], studio: FakeLabelStudio) -> None:
    event = {"project": {"id": 1, "label_config": CONFIG}, "annotation": {"id": 3}}
    first, second = host(First), host(Second)
    for action in ("ANNOTATION_CREATED", "ANNOTATION_UPDATED", "START_TRAINING", "PROJECT_UPDATED"):
        first.event(action, event)
        assert second.event(action, event) is None
    assert first.setup(setup_body(CONFIG, studio)) == "INITIAL"


def test_what_cannot_be_tagged_is_said(host: Callable[..., Any], studio: FakeLabelStudio) -> None:
    nothing = "<View><Text name='text' value='$text'/></View>"
    first, second = host(First), host(Second)
    first.setup(setup_body(nothing, studio))
    for predict in (first.predict, second.predict):
        with pytest.raises(InputError, match="Choices"):
            predict(asked([inline(RED)], nothing))
    with pytest.raises(InputError):
        second.predict(predict_body(CONFIG, []) | {"tasks": [7]})


@pytest.mark.parametrize("project", ["", "None", "abc", "1" * 30])
def test_tasks_of_no_project(host: Callable[..., Any], studio: FakeLabelStudio, project: str) -> None:
    body, first = predict_body(CONFIG, [inline(RED)], project=project), host(First)
    assert tags_of(host(Second).predict(body)[0]) == ["red"]
    first.setup(setup_body(CONFIG, studio))
    assert tags_of(first.predict(body)[0]) == ["red"]
    assert first.predict(body | {"tasks": []}) == []


def test_our_own_server_needs_no_flask(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['flask'] = sys.modules['label_studio_ml'] = None\n"
        "import ram_backend.cli, ram_backend.cli.serve, ram_backend.server.app, ram_backend.server.in_process\n"
        "from ram_backend.settings import load_settings\n"
        "ram_backend.server.app.create_app(load_settings())\n"
        "assert not {'werkzeug', 'ram_backend.server.plugin'} & sys.modules.keys()"
    )
    environment = {**os.environ, "RAM_DATA_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr


@needs_stock_host
@pytest.mark.service
def test_the_real_host_gives_the_servers_result_and_score(
    starter_data: Path, studio: FakeLabelStudio, tmp_path: Path
) -> None:
    """label-studio-ml 1.0.9 as a process, and our own server, asked the same."""
    names = ["cat", "dog", "giraffe", "horse", "mountain", "coffee", "cup", "flower"]
    config = choices_config(*names, more='<TextArea name="confidence" toName="image"/>')
    images = [studio.upload(path.name, path.read_bytes()) for path in photo_paths()]
    body, there = asked(images, config), setup_body(config, studio)
    own = tmp_path / "stock"
    own.mkdir()
    (own / "bundles").symlink_to(starter_data / "bundles")
    with stock_host(own, 19_390, {}) as host, requests.Session() as session:
        session.trust_env = False

        def post(path: str, sent: object) -> Any:
            answer = session.post(f"{host.url}{path}", json=sent, timeout=100)
            assert answer.status_code == 200, answer.text
            return answer.json()

        assert post("/setup", there) == {"model_version": "INITIAL"}
        answer = post("/predict", body)
        for action in ("ANNOTATION_CREATED", "START_TRAINING"):
            said = post("/webhook", {"action": action, "project": {"id": 1, "label_config": config}})
        assert "nothing was started" in said["message"]
        assert post("/setup", there) == {"model_version": "INITIAL"}
        again = post("/predict", body)
        assert list((own / "stock-host").iterdir()) == []  # no job of the host's own
    bundle = find_bundle("starter", starter_data / "bundles")
    network = load_network(bundle)
    there_too = ModelIdentity(bundle, network.encoder_id)
    settings = load_settings(data_dir=tmp_path / "ours")
    app = create_app(settings, model=model.Model(settings, identity=there_too, network=network))
    with serving(app) as client:
        client.post("/setup", json=there)
        expected = client.post("/predict", json=body).json()["results"]
    assert answer["model_version"] == "INITIAL"
    assert again == answer
    for path, result, own_result in zip(photo_paths(), answer["results"], expected, strict=True):
        assert "model_version" not in result
        assert tags_of(result) == tags_of(own_result), path.name
        assert result["result"] == own_result["result"], path.name
        assert result["score"] == pytest.approx(own_result["score"], abs=1e-5)
    assert sum(bool(tags_of(result)) for result in answer["results"]) > 2


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
