"""Client of a real Label Studio's API, for tests that play its user."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import requests

from ram_backend.labelstudio.api_models import ConnectedBackend, valid_rows

PAGE = 100


class StudioApi:
    """Label Studio's API, as the user whom a legacy token belongs to."""

    def __init__(self, url: str, token: str) -> None:
        self.url = url.rstrip("/")
        self._session = requests.Session()
        self._session.trust_env = False
        self._session.headers["Authorization"] = f"Token {token}"

    def call(self, method: str, path: str, **options: Any) -> Any:
        """What a path answers, decoded; None where it answers no JSON."""
        answer = self._session.request(method, self.url + path, timeout=900, **options)
        assert answer.ok, f"{method} {path}: HTTP {answer.status_code}: {answer.text[:2000]}"
        return answer.json() if "json" in answer.headers.get("Content-Type", "") else None

    def project(self, title: str) -> dict[str, Any] | None:
        found = self.call("GET", "/api/projects", params={"page_size": 1000})["results"]
        return next((each for each in found if each["title"] == title), None)

    def create_project(self, title: str, label_config: str) -> dict[str, Any]:
        return self.call("POST", "/api/projects", json={"title": title, "label_config": label_config})

    def upload(self, project: int, photos: Sequence[Path]) -> None:
        """Makes one task of each photo, in order."""
        for start in range(0, len(photos), 10):
            files = [(path.name, (path.name, path.read_bytes(), "image/jpeg")) for path in photos[start : start + 10]]
            self.call("POST", f"/api/projects/{project}/import", files=files)

    def tasks(self, project: int) -> list[dict[str, Any]]:
        """All tasks with all of their predictions, by rising id."""
        found: list[dict[str, Any]] = []
        while True:
            page = {"project": project, "fields": "all", "page": len(found) // PAGE + 1, "page_size": PAGE}
            answer = self.call("GET", "/api/tasks", params=page)
            found += answer["tasks"]
            if not answer["tasks"] or len(found) >= answer["total"]:
                return sorted(found, key=lambda task: int(task["id"]))

    def predictions(self, task: int) -> dict[str, dict[str, Any]]:
        """Model version -> prediction that is stored for a task."""
        return {each["model_version"]: each for each in self.call("GET", f"/api/tasks/{task}")["predictions"]}

    def annotate(self, task: dict[str, Any], tags: Sequence[str]) -> None:
        """An annotation of a task with its predictions, as the page would send it, by `Choices` named "tags"."""
        item = {"id": "tags", "from_name": "tags", "to_name": "image", "type": "choices", "value": {"choices": tags}}
        parent = newest(task)["id"] if task["predictions"] else None
        body = {"result": [item] if tags else [], "parent_prediction": parent, "lead_time": 2.5}
        self.call("POST", f"/api/tasks/{task['id']}/annotations", json=body)

    def backends(self, project: int) -> list[ConnectedBackend]:
        return valid_rows(ConnectedBackend, self.call("GET", "/api/ml", params={"project": project}))

    def connect(self, project: int, url: str, **extra: Any) -> None:
        """Connects a backend, as Settings > Model does."""
        self.call("POST", "/api/ml", json={"project": project, "url": url, "title": "RAM", **extra})

    def retrieve(self, project: int, tasks: Sequence[int] | None = None) -> None:
        """Asks the backend for the predictions of tasks, or of all, less those that it has predicted already."""
        chosen = {"all": True, "excluded": []} if tasks is None else {"all": False, "included": list(tasks)}
        query = {"id": "retrieve_tasks_predictions", "project": project}
        self.call("POST", "/api/dm/actions", params=query, json={"selectedItems": chosen})


def newest(task: dict[str, Any]) -> dict[str, Any]:
    """The prediction that the page shows."""
    return max(task["predictions"], key=lambda each: int(each["id"]))


def unpacked(rle: list[int]) -> np.ndarray:
    """The values that rle-pack's `decode` gives, as its description has it."""
    bits, at = "".join(f"{byte:08b}" for byte in rle), 0

    def read(size: int) -> int:
        nonlocal at
        at += size
        return int(bits[at - size : at], 2)

    count, word = read(32), read(5) + 1
    sizes = [read(4) + 1 for _ in range(4)]
    values: list[int] = []
    while len(values) < count:
        repeated, length = read(1), read(sizes[read(2)]) + 1
        values += [read(word)] * length if repeated else [read(word) for _ in range(length)]
    assert len(values) == count
    return np.array(values)
