"""Control loop of versions: polls, loads, verifies, canary-tests, swaps."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ram_backend.errors import (
    BundleDamaged,
    BundleNotFound,
    DatabaseUnavailable,
    NotAvailable,
    RamError,
    VersionDamaged,
)
from ram_backend.jobs.service import JobService
from ram_backend.models.bundle import Bundle
from ram_backend.models.network import tuned_network
from ram_backend.periodic import PeriodicThread, backoff
from ram_backend.projects.cache import ProjectCache
from ram_backend.projects.keys import ProjectKey
from ram_backend.server.batcher import Batcher
from ram_backend.server.model import CLOSING, ModelLoader, ModelPool
from ram_backend.server.prometheus import ServerMetrics
from ram_backend.server.resolved_config import VersionRef
from ram_backend.server.snapshots import LoadedVersion, SnapshotCache
from ram_backend.tagging.tagger import Tagger
from ram_backend.training.drift import FILE, Novelty
from ram_backend.versions.directory import open_version, version_path
from ram_backend.versions.records import ACCEPTED, BASE, ServedVersion
from ram_backend.versions.table import VersionTable

POLL_S = 0.5
"""Pause between two looks at the database."""

RETRY_S = (1.0, 60.0)
"""First and longest pause after an activation that failed."""

LARGEST = 1e6
"""Largest valid value of a delta; beyond it some score is NaN."""

BUNDLE_CHANGED = "the bundle has changed"
_log = logging.getLogger(__name__)


@dataclass
class _State:
    """Desired and actual version of a project; a new state for each desired version.

    Attributes:
        unloaded: only the version's name is known, since the start; the first
            request loads it.
        actual: the version that answers; None: the bundle's base.
        at_start: found when the server started; of another bundle, it is
            learned anew.
        reason: why the version can't be served, in one line; None: it can, or
            that is not known yet.
        noticed, next_try: on the monotonic clock.
    """

    desired: ServedVersion
    unloaded: bool = False
    actual: LoadedVersion | None = None
    at_start: bool = False
    activating: Future[None] | None = None
    reason: str | None = None
    noticed: float = field(default_factory=time.monotonic)
    pauses: Iterator[float] = field(default_factory=lambda: backoff(*RETRY_S))
    next_try: float = 0.0

    @property
    def serving(self) -> str:
        """Name of the version that answers, or "base"."""
        return BASE if self.actual is None else self.actual.ref.name

    def is_due(self, bundle: Bundle) -> bool:
        """Whether the loop activates it now; an unloaded one waits for a request."""
        if self.unloaded:
            return self.desired.bundle is None and self.desired.bundle_digest != bundle.digest
        actual = (None, None) if self.actual is None else (self.actual.ref.name, self.actual.ref.digest)
        return actual != (self.desired.version, self.desired.digest) and self.next_try <= time.monotonic()


@dataclass(eq=False)
class VersionController(PeriodicThread):
    """Keeps each project's actual version equal to the desired one in the database.

    At the start a project's `model_version` already names the database's
    version, which the first request loads. Later the old version answers until
    the new one is ready. A job learns versions of another bundle anew.
    """

    versions_dir: Path
    table: VersionTable
    projects: ProjectCache
    models: ModelPool
    batcher: Batcher
    snapshots: SnapshotCache
    metrics: ServerMetrics
    jobs: JobService

    def __post_init__(self) -> None:
        super().__init__("versions", POLL_S)
        self._lock = threading.Lock()  # of the fields below; nothing waits under it
        self._states: dict[ProjectKey, _State] = {}
        self._change = -1
        self._is_away = False
        self._activators = ThreadPoolExecutor(2, thread_name_prefix="swap")

    def start(self, *, look: bool = True) -> None:
        """Looks at the database, unless `look` is False, and from now on regularly."""
        self.metrics.quarantined.set_function(lambda: len(self.failures))
        self.metrics.versions_served.set_function(
            lambda: sum(each.unloaded or each.actual is not None for each in list(self._states.values()))
        )
        if look:
            self.tick()
        super().start()

    def close(self) -> None:
        """Stops looking; swaps that have begun are given up."""
        super().close()
        self._activators.shutdown(wait=False, cancel_futures=True)

    def ref(self, key: ProjectKey) -> VersionRef | None:
        """Names what a project is served, None: the base; NotAvailable: no bundle."""
        state = self._states.get(key)
        if state is not None and state.unloaded:
            with suppress(VersionDamaged):
                return _ref(state.desired, self.models.own.known().bundle)
        return None if state is None or state.actual is None else state.actual.ref

    def actual(self, key: ProjectKey) -> LoadedVersion | Future[None] | None:
        """What a project is served; None: the base; a future: ask again after it."""
        state = self._states.get(key)
        if state is None:
            return None
        return self._activate_soon(state) if state.unloaded else state.actual

    @property
    def failures(self) -> list[dict[str, str]]:
        """Projects whose version can't be served, what is instead, and why."""
        return [
            {"project": str(key), "version": state.desired.name, "serving": state.serving, "reason": state.reason}
            for key, state in sorted(self._states.items())
            if state.reason is not None
        ]

    def tick(self) -> bool:
        """Reads the desired versions, and activates those that are not served."""
        try:
            self._read()
            own = self.models.own
            if own.state != "failed" and own.identity.done():
                for state in list(self._states.values()):
                    if state.is_due(own.known().bundle):
                        self._activate_soon(state)
        except Exception:  # the thread continues whatever happens
            _log.exception("Syncing served versions failed unexpectedly")
        return True

    def _read(self) -> None:
        try:
            changes = self.table.changes(self._change)
        except DatabaseUnavailable as error:
            if not self._is_away:
                _log.warning("%s Meanwhile every project is served what it was.", error)
            self._is_away = True
            return
        self._is_away = False
        desired = {each.key: each for each in changes.served}
        first = self._change < 0
        with self._lock:
            if changes.keys is not None:  # forgotten, or another database: the base
                desired = {key: ServedVersion(key) for key in self._states.keys() - changes.keys} | desired
            self._change = changes.change
            for key, served in desired.items():
                state = self._states.get(key)
                if state is None:
                    unloaded = first and served.version is not None and served.quarantined is None
                    self._states[key] = _State(served, unloaded, at_start=first)
                elif (state.desired.version, state.desired.digest) != (served.version, served.digest):
                    self._states[key] = _State(served, state.unloaded, state.actual)

    def _activate_soon(self, state: _State) -> Future[None]:
        with self._lock:
            if state.activating is None or state.activating.done():
                try:
                    state.activating = self._activators.submit(self._activate, state)
                except RuntimeError:
                    raise NotAvailable(CLOSING) from None
            return state.activating

    def _activate(self, state: _State) -> None:
        """Activates a desired version: read, check, build snapshots, then assign."""
        key, ref = state.desired.key, None
        try:
            if self._states[key] is not state:
                return  # overtaken
            ref = _ref(state.desired, self.models.own.identity.result().bundle)
            version = None if ref is None else _load_version(ref, self.versions_dir, self.models)
            project = self.projects.get(key)
            snapshot = None if project is None else self.snapshots.prepare(project, version)
            if version is not None and snapshot is not None:
                _check_scores(snapshot.taggers.values(), snapshot.model, self.batcher)
            self._assign(state, version)
        except VersionDamaged as error:
            self.metrics.swaps.labels("quarantined").inc()
            if state.reason != str(error):
                name = state.desired.name
                _log.error("project %s is served %s instead of %s: %s", key, state.serving, name, error)
            state.unloaded, state.reason = False, str(error)
            if ref is not None:
                self.snapshots.evict(ref)
                self._record_quarantine(ref, str(error))
            elif state.at_start and state.desired.bundle_digest is not None:
                with suppress(RamError):  # until the next try
                    self.jobs.request_training_message(key, BUNDLE_CHANGED)
                    state.at_start = False  # a later one may be another server's
        except Exception as error:
            _log.warning("project %s: %s", key, error, exc_info=not isinstance(error, NotAvailable))
        finally:
            state.next_try = time.monotonic() + next(state.pauses)

    def _assign(self, state: _State, version: LoadedVersion | None) -> None:
        """The swap: later requests get the new version."""
        key, old = state.desired.key, state.actual
        before, unloaded = state.serving, state.unloaded
        with self._lock:
            if self._stop.is_set() or self._states[key] is not state:
                return  # overtaken while it was prepared
            state.actual, state.unloaded = version, False
        if version is not None and (state.reason is not None or state.desired.quarantined is not None):
            state.reason = None
            self._record_quarantine(version.ref, None)
        if not unloaded:
            seconds = time.monotonic() - state.noticed
            self.metrics.swaps.labels("swapped").inc()
            self.metrics.swap_seconds.observe(seconds)
            _log.info("project %s: swapped from %s to %s in %.2f s", key, before, state.serving, seconds)
        if old is not None:
            self.snapshots.evict(old.ref)

    def _record_quarantine(self, ref: VersionRef, reason: str | None) -> None:
        """Records in the database why a version can't be served; None: it can."""
        with suppress(DatabaseUnavailable):
            self.table.quarantine(ref.key, ref.name, reason)


def _ref(served: ServedVersion, bundle: Bundle) -> VersionRef | None:
    """Identity of the version that the database names; None: the base."""
    if served.version is None:
        return None
    named = f"Version {served.version} of project {served.key}"
    if served.digest is None or served.bundle_digest is None:
        raise VersionDamaged(f"{named} is not recorded: it isn't served. Roll back, or train again.")
    if served.bundle is None and served.bundle_digest != bundle.digest:
        raise VersionDamaged(
            f"{named} belongs to another bundle (digest {served.bundle_digest[:12]}) than the one in use"
            f" ({bundle.name!r}, {bundle.digest[:12]}): it isn't served. Train again, or serve that bundle."
        )
    return VersionRef(served.key, served.version, served.digest, served.bundle, served.learned)


def _load_version(ref: VersionRef, versions_dir: Path, models: ModelPool) -> LoadedVersion:
    """Reads a version, checks checksums and numbers. Waits for the model."""
    path = version_path(versions_dir, ref.key, ref.name)
    try:
        model = models.get(ref.bundle)
    except (BundleNotFound, BundleDamaged) as error:
        raise VersionDamaged(f"Version {ref} needs another bundle. {error}") from None
    version = open_version(path, model.known().bundle, key=ref.key, digest=ref.digest)
    if version.outcome != ACCEPTED:
        raise VersionDamaged(f"Version {ref} was not accepted by the gate: it is never served.")
    for name, array in version.delta.to_tensors().items():
        if array.size and float(np.abs(array).max()) > LARGEST:
            raise _impossible(f"a number in {name} is larger than {LARGEST:g}")
    network = tuned_network(model.network.result(), version.files)
    novelty = Novelty(version.files) if FILE in version.files else None
    return LoadedVersion(ref, version.delta, network, model, novelty)


def _check_scores(taggers: Iterable[Tagger], model: ModelLoader, batcher: Batcher) -> None:
    """Canary check: scores the model's test image with a version's taggers."""
    for tagger in taggers:
        scores = batcher.submit_scoring(lambda tagger=tagger: tagger.score(model.test_tokens)).result().scores  # type: ignore[misc]
        if not ((scores >= 0) & (scores <= 1)).all():  # false for NaN
            raise _impossible("an image's score is not a number between 0 and 1")


def _impossible(what: str) -> VersionDamaged:
    return VersionDamaged(f"A version computes what can't be ({what}): it isn't served. Roll back, or train again.")
