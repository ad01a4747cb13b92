"""A real Label Studio served by the stock host, label-studio-ml 1.0.9, beside our own server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from e2e.browser import StudioPage, agrees
from e2e.reading import confidences, items, photo, tags
from support.stock_host import needs_stock_host, stock_host
from support.studio_api import StudioApi

from ram_backend.cli.servers import Server
from ram_backend.demo import photo_paths

pytestmark = needs_stock_host
CONFIG = "choices_with_confidence"
OBVIOUS = {"chelsea_cat.jpg": "cat", "german_shepherd_dog.jpg": "dog", "coffee_cup.jpg": "coffee"}


@pytest.fixture(scope="module")
def host(label_studio: Server, backend_data: Callable[[str], Path], artefacts: Path) -> Iterator[Server]:
    """The stock host, which knows Label Studio's address and token from `/setup` alone."""
    folder = backend_data("stock-host")
    with stock_host(folder, 19_490, {}, "--log-level", "info") as started:
        yield started
        assert started.service is not None
        (artefacts / "stock-host.log").write_text(started.service.printed(), encoding="utf-8")


@pytest.fixture(scope="module")
def served(api: StudioApi, host: Server, label_config: Callable[[str], str]) -> int:
    """A project in which the stock host's predictions of all photos were retrieved."""
    project = int(api.create_project("Photos of the stock host", label_config(CONFIG))["id"])
    api.upload(project, photo_paths())
    api.connect(project, host.url)
    api.retrieve(project)
    return project


def test_every_photo_has_the_prediction_that_our_own_server_gives(
    api: StudioApi, served: int, label_config: Callable[[str], str], backend_url: str
) -> None:
    (record,) = api.backends(served)
    assert (record.state, record.model_version) == ("CO", "INITIAL")
    own = int(api.create_project("Photos of our own server", label_config(CONFIG))["id"])
    api.upload(own, photo_paths())
    api.connect(own, backend_url)
    api.retrieve(own)
    expected = {photo(task): only(task) for task in api.tasks(own)}
    found = {photo(task): only(task) for task in api.tasks(served)}
    assert found.keys() == expected.keys() == {path.name for path in photo_paths()}
    for name, prediction in found.items():
        assert prediction["model_version"] == "INITIAL"
        assert expected[name]["model_version"] != "INITIAL"
        assert prediction["score"] == pytest.approx(expected[name]["score"], abs=1e-5), name
        assert tags(prediction) == tags(expected[name]), name
        assert confidences(prediction) == confidences(expected[name]), name
        assert items(prediction).keys() == items(expected[name]).keys()
    assert {name: tag in tags(found[name]) for name, tag in OBVIOUS.items()} == dict.fromkeys(OBVIOUS, True)


def test_asking_again_doubles_nothing(api: StudioApi, served: int) -> None:
    api.retrieve(served)
    assert len({only(task)["id"] for task in api.tasks(served)}) == len(photo_paths())


def test_the_label_stream_shows_its_tags_and_a_submit_changes_no_version(
    api: StudioApi,
    host: Server,
    label_config: Callable[[str], str],
    studio_page: StudioPage,
    artefacts: Path,
) -> None:
    cat = [path for path in photo_paths() if path.name == "chelsea_cat.jpg"]
    project = int(api.create_project("Live on the stock host", label_config(CONFIG))["id"])
    api.upload(project, cat)
    api.connect(project, host.url)
    seen = studio_page.open_stream(project)
    studio_page.screenshot(artefacts / "label-stream-stock-host.png")
    (task,) = api.tasks(project)
    agrees(seen, task)
    assert "cat" in seen.tags
    studio_page.submit()
    (task,) = api.tasks(project)
    (annotation,) = task["annotations"]
    assert tags(annotation) == tags(only(task))
    (record,) = api.backends(project)
    api.call("POST", f"/api/ml/{record.id}/train", json={})
    (record,) = api.backends(project)
    assert (record.state, record.model_version) == ("CO", "INITIAL")
    assert host.service is not None
    said = host.service.printed()
    assert "ANNOTATION_CREATED" in said
    assert "START_TRAINING" in said
    assert "Traceback" not in said


def only(task: dict[str, Any]) -> dict[str, Any]:
    """The one prediction of a task."""
    (prediction,) = task["predictions"]
    return dict(prediction)
