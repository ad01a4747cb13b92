"""Checks of `ram-backend doctor` between Label Studio and this backend, in both directions."""

from __future__ import annotations

from collections.abc import Iterator

from ram_backend.cli.opening import existing_database
from ram_backend.errors import (
    DatabaseUnavailable,
    LabelStudioRefused,
    LabelStudioUnauthorized,
    LabelStudioUnreachable,
    RamError,
)
from ram_backend.images.guard import is_loopback
from ram_backend.labelstudio.client import LabelStudio, connect_command, open_label_studio
from ram_backend.labelstudio.diagnosis import Finding, State, diagnose
from ram_backend.labelstudio.project_api import ProjectApi
from ram_backend.labelstudio.tokens import is_personal
from ram_backend.projects.project import Pin, Project, connection_of
from ram_backend.projects.table import ProjectTable
from ram_backend.settings import Settings

TOKEN = "make a personal access token (Account & Settings in Label Studio), and set LABEL_STUDIO_API_KEY to it"
AT_MOST = 20
"""Projects that are looked at, the latest first."""


def check_label_studio(settings: Settings) -> Iterator[Finding]:
    """The Label Studio of the settings: address, then token."""
    if settings.label_studio_url is None:
        yield Finding("Label Studio", State.ok, "not set (LABEL_STUDIO_URL): tagging does not need it")
        return
    base = settings.label_studio_url.rstrip("/")
    label_studio = open_label_studio(settings, base, settings.label_studio_api_key)
    try:
        release = label_studio.version()
    except RamError as error:
        yield Finding("Label Studio", State.bad, str(error), _remedy(base))
        return
    yield Finding("Label Studio", State.ok, f"{base} answers, version {release}")
    if settings.label_studio_api_key is None:
        yield Finding("Label Studio token", State.note, "not set (LABEL_STUDIO_API_KEY)", TOKEN)
        return
    yield _token(label_studio, settings.label_studio_api_key)


def check_projects(settings: Settings) -> Iterator[Finding]:
    """Each project that Label Studio has connected: the way there, and the way back."""
    try:
        database = existing_database(settings)
    except DatabaseUnavailable:
        return  # a finding about the database says so
    changes = None if database is None else ProjectTable(database).changes()
    if changes is None or not changes.projects:
        remedy = "ram-backend connect --project NUMBER --url BACKEND, or Settings > Model in Label Studio"
        yield Finding("projects", State.note, "none has been connected yet", remedy)
        return
    latest = sorted(changes.projects, key=lambda each: each.updated_at.timestamp() if each.updated_at else 0.0)
    for project in latest[: -AT_MOST - 1 : -1]:
        for finding in check_project(settings, project, changes.pin):
            yield Finding(f"project {project.key.id}: {finding.what}", finding.state, finding.found, finding.remedy)


def check_project(settings: Settings, project: Project, pin: Pin | None) -> Iterator[Finding]:
    """One project's connection, from both sides."""
    connection = connection_of(project, pin=pin, url=settings.label_studio_url, api_key=settings.label_studio_api_key)
    if project.extra_params_error is not None:
        yield Finding("extra params", State.bad, project.extra_params_error, "correct them in Settings > Model")
    if connection.base_url is None:
        yield Finding("Label Studio", State.bad, "nobody has named its address", "set LABEL_STUDIO_URL")
        return
    if not connection.trusted:
        untrusted = (
            f"only /setup named {connection.base_url} (pinned: {pin.host if pin else 'none'}): images are fetched with"
            " that request's token, and only where the address is a public one"
        )
        remedy = f"{connect_command(project.key.id)}, or ram-backend project pin-host {connection.base_url}"
        yield Finding("Label Studio", State.note, untrusted, remedy)
        return
    label_studio = open_label_studio(settings, connection.base_url, connection.token, hostname=project.hostname)
    try:
        label_studio.version()
    except RamError as error:
        yield Finding("Label Studio", State.bad, str(error), _remedy(connection.base_url))
        return
    if connection.token == project.access_token:
        yield _token(label_studio, connection.token or "", of_setup=True)
    api = ProjectApi(label_studio, project.key.id)
    try:
        found, backends, webhooks = api.settings(), api.backends(), api.webhooks()
    except LabelStudioUnauthorized:
        yield Finding("connection", State.note, "not looked at: Label Studio takes no token that we have", TOKEN)
        return
    except LabelStudioRefused as error:
        yield Finding("connection", State.note, f"{error}", "was it deleted? Then nothing is to be done")
        return
    except LabelStudioUnreachable as error:
        yield Finding("connection", State.bad, str(error), "look at Label Studio's log")
        return
    yield from diagnose(project.key.id, found, backends, webhooks, settings.webhook_headers())


def _token(label_studio: LabelStudio, token: str, *, of_setup: bool = False) -> Finding:
    kind = "a personal access token" if is_personal(token) else "a legacy token"
    source = "of /setup" if of_setup else "LABEL_STUDIO_API_KEY"
    what = "token" if of_setup else "Label Studio token"
    try:
        user = label_studio.whoami().get("email", "?")
    except LabelStudioUnauthorized as error:
        if is_personal(token):
            return Finding(what, State.bad, f"{source}: {kind} that Label Studio takes no more", TOKEN)
        remedy = f"legacy tokens are off by default: {TOKEN}"
        return Finding(what, State.note if of_setup else State.bad, str(error), remedy)
    except RamError as error:
        return Finding(what, State.bad, str(error), TOKEN)
    return Finding(what, State.ok, f"{source}: {kind}, of {user}")


def _remedy(base: str) -> str:
    remedy = "start it, or set LABEL_STUDIO_URL to its address as this machine sees it"
    if is_loopback(base):
        remedy += "; `localhost` is this machine, or this container: use the name of Label Studio's host or service"
    return remedy
