"""A *Retrieve Predictions* that takes three times as long as Label Studio waits ends with all predictions stored.

RAM_TEST_LATE_TASKS=500 makes it the real thing: 300 s of images, and the backend's own deadline of 90 s.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from e2e.conftest import Installation
from support.http_server import HttpServer, Reply, Request
from support.processes import wait_until
from support.studio_api import StudioApi

from ram_backend.cli.servers import Server
from ram_backend.demo import photo_paths

TASKS = int(os.environ.get("RAM_TEST_LATE_TASKS", "30"))
IMAGE_S = 0.6
ALL_S = TASKS * IMAGE_S
DEADLINE_S = min(90.0, ALL_S / 3)


class SlowImages(HttpServer):
    """Each image takes a while, and every number is another file."""

    def reply(self, request: Request) -> Reply:
        photos, number = photo_paths(), int(Path(request.path).stem)
        time.sleep(IMAGE_S)
        return Reply(body=photos[number % len(photos)].read_bytes() + number.to_bytes(8, "big"))


@pytest.fixture(scope="module")
def slow_images() -> Iterator[str]:
    with SlowImages() as images:
        yield f"{images.host}:{images.port}"


@pytest.fixture(scope="module")
def slow_backend(install: Callable[..., Installation], slow_images: str) -> Server:
    """A backend with a worker that fetches one image at a time."""
    own = {"RAM_ALLOWED_IMAGE_HOSTS": slow_images, "RAM_PREDICT_SECONDS": str(DEADLINE_S)}
    return install("late", 19_690, RAM_WORKER="true", RAM_FETCH_THREADS="1", **own).server


def test_every_task_has_its_prediction_in_the_end(
    api: StudioApi, slow_backend: Server, slow_images: str, label_config: Callable[[str], str]
) -> None:
    project = int(api.create_project("Slow images", label_config("choices_with_confidence"))["id"])
    tasks = [{"image": f"http://{slow_images}/{number}.jpg"} for number in range(TASKS)]
    api.call("POST", f"/api/projects/{project}/import", json=tasks)
    api.connect(project, slow_backend.url)
    began = time.monotonic()
    api.retrieve(project)
    assert time.monotonic() - began < DEADLINE_S + 30
    record = f"/api/projects/{project}/"
    wait_until(lambda: api.call("GET", record)["total_predictions_number"] >= TASKS, 2 * ALL_S + 60)
    assert time.monotonic() - began > DEADLINE_S
    (backend,) = api.backends(project)
    stored = Counter(tuple(one["model_version"] for one in task["predictions"]) for task in api.tasks(project))
    assert stored == {(backend.model_version,): TASKS}
    print(f"{TASKS} tasks, {time.monotonic() - began:.0f} s")
