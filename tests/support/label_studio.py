"""One fake Label Studio: logins, files and the API of a project, with answers as 1.23.2 gives them."""

from __future__ import annotations

import base64
import json
import threading
import time
from typing import Any
from urllib.parse import parse_qs, urlsplit

from support.web import Asked, Reply, Web

CREATED_AT = "2026-11-23T16:44:19.098348Z"
CREATED = 1795452259
REFUSED = {"detail": "URL resolves to a reserved network address (block: 127.0.0.0/8)"}
LEGACY = "a1" * 20


def jwt(**claims: object) -> str:
    def part(value: object) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")

    return f"{part({'alg': 'HS256', 'typ': 'JWT'})}.{part(claims)}.c2lnbmF0dXJl"


PERSONAL = jwt(token_type="refresh", exp=2_000_000_000, iat=1_700_000_000)


class Studio(Web):
    """Files need a login; `legacy` and `personal` are the tokens that it takes."""

    def __init__(self, host: str = "127.0.0.1", *, prefix: str = "") -> None:
        super().__init__(host)
        self.url += prefix
        self.prefix = prefix
        self.legacy: str | None = LEGACY
        self.personal: str | None = PERSONAL
        self.access: set[str] = set()
        self.lifetime = 300
        self.refreshed = 0
        self.refresh_seconds = 0.0
        self.lock = threading.Lock()
        self.routes[f"{prefix}/api/token/refresh/"] = self._refresh
        self.file("/api/current-user/whoami", json.dumps({"id": 1, "email": "admin@example.com"}).encode())
        self.routes[f"{prefix}/api/version/"] = Reply(body=b'{"release": "1.23.2"}')

    def file(self, path: str, body: bytes | Reply) -> None:
        """Something that needs a login."""
        reply = body if isinstance(body, Reply) else Reply(body=body)
        self.routes[self.prefix + path] = lambda asked: reply if self._knows(asked) else Reply(401, b"{}")

    def _knows(self, asked: Asked) -> bool:
        kind, _, token = asked.headers.get("Authorization", "").partition(" ")
        return token in self.access if kind == "Bearer" else kind == "Token" and token == self.legacy

    def _refresh(self, asked: Asked) -> Reply:
        time.sleep(self.refresh_seconds)
        if asked.method != "POST" or json.loads(asked.body) != {"refresh": self.personal}:
            return Reply(401, b'{"detail": "Token is invalid"}')
        with self.lock:
            self.refreshed += 1
            access = jwt(token_type="access", iat=1000, exp=1000 + self.lifetime, jti=self.refreshed)
            self.access.add(access)
        return Reply(body=json.dumps({"access": access}).encode())

    def revoke_access(self) -> None:
        self.access.clear()


class StudioProject(Studio):
    """One project, with the paths of its API that we use.

    Attributes:
        page: tasks that a listing has at most.
        hooks: its webhooks.
        refuses: "backend" and "webhook": what of a connection is refused as private.
        reaches: whether it can reach backends.
    """

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
        self.hooks: list[dict[str, Any]] = []
        self.refuses: set[str] = set()
        self.reaches = True
        self.version = "starter-1"
        self.done: list[tuple[str, str]] = []
        self.sent: list[dict[str, Any]] = []
        self._route("/api/ml", self._backends)
        self._route("/api/webhooks/", self._webhooks)
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

    def backend(self, url: str, **fields: Any) -> dict[str, Any]:
        """One that is on record, without webhook."""
        made = {"id": 20 + len(self.done) + len(self.connected), "url": url, "title": "RAM", "state": "CO", **fields}
        made.setdefault("model_version", self.version)
        self.connected.append(made)
        self._route(f"/api/ml/{made['id']}", lambda asked: self._one(self.connected, made, asked))
        return made

    def hook(self, url: str, **fields: Any) -> dict[str, Any]:
        made = {"id": 50 + len(self.done) + len(self.hooks), "url": url, "headers": {}, "is_active": True, **fields}
        made = {"send_payload": True, "send_for_all_actions": True} | made
        self.hooks.append(made)
        self._route(f"/api/webhooks/{made['id']}/", lambda asked: self._one(self.hooks, made, asked))
        return made

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

    def _one(self, rows: list[dict[str, Any]], row: dict[str, Any], asked: Asked) -> Any:
        self.done.append((asked.method, urlsplit(asked.target).path))
        if asked.method == "DELETE":
            rows.remove(row)
            return Reply(204)
        body = json.loads(asked.body)
        self.sent.append(body)
        if rows is self.connected and body.get("title") and self.record["model_version"] == row["title"]:
            self.record["model_version"] = body["title"]
        row.update(body)
        return row

    def _backends(self, asked: Asked) -> Any:
        if asked.method == "GET":
            return self.connected
        self.done.append(("POST", "/api/ml"))
        body = json.loads(asked.body)
        self.sent.append(body)
        if not self.reaches:
            said = "Can't connect to ML backend <a href='x'>Learn more</a>, health check failed."
            return _answer(400, {"detail": "Validation error", "validation_errors": {"non_field_errors": [said]}})
        if "backend" in self.refuses:
            return _answer(403, REFUSED)
        self.backend(**{key: value for key, value in body.items() if key != "project"})
        if "webhook" in self.refuses:
            return _answer(403, REFUSED)  # half of it stays
        self.hook(f"{body['url']}/webhook")
        self.record["model_version"] = self.record["model_version"] or body["title"]
        return self.connected[-1]

    def _webhooks(self, asked: Asked) -> Any:
        if asked.method == "GET":
            return self.hooks
        self.done.append(("POST", "/api/webhooks/"))
        if "webhook" in self.refuses:
            return _answer(403, REFUSED)
        body = json.loads(asked.body)
        return self.hook(body["url"], headers=body["headers"])

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


def _answer(status: int, body: object) -> Reply:
    return Reply(status, json.dumps(body).encode())
