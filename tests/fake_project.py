"""One project of a Label Studio, with the paths of its API that we use; answers as 1.23.2 does."""

from __future__ import annotations

import json
import threading
from typing import Any
from urllib.parse import parse_qs, urlsplit

from fake_label_studio import LEGACY, Studio
from web import Asked, Reply

CREATED_AT = "2026-11-23T16:44:19.098348Z"
CREATED = 1795452259


class StudioProject(Studio):
    """Tasks are added with `task` and `annotate`; `page` is how many it lists at most."""

    def __init__(self, project: int = 3) -> None:
        super().__init__()
        self.project = project
        self.tasks: dict[int, dict[str, Any]] = {}
        self.record = {"id": project, "created_at": CREATED_AT, "model_version": "", "label_config": "<View/>"}
        self.connected: list[dict[str, Any]] = []
        self.patched: list[tuple[str, Any]] = []
        self.retrieved: list[list[int]] = []
        self.before_page = lambda number: None
        self.pages = 0
        self.page = 100
        self._lock = threading.Lock()
        self._route(f"/api/projects/{project}/", self._project)
        self._route("/api/tasks", self._list)
        self._route("/api/ml", lambda asked: self.connected)
        self._route("/api/dm/actions", self._retrieve)

    def task(self, number: int, **data: Any) -> dict[str, Any]:
        found = self.tasks.setdefault(number, {"id": number, "annotations": [], "predictions": []})
        found["data"] = data or {"image": f"/data/{number}.jpg"}
        return found

    def annotate(self, number: int, task: int, *tags: str, minute: int = 0, **changes: Any) -> dict[str, Any]:
        value = {"from_name": "tags", "to_name": "image", "type": "choices", "value": {"choices": list(tags)}}
        annotation = {
            "id": number,
            "task": task,
            "result": [value] if tags else [],
            "was_cancelled": False,
            "ground_truth": False,
            "completed_by": {"id": 1, "email": "admin@example.com"},
            "updated_by": 1,
            "lead_time": 3.0,
            "parent_prediction": None,
            "created_at": "2026-11-24T12:00:00.000000Z",
            "updated_at": f"2026-11-24T12:{minute:02}:00.000000Z",
            **changes,
        }
        of_task = self.tasks.get(task) or self.task(task)
        of_task["annotations"] = [each for each in of_task["annotations"] if each["id"] != number] + [annotation]
        return annotation

    def predict(self, number: int, task: int, *tags: str, version: str | None = "starter-1") -> None:
        value = {"from_name": "tags", "to_name": "image", "type": "choices", "value": {"choices": list(tags)}}
        prediction = {"id": number, "task": task, "model_version": version, "result": [value] if tags else []}
        (self.tasks.get(task) or self.task(task))["predictions"].append(prediction)
        self._route(f"/api/predictions/{number}/", lambda asked: prediction)

    def forget(self, annotation: int) -> None:
        for task in self.tasks.values():
            task["annotations"] = [each for each in task["annotations"] if each["id"] != annotation]

    def connect(self, number: int, **fields: Any) -> None:
        backend = {"id": number, "url": "http://backend:9090", "title": "RAM", "model_version": "starter-1", **fields}
        self.connected.append(backend)

        def change(asked: Asked) -> Any:
            body = json.loads(asked.body)
            self.patched.append((asked.target, body))
            backend.update(body)
            return backend

        self._route(f"/api/ml/{number}", change)

    def _route(self, path: str, answer: Any) -> None:
        def reply(asked: Asked) -> Reply:
            if asked.headers.get("Authorization") != f"Token {LEGACY}" or self.legacy != LEGACY:
                return Reply(401, b'{"detail": "Invalid token."}')
            with self._lock:
                said = answer(asked)
            return said if isinstance(said, Reply) else Reply(body=json.dumps(said).encode())

        self.routes[path] = reply

    def _project(self, asked: Asked) -> Any:
        if asked.method == "PATCH":
            self.patched.append((asked.target, json.loads(asked.body)))
            self.record.update(json.loads(asked.body))
        return self.record

    def _retrieve(self, asked: Asked) -> Any:
        assert parse_qs(urlsplit(asked.target).query) == {
            "id": ["retrieve_tasks_predictions"],
            "project": [str(self.project)],
        }
        self.retrieved.append(json.loads(asked.body)["selectedItems"]["included"])
        return {"processed_items": 1, "detail": "Retrieved 1 predictions"}

    def _list(self, asked: Asked) -> Any:
        self.pages += 1
        self.before_page(self.pages)
        fields = parse_qs(urlsplit(asked.target).query)
        assert fields["project"] == [str(self.project)]
        assert fields["resolve_uri"] == ["false"]  # else cloud addresses come signed, and another each time
        query = json.loads(fields["query"][0])
        found = [self.tasks[number] for number in sorted(self.tasks)]
        for condition in query.get("filters", {}).get("items", []):
            found = [task for task in found if _holds(condition, task)]
        if (selected := query.get("selectedItems")) and not selected["all"]:
            found = [task for task in found if task["id"] in selected["included"]]
        size = min(self.page, int(fields["page_size"][0]))
        shown = found[:size]
        if fields["fields"] != ["all"]:
            shown = [{"id": task["id"], "data": task["data"]} for task in shown]
        return {"tasks": shown, "total": len(found), "total_annotations": 0, "total_predictions": 0}


def _holds(condition: dict[str, Any], task: dict[str, Any]) -> bool:
    counted = [each for each in task["annotations"] if not each["was_cancelled"]]
    values = {"filter:tasks:id": task["id"], "filter:tasks:total_annotations": len(counted)}
    value = values[condition["filter"]]
    return value > condition["value"] if condition["operator"] == "greater" else value == condition["value"]
