"""Write-behind cache of the project rows."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from dataclasses import replace

from ram_backend.database.engine import open_database
from ram_backend.database.migrate import upgrade
from ram_backend.errors import DatabaseUnavailable, ProjectOptionsError, QuotaExceeded
from ram_backend.images.guard import is_loopback
from ram_backend.projects.keys import ProjectKey, instance_of, parse_project
from ram_backend.projects.project import NO_OPTIONS, Connection, Project, Setup, TrustedHost, connection_of
from ram_backend.projects.table import ProjectTable
from ram_backend.settings import Settings

POLL_S = 0.4
"""Pause between two reads of the database."""

CHARACTERS_PER_PROJECT = 100_000
"""Average quota of characters for a project's label config, token and extra params."""

HOST_FRACTION = 4
"""An untrusted host may have a quarter of the projects and characters."""

_LONGEST_PAUSE_S = 5.0
_log = logging.getLogger(__name__)


class ProjectCache:
    """All projects in memory; a thread writes and reads the database.

    Only `start` and `close` wait for the database. While it can't be reached,
    projects are answered from memory, and writes wait.

    Attributes:
        problem: why the last exchange with the database failed; None: it did
            not.
        evicted: number of projects that were evicted, having never been used.

    Where the settings name a Label Studio, nothing is pinned; else the first
    `/setup` may pin one on loopback, if the server is on loopback, too.

    Raises:
        SettingsError: `database_url` can't be used. A database that can't be
            reached raises nothing, see `problem`.
    """

    def __init__(self, settings: Settings) -> None:
        self.problem: str | None = "not started"
        self.evicted = 0
        self._settings = settings
        self._database = open_database(settings)
        self._table = ProjectTable(self._database)
        self._url = (settings.label_studio_url or "").strip() or None
        self._lock = threading.Lock()  # of the fields below; not held while the database works
        self._projects: dict[ProjectKey, Project] = {}  # in the order of their last `/setup`
        self._pending: dict[ProjectKey, Setup] = {}
        self._used: set[ProjectKey] = set()
        self._to_remove: set[ProjectKey] = set()
        self._trusted_host: TrustedHost | None = None
        self._host_to_trust: str | None = None
        self._change = -1
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="projects", daemon=True)

    def start(self) -> ProjectCache:
        """Migrates and reads the database, or sets `problem`; then continues in a thread."""
        self._exchange()
        self._thread.start()
        return self

    def close(self) -> None:
        """Writes what is pending, if that works at once, and stops the thread."""
        self._stop.set()
        self._wake.set()
        if self._thread.ident is not None:
            self._thread.join(5)
        self._database.close()

    @property
    def pending(self) -> int:
        """Number of writes that wait for the database."""
        return len(self._pending) + (self._host_to_trust is not None)

    @property
    def trusted_host(self) -> TrustedHost | None:
        """The Label Studio that is trusted where the settings name none; None: not known.

        The first host counts at once where the database had no pin at the last
        read; a pin that another process wrote meanwhile replaces it with the
        next exchange.
        """
        first = self._host_to_trust if self._change >= 0 else None
        return self._trusted_host or (None if first is None else TrustedHost(first, by_command=False))

    def upsert(self, setup: Setup) -> Project:
        """Stores what `/setup` brings (protocol section 2), a little later in the database.

        Raises:
            QuotaExceeded: the quota is used up; nothing was stored.
            ProjectOptionsError: the extra params can't be used. The last good
                ones stay, all else was stored.
        """
        key = setup.key
        with self._lock:
            before = self._projects.get(key)
            after = setup.applied_to(before)
            if after != before:
                self._enforce_quota(before, after)
                self._to_remove.discard(key)
                self._pending[key] = Setup(
                    key, after.label_config, after.access_token, after.extra_params, after.extra_params_error
                )
            self._projects.pop(key, None)
            self._projects[key] = after
            both_on_loopback = is_loopback(self._settings.host) and is_loopback(key.instance)
            if both_on_loopback and self._url is None and self._trusted_host is None:
                self._host_to_trust = self._host_to_trust or key.instance
        if self.pending:
            self._wake.set()
        if setup.error is not None:
            raise ProjectOptionsError(setup.error)
        return after

    def projects(self) -> list[Project]:
        """All projects, by key."""
        with self._lock:
            return [self._projects[key] for key in sorted(self._projects)]

    def key(self, project: str | int, hostname: str | None) -> ProjectKey:
        """The project that a `/setup` request names.

        Where the settings name the Label Studio, the hostname is only its
        address for browsers: a known project keeps its key.

        Raises:
            InputError: `project` or `hostname` is malformed.
        """
        key = ProjectKey(instance_of(hostname), *parse_project(project))
        if self._url and key.created and key not in self._projects and (known := self.find(key.id, key.created)):
            return known.key
        return key

    def mark_used(self, key: ProjectKey) -> None:
        """Notes that a project is more than a `/setup`: it is not evicted."""
        self._used.add(key)

    def get(self, key: ProjectKey) -> Project | None:
        """The project as it is now."""
        return self._projects.get(key)

    def find(self, project_id: int, created: int) -> Project | None:
        """The project of a request without a hostname (`/predict`, `/webhook`).

        Of several instances' projects, one of a trusted host comes first, then
        the one with the latest `/setup`.
        """
        with self._lock:
            found = [
                each for each in self._projects.values() if (each.key.id, each.key.created) == (project_id, created)
            ]
        trusted = [each for each in found if self.connection(each).trusted]
        return next(reversed(trusted or found), None)

    def connection(self, project: Project) -> Connection:
        """How the project's Label Studio is reached: see `connection_of`."""
        return connection_of(self._settings, project, self.trusted_host)

    def candidate_connection(self, key: ProjectKey, access_token: str | None) -> Connection | None:
        """The trusted Label Studio with a new token, to be tried first.

        None: the token is not new, replaces none, or would go to a host that is
        not trusted.
        """
        known, token = self.get(key), (access_token or "").strip()
        if known is None or not token or known.access_token in (None, token):
            return None
        connection = self.connection(known)
        return replace(connection, token=token) if connection.trusted else None

    def _enforce_quota(self, before: Project | None, after: Project) -> None:
        """Evicts never used projects, so that `/setup` stays within the quota."""
        shares = [(after.hostname, HOST_FRACTION)] if not self.connection(after).trusted else []
        for host, share in [*shares, (None, 1)]:
            most = max(1, self._settings.max_projects // share)
            while True:
                held = [
                    each for each in self._projects.values() if each.key != after.key and host in (None, each.hostname)
                ]
                characters = sum(each.characters for each in held) + after.characters
                if (before is not None or len(held) < most) and characters <= most * CHARACTERS_PER_PROJECT:
                    break
                self._evict_one(held, "all hosts" if host is None else host, most)

    def _evict_one(self, held: list[Project], whose: str, most: int) -> None:
        """Evicts the first never used project of the host that has most of them.

        Raises:
            QuotaExceeded: there is none.
        """
        unused = [each for each in held if each.key not in self._used and each.admin_options == NO_OPTIONS]
        if not unused:
            raise QuotaExceeded(
                "projects",
                f"The projects of {whose or 'no host'} have all the room that there is for {most}, with"
                f" {CHARACTERS_PER_PROJECT:,} characters each: raise RAM_MAX_PROJECTS, or pin their Label Studio.",
            )
        hosts = Counter(each.hostname for each in unused)
        evicted = max(unused, key=lambda each: hosts[each.hostname]).key
        del self._projects[evicted]
        self._pending.pop(evicted, None)
        self._to_remove.add(evicted)
        self.evicted += 1
        _log.warning("Project %s was evicted for another one: it was set up, and never used.", evicted)

    def _run(self) -> None:
        pause = POLL_S
        while not self._stop.is_set():
            # While the database is away, requests don't hasten the next try.
            (self._wake if self.problem is None else self._stop).wait(pause)
            self._wake.clear()
            self._exchange()
            pause = POLL_S if self.problem is None else min(2 * pause, _LONGEST_PAUSE_S)
        if self._pending and self.problem is None:
            self._exchange()

    def _exchange(self) -> None:
        """Migrates if needed, writes what is pending, reads what is new."""
        problem: str | None = None
        unexpected: Exception | None = None
        try:
            if self.problem is not None:
                upgrade(self._database)
            self._write()
            self._read()
        except DatabaseUnavailable as error:
            problem = str(error)
        except Exception as error:  # the thread continues
            problem = f"{type(error).__name__} while using the database {self._database.display_url}: see the log."
            unexpected = error
        if problem and problem != self.problem:
            _log.warning("%s Meanwhile projects are answered from memory.", problem, exc_info=unexpected)
        elif problem != self.problem:
            _log.info("The database %s answers.", self._database.display_url)
        self.problem = problem

    def _write(self) -> None:
        if self._host_to_trust is not None:
            self._trusted_host = self._table.pin_host(self._host_to_trust, by_command=False)
            self._host_to_trust = None
        for key in list(self._to_remove):
            if not self._table.remove(key):
                self._change = -1  # it is used elsewhere: all are read again
            self._to_remove.discard(key)
        for key, setup in list(self._pending.items()):
            stored = self._table.apply(setup)
            with self._lock:
                if self._pending.get(key) is setup:
                    del self._pending[key]
                    self._projects[key] = stored

    def _read(self) -> None:
        changes = self._table.changes(self._change)
        unused = self._table.unused() if changes.keys is not None else frozenset()
        with self._lock:
            if changes.keys is not None:
                self._used |= changes.keys - unused
                for key in self._projects.keys() - changes.keys - self._pending.keys():
                    del self._projects[key]  # evicted by another process
            if changes.change < self._change:  # another database, e.g. a restored one
                self._projects = {key: self._projects[key] for key in self._pending}
            self._change, self._trusted_host = changes.change, changes.trusted_host
            for project in changes.projects:
                if project.key in self._to_remove:
                    continue
                pending = self._pending.get(project.key)
                self._projects[project.key] = project if pending is None else pending.applied_to(project)
