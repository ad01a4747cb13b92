"""From connecting a backend to what the annotator sees: with choices, a taxonomy, the stock host, and no settings."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import requests
from e2e.browser import StudioPage, agrees
from e2e.conftest import ARTEFACTS, BACKEND_PORT, Installation, label_config
from e2e.reading import confidences, items, photo, predict_body, tags
from support.stock_host import needs_stock_host, stock_host
from support.studio_api import StudioApi

from ram_backend.cli.servers import Server
from ram_backend.demo import photo_paths
from ram_backend.labelstudio.label_config import parse_label_config

FIRST = "coffee_cup.jpg"
OBVIOUS = {"chelsea_cat.jpg": "cat", "german_shepherd_dog.jpg": "dog", "coffee_cup.jpg": "coffee"}
HUMAN = json.loads(Path(__file__).parents[1].joinpath("data", "demo_photo_tags.json").read_text(encoding="utf-8"))
CHOICES = "choices_with_confidence"


class Connected(NamedTuple):
    project: int
    config: str
    backend: str


@pytest.fixture(scope="module")
def host(backend_data: Callable[[str], Path]) -> Iterator[Server]:
    """The stock host, which knows Label Studio's address and token from `/setup` alone."""
    with stock_host(backend_data("stock-host"), BACKEND_PORT + 400, {}, "--log-level", "info") as started:
        yield started
        (ARTEFACTS / "stock-host.log").write_text(started.service.printed(), encoding="utf-8")


@pytest.fixture(scope="module")
def unconfigured(install: Callable[..., Installation]) -> Server:
    """Our server with no setting about Label Studio: on this machine the token that `/setup` brings will do."""
    nothing = {"RAM_LABEL_STUDIO_URL": "", "RAM_LABEL_STUDIO_API_KEY": ""}
    return install("without-settings", BACKEND_PORT + 60, **nothing).server


@pytest.fixture(
    scope="module",
    params=[
        pytest.param((CHOICES, "backend"), id="choices"),
        pytest.param(("taxonomy", "backend"), id="taxonomy"),
        pytest.param((CHOICES, "host"), id="stock host", marks=needs_stock_host),
        pytest.param((CHOICES, "unconfigured"), id="no settings"),
    ],
)
def connected(
    request: pytest.FixtureRequest, api: StudioApi, new_project: Callable[..., int], photos: list[Path]
) -> Connected:
    """A project in which the predictions of all photos were retrieved."""
    config, backend = request.param
    ordered = sorted(photos, key=lambda path: path.name != FIRST)
    url = request.getfixturevalue(backend).url
    project = new_project(f"Photos {config} {backend}", label_config(config), ordered, url)
    api.retrieve(project)
    return Connected(project, config, backend)


def test_every_photo_has_one_prediction_of_the_version_that_setup_named(api: StudioApi, connected: Connected) -> None:
    (record,) = api.backends(connected.project)
    assert (record.state, record.model_version == "INITIAL") == ("CO", connected.backend == "host")
    (control,) = parse_label_config(label_config(connected.config)).tag_controls
    known = {choice.path for choice in control.choices}
    assert len(known) >= (4_000 if connected.config == "taxonomy" else 20)
    tasks = api.tasks(connected.project)
    for task in tasks:
        (prediction,) = task["predictions"]
        assert prediction["model_version"] == record.model_version
        assert 0 <= prediction["score"] <= 1
        assert sorted(confidences(prediction)) == sorted(tags(prediction))
        assert set(items(prediction)) <= {"tags", "confidence"}
        if prediction["result"]:  # else no tag is above its threshold
            (ticked,) = items(prediction)["tags"]["value"].values()
            assert {(path,) if isinstance(path, str) else tuple(path) for path in ticked} <= known
    api.retrieve(connected.project)
    again = api.tasks(connected.project)
    assert predictions(again) == predictions(tasks), "asked again, nothing is stored twice"


def predictions(tasks: list[dict[str, Any]]) -> list[int]:
    return [one["id"] for task in tasks for one in task["predictions"]]


def test_this_label_studio_is_strict_about_predictions(api: StudioApi, connected: Connected) -> None:
    task = api.tasks(connected.project)[0]
    result = items(task["predictions"][0])["tags"] | {"value": {"choices": ["no such choice"]}}
    refused = {"task": task["id"], "result": [result], "score": 0.5, "model_version": "by hand"}
    with pytest.raises(AssertionError, match="HTTP 400"):
        api.call("POST", "/api/predictions", json=refused)


def test_the_obvious_is_ticked_and_most_are_right(api: StudioApi, connected: Connected, photos: list[Path]) -> None:
    found = {photo(task): set(tags(task["predictions"][0])) for task in api.tasks(connected.project)}
    assert found.keys() == {path.name for path in photos}
    assert {name: tag in found[name] for name, tag in OBVIOUS.items()} == dict.fromkeys(OBVIOUS, True)
    assert "cat" not in found["german_shepherd_dog.jpg"]
    assert sum(map(bool, found.values())) > len(found) / 2
    right, wrong = (sum(len(found[name] & set(HUMAN[name][kind])) for name in HUMAN) for kind in ("right", "wrong"))
    if connected.config == "taxonomy":  # the others are asked for 20 tags only
        assert right > 2 * wrong  # a tag costs a search there, so it is ticked from .2 on
        assert right >= 2 * len(HUMAN)


def test_every_photo_has_the_prediction_that_our_own_server_gives(
    api: StudioApi, connected: Connected, backend: Server
) -> None:
    body = predict_body(api, connected.project)
    answer = requests.post(f"{backend.url}/predict", json=body, timeout=300).json()
    for task, own in zip(body["tasks"], answer["results"], strict=True):
        (prediction,) = task["predictions"]
        assert prediction["score"] == pytest.approx(own["score"], abs=1e-5), photo(task)
        assert tags(prediction) == tags(own), photo(task)
        assert confidences(prediction) == confidences(own), photo(task)
        assert items(prediction).keys() == items(own).keys()


def test_data_manager_and_label_stream_show_ticked_tags_with_a_confidence_each(
    api: StudioApi, connected: Connected, studio_page: StudioPage
) -> None:
    stored = {photo(task): task for task in api.tasks(connected.project)}
    cat = stored["chelsea_cat.jpg"]
    seen = studio_page.open_task(connected.project, cat["id"])
    studio_page.screenshot(f"data-manager-{connected.config}-{connected.backend}")
    agrees(seen, cat)
    seen = studio_page.open_stream(connected.project)
    studio_page.screenshot(f"label-stream-{connected.config}-{connected.backend}")
    assert seen.task == stored[FIRST]["id"]
    agrees(seen, stored[FIRST])


@pytest.mark.parametrize("name", ["backend", pytest.param("host", marks=needs_stock_host)])
def test_the_label_stream_asks_for_what_has_no_prediction_yet_and_a_submit_is_told(
    request: pytest.FixtureRequest, name: str, api: StudioApi, new_project: Callable[..., int], studio_page: StudioPage
) -> None:
    cat = [path for path in photo_paths() if path.name == "chelsea_cat.jpg"]
    asked: Server = request.getfixturevalue(name)
    project = new_project(f"Live {name}", label_config(CHOICES), cat, asked.url)
    (task,) = api.tasks(project)
    assert task["predictions"] == []
    seen = studio_page.open_stream(project)
    (task,) = api.tasks(project)
    assert len(task["predictions"]) == 1
    agrees(seen, task)
    assert "cat" in seen.tags

    before = told(asked, name)
    studio_page.submit()
    (task,) = api.tasks(project)
    (annotation,) = task["annotations"]
    assert tags(annotation) == tags(task["predictions"][0])
    assert told(asked, name) == before + 1
    if name == "host":
        (record,) = api.backends(project)
        api.call("POST", f"/api/ml/{record.id}/train", json={})
        (record,) = api.backends(project)
        assert (record.state, record.model_version) == ("CO", "INITIAL")
        assert "START_TRAINING" in asked.service.printed()
        assert "Traceback" not in asked.service.printed()


def told(asked: Server, name: str) -> int:
    """How many new annotations a backend was told of."""
    if name == "host":
        return asked.service.printed().count("ANNOTATION_CREATED")
    numbers = requests.get(f"{asked.url}/metrics", timeout=60).text
    found = re.search(r'^ram_events_total\{action="ANNOTATION_CREATED"\} (\S+)$', numbers, re.MULTILINE)
    return int(float(found[1])) if found else 0
