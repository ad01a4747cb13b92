"""Service layer of jobs: requests, threshold trigger with debounce, rollback."""

from __future__ import annotations

from contextlib import suppress
from functools import lru_cache
from typing import Any, NamedTuple

from ram_backend.database.engine import Database
from ram_backend.errors import ProjectNotFound, ProjectPinned
from ram_backend.feedback.ledger import Ledger
from ram_backend.jobs.job import Job, JobOptions
from ram_backend.jobs.schedules import ScheduleTable
from ram_backend.jobs.table import JobTable, Requested
from ram_backend.projects.keys import ProjectKey
from ram_backend.projects.table import ProjectTable
from ram_backend.settings import Settings
from ram_backend.versions.directory import open_version, version_path
from ram_backend.versions.records import ACCEPTED, BASE, ServedVersion
from ram_backend.versions.table import VersionTable

_PROJECTS = 10_000
"""Projects whose counts of corrections are kept until their ledger grows."""


class NewCorrections(NamedTuple):
    """Changed since the last training, and how many begin the next (None: none)."""

    changed: int
    needed: int | None

    @property
    def next_training(self) -> str:
        """When the project is trained by itself, in a few words."""
        return "trained when asked" if self.needed is None else f"next training at {self.needed}"


class JobService:
    """Requests jobs, from many threads at once; waits for the database.

    A request is one row in the database, durable without queue or worker.
    """

    def __init__(self, settings: Settings, database: Database) -> None:
        self.table = JobTable(database, attempts=settings.job_attempts, lease_s=settings.lease_seconds)
        self.ledger = Ledger(database)
        self.versions = VersionTable(database)
        self.projects = ProjectTable(database)
        self.schedules = ScheduleTable(database)
        self._settings = settings

    def request_training(
        self, key: ProjectKey, reason: str, *, debounced: bool = False, bundle: str | None = None
    ) -> Requested:
        """Requests a training, on the served bundle or another one.

        Args:
            key: the project.
            reason: why, for people; part of the job's row.
            debounced: the job waits for `train_debounce_seconds`.
            bundle: its name; None: the served one.

        Raises:
            ProjectNotFound: no `/setup` has brought the project.
            ProjectPinned: its version is pinned by hand.
        """
        self._check_known(key)
        served = self.versions.served(key)
        if served.pinned:
            raise ProjectPinned(
                f"Project {key} is pinned to {served.name}, so nothing is learned:"
                f" `ram-backend versions unpin {key.id}` ends that."
            )
        options = JobOptions(bundle=bundle) if bundle else None
        delay_s = self._settings.train_debounce_seconds if debounced else 0.0
        return self.table.request(key, "train", reason, options, delay_s=delay_s)

    def request_training_message(self, key: ProjectKey, reason: str, *, debounced: bool = False) -> dict[str, Any]:
        """`request_training`, answered for people: "message", and the job's id, "job"."""
        try:
            job, is_new = self.request_training(key, reason, debounced=debounced)
        except (ProjectNotFound, ProjectPinned) as error:
            return {"message": str(error)}
        if is_new:
            message = f"Training is queued as job {job.short}."
        elif job.state == "requested":
            message = f"Training was queued already, as job {job.short}."
        else:
            message = f"Training is running, as job {job.short}; corrections that came since it began get another one."
        new = self.new_corrections(job.key)[job.key]
        message += (
            f" {new.changed} corrections have changed; by itself the project is {new.next_training}."
            " `ram-backend jobs` and the server's page show how far it is; it needs a worker."
        )
        return {"job": job.id, "message": message}

    def request_prelabelling(self, key: ProjectKey, options: JobOptions, reason: str) -> Requested:
        """Requests predictions of many tasks; ProjectNotFound as in a training."""
        self._check_known(key)
        return self.table.request(key, "prelabel", reason, options)

    def roll_back(self, key: ProjectKey, name: str) -> tuple[ServedVersion, Job | None]:
        """Serves and pins another version, or `BASE`; a worker renews the predictions.

        A quarantined version whose files are whole again leaves the quarantine.

        Returns:
            What is served, and the worker's job; None: it was served already.

        Raises:
            VersionNotFound, VersionRefused, VersionDamaged: it can't be served.
        """
        before = self.versions.served(key)
        if name != BASE:
            record = self.versions.get(key, name)
            if not record.removed and record.outcome == ACCEPTED:  # else the table says why not
                open_version(version_path(self._settings.versions_dir, key, name), None, key=key, digest=record.digest)
                if record.quarantined is not None:
                    self.versions.quarantine(key, name, None)
        served = self.versions.roll_back(key, None if name == BASE else name)
        if served.version == before.version:
            return served, None
        return served, self.table.request(key, "refresh", f"{served.name} is served instead of {before.name}").job

    def new_corrections(self, *keys: ProjectKey) -> dict[ProjectKey, NewCorrections]:
        """How near projects, by default all with events, are to a training."""
        one = keys[0] if len(keys) == 1 else None
        events = self.ledger.last_events() if one is None else {one: self.ledger.last_event(one)}
        attempts = self.table.last_attempts(one)
        first = self._settings.train_after
        found = {}
        for key in keys or events:
            names = key, ProjectKey("", key.id, key.created)
            last, attempt = (max(rows.get(name, 0) for name in names) for rows in (events, attempts))
            seen = _seen(self.ledger, key, attempt) if attempt else 0
            needed = max(1, first - seen, -(-seen // 2)) if first else None
            found[key] = NewCorrections(_changed(self.ledger, key, attempt, last), needed)
        return found

    def request_due_trainings(self, *keys: ProjectKey) -> list[Job]:
        """Requests trainings of projects, by default all, with enough corrections."""
        found: list[Job] = []
        for key, (changed, needed) in self.new_corrections(*(keys or self.projects.keys())).items():
            if needed is not None and changed >= needed:
                if any(job.is_open for job in self.table.jobs(key, kind="train", limit=1)):
                    continue  # its end checks the project again
                with suppress(ProjectNotFound, ProjectPinned):
                    found.append(self.request_training(key, f"{changed} corrections have changed").job)
        return found

    def _check_known(self, key: ProjectKey) -> None:
        known = self.projects.keys()
        if key not in known:
            message = "open its Settings > Model in Label Studio once, so that it calls /setup."
            raise ProjectNotFound(f"Project {key} is not known yet: {message}")


@lru_cache(_PROJECTS)
def _changed(ledger: Ledger, key: ProjectKey, since: int, last_event: int) -> int:
    return ledger.changes_since(key, since, up_to=last_event).total


@lru_cache(_PROJECTS)
def _seen(ledger: Ledger, key: ProjectKey, last_event: int) -> int:
    return ledger.fingerprint(key, up_to=last_event).count
