"""What each project is served: loaded beside what is live, checked, and swapped in one assignment."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

from ram_backend.errors import NotAvailable, RamError, VersionDamaged
from ram_backend.projects.keys import ProjectKey
from ram_backend.server.following import Follower, Wanted
from ram_backend.server.live import Check, LiveVersion
from ram_backend.server.metrics import ServerMetrics
from ram_backend.server.model import Model, ModelIdentity
from ram_backend.server.training_desk import TrainingDesk
from ram_backend.server.troubles import Trouble, Troubles
from ram_backend.settings import Settings
from ram_backend.versions.directory import BASE
from ram_backend.versions.records import Served
from ram_backend.versions.table import VersionTable

PAUSE_S = 60.0
"""A swap that failed for another reason than the version is tried again after so many seconds."""

BUNDLE_CHANGED = "the bundle has changed"
_log = logging.getLogger(__name__)


class Warmth(Protocol):
    """What is asked of whoever builds and keeps snapshots."""

    def warm(self, key: ProjectKey, version: LiveVersion | None) -> Iterable[Future[Any]]:
        """Begins to build what the project will be asked for under a version; the futures say when that is done."""
        ...

    def forget(self, version: LiveVersion) -> None:
        """Lets go of what was built of a version."""
        ...

    def swapped(self, key: ProjectKey) -> None:
        """Something else is served from now on."""
        ...


class ServedVersions:
    """Per project the version that is live, in memory, in step with what the database says.

    Args:
        settings: where versions are, and where notices come from.
        table: of the database, which need not be reachable.
        model: bundle and network.
        metrics: told of swaps and of what is quarantined.
        check: see `LiveVersion`.
        warmth: builds and keeps snapshots.
        desk: asked to learn anew where a version belongs to another bundle; None: nobody is.
    """

    def __init__(
        self,
        settings: Settings,
        table: VersionTable,
        *,
        model: Model,
        metrics: ServerMetrics,
        check: Check,
        warmth: Warmth,
        desk: TrainingDesk | None = None,
    ) -> None:
        self._settings = settings
        self._model = model
        self._metrics = metrics
        self._check = check
        self._warmth = warmth
        self._desk = desk
        self._live: dict[ProjectKey, LiveVersion] = {}  # never changed, only replaced
        self._lock = threading.Lock()  # around replacing it, and the fields below; nothing is waited for under it
        self._busy: set[ProjectKey] = set()
        self._pauses: dict[ProjectKey, tuple[Wanted, float]] = {}
        self._troubles = Troubles()
        self._to_learn: list[ProjectKey] = []
        self._begun = False
        self._began_blind = False  # the database was away: what should have been live at the start is seen later
        self._asked_late: set[ProjectKey] = set()
        self._swappers = ThreadPoolExecutor(2, thread_name_prefix="swap")
        self._follower = Follower(table, settings.redis_url, self._take_in)

    def start(self, *, look: bool = True) -> None:
        """Looks at the database, unless `look` is False, and follows it from now on."""
        self._follower.start(look=look)

    def close(self) -> None:
        """Stops following; swaps that have begun are given up."""
        self._follower.close()
        self._swappers.shutdown(wait=False, cancel_futures=True)

    def live(self, key: ProjectKey, identity: ModelIdentity) -> LiveVersion | None:
        """The version that a project is served now; None: the bundle's base. Waits for nothing."""
        if not self._begun:
            self._begin(identity)
        return self._live.get(key)

    @property
    def troubles(self) -> list[Trouble]:
        """The projects that aren't served what the database names."""
        return self._troubles.all()

    def _take_in(self) -> None:
        """After each look at the database."""
        identity = self._model.identity
        if identity.done() and identity.exception() is None:
            self._begin(identity.result())
            self._begin_swaps()
            self._ask_to_learn()

    # --- what is live -------------------------------------------------------------------------------------------------

    def _begin(self, identity: ModelIdentity) -> None:
        """Takes as live what the database named at the start; its files are read when they are first needed."""
        with self._lock:
            if self._begun:
                return
            live: dict[ProjectKey, LiveVersion] = {}
            self._began_blind = not self._follower.has_looked
            for key, wanted in self._follower.wanted().items():
                served = wanted.served
                try:
                    version = self._version(served, identity)
                except VersionDamaged as error:
                    self._troubles.note(served, str(error), serving=BASE)
                    if served.bundle_digest not in (None, identity.bundle.digest):
                        self._to_learn.append(key)
                    continue
                if version is not None and served.quarantined is not None:
                    self._troubles.note(served, served.quarantined, serving=BASE, again_in=0.0)
                elif version is not None:
                    live[key] = version
            self._live = live
            self._begun = True
            self._count()

    def _version(self, served: Served, identity: ModelIdentity) -> LiveVersion | None:
        """The version that the database names, not read yet; None: the base."""
        if served.version is None:
            return None
        bundle, named = identity.bundle, f"Version {served.version} of project {served.key}"
        if served.digest is None or served.bundle_digest is None:
            raise VersionDamaged(f"{named} is not recorded: it isn't served. Roll back, or train again.")
        if served.bundle_digest != bundle.digest:
            raise VersionDamaged(
                f"{named} belongs to another bundle (digest {served.bundle_digest[:12]}) than the one in use"
                f" ({bundle.name!r}, {bundle.digest[:12]}): it isn't served. Train again, or serve that bundle."
            )
        return LiveVersion(
            self._settings.versions_dir,
            served.key,
            served.version,
            served.digest,
            bundle=bundle,
            check=self._check,
            on_damage=self._on_damage,
        )

    def _replace(self, key: ProjectKey, version: LiveVersion | None) -> None:
        """The swap: whoever asks from now on gets the new version, and nothing but that. The lock is held."""
        others = {each: there for each, there in self._live.items() if each != key}
        self._live = others if version is None else {**others, key: version}

    def _on_damage(self, version: LiveVersion, error: VersionDamaged) -> None:
        """A version turned out to be unusable. Where it is what is live, the base is from now on."""
        with self._lock:
            if self._live.get(version.key) is version:
                self._replace(version.key, None)
            self._troubles.note(Served(version.key, version.name), str(error), serving=self._name_of(version.key))
            self._count()
        version.retired = True
        self._follower.mark(version.key, version.name, str(error))
        self._metrics.not_swapped()
        self._follower.hurry()

    def _name_of(self, key: ProjectKey) -> str:
        live = self._live.get(key)
        return BASE if live is None else live.name

    def _count(self) -> None:
        self._metrics.versions_served.set(len(self._live))
        self._metrics.quarantined.set(len(self._troubles))

    def _ask_to_learn(self) -> None:
        with self._lock:
            keys, self._to_learn = self._to_learn, []
        for key in keys if self._desk is not None else ():
            try:
                assert self._desk is not None
                self._desk.request(key, BUNDLE_CHANGED)
            except RamError as error:
                _log.warning("project %s can't be learned anew yet: %s", key, error)
                with self._lock:
                    self._to_learn.append(key)

    # --- swapping -----------------------------------------------------------------------------------------------------

    def _begin_swaps(self) -> None:
        everything = self._follower.wanted()
        with self._lock:
            due = [key for key, wanted in everything.items() if key not in self._busy and self._is_due(key, wanted)]
            self._busy.update(due)
        for key in due:
            try:
                self._swappers.submit(self._swap, key)
            except RuntimeError:
                return  # the server is going down

    def _is_due(self, key: ProjectKey, wanted: Wanted) -> bool:
        served, live = wanted.served, self._live.get(key)
        if (served.version, served.digest) == ((None, None) if live is None else (live.name, live.digest)):
            if self._troubles.settle(key):  # rolled back to what is live anyway
                self._count()
            return False
        paused, until = self._pauses.get(key, (None, 0.0))
        if paused is wanted and until > time.monotonic():
            return False
        return not self._troubles.forbids(served)

    def _swap(self, key: ProjectKey) -> None:
        """Brings a project to what the database names: prepared beside what is live, then taken in one assignment."""
        wanted = self._follower.of(key)
        version: LiveVersion | None = None
        try:
            network = self._model.network.result()
            version = self._version(wanted.served, self._model.identity.result())
            if version is not None:
                version.learned(network)
            for each in self._warmth.warm(key, version):
                _wait(each)
            self._take(key, wanted, version)
        except VersionDamaged as error:
            self._keep_old(wanted.served, version, error)
        except Exception as error:
            expected = isinstance(error, NotAvailable)
            _log.warning("project %s keeps what it is served: %s", key, error, exc_info=not expected)
            self._pauses[key] = (wanted, time.monotonic() + PAUSE_S)
        finally:
            with self._lock:
                self._busy.discard(key)
            if self._follower.of(key) is not wanted:
                self._follower.hurry()  # something else is wanted by now

    def _take(self, key: ProjectKey, wanted: Wanted, version: LiveVersion | None) -> None:
        served = wanted.served
        with self._lock:
            if self._follower.of(key) is not wanted or self._follower.stopped:
                return  # overtaken while it was prepared
            before, old = self._name_of(key), self._live.get(key)
            self._replace(key, version)
            was_trouble = self._troubles.settle(key)
            self._count()
        seconds = time.monotonic() - wanted.noticed
        self._metrics.swapped(seconds)
        _log.info("project %s: swapped from %s to %s in %.2f s", key, before, served.name, seconds)
        if version is not None and (was_trouble or served.quarantined is not None):
            self._follower.mark(key, version.name, None)
        if old is not None:
            old.retired = True
            self._warmth.forget(old)
        self._warmth.swapped(key)

    def _keep_old(self, served: Served, version: LiveVersion | None, error: VersionDamaged) -> None:
        """The version can't be served; one that was read has said so itself (`_on_damage`)."""
        if version is not None:
            self._warmth.forget(version)
            return
        with self._lock:
            self._troubles.note(served, str(error), serving=self._name_of(served.key))
            other_bundle = served.bundle_digest not in (None, self._model.identity.result().bundle.digest)
            if other_bundle and self._began_blind and served.key not in self._asked_late:
                self._asked_late.add(served.key)
                self._to_learn.append(served.key)
            self._count()
        self._metrics.not_swapped()


def _wait(snapshot: Future[Any]) -> None:
    """Waits for a snapshot; where it can't be built for another reason than the version, that one isn't blamed."""
    try:
        snapshot.result()
    except VersionDamaged:
        raise
    except RamError as error:
        _log.info("a snapshot is not built beforehand: %s", error)
