"""LRU caches: the latest results and image clients stay, failures are tried again."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from support.server import House

from ram_backend.projects.keys import ProjectKey
from ram_backend.projects.project import Project
from ram_backend.server import services as services_module
from ram_backend.server import snapshots
from ram_backend.server.snapshots import FutureLRU


def test_the_latest_results_stay() -> None:
    with ThreadPoolExecutor(1) as workers:
        latest: FutureLRU[str, object] = FutureLRU(2, workers)
        first, second = latest.get("a", object), latest.get("b", object)
        assert latest.get("a", object) is first
        latest.get("c", object)
        assert len(latest) == 2
        assert latest.get("a", object) is first
        assert latest.get("b", object) is not second
        latest.drop(lambda key: key == "a")
        assert latest.get("a", object) is not first


def test_a_failure_is_tried_again_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    with ThreadPoolExecutor(1) as workers:
        latest: FutureLRU[str, float] = FutureLRU(2, workers)
        failed = latest.get("a", lambda: 1 / 0)
        assert isinstance(failed.exception(30), ZeroDivisionError)
        assert latest.get("a", lambda: 1.0) is failed
        monkeypatch.setattr(snapshots, "RETRY_S", -1.0)
        assert latest.get("a", lambda: 1.0).result(30) == 1.0


def test_the_latest_clients_stay(house: Callable[..., House], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services_module, "CLIENTS", 1)
    there = house()
    there.scores()
    services = there.services
    project = services.store.get(there.key)
    first = weakref.ref(services.task_images(project))
    assert services.task_images(project) is first()
    services.task_images(Project(ProjectKey("http://elsewhere.example", there.key.id, 0)))
    gc.collect()
    assert first() is None
