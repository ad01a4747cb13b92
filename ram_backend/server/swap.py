"""Reconcile loop of versions: what the database wants served is loaded, checked and swapped in by one assignment."""

from __future__ import annotations

import logging
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from ram_backend.backoff import backoff
from ram_backend.errors import DatabaseUnavailable, NotAvailable, RamError, VersionDamaged
from ram_backend.jobs.service import JobService
from ram_backend.models.bundle import Bundle
from ram_backend.projects.keys import ProjectKey
from ram_backend.projects.store import ProjectStore
from ram_backend.server.loaded_version import LoadedVersion, VersionLoader, VersionRef
from ram_backend.server.metrics import ServerMetrics
from ram_backend.server.model import Model, ModelIdentity
from ram_backend.server.snapshots import SnapshotCache
from ram_backend.versions.directory import BASE
from ram_backend.versions.records import Served
from ram_backend.versions.table import VersionTable

POLL_S = 0.5
"""How often the database is looked at."""

RETRY_S = (1.0, 60.0)
"""A version that can't be served is tried again after the first of these, then ever later, at most after the second."""

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
        tries: how often it was tried.
        next_try: on the monotonic clock.
        damaged: the version can't be served; False: something else is in the way.
    """

    wanted: Served
    reason: str
    serving: str
    tries: int
    next_try: float
    damaged: bool = True


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
        self._lock = threading.RLock()  # around the fields below; nothing is waited for under it
        self._wanted: dict[ProjectKey, tuple[Served, float]] = {}  # and when it was noticed
        self._live: dict[ProjectKey, VersionRef | LoadedVersion] = {}
        self._activating: dict[ProjectKey, Future[None]] = {}
        self._failures: dict[ProjectKey, SwapFailure] = {}
        self._marks: dict[tuple[ProjectKey, str], str | None] = {}
        self._first_look: set[ProjectKey] = set()
        self._to_learn: list[ProjectKey] = []
        self._change = -1
        self._adopted = False
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

    def ref(self, key: ProjectKey, identity: ModelIdentity) -> VersionRef | None:
        """Names what a project is served now; None: the bundle's base. Waits for nothing."""
        live = self._current(key, identity)
        return live.ref if isinstance(live, LoadedVersion) else live

    def live(self, key: ProjectKey, identity: ModelIdentity) -> LoadedVersion | Future[None] | None:
        """What a project is served now; None: the base; a future: ask again when it is done. Waits for nothing."""
        live = self._current(key, identity)
        return self._activate_soon(key) if isinstance(live, VersionRef) else live

    def warm(self, key: ProjectKey, identity: ModelIdentity) -> None:
        """Loads what a project is served, and builds what it will ask for."""
        live = self.live(key, identity)
        project = self._projects.get(key)
        if isinstance(live, Future):
            live.result()
        elif project is not None:
            self._snapshots.prepare(identity, project, live)

    def reject(self, version: LoadedVersion, error: VersionDamaged) -> None:
        """A live version turned out to compute what can't be: the base is served from now on."""
        key = version.ref.key
        with self._lock:
            if self._live.get(key) is version:
                del self._live[key]
        self._snapshots.forget(version.ref)
        served = self._wanted[key][0]
        if (served.version, served.digest) == version.ref[1:]:
            self._fail(served, str(error), named=version.ref)

    @property
    def failures(self) -> list[SwapFailure]:
        """The projects whose version can't be served, by key."""
        with self._lock:
            return [self._failures[key] for key in sorted(self._failures) if self._failures[key].damaged]

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
                self._reconcile()
            except Exception:  # the thread goes on whatever happens
                _log.exception("Taking in what is served failed unexpectedly")

    def _look(self) -> str | None:
        """Reads what is new, and writes what can't be served; says what went wrong."""
        try:
            self._read()
            self._write_marks()
        except DatabaseUnavailable as error:
            return str(error)
        except Exception as error:
            _log.exception("Looking at what is served failed unexpectedly")
            return f"{type(error).__name__} while looking at what is served: see the log."
        return None

    def _read(self) -> None:
        changes = self._table.changes(self._change)
        now = time.monotonic()
        with self._lock:
            if self._change < 0:
                self._first_look = {each.key for each in changes.served}
            if changes.change < self._change:  # another database than before: what it doesn't know is not served
                for key in self._wanted.keys() - {each.key for each in changes.served}:
                    self._wanted[key] = (Served(key), now)
            self._change = changes.change
            for each in changes.served:
                before = self._wanted.get(each.key)
                if before is None or (before[0].version, before[0].digest) != (each.version, each.digest):
                    self._wanted[each.key] = (each, now)

    def _write_marks(self) -> None:
        for (key, name), reason in list(self._marks.items()):
            self._table.quarantine(key, name, reason)
            with self._lock:
                if self._marks.get((key, name)) == reason:
                    del self._marks[key, name]

    def _reconcile(self) -> None:
        """Compares what the database wants with what is live, and begins what differs."""
        identity = self._model.identity
        if not identity.done() or identity.exception() is not None:
            return
        self._adopt(identity.result())
        with self._lock:
            due = [key for key in self._wanted if key not in self._activating and self._is_due(key)]
        for key in due:
            self._activate_soon(key)
        learn, self._to_learn = self._to_learn, []
        for key in learn:
            try:
                if self._jobs is not None:
                    self._jobs.request(key, BUNDLE_CHANGED)
            except RamError as error:
                _log.warning("project %s can't be learned anew yet: %s", key, error)
                self._to_learn.append(key)

    def _is_due(self, key: ProjectKey) -> bool:
        served, live, failure = self._wanted[key][0], self._live.get(key), self._failures.get(key)
        ref = live.ref if isinstance(live, LoadedVersion) else live
        if (served.version, served.digest) == ((None, None) if ref is None else ref[1:]):
            if self._failures.pop(key, None) is not None:  # rolled back to what is live anyway
                self._count()
            return False
        return failure is None or failure.wanted is not served or failure.next_try <= time.monotonic()

    # --- what is live -------------------------------------------------------------------------------------------------

    def _current(self, key: ProjectKey, identity: ModelIdentity) -> VersionRef | LoadedVersion | None:
        if not self._adopted:
            self._adopt(identity)
        return self._live.get(key)

    def _adopt(self, identity: ModelIdentity) -> None:
        """Takes as live what the database named at the start."""
        with self._lock:
            if self._adopted:
                return
            self._adopted = True
            wanted = [served for served, _ in self._wanted.values()]
        for served in wanted:
            try:
                ref = _ref(served, identity.bundle)
            except VersionDamaged as error:
                self._fail(served, str(error))
                continue
            if ref is not None and served.quarantined is not None:
                self._fail(served, served.quarantined, pause_s=0.0)
            elif ref is not None:
                with self._lock:
                    self._live[served.key] = ref
        self._count()

    def _activate_soon(self, key: ProjectKey) -> Future[None]:
        with self._lock:
            running = self._activating.get(key)
            if running is None:
                try:
                    running = self._activating[key] = self._activators.submit(self.activate, key)
                except RuntimeError:
                    raise NotAvailable("The server is going down: ask again in a moment.") from None
            return running

    def activate(self, key: ProjectKey) -> None:
        """Brings a project to what the database wants: read, check, build its snapshots, then assign."""
        served, noticed = self._wanted.get(key) or (Served(key), time.monotonic())
        ref: VersionRef | None = None
        try:
            identity = self._model.identity.result()
            self._model.network.result()
            ref = _ref(served, identity.bundle)
            version = None if ref is None else self._loader.load(ref)
            project = self._projects.get(key)
            if project is not None:
                self._snapshots.prepare(identity, project, version)
            self._assign(served, noticed, version)
        except VersionDamaged as error:
            if ref is not None:
                self._snapshots.forget(ref)
            self._fail(served, str(error), named=ref)
        except Exception as error:
            _log.warning("project %s: %s", key, error, exc_info=not isinstance(error, NotAvailable))
            self._fail(served, str(error) or type(error).__name__, pause_s=RETRY_S[1], damaged=False)
        finally:
            with self._lock:
                self._activating.pop(key, None)

    def _assign(self, served: Served, noticed: float, version: LoadedVersion | None) -> None:
        """The swap: whoever asks from now on gets the new version, and nothing but that."""
        key = served.key
        with self._lock:
            if self._stop.is_set() or (key in self._wanted and self._wanted[key][0] is not served):
                return  # overtaken while it was prepared
            old = self._live.pop(key, None)
            if version is not None:
                self._live[key] = version
            failed = self._failures.pop(key, None)
            if version is not None and (served.quarantined is not None or (failed is not None and failed.damaged)):
                self._marks[key, version.ref.name] = None
        self._count()
        if isinstance(old, VersionRef):  # it was live by name since the start
            return
        seconds = time.monotonic() - noticed
        self._metrics.swaps.labels("swapped").inc()
        self._metrics.swap_seconds.observe(seconds)
        before = BASE if old is None else old.ref.name
        _log.info("project %s: swapped from %s to %s in %.2f s", key, before, served.name, seconds)
        if old is not None:
            self._snapshots.forget(old.ref)

    def _fail(
        self,
        served: Served,
        reason: str,
        *,
        named: VersionRef | None = None,
        pause_s: float | None = None,
        damaged: bool = True,
    ) -> None:
        """Records why a project isn't served what it should be; a version that was live by name only isn't any more."""
        key = served.key
        with self._lock:
            if damaged and isinstance(self._live.get(key), VersionRef):
                del self._live[key]
            live = self._live.get(key)
            ref = live.ref if isinstance(live, LoadedVersion) else live
            serving = BASE if ref is None else ref.name
            before = self._failures.get(key)
            tries = before.tries + 1 if before is not None and before.wanted is served else 1
            if pause_s is None:
                pause_s = min(RETRY_S[0] * 2.0 ** min(tries - 1, 30), RETRY_S[1])
            self._failures[key] = SwapFailure(served, reason, serving, tries, time.monotonic() + pause_s, damaged)
            if named is not None:
                self._marks[key, named.name] = reason
            bundle = self._model.identity.result().bundle
            if served.bundle_digest not in (None, bundle.digest) and key in self._first_look:
                self._first_look.discard(key)  # a version that came later may be meant for another server
                self._to_learn.append(key)
        if damaged and (before is None or before.reason != reason):
            _log.error("project %s is served %s instead of %s: %s", key, serving, served.name, reason)
        if damaged:
            self._metrics.swaps.labels("quarantined").inc()
        self._count()

    def _count(self) -> None:
        self._metrics.versions_served.set(len(self._live))
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
