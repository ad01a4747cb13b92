"""`ram-backend connect` and `prelabel` with a real Label Studio: killed twice, and each task has one prediction.

RAM_TEST_TASKS=1000 does it with as many tasks.
"""

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from e2e.conftest import BACKEND_PORT, Installation, label_config
from PIL import Image
from support.processes import wait_until
from support.studio_api import StudioApi

TASKS = int(os.environ.get("RAM_TEST_TASKS", "60"))
SECRET = "a-secret-of-the-webhook"


@pytest.fixture(scope="module")
def commands(install: Callable[..., Installation]) -> Installation:
    """A backend with a webhook secret, and commands with the same settings."""
    return install("prelabel", BACKEND_PORT + 500, RAM_WEBHOOK_SECRET=SECRET, RAM_REFRESH_PORTION="8", COLUMNS="200")


@pytest.fixture(scope="module")
def project(api: StudioApi, photos: list[Path], tmp_path_factory: pytest.TempPathFactory) -> int:
    """A project with different photos, all of them cut out of those that come with the package."""
    folder = tmp_path_factory.mktemp("cut")
    files = []
    for number in range(TASKS):
        with Image.open(photos[number % len(photos)]) as image:
            left, top = number * image.width // (4 * TASKS), number * image.height // (4 * TASKS)
            part = image.convert("RGB").crop((left, top, left + image.width // 2, top + image.height // 2))
        files.append(folder / f"{number}.jpg")
        part.resize((320, 240)).save(files[-1])
    made = int(api.create_project("Many", label_config("choices_with_confidence"))["id"])
    api.upload(made, files)
    return made


def versions(api: StudioApi, project: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(one["model_version"] for one in task["predictions"]) for task in api.tasks(project))


def predicted(api: StudioApi, project: int) -> int:
    return int(api.call("GET", f"/api/projects/{project}/")["total_predictions_number"])


def test_connected_by_one_command(api: StudioApi, commands: Installation, project: int) -> None:
    said = commands.run("connect", str(project), "--url", commands.server.url, "--uncertain-first")
    assert "connected" in said
    (backend,) = api.call("GET", "/api/ml", params={"project": project})
    (webhook,) = api.call("GET", "/api/webhooks/", params={"project": project})
    state = api.call("GET", f"/api/projects/{project}/")
    assert backend["state"] == "CO"
    assert state["model_version"] == backend["title"] == backend["model_version"]
    assert state["sampling"] == "Uncertainty sampling"
    assert webhook["headers"] == {"X-RAM-Webhook-Secret": SECRET}
    again = commands.run("connect", str(project), "--url", commands.server.url, "--uncertain-first")
    assert "changed" not in again
    report = commands.run("doctor")
    assert "registered, with its secret" in report
    assert "live, and the order by uncertainty works" in report


def test_killed_twice_each_task_has_one_prediction(api: StudioApi, commands: Installation, project: int) -> None:
    version = api.backends(project)[0].model_version
    for goal in (TASKS // 8, TASKS * 2 // 5):
        process = commands.begin("prelabel", str(project))
        wait_until(lambda least=goal: predicted(api, project) >= least, 600)
        assert process.poll() is None, process.communicate()[0]
        process.kill()
        process.communicate()
        assert predicted(api, project) < TASKS
    said = commands.run("prelabel", str(project))
    assert f"predictions of {version}" in said.replace("prediction of", "predictions of")
    assert versions(api, project) == {(version,): TASKS}
    assert "Nothing to do" in commands.run("prelabel", str(project), "--all")


def test_the_most_uncertain_task_comes_first(api: StudioApi, commands: Installation, project: int) -> None:
    """Live, and yet in the order of the scores: protocol section 5's trap."""
    scores = {task["id"]: task["predictions"][0]["score"] for task in api.tasks(project)}
    served = api.call("GET", f"/api/projects/{project}/next")
    assert scores[served["id"]] == min(scores.values())


def test_images_that_could_not_be_had_are_tried_again(api: StudioApi, commands: Installation, project: int) -> None:
    """A task whose image is none has an empty prediction; asked again it is replaced, and stays one."""
    api.call("POST", f"/api/projects/{project}/import", json=[{"image": "data:image/png;base64,AAAA"}])
    said = commands.run("prelabel", str(project))
    assert "empty, because their images were unavailable" in said
    task = max(api.tasks(project), key=lambda each: int(each["id"]))
    (first,) = task["predictions"]
    assert (first["result"], first["score"]) == ([], 1.0)
    commands.run("prelabel", str(project), "--retry-failed")
    (second,) = api.call("GET", f"/api/tasks/{task['id']}")["predictions"]
    assert second["id"] != first["id"]
    assert set(versions(api, project).values()) == {TASKS + 1}
