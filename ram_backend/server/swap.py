"""Reconcile loop of versions: what the database wants served is loaded, checked and swapped in by one assignment."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field

from ram_backend.backoff import backoff
from ram_backend.errors import DatabaseUnavailable, NotAvailable, RamError, VersionDamaged
from ram_backend.jobs.service import JobService
from ram_backend.models.bundle import Bundle
from ram_backend.projects.keys import ProjectKey
from ram_backend.projects.project import Project
from ram_backend.projects.store import ProjectStore
from ram_backend.server.loaded_version import LoadedVersion, VersionLoader, VersionRef
from ram_backend.server.metrics import ServerMetrics
from ram_backend.server.model import Model
from ram_backend.server.snapshots import SnapshotCache
from ram_backend.versions.records import BASE, Served
from ram_backend.versions.table import VersionTable

POLL_S = 0.5
"""Pause between two looks at the database."""

RETRY_S = (1.0, 60.0)
"""First and longest pause after an activation that failed."""

BUNDLE_CHANGED = "the bundle has changed"
_log = logging.getLogger(__name__)


@dataclass
class _State:
    """What the database wants for a project, and what answers. Another wish of the database is another state.

    Attributes:
        wanted: what the database says.
        unloaded: only the version's name is known, since the start; the first request loads it.
        live: the version that answers; None: the bundle's base.
        noticed: when the wish was read, on the monotonic clock.
        activating: the activation that is running.
        reason: why the version can't be served, in one line; None: it can, or that is not known yet.
        pauses: between tries.
        next_try: on the monotonic clock.
    """

    wanted: Served
    unloaded: bool = False
    live: LoadedVersion | None = None
    noticed: float = field(default_factory=time.monotonic)
    activating: Future[None] | None = None
    reason: str | None = None
    pauses: Iterator[float] = field(default_factory=lambda: backoff(*RETRY_S))
    next_try: float = 0.0

    @property
    def serving(self) -> str:
        """Name of the version that answers, or "base"."""
        return BASE if self.live is None else self.live.ref.name

    def is_due(self, bundle: Bundle) -> bool:
        """Whether the loop has to activate it now; one that is live by name is left to its first request."""
        if self.unloaded:
            return self.wanted.bundle_digest != bundle.digest
        live = (None, None) if self.live is None else (self.live.ref.name, self.live.ref.digest)
        return live != (self.wanted.version, self.wanted.digest) and self.next_try <= time.monotonic()


class VersionSwap:
    """Per project the version that is live, kept in step with the database, which need not be reachable.

    At the start a project's `model_version` already names the database's version; the files are loaded for the first
    request, or at once by `warm`. From then on the old version answers until the new one is ready.

    Args:
        table: of the database.
        projects: their label configs and options.
        model: bundle and network.
        loader: reads and checks versions.
        snapshots: builds those of recent label configs.
        metrics: counts swaps, and projects that are served a version.
        jobs: take a training where a version belongs to another bundle; None: there are none.
    """

    def __init__(
        self,
        table: VersionTable,
        projects: ProjectStore,
        *,
        model: Model,
        loader: VersionLoader,
        snapshots: SnapshotCache,
        metrics: ServerMetrics,
        jobs: JobService | None = None,
    ) -> None:
        self._table = table
        self._projects = projects
        self._model = model
        self._loader = loader
        self._snapshots = snapshots
        self._metrics = metrics
        self._jobs = jobs
        self._lock = threading.Lock()  # around the fields below; nothing is waited for under it
        self._states: dict[ProjectKey, _State] = {}
        self._to_learn: set[ProjectKey] = set()
        self._change = -1
        self._problem: str | None = None
        self._stop = threading.Event()
        self._activators = ThreadPoolExecutor(2, thread_name_prefix="swap")
        self._thread = threading.Thread(target=self._run, name="versions", daemon=True)
        metrics.quarantined.set_function(lambda: len(self.failures))
        metrics.versions_served.set_function(
            lambda: sum(each.unloaded or each.live is not None for each in list(self._states.values()))
        )

    def start(self, *, look: bool = True) -> None:
        """Looks at the database, unless `look` is False, and again and again from now on."""
        if look:
            self._step()
        self._thread.start()

    def close(self) -> None:
        """Stops looking; swaps that have begun are given up."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(5)
        self._activators.shutdown(wait=False, cancel_futures=True)

    def ref(self, key: ProjectKey) -> VersionRef | None:
        """Names what a project is served now; None: the bundle's base. Waits for nothing.

        Raises:
            NotAvailable: the bundle is not open yet.
        """
        state = self._states.get(key)
        if state is not None and state.unloaded:
            with suppress(VersionDamaged):
                return _ref(state.wanted, self._model.known().bundle)
        return None if state is None or state.live is None else state.live.ref

    def live(self, key: ProjectKey) -> LoadedVersion | Future[None] | None:
        """What a project is served now; None: the base; a future: ask again when it is done. Waits for nothing."""
        state = self._states.get(key)
        if state is None:
            return None
        return self._activate_soon(state) if state.unloaded else state.live

    def warm(self, project: Project) -> None:
        """Loads what a project is served, and builds what it will ask for."""
        live = self.live(project.key)
        if isinstance(live, Future):
            live.result()
        else:
            self._snapshots.prepare(project, live)

    @property
    def failures(self) -> list[dict[str, str]]:
        """The projects whose version can't be served, by key: project, version, what is served instead, reason."""
        with self._lock:
            states = sorted(self._states.items())
        return [
            {"project": str(key), "version": state.wanted.name, "serving": state.serving, "reason": state.reason}
            for key, state in states
            if state.reason is not None
        ]

    # --- the loop -----------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stop.wait(POLL_S):
            self._step()

    def _step(self) -> None:
        try:
            self._read()
            self._problem = None
        except DatabaseUnavailable as error:
            if self._problem is None:
                _log.warning("%s Meanwhile every project is served what it was.", error)
            self._problem = str(error)
        except Exception:  # the thread goes on whatever happens
            _log.exception("Looking at what is served failed unexpectedly")
        try:
            if self._model.state != "failed" and self._model.identity.done():
                self._reconcile(self._model.known().bundle)
        except Exception:
            _log.exception("Taking in what is served failed unexpectedly")

    def _read(self) -> None:
        changes = self._table.changes(self._change)
        wanted = {each.key: each for each in changes.served}
        first = self._change < 0
        if first:
            self._to_learn = set(wanted)
        with self._lock:
            if changes.change < self._change:  # another database than before: what it doesn't know is not served
                wanted = {key: Served(key) for key in self._states} | wanted
            self._change = changes.change
            for key, served in wanted.items():
                state = self._states.get(key)
                if state is None:
                    unloaded = first and served.version is not None and served.quarantined is None
                    self._states[key] = _State(served, unloaded)
                elif (state.wanted.version, state.wanted.digest) != (served.version, served.digest):
                    self._states[key] = _State(served, state.unloaded, state.live)

    def _reconcile(self, bundle: Bundle) -> None:
        """Compares what the database wants with what is live, and begins what differs."""
        for state in list(self._states.values()):
            if state.is_due(bundle):
                self._activate_soon(state)
        for key in list(self._to_learn):  # a version that comes later may be meant for another server
            try:
                if self._jobs is not None and self._states[key].wanted.bundle_digest not in (None, bundle.digest):
                    self._jobs.request(key, BUNDLE_CHANGED)
                self._to_learn.discard(key)
            except RamError as error:
                _log.warning("project %s can't be learned anew yet: %s", key, error)

    # --- activation ---------------------------------------------------------------------------------------------------

    def _activate_soon(self, state: _State) -> Future[None]:
        with self._lock:
            if state.activating is None:
                try:
                    state.activating = self._activators.submit(self._activate, state)
                except RuntimeError:
                    raise NotAvailable("The server is going down: ask again in a moment.") from None
            return state.activating

    def _activate(self, state: _State) -> None:
        """Brings a project to what the database wants: read, check, build its snapshots, then assign."""
        key, ref = state.wanted.key, None
        try:
            if self._states[key] is not state:
                return  # overtaken
            ref = _ref(state.wanted, self._model.identity.result().bundle)
            version = None if ref is None else self._loader.load(ref)
            project = self._projects.get(key)
            snapshot = None if project is None else self._snapshots.prepare(project, version)
            if version is not None:
                self._loader.check([] if snapshot is None else snapshot.taggers.values())
            self._assign(state, version)
        except VersionDamaged as error:
            self._metrics.swaps.labels("quarantined").inc()
            if state.reason != str(error):
                name = state.wanted.name
                _log.error("project %s is served %s instead of %s: %s", key, state.serving, name, error)
            state.unloaded, state.reason = False, str(error)
            if ref is not None:
                self._snapshots.forget(ref)
                self._mark(ref, str(error))
        except Exception as error:
            _log.warning("project %s: %s", key, error, exc_info=not isinstance(error, NotAvailable))
        finally:
            state.next_try, state.activating = time.monotonic() + next(state.pauses), None

    def _assign(self, state: _State, version: LoadedVersion | None) -> None:
        """The swap: whoever asks from now on gets the new version, and nothing but that."""
        key, old, before, unloaded = state.wanted.key, state.live, state.serving, state.unloaded
        with self._lock:
            if self._stop.is_set() or self._states[key] is not state:
                return  # overtaken while it was prepared
            state.live, state.unloaded = version, False
        if version is not None and (state.reason is not None or state.wanted.quarantined is not None):
            state.reason = None
            self._mark(version.ref, None)
        if not unloaded:
            seconds = time.monotonic() - state.noticed
            self._metrics.swaps.labels("swapped").inc()
            self._metrics.swap_seconds.observe(seconds)
            _log.info("project %s: swapped from %s to %s in %.2f s", key, before, state.serving, seconds)
        if old is not None:
            self._snapshots.forget(old.ref)

    def _mark(self, ref: VersionRef, reason: str | None) -> None:
        """Records in the database why a version can't be served; None: it can."""
        with suppress(DatabaseUnavailable):
            self._table.quarantine(ref.key, ref.name, reason)


def _ref(served: Served, bundle: Bundle) -> VersionRef | None:
    """Identity of the version that the database names; None: the base.

    Raises:
        VersionDamaged: it can't be a version of this bundle.
    """
    if served.version is None:
        return None
    named = f"Version {served.version} of project {served.key}"
    if served.digest is None or served.bundle_digest is None:
        raise VersionDamaged(f"{named} is not recorded: it isn't served. Roll back, or train again.")
    if served.bundle_digest != bundle.digest:
        raise VersionDamaged(
            f"{named} belongs to another bundle (digest {served.bundle_digest[:12]}) than the one in use"
            f" ({bundle.name!r}, {bundle.digest[:12]}): it isn't served. Train again, or serve that bundle."
        )
    return VersionRef(served.key, served.version, served.digest)
