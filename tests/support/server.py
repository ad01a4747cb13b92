"""Servers with the tiny model: in this process, with their database and versions, and the bodies of their requests."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI

from ram_backend.database.migrate import open_migrated
from ram_backend.jobs.job import JobOptions
from ram_backend.projects.keys import ProjectKey
from ram_backend.server.uvicorn_runner import bind, server_config
from ram_backend.settings import Settings, load_settings
from ram_backend.versions.directory import Version, write_version
from ram_backend.versions.table import VersionTable
from support.label_studio import LEGACY, FakeLabelStudio
from support.processes import wait_until
from support.tiny_model import RED, colours, picture
from support.versions import lineage


def choices_config(*tags: str, attributes: str = "", more: str = "", kind: str = "Choices") -> str:
    entries = "".join(f'<Choice value="{tag}"/>' for tag in tags)
    return (
        f'<View><Image name="image" value="$image"/><{kind} name="tags" toName="image" choice="multiple" {attributes}>'
        f"{entries}</{kind}>{more}</View>"
    )


def setup_body(
    config: str, studio: FakeLabelStudio, project: str = "1.1795452148", extra_params: object = None
) -> dict[str, Any]:
    return {
        "project": project,
        "schema": config,
        "hostname": studio.url,
        "access_token": LEGACY,
        "extra_params": extra_params,
    }


def predict_body(config: str, images: Sequence[object], project: str = "1.1795452148") -> dict[str, Any]:
    tasks = [
        {"id": number, "data": {"image": image}, "annotations": []} for number, image in enumerate(images, start=1)
    ]
    params = {"login": None, "password": None, "context": None}
    return {"tasks": tasks, "project": project, "label_config": config, "params": params}


def tags_of(result: dict[str, Any], control: str = "tags") -> list[Any]:
    """What a prediction ticks."""
    for item in result["result"]:
        if item["from_name"] == control:
            return list(next(iter(item["value"].values())))
    return []


CONFIG = choices_config("red", "green", "blue")
PROJECT = "1.1795452148"
ON_BOTH_DATABASES = [
    pytest.mark.usefixtures("database_url"),
    pytest.mark.parametrize(
        "database_url", ["sqlite", pytest.param("postgresql", marks=pytest.mark.service)], indirect=True
    ),
]
"""For `pytestmark`: every test of the module runs on SQLite and on PostgreSQL."""


def annotation_event(
    number: int, *tags: str, image: str, created: str, config: str = CONFIG, **changes: object
) -> dict[str, Any]:
    """What Label Studio tells of the first annotation of task `number` of project 1."""
    item = {"id": "x", "from_name": "tags", "to_name": "image", "type": "choices", "value": {"choices": list(tags)}}
    annotation = {"id": number, "task": number, "lead_time": 3.0, "completed_by": 1, "result": [item]}
    return {
        "action": "ANNOTATION_CREATED",
        "project": {"id": 1, "created_at": created, "label_config": config},
        "task": {"id": number, "data": {"image": image}},
        "annotation": annotation | {"created_at": created, "updated_at": created} | changes,
    }


def connect(client: httpx.Client, studio: FakeLabelStudio, config: str = CONFIG, **options: object) -> str:
    """The model version that `/setup` answers."""
    answer = client.post("/setup", json=setup_body(config, studio, **options))  # type: ignore[arg-type]
    assert answer.status_code == 200, answer.text
    return str(answer.json()["model_version"])


def results(client: httpx.Client, body: dict[str, Any]) -> list[dict[str, Any]]:
    """The predictions that `/predict` answers."""
    answer = client.post("/predict", json=body)
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["results"]
    return found


def ticked(client: httpx.Client, body: dict[str, Any]) -> list[list[Any]]:
    """What each prediction ticks."""
    return [tags_of(each) for each in results(client, body)]


class FakeJobs:
    """A job service that notes what is requested, and its table."""

    def __init__(self) -> None:
        self.table = self
        self.asked: list[tuple[ProjectKey, str]] = []
        self.debounced: list[bool] = []
        self.corrections = 0
        self.late: list[tuple[ProjectKey, list[int], str]] = []

    def request_training_message(self, key: ProjectKey, reason: str, *, debounced: bool = False) -> dict[str, Any]:
        self.asked.append((key, reason))
        self.debounced.append(debounced)
        return {"job": "j1", "message": "queued"}

    def request_prelabelling(self, key: ProjectKey, options: JobOptions, reason: str) -> SimpleNamespace:
        self.late.append((key, list(options.tasks), reason))
        return SimpleNamespace(job=SimpleNamespace(short="j2"))

    def open_jobs(self) -> dict[tuple[str, str], int]:
        return {("train", "requested"): len(self.asked), ("train", "running"): 0}

    def new_corrections(self) -> dict[str, SimpleNamespace]:
        return {"project": SimpleNamespace(changed=self.corrections)}

    def jobs(self, key: ProjectKey | None = None) -> list[SimpleNamespace]:
        row = {"id": "j1", "project": None if key is None else str(key)}
        return [SimpleNamespace(to_json=lambda: row)]


class House:
    """A server with the tiny network, its database and its versions; the app's insides for what isn't on the wire."""

    def __init__(self, settings: Settings, studio: FakeLabelStudio) -> None:
        self.settings = settings
        self.table = VersionTable(open_migrated(settings))
        self.key = ProjectKey(studio.url, 1, 1_795_452_148)
        self.studio = studio
        self.red = studio.upload("red.png", picture(RED))
        self.jobs = FakeJobs()
        self.app: Any = None
        self.client: Any = None

    @property
    def services(self) -> Any:
        return self.app.state.services

    def make(
        self, bias: float, *, threshold: float = 0.5, bundle: str = "d" * 64, key: ProjectKey | None = None, **more: Any
    ) -> Version:
        """A version that raises or lowers red, and nothing else."""
        verdict = more.pop("verdict", {"outcome": "accept", "reason": "better", "figures": {}})
        stored = write_version(
            self.settings.versions_dir,
            key or self.key,
            colours(bias, threshold),
            more.pop("files", {}),
            lineage(bundle_digest=bundle, **more.pop("lineage", {})),
            verdict,
            first_number=self.table.next_number(key or self.key),
        )
        self.table.record(stored)
        return stored

    def publish(self, stored: Version) -> None:
        self.table.publish(stored.key, stored.name, expected=self.table.served(stored.key).version)

    def serve(self, stored: Version) -> None:
        """Publishes a version, and waits until it is live."""
        self.publish(stored)
        wait_until(lambda: self.is_served(stored.name))

    def roll_back(self, to: str | None) -> None:
        """Rolls back to a version or to the base, and waits until it is live."""
        self.table.roll_back(self.key, to)
        wait_until(lambda: self.is_served(to or "base"))

    def setup(self, config: str = CONFIG) -> str:
        return connect(self.client, self.studio, config)

    def predict(self, config: str = CONFIG) -> dict[str, Any]:
        answer = self.client.post("/predict", json=predict_body(config, [self.red], PROJECT))
        assert answer.status_code == 200, answer.text
        body: dict[str, Any] = answer.json()
        assert {each["model_version"] for each in body["results"]} == {body["model_version"]}
        return body

    def scores(self, config: str = CONFIG) -> tuple[str, list[str], float]:
        """(version, tags, score) of the red picture."""
        body = self.predict(config)
        return body["model_version"], tags_of(body["results"][0]), body["results"][0]["score"]

    @property
    def quarantined(self) -> list[dict[str, str]]:
        """What `/ready` says about projects that aren't served their version."""
        found: list[dict[str, str]] = self.client.get("/ready").json()["quarantined"]
        return found

    def is_served(self, name: str) -> bool:
        """Whether a version (or "base") is live."""
        ref = self.services.swap.ref(self.key)
        return (ref.name if ref is not None else "base") == name


Start = Callable[..., httpx.Client]
"""Starts servers, with settings by name."""
Houses = Callable[..., House]
"""Builds them, each on the database of the one before."""


@contextmanager
def serving(app: FastAPI) -> Iterator[httpx.Client]:
    """The app on uvicorn as `ram-backend serve` has it, at a free port, in a thread; a client that asks it."""
    listening = bind("127.0.0.1", 0)
    server = uvicorn.Server(server_config(app, load_settings(drain_seconds=5)))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    try:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        with httpx.Client(base_url=url, timeout=60, trust_env=False) as client:
            wait_until(lambda: server.started or not thread.is_alive())
            assert server.started
            yield client
    finally:
        server.should_exit = True
        thread.join(30)
