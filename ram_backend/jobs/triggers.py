"""When a project is trained: somebody asks, or enough corrections have changed since the last attempt."""

from __future__ import annotations

from dataclasses import dataclass

from ram_backend.database.engine import Database
from ram_backend.errors import ProjectNotFound
from ram_backend.feedback.ledger import Ledger
from ram_backend.jobs.job import Job
from ram_backend.jobs.prelabel_options import Wanted
from ram_backend.jobs.table import JobTable
from ram_backend.jobs.transactions import Requested
from ram_backend.projects.keys import ProjectKey
from ram_backend.projects.table import ProjectTable
from ram_backend.settings import Settings
from ram_backend.versions.table import VersionTable


@dataclass(frozen=True)
class Pinned:
    """No job was made: what the project is served is pinned.

    Attributes:
        version: name of what is served.
    """

    version: str


class Triggers:
    """Asks for jobs, from wherever: server, worker, command. Everything here waits for the database.

    Args:
        settings: how many changed corrections are enough.
        database: migrated.
    """

    def __init__(self, settings: Settings, database: Database) -> None:
        self.jobs = JobTable(database, attempts=settings.job_attempts, claim_s=settings.claim_seconds)
        self.ledger = Ledger(database)
        self.versions = VersionTable(database)
        self.projects = ProjectTable(database)
        self._train_after = settings.train_after
        self._debounce_s = settings.train_debounce_seconds

    def train(self, key: ProjectKey, reason: str, *, debounced: bool = False) -> Requested | Pinned:
        """Asks for a training, unless the project is pinned; debounced, it begins a moment later.

        Raises:
            ProjectNotFound: no `/setup` has brought the project.
            DatabaseUnavailable: nothing was written.
        """
        key = self.known(key)
        served = self.versions.served(key)
        if served.pinned:
            return Pinned(served.name)
        return self.jobs.request(key, "train", reason, delay_s=self._debounce_s if debounced else 0.0)

    def refresh(self, key: ProjectKey, reason: str) -> Requested:
        """Asks for fresh predictions of unlabelled tasks, after what is served has changed."""
        return self.jobs.request(key, "refresh", reason)

    def prelabel(self, key: ProjectKey, wanted: Wanted, reason: str) -> Requested:
        """Asks for predictions of many tasks. Not for those that such a job is asking Label Studio for this moment.

        Raises:
            ProjectNotFound: no `/setup` has brought the project.
            DatabaseUnavailable: nothing was written.
        """
        key = self.known(key)
        running = next((job for job in self.jobs.jobs(key, kind="prelabel", limit=1) if job.state == "running"), None)
        if running is not None and wanted.tasks and not wanted.which:
            being_asked = (running.kept or {}).get("portion")
            if isinstance(being_asked, list) and set(wanted.tasks) <= set(being_asked):
                return Requested(running, False)
        return self.jobs.request(key, "prelabel", reason, wanted.to_json())

    def known(self, key: ProjectKey) -> ProjectKey:
        """The key under which `/setup` has brought the project, whose Label Studio an event doesn't name.

        Raises:
            ProjectNotFound: it has not.
        """
        keys = self.projects.keys()
        if key in keys:
            return key
        same = [each for each in keys if (each.id, each.created) == (key.id, key.created)]
        if key.instance == "" and len(same) == 1:
            return same[0]
        raise ProjectNotFound(
            f"Project {key} is not known yet: open its Settings > Model in Label Studio once, so that it says /setup."
        )

    def pending(self, key: ProjectKey) -> int:
        """Number of corrections that have changed since the last attempt to learn from them."""
        return self.ledger.changed_since(key, self.jobs.last_attempt(key))

    def check(self, key: ProjectKey) -> Job | None:
        """Asks for a training if enough corrections are pending; None: nothing was asked for.

        Raises:
            DatabaseUnavailable: nothing was written.
        """
        if self._train_after == 0:
            return None
        try:
            key = self.known(key)
        except ProjectNotFound:
            return None
        if any(job.is_open for job in self.jobs.jobs(key, kind="train", limit=1)):
            return None  # when that one ends, it is looked at again
        pending = self.pending(key)
        if pending < self._train_after:
            return None
        asked = self.train(key, f"{pending} corrections have changed")
        return None if isinstance(asked, Pinned) else asked.job

    def check_all(self) -> list[Job]:
        """`check` for all projects with corrections."""
        keys = self.ledger.keys()
        return [job for key in keys if (job := self.check(key)) is not None]

    def follow_up(self) -> list[Job]:
        """Answers requests that came while a job ran: with another one, if corrections have changed since it looked.

        Label Studio may say that something was submitted before it says what: it gets as long as debouncing takes.
        A refresh, and what else only asks Label Studio, is done again in any case.
        """
        asked: list[Job] = []
        for job, ended_ago_s in self.jobs.owed():
            free = job.kind != "train" or not self.versions.served(job.key).pinned
            needed = free and (job.kind != "train" or self.ledger.changed_since(job.key, job.last_event or 0) > 0)
            if free and not needed and ended_ago_s < self._debounce_s:
                continue
            delay_s = self._debounce_s if job.kind == "train" else 0.0
            following = self.jobs.settle_owed(job, request=needed, delay_s=delay_s)
            if following is not None:
                asked.append(following)
        return asked
