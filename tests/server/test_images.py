"""Image clients of projects: the latest ones stay in memory, all others are let go."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable

import pytest
from support.server import House

from ram_backend.projects.keys import ProjectKey
from ram_backend.projects.project import Project
from ram_backend.server import images


def test_the_latest_clients_stay(house: Callable[..., House], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "CLIENTS", 1)
    there = house()
    there.scores()
    store, own = there.services.store, there.services.images
    project = store.get(there.key)
    first = weakref.ref(own.client(project))
    assert own.client(project) is first()
    own.client(Project(ProjectKey("http://elsewhere.example", there.key.id, 0)))
    gc.collect()
    assert first() is None
