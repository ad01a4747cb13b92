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
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx

from ram_backend.server.running import prepare
from ram_backend.settings import load_settings

PROGRAM = (sys.executable, "-m", "ram_backend")
CREATED = "2026-11-23T16:44:19.098348Z"
PROJECT = "1.1795452259"
TOKEN = "0" * 40


class Studio:
    """Plays Label Studio for one project."""

    def __init__(self, photos: Sequence[Path]) -> None:
        self.photos = photos
        self.annotations: dict[int, dict[str, Any]] = {}
        self.backend = ""
        self.config = ""
        self.title = "ram"
        self.model_version = "ram"
        studio = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _answer(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                body = json.loads(self.rfile.read(length) or b"{}")
                answer = studio.answer(self.command, self.path, body)
                data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = do_PATCH = _answer  # noqa: N815 - http.server's names

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def answer(self, method: str, path: str, body: Mapping[str, Any]) -> Any:
        """What Label Studio would say."""
        parts = urlsplit(path)
        if parts.path.startswith("/data/"):
            return self.photos[int(parts.path.rpartition("/")[2])].read_bytes()
        if parts.path.startswith("/api/projects/"):
            self.model_version = str(body.get("model_version", self.model_version))
            return {"id": 1, "created_at": CREATED, "model_version": self.model_version, "label_config": self.config}
        if parts.path.startswith("/api/ml"):
            self.title = str(body.get("title", self.title))
            row = {"id": 1, "url": self.backend, "title": self.title, "model_version": self.setup()}
            return [row] if method == "GET" else row
        if parts.path == "/api/tasks":
            return {"tasks": self._tasks(parse_qs(parts.query))}
        return {}

    def setup(self) -> str:
        """What the backend answers to `/setup`."""
        body = {"project": PROJECT, "schema": self.config, "hostname": self.url, "access_token": TOKEN}
        answer = httpx.post(f"{self.backend}/setup", json={**body, "extra_params": None}, timeout=60)
        return str(answer.raise_for_status().json()["model_version"])

    def task(self, number: int) -> dict[str, Any]:
        """One task, as `/predict` gets it."""
        annotation = self.annotations.get(number)
        image = {"image": f"/data/upload/1/{number}"}
        return {"id": number, "data": image, "annotations": [annotation] if annotation else [], "predictions": []}

    def annotate(self, number: int, tags: Sequence[str]) -> dict[str, Any]:
        """Somebody submits a task; returns the body of the webhook."""
        item = {"id": "t", "from_name": "tags", "to_name": "image", "type": "choices", "value": {"choices": list(tags)}}
        moment = f"2026-11-23T17:{number // 60 % 60:02d}:{number % 60:02d}.000000Z"
        self.annotations[number] = {
            "id": number, "task": number, "completed_by": 1, "updated_by": 1, "result": [item], "was_cancelled": False,
            "ground_truth": False, "lead_time": 3.0, "created_at": moment, "updated_at": moment,
        }  # fmt: skip
        project = {"id": 1, "created_at": CREATED, "label_config": self.config}
        annotation, task = self.annotations[number], self.task(number)
        return {"action": "ANNOTATION_CREATED", "project": project, "annotation": annotation, "task": task}

    def _tasks(self, query: Mapping[str, Sequence[str]]) -> list[dict[str, Any]]:
        asked = json.loads(query["query"][0])
        if "selectedItems" in asked:
            return [self.task(number) for number in asked["selectedItems"]["included"]]
        items = {each["filter"]: each for each in asked["filters"]["items"]}
        after = items["filter:tasks:id"]["value"]
        wanted = items["filter:tasks:total_annotations"]["operator"] == "greater"
        numbers = [n for n in range(1, len(self.photos)) if n > after and (n in self.annotations) == wanted]
        return [self.task(number) for number in numbers[: int(query["page_size"][0])]]


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
        httpx.post(f"{studio.backend}/webhook", json=studio.annotate(number, truth[number])).raise_for_status()
    before = studio.setup()
    pressed = time.perf_counter()
    body = {"action": "START_TRAINING", "project": {"id": 1, "created_at": CREATED, "label_config": studio.config}}
    answer = httpx.post(f"{studio.backend}/webhook", json=body).raise_for_status().json()
    answered, begun, served = time.perf_counter() - pressed, 0.0, 0.0
    while True:
        jobs = httpx.get(f"{studio.backend}/jobs").raise_for_status().json()["jobs"]
        job = next(each for each in jobs if each["job"] == answer["job"])
        now = time.perf_counter() - pressed
        begun = begun or (now if job["state"] != "requested" else 0.0)
        if not served and studio.setup() != before:
            served = now
        if job["state"] in ("done", "failed") and (served or job["verdict"] != "accept"):
            break
        time.sleep(0.1)
    print(f"{len(studio.annotations)} corrections: {job['state']}, {job['message']}")
    end = f"served after {served:.1f} s" if served else f"ended after {now:.1f} s, nothing new is served"
    print(f"  answered after {answered * 1000:.0f} ms, begun after {begun:.1f} s, {end}")
    print(f"  stages: {(job['result'] or {}).get('seconds')}", flush=True)


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
        studio = Studio([given.data / "images" / row["file"] for row in [rows[0], *rows]])
        choices = "".join(f'<Choice value="{tag}"/>' for tag in names)
        controls = f'<Choices name="tags" toName="image" choice="multiple">{choices}</Choices>'
        studio.config = f'<View><Image name="image" value="$image"/>{controls}</View>'
        log = folder / "log"
        server = started((*PROGRAM, "serve", "--port", "0"), environment, log)
        worker = started((*PROGRAM, "worker"), environment, log)
        try:
            studio.backend = address_of(server)
            while httpx.get(f"{studio.backend}/ready").status_code != 200:
                time.sleep(0.2)
            studio.setup()
            for start in range(1, len(rows) + 1, 20):
                tasks = [studio.task(number) for number in range(start, min(start + 20, len(rows) + 1))]
                body = {"tasks": tasks, "project": PROJECT, "label_config": studio.config, "params": {}}
                httpx.post(f"{studio.backend}/predict", json=body, timeout=300).raise_for_status()
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
