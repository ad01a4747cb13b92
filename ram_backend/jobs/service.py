"""Requests for jobs: a person asks, or enough corrections have changed since the last attempt."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from typing import Any

from ram_backend.database.engine import Database
from ram_backend.errors import ProjectNotFound, ProjectPinned
from ram_backend.feedback.ledger import Ledger
from ram_backend.jobs.job import Job, PrelabelOptions
from ram_backend.jobs.queue import JobQueue, Requested
from ram_backend.projects.keys import ProjectKey
from ram_backend.projects.table import ProjectTable
from ram_backend.settings import Settings
from ram_backend.versions.table import VersionTable


class JobService:
    """Asks for jobs, from wherever: server, worker, command. Safe for many threads; all of it waits for the database.

    A request is one row in the database. Workers look for rows that are due, so it is durable without queue or worker.

    Args:
        settings: how many changed corrections are enough, and how long a debounced request waits.
        database: migrated by the time when the first request comes.
    """

    def __init__(self, settings: Settings, database: Database) -> None:
        self.queue = JobQueue.of(settings, database)
        self.ledger = Ledger(database)
        self.versions = VersionTable(database)
        self.projects = ProjectTable(database)
        self._train_after = settings.train_after
        self._debounce_s = settings.train_debounce_seconds

    def train(self, key: ProjectKey, reason: str, *, debounced: bool = False) -> Requested:
        """Asks for a training; debounced, it begins a moment later. Asking five times leads to one job.

        Raises:
            ProjectNotFound: no `/setup` has brought the project.
            ProjectPinned: what it is served is pinned by hand.
            DatabaseUnavailable: nothing was written.
        """
        key = self.known(key)
        served = self.versions.served(key)
        if served.pinned:
            raise ProjectPinned(
                f"Project {key} is pinned to {served.name}, so nothing is learned:"
                f" `ram-backend versions unpin {key.id}` ends that."
            )
        return self.queue.request(key, "train", reason, delay_s=self._debounce_s if debounced else 0.0)

    def request(self, key: ProjectKey, reason: str, *, debounced: bool = False) -> dict[str, Any]:
        """`train` for people: durable when it returns.

        Args:
            key: which project; its Label Studio may be left open ("").
            reason: in a few words.
            debounced: begin a moment later: more requests are about to come.

        Returns:
            "message" for people, and "job", its id, where there is one.

        Raises:
            DatabaseUnavailable: nothing was asked for.
        """
        try:
            asked = self.train(key, reason, debounced=debounced)
        except (ProjectNotFound, ProjectPinned) as error:
            return {"message": str(error)}
        job = asked.job
        if asked.is_new:
            message = f"Training is queued as job {job.id}; `ram-backend jobs` and /jobs show how far it is."
        elif job.state == "requested":
            message = f"Training was queued already, as job {job.id}."
        else:
            message = f"Training is running, as job {job.id}; corrections that came since it began get another one."
        return {"job": job.id, "message": message}

    def push(self, key: ProjectKey, options: PrelabelOptions, reason: str) -> Requested:
        """Asks for predictions of many tasks. Not for those that such a job is asking Label Studio for this moment.

        Raises:
            ProjectNotFound: no `/setup` has brought the project.
            DatabaseUnavailable: nothing was written.
        """
        key = self.known(key)
        running = next((job for job in self.queue.jobs(key, kind="prelabel", limit=1) if job.state == "running"), None)
        if running is not None and options.tasks and not options.which:
            being_asked = (running.kept or {}).get("portion")
            if isinstance(being_asked, list) and set(options.tasks) <= set(being_asked):
                return Requested(running, False)
        return self.queue.request(key, "prelabel", reason, options)

    def prelabel(self, key: ProjectKey, tasks: Sequence[int], reason: str) -> dict[str, Any]:
        """Asks for predictions of tasks that were not done within a request: durable when it returns.

        Args:
            key: which project; its Label Studio may be left open ("").
            tasks: their numbers.
            reason: in a few words.

        Returns:
            As `request`.

        Raises:
            DatabaseUnavailable: nothing was asked for.
        """
        try:
            asked = self.push(key, PrelabelOptions(tasks=tuple(sorted(set(tasks)))), reason)
        except ProjectNotFound as error:
            return {"message": str(error)}
        message = (
            f"{len(tasks):,} tasks were not done in time: job {asked.job.id} goes on with them, and their predictions"
            f" appear as they are done. `ram-backend jobs` and /jobs show how far it is; it needs a worker."
        )
        return {"job": asked.job.id, "message": message}

    def refresh(self, key: ProjectKey, reason: str) -> Requested:
        """Asks for fresh predictions of unlabelled tasks, after what is served has changed."""
        return self.queue.request(key, "refresh", reason)

    def jobs(self, key: ProjectKey | None = None) -> list[dict[str, Any]]:
        """Open jobs first, then the latest, as `GET /jobs` shows them.

        Raises:
            DatabaseUnavailable: see the message.
        """
        return [job.to_json() for job in self.queue.jobs(key)]

    def open_jobs(self) -> Mapping[tuple[str, str], int]:
        """How many jobs of all projects wait or run; every kind with every such state is named.

        Raises:
            DatabaseUnavailable: see the message.
        """
        return self.queue.open_jobs()

    def pending(self, key: ProjectKey | None = None) -> int:
        """Corrections of a project, or of all, that have changed since the last attempt to learn from them.

        Raises:
            DatabaseUnavailable: see the message.
        """
        keys = self.ledger.keys() if key is None else [key]
        return sum(self.ledger.changed_since(each, self.queue.last_attempt(each)) for each in keys)

    def check(self, *keys: ProjectKey) -> list[Job]:
        """Asks for a training of each of these projects that has enough pending corrections, and no open training.

        Raises:
            DatabaseUnavailable: see the message.
        """
        found: list[Job] = []
        known = self.projects.keys() if keys and self._train_after else ()
        for each in keys if self._train_after else ():
            with suppress(ProjectNotFound, ProjectPinned):
                key = _known(each, known)
                if any(job.is_open for job in self.queue.jobs(key, kind="train", limit=1)):
                    continue  # when that one ends, the project is looked at again
                if (pending := self.pending(key)) >= self._train_after:
                    found.append(self.train(key, f"{pending} corrections have changed").job)
        return found

    def known(self, key: ProjectKey) -> ProjectKey:
        """The key under which `/setup` has brought the project, whose Label Studio an event doesn't name.

        Raises:
            ProjectNotFound: it has not.
        """
        return _known(key, self.projects.keys())


def _known(key: ProjectKey, keys: Collection[ProjectKey]) -> ProjectKey:
    if key in keys:
        return key
    same = [each for each in keys if (each.id, each.created) == (key.id, key.created)]
    if key.instance == "" and len(same) == 1:
        return same[0]
    raise ProjectNotFound(
        f"Project {key} is not known yet: open its Settings > Model in Label Studio once, so that it says /setup."
    )
