"""From corrections to a better version and back: Label Studio, browser, server, worker and Valkey, each a process."""

import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from e2e.browser import StudioPage, agrees
from e2e.conftest import BACKEND_PORT, Installation, confident_config, unset
from e2e.reading import confidences, photo, tags
from support.processes import wait_until
from support.studio_api import StudioApi, newest

from ram_backend.cli.servers import Service

pytestmark = [pytest.mark.shared, pytest.mark.slow]

SCENES = ("street", "bedroom", "living room", "bathroom", "kitchen", "dining room")
CLICKED, LEFT, NONSENSE = 3, 40, 60
FEW = 60


@dataclass(frozen=True)
class Truth:
    """Photos that people labelled: file name -> its tags, and where the files are."""

    tags: Mapping[str, list[str]]
    paths: Mapping[str, Path]

    def config(self) -> str:
        return confident_config(sorted({tag for own in self.tags.values() for tag in own}), 'showInline="true"')


@pytest.fixture(scope="module")
def truth(shared: Path) -> Truth:
    """Clothes and rooms, in an order that is the same everywhere: what the starter was not trained on."""
    found: dict[str, list[str]] = {}
    paths: dict[str, Path] = {}
    for name in ("clothing_cc0", "ade_scenes"):
        for line in (shared / "data" / name / "labels.jsonl").read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            if name == "clothing_cc0" or row["tags"][0] in SCENES:
                found[row["file"]] = row["tags"]
                paths[row["file"]] = shared / "data" / name / "images" / row["file"]
    order = np.random.default_rng(5).permutation(sorted(found))
    return Truth({str(file): found[str(file)] for file in order}, paths)


@pytest.fixture(scope="module")
def objects(shared: Path) -> Truth:
    """Everyday photos with what people saw on them: what the starter was trained for, on photos that it never saw."""
    folder = shared / "data" / "coco_objects"
    rows = [json.loads(line) for line in (folder / "labels.jsonl").read_text(encoding="utf-8").splitlines()]
    rows = [row for row in rows if row["split"] == "test"][:FEW]
    return Truth(
        {row["file"]: row["tags"] for row in rows}, {row["file"]: folder / "images" / row["file"] for row in rows}
    )


class Backend(NamedTuple):
    """Server, worker and commands that share a data folder."""

    installation: Installation
    worker: Service

    def jobs(self, project: int) -> list[dict[str, Any]]:
        return [job for job in self.installation.rows("jobs", str(project)) if job["kind"] == "train"]

    def trained(self, project: int, known: int) -> dict[str, Any]:
        """The training job that comes after that many known ones, when it is done."""

        def ended() -> bool:
            self.worker.check()
            found = self.jobs(project)
            return len(found) > known and found[0]["state"] in {"done", "failed"}

        wait_until(ended, 600)
        (job,) = self.jobs(project)[: len(self.jobs(project)) - known]
        assert job["state"] == "done", (job, self.worker.printed()[-3000:])
        return job


@pytest.fixture(scope="module")
def backend(install: Callable[..., Installation]) -> Iterator[Backend]:
    made = install("learning", BACKEND_PORT + 300, RAM_TRAIN_AFTER="0")
    command = [sys.executable, "-m", "ram_backend", "worker"]
    with unset():
        worker = Service("The worker", command, made.folder / "worker.log", os.environ | made.environment)
    yield Backend(made, worker)
    worker.stop()


class Annotated:
    """A project of Label Studio with photos whose truth is known."""

    def __init__(self, api: StudioApi, title: str, truth: Truth, files: Sequence[str], backend: Backend) -> None:
        self.api, self.truth = api, truth
        self.id = int(api.create_project(title, truth.config())["id"])
        api.upload(self.id, [truth.paths[file] for file in files])
        api.connect(self.id, backend.installation.server.url)
        api.retrieve(self.id)
        self.tasks = api.tasks(self.id)

    @property
    def version(self) -> str:
        """What the backend answers to `/setup`."""
        (record,) = self.api.backends(self.id)
        assert record.model_version
        return record.model_version

    def correct(self, tasks: Sequence[dict[str, Any]], said: Mapping[int, list[str]]) -> None:
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda task: self.api.annotate(task, said[task["id"]]), tasks))

    def right(self, task: dict[str, Any]) -> list[str]:
        return self.truth.tags[photo(task)]

    def start_training(self) -> None:
        """What the button in Settings > Model sends."""
        (record,) = self.api.backends(self.id)
        self.api.call("POST", f"/api/ml/{record.id}/train", json={})

    def first_of(self, tasks: Sequence[dict[str, Any]], version: str) -> int:
        """The task whose prediction of a version has the lowest score."""
        return min((self.api.predictions(task["id"])[version]["score"], task["id"]) for task in tasks)[1]


def hits(project: Annotated, tasks: Sequence[dict[str, Any]], version: str) -> float:
    """F1 of the ticked tags of a version's stored predictions against the truth."""
    found = wanted = both = 0
    for task in tasks:
        own, right = set(tags(project.api.predictions(task["id"])[version])), set(project.right(task))
        found, wanted, both = found + len(own), wanted + len(right), both + len(own & right)
    return 2 * both / (found + wanted)


def click_what_is_right(page: StudioPage, project: Annotated, task: dict[str, Any]) -> None:
    seen = page.open_task(project.id, task["id"])
    for tag in sorted(set(seen.tags) ^ set(project.right(task))):
        page.tick(tag)
    page.submit()
    (annotation,) = project.api.call("GET", f"/api/tasks/{task['id']}")["annotations"]
    assert sorted(tags(annotation)) == sorted(project.right(task))


def test_truthful_corrections_become_a_better_version_and_a_rollback_holds(
    api: StudioApi, backend: Backend, truth: Truth, studio_page: StudioPage
) -> None:
    project = Annotated(api, "Learning", truth, list(truth.tags), backend)
    corrected, left = project.tasks[:-LEFT], project.tasks[-LEFT:]
    assert len(corrected) >= 300
    first = project.version
    assert all([one["model_version"] for one in task["predictions"]] == [first] for task in project.tasks)

    clicked = [task for task in corrected if tags(task["predictions"][0])][:CLICKED]  # the page shows their confidences
    for task in clicked:
        click_what_is_right(studio_page, project, task)
    others = [task for task in corrected if task not in clicked]
    project.correct(others, {task["id"]: project.right(task) for task in corrected})
    for _ in range(3):
        project.start_training()
    assert backend.trained(project.id, 0)["verdict"] == "accept"
    assert len(backend.jobs(project.id)) == 1

    wait_until(lambda: project.version != first, 600)
    second = project.version
    wait_until(lambda: all(second in api.predictions(task["id"]) for task in left), 600)
    before, after = hits(project, left, first), hits(project, left, second)
    assert after > before + 0.1, (before, after)

    # The next task that the label stream serves shows the new version's tags; it has the most expected edits.
    api.call("PATCH", f"/api/projects/{project.id}", json={"sampling": "Uncertainty sampling"})
    wait_until(lambda: api.call("GET", f"/api/projects/{project.id}")["model_version"] == second, 600)
    seen = studio_page.open_stream(project.id)
    studio_page.screenshot("label-stream-second-version")
    stored = api.call("GET", f"/api/tasks/{seen.task}")
    assert newest(stored)["model_version"] == second
    agrees(seen, stored)
    assert seen.task == project.first_of(left, second)

    # Back to the first version: the very same name, the very same scores; later corrections don't undo it.
    backend.installation.run("versions", "rollback", str(project.id), "base")
    wait_until(lambda: project.version == first, 600)
    locked, anew, *rest = sorted(left, key=lambda task: task["id"] != seen.task)  # Label Studio keeps what it served
    stored = api.predictions(anew["id"])[first]
    again = asked_anew(api, project, anew["id"])
    assert again["model_version"] == first
    assert again["score"] == pytest.approx(stored["score"], abs=1e-5)
    assert tags(again) == tags(stored)
    assert confidences(again) == confidences(stored)

    more, unlabelled = [locked, *rest[:19]], [anew, *rest[19:]]
    project.correct(more, {task["id"]: project.right(task) for task in more})
    project.start_training()  # answered: a job would be on record
    assert len(backend.jobs(project.id)) == 1
    assert project.version == first
    backend.installation.run("versions", "unpin", str(project.id))
    project.start_training()
    job = backend.trained(project.id, 1)
    assert job["verdict"] == "accept"
    shown = backend.installation.run("versions", "show", str(project.id), job["result"]["version"])
    assert re.search(r"photos at random +\d+, \d\.\d\d -> \d\.\d\d edits each", shown), shown
    wait_until(lambda: project.version not in {first, second}, 600)
    third = project.version
    wait_until(lambda: all(third in api.predictions(task["id"]) for task in unlabelled), 600)
    wait_until(lambda: api.call("GET", f"/api/projects/{project.id}")["model_version"] == third, 600)
    assert studio_page.begin_stream(project.id) == project.first_of(unlabelled, third)


def test_a_verdict_on_sixty_corrections_says_what_is_left_to_win(
    api: StudioApi, backend: Backend, objects: Truth, record_property: Callable[[str, object], None]
) -> None:
    """The bundle's own habits; those of test_tutorial.py differ from them."""
    project = Annotated(api, "Habits", objects, list(objects.tags), backend)
    project.correct(project.tasks, {task["id"]: project.right(task) for task in project.tasks})
    project.start_training()
    job = backend.trained(project.id, 0)
    record_property("verdict", job["message"])
    assert "Nothing left to win: at most" in job["message"]


def asked_anew(api: StudioApi, project: Annotated, task: int) -> dict[str, Any]:
    """What the backend says about a task now, all that was stored for it forgotten."""
    chosen = {"id": "delete_tasks_predictions", "project": project.id}
    api.call("POST", "/api/dm/actions", params=chosen, json={"selectedItems": {"all": False, "included": [task]}})
    api.retrieve(project.id, [task])
    (now,) = api.predictions(task).values()
    return now


def test_random_corrections_are_refused_and_the_reason_can_be_read(
    api: StudioApi, backend: Backend, truth: Truth
) -> None:
    files = list(truth.tags)[:NONSENSE]
    project = Annotated(api, "Nonsense", truth, files, backend)
    first = project.version
    shuffled = np.random.default_rng(3).permutation(len(project.tasks))
    said = {
        task["id"]: project.right(project.tasks[int(other)])
        for task, other in zip(project.tasks, shuffled, strict=True)
    }
    project.correct(project.tasks, said)
    project.start_training()
    job = backend.trained(project.id, 0)
    assert job["verdict"] == "reject"
    assert "unrelated to the images" in job["message"]
    assert "unrelated to the images" in backend.installation.run("jobs", str(project.id))
    assert project.version == first
