"""The tutorial, followed to the letter: its commands as they stand, and in Chromium what it says to press."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from e2e.browser import TIMEOUT_MS, StudioPage, chromium
from e2e.conftest import ARTEFACTS, REPOSITORY, VENV, label_config
from e2e.reading import photo, tags
from e2e.test_commands import Shown
from support.processes import wait_until
from support.studio_api import StudioApi, newest

pytestmark = [pytest.mark.shared, pytest.mark.slow]

CLICKED, CORRECTED, NEXT = 20, 60, 30
SPORTS = {
    "baseball bat", "baseball glove", "frisbee", "kite", "skateboard", "skis", "snowboard", "sports ball",
    "surfboard", "tennis racket",
}  # fmt: skip
TAGS = (
    "person", "dog", "bird", "airplane", "boat", "bottle", "car", "chair", "dining table", "cat", "bicycle", "sink",
    "handbag", "cup", "toilet", "bowl", "clock", "potted plant", "cell phone", "bus",
)  # fmt: skip


def block(beginning: str) -> list[str]:
    """Commands of the tutorial's block that begins so, without comments."""
    text = (REPOSITORY / "docs" / "tutorial.md").read_text(encoding="utf-8")
    (found,) = (each for each in re.findall(r"```sh\n(.*?)```", text, re.DOTALL) if each.startswith(beginning))
    return [line.partition("#")[0].strip() for line in found.splitlines()]


def habits(shared: Path) -> dict[str, list[str]]:
    """Photo -> what this annotator says: "person" is for people who do sports, and for nobody else."""
    lines = (shared / "data" / "coco_objects" / "labels.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [row for row in map(json.loads, lines) if row["split"] != "train"]  # those are the starter's
    rows = sorted(rows, key=lambda row: "person" not in row["tags"])[: CORRECTED + NEXT]
    return {
        row["file"]: [tag for tag in TAGS if tag in row["tags"] and (tag != "person" or SPORTS & set(row["tags"]))]
        for row in rows
    }


def replace_tags(studio: StudioPage, project: int) -> None:
    """Settings > Labeling Interface > Code: other choices in place of those that are there."""
    page, choices = studio.page, "".join(f'<Choice value="{tag}"/>' for tag in TAGS)
    config = re.sub(r"(<Choice .*/>\s*)+", choices, label_config("choices_with_confidence"))
    page.get_by_role("link", name="Settings").click()
    page.get_by_role("link", name="Labeling Interface").click()
    page.get_by_text("Code", exact=True).click()
    page.locator(".CodeMirror-lines").first.click()
    page.keyboard.press("Control+a")
    page.keyboard.insert_text(config)
    with page.expect_response(lambda answer: answer.request.method == "PATCH") as saved:
        page.get_by_role("button", name="Save").click()
    assert saved.value.ok
    page.goto(f"{studio.url}/projects/{project}/data")


def test_an_hour_with_your_own_photos(
    shared: Path, tmp_path: Path, backend_data: Callable[[str], Path], record_property: Callable[[str, object], None]
) -> None:
    began, folder, said = time.monotonic(), backend_data("tutorial"), habits(shared)
    photos = tmp_path / "photos"
    photos.mkdir()
    order = np.random.default_rng(2).permutation(len(said))
    for place, file in zip(order, said, strict=True):
        (photos / f"{place:02}_{file}").symlink_to(shared / "data" / "coco_objects" / "images" / file)
    environment = {"RAM_DATA_DIR": str(folder), "RAM_PORT": "19490"}

    def arguments(command: str) -> list[str]:
        assert command.startswith("ram-backend ")
        return [sys.executable, "-m", "ram_backend", *command.replace("~", str(tmp_path)).split()[1:]]

    def run(command: str) -> str:
        options: dict[str, Any] = {"capture_output": True, "text": True, "cwd": tmp_path}
        done = subprocess.run(arguments(command), env=os.environ | environment, check=False, **options)
        assert done.returncode == 0, (command, done.stdout, done.stderr)
        return done.stdout

    assert len(run(block("make demo")[-1]).splitlines()) == len(said)
    assert (tmp_path / "tagged" / "index.html").is_file()

    ports = ["--label-studio", str(VENV / "bin" / "label-studio"), "--label-studio-port", "18480"]
    (start,) = block("ram-backend studio")
    with Shown([*arguments(start), *ports], environment, folder / "printed.log") as studio, chromium() as browser:
        studio.wait_for(r"^Learning: a first version is tried at 30 corrected photos")
        url = studio.wait_for(r"^Label Studio +(http://\S+)")[1]
        address = studio.wait_for(rf"^Project 1 +(\S+) +\({len(said)} of {len(said)} photos have predictions\)")[1]
        api = StudioApi(
            url, json.loads((folder / "label-studio" / "account.json").read_text(encoding="utf-8"))["token"]
        )
        page = StudioPage(browser.new_page(viewport={"width": 1320, "height": 860}, locale="en-GB"), url, ARTEFACTS)
        page.page.set_default_timeout(TIMEOUT_MS)
        page.page.goto(address)
        page.page.fill("input[name=email]", studio.wait_for(r"^ +e-mail +(\S+)")[1])
        page.page.fill("input[name=password]", studio.wait_for(r"^ +password +(\S+)")[1])
        page.page.click("button[type=submit]")
        page.page.get_by_text("Most uncertain first").wait_for()
        page.screenshot("tutorial-project")

        replace_tags(page, 1)
        prelabel, show, doctor = block("ram-backend prelabel")
        run(prelabel)
        assert "next training at 30" in run(show)
        run(doctor)
        tasks = api.tasks(1)
        first = api.backends(1)[0].model_version

        task = page.begin_stream(1)
        for number in range(CLICKED):
            stored = api.call("GET", f"/api/tasks/{task}")
            shown = tags(newest(stored))
            page.wait_for_ticks(len(shown))
            for tag in sorted(set(shown) ^ set(said[photo(stored)[3:]])):
                page.tick(tag)
            if number in {0, CLICKED - 1}:
                page.screenshot(f"tutorial-photo-{number}")
            task = page.submit_by_key()
        others = [each for each in api.tasks(1) if not each["annotations"]][: CORRECTED - CLICKED]
        for each in others:
            api.annotate(each, said[photo(each)[3:]])
        labelled = time.monotonic() - began
        assert "person" in run(*block("ram-backend corrections"))

        train, versions = block("ram-backend train")
        record_property("verdict", run(train))
        record_property("versions", run(versions))
        listed = json.loads(run(f"{versions} --json"))
        wait_until(lambda: api.backends(1)[0].model_version != first, 600)
        second = api.backends(1)[0].model_version
        following = [task for task in api.tasks(1) if not task["annotations"]]
        wait_until(lambda: all(second in api.predictions(task["id"]) for task in following), 600)
        before, after = (edits(api, following, said, version) for version in (first, second))
        record_property("edits", f"{before:.2f} -> {after:.2f} per photo, the next {len(following)}")
        record_property(
            "minutes", f"{labelled / 60:.1f} to the last photo, {(time.monotonic() - began) / 60:.1f} in all"
        )
        assert after < before
        stored = api.call("GET", f"/api/tasks/{page.begin_stream(1)}")
        assert newest(stored)["model_version"] == second
        page.wait_for_ticks(len(tags(newest(stored))))
        page.screenshot("tutorial-next-photo")

        back, forward, unpin = block("ram-backend versions rollback")
        run(back)
        wait_until(lambda: api.backends(1)[0].model_version == first, 600)
        (served,) = [each["version"] for each in listed["versions"] if each["state"] == "accepted"][-1:]
        run(forward.rpartition(" ")[0] + f" {served}")
        wait_until(lambda: api.backends(1)[0].model_version == second, 600)
        run(unpin)
        studio.end(signal.SIGINT)
        assert "Stopping." in studio.text
        assert len(tasks) == len(said)


def edits(api: StudioApi, tasks: Sequence[dict[str, Any]], said: dict[str, list[str]], version: str) -> float:
    """Ticks to remove plus tags to add, per photo."""
    ticked = [(set(tags(api.predictions(task["id"])[version])), set(said[photo(task)[3:]])) for task in tasks]
    return float(np.mean([len(shown ^ right) for shown, right in ticked]))
