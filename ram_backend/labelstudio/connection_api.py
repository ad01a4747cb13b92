"""Label Studio's API for connecting a project: label config, backends, webhooks, and what hosts it refuses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

from ram_backend.labelstudio.annotations import number_of
from ram_backend.labelstudio.project_api import ConnectedBackend, ProjectApi

CONNECTING_SECONDS = 40.0
"""Label Studio asks `/health` and `/setup` twice, and tries a `/health` three times (protocol section 1)."""


@dataclass(frozen=True)
class Webhook:
    """A webhook of a project.

    Attributes:
        id: its number.
        url: where its events go.
        headers: that it sends along; secrets among them, so they are never shown.
        complete: it is active, and sends all events with all they bring.
    """

    id: int
    url: str
    headers: Mapping[str, str] = field(repr=False)
    complete: bool

    @property
    def backend(self) -> str | None:
        """Address of the backend that it is for; None: it is for something else."""
        address = self.url.partition("?")[0].rstrip("/")
        return address.removesuffix("/webhook") if address.endswith("/webhook") else None


@dataclass(frozen=True)
class ProjectSwitches:
    """What a project's settings say about predictions.

    Attributes:
        label_config: XML.
        model_version: which predictions annotators see.
        shows_predictions: whether they see any.
        by_uncertainty: whether tasks come in the order of the predictions' scores.
        tasks: how many there are.
    """

    label_config: str = field(repr=False)
    model_version: str
    shows_predictions: bool
    by_uncertainty: bool
    tasks: int


class ConnectionApi(ProjectApi):
    """`ProjectApi`, and what connecting asks. Every method raises what that raises."""

    def switches(self) -> ProjectSwitches:
        """What the project's settings say."""
        found = self._object(self.label_studio.send_json("GET", f"/api/projects/{self.project_id}/"))
        tasks = found.get("task_number")
        return ProjectSwitches(
            label_config=str(found.get("label_config") or ""),
            model_version=str(found.get("model_version") or ""),
            shows_predictions=found.get("show_collab_predictions") is not False,
            by_uncertainty=found.get("sampling") == "Uncertainty sampling",
            tasks=tasks if isinstance(tasks, int) else 0,
        )

    def change_project(self, **fields: Any) -> None:
        """Changes fields of the project, such as `label_config`."""
        self.label_studio.send_json("PATCH", f"/api/projects/{self.project_id}/", fields)

    def add_backend(self, url: str, title: str, fields: Mapping[str, Any]) -> None:
        """Connects a backend; Label Studio asks it first, and then registers a webhook.

        Raises:
            LabelStudioRefused: it can't reach the backend, or may not; the backend may be there nevertheless.
        """
        body = {"project": self.project_id, "url": url, "title": title, **fields}
        self.label_studio.send_json("POST", "/api/ml", body, seconds=CONNECTING_SECONDS)

    def change_backend(self, backend: ConnectedBackend, fields: Mapping[str, Any]) -> None:
        """Changes a backend's record; Label Studio asks the backend first."""
        body = {"project": self.project_id, "url": backend.url, "title": backend.title, **fields}
        self.label_studio.send_json("PATCH", f"/api/ml/{backend.id}", body, seconds=CONNECTING_SECONDS)

    def delete_backend(self, number: int) -> None:
        """Deletes a backend's record; its webhook stays."""
        self.label_studio.send_json("DELETE", f"/api/ml/{number}")

    def webhooks(self) -> list[Webhook]:
        """The project's webhooks."""
        found = self.label_studio.send_json("GET", f"/api/webhooks/?{urlencode({'project': self.project_id})}")
        rows = [row for row in found if isinstance(row, dict)] if isinstance(found, list) else []
        return [_webhook(number, row) for row in rows if (number := number_of(row.get("id"))) is not None]

    def add_webhook(self, url: str, headers: Mapping[str, str]) -> None:
        """Registers a webhook for all events."""
        body = {"project": self.project_id, "url": url, **_ALL, "headers": dict(headers)}
        self.label_studio.send_json("POST", "/api/webhooks/", body)

    def complete_webhook(self, webhook: Webhook, headers: Mapping[str, str]) -> None:
        """Makes a webhook an active one for all events, with these headers besides its own."""
        body = {"url": webhook.url, **_ALL, "headers": {**webhook.headers, **headers}}
        self.label_studio.send_json("PATCH", f"/api/webhooks/{webhook.id}/", body)

    def delete_webhook(self, number: int) -> None:
        """Deletes a webhook."""
        self.label_studio.send_json("DELETE", f"/api/webhooks/{number}/")


_ALL = {"send_payload": True, "send_for_all_actions": True, "is_active": True}


def _webhook(number: int, row: Mapping[str, Any]) -> Webhook:
    headers = row.get("headers")
    return Webhook(
        id=number,
        url=str(row.get("url") or ""),
        headers={str(name): str(value) for name, value in headers.items()} if isinstance(headers, dict) else {},
        complete=all(row.get(name) is True for name in _ALL),
    )
