"""Choices with a confidence each: from connecting the backend to what the annotator sees."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import requests
from e2e.browser import StudioPage, agrees
from e2e.reading import confidences, items, photo, tags
from support.studio_api import StudioApi

from ram_backend.demo import photo_paths

FIRST = "coffee_cup.jpg"
OBVIOUS = {"chelsea_cat.jpg": "cat", "german_shepherd_dog.jpg": "dog", "coffee_cup.jpg": "coffee"}


@pytest.fixture(scope="module")
def pictures(photos: list[Path]) -> list[Path]:
    """All photos; first the one that the label stream shall serve first."""
    return sorted(photos, key=lambda path: path.name != FIRST)


@pytest.fixture(scope="module")
def connected(api: StudioApi, pictures: list[Path], label_config: Callable[[str], str], backend_url: str) -> int:
    """A project in which the predictions of all photos were retrieved."""
    project = int(api.create_project("Photos", label_config("choices_with_confidence"))["id"])
    api.upload(project, pictures)
    api.connect(project, backend_url)
    api.retrieve(project)
    return project


def test_every_photo_has_one_prediction_of_the_version_that_setup_named(
    api: StudioApi, connected: int, pictures: list[Path]
) -> None:
    (record,) = api.backends(connected)
    assert record.state == "CO"
    tasks = api.tasks(connected)
    assert [photo(task) for task in tasks] == [path.name for path in pictures]
    for task in tasks:
        (prediction,) = task["predictions"]
        assert prediction["model_version"] == record.model_version
        assert 0 <= prediction["score"] <= 1
        assert sorted(confidences(prediction)) == sorted(tags(prediction))
        assert set(items(prediction)) <= {"tags", "confidence"}


def test_this_label_studio_is_strict_about_predictions(api: StudioApi, connected: int) -> None:
    task = api.tasks(connected)[0]
    result = items(task["predictions"][0])["tags"] | {"value": {"choices": ["no such choice"]}}
    refused = {"task": task["id"], "result": [result], "score": 0.5, "model_version": "by hand"}
    with pytest.raises(AssertionError, match="HTTP 400"):
        api.call("POST", "/api/predictions", json=refused)


def test_the_obvious_is_ticked(api: StudioApi, connected: int) -> None:
    found = {photo(task): tags(task["predictions"][0]) for task in api.tasks(connected)}
    assert {name: tag in found[name] for name, tag in OBVIOUS.items()} == dict.fromkeys(OBVIOUS, True)
    assert "cat" not in found["german_shepherd_dog.jpg"]
    assert sum(bool(each) for each in found.values()) > len(found) / 2


def test_the_data_manager_shows_ticked_tags_with_a_confidence_each(
    api: StudioApi, connected: int, studio_page: StudioPage, artefacts: Path
) -> None:
    stored = {photo(task): task for task in api.tasks(connected)}
    for name, obvious in OBVIOUS.items():
        task = stored[name]
        seen = studio_page.open_task(connected, task["id"])
        studio_page.screenshot(artefacts / f"data-manager-choices-{Path(name).stem}.png")
        agrees(seen, task)
        assert obvious in seen.tags


def test_the_label_stream_shows_them_too(
    api: StudioApi, connected: int, studio_page: StudioPage, artefacts: Path
) -> None:
    seen = studio_page.open_stream(connected)
    studio_page.screenshot(artefacts / "label-stream-choices.png")
    (task,) = [each for each in api.tasks(connected) if each["id"] == seen.task]
    assert photo(task) == FIRST
    agrees(seen, task)


def test_the_label_stream_asks_for_what_has_no_prediction_yet_and_a_submit_is_told(
    api: StudioApi,
    new_project: Callable[..., int],
    label_config: Callable[[str], str],
    studio_page: StudioPage,
    backend_url: str,
) -> None:
    cat = [path for path in photo_paths() if path.name == "chelsea_cat.jpg"]
    project = new_project("Live", label_config("choices_with_confidence"), cat)
    (task,) = api.tasks(project)
    assert task["predictions"] == []
    seen = studio_page.open_stream(project)
    (task,) = api.tasks(project)
    assert len(task["predictions"]) == 1
    agrees(seen, task)
    assert "cat" in seen.tags

    before = events(backend_url)
    studio_page.submit()
    (task,) = api.tasks(project)
    (annotation,) = task["annotations"]
    assert tags(annotation) == tags(task["predictions"][0])
    assert events(backend_url) == before + 1


def events(backend: str) -> int:
    """How many new annotations the backend was told of."""
    numbers = requests.get(f"{backend}/metrics", timeout=5).text
    found = re.search(r'^ram_events_total\{action="ANNOTATION_CREATED"\} (\S+)$', numbers, re.MULTILINE)
    return int(float(found[1])) if found else 0
