"""Diagnosis of a project's connection, from Label Studio's records: pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from ram_backend.images.guard import is_loopback
from ram_backend.labelstudio.api_models import ConnectedBackend, ProjectSettings, Webhook
from ram_backend.labelstudio.provisioning import UNREACHED


class CheckState(StrEnum):
    """Result of a check; `note`: it works, with a caveat."""

    ok = "ok"
    note = "note"
    bad = "bad"


@dataclass(frozen=True)
class Finding:
    """One line of a report: the checked thing, the state, one line about it, and a remedy ("" where it is well)."""

    what: str
    state: CheckState
    found: str
    remedy: str = ""


def diagnose(
    project: int,
    settings: ProjectSettings,
    backends: Sequence[ConnectedBackend],
    webhooks: Sequence[Webhook],
    secret: Mapping[str, str],
) -> Iterator[Finding]:
    """Checks a project's settings, backends (the one that predicts first), and webhooks with their secret headers."""
    reconnect = f"ram-backend connect {project}"
    if backends:
        first = backends[0]
        reconnect_first = f"{reconnect} --url {first.url}"
        yield _backend(first, reconnect)
        if len(backends) > 1:
            others = ", ".join(each.url for each in backends[1:])
            found = f"{others}: only the first one, {first.url}, predicts"
            yield Finding("other backends", CheckState.note, found, f"{reconnect_first} --replace")
        yield _webhook([each for each in webhooks if each.backend == first.url.rstrip("/")], secret, reconnect_first)
    else:
        yield Finding("backend", CheckState.bad, "Label Studio has none on record", f"{reconnect} --url BACKEND")
    known = {each.url.rstrip("/") for each in backends}
    leftover = {each.backend for each in webhooks if each.backend is not None and each.backend not in known}
    if leftover:
        found = f"events still go to {', '.join(sorted(leftover))}, deleted as a backend: each costs a submit up to 1 s"
        where = backends[0].url if backends else "BACKEND"
        yield Finding("leftover webhooks", CheckState.note, found, f"{reconnect} --url {where} --replace")
    if backends:
        yield _predictions(backends[0], settings, reconnect_first)


def _backend(backend: ConnectedBackend, reconnect: str) -> Finding:
    reason = f": {backend.error}" if backend.error else ""
    if backend.state == "ER":
        remedy = f"look at the backend's log, and see that its login is the one on record; then {reconnect}"
        return Finding("backend", CheckState.bad, f"Label Studio gets an error from {backend.url}{reason}", remedy)
    if backend.state == "DI":
        remedy = (
            UNREACHED if is_loopback(backend.url) else "see that it runs, and that Label Studio may reach that address"
        )
        return Finding(
            "backend", CheckState.bad, f"Label Studio can't reach {backend.url}{reason}", f"start it; {remedy}"
        )
    found = f"Label Studio reaches {backend.url}, which serves {backend.model_version or 'nothing'}"
    return (
        Finding("backend", CheckState.ok, found)
        if backend.model_version
        else Finding("backend", CheckState.bad, found, reconnect)
    )


def _webhook(webhooks: Sequence[Webhook], secret: Mapping[str, str], remedy: str) -> Finding:
    """The webhook of the backend that predicts."""
    if not webhooks:
        found = (
            "none is registered: annotations don't arrive, and the connection is only half of one (Label Studio was"
            " started with ML_BLOCK_LOCAL_IP=false and without SSRF_PROTECTION_ENABLED=false)"
        )
        return Finding("webhook", CheckState.bad, found, f"start Label Studio with both, then {remedy}")
    if webhooks[0].sends(secret):
        return Finding("webhook", CheckState.ok, f"registered{', with its secret' if secret else ''}")
    found = "it is switched off, or lacks events or what they bring"
    if webhooks[0].sends({}):
        found = f"it lacks our header {next(iter(secret))}: the backend refuses its events"
    return Finding("webhook", CheckState.bad, found, remedy)


def _predictions(backend: ConnectedBackend, settings: ProjectSettings, remedy: str) -> Finding:
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
        return Finding("predictions", CheckState.ok, "live, and the order by uncertainty works")
    return Finding("predictions", CheckState.note, found, remedy)
