"""Reconcile loop of versions: what the database wants served is loaded, checked and swapped in by one assignment."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass

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
"""First and longest pause before an activation that failed is tried again."""

BUNDLE_CHANGED = "the bundle has changed"
_LONGEST_PAUSE_S = 5.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SwapFailure:
    """Why a project isn't served the version that the database names.

    Attributes:
        wanted: what the database says.
        reason: one line for people.
        serving: what is served instead: a version's name, or "base".
        damaged: the version can't be served; False: something else is in the way.
        pauses: before the tries after the next one.
        next_try: on the monotonic clock.
    """

    wanted: Served
    reason: str
    serving: str
    damaged: bool
    pauses: Iterator[float]
    next_try: float


@dataclass
class _State:
    """What the database wants for a project, and what answers.

    Attributes:
        wanted: what the database says.
        noticed: when that was read, on the monotonic clock.
        by_name: the version that the database named at the start is served, and is loaded for the first request.
        live: the version that answers; None: the bundle's base.
        activating: the activation that is running.
        failure: of the last activation.
    """

    wanted: Served
    noticed: float
    by_name: bool = False
    live: LoadedVersion | None = None
    activating: Future[None] | None = None
    failure: SwapFailure | None = None

    @property
    def is_wanted(self) -> bool:
        """Whether what answers is what the database wants."""
        ref = None if self.live is None else self.live.ref
        return (self.wanted.version, self.wanted.digest) == ((None, None) if ref is None else (ref.name, ref.digest))


class VersionSwap:
    """Per project the version that is live, kept in step with the database, which need not be reachable.

    At the start a project is named after the version that the database names, whose files are read by the first
    request, or at once for `warm` ones. From then on the old version answers until the new one is ready.

    Args:
        table: of the database.
        projects: their label configs and options.
        model: bundle and network.
        loader: reads and checks versions.
        snapshots: builds what a project will be asked for.
        metrics: told of swaps and of what is quarantined.
        jobs: asked to learn anew where a version belongs to another bundle; None: nobody is.
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
        self._marks: dict[tuple[ProjectKey, str], str | None] = {}
        self._to_learn: set[ProjectKey] = set()
        self._change = -1
        self._stop = threading.Event()
        self._activators = ThreadPoolExecutor(2, thread_name_prefix="swap")
        self._thread = threading.Thread(target=self._run, name="versions", daemon=True)

    def start(self, *, look: bool = True) -> None:
        """Looks at the database, unless `look` is False, and again and again from now on."""
        if look:
            self._look()
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
        if state is not None and state.by_name:
            with suppress(VersionDamaged):
                return _ref(state.wanted, self._model.known().bundle)
        return None if state is None or state.live is None else state.live.ref

    def live(self, key: ProjectKey) -> LoadedVersion | Future[None] | None:
        """What a project is served now; None: the base; a future: ask again when it is done. Waits for nothing."""
        state = self._states.get(key)
        if state is None:
            return None
        return self._activate_soon(key, state) if state.by_name else state.live

    def warm(self, project: Project) -> None:
        """Loads what a project is served, and builds what it will ask for."""
        live = self.live(project.key)
        if isinstance(live, Future):
            live.result()
        else:
            self._snapshots.prepare(project, live)

    @property
    def failures(self) -> list[SwapFailure]:
        """The projects whose version can't be served, by key."""
        found = [self._states[key].failure for key in sorted(self._states)]
        return [each for each in found if each is not None and each.damaged]

    # --- the loop -----------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        pauses, pause = backoff(2 * POLL_S, _LONGEST_PAUSE_S), POLL_S
        problem: str | None = None
        while not self._stop.wait(pause):
            before, problem = problem, self._look()
            if problem is None:
                pauses, pause = backoff(2 * POLL_S, _LONGEST_PAUSE_S), POLL_S
            else:
                pause = next(pauses)
                if before is None:
                    _log.warning("%s Meanwhile every project is served what it was.", problem)
            try:
                if self._model.identity.done():
                    self._reconcile(self._model.known().bundle)
            except NotAvailable:
                pass  # the bundle can't be used: the model says so
            except Exception:  # the thread goes on whatever happens
                _log.exception("Taking in what is served failed unexpectedly")

    def _look(self) -> str | None:
        """Reads what is new, and writes what can't be served; says what went wrong."""
        try:
            self._read()
            for (key, name), reason in list(self._marks.items()):
                self._table.quarantine(key, name, reason)
                with self._lock:
                    if self._marks.get((key, name)) == reason:
                        del self._marks[key, name]
        except DatabaseUnavailable as error:
            return str(error)
        except Exception as error:
            _log.exception("Looking at what is served failed unexpectedly")
            return f"{type(error).__name__} while looking at what is served: see the log."
        return None

    def _read(self) -> None:
        changes = self._table.changes(self._change)
        wanted = {each.key: each for each in changes.served}
        first, now = self._change < 0, time.monotonic()
        if first:
            self._to_learn = set(wanted)
        with self._lock:
            if changes.change < self._change:  # another database than before: what it doesn't know is not served
                wanted = {key: Served(key) for key in self._states} | wanted
            self._change = changes.change
            for key, served in wanted.items():
                state = self._states.get(key)
                if state is None:
                    by_name = first and served.version is not None and served.quarantined is None
                    self._states[key] = _State(served, now, by_name)
                elif (state.wanted.version, state.wanted.digest) != (served.version, served.digest):
                    state.wanted, state.noticed = served, now

    def _reconcile(self, bundle: Bundle) -> None:
        """Compares what the database wants with what is live, and begins what differs."""
        for key, state in list(self._states.items()):
            if self._is_due(state, bundle):
                self._activate_soon(key, state)
        for key in list(self._to_learn):  # a version that comes later may be meant for another server
            try:
                if self._jobs is not None and self._states[key].wanted.bundle_digest not in (None, bundle.digest):
                    self._jobs.request(key, BUNDLE_CHANGED)
                self._to_learn.discard(key)
            except RamError as error:
                _log.warning("project %s can't be learned anew yet: %s", key, error)
        self._count()

    def _is_due(self, state: _State, bundle: Bundle) -> bool:
        if state.by_name:
            return state.wanted.bundle_digest != bundle.digest
        if state.is_wanted:
            state.failure = None  # rolled back to what is live anyway
            return False
        failure = state.failure
        return failure is None or failure.wanted is not state.wanted or failure.next_try <= time.monotonic()

    # --- activation ---------------------------------------------------------------------------------------------------

    def _activate_soon(self, key: ProjectKey, state: _State) -> Future[None]:
        with self._lock:
            if state.activating is None:
                try:
                    state.activating = self._activators.submit(self.activate, key)
                except RuntimeError:
                    raise NotAvailable("The server is going down: ask again in a moment.") from None
            return state.activating

    def activate(self, key: ProjectKey) -> None:
        """Brings a project to what the database wants: read, check, build its snapshots, then assign."""
        state = self._states[key]
        served, ref = state.wanted, None
        try:
            ref = _ref(served, self._model.identity.result().bundle)
            version = None if ref is None else self._loader.load(ref)
            project = self._projects.get(key)
            snapshots = [] if project is None else self._snapshots.prepare(project, version)
            if version is not None:
                self._loader.check(tagger for each in snapshots for tagger in each.taggers.values())
            self._assign(state, served, version)
        except VersionDamaged as error:
            if ref is not None:
                self._snapshots.forget(ref)
                self._marks[key, ref.name] = str(error)
            self._fail(state, served, str(error), damaged=True)
        except Exception as error:
            _log.warning("project %s: %s", key, error, exc_info=not isinstance(error, NotAvailable))
            self._fail(state, served, str(error) or type(error).__name__, damaged=False)
        finally:
            state.activating = None

    def _assign(self, state: _State, served: Served, version: LoadedVersion | None) -> None:
        """The swap: whoever asks from now on gets the new version, and nothing but that."""
        with self._lock:
            if self._stop.is_set() or state.wanted is not served:
                return  # overtaken while it was prepared
            old, was_by_name, failure = state.live, state.by_name, state.failure
            state.live, state.by_name, state.failure = version, False, None
            if version is not None and (served.quarantined is not None or (failure is not None and failure.damaged)):
                self._marks[served.key, version.ref.name] = None
        self._count()
        if was_by_name:
            return
        seconds = time.monotonic() - state.noticed
        self._metrics.swaps.labels("swapped").inc()
        self._metrics.swap_seconds.observe(seconds)
        before = BASE if old is None else old.ref.name
        _log.info("project %s: swapped from %s to %s in %.2f s", served.key, before, served.name, seconds)
        if old is not None:
            self._snapshots.forget(old.ref)

    def _fail(self, state: _State, served: Served, reason: str, *, damaged: bool) -> None:
        """Records why a project isn't served what it should be; one that was live by name gets the bundle's base."""
        with self._lock:
            before = state.failure if state.failure is not None and state.failure.wanted is served else None
            if damaged:
                state.by_name = False
            serving = BASE if state.live is None else state.live.ref.name
            pauses = backoff(*RETRY_S) if before is None else before.pauses
            state.failure = SwapFailure(served, reason, serving, damaged, pauses, time.monotonic() + next(pauses))
        if damaged:
            if before is None or before.reason != reason:
                _log.error("project %s is served %s instead of %s: %s", served.key, serving, served.name, reason)
            self._metrics.swaps.labels("quarantined").inc()
        self._count()

    def _count(self) -> None:
        states = list(self._states.values())
        self._metrics.versions_served.set(sum(each.by_name or each.live is not None for each in states))
        self._metrics.quarantined.set(len(self.failures))


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
