"""One project in Label Studio's API: its tasks with what people said, its backends, its predictions."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any
from urllib.parse import quote, urlencode

from ram_backend.errors import LabelStudioUnreachable
from ram_backend.labelstudio.annotations import number_of
from ram_backend.labelstudio.client import LabelStudio

PAGE = 100
"""Tasks that are listed at a time."""

LISTING_SECONDS = 120.0
"""One page of tasks may take so long: they come with all of their predictions."""

RETRIEVING_SECONDS = 110.0
"""Label Studio waits up to 100 s for the backend (protocol section 3)."""


@dataclass(frozen=True)
class ListedTask:
    """A task as the API lists it.

    Attributes:
        id: its number.
        data: what was imported; cloud addresses as they were imported.
        annotations: all of them, skipped ones included, as they came.
        predictions: all of them, as they came.
    """

    id: int
    data: Mapping[str, Any] = field(repr=False)
    annotations: tuple[Mapping[str, Any], ...] = field(repr=False)
    predictions: tuple[Mapping[str, Any], ...] = field(repr=False)


@dataclass(frozen=True)
class ConnectedBackend:
    """An ML backend as a project has it on record.

    Attributes:
        id: its number.
        url: its address.
        title: what annotators read; the project's `model_version` is this title while predictions are live.
        model_version: what its `/setup` answered last.
        state: as Label Studio found it just now: "CO" connected, "DI" disconnected, "ER" error, "TR" training, "PR"
            predicting.
        error: what it said last where it is in error.
        login: user of its basic auth; None: it has none.
        extra_params: as they were stored.
    """

    id: int
    url: str
    title: str
    model_version: str | None
    state: str = "CO"
    error: str | None = None
    login: str | None = None
    extra_params: Any = None


@dataclass(frozen=True)
class ProjectState:
    """What Label Studio says about a project.

    Attributes:
        created: when it was made, in Unix seconds, as in `ProjectKey`; 0: not said.
        model_version: which predictions annotators see: a backend's title (live), or one version.
        label_config: XML.
    """

    created: int
    model_version: str
    label_config: str = field(repr=False)


class ProjectApi:
    """Label Studio's API for one project, as the user whom the token belongs to.

    Every method raises `LabelStudioUnreachable` where it doesn't answer, `LabelStudioUnauthorized` where it takes no
    token that we have, and `LabelStudioRefused` where there is no such project or a value is not taken.

    Args:
        label_studio: where the project is.
        project_id: its number.
    """

    def __init__(self, label_studio: LabelStudio, project_id: int) -> None:
        self.label_studio = label_studio
        self.project_id = project_id

    def state(self) -> ProjectState:
        """The project itself."""
        found = self._object(self.label_studio.send_json("GET", f"/api/projects/{self.project_id}/"))
        version, config = found.get("model_version"), found.get("label_config")
        return ProjectState(
            created=_unix_seconds(found.get("created_at")),
            model_version=version if isinstance(version, str) else "",
            label_config=config if isinstance(config, str) else "",
        )

    def annotated_tasks(self) -> Iterator[ListedTask]:
        """All tasks with at least one annotation that is not skipped, by rising number.

        Each page asks for the tasks after the last one of the page before, so that none is missed or listed twice
        where tasks are made or deleted meanwhile.
        """
        return self._after(_filter("total_annotations", "greater", 0))

    def tasks(self, numbers: Sequence[int]) -> Iterator[ListedTask]:
        """Those of these tasks that are there."""
        for start in range(0, len(numbers), PAGE):
            included = list(numbers[start : start + PAGE])
            yield from self._page({"selectedItems": {"all": False, "included": included}, "ordering": ["tasks:id"]})

    def unlabelled(self) -> Iterator[int]:
        """Numbers of all tasks without any annotation, rising."""
        for task in self._after(_filter("total_annotations", "equal", 0), fields="task_only"):
            yield task.id

    def prediction(self, number: int) -> dict[str, Any]:
        """One prediction, as it is stored."""
        return self._object(self.label_studio.send_json("GET", f"/api/predictions/{number}/"))

    def backends(self) -> list[ConnectedBackend]:
        """The project's backends; Label Studio asks each for its version first."""
        found = self.label_studio.send_json("GET", f"/api/ml?{urlencode({'project': self.project_id})}")
        rows = [row for row in found if isinstance(row, dict)] if isinstance(found, list) else []
        return [
            ConnectedBackend(
                id=number,
                url=str(row.get("url") or ""),
                title=str(row.get("title") or ""),
                model_version=row.get("model_version") if isinstance(row.get("model_version"), str) else None,
                state=str(row.get("state") or "CO"),
                error=_line(row.get("error_message")),
                login=_line(row.get("basic_auth_user")) if row.get("auth_method") == "BASIC_AUTH" else None,
                extra_params=row.get("extra_params"),
            )
            for row in rows
            if (number := number_of(row.get("id"))) is not None
        ]

    def set_backend_title(self, backend: ConnectedBackend, title: str, login: tuple[str, str] | None = None) -> None:
        """Renames a backend; Label Studio asks its `/health` and `/setup` first (protocol section 9).

        It asks with what this request brings: so a backend with basic auth needs user and password once more, and the
        extra params go along, without which that `/setup` would take them back.

        Args:
            backend: as it is on record.
            title: the new one.
            login: user and password of the backend's basic auth, where it has one.
        """
        body: dict[str, Any] = {"project": self.project_id, "url": backend.url, "title": title}
        if backend.extra_params is not None:
            body["extra_params"] = backend.extra_params
        if backend.login is not None and login is not None:
            body |= {"auth_method": "BASIC_AUTH", "basic_auth_user": login[0], "basic_auth_pass": login[1]}
        self.label_studio.send_json("PATCH", f"/api/ml/{backend.id}", body)

    def set_project_version(self, version: str) -> None:
        """Says which predictions annotators see: those of one version, or, by a backend's title, live ones."""
        self.label_studio.send_json("PATCH", f"/api/projects/{self.project_id}/", {"model_version": version})

    def retrieve(self, tasks: Sequence[int]) -> None:
        """Asks the backend for predictions of these tasks; Label Studio leaves out those that have them already.

        It answers as if all were well where the backend did not answer (protocol section 4): look at the tasks.
        """
        query = urlencode({"id": "retrieve_tasks_predictions", "project": self.project_id})
        body = {"selectedItems": {"all": False, "included": list(tasks)}}
        self.label_studio.send_json("POST", f"/api/dm/actions?{query}", body, seconds=RETRIEVING_SECONDS)

    def _after(self, *conditions: Mapping[str, Any], fields: str = "all") -> Iterator[ListedTask]:
        """Pages through the tasks that meet all conditions, by keyset: each page begins after the last number seen.

        Raises:
            LabelStudioUnreachable: also where pages come in another order, since tasks would then be skipped.
        """
        last = 0
        while True:
            items = [*conditions, _filter("id", "greater", last)]
            query = {"filters": {"conjunction": "and", "items": items}, "ordering": ["tasks:id"]}
            page = list({task.id: task for task in self._page(query, fields)}.values())
            if not page:
                return
            if page[0].id <= last or any(one.id >= other.id for one, other in pairwise(page)):
                raise LabelStudioUnreachable(
                    f"Label Studio lists the tasks of project {self.project_id} in another order than it was asked for."
                    " Check that it is version 1.8 or later."
                )
            yield from page
            last = page[-1].id

    def _page(self, query: Mapping[str, Any], fields: str = "all") -> list[ListedTask]:
        found = self._listing(query, fields, PAGE).get("tasks")
        if not isinstance(found, list):
            raise self._not_understood()
        return [task for each in found if (task := _listed(each)) is not None]

    def _total(self, query: Mapping[str, Any]) -> int:
        found = self._listing(query, "task_only", 1).get("total")
        if not isinstance(found, int):
            raise self._not_understood()
        return found

    def _listing(self, query: Mapping[str, Any], fields: str, size: int) -> dict[str, Any]:
        asked = {"project": self.project_id, "fields": fields, "page": 1, "page_size": size, "resolve_uri": "false"}
        path = f"/api/tasks?{urlencode(asked)}&query={quote(json.dumps(query, separators=(',', ':')))}"
        return self._object(self.label_studio.send_json("GET", path, seconds=LISTING_SECONDS))

    def _object(self, answer: object) -> dict[str, Any]:
        if not isinstance(answer, dict):
            raise self._not_understood()
        return answer

    def _not_understood(self) -> LabelStudioUnreachable:
        return LabelStudioUnreachable(
            f"Label Studio at {self.label_studio.origin} answers something else than expected about project"
            f" {self.project_id}. Check that the address is that of a Label Studio."
        )


def _filter(column: str, operator: str, value: int) -> dict[str, Any]:
    return {"filter": f"filter:tasks:{column}", "operator": operator, "type": "Number", "value": value}


def _listed(task: object) -> ListedTask | None:
    number = number_of(task)
    if not isinstance(task, Mapping) or number is None:
        return None
    data = task.get("data")
    return ListedTask(
        id=number,
        data=data if isinstance(data, Mapping) else {},
        annotations=_objects(task.get("annotations")),
        predictions=_objects(task.get("predictions")),
    )


def _objects(value: object) -> tuple[Mapping[str, Any], ...]:
    return tuple(each for each in value if isinstance(each, dict)) if isinstance(value, list) else ()


def _line(value: object) -> str | None:
    """A text on one line and short; None where there is none."""
    return " ".join(value.split())[:300] if isinstance(value, str) and value.strip() else None


def _unix_seconds(text: object) -> int:
    if not isinstance(text, str):
        return 0
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return 0
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())
