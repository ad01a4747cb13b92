"""A server with the tiny network, its database and its versions."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi import FastAPI
from server.playing import RED, choices_config, picture, predict_body, setup_body, tags_of
from support.label_studio import FakeLabelStudio
from versions.making import lineage

from ram_backend.database.migrate import open_migrated
from ram_backend.models.delta import Delta
from ram_backend.projects.keys import ProjectKey
from ram_backend.settings import Settings
from ram_backend.versions.directory import StoredVersion, write_version
from ram_backend.versions.table import VersionTable

CONFIG = choices_config("red", "green", "blue")
PROJECT = "1.1795452148"
ON_BOTH_DATABASES = [
    pytest.mark.usefixtures("database_url"),
    pytest.mark.parametrize(
        "database_url", ["sqlite", pytest.param("postgresql", marks=pytest.mark.service)], indirect=True
    ),
]
"""For `pytestmark`: every test of the module runs on SQLite and on PostgreSQL."""


class Desk:
    """A job service that notes what is asked of it, and its queue."""

    def __init__(self) -> None:
        self.queue = self
        self.asked: list[tuple[ProjectKey, str]] = []
        self.debounced: list[bool] = []
        self.corrections = 0
        self.late: list[tuple[ProjectKey, list[int], str]] = []

    def request(self, key: ProjectKey, reason: str, *, debounced: bool = False) -> dict[str, Any]:
        self.asked.append((key, reason))
        self.debounced.append(debounced)
        return {"job": "j1", "message": "queued"}

    def prelabel(self, key: ProjectKey, tasks: Sequence[int], reason: str) -> dict[str, Any]:
        self.late.append((key, list(tasks), reason))
        return {"job": "j2", "message": f"job j2 goes on with {len(tasks)} tasks"}

    def open_jobs(self) -> dict[tuple[str, str], int]:
        return {("train", "requested"): len(self.asked), ("train", "running"): 0}

    def pending(self) -> int:
        return self.corrections

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
        self.desk = Desk()
        self.app: FastAPI | None = None
        self.client: httpx.Client | None = None

    @property
    def services(self) -> Any:
        assert self.app is not None
        return self.app.state.services

    def make(
        self,
        bias: float,
        *,
        threshold: float = 0.5,
        bundle: str = "d" * 64,
        key: ProjectKey | None = None,
        **more: Any,
    ) -> StoredVersion:
        """A version that raises or lowers red, and nothing else."""
        verdict = more.pop("verdict", {"outcome": "accept", "reason": "better", "figures": {}})
        stored = write_version(
            self.settings.versions_dir,
            key or self.key,
            colours(bias, threshold),
            more.pop("files", {}),
            lineage(bundle_digest=bundle),
            verdict,
            first_number=self.table.next_number(key or self.key),
        )
        self.table.record(stored)
        return stored

    def publish(self, stored: StoredVersion) -> None:
        self.table.publish(stored.key, stored.name, expected=self.table.served(stored.key).version)

    def setup(self, config: str = CONFIG) -> str:
        assert self.client is not None
        answer = self.client.post("/setup", json=setup_body(config, self.studio))
        assert answer.status_code == 200, answer.text
        return str(answer.json()["model_version"])

    def predict(self, config: str = CONFIG) -> dict[str, Any]:
        assert self.client is not None
        answer = self.client.post("/predict", json=predict_body(config, [self.red], PROJECT))
        assert answer.status_code == 200, answer.text
        body: dict[str, Any] = answer.json()
        assert {each["model_version"] for each in body["results"]} == {body["model_version"]}
        return body

    def scores(self, config: str = CONFIG) -> tuple[str, list[str], float]:
        """(version, tags, score) of the red picture."""
        body = self.predict(config)
        return body["model_version"], tags_of(body["results"][0]), body["results"][0]["score"]

    def is_served(self, name: str) -> bool:
        """Whether a version (or "base") is live."""
        ref = self.services.swap.ref(self.key)
        return (ref.name if ref is not None else "base") == name


def colours(bias: float, threshold: float = 0.5) -> Delta:
    return Delta(
        tags=("red", "turquoise"),
        base_scale=np.ones(2, dtype=np.float32),
        weight=np.zeros((2, 3), dtype=np.float32),
        bias=np.array([bias, bias], dtype=np.float32),
        thresholds=np.full(2, threshold, dtype=np.float32),
    )
