"""The data engine's review queue in a real Label Studio: ordered, accepted as a correction, never asked twice."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from e2e.conftest import Installation
from e2e.reading import photo, tags
from PIL import Image
from support.server import choices_config
from support.studio_api import StudioApi

from ram_backend.demo import photo_paths
from ram_backend.engine.review import ASKED, ORDER, REVIEW

ANIMALS = {"chelsea", "cow", "german", "giraffes", "horses", "kingfisher", "moose"}
"""First words of the names of their photos."""
FORGOTTEN = {"giraffes_1.jpg", "moose_1.jpg"}
"""Cuts of animals that the annotator left without the tag."""


@pytest.fixture(scope="module")
def project(
    new_project: Callable[..., int],
    api: StudioApi,
    installation: Installation,
    tmp_path_factory: pytest.TempPathFactory,
) -> int:
    """Three cuts of each photo that comes with the package, annotated."""
    folder = tmp_path_factory.mktemp("cut")
    for path in photo_paths():
        for number in range(3):
            with Image.open(path) as image:
                width, height = image.width // 20, image.height // 20
                cut = image.convert("RGB").crop(
                    (number * width, number * height, (number + 17) * width, (number + 17) * height)
                )
            cut.resize((320, 240)).save(folder / f"{path.stem}_{number}.jpg")
    config = choices_config("animal", "building")
    made = new_project("Review", config, sorted(folder.iterdir()), installation.server.url)
    for task in api.tasks(made):
        is_animal = photo(task).partition("_")[0] in ANIMALS and photo(task) not in FORGOTTEN
        api.annotate(task, ["animal"] if is_animal else [])
    return made


def queue(api: StudioApi, project: int) -> list[dict[str, Any]]:
    """Tasks of the review queue, as the Data Manager sorts them by its field."""
    query = json.dumps({"ordering": [f"tasks:data.{ORDER}"]})
    found = api.call(
        "GET", "/api/tasks", params={"project": project, "fields": "all", "page_size": 100, "query": query}
    )
    return [task for task in found["tasks"] if ORDER in task["data"]]


def review_of(task: dict[str, Any]) -> dict[str, Any]:
    (found,) = (each for each in task["predictions"] if each["model_version"] == REVIEW)
    return found


def test_a_round_of_review(api: StudioApi, installation: Installation, project: int, tmp_path: Path) -> None:
    run = ("engine", "run", str(project), "--push", "--out", str(tmp_path / "run"))
    said = installation.run(*run)
    asked = queue(api, project)
    assert f"{len(asked)} tasks are in the review queue" in said
    assert [task["data"][ORDER] for task in asked] == list(range(1, len(asked) + 1))
    scores = [review_of(task)["score"] for task in asked]
    assert scores == sorted(scores), "the surest finding is first, with the lowest score"
    missing = [task for task in asked if task["data"][ASKED] == "missing: animal"]
    assert {photo(task) for task in missing} == FORGOTTEN
    accepted, rejected = missing
    assert tags(review_of(accepted)) == ["animal"]
    api.annotate(accepted, ["animal"])
    api.annotate(rejected, [])
    installation.run("corrections", "reconcile", str(project))
    listed = installation.rows("corrections", "list", str(project), "--limit", "100")
    found = {row["task"]: row for row in listed if row["model_version"] == REVIEW}
    assert set(found) == {accepted["id"], rejected["id"]}, "both have their origin"
    assert [found[task["id"]]["confirmed"] for task in (accepted, rejected)] == [["animal"], []]
    assert found[rejected["id"]]["removed"] == ["animal"]
    again = installation.run(*run)
    assert "0 tasks are in the review queue" in again
    assert len(queue(api, project)) == len(asked)
