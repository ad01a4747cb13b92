"""The real app with the tiny network, hosted as the product hosts it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import pytest
from security.hosting import hosting
from support.label_studio import FakeLabelStudio
from support.server import FakeJobs
from support.tiny_model import ColourWords, colour_model

from ram_backend.server import model
from ram_backend.server.app import create_app
from ram_backend.settings import Settings, load_settings


@pytest.fixture
def settings() -> Settings:
    return load_settings(batch_size=4, fetch_threads=4, predict_seconds=30, drain_seconds=5)


@pytest.fixture
def words(monkeypatch: pytest.MonkeyPatch) -> ColourWords:
    encoder = ColourWords()
    encoder.go_on.set()
    monkeypatch.setattr(model, "open_text_encoder", lambda name, settings: encoder)
    return encoder


@pytest.fixture
def studio() -> Iterator[FakeLabelStudio]:
    with FakeLabelStudio() as there:
        yield there


@pytest.fixture
def start(settings: Settings, words: ColourWords) -> Iterator[Callable[..., httpx.Client]]:
    """Starts servers; settings by name."""
    with ExitStack() as stack:

        def begin(**changes: Any) -> httpx.Client:
            own = settings.model_copy(update=changes)
            app = create_app(own, jobs=FakeJobs(), model=colour_model(own))
            return stack.enter_context(hosting(app, own))

        yield begin


@pytest.fixture
def client(start: Callable[..., httpx.Client]) -> httpx.Client:
    return start()
