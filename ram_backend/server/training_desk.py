"""Where the server asks for what takes long, without knowing who does it or how: training, many predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from ram_backend.projects.keys import ProjectKey

NO_WORKER = "No worker is connected, so nothing was started: run `ram-backend train PROJECT` instead."


class TrainingDesk(Protocol):
    """Takes requests for jobs; safe for many threads."""

    def request(self, key: ProjectKey, reason: str, *, debounced: bool = False) -> dict[str, Any]:
        """Asks for a training; durable when it returns. Asking again while one is open asks for nothing more.

        Args:
            key: which project; its Label Studio may be left open ("").
            reason: in a few words.
            debounced: begin a moment later: more requests are about to come.

        Returns:
            "message" for people, and "job", its id, where there is one.

        Raises:
            DatabaseUnavailable: nothing was asked for.
        """
        ...

    def prelabel(self, key: ProjectKey, tasks: Sequence[int], reason: str) -> dict[str, Any]:
        """Asks for predictions of tasks that were not done within a request; durable when it returns.

        Args:
            key: which project; its Label Studio may be left open ("").
            tasks: their numbers.
            reason: in a few words.

        Returns:
            As `request`.

        Raises:
            DatabaseUnavailable: nothing was asked for.
        """
        ...

    def open_jobs(self) -> Mapping[tuple[str, str], int]:
        """How many jobs of all projects wait or run, by kind and state; every kind with every such state is named.

        Raises:
            DatabaseUnavailable: see the message.
        """
        ...

    def pending(self) -> int:
        """Corrections of all projects that have changed since the last attempt to learn from them.

        Raises:
            DatabaseUnavailable: see the message.
        """
        ...

    def jobs(self, key: ProjectKey | None = None) -> list[dict[str, Any]]:
        """Jobs of a project, or of all, with how far they are.

        Raises:
            DatabaseUnavailable: see the message.
        """
        ...
