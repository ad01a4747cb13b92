"""What the demo does in Label Studio's API: projects, uploads, the connection to the backend."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

from ram_backend.errors import LabelStudioUnauthorized, LabelStudioUnreachable

_UPLOADED_AT_ONCE = 10
_PAGE = 100
_SECONDS = 120.0


@dataclass(frozen=True)
class Backend:
    """An ML backend as a project of Label Studio has it on record."""

    id: int
    url: str
    state: str
    model_version: str | None


class StudioApi:
    """Label Studio's API, as the user whom the token belongs to.

    Args:
        url: address of Label Studio.
        token: a legacy token.
    """

    def __init__(self, url: str, token: str) -> None:
        self.url = url.rstrip("/")
        self._session = requests.Session()
        self._session.trust_env = False  # no proxy, no .netrc: it is on this machine
        self._session.headers["Authorization"] = f"Token {token}"

    def call(self, method: str, path: str, **options: Any) -> Any:
        """What a path of the API answers, decoded; None where it answers nothing.

        Raises:
            LabelStudioUnauthorized: it doesn't take the token.
            LabelStudioUnreachable: it doesn't answer, or answers something else than 2xx.
        """
        try:
            answer = self._session.request(method, self.url + path, timeout=_SECONDS, **options)
        except requests.RequestException as error:
            reason = f"no answer ({type(error).__name__})"
            raise LabelStudioUnreachable(f"Label Studio: {method} {self.url}{path}: {reason}. Is it running?") from None
        if answer.status_code in (401, 403) and "resolves to a reserved" not in answer.text:
            raise LabelStudioUnauthorized(
                f"Label Studio at {self.url} doesn't take the token that its data folder was made with."
            )
        if not answer.ok:
            raise LabelStudioUnreachable(
                f"Label Studio: {method} {path} answered HTTP {answer.status_code}: {answer.text[:2000]}"
            )
        with contextlib.suppress(ValueError):
            return answer.json()
        return None

    def project(self, title: str) -> dict[str, Any] | None:
        """The first project of that title."""
        found = self.call("GET", "/api/projects", params={"page_size": 1000})["results"]
        return next((each for each in reversed(found) if each["title"] == title), None)

    def create_project(self, title: str, label_config: str) -> dict[str, Any]:
        """A new project with nothing in it."""
        body = {"title": title, "label_config": label_config}
        created: dict[str, Any] = self.call("POST", "/api/projects", json=body)
        return created

    def upload(self, project: int, photos: Sequence[Path]) -> None:
        """Makes one task of each photo, in order."""
        for start in range(0, len(photos), _UPLOADED_AT_ONCE):
            part = photos[start : start + _UPLOADED_AT_ONCE]
            files = [(path.name, (path.name, path.read_bytes(), "image/jpeg")) for path in part]
            self.call("POST", f"/api/projects/{project}/import", files=files)

    def tasks(self, project: int) -> list[dict[str, Any]]:
        """All tasks with all of their predictions, by rising id."""
        found: list[dict[str, Any]] = []
        while True:
            page = {"project": project, "fields": "all", "page": len(found) // _PAGE + 1, "page_size": _PAGE}
            answer = self.call("GET", "/api/tasks", params=page)
            found += answer["tasks"]
            if not answer["tasks"] or len(found) >= answer["total"]:
                return sorted(found, key=lambda task: int(task["id"]))

    def backends(self, project: int) -> list[Backend]:
        """The ML backends of a project; Label Studio asks each for its version first."""
        found = self.call("GET", "/api/ml", params={"project": project})
        return [Backend(each["id"], each["url"], each["state"], each["model_version"]) for each in found]

    def connect(self, project: int, url: str, *, login: tuple[str, str] | None = None, **extra: Any) -> int:
        """Connects a backend to a project that has none, or moves its connection to this address.

        Args:
            project: which one.
            url: address of the backend.
            login: user and password, where the backend wants them.
            extra: further fields of the record, such as `extra_params`.

        Returns:
            Number of the connection.
        """
        body: dict[str, Any] = {"project": project, "url": url, "title": "RAM", **extra}
        if login is not None:
            body |= {"auth_method": "BASIC_AUTH", "basic_auth_user": login[0], "basic_auth_pass": login[1]}
        known = self.backends(project)
        if not known:
            return int(self.call("POST", "/api/ml", json=body)["id"])
        if known[0].url != url or extra or login:
            self.call("PATCH", f"/api/ml/{known[0].id}", json=body)
            self._forget_webhook(project, known[0].url, unless=url)
        return known[0].id

    def retrieve(self, project: int, tasks: Sequence[int] | None = None) -> None:
        """Asks the backend for the predictions of tasks, or of all, less those that it has predicted already."""
        chosen = {"all": True, "excluded": []} if tasks is None else {"all": False, "included": list(tasks)}
        asked = {"id": "retrieve_tasks_predictions", "project": project}
        self.call("POST", "/api/dm/actions", params=asked, json={"selectedItems": chosen})

    def _forget_webhook(self, project: int, backend: str, unless: str) -> None:
        """Deletes the webhook of a backend's former address, which Label Studio itself keeps."""
        if backend == unless:
            return
        for webhook in self.call("GET", "/api/webhooks/", params={"project": project}):
            if webhook["url"].rstrip("/") == f"{backend.rstrip('/')}/webhook":
                self.call("DELETE", f"/api/webhooks/{webhook['id']}/")
