"""How long a round of learning takes: from pressing Start Training to the new version being served.

    python benchmarks/training_round.py [--data ../shared/data/flickr8k_tags] [--corrections 100] [--bundle starter]

Starts `ram-backend serve` and `ram-backend worker` as they are, with a data folder of their own, a Valkey of their own,
and a local server that plays Label Studio: photos, tasks with annotations, the project and its backend. The photos were
tagged before, so their tokens are cached. Per round: time until the job begins, until the version is served, and the
seconds of the job's stages. A second round follows with as many corrections more.

The shipped starter has learned from those photos already: nothing is gained, so nothing is served. The whole way shows
with a starter that was built without them, such as `learning_curve.py` leaves in the data folder
(`--bundles DATA_FOLDER/bundles --bundle benchmark-...`).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
from photo_studio import PhotoStudio
from support.label_studio import LEGACY

from ram_backend.server.uvicorn_runner import prepare
from ram_backend.settings import load_settings

PROGRAM = (sys.executable, "-m", "ram_backend")
PROJECT = "1.1795452259"


class Studio(PhotoStudio):
    """Label Studio with one project, whose backend is asked what it serves."""

    @property
    def url_of_backend(self) -> str:
        """Address of the project's only backend."""
        return str(self.connected[0]["url"])

    def setup(self) -> str:
        """The model version that the backend names; Label Studio shows it from then on."""
        body = {"project": PROJECT, "schema": self.record["label_config"], "hostname": self.url}
        body |= {"access_token": LEGACY, "extra_params": None}
        answer = httpx.post(f"{self.url_of_backend}/setup", json=body, timeout=60)
        self.connected[0]["model_version"] = answer.raise_for_status().json()["model_version"]
        return str(self.connected[0]["model_version"])

    def correct(self, number: int, tags: Sequence[str]) -> None:
        """Somebody submits a task, and the backend is told."""
        annotation = self.annotate(number, number, *tags, minute=number % 60)
        body = {"action": "ANNOTATION_CREATED", "annotation": annotation, "task": self.tasks[number]}
        self.send(body)

    def send(self, event: Mapping[str, Any]) -> Any:
        """Sends a webhook; returns the backend's answer."""
        body = {**event, "project": self.record}
        return httpx.post(f"{self.url_of_backend}/webhook", json=body).raise_for_status().json()


def started(command: Sequence[str], environment: Mapping[str, str], log: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(command, env=dict(environment), stdout=subprocess.PIPE, stderr=log.open("ab"), text=True)


def stopped(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGTERM)
    process.wait(120)


def address_of(server: subprocess.Popen[str]) -> str:
    assert server.stdout is not None
    for line in server.stdout:
        match = re.search(r"serves (http://\S+)", line)
        if match:
            threading.Thread(target=server.stdout.read, daemon=True).start()
            return match[1]
    raise SystemExit("The server did not start.")


def round_of(studio: Studio, truth: Mapping[int, Sequence[str]], numbers: Sequence[int]) -> None:
    """Corrects so many photos, presses Start Training, and prints how long everything took."""
    for number in numbers:
        studio.correct(number, truth[number])
    corrected = sum(bool(task["annotations"]) for task in studio.tasks.values())
    before = studio.setup()
    pressed = time.perf_counter()
    answer = studio.send({"action": "START_TRAINING"})
    answered, begun, served = time.perf_counter() - pressed, 0.0, 0.0
    while True:
        jobs = httpx.get(f"{studio.url_of_backend}/jobs").raise_for_status().json()["jobs"]
        job = next(each for each in jobs if each["job"] == answer["job"])
        now = time.perf_counter() - pressed
        begun = begun or (now if job["state"] != "requested" else 0.0)
        if not served and studio.setup() != before:
            served = now
        if job["state"] in ("done", "failed") and (served or job["verdict"] != "accept"):
            break
        time.sleep(0.1)
    print(f"{corrected} corrections: {job['state']}, {job['message']}")
    end = f"served after {served:.1f} s" if served else f"ended after {now:.1f} s, nothing new is served"
    print(f"  answered after {answered * 1000:.0f} ms, begun after {begun:.1f} s, {end}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/flickr8k_tags"))
    parser.add_argument("--corrections", type=int, default=100)
    parser.add_argument("--bundle", default="starter")
    parser.add_argument("--bundles", type=Path, help="folder of bundles, linked into the data folder")
    given = parser.parse_args()
    rows = [json.loads(line) for line in (given.data / "labels.jsonl").read_text().splitlines()]
    rows = [row for row in rows if row.get("split", "train") == "train"][: 2 * given.corrections + 20]
    tags = (given.data / "tags.txt").read_text().split("\n")
    names = [tag.strip() for tag in tags if tag.strip()]
    with tempfile.TemporaryDirectory(prefix="ram-round-") as name:
        folder = Path(name)
        if given.bundles is not None:
            (folder / "bundles").symlink_to(given.bundles.absolute())
        environment = {**os.environ, "RAM_DATA_DIR": name, "RAM_BUNDLE": given.bundle, "RAM_TRAIN_AFTER": "0"}
        prepare(load_settings(data_dir=folder, bundle=given.bundle), print)
        studio = Studio([(given.data / "images" / row["file"]).read_bytes() for row in [rows[0], *rows]])
        for number in range(1, len(rows) + 1):
            studio.task(number, image=f"/data/upload/1/{number}.jpg")
        choices = "".join(f'<Choice value="{tag}"/>' for tag in names)
        controls = f'<Choices name="tags" toName="image" choice="multiple">{choices}</Choices>'
        studio.record["label_config"] = f'<View><Image name="image" value="$image"/>{controls}</View>'
        log = folder / "log"
        server = started((*PROGRAM, "serve", "--port", "0"), environment, log)
        worker = started((*PROGRAM, "worker"), environment, log)
        try:
            studio.backend(address_of(server))
            while httpx.get(f"{studio.url_of_backend}/ready").status_code != 200:
                time.sleep(0.2)
            studio.setup()
            for start in range(1, len(rows) + 1, 20):
                tasks = [studio.tasks[number] for number in range(start, min(start + 20, len(rows) + 1))]
                body = {"tasks": tasks, "project": PROJECT, "label_config": studio.record["label_config"], "params": {}}
                httpx.post(f"{studio.url_of_backend}/predict", json=body, timeout=300).raise_for_status()
            print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores; {len(names)} tags")
            truth = {number: row["tags"] for number, row in enumerate(rows, 1)}
            round_of(studio, truth, range(1, given.corrections + 1))
            round_of(studio, truth, range(given.corrections + 1, 2 * given.corrections + 1))
        finally:
            stopped(worker)
            stopped(server)
            if "ERROR" in log.read_text() or "Traceback" in log.read_text():
                shutil.copy(log, "training_round.log")
                print("Something went wrong: see training_round.log")


if __name__ == "__main__":
    main()
