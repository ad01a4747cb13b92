"""Image clients of projects: kept while they are used, and closed afterwards."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from server.house import House

from ram_backend.labelstudio.client import LabelStudio
from ram_backend.labelstudio.task_images import TaskImages
from ram_backend.projects.keys import ProjectKey
from ram_backend.projects.project import Project
from ram_backend.server import images


@pytest.fixture(autouse=True)
def closed(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What was closed."""
    found: list[object] = []
    for kind in (TaskImages, LabelStudio):
        real = kind.close

        def close(self: object, real: Callable[[object], None] = real) -> None:  # type: ignore[assignment]
            found.append(self)
            real(self)

        monkeypatch.setattr(kind, "close", close)
    return found


def test_clients_are_closed_where_there_are_too_many(
    house: Callable[..., House], closed: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "KEPT_CLIENTS", 1)
    there = house()
    there.scores()
    assert closed == []
    store, own = there.services.store, there.services._images
    first = own.client(store.get(there.key))
    assert closed == []
    second = own.client(Project(ProjectKey("http://elsewhere.example", there.key.id, 0)))
    assert first in closed
    assert second not in closed
    own.close()
    assert second in closed
