"""How quickly `/health`, `/setup` and `/webhook` answer while `/predict` is saturated, and how many images are tagged.

    python benchmarks/serving.py [--clients 16] [--seconds 20]

Starts `ram-backend serve` with the settings of the environment and an empty token cache, a local server that plays
Label Studio's file routes with the bundled photos, 16 clients that ask `/predict` for one task after another, and one
that asks the other routes in turn. The webhook brings an annotation that the ledger has to keep, another one each
time, in a body as large as those of a project with 4,585 tags (415 kB).
Phases: nobody else asks; new images; images seen before; new images while 4,000 new tags are embedded.
"""

from __future__ import annotations

import argparse
import http.client
import itertools
import json
import multiprocessing
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from photo_studio import start_label_studio

from ram_backend.server.uvicorn_runner import prepare
from ram_backend.settings import Settings, load_settings

SERVE = (sys.executable, "-m", "ram_backend", "serve", "--port", "0")
TAGS = (
    "person",
    "dog",
    "cat",
    "horse",
    "car",
    "tree",
    "sky",
    "mountain",
    "flower",
    "boat",
    "rocket",
    "tower",
    "cup",
    "grass",
)
PAUSE_S = 0.01


def config(tags: Sequence[str]) -> str:
    choices = "".join(f'<Choice value="{tag}"/>' for tag in tags)
    controls = f'<Taxonomy name="tags" toName="image">{choices}</Taxonomy>'
    return f'<View><Image name="image" value="$image"/>{controls}</View>'


def setup_body(hostname: str, label_config: str, project: str = "1.1") -> bytes:
    body = {"project": project, "schema": label_config, "hostname": hostname, "access_token": "0" * 40}
    return json.dumps({**body, "extra_params": None}).encode()


def predict_body(number: int) -> bytes:
    task = {"id": number, "data": {"image": f"/data/upload/1/{number}.jpg"}, "annotations": [], "predictions": []}
    return json.dumps({"tasks": [task], "project": "1.1", "label_config": config(TAGS), "params": {}}).encode()


def webhook_bodies() -> Iterator[bytes]:
    """Events in a project with 4,585 tags, 415 kB each: the label config, the parsed one, and a weight per tag."""
    tags = [f"tag {number}" for number in range(4_585)]
    control = {"type": "Taxonomy", "labels": tags, "labels_attrs": {tag: {"value": tag} for tag in tags}}
    weights = {"overall": 1.0, "type": "Taxonomy", "labels": dict.fromkeys(tags, 1.0)}
    project = {
        "id": 1, "created_at": "2026-11-23T16:44:19.098348Z", "label_config": config(tags),
        "parsed_label_config": {"tags": control}, "control_weights": {"tags": weights},
    }  # fmt: skip
    now = "2026-11-23T16:55:21.213760Z"
    choice = {"id": "t", "from_name": "tags", "to_name": "image", "type": "taxonomy", "value": {"taxonomy": [["cat"]]}}
    parts = json.dumps({"action": "ANNOTATION_CREATED", "project": project})[:-1]
    for number in itertools.count(time.monotonic_ns() // 1_000_000):  # other ones in each phase
        annotation = {
            "id": number, "task": number, "project": 1, "completed_by": 1, "result": [choice], "was_cancelled": False,
            "ground_truth": False, "created_at": now, "updated_at": now,
        }  # fmt: skip
        task = {"id": number, "data": {"image": f"/data/upload/1/{number}.jpg"}, "project": 1}
        yield f'{parts}, "annotation": {json.dumps(annotation)}, "task": {json.dumps(task)}}}'.encode()


class Caller:
    """One connection that is kept."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)

    def ask(self, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        """Status and body of the answer."""
        self._connection.request(method, path, body, {"Content-Type": "application/json"})
        answer = self._connection.getresponse()
        return answer.status, answer.read()


def saturate(port: int, numbers: Sequence[int], clients: int, done: Any, stop: Any) -> None:
    """Asks `/predict` from so many threads until told to stop, each time for the next number, round and round."""
    order = itertools.cycle(numbers)
    lock = threading.Lock()

    def work() -> None:
        caller = Caller(port)
        while not stop.is_set():
            with lock:
                number = next(order)
            status, answer = caller.ask("POST", "/predict", predict_body(number))
            if status != 200:
                raise SystemExit(f"/predict answered {status}: {answer[:300]!r}")
            with done.get_lock():
                done.value += 1

    threads = [threading.Thread(target=work) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def probe(port: int, hostname: str, seconds: float, result: Any) -> None:
    """Asks the routes that must be quick in turn; puts milliseconds by route."""
    caller, nothing, setup = Caller(port), itertools.repeat(None), setup_body(hostname, config(TAGS))
    asked: dict[str, tuple[str, Iterator[bytes | None]]] = {
        "/health": ("GET", nothing), "/setup": ("POST", itertools.repeat(setup)),
        "/webhook": ("POST", webhook_bodies()), "/versions": ("GET", nothing),
    }  # fmt: skip
    times: dict[str, list[float]] = {path: [] for path in asked}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for path, (method, bodies) in asked.items():
            body = next(bodies)
            started = time.perf_counter()
            status, answer = caller.ask(method, path, body)
            times[path].append((time.perf_counter() - started) * 1000)
            if status != 200:
                raise SystemExit(f"{path} answered {status}: {answer[:300]!r}")
            time.sleep(PAUSE_S)
    result.put(times)


def phase(name: str, port: int, hostname: str, seconds: float, *, clients: int, numbers: Sequence[int]) -> None:
    """Runs one phase and prints its lines."""
    spawn = multiprocessing.get_context("spawn")
    done, stop, result = spawn.Value("i", 0), spawn.Event(), spawn.Queue()
    load = spawn.Process(target=saturate, args=(port, numbers, clients, done, stop))
    if clients:
        load.start()
        while done.value < clients and load.is_alive():
            time.sleep(0.05)
    before, started = done.value, time.perf_counter()
    probing = spawn.Process(target=probe, args=(port, hostname, seconds, result))
    probing.start()
    times = result.get(timeout=seconds + 120)
    rate = (done.value - before) / (time.perf_counter() - started)
    stop.set()
    probing.join()
    if clients:
        load.join()
    for path, values in times.items():
        p50, p99 = np.percentile(values, [50, 99])
        print(
            f"{name:<34} {path:<10} {len(values):>5} {p50:>8.1f} {p99:>8.1f} {max(values):>8.1f} {rate:>10.1f}",
            flush=True,
        )


def embed_many(port: int, hostname: str) -> None:
    """Connects a second project with 4,000 tags that nobody has heard of."""
    words = [
        f"{first}{second} {third}"
        for first in "bdfgk"
        for second in ("albo", "imri", "ontu", "urve")
        for third in range(200)
    ]
    Caller(port).ask("POST", "/setup", setup_body(hostname, config(words), "2.2"))


def borrow(settings: Settings, folder: Path) -> None:
    """A data folder with this one's bundles and text encoders, and nothing else."""
    prepare(settings, print)
    (folder / "bundles").symlink_to(settings.bundles_dir)
    (folder / "cache").mkdir()
    (folder / "cache" / "text-encoders").symlink_to(settings.cache_dir / "text-encoders")


def main(serve: Sequence[str] = SERVE) -> None:
    """Runs all phases."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=20)
    options = parser.parse_args()
    studio, hostname = start_label_studio()
    with tempfile.TemporaryDirectory() as folder:
        borrow(load_settings(), Path(folder))
        environment = {**os.environ, "RAM_DATA_DIR": folder, "RAM_LOG_LEVEL": "warning"}
        with subprocess.Popen(serve, stdout=subprocess.PIPE, text=True, env=environment) as process:
            try:
                port = _port(process)
                _wait_ready(port)
                print(
                    f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, {options.clients} clients"
                )
                print(
                    f"{'phase':<34} {'route':<10} {'n':>5} {'p50 ms':>8} {'p99 ms':>8} {'max ms':>8} {'images/s':>10}"
                )
                Caller(port).ask("POST", "/setup", setup_body(hostname, config(TAGS)))
                seconds = options.seconds
                phase("idle", port, hostname, seconds / 2, clients=0, numbers=[])
                new = range(500_000)
                phase("new images", port, hostname, seconds, clients=options.clients, numbers=new)
                seen = range(100)
                phase("images seen before", port, hostname, seconds, clients=options.clients, numbers=seen)
                embed_many(port, hostname)
                new = range(500_000, 999_999)
                phase(
                    "new images, 4,000 new tags embedded", port, hostname, seconds, clients=options.clients, numbers=new
                )
            finally:
                process.terminate()
                process.wait(120)
                print(f"server ended with status {process.returncode}")
    studio.terminate()


def _port(process: subprocess.Popen[str]) -> int:
    assert process.stdout is not None
    for line in process.stdout:
        if "serves http://" in line:
            return int(line.partition("serves http://")[2].split()[0].rpartition(":")[2])
    raise SystemExit("the server did not start")


def _wait_ready(port: int) -> None:
    while Caller(port).ask("GET", "/ready")[0] != 200:
        time.sleep(0.2)


if __name__ == "__main__":
    main()
