"""Idempotent provisioning of a project, and its diagnosis.

Label Studio's traps (protocol sections 5, 7 and 9): it registers a webhook
without secret, leaves half a connection behind where it refuses an address,
lets only the first backend predict, and keeps webhooks of deleted backends.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from ram_backend.errors import InputError, LabelConfigError, LabelStudioRefused, NotAvailable
from ram_backend.images.guard import is_loopback
from ram_backend.labelstudio.api_models import ConnectedBackend, ProjectSettings, Webhook
from ram_backend.labelstudio.label_config import parse_label_config
from ram_backend.labelstudio.project_api import ProjectApi, basic_auth

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

_UNNEEDED = (
    "inner_id", "completed_at", "cancelled_annotations", "total_predictions", "annotators", "annotations_results",
    "annotations_ids", "predictions_model_versions", "file_upload", "storage_filename", "created_at", "updated_at",
    "updated_by", "avg_lead_time", "draft_exists",
)  # fmt: skip
UNCERTAIN_FIRST: Mapping[str, Any] = {
    "title": "Most uncertain first",
    "ordering": ["tasks:predictions_score"],
    "hiddenColumns": {view: [f"tasks:{name}" for name in _UNNEEDED] for view in ("explore", "labeling")},
}
"""Tab of the Data Manager: tasks by the score of their prediction."""


@dataclass(frozen=True)
class ConnectOptions:
    """The wanted state of a project's connection.

    Attributes:
        url: of the backend, as Label Studio reaches it.
        label_config: XML to set; None: the project's own stays, unless it has
            nothing to tag.
        fallback: XML for a project that has nothing to tag.
        login: user and password of the backend's basic auth.
        secret: headers of its webhook.
        extra_params: of the connection; None: unchanged.
        by_uncertainty: uncertainty sampling of tasks; False: unchanged.
        replace_others: delete other backends of the project, and webhooks of
            deleted ones.
    """

    url: str
    label_config: str | None = field(default=None, repr=False)
    fallback: Callable[[], str] = field(default=lambda: "", repr=False)
    login: tuple[str, str] | None = field(default=None, repr=False)
    secret: Mapping[str, str] = field(default_factory=dict, repr=False)
    extra_params: Mapping[str, Any] | None = None
    by_uncertainty: bool = False
    replace_others: bool = False


class Provisioner:
    """Sets a project up step by step, and changes only what differs from the options.

    `report` is called with each step: its subject, its state now, and whether
    that was changed.
    """

    def __init__(self, api: ProjectApi, options: ConnectOptions, report: Callable[[str, str, bool], None]) -> None:
        self._api = api
        self._options = options
        self._report = report
        self._url = options.url.rstrip("/")

    def run(self) -> ConnectedBackend:
        """Runs all steps; returns the backend's record.

        Raises:
            LabelConfigError: the label config has nothing to tag.
            LabelStudioRefused: Label Studio refuses, or can't reach the
                backend; has a remedy.
            InputError: the project has another backend, and `replace_others` is
                off.
            NotAvailable: Label Studio doesn't answer, or the backend serves
                nothing.
        """
        self._label_config()
        backend = self._backend()
        self._webhook(backend)
        is_new = self._api.add_tabs({"title": "Default"}, UNCERTAIN_FIRST)
        self._report("tab", UNCERTAIN_FIRST["title"], is_new)
        return self._predictions(backend)

    def _label_config(self) -> None:
        wanted = self._options.label_config
        current = self._api.settings().label_config
        if wanted is None:
            try:
                parse_label_config(current)
                self._report("label config", "the project's own", False)
                return
            except LabelConfigError as error:
                if "<Image" in current or "toName" in current:
                    why = f"The project's label config can't be used: {error}"
                    raise LabelConfigError(f"{why} Change it, or give another one with --label-config.") from None
                wanted = self._options.fallback()
        parse_label_config(wanted)
        changed = wanted.strip() != current.strip()
        if changed:
            self._api.change_project(label_config=wanted)
        self._report("label config", "set" if changed else "already correct", changed)

    def _backend(self) -> ConnectedBackend:
        backends = self._api.backends()
        ours = [each for each in backends if each.url.rstrip("/") == self._url]
        others = [each for each in backends if each not in ours]
        if others and not self._options.replace_others:
            raise InputError(
                f"The project has another backend ({others[0].url}), and only the first one predicts: delete it in"
                " Settings > Model, or give --replace."
            )
        for each in [*others, *ours[1:]]:
            self._api.delete_backend(each.id)
            self._report("backend", f"{each.url} deleted", True)
        login, extra = self._options.login, self._options.extra_params
        fields: dict[str, Any] = {} if extra is None else {"extra_params": dict(extra)}
        if not ours:
            if login is not None:
                fields |= basic_auth(login)
            try:
                with _explained():
                    self._api.add_backend(self._url, TITLE, fields)
            except (LabelStudioRefused, NotAvailable):
                for half in self._ours():
                    self._api.delete_backend(half.id)
                    self._report("backend", "a partial record left by Label Studio is deleted", True)
                raise
            self._report("backend", f"{self._url} connected", True)
        elif self._is_right(ours[0]):
            self._report("backend", f"{self._url} is connected", False)
        else:
            if login or ours[0].login:
                fields |= basic_auth(login)
            with _explained():
                self._api.change_backend(ours[0], **fields)
            self._report("backend", f"{self._url} changed", True)
        return self._reached()

    def _is_right(self, backend: ConnectedBackend) -> bool:
        """Whether login and extra params on record are the wanted ones."""
        login, extra = self._options.login, self._options.extra_params
        if login is not None and not backend.answers:
            return False
        return backend.login == (login and login[0]) and (extra is None or backend.extra_params == extra)

    def _ours(self) -> list[ConnectedBackend]:
        return [each for each in self._api.backends() if each.url.rstrip("/") == self._url]

    def _reached(self) -> ConnectedBackend:
        backend = self._ours()[0]
        if backend.answers and backend.model_version:
            return backend
        reason = f": {backend.error.rstrip('.')}" if backend.error else ""
        remedy = UNREACHED if backend.state == "DI" else "Look at the backend's log."
        remedy = LOGIN if _wants_login(backend.error) else remedy
        raise NotAvailable(f"Label Studio can't use the backend {backend.url}{reason}. {remedy}")

    def _webhook(self, backend: ConnectedBackend) -> None:
        secret = self._options.secret
        webhooks = self._api.webhooks()
        ours = [each for each in webhooks if each.backend == self._url]
        leftover = [each for each in webhooks if each.backend is not None and each not in ours]
        if not ours:
            try:
                with _explained():
                    self._api.add_webhook(f"{self._url}/webhook", secret)
            except LabelStudioRefused:  # half a connection, which looks like a whole one
                self._api.delete_backend(backend.id)
                self._report("backend", "deleted again: Label Studio refuses its webhook", True)
                raise
            self._report("webhook", "registered", True)
        elif ours[0].sends(secret):
            self._report("webhook", "registered, with its secret" if secret else "registered", False)
        else:
            self._api.complete_webhook(ours[0], secret)
            self._report("webhook", "completed: active, all events, with its secret", True)
        for each in ours[1:] + (leftover if self._options.replace_others else []):
            self._api.delete_webhook(each.id)
            self._report("webhook", f"{each.url.partition('?')[0]} deleted: no backend of the project", True)
        if leftover and not self._options.replace_others:
            urls = ", ".join(each.url.partition("?")[0] for each in leftover)
            found = f"others go to {urls}, which is not a backend of the project: --replace deletes them"
            self._report("webhook", found, False)

    def _predictions(self, backend: ConnectedBackend) -> ConnectedBackend:
        version = backend.model_version or ""
        before = self._api.settings()
        self._api.show_version(backend, version, login=self._options.login, over_others=True)
        changed = backend.title != version or before.model_version != version
        self._report("predictions", f"live, those of {version}", changed)
        fields: dict[str, Any] = {} if before.show_collab_predictions else {"show_collab_predictions": True}
        if self._options.by_uncertainty and not before.by_uncertainty:
            fields["sampling"] = "Uncertainty sampling"
        if fields:
            self._api.change_project(**fields)
        if self._options.by_uncertainty or before.by_uncertainty:
            self._report("order", "the most uncertain tasks first", "sampling" in fields)
        if not before.show_collab_predictions:
            self._report("predictions", "annotators see them now", True)
        return self._reached()


@contextmanager
def _explained() -> Iterator[None]:
    """Adds the remedy to Label Studio's refusal of a backend."""
    try:
        yield
    except LabelStudioRefused as error:
        if error.status == 403 or "not allowed" in error.detail or "reserved" in error.detail:
            raise LabelStudioRefused(f"{PRIVATE} ({error})") from None
        if "authentication" in error.detail or _wants_login(error.detail):
            raise LabelStudioRefused(f"{error} {LOGIN}") from None
        if "connect" in error.detail.lower():
            raise LabelStudioRefused(f"{error} {UNREACHED}") from None
        raise


def _wants_login(detail: str) -> bool:
    """Whether an error has the backend's status 401, and not as part of an address."""
    return re.search(r"\b401\b", re.sub(r"https?://\S+", "", detail)) is not None


@dataclass(frozen=True)
class Check:
    """One line of a report: what was checked, its state, what was found, a remedy.

    State `note`: it works, with a caveat.
    """

    what: str
    state: Literal["ok", "note", "bad"]
    found: str
    remedy: str = ""


def diagnose(
    project: int,
    settings: ProjectSettings,
    backends: Sequence[ConnectedBackend],
    webhooks: Sequence[Webhook],
    secret: Mapping[str, str],
) -> Iterator[Check]:
    """Checks a project's settings, backends (the one that predicts first), and webhooks."""
    reconnect = f"ram-backend connect {project}"
    if backends:
        first = backends[0]
        reconnect_first = f"{reconnect} --url {first.url}"
        yield _backend(first, reconnect)
        if len(backends) > 1:
            others = ", ".join(each.url for each in backends[1:])
            found = f"{others}: only the first one, {first.url}, predicts"
            yield Check("other backends", "note", found, f"{reconnect_first} --replace")
        its_webhooks = [each for each in webhooks if each.backend == first.url.rstrip("/")]
        yield _events(its_webhooks, secret, reconnect_first)
    else:
        yield Check("backend", "bad", "Label Studio has none on record", f"{reconnect} --url BACKEND")
    known = {each.url.rstrip("/") for each in backends}
    leftover = {each.backend for each in webhooks if each.backend is not None and each.backend not in known}
    if leftover:
        found = f"events still go to {', '.join(sorted(leftover))}, deleted as a backend: each costs a submit up to 1 s"
        where = backends[0].url if backends else "BACKEND"
        yield Check("leftover webhooks", "note", found, f"{reconnect} --url {where} --replace")
    if backends:
        yield _predictions(backends[0], settings, reconnect_first)


def _backend(backend: ConnectedBackend, reconnect: str) -> Check:
    reason = f": {backend.error}" if backend.error else ""
    if backend.state == "ER":
        remedy = f"look at the backend's log, and see that its login is the one on record; then {reconnect}"
        return Check("backend", "bad", f"Label Studio gets an error from {backend.url}{reason}", remedy)
    if backend.state == "DI":
        remedy = "see that it runs, and that Label Studio may reach that address"
        if is_loopback(backend.url):
            remedy = UNREACHED
        return Check("backend", "bad", f"Label Studio can't reach {backend.url}{reason}", f"start it; {remedy}")
    found = f"Label Studio reaches {backend.url}, which serves {backend.model_version or 'nothing'}"
    if not backend.model_version:
        return Check("backend", "bad", found, reconnect)
    return Check("backend", "ok", found)


def _events(webhooks: Sequence[Webhook], secret: Mapping[str, str], remedy: str) -> Check:
    """The webhook of the backend that predicts."""
    if not webhooks:
        found = (
            "none is registered: annotations don't arrive, and the connection is only half of one (Label Studio was"
            " started with ML_BLOCK_LOCAL_IP=false and without SSRF_PROTECTION_ENABLED=false)"
        )
        return Check("webhook", "bad", found, f"start Label Studio with both, then {remedy}")
    if webhooks[0].sends(secret):
        return Check("webhook", "ok", f"registered{', with its secret' if secret else ''}")
    found = "it is switched off, or lacks events or what they bring"
    if webhooks[0].sends({}):
        found = f"it lacks our header {next(iter(secret))}: the backend refuses its events"
    return Check("webhook", "bad", found, remedy)


def _predictions(backend: ConnectedBackend, settings: ProjectSettings, remedy: str) -> Check:
    """Whether annotators see live predictions, and in which order."""
    version = settings.model_version
    if not settings.show_collab_predictions:
        found = "annotators see none: the project's settings hide them"
    elif version != backend.title:
        which = f"only those of {version!r}" if version else "none"
        found = f"annotators see {which}, and opening a task asks for no new one"
    elif version != backend.model_version:
        found = "live; but the order by uncertainty is random"
    else:
        return Check("predictions", "ok", "live, and the order by uncertainty works")
    return Check("predictions", "note", found, remedy)
