"""What is wrong between a project and its backend, and what to do about it: pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from ram_backend.images.guard import is_loopback
from ram_backend.labelstudio.connecting import UNREACHED
from ram_backend.labelstudio.connection_api import ProjectSwitches, Webhook
from ram_backend.labelstudio.project_api import ConnectedBackend

How = Literal["ok", "note", "bad"]


@dataclass(frozen=True)
class Found:
    """One thing that was looked at.

    Attributes:
        what: it is, in a word or two.
        how: it is: "ok", "note" (works, but) or "bad".
        said: one line.
        remedy: what to do; "" where it is well.
    """

    what: str
    how: How
    said: str
    remedy: str = ""


def look_at(
    project: int,
    switches: ProjectSwitches,
    backends: Sequence[ConnectedBackend],
    webhooks: Sequence[Webhook],
    secret: Mapping[str, str],
) -> Iterator[Found]:
    """What Label Studio has on record of a project's connection, as it found it just now.

    Args:
        project: its number.
        switches: its settings.
        backends: its backends, the one that predicts first.
        webhooks: its webhooks.
        secret: headers that the backend wants to see.
    """
    reconnect = f"ram-backend connect --project {project}"
    if not backends:
        yield Found("backend", "bad", "Label Studio has none on record", f"{reconnect} --url BACKEND")
        yield from _leftovers(backends, webhooks, reconnect)
        return
    first = backends[0]
    yield _state(first, reconnect)
    if len(backends) > 1:
        others = ", ".join(each.url for each in backends[1:])
        remedy = f"{reconnect} --url {first.url} --replace"
        yield Found("other backends", "note", f"{others}: only the first one, {first.url}, predicts", remedy)
    yield from _webhook(first, webhooks, secret, reconnect)
    yield from _leftovers(backends, webhooks, reconnect)
    yield from _shown(first, switches, f"{reconnect} --url {first.url}")


def _state(backend: ConnectedBackend, reconnect: str) -> Found:
    if backend.state not in ("DI", "ER"):
        said = f"Label Studio reaches {backend.url}, which serves {backend.model_version or 'nothing'}"
        return Found(
            "backend", "ok" if backend.model_version else "bad", said, "" if backend.model_version else reconnect
        )
    said = f"Label Studio can't reach {backend.url}" + (f": {backend.error}" if backend.error else "")
    if backend.state == "ER":
        remedy = f"look at the backend's log, and see that its login is the one on record; then {reconnect}"
        return Found("backend", "bad", said.replace("can't reach", "gets an error from"), remedy)
    where = UNREACHED if is_loopback(backend.url) else "see that it runs, and that Label Studio may reach that address"
    return Found("backend", "bad", said, f"start it; {where}")


def _webhook(
    backend: ConnectedBackend, webhooks: Sequence[Webhook], secret: Mapping[str, str], reconnect: str
) -> Iterator[Found]:
    remedy = f"{reconnect} --url {backend.url}"
    own = [each for each in webhooks if each.backend == backend.url.rstrip("/")]
    if not own:
        said = (
            "none is registered: annotations don't arrive, and the connection is only half of one (Label Studio was"
            " started with ML_BLOCK_LOCAL_IP=false and without SSRF_PROTECTION_ENABLED=false)"
        )
        yield Found("webhook", "bad", said, f"start Label Studio with both, then {remedy}")
    elif not own[0].complete:
        yield Found("webhook", "bad", "it is switched off, or lacks events or what they bring", remedy)
    elif any(own[0].headers.get(name) != value for name, value in secret.items()):
        name = next(iter(secret))
        yield Found("webhook", "bad", f"it lacks our header {name}: the backend refuses its events", remedy)
    else:
        yield Found("webhook", "ok", f"registered{', with its secret' if secret else ''}")


def _leftovers(backends: Sequence[ConnectedBackend], webhooks: Sequence[Webhook], reconnect: str) -> Iterator[Found]:
    known = {each.url.rstrip("/") for each in backends}
    left = [each.backend for each in webhooks if each.backend is not None and each.backend not in known]
    if left:
        where = backends[0].url if backends else "BACKEND"
        said = f"events still go to {', '.join(sorted(set(left)))}, deleted as a backend: each costs a submit up to 1 s"
        yield Found("leftover webhooks", "note", said, f"{reconnect} --url {where} --replace")


def _shown(backend: ConnectedBackend, switches: ProjectSwitches, remedy: str) -> Iterator[Found]:
    if not switches.shows_predictions:
        yield Found("predictions", "note", "annotators see none: the project's settings hide them", remedy)
        return
    if switches.model_version != backend.title:
        shown = f"only those of {switches.model_version!r}" if switches.model_version else "none"
        said = f"annotators see {shown}, and opening a task asks for no new one"
        yield Found("predictions", "note", said, remedy)
        return
    if switches.model_version != backend.model_version:
        yield Found("predictions", "note", "live; but the order by uncertainty is random", remedy)
        return
    yield Found("predictions", "ok", "live, and the order by uncertainty works")
