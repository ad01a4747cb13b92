"""Versions that can't be served: which, why, and when they are tried again."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass

from ram_backend.projects.keys import ProjectKey
from ram_backend.versions.records import Served

RETRY_S = (1.0, 60.0)
"""A version that can't be served is tried again: first so soon, then ever later, at last so seldom."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trouble:
    """Why a project isn't served the version that the database names.

    Attributes:
        key: which project.
        version: name of the version.
        reason: one line for people.
        serving: what is served instead: a version's name, or "base".
        tries: how often it was tried.
        again_at: when it is tried again, on the monotonic clock.
    """

    key: ProjectKey
    version: str
    reason: str
    serving: str
    tries: int
    again_at: float


class Troubles:
    """The troubles of all projects, one each at most. Safe for many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._there: dict[ProjectKey, Trouble] = {}

    def __len__(self) -> int:
        return len(self._there)

    def all(self) -> list[Trouble]:
        """All of them, by project."""
        with self._lock:
            return [self._there[key] for key in sorted(self._there)]

    def note(self, served: Served, reason: str, *, serving: str, again_in: float | None = None) -> None:
        """Notes that what a project shall be served can't be.

        Args:
            served: what it shall be served.
            reason: why it can't, in one line.
            serving: what it is served instead.
            again_in: seconds until it is tried again; None: the longer, the more often it was tried.
        """
        with self._lock:
            before = self._there.get(served.key)
            same = before is not None and (before.version, before.reason) == (served.name, reason)
            tries = before.tries + 1 if before is not None and before.version == served.name else 1
            pause = min(RETRY_S[0] * 2 ** min(tries - 1, 30), RETRY_S[1]) if again_in is None else again_in
            again_at = time.monotonic() + pause
            self._there[served.key] = Trouble(served.key, served.name, reason, serving, tries, again_at)
        if not same:
            _log.error("project %s is served %s instead of %s: %s", served.key, serving, served.name, reason)

    def settle(self, key: ProjectKey) -> bool:
        """Notes that a project is served what it shall be; says whether there was a trouble."""
        with self._lock:
            return self._there.pop(key, None) is not None

    def forbids(self, served: Served) -> bool:
        """Whether it is too early to try again."""
        trouble = self._there.get(served.key)
        return trouble is not None and trouble.version == served.name and trouble.again_at > time.monotonic()
