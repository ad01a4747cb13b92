"""A *Retrieve Predictions* that takes three times as long as Label Studio waits ends with all predictions stored.

RAM_TEST_LATE_TASKS=500 makes it the real thing: 300 s of images, and the backend's own deadline of 90 s.
"""

import os
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from e2e.conftest import BACKEND_PORT, Installation, label_config
from support.http_server import HttpServer, Reply, Request
from support.processes import wait_until
from support.studio_api import StudioApi

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


def test_every_task_has_its_prediction_in_the_end(
    api: StudioApi, install: Callable[..., Installation], new_project: Callable[..., int]
) -> None:
    with SlowImages() as images:
        address = f"{images.host}:{images.port}"
        own = {"RAM_ALLOWED_IMAGE_HOSTS": address, "RAM_PREDICT_SECONDS": str(DEADLINE_S)}
        url = install("late", BACKEND_PORT + 600, RAM_WORKER="true", RAM_FETCH_THREADS="1", **own).server.url
        tasks = [{"image": f"http://{address}/{number}.jpg"} for number in range(TASKS)]
        project = new_project("Slow images", label_config("choices_with_confidence"), tasks, url)
        began = time.monotonic()
        api.retrieve(project)
        record = f"/api/projects/{project}/"
        wait_until(lambda: api.call("GET", record)["total_predictions_number"] >= TASKS, 10 * ALL_S + 300)
        assert time.monotonic() - began > DEADLINE_S
        (backend,) = api.backends(project)
        stored = Counter(tuple(one["model_version"] for one in task["predictions"]) for task in api.tasks(project))
        assert stored == {(backend.model_version,): TASKS}
