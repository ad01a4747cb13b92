"""The real app with the tiny network, hosted as the product hosts it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import pytest
from security.hosting import hosting
from server.conftest import client, database_url, settings, words
from support.server import FakeJobs
from support.tiny_model import ColourWords, colour_model

from ram_backend.server.app import create_app
from ram_backend.settings import Settings

__all__ = ["client", "database_url", "settings", "words"]


@pytest.fixture
def start(settings: Settings, words: ColourWords) -> Iterator[Callable[..., httpx.Client]]:
    """Starts servers; settings by name."""
    with ExitStack() as stack:

        def begin(**changes: Any) -> httpx.Client:
            own = settings.model_copy(update=changes)
            app = create_app(own, jobs=FakeJobs(), model=colour_model(own))
            return stack.enter_context(hosting(app, own))

        yield begin
