"""A Label Studio that retrieves predictions from a backend which takes its time, as 1.23.2 does."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from typing import Any
from urllib.parse import parse_qs, urlsplit

from support.label_studio import CREATED, LEGACY, StudioProject
from support.web import Asked, Reply

from ram_backend.projects.keys import ProjectKey

VERSION = "starter-0123456789ab"


class PredictingProject(StudioProject):
    """Its backend takes `seconds` per task, and answers nothing where a portion takes longer than `patience`.

    Attributes:
        unreachable: tasks whose image can't be had now: a request that has nothing else is answered 503.
        broken: tasks whose image can never be had: their predictions are empty, with score 1.
        asked: tasks of each request to the backend, in order.
    """

    def __init__(self, project: int = 7, *, tasks: int = 0) -> None:
        super().__init__(project)
        self.seconds, self.patience = 0.0, 1.0
        self.unreachable: set[int] = set()
        self.broken: set[int] = set()
        self.portions: list[list[int]] = []
        self.waiting = 0
        self._last = 100_000
        self._storing = threading.Lock()
        self.connect(4, title="RAM", model_version=VERSION, state="CO")
        self.routes["/api/dm/actions"] = self._act
        for number in range(1, tasks + 1):
            self.task(number)

    @property
    def key(self) -> ProjectKey:
        return ProjectKey(self.url, self.project, CREATED)

    def counts(self, version: str = VERSION) -> Counter[int]:
        """How many tasks have how many predictions of a version."""
        return Counter(
            sum(one["model_version"] == version for one in task["predictions"]) for task in self.tasks.values()
        )

    def store(self, task: int, version: str, *, empty: bool = False) -> int:
        with self._storing:
            self._last += 1
            number = self._last
            made = {"id": number, "model_version": version, "score": 1.0 if empty else 0.5}
            self.tasks[task]["predictions"].append(made | {"result": [] if empty else [{"id": "tags"}]})

        def forget(asked: Asked) -> Reply:
            assert asked.method == "DELETE"
            own = self.tasks[task]["predictions"]
            self.tasks[task]["predictions"] = [each for each in own if each["id"] != number]
            return Reply(204)

        self._route(f"/api/predictions/{number}/", forget)
        return number

    def _act(self, asked: Asked) -> Reply:
        """Waits for the backend without keeping others waiting, and goes on when its own caller has gone."""
        if asked.headers.get("Authorization") != f"Token {LEGACY}":
            return Reply(401)
        self._retrieve(asked)
        version = self.connected[0]["model_version"]
        chosen = [number for number in self.retrieved[-1] if number in self.tasks]
        lacking = [number for number in chosen if not self._has(number, version)]
        if lacking:
            self.portions.append(lacking)
            self.waiting += 1
            took = self.seconds * len(lacking)
            time.sleep(min(took, self.patience))
            if took <= self.patience and not set(lacking) <= self.unreachable:
                for number in lacking:
                    self.store(number, version, empty=number in self.broken | self.unreachable)
            self.waiting -= 1
        return Reply(body=b'{"processed_items": 1, "detail": "Retrieved 1 predictions"}')

    def _has(self, task: int, version: str) -> bool:
        return any(one["model_version"] == version for one in self.tasks[task]["predictions"])

    def _list(self, asked: Asked) -> Any:
        fields = parse_qs(urlsplit(asked.target).query)
        query = json.loads(fields["query"][0])
        found = [self.tasks[number] for number in sorted(self.tasks)]
        for condition in query.get("filters", {}).get("items", []):
            found = [task for task in found if self._holds(condition, task)]
        if (selected := query.get("selectedItems")) and not selected["all"]:
            found = [task for task in found if task["id"] in selected["included"]]
        shown = found[: min(self.page, int(fields["page_size"][0]))]
        if fields["fields"] != ["all"]:
            shown = [{"id": task["id"], "data": task["data"]} for task in shown]
        return {"tasks": shown, "total": len(found)}

    def _holds(self, condition: dict[str, Any], task: dict[str, Any]) -> bool:
        value = condition["value"]
        match condition["filter"].rpartition(":")[2], condition["operator"]:
            case "predictions_model_versions", "not_contains":
                return not any(self._has(task["id"], version) for version in value)
            case "predictions_model_versions", "contains":
                return any(self._has(task["id"], version) for version in value)
            case "predictions_results", "equal":
                return any(one["result"] == json.loads(value) for one in task["predictions"])
            case "id", "greater":
                return int(task["id"]) > value
            case "total_annotations", "equal":
                return len(task["annotations"]) == value
            case other:
                raise AssertionError(other)
