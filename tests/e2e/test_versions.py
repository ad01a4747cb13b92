"""What an admin changes gets a new model version, is asked for again, and nothing is stored twice."""

import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import pytest
import requests
from e2e.conftest import confident_config
from e2e.reading import photo, predict_body, tags
from support.studio_api import StudioApi

from ram_backend.cli.servers import Server
from ram_backend.demo import photo_paths

ANIMALS = ("cat", "dog", "horse", "bird", "cow", "giraffe")
PLACES = ("sky", "tree", "grass", "mountain", "water", "building")
PHOTOS = [path for path in photo_paths() if path.name.startswith(("chelsea", "cow", "german", "alpine", "eiffel"))]


class Connected(NamedTuple):
    """One project, as its admin and its annotators use it."""

    api: StudioApi
    project: int

    def change(self, extra_params: object) -> str:
        """Saves extra params of the connection; returns the model version that Label Studio then shows."""
        (record,) = self.api.backends(self.project)
        body = {"project": self.project, "url": record.url, "title": "RAM", "extra_params": extra_params}
        self.api.call("PATCH", f"/api/ml/{record.id}", json=body)
        return str(self.api.backends(self.project)[0].model_version)

    def retrieved(self) -> list[dict[str, Any]]:
        """The tasks, after the predictions of all of them were asked for."""
        self.api.retrieve(self.project)
        return self.api.tasks(self.project)

    def versions(self, tasks: list[dict[str, Any]]) -> list[str]:
        """Versions of the stored predictions, oldest first: the same for all tasks."""
        (found,) = {tuple(one["model_version"] for one in by_age(task)) for task in tasks}
        return list(found)


def by_age(task: dict[str, Any]) -> list[dict[str, Any]]:
    return sorted(task["predictions"], key=lambda prediction: prediction["id"])


@pytest.fixture
def animals(api: StudioApi, new_project: Callable[..., int], backend: Server) -> Connected:
    return Connected(api, new_project("Animals", confident_config(ANIMALS), PHOTOS, backend.url))


def test_each_change_is_asked_for_once_and_the_way_back_costs_nothing(animals: Connected) -> None:
    first = str(animals.api.backends(animals.project)[0].model_version)
    assert animals.versions(animals.retrieved()) == [first]
    assert animals.versions(animals.retrieved()) == [first]

    stricter = animals.change({"threshold": 0.999999})
    assert stricter != first
    tasks = animals.retrieved()
    assert animals.versions(tasks) == [first, stricter]
    assert all(len(tags(by_age(task)[1])) <= len(tags(by_age(task)[0])) for task in tasks)

    fewer = animals.change({"tags": ["cat", "dog"], "threshold": 0.0})
    assert fewer not in {first, stricter}
    tasks = animals.retrieved()
    assert animals.versions(tasks) == [first, stricter, fewer]
    assert {frozenset(tags(by_age(task)[2])) for task in tasks} == {frozenset({"cat", "dog"})}
    assert animals.versions(animals.retrieved()) == [first, stricter, fewer]

    assert animals.change(None) == first
    assert animals.versions(animals.retrieved()) == [first, stricter, fewer]


def test_a_changed_label_config_is_a_new_version_too(animals: Connected) -> None:
    (first,) = animals.versions(animals.retrieved())
    longer = {"label_config": confident_config((*ANIMALS, "mountain"))}
    animals.api.call("PATCH", f"/api/projects/{animals.project}", json=longer)
    tasks = animals.retrieved()
    assert len(animals.versions(tasks)) == 2
    (alpine,) = [task for task in tasks if photo(task).startswith("alpine")]
    assert tags(by_age(alpine)[0]) == []
    assert tags(by_age(alpine)[1]) == ["mountain"]
    assert first == by_age(alpine)[0]["model_version"]


def test_a_mistake_in_extra_params_is_shown_and_the_last_good_settings_stay(animals: Connected) -> None:
    good = animals.change({"threshold": 0.7})
    with pytest.raises(AssertionError, match=r"there is no such key .*threshold"):
        animals.change({"thresold": 0.1})
    assert animals.api.backends(animals.project)[0].model_version == good


def test_two_projects_never_see_each_other_s_tags(
    api: StudioApi, backend: Server, animals: Connected, new_project: Callable[..., int]
) -> None:
    places = Connected(api, new_project("Places", confident_config(PLACES), PHOTOS, backend.url))
    for project in (animals, places):
        project.change({"threshold": 0.0})
    own = {animals.project: set(ANIMALS), places.project: set(PLACES)}
    bodies = [predict_body(api, project.project) for project in (animals, places)]
    asked = list(itertools.islice(itertools.cycle(bodies), 16))
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda body: requests.post(f"{backend.url}/predict", json=body, timeout=300), asked))
    for body, answer in zip(asked, answers, strict=True):
        results = answer.json()["results"]
        assert len(results) == len(body["tasks"])
        for one in results:
            assert set(tags(one)) == own[int(body["project"].split(".")[0])]
    assert len({answer.json()["results"][0]["model_version"] for answer in answers}) == 2
