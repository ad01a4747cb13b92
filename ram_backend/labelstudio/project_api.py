"""Client of Label Studio's REST API for one project."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

from ram_backend.errors import LabelStudioUnreachable
from ram_backend.labelstudio.api_models import (
    ConnectedBackend,
    ListedTask,
    ProjectSettings,
    TaskPredictions,
    Webhook,
    valid_rows,
)
from ram_backend.labelstudio.client import LabelStudio

PAGE = 100
"""Tasks of one page."""

LISTING_SECONDS = 120.0
"""Limit for one page of tasks, with all of their predictions."""

RETRIEVING_SECONDS = 110.0
"""Label Studio waits up to 100 s for the backend (protocol section 3)."""

CONNECTING_SECONDS = 40.0
"""Label Studio requests `/health` and `/setup` twice (protocol section 1)."""

_ALL_EVENTS = {"send_payload": True, "send_for_all_actions": True, "is_active": True}
_V = TypeVar("_V")


class ProjectApi:
    """Label Studio's API for one project, as the user of the client's token.

    Every method raises `LabelStudioUnreachable` where it doesn't answer,
    `LabelStudioUnauthorized` where it takes no token that we have, and
    `LabelStudioRefused` where there is no such project or a value is not taken.
    """

    def __init__(self, label_studio: LabelStudio, project_id: int) -> None:
        self.label_studio = label_studio
        self.project_id = project_id
        self._query = urlencode({"project": project_id})

    # Tasks

    def all_tasks(self) -> Iterator[ListedTask]:
        """All tasks, by rising number."""
        return self._after()

    def annotated_tasks(self) -> Iterator[ListedTask]:
        """All tasks with an annotation that is not skipped, by rising number."""
        return self._after(_filter("total_annotations", "greater", "Number", 0))

    def tasks(
        self, numbers: Sequence[int], *conditions: Mapping[str, Any], fields: str = "all"
    ) -> Iterator[ListedTask]:
        """The tasks with these numbers that exist and meet all conditions."""
        for start in range(0, len(numbers), PAGE):
            some = list(numbers[start : start + PAGE])
            query: dict[str, Any] = {"selectedItems": {"all": False, "included": some}}
            if conditions:
                query["filters"] = {"conjunction": "and", "items": conditions}
            yield from self._page(query, fields)

    def without(self, version: str, *, unlabelled: bool = False, among: Sequence[int] | None = None) -> Iterator[int]:
        """Numbers of tasks without a prediction of a model version.

        Args:
            version: the model version.
            unlabelled: only those without annotation.
            among: only these tasks, in their order; None: all, by rising
                number.
        """
        conditions = [_of_version("not_contains", version)]
        if unlabelled:
            conditions.append(_filter("total_annotations", "equal", "Number", 0))
        if among is None:
            found = self._after(*conditions, fields="task_only")
        else:
            found = self.tasks(among, *conditions, fields="task_only")
        return (task.id for task in found)

    def has_any(self, version: str) -> bool:
        """Whether any task of the project has a prediction of that version."""
        return next(self._after(_of_version("contains", version), fields="task_only"), None) is not None

    def failed(self, version: str) -> Iterator[TaskPredictions]:
        """The tasks whose prediction of that version is empty (image not fetched)."""
        tasks = self._after(_filter("predictions_results", "equal", "String", "[]"))
        return (found for task in tasks if (found := TaskPredictions.of(task, version)).failed)

    def of_version(self, tasks: Sequence[int], version: str) -> list[TaskPredictions]:
        """The predictions of a version, for the tasks with these numbers that exist."""
        return [TaskPredictions.of(task, version) for task in self.tasks(tasks)]

    def retrieve(self, tasks: Sequence[int]) -> None:
        """Has Label Studio request predictions for the tasks that lack them.

        Its answer hides a failure of the backend (protocol section 4): look at
        the tasks.
        """
        query = urlencode({"id": "retrieve_tasks_predictions", "project": self.project_id})
        body = {"selectedItems": {"all": False, "included": list(tasks)}}
        self._send("POST", f"/api/dm/actions?{query}", body, seconds=RETRIEVING_SECONDS)

    def add_prediction(self, task: int, prediction: Mapping[str, Any]) -> None:
        """Stores a prediction of a task, made by `predictions.prediction`."""
        self._send("POST", "/api/predictions/", {"task": task, **prediction})

    def change_data(self, task: int, data: Mapping[str, Any]) -> None:
        """Replaces a task's data."""
        self._send("PATCH", f"/api/tasks/{task}/", {"data": dict(data)})

    def delete_prediction(self, number: int) -> None:
        """Deletes one prediction."""
        self._send("DELETE", f"/api/predictions/{number}/")

    # Settings, backends, webhooks

    def settings(self) -> ProjectSettings:
        """The project's settings."""
        found = self._value(dict, self._send("GET", f"/api/projects/{self.project_id}/"))
        return ProjectSettings.model_validate(found)

    def change_project(self, **fields: Any) -> None:
        """Changes fields of the project, such as `label_config`."""
        self._send("PATCH", f"/api/projects/{self.project_id}/", fields)

    def add_tabs(self, *tabs: Mapping[str, Any]) -> bool:
        """Adds missing tabs of the Data Manager, by title; returns whether any was."""
        found = self._value(list, self._send("GET", f"/api/dm/views/?{self._query}"))
        titles = {each["data"].get("title") for each in found}
        missing = [tab for tab in tabs if tab["title"] not in titles]
        for tab in missing:
            body = {"project": self.project_id, "data": {"type": "list", "target": "tasks", **tab}}
            self._send("POST", "/api/dm/views/", body)
        return bool(missing)

    def backends(self) -> list[ConnectedBackend]:
        """The project's backends; Label Studio requests `/setup` of each first."""
        return valid_rows(ConnectedBackend, self._send("GET", f"/api/ml?{self._query}"))

    def add_backend(self, url: str, title: str, fields: Mapping[str, Any]) -> None:
        """Connects a backend; Label Studio requests its `/setup`, and registers a webhook.

        Raises:
            LabelStudioRefused: it can't reach the backend, or may not; the
                record may exist nevertheless.
        """
        body = {"project": self.project_id, "url": url, "title": title, **fields}
        self._send("POST", "/api/ml", body, seconds=CONNECTING_SECONDS)

    def change_backend(self, backend: ConnectedBackend, *, login: tuple[str, str] | None = None, **fields: Any) -> None:
        """Changes fields of a backend's record (protocol section 9).

        Label Studio requests `/setup` first, with this request's login and
        extra params: so both are sent again.
        """
        body: dict[str, Any] = {"project": self.project_id, "url": backend.url, "title": backend.title}
        if backend.extra_params is not None:
            body["extra_params"] = backend.extra_params
        if backend.login is not None and login is not None:
            body |= basic_auth(login)
        self._send("PATCH", f"/api/ml/{backend.id}", body | fields, seconds=CONNECTING_SECONDS)

    def delete_backend(self, number: int) -> None:
        """Deletes a backend's record; its webhook stays."""
        self._send("DELETE", f"/api/ml/{number}")

    def show_version(
        self,
        backend: ConnectedBackend,
        version: str,
        *,
        login: tuple[str, str] | None = None,
        over_others: bool = False,
    ) -> str | None:
        """Shows annotators live predictions of a version (protocol section 5).

        Label Studio shows the version that the *project* names, and requests live
        predictions only while that is the backend's *title*: both are set.

        `backend` is the project's first one, `version` what it serves; returns
        the version that was chosen by hand and is still shown, unless
        `over_others`.
        """
        shown = self.settings().model_version
        if shown not in (backend.title, version, "") and not over_others:
            return shown
        if backend.title != version:
            self.change_backend(backend, login=login, title=version)
        if self.settings().model_version != version:
            self.change_project(model_version=version)
        return None

    def webhooks(self) -> list[Webhook]:
        """The project's webhooks."""
        return valid_rows(Webhook, self._send("GET", f"/api/webhooks/?{self._query}"))

    def add_webhook(self, url: str, headers: Mapping[str, str]) -> None:
        """Registers a webhook for all events."""
        body = {"project": self.project_id, "url": url, **_ALL_EVENTS, "headers": dict(headers)}
        self._send("POST", "/api/webhooks/", body)

    def complete_webhook(self, webhook: Webhook, headers: Mapping[str, str]) -> None:
        """Makes a webhook active, for all events, with these headers besides its own."""
        body = {"url": webhook.url, **_ALL_EVENTS, "headers": {**webhook.headers, **headers}}
        self._send("PATCH", f"/api/webhooks/{webhook.id}/", body)

    def delete_webhook(self, number: int) -> None:
        """Deletes a webhook."""
        self._send("DELETE", f"/api/webhooks/{number}/")

    def _after(self, *conditions: Mapping[str, Any], fields: str = "all") -> Iterator[ListedTask]:
        """The tasks that meet all conditions, by keyset pagination.

        Raises:
            LabelStudioUnreachable: also where pages are in another order, since
                tasks would then be skipped.
        """
        last = 0
        while True:
            items = [*conditions, _filter("id", "greater", "Number", last)]
            page = self._page({"filters": {"conjunction": "and", "items": items}}, fields)
            if not page:
                return
            if page[0].id <= last or any(one.id >= other.id for one, other in pairwise(page)):
                raise LabelStudioUnreachable(
                    f"Label Studio lists the tasks of project {self.project_id} in another order than it was asked for."
                    " Check that it is version 1.8 or later."
                )
            yield from page
            last = page[-1].id

    def _page(self, query: Mapping[str, Any], fields: str) -> list[ListedTask]:
        parameters = {"project": self.project_id, "fields": fields, "page": 1, "page_size": PAGE}
        written = json.dumps({**query, "ordering": ["tasks:id"]}, separators=(",", ":"))
        path = f"/api/tasks?{urlencode(parameters)}&resolve_uri=false&query={quote(written)}"
        found = self._value(dict, self._send("GET", path, seconds=LISTING_SECONDS)).get("tasks")
        tasks = valid_rows(ListedTask, self._value(list, found))
        return list({task.id: task for task in tasks}.values())

    def _send(self, method: str, path: str, body: Any = None, *, seconds: float | None = None) -> Any:
        return self.label_studio.send_json(method, path, body, seconds=seconds)

    def _value(self, kind: type[_V], answer: object) -> _V:
        """The answer, where it is of the expected type."""
        if isinstance(answer, kind):
            return answer
        raise LabelStudioUnreachable(
            f"Label Studio at {self.label_studio.origin} answers something else than expected about project"
            f" {self.project_id}. Check that the address is that of a Label Studio."
        )


def basic_auth(login: tuple[str, str] | None) -> dict[str, Any]:
    """The login fields of a backend's record; None: no login."""
    user, password = login or ("", "")
    method = "BASIC_AUTH" if login else "NONE"
    return {"auth_method": method, "basic_auth_user": user, "basic_auth_pass": password}


def _filter(column: str, operator: str, kind: str, value: object) -> dict[str, Any]:
    return {"filter": f"filter:tasks:{column}", "operator": operator, "type": kind, "value": value}


def _of_version(operator: str, version: str) -> dict[str, Any]:
    return _filter("predictions_model_versions", operator, "List", [version])
