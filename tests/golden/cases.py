"""What is recorded of release 0147a08, and how two records are compared; knows no module of the package.

The record was made in a tree of that release by `tests/golden/make_golden.py`, as it stands in commit 780a4fd.
"""

import base64
import json
import math
import shutil
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
from support.processes import running, url_in

HERE = Path(__file__).parent
PAYLOADS = HERE.parent / "contract" / "payloads"
PHOTOS = HERE.parents[1] / "ram_backend" / "demo" / "photos"
SHOWN_PHOTOS = ("astronaut.jpg", "chelsea_cat.jpg", "coffee_cup.jpg", "giraffes.jpg")
ROUNDS = tuple((seed, images, shuffled) for seed in range(4) for images in (60, 240) for shuffled in (False, True))
"""Simulated rounds of the gate: seed of the project, corrected images, whether the labels are shuffled."""


def recorded(name: str) -> Any:
    return json.loads((HERE / f"{name}.json").read_text(encoding="utf-8"))


def predict_requests() -> dict[str, dict[str, Any]]:
    """The recorded requests for predictions; their images are replaced by bundled photos, in order of the tasks."""
    found = {}
    for path in sorted(PAYLOADS.glob("predict-*.json")):
        body = found[path.stem] = json.loads(path.read_text(encoding="utf-8"))["body"]
        for number, task in enumerate(body["tasks"]):
            photo = (PHOTOS / SHOWN_PHOTOS[number % len(SHOWN_PHOTOS)]).read_bytes()
            task["data"]["image"] = "data:image/jpeg;base64," + base64.b64encode(photo).decode()
    return found


def restore(data_dir: Path) -> None:
    """Puts the recorded database and versions into an empty data folder."""
    with closing(sqlite3.connect(data_dir / "ram_backend.sqlite3")) as connection:
        connection.executescript((HERE / "history.sql").read_text(encoding="utf-8"))
    shutil.copytree(HERE / "versions", data_dir / "versions")


def predictions(data_dir: Path) -> dict[str, Any]:
    """The answers of `ram-backend serve` on a data folder to the recorded requests for predictions, by their names."""
    command = [sys.executable, "-m", "ram_backend", "serve", "--host", "127.0.0.1", "--port", "0", "--without-worker"]
    with running(command, {"RAM_DATA_DIR": str(data_dir)}) as (_, lines):
        url = f"{url_in(lines)}/predict"
        requests = predict_requests().items()
        return {name: httpx.post(url, json=body, timeout=300, trust_env=False).json() for name, body in requests}


def leaves(value: Any, skipped: frozenset[str] = frozenset(), at: str = "") -> dict[str, Any]:
    """Path -> what stands there in a JSON value, without the fields of the skipped names."""
    if not isinstance(value, dict | list) or not value:
        return {at: value}
    steps = value.items() if isinstance(value, dict) else enumerate(value)
    found = {}
    for step, inner in steps:
        if step not in skipped:
            found |= leaves(inner, skipped, f"{at}/{step}")
    return found


def differences(before: Any, after: Any, tolerance: float, skipped: frozenset[str] = frozenset()) -> list[str]:
    """Where two JSON values differ by more than rounding: a line each."""
    olds, news = leaves(before, skipped), leaves(after, skipped)
    nothing = object()

    def same(old: Any, new: Any) -> bool:
        if all(isinstance(each, int | float) and not isinstance(each, bool) for each in (old, new)):
            return math.isclose(old, new, rel_tol=tolerance, abs_tol=tolerance)
        return bool(old == new)

    pairs = {path: (olds.get(path, nothing), news.get(path, nothing)) for path in sorted({*olds, *news})}
    return [f"{path}: {old!r} before, {new!r} after" for path, (old, new) in pairs.items() if not same(old, new)]
