"""Sets a project up for a backend, step by step; what is right already is left alone.

Protocol sections 5, 7 and 9 tell the traps: Label Studio registers a webhook without secret, leaves half a connection
behind where it refuses an address, lets only the first backend predict, keeps webhooks of backends that are deleted,
and shows predictions by the project's version, which is the backend's title at first.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ram_backend.errors import InputError, LabelConfigError, LabelStudioRefused, NotAvailable
from ram_backend.labelstudio.connection_api import ConnectionApi
from ram_backend.labelstudio.label_config import parse_label_config
from ram_backend.labelstudio.project_api import ConnectedBackend
from ram_backend.labelstudio.showing import show_version

TITLE = "RAM"
PRIVATE = (
    "Label Studio refuses backends at private addresses: start it with ML_BLOCK_LOCAL_IP=false and"
    " SSRF_PROTECTION_ENABLED=false (both), then connect again."
)
UNREACHED = (
    "The address has to be that of the backend as Label Studio sees it: in a container `localhost` is that container;"
    " use the backend's service name or host.docker.internal, and let `ram-backend serve --host 0.0.0.0` listen there."
)
LOGIN = "The backend asks for a login: set BASIC_AUTH_USER and BASIC_AUTH_PASS here to what it was started with."


@dataclass(frozen=True)
class Step:
    """One line for people: what was looked at, how it is now, and whether that was changed."""

    what: str
    said: str
    changed: bool = False


@dataclass(frozen=True)
class Wish:
    """What a project is to be like.

    Attributes:
        url: of the backend, as Label Studio sees it.
        label_config: XML to set; None: the project's own stays, unless it has nothing to tag.
        fallback: XML for a project that has nothing to tag.
        login: user and password of the backend's basic auth.
        secret: headers that its webhook is to send.
        extra_params: of the connection; None: as they are.
        by_uncertainty: serve the tasks first that the model is least sure of; False: as it is.
        alone: other backends of the project, and webhooks that such ones left, are deleted.
    """

    url: str
    label_config: str | None = field(default=None, repr=False)
    fallback: Callable[[], str] = field(default=lambda: "", repr=False)
    login: tuple[str, str] | None = field(default=None, repr=False)
    secret: Mapping[str, str] = field(default_factory=dict, repr=False)
    extra_params: Mapping[str, Any] | None = None
    by_uncertainty: bool = False
    alone: bool = False


class Connecting:
    """Makes a project what is wished; `say` is told each step.

    Args:
        api: of the project.
        wish: see `Wish`.
        say: takes each step as it is done.
    """

    def __init__(self, api: ConnectionApi, wish: Wish, say: Callable[[Step], None]) -> None:
        self._api = api
        self._wish = wish
        self._say = say
        self._url = wish.url.rstrip("/")

    def run(self) -> ConnectedBackend:
        """Does it; returns the backend's record.

        Raises:
            LabelConfigError: the label config has nothing to tag.
            LabelStudioRefused: Label Studio won't, or can't reach the backend; says what to do.
            InputError: the project has another backend, and `alone` doesn't say to delete it.
            NotAvailable: Label Studio doesn't answer, or the backend serves nothing.
        """
        self._label_config()
        backend = self._backend()
        self._webhook(backend)
        return self._shown(backend)

    def _label_config(self) -> None:
        wanted, there = self._wish.label_config, self._api.switches().label_config
        if wanted is None:
            try:
                parse_label_config(there)
                self._say(Step("label config", "the project's own"))
                return
            except LabelConfigError as error:
                if "<Image" in there or "toName" in there:
                    raise LabelConfigError(
                        f"The project's label config can't be used: {error} Change it, or give another one with"
                        " --label-config."
                    ) from None
                wanted = self._wish.fallback()
        parse_label_config(wanted)
        if wanted.strip() == there.strip():
            self._say(Step("label config", "as it is to be"))
            return
        self._api.change_project(label_config=wanted)
        self._say(Step("label config", "set", True))

    def _backend(self) -> ConnectedBackend:
        backends = self._api.backends()
        own = [each for each in backends if each.url.rstrip("/") == self._url]
        others = [each for each in backends if each not in own]
        if others and not self._wish.alone:
            raise InputError(
                f"The project has another backend ({others[0].url}), and only the first one predicts: delete it in"
                " Settings > Model, or give --replace."
            )
        for each in [*others, *own[1:]]:
            self._api.delete_backend(each.id)
            self._say(Step("backend", f"{each.url} deleted", True))
        fields = self._fields(own[0] if own else None)
        if not own:
            self._add(fields)
            self._say(Step("backend", f"{self._url} connected", True))
        elif fields:
            with_reasons(lambda: self._api.change_backend(own[0], fields))
            self._say(Step("backend", f"{self._url} changed", True))
        else:
            self._say(Step("backend", f"{self._url} is connected"))
        return self._served()

    def _fields(self, there: ConnectedBackend | None) -> dict[str, Any]:
        """What of a backend's record is to be written."""
        login, extra = self._wish.login, self._wish.extra_params
        found: dict[str, Any] = {}
        if login is not None and (there is None or there.login != login[0] or there.state in ("DI", "ER")):
            found = {"auth_method": "BASIC_AUTH", "basic_auth_user": login[0], "basic_auth_pass": login[1]}
        if login is None and there is not None and there.login is not None:
            found = {"auth_method": "NONE", "basic_auth_user": "", "basic_auth_pass": ""}
        if extra is not None and (there is None or there.extra_params != extra):
            found["extra_params"] = dict(extra)
        if found and there is not None and extra is None and there.extra_params is not None:
            found["extra_params"] = there.extra_params  # else the /setup of the change would take them back
        if "extra_params" in found and login is not None:
            found |= {"auth_method": "BASIC_AUTH", "basic_auth_user": login[0], "basic_auth_pass": login[1]}
        return found

    def _add(self, fields: Mapping[str, Any]) -> None:
        """Connects the backend; where Label Studio refuses, no half of it stays behind."""
        before = {each.id for each in self._api.backends()}
        try:
            with_reasons(lambda: self._api.add_backend(self._url, TITLE, fields))
        except (LabelStudioRefused, NotAvailable):
            left = [each.id for each in self._api.backends() if each.id not in before]
            for number in left:
                self._api.delete_backend(number)
                self._say(Step("backend", "the half of it that Label Studio had left behind is deleted", True))
            raise

    def _served(self) -> ConnectedBackend:
        backend = next(each for each in self._api.backends() if each.url.rstrip("/") == self._url)
        if backend.state in ("DI", "ER") or not backend.model_version:
            said = f": {backend.error.rstrip('.')}" if backend.error else ""
            remedy = (
                LOGIN
                if _wants_login(backend.error or "")
                else UNREACHED
                if backend.state == "DI"
                else "Look at the backend's log."
            )
            raise NotAvailable(f"Label Studio can't use the backend {backend.url}{said}. {remedy}")
        return backend

    def _webhook(self, backend: ConnectedBackend) -> None:
        webhooks = self._api.webhooks()
        own = [each for each in webhooks if each.backend == self._url]
        left = [each for each in webhooks if each.backend is not None and each not in own]
        if not own:
            try:
                with_reasons(lambda: self._api.add_webhook(f"{self._url}/webhook", self._wish.secret))
            except LabelStudioRefused:  # half a connection, which looks like a whole one in Settings > Model
                self._api.delete_backend(backend.id)
                self._say(Step("backend", "deleted again: Label Studio refuses its webhook", True))
                raise
            self._say(Step("webhook", "registered", True))
        elif own[0].complete and all(own[0].headers.get(name) == value for name, value in self._wish.secret.items()):
            self._say(Step("webhook", "registered, with its secret" if self._wish.secret else "registered"))
        else:
            self._api.complete_webhook(own[0], self._wish.secret)
            self._say(Step("webhook", "completed: active, all events, with its secret", True))
        for each in own[1:] + (left if self._wish.alone else []):
            self._api.delete_webhook(each.id)
            self._say(Step("webhook", f"{each.url.partition('?')[0]} deleted: no backend of the project", True))
        if left and not self._wish.alone:
            shown = ", ".join(each.url.partition("?")[0] for each in left)
            self._say(
                Step("webhook", f"others go to {shown}, which is no backend of the project: --replace deletes them")
            )

    def _shown(self, backend: ConnectedBackend) -> ConnectedBackend:
        version = backend.model_version or ""
        before = self._api.switches()
        show_version(self._api, backend, version, login=self._wish.login, anyway=True)
        changed = backend.title != version or before.model_version != version
        self._say(Step("predictions", f"live, those of {version}", changed))
        switches: dict[str, Any] = {}
        if not before.shows_predictions:
            switches["show_collab_predictions"] = True
        if self._wish.by_uncertainty and not before.by_uncertainty:
            switches["sampling"] = "Uncertainty sampling"
        if switches:
            self._api.change_project(**switches)
        if self._wish.by_uncertainty or before.by_uncertainty:
            self._say(Step("order", "the most uncertain tasks first", "sampling" in switches))
        if not before.shows_predictions:
            self._say(Step("predictions", "annotators see them now", True))
        return self._served()


def with_reasons(ask: Callable[[], None]) -> None:
    """Asks Label Studio for something about a backend; where it refuses, says what to do about it.

    Raises:
        LabelStudioRefused: with the remedy.
    """
    try:
        ask()
    except LabelStudioRefused as error:
        said = str(error)
        if error.status == 403 or "not allowed" in error.detail or "reserved" in error.detail:
            raise LabelStudioRefused(f"{PRIVATE} ({said})") from None
        if "authentication" in error.detail or _wants_login(error.detail):
            raise LabelStudioRefused(f"{said} {LOGIN}") from None
        if "connect" in error.detail.lower():
            raise LabelStudioRefused(f"{said} {UNREACHED}") from None
        raise


def _wants_login(detail: str) -> bool:
    """Whether Label Studio passes on a 401 of the backend; ports and paths of addresses don't count."""
    return re.search(r"\b401\b", re.sub(r"https?://\S+", "", detail)) is not None
