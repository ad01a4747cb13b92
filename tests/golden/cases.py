"""What is recorded of an earlier release, and how two records are compared; knows no module of the package."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
PAYLOADS = HERE.parent / "contract" / "payloads"
PHOTOS = HERE.parents[1] / "ram_backend" / "demo" / "photos"
SHOWN_PHOTOS = ("astronaut.jpg", "chelsea_cat.jpg", "coffee_cup.jpg", "giraffes.jpg")
KINDS = ("ram", "ram_plus", "tag2text")
ROUNDS = tuple((seed, images, shuffled) for seed in range(4) for images in (60, 240) for shuffled in (False, True))
"""Simulated rounds of the gate: seed of the project, corrected images, whether the labels are shuffled."""
HOST = "http://localhost:8080"
CREATED = {"project": "26.1795452906", "id": 26, "created": 1_795_452_906}
"""The project of `predict-one-upload`, which has a history in the recorded database."""


def simulated(seed: int, images: int, shuffled: bool, tags: int = 12, width: int = 24) -> dict[str, Any]:
    """A project of random features, whose truth is linear in them and known to the bundle in part."""
    random = np.random.default_rng(seed)
    features = random.normal(size=(images, width))
    truth = features @ random.normal(size=(width, tags)) / np.sqrt(width)
    labels = truth + 0.2 * random.normal(size=truth.shape) > 0.8
    base = 1.5 * truth + 2.0 * features @ random.normal(size=(width, tags)) / np.sqrt(width) - 2.0
    if shuffled:
        labels = labels[random.permutation(images)]
    log_odds = base.astype(np.float32)
    return {
        "tags": tuple(f"tag {number}" for number in range(tags)),
        "features": features.astype(np.float32),
        "tokens": None,
        "base": log_odds,
        "incumbent": log_odds,
        "labels": labels,
        "weights": np.where(labels, 1.0, 0.5).astype(np.float32),
        "content": tuple(hashlib.sha256(f"{seed} {number}".encode()).hexdigest() for number in range(images)),
        "phash": random.integers(0, 2**64, images, dtype=np.uint64),
        "ground_truth": np.zeros(images, dtype=np.bool_),
        "known_tags": np.ones(tags, dtype=np.bool_),
        "base_thresholds": np.full(tags, 0.5, dtype=np.float32),
    }


def payload(name: str) -> dict[str, Any]:
    """The JSON body of one recorded request."""
    body: dict[str, Any] = json.loads((PAYLOADS / f"{name}.json").read_text(encoding="utf-8"))["body"]
    return body


def predict_requests() -> dict[str, dict[str, Any]]:
    """The recorded requests for predictions; their images are replaced by bundled photos, in order of the tasks."""
    found = {}
    for path in sorted(PAYLOADS.glob("predict-*.json")):
        body = payload(path.stem)
        for number, task in enumerate(body["tasks"]):
            photo = (PHOTOS / SHOWN_PHOTOS[number % len(SHOWN_PHOTOS)]).read_bytes()
            task["data"]["image"] = "data:image/jpeg;base64," + base64.b64encode(photo).decode()
        found[path.stem] = body
    return found


def restore(data_dir: Path) -> None:
    """Puts the recorded database and versions into an empty data folder."""
    with closing(sqlite3.connect(data_dir / "ram_backend.sqlite3")) as connection:
        connection.executescript((HERE / "history.sql").read_text(encoding="utf-8"))
    shutil.copytree(HERE / "versions", data_dir / "versions")


def dump(database: Path) -> str:
    """A database as SQL."""
    with closing(sqlite3.connect(database)) as connection:
        return "\n".join(connection.iterdump()) + "\n"


@contextmanager
def served(data_dir: Path) -> Iterator[str]:
    """The address of `ram-backend serve` on a data folder."""
    environment = {**os.environ, "RAM_DATA_DIR": str(data_dir), "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "ram_backend", "serve", "--host", "127.0.0.1", "--port", "0", "--without-worker"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
    assert process.stdout is not None
    lines: list[str] = []
    try:
        for line in process.stdout:
            lines.append(line)
            if "Next:" in line:
                break
        threading.Thread(target=lines.extend, args=(process.stdout,), daemon=True).start()
        addresses = [word for line in lines if "serves" in line for word in line.split() if word.startswith("http://")]
        assert addresses, "".join(lines)
        yield addresses[0]
    finally:
        process.terminate()
        process.wait(30)


def post(url: str, body: dict[str, Any]) -> dict[str, Any]:
    """The JSON answer to a JSON request."""
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        found: dict[str, Any] = json.load(answer)
    return found


def predictions(data_dir: Path) -> dict[str, Any]:
    """The answers to the recorded requests for predictions, by their names."""
    with served(data_dir) as url:
        return {name: post(f"{url}/predict", body) for name, body in predict_requests().items()}


def without(value: Any, names: frozenset[str]) -> Any:
    """A JSON value without the fields of these names, and without the numbers drawn for results."""
    if isinstance(value, dict):
        return {key: without(each, names) for key, each in value.items() if key not in names}
    return [without(each, names) for each in value] if isinstance(value, list) else value


def differences(before: Any, after: Any, tolerance: float, at: str = "") -> list[str]:
    """Where two JSON values differ by more than rounding: a line each."""
    if isinstance(before, dict) and isinstance(after, dict):
        keys = sorted({*before, *after}, key=str)
        lines = [
            f"{at}/{key}: only {'before' if key in before else 'after'}"
            for key in keys
            if (key in before) != (key in after)
        ]
        common = [key for key in keys if key in before and key in after]
        return lines + [
            line for key in common for line in differences(before[key], after[key], tolerance, f"{at}/{key}")
        ]
    if isinstance(before, list) and isinstance(after, list):
        if len(before) != len(after):
            return [f"{at}: {len(before)} items before, {len(after)} after"]
        pairs = enumerate(zip(before, after, strict=True))
        return [line for number, (a, b) in pairs for line in differences(a, b, tolerance, f"{at}[{number}]")]
    numbers = all(isinstance(each, int | float) and not isinstance(each, bool) for each in (before, after))
    same = math.isclose(before, after, rel_tol=tolerance, abs_tol=tolerance) if numbers else before == after
    return [] if same else [f"{at}: {before!r} before, {after!r} after"]
