"""A fake Label Studio: logins, files and the API of one project, with the answers of 1.23.2."""

import base64
import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, urlsplit

from ram_backend.projects.keys import ProjectKey
from support.http_server import HttpServer, Reply, Request

CREATED_AT = "2026-11-23T16:44:19.098348Z"
CREATED = 1795452259
REFUSED = {"detail": "URL resolves to a reserved network address (block: 127.0.0.0/8)"}
LEGACY = "a1" * 20
VERSION = "starter-0123456789ab"
CHANGED = ("/api/projects/", "/api/ml", "/api/webhooks/", "/api/dm/views/")


def jwt(**claims: object) -> str:
    def part(value: object) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")

    return f"{part({'alg': 'HS256', 'typ': 'JWT'})}.{part(claims)}.c2lnbmF0dXJl"


PERSONAL = jwt(token_type="refresh", exp=2_000_000_000, iat=1_700_000_000)


class FakeLabelStudio(HttpServer):
    """Label Studio with one project; everything but its version needs a login.

    Attributes:
        legacy, personal: the tokens that it takes; None: none of that kind.
        files: what is stored, by path, or by name for local files.
        status: of the answers for files; None: as the files are.
        delay_s: seconds before a file is sent.
        held: files that are not sent before the event.
        page: tasks that a listing has at most.
        connected, hooks: the project's backends and webhooks.
        refuses: "backend" and "webhook": what of a connection is refused as private.
        reaches: whether it can reach backends.
        seconds, gives_up_after: a backend's time per task, and the time after which a portion is given up.
        unreachable: tasks whose image can't be had now: a portion that has nothing else is answered 503.
        broken: tasks whose image can never be had: their predictions are empty, with score 1.
        portions: tasks of each request to the backend, in order.
        before_store: called with the tasks of a portion before their predictions are stored.
    """

    def __init__(self, host: str = "127.0.0.1", *, prefix: str = "", project: int = 3) -> None:
        super().__init__(host)
        self.url += prefix
        self.prefix = prefix
        self.legacy: str | None = LEGACY
        self.personal: str | None = PERSONAL
        self.access: set[str] = set()
        self.refreshed, self.refresh_seconds = 0, 0.0
        self.files: dict[str, bytes] = {}
        self.status: int | None = None
        self.delay_s = 0.0
        self.held: dict[str, threading.Event] = {}
        self.project = project
        self.record = {"id": project, "created_at": CREATED_AT, "model_version": "", "label_config": "<View/>"}
        self.tasks: dict[int, dict[str, Any]] = {}
        self.page, self.pages = 100, 0
        self.before_page: Callable[[int], object] = lambda number: None
        self.connected: list[dict[str, Any]] = []
        self.hooks: list[dict[str, Any]] = []
        self.tabs: list[dict[str, Any]] = []
        self.refuses: set[str] = set()
        self.reaches = True
        self.seconds, self.gives_up_after = 0.0, 1.0
        self.unreachable: set[int] = set()
        self.broken: set[int] = set()
        self.retrieved: list[list[int]] = []
        self.portions: list[list[int]] = []
        self.before_store: Callable[[list[int]], object] = lambda tasks: None
        self._lock = threading.Lock()
        self._last = 100_000
        self.routes[f"{prefix}/api/token/refresh/"] = self._refresh
        self.routes[f"{prefix}/api/version/"] = Reply(body=b'{"release": "1.23.2"}')
        self.file("/api/current-user/whoami", json.dumps({"id": 1, "email": "admin@example.com"}).encode())
        self.route(f"/api/projects/{project}/", self._project)
        self.route("/api/tasks", self._list)
        self.route("/api/predictions/", self._take)
        self.route("/api/ml", self._backends)
        self.route("/api/webhooks/", self._webhooks)
        self.route("/api/dm/actions", self._retrieve)
        self.route("/api/dm/views/", self._views)

    @classmethod
    def with_tasks(cls, tasks: int = 0) -> "FakeLabelStudio":
        """Project 7, with a backend and so many tasks."""
        made = cls(project=7)
        made.backend(id=4, model_version=VERSION)
        for number in range(1, tasks + 1):
            made.task(number)
        return made

    @property
    def key(self) -> ProjectKey:
        return ProjectKey(self.url, self.project, CREATED)

    @property
    def changes(self) -> list[tuple[str, str, dict[str, Any]]]:
        """Requests that changed the project, its backends or webhooks: method, path and body."""
        return [
            (each.method, each.path, json.loads(each.body or b"{}"))
            for each in self.requests
            if each.method != "GET" and each.path.startswith(CHANGED)
        ]

    # Logins and files

    def route(self, path: str, answer: Callable[[Request], Any]) -> None:
        """A path that needs a login; the answer is JSON or a reply."""

        def reply(request: Request) -> Reply:
            if not self._knows(request):
                return Reply(401, b'{"detail": "Invalid token."}')
            found = answer(request)
            return found if isinstance(found, Reply) else Reply(body=json.dumps(found).encode())

        self.routes[self.prefix + path] = reply

    def file(self, path: str, body: bytes | Reply) -> None:
        """A path that needs a login, with one answer."""
        self.route(path, lambda request: body if isinstance(body, Reply) else Reply(body=body))

    def upload(self, name: str, data: bytes) -> str:
        path = f"/data/upload/1/{name}"
        self.files[path] = data
        return path

    def revoke_access(self) -> None:
        self.access.clear()

    def reply(self, request: Request) -> Reply:
        if request.path in self.routes or not request.path.startswith("/data/"):
            return super().reply(request)
        time.sleep(self.delay_s)
        local = request.path == "/data/local-files/"
        name = parse_qs(urlsplit(request.target).query)["d"][0] if local else request.path
        if name in self.held:
            self.held[name].wait(30)
        if self.status is not None:
            return Reply(self.status, b"out of order")
        if not self._knows(request):
            return Reply(401, b"login")
        return Reply(body=self.files[name]) if name in self.files else Reply(404, b"not here")

    def _knows(self, request: Request) -> bool:
        kind, _, token = request.headers.get("Authorization", "").partition(" ")
        return token in self.access if kind == "Bearer" else kind == "Token" and token == self.legacy

    def _refresh(self, request: Request) -> Reply:
        time.sleep(self.refresh_seconds)
        if request.method != "POST" or json.loads(request.body) != {"refresh": self.personal}:
            return Reply(401, b'{"detail": "Token is invalid"}')
        with self._lock:
            self.refreshed += 1
            access = jwt(token_type="access", iat=1000, exp=1300, jti=self.refreshed)
            self.access.add(access)
        return _answer(200, {"access": access})

    # The project, its tasks, annotations and predictions

    def task(self, number: int, **data: Any) -> dict[str, Any]:
        found = self.tasks.setdefault(number, {"id": number, "annotations": [], "predictions": []})
        found["data"] = data or {"image": f"/data/{number}.jpg"}
        self.route(f"/api/tasks/{number}/", lambda request: found.update(json.loads(request.body)))
        return found

    def annotate(self, number: int, task: int, *tags: str, minute: int = 0, **changes: Any) -> dict[str, Any]:
        annotation = {
            "id": number,
            "task": task,
            "result": _choices(tags),
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

    def forget(self, annotation: int) -> None:
        for task in self.tasks.values():
            task["annotations"] = [each for each in task["annotations"] if each["id"] != annotation]

    def predict(self, number: int, task: int, *tags: str, version: str | None = "starter-1") -> None:
        self._predict(number, task, version, result=_choices(tags))

    def store(self, task: int, version: str, *, empty: bool = False) -> int:
        """A prediction of the backend's; returns its number."""
        with self._lock:
            self._last += 1
            number = self._last
        result = [] if empty else [{"id": "tags"}]
        self._predict(number, task, version, result=result, score=1.0 if empty else 0.5)
        return number

    @property
    def requested(self) -> list[int]:
        """Tasks of all requests to the backend, in order."""
        return [task for portion in self.portions for task in portion]

    def counts(self, version: str = VERSION) -> Counter[int]:
        """How many tasks have how many predictions of a version."""
        return Counter(
            sum(one["model_version"] == version for one in task["predictions"]) for task in self.tasks.values()
        )

    def _take(self, request: Request) -> Any:
        """A prediction that somebody made."""
        body = json.loads(request.body)
        self.tasks[body["task"]]["predictions"].append(body)
        return body

    def _predict(self, number: int, task: int, version: str | None, **fields: Any) -> None:
        prediction = {"id": number, "task": task, "model_version": version, **fields}
        predictions = (self.tasks.get(task) or self.task(task))["predictions"]
        predictions.append(prediction)

        def one(request: Request) -> Any:
            if request.method == "GET":
                return prediction
            predictions.remove(prediction)
            return Reply(204)

        self.route(f"/api/predictions/{number}/", one)

    def _project(self, request: Request) -> Any:
        if request.method == "PATCH":
            self.record.update(json.loads(request.body))
        return self.record

    def _list(self, request: Request) -> Any:
        self.pages += 1
        self.before_page(self.pages)
        fields = parse_qs(urlsplit(request.target).query)
        assert fields["project"] == [str(self.project)]
        assert fields["resolve_uri"] == ["false"]  # else cloud addresses come signed, and another each time
        query = json.loads(fields["query"][0])
        found = [self.tasks[number] for number in sorted(self.tasks)]
        for condition in query.get("filters", {}).get("items", []):
            found = [task for task in found if _holds(condition, task)]
        if (selected := query.get("selectedItems")) and not selected["all"]:
            found = [task for task in found if task["id"] in selected["included"]]
        shown = found[: min(self.page, int(fields["page_size"][0]))]
        if fields["fields"] != ["all"]:
            shown = [{"id": task["id"], "data": task["data"]} for task in shown]
        return {"tasks": shown, "total": len(found), "total_annotations": 0, "total_predictions": 0}

    # Backends and webhooks

    def backend(self, url: str = "http://backend:9090", **fields: Any) -> dict[str, Any]:
        """A backend on record, without webhook."""
        made = {"id": 20 + len(self.requests) + len(self.connected), "url": url, "title": "RAM", "state": "CO"}
        made |= {"model_version": "starter-1", **fields}
        return self._add(self.connected, f"/api/ml/{made['id']}", made)

    def hook(self, url: str, **fields: Any) -> dict[str, Any]:
        """A webhook on record, for all events."""
        made = {"id": 50 + len(self.requests) + len(self.hooks), "url": url, "headers": {}, "is_active": True}
        made |= {"send_payload": True, "send_for_all_actions": True, **fields}
        return self._add(self.hooks, f"/api/webhooks/{made['id']}/", made)

    def _add(self, rows: list[dict[str, Any]], path: str, row: dict[str, Any]) -> dict[str, Any]:
        def one(request: Request) -> Any:
            if request.method == "DELETE":
                rows.remove(row)
                return Reply(204)
            body = json.loads(request.body)
            if rows is self.connected and body.get("title") and self.record["model_version"] == row["title"]:
                self.record["model_version"] = body["title"]
            row.update(body)
            return row

        rows.append(row)
        self.route(path, one)
        return row

    def _backends(self, request: Request) -> Any:
        if request.method == "GET":
            return self.connected
        body = json.loads(request.body)
        if body.get("basic_auth_pass") == "":
            return Reply(500)  # Label Studio looks for the password of a backend that isn't there yet
        if not self.reaches:
            error = "Can't connect to ML backend <a href='x'>Learn more</a>, health check failed."
            return _answer(400, {"detail": "Validation error", "validation_errors": {"non_field_errors": [error]}})
        if "backend" in self.refuses:
            return _answer(403, REFUSED)
        made = self.backend(**{key: value for key, value in body.items() if key != "project"})
        if "webhook" in self.refuses:
            return _answer(403, REFUSED)  # half of it stays
        self.hook(f"{body['url']}/webhook")
        self.record["model_version"] = self.record["model_version"] or body["title"]
        return made

    def _webhooks(self, request: Request) -> Any:
        if request.method == "GET":
            return self.hooks
        if "webhook" in self.refuses:
            return _answer(403, REFUSED)
        body = json.loads(request.body)
        return self.hook(body["url"], headers=body["headers"])

    def _views(self, request: Request) -> Any:
        if request.method == "POST":
            self.tabs.append(json.loads(request.body))
        return self.tabs

    def _retrieve(self, request: Request) -> Any:
        """Waits for the backend without keeping others waiting, and goes on when its own caller has gone."""
        wanted = {"id": ["retrieve_tasks_predictions"], "project": [str(self.project)]}
        assert parse_qs(urlsplit(request.target).query) == wanted
        self.retrieved.append(json.loads(request.body)["selectedItems"]["included"])
        tasks = [self.tasks[number] for number in self.retrieved[-1] if number in self.tasks]
        version = self.connected[0]["model_version"] if self.connected else None
        portion = [task["id"] for task in tasks if not _has(task, [version])]
        if version is not None and portion:
            self.portions.append(portion)
            took = self.seconds * len(portion)
            time.sleep(min(took, self.gives_up_after))
            self.before_store(portion)
            if took <= self.gives_up_after and not set(portion) <= self.unreachable:
                for number in portion:
                    self.store(number, version, empty=number in self.broken | self.unreachable)
        return {"processed_items": 1, "detail": "Retrieved 1 predictions"}


def _choices(tags: tuple[str, ...]) -> list[dict[str, Any]]:
    value = {"from_name": "tags", "to_name": "image", "type": "choices", "value": {"choices": list(tags)}}
    return [value] if tags else []


def _has(task: dict[str, Any], versions: list[str | None]) -> bool:
    return any(each["model_version"] in versions for each in task["predictions"])


def _holds(condition: dict[str, Any], task: dict[str, Any]) -> bool:
    """Whether a task meets a condition of the Data Manager's filters."""
    value = condition["value"]
    counted = sum(not each["was_cancelled"] for each in task["annotations"])
    match condition["filter"].rpartition(":")[2], condition["operator"]:
        case "predictions_model_versions", "not_contains":
            return not _has(task, value)
        case "predictions_model_versions", "contains":
            return _has(task, value)
        case "predictions_results", "equal":
            return any(each["result"] == json.loads(value) for each in task["predictions"])
        case "id", "greater":
            return int(task["id"]) > value
        case "total_annotations", "greater":
            return counted > value
        case "total_annotations", "equal":
            return counted == value
        case other:
            raise AssertionError(other)


def _answer(status: int, body: object) -> Reply:
    return Reply(status, json.dumps(body).encode())
