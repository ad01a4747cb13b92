"""The whole vocabulary as a Taxonomy: more than 4,000 tags in one label config."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from e2e.browser import StudioPage, agrees
from e2e.reading import confidences, items, photo, tags
from support.studio_api import StudioApi

from ram_backend.demo import photo_paths
from ram_backend.labelstudio.label_config import parse_label_config

FIRST = "german_shepherd_dog.jpg"
HUMAN = Path(__file__).resolve().parents[1] / "data" / "demo_photo_tags.json"


@pytest.fixture(scope="module")
def connected(api: StudioApi, label_config: Callable[[str], str], backend_url: str) -> int:
    """A project with the bundled photos, their predictions retrieved."""
    project = int(api.create_project("Everything", label_config("taxonomy"))["id"])
    api.upload(project, sorted(photo_paths(), key=lambda path: path.name != FIRST))
    api.connect(project, backend_url)
    api.retrieve(project)
    return project


def test_every_photo_has_paths_from_the_root_and_a_confidence_each(
    api: StudioApi, connected: int, label_config: Callable[[str], str]
) -> None:
    (control,) = parse_label_config(label_config("taxonomy")).tag_controls
    assert len(control.choices) >= 4_000
    known = {choice.path for choice in control.choices}
    found = api.tasks(connected)
    assert sorted(photo(task) for task in found) == [path.name for path in photo_paths()]
    tagged = 0
    for task in found:
        (prediction,) = task["predictions"]
        if not prediction["result"]:
            continue  # no tag is above its threshold
        paths = items(prediction)["tags"]["value"]["taxonomy"]
        assert {tuple(path) for path in paths} <= known
        assert len(confidences(prediction)) == len(paths) > 0
        tagged += 1
    assert tagged >= len(found) * 3 / 4


def test_people_agree_with_most_tags(api: StudioApi, connected: int) -> None:
    human = json.loads(HUMAN.read_text(encoding="utf-8"))
    right = wrong = 0
    for task in api.tasks(connected):
        ticked = set(tags(task["predictions"][0]))
        right += len(ticked & set(human[photo(task)]["right"]))
        wrong += len(ticked & set(human[photo(task)]["wrong"]))
    assert right > 3 * wrong
    assert right >= 2 * len(human)


def test_data_manager_and_label_stream_show_them(
    api: StudioApi, connected: int, studio_page: StudioPage, artefacts: Path
) -> None:
    stored = {photo(task): task for task in api.tasks(connected)}
    cat = stored["chelsea_cat.jpg"]
    seen = studio_page.open_task(connected, cat["id"])
    studio_page.screenshot(artefacts / "data-manager-taxonomy.png")
    agrees(seen, cat)
    assert "cat" in seen.tags
    seen = studio_page.open_stream(connected)
    studio_page.screenshot(artefacts / "label-stream-taxonomy.png")
    assert seen.task == stored[FIRST]["id"]
    agrees(seen, stored[FIRST])
    assert "dog" in seen.tags
