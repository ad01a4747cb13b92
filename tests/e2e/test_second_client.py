"""A client of our own that plays Label Studio, as the protocol describes it; no Label Studio is needed."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from e2e.conftest import BACKEND_PORT, Start, confident_config
from e2e.reading import confidences, tags
from support.label_studio import LEGACY, FakeLabelStudio
from support.server import connect, predict_body, results

from ram_backend.cli.servers import start_backend
from ram_backend.demo import photo_paths

CONFIG = confident_config(("cat", "dog", "horse", "mountain", "tower", "coffee"))
UPLOADS = [f"/data/upload/1/{path.name}" for path in photo_paths()]


@pytest.fixture(scope="module")
def studio() -> Iterator[FakeLabelStudio]:
    """Serves the bundled photos as uploads, to those who have the token."""
    with FakeLabelStudio() as served:
        for path in photo_paths():
            served.file(f"/data/upload/1/{path.name}", path.read_bytes())
        yield served


@pytest.fixture(scope="module")
def client(start: Start, backend_data: Callable[[str], Path], studio: FakeLabelStudio) -> Iterator[httpx.Client]:
    """Asks a backend that was told nothing: it knows Label Studio's address and token from `/setup` alone."""
    folder = backend_data("second-backend")
    untold = {"RAM_DATA_DIR": str(folder), "RAM_LABEL_STUDIO_URL": "", "RAM_LABEL_STUDIO_API_KEY": ""}
    log, port = folder / "backend.log", BACKEND_PORT + 100
    backend = start("second-backend", lambda: start_backend(log, port, studio.url, LEGACY, untold))
    with httpx.Client(base_url=backend.url, trust_env=False, timeout=300) as asking:
        yield asking


def predicted(client: httpx.Client, images: list[str], version: str) -> list[Any]:
    """The results of an answer: one per task, all of that version, all with a score."""
    found = results(client, predict_body(CONFIG, images))
    assert len(found) == len(images)
    for one in found:
        assert 0 <= one["score"] <= 1
        assert sorted(confidences(one)) == sorted(tags(one))
        assert all({"id", "from_name", "to_name", "type", "value"} <= item.keys() for item in one["result"])
    assert {one["model_version"] for one in found} == {version}
    return found


def test_the_whole_flow(client: httpx.Client, studio: FakeLabelStudio) -> None:
    assert client.get("/health").json()["status"] == "UP"
    (version,) = {connect(client, studio, CONFIG) for _ in range(2)}
    forwards = predicted(client, UPLOADS, version)
    found = {path.name: tags(one) for path, one in zip(photo_paths(), forwards, strict=True)}
    assert "cat" in found["chelsea_cat.jpg"]
    assert "dog" in found["german_shepherd_dog.jpg"]
    assert "coffee" in found["coffee_cup.jpg"]
    backwards = predicted(client, UPLOADS[::-1], version)[::-1]
    assert [tags(one) for one in backwards] == [tags(one) for one in forwards]
    there, back = (
        [item["score"] for one in each for item in one["result"] if "score" in item] for each in (forwards, backwards)
    )
    assert there
    assert back == pytest.approx(there, abs=1e-5)
    assert version in client.get("/versions").json()["versions"]
