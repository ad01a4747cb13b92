"""A *Retrieve Predictions* that takes three times as long as Label Studio waits ends with all predictions stored.

RAM_TEST_LATE_TASKS=500 makes it the real thing: 300 s of images, and the backend's own deadline of 90 s.
"""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from e2e.conftest import Start
from support.studio_api import StudioApi

from ram_backend.cli.servers import Account, Server, start_backend
from ram_backend.demo import photo_paths

TASKS = int(os.environ.get("RAM_TEST_LATE_TASKS", "30"))
IMAGE_S = 0.6
ALL_S = TASKS * IMAGE_S
DEADLINE_S = min(90.0, ALL_S / 3)


@pytest.fixture(scope="module")
def slow_images() -> Iterator[str]:
    """A place from which each image takes a while: every number is another file."""
    photos = [path.read_bytes() for path in photo_paths()]

    class Images(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            number = int(Path(self.path).stem)
            body = photos[number % len(photos)] + number.to_bytes(8, "big")
            time.sleep(IMAGE_S)
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Images)
    serving = threading.Thread(target=server.serve_forever)
    serving.start()
    yield f"127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    serving.join()
    server.server_close()


@pytest.fixture(scope="module")
def slow_backend(
    start: Start, backend_data: Callable[[str], Path], label_studio: Server, account: Account, slow_images: str
) -> Server:
    """A backend with a worker that fetches one image at a time."""
    folder = backend_data("late")
    own = {
        "RAM_DATA_DIR": str(folder),
        "RAM_WORKER": "true",
        "RAM_FETCH_THREADS": "1",
        "RAM_ALLOWED_IMAGE_HOSTS": slow_images,
        "RAM_PREDICT_SECONDS": str(DEADLINE_S),
    }
    return start("late-backend", lambda: start_backend(folder / "s.log", 19_690, label_studio.url, account.token, own))


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
    deadline = began + 2 * ALL_S + 60
    while api.call("GET", f"/api/projects/{project}/")["total_predictions_number"] < TASKS:
        assert time.monotonic() < deadline
        time.sleep(1)
    assert time.monotonic() - began > DEADLINE_S
    (backend,) = api.backends(project)
    stored = Counter(tuple(one["model_version"] for one in task["predictions"]) for task in api.tasks(project))
    assert stored == {(backend.model_version,): TASKS}
    print(f"{TASKS} tasks, {time.monotonic() - began:.0f} s")
