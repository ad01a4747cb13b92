"""A server with the admin's page, and a project with corrections."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from support.label_studio import FakeLabelStudio
from support.processes import wait_until
from support.server import annotation_event, choices_config, predict_body, serving, setup_body
from support.tiny_model import BLUE, NEW, RED, ColourWords, colour_model, picture

from ram_backend.console.page import mount
from ram_backend.database.migrate import open_migrated
from ram_backend.jobs.service import JobService
from ram_backend.labelstudio.provisioning import Check
from ram_backend.projects.keys import ProjectKey
from ram_backend.server import model
from ram_backend.server.app import create_app
from ram_backend.settings import Settings, load_settings

HOSTILE = "<script>alert(1)</script>"
CREATED = 4_000_000_000
"""Later than anything that is shown: an annotation starts from what was shown before it."""
CONFIG = choices_config("red", "green", "blue", "&lt;script&gt;alert(1)&lt;/script&gt;")
STAMP = datetime.fromtimestamp(CREATED, UTC).isoformat()


@dataclass
class Console:
    """A server with the page, and what stands behind it."""

    client: httpx.Client
    jobs: JobService
    studio: FakeLabelStudio
    settings: Settings

    @property
    def key(self) -> ProjectKey:
        return ProjectKey(self.studio.url, 1, CREATED)

    def get(self, path: str, **headers: str) -> httpx.Response:
        return self.client.get(path, headers=headers)

    def text(self, path: str = "") -> str:
        answer = self.get(f"/projects/1.{CREATED}{path}" if path != "/" else "/")
        assert answer.status_code == 200, answer.text
        return answer.text

    def post(self, action: str, token: str | None = None, **body: Any) -> httpx.Response:
        if token is None:
            token = re.search(r'name="page-token" content="([^"]+)"', self.text("/"))[1]  # type: ignore[index]
        return self.client.post(
            f"/projects/1.{CREATED}/{action}",
            json=body,
            headers={"X-RAM-Page-Token": token, "Sec-Fetch-Site": "same-origin"},
        )


def annotation(task: int, tag: str, image: str) -> dict[str, Any]:
    return annotation_event(task, tag, image=image, created=STAMP, config=CONFIG, parent_prediction=1)


@pytest.fixture
def settings() -> Settings:
    return load_settings(batch_size=4, fetch_threads=4)


@pytest.fixture
def console(settings: Settings, studio: FakeLabelStudio, monkeypatch: pytest.MonkeyPatch) -> Iterator[Console]:
    words = ColourWords()
    words.go_on.set()
    monkeypatch.setattr(model, "open_text_encoder", lambda name, settings: words)
    monkeypatch.setitem(NEW, HOSTILE, NEW["pink"])
    database = open_migrated(settings)
    jobs = JobService(settings, database)
    app = create_app(settings, jobs=jobs, model=colour_model(settings))
    mount(app, check=lambda *_: [Check("webhook", "bad", HOSTILE, "connect it")])
    with serving(app) as client:
        yield Console(client, jobs, studio, settings)
    database.close()


@pytest.fixture
def corrected(console: Console) -> Console:
    """Two photos were shown as red: on one of them red was removed, and a hostile tag added."""
    red, blue = (console.studio.upload(f"{name}.png", picture(rgb)) for name, rgb in (("red", RED), ("blue", BLUE)))
    project = f"1.{CREATED}"
    assert console.client.post("/setup", json=setup_body(CONFIG, console.studio, project)).status_code == 200
    assert console.client.post("/predict", json=predict_body(CONFIG, [red, red], project)).status_code == 200
    wait_until(lambda: len(console.jobs.ledger.shown(console.key)) == 2)
    for task, tag, image in ((1, "red", red), (2, HOSTILE, red), (3, "blue", blue)):
        assert console.client.post("/webhook", json=annotation(task, tag, image)).status_code == 200
    return console
