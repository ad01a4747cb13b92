"""A client of our own that plays Label Studio, as the protocol describes it and worse; no Label Studio is needed."""

from __future__ import annotations

import base64
import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from e2e.reading import confidences, tags
from support.http_server import Reply
from support.label_studio import LEGACY, FakeLabelStudio

from ram_backend.cli.servers import Server, start_backend
from ram_backend.demo import photo_paths

CREATED = 1_795_452_148
SETUP_S = 3.0
WEBHOOK_S = 1.0
PREDICT_S = 100.0
NAMES = ("cat", "dog", "horse", "mountain", "tower", "coffee")


def config_of(*names: str) -> str:
    choices = "".join(f'<Choice value="{name}"/>' for name in names)
    return (
        f'<View><Image name="image" value="$image"/><Choices name="tags" toName="image" choice="multiple">{choices}'
        '</Choices><TextArea name="confidence" toName="image" editable="false" maxSubmissions="0" rows="1"/></View>'
    )


@pytest.fixture(scope="module")
def studio() -> Iterator[FakeLabelStudio]:
    """Serves the bundled photos as uploads, to those who have the token."""
    with FakeLabelStudio() as served:
        for path in photo_paths():
            served.file(f"/data/upload/1/{path.name}", path.read_bytes())
        yield served


@pytest.fixture(scope="module")
def second_backend(
    start: Callable[[str, Callable[[], Server]], Server], backend_data: Callable[[str], Path], studio: FakeLabelStudio
) -> Server:
    """A backend that was told nothing: it knows Label Studio's address and token from `/setup` alone."""
    folder = backend_data("second-backend")
    untold = {"RAM_DATA_DIR": str(folder), "RAM_LABEL_STUDIO_URL": "", "RAM_LABEL_STUDIO_API_KEY": ""}
    log = folder / "backend.log"
    return start("second-backend", lambda: start_backend(log, 19_190, studio.url, LEGACY, untold))


class Client:
    """Asks as Label Studio's connector does, and waits as long."""

    def __init__(self, url: str, hostname: str) -> None:
        self.url = url
        self.hostname = hostname
        self.http = httpx.Client(base_url=url, trust_env=False, headers={"User-Agent": "heartex/1.23.2"})

    def health(self) -> httpx.Response:
        return self.http.get("/health", timeout=1.0)

    def setup(self, project: int, config: str, extra_params: object = None, **other: object) -> httpx.Response:
        body = {
            "project": f"{project}.{CREATED}",
            "schema": config,
            "hostname": self.hostname,
            "access_token": LEGACY,
            "extra_params": extra_params,
            **other,
        }
        return self.http.post("/setup", json=body, timeout=SETUP_S)

    def version(self, project: int, config: str, extra_params: object = None) -> str:
        """What `/setup` says; asked twice, as connecting does."""
        assert self.health().json()["status"] == "UP"
        answers = [self.setup(project, config, extra_params) for _ in range(2)]
        assert [answer.status_code for answer in answers] == [200, 200], answers[0].text
        first, second = [answer.json()["model_version"] for answer in answers]
        assert first == second
        return str(first)

    def predict(self, project: int, config: str | None, images: list[str]) -> httpx.Response:
        return self.ask(predict_body(project, config, images))

    def ask(self, body: object) -> httpx.Response:
        return self.http.post("/predict", json=body, timeout=PREDICT_S)

    def event(self, body: object) -> httpx.Response:
        return self.http.post("/webhook", json=body, timeout=WEBHOOK_S)


def predict_body(project: int, config: str | None, images: list[str]) -> dict[str, Any]:
    tasks = [
        {"id": number, "data": {"image": image}, "meta": {}, "annotations": [], "predictions": [], "project": project}
        for number, image in enumerate(images, 1)
    ]
    params = {"login": None, "password": None, "context": None}
    return {"tasks": tasks, "project": f"{project}.{CREATED}", "label_config": config, "params": params}


@pytest.fixture
def client(second_backend: Server, studio: FakeLabelStudio) -> Iterator[Client]:
    asking = Client(second_backend.url, studio.url)
    yield asking
    asking.http.close()


def uploads() -> list[str]:
    return [f"/data/upload/1/{path.name}" for path in photo_paths()]


def as_data_uri(name: str) -> str:
    (path,) = [path for path in photo_paths() if path.name == name]
    return f"data:image/jpeg;base64,{base64.b64encode(path.read_bytes()).decode()}"


def complete(answer: httpx.Response, count: int, version: str | None = None) -> list[dict[str, Any]]:
    """The results of an answer: one per task, all of one version, all with a score."""
    assert answer.status_code == 200, answer.text
    results: list[dict[str, Any]] = answer.json()["results"]
    assert len(results) == count
    for one in results:
        assert isinstance(one["model_version"], str)
        assert one["model_version"]
        assert 0 <= one["score"] <= 1
        assert sorted(confidences(one)) == sorted(tags(one))
        for item in one["result"]:
            assert {"id", "from_name", "to_name", "type", "value"} <= item.keys()
    assert len({one["model_version"] for one in results}) == 1
    assert version in {None, results[0]["model_version"]}
    return results


def test_the_whole_flow(client: Client) -> None:
    config = config_of(*NAMES)
    version = client.version(1, config)
    results = complete(client.predict(1, config, uploads()), len(uploads()), version)
    found = {path.name: tags(one) for path, one in zip(photo_paths(), results, strict=True)}
    assert "cat" in found["chelsea_cat.jpg"]
    assert "dog" in found["german_shepherd_dog.jpg"]
    assert "coffee" in found["coffee_cup.jpg"]
    backwards = complete(client.predict(1, config, uploads()[::-1]), len(uploads()), version)
    assert [tags(one) for one in backwards[::-1]] == [tags(one) for one in results]
    for one, other in zip(results, backwards[::-1], strict=True):
        assert one["score"] == pytest.approx(other["score"], abs=1e-5)
    assert version in client.http.get("/versions").json()["versions"]


def test_many_setups_while_a_prediction_runs(client: Client) -> None:
    config = config_of(*NAMES, "astronaut", "rocket")
    version = client.version(3, config)
    stop = threading.Event()
    answered: list[str] = []

    def insist() -> None:
        while not stop.is_set():
            assert client.health().status_code == 200
            answered.append(client.setup(3, config).json()["model_version"])
            time.sleep(0.1)

    with ThreadPoolExecutor(3) as pool:
        insisting = [pool.submit(insist) for _ in range(2)]
        results = complete(client.predict(3, config, uploads() * 3), 3 * len(uploads()), version)
        stop.set()
        for each in insisting:
            each.result()
    assert [tags(one) for one in results[:18]] == [tags(one) for one in results[18:36]]
    assert set(answered) == {version}


def test_a_caller_that_hangs_up_early_harms_nobody(client: Client) -> None:
    config = config_of(*NAMES)
    version = client.version(4, config)
    body = json.dumps(predict_body(4, config, uploads())).encode()
    host, port = client.url.removeprefix("http://").split(":")
    head = f"POST /predict HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
    for sent in (body, body[: len(body) // 2], b""):
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + sent)
    with contextlib.suppress(httpx.TimeoutException):
        client.http.post("/predict", json=predict_body(4, config, uploads()), timeout=0.05)
    complete(client.predict(4, config, uploads()[:2]), 2, version)
    assert client.health().json()["status"] == "UP"


def test_predict_before_setup_and_for_a_project_without_one(client: Client) -> None:
    config = config_of(*NAMES)
    (one,) = complete(client.predict(901, config, [as_data_uri("chelsea_cat.jpg")]), 1)
    assert tags(one) == ["cat"]
    assert client.version(901, config) == one["model_version"]
    for project in ("", "902", None):
        body = predict_body(0, config, [as_data_uri("chelsea_cat.jpg")])
        answer = client.ask(body | {"project": project})
        assert tags(complete(answer, 1)[0]) == ["cat"]


def test_an_upload_of_a_label_studio_that_nobody_named_is_no_lasting_empty_prediction(client: Client) -> None:
    answer = client.predict(903, config_of(*NAMES), uploads()[:1])
    assert (answer.status_code, "Set LABEL_STUDIO_URL" in answer.json()["error"]) == (503, True)


def test_huge_webhooks_are_acknowledged_while_a_prediction_runs(client: Client) -> None:
    config = config_of(*NAMES, "giraffe")
    version = client.version(10, config)
    weights = {f"tag {number}": {"type": "Choices", "overall": 1.0} for number in range(4_585)}
    body = {
        "action": "ANNOTATION_CREATED",
        "annotation": {"id": 1, "task": 1, "project": 10, "result": [], "was_cancelled": False},
        "task": {"id": 1, "data": {"image": uploads()[0]}, "project": 10},
        "project": {"id": 10, "label_config": config, "control_weights": weights, "padding": "x" * 4_000_000},
    }
    imported = {"action": "TASKS_CREATED", "project": {"id": 10}, "tasks": [{"id": n, "data": {}} for n in range(5000)]}
    with ThreadPoolExecutor(1) as pool:
        predicting = pool.submit(client.predict, 10, config, uploads() * 2)
        assert [client.event(each).status_code for each in (body, imported, body)] == [200, 200, 200]
        complete(predicting.result(), 2 * len(uploads()), version)


def test_a_second_label_studio_that_claims_our_project_gets_no_token(client: Client) -> None:
    config = config_of(*NAMES)
    client.version(11, config)
    with FakeLabelStudio() as impostor:
        impostor.routes["/data/upload/1/new.jpg"] = Reply(body=photo_paths()[0].read_bytes())
        answer = client.setup(11, config, hostname=impostor.url, access_token="b" * 40)
        assert answer.status_code == 200
        client.predict(11, config, ["/data/upload/1/new.jpg"])
        assert impostor.requests == []
