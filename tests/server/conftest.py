"""A server with the tiny network, and a Label Studio for it."""

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import pytest
from support.label_studio import FakeLabelStudio
from support.processes import wait_until
from support.server import House, Houses, Start, serving
from support.tiny_model import ColourWords, colour_model, identity

from ram_backend.server import model, swap
from ram_backend.server.app import create_app
from ram_backend.settings import Settings, load_settings


@pytest.fixture
def database_url(request: pytest.FixtureRequest) -> str | None:
    """SQLite in the data folder; where `pytestmark = ON_BOTH_DATABASES` stands, an empty PostgreSQL database, too."""
    kind = getattr(request, "param", "sqlite")
    return request.getfixturevalue("cluster").new_database() if kind == "postgresql" else None


@pytest.fixture
def settings(database_url: str | None) -> Settings:
    return load_settings(batch_size=4, fetch_threads=4, predict_seconds=30, drain_seconds=5, database_url=database_url)


@pytest.fixture
def words(monkeypatch: pytest.MonkeyPatch) -> ColourWords:
    encoder = ColourWords()
    encoder.go_on.set()
    monkeypatch.setattr(model, "open_text_encoder", lambda name, settings: encoder)
    return encoder


@pytest.fixture
def start(settings: Settings, words: ColourWords) -> Iterator[Start]:
    """Starts servers; settings and parts of the app by name."""
    with ExitStack() as stack:

        def begin(
            *, network: Any = None, jobs: Any = None, loaded: bool = True, opened: bool = True, **changes: Any
        ) -> httpx.Client:
            own = settings.model_copy(update=changes)
            given = (
                colour_model(own, network)
                if loaded
                else model.ModelLoader(own, identity=identity() if opened else None)
            )
            return stack.enter_context(serving(create_app(own, jobs=jobs, model=given)))

        yield begin


@pytest.fixture
def client(start: Start) -> httpx.Client:
    return start()


@pytest.fixture
def house(
    settings: Settings, studio: FakeLabelStudio, words: ColourWords, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Houses]:
    """Builds servers that look at the database often, each on the database and the versions of the one before."""
    monkeypatch.setattr(swap, "POLL_S", 0.02)
    monkeypatch.setattr(swap, "RETRY_S", (0.05, 0.05))
    with ExitStack() as stack:
        built: list[House] = []

        def build(network: Any = None, **changes: Any) -> House:
            mine = House(settings.model_copy(update=changes), studio)
            mine.app = create_app(mine.settings, jobs=mine.jobs, model=colour_model(mine.settings, network))
            mine.client = stack.enter_context(serving(mine.app))
            if not built:
                mine.setup()
                wait_until(lambda: not mine.services.project_cache.pending)
            built.append(mine)
            return mine

        yield build


@pytest.fixture
def there(house: Houses) -> House:
    return house()
