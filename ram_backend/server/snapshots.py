"""LRU cache of project snapshots: what the server holds for a label config and its settings."""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Generic, TypeVar, cast
from weakref import WeakValueDictionary

from ram_backend.errors import InputError, NotAvailable, VersionDamaged
from ram_backend.labelstudio.label_config import parse_label_config
from ram_backend.models.network import Network
from ram_backend.projects.keys import ProjectKey
from ram_backend.projects.options import ProjectOptions
from ram_backend.projects.project import Project
from ram_backend.server.loaded_version import LoadedVersion, VersionLoader, VersionRef
from ram_backend.server.metrics import ServerMetrics
from ram_backend.server.model import Model, ModelIdentity, SharedTextEncoder
from ram_backend.server.resolved_config import ResolvedConfig, resolve_config
from ram_backend.tagging.subset import resolve_subset
from ram_backend.tagging.tagger import Tagger
from ram_backend.tagging.token_cache import TOKEN_DTYPE
from ram_backend.vocabulary.embeddings import TextEncoder

K = TypeVar("K")
V = TypeVar("V")
TaggerPair = tuple[Tagger, Tagger]
"""A tagger, and the one without a version that it shares what is precomputed with."""

RETRY_S = 10.0
"""A build that failed for want of something is tried again after so many seconds."""

RESOLVED_CONFIGS = 128
RECENT_CONFIGS = 4
"""Label configs of a project whose snapshots are built before a version is swapped in."""

DYNAMIC_TAGGERS = 16
"""Per snapshot: taggers for choices that come with tasks."""

_Key = tuple[str, ProjectOptions, ProjectOptions, VersionRef | None]
_log = logging.getLogger(__name__)


class FutureLRU(Generic[K, V]):
    """LRU cache of what threads compute. What failed is tried again: at once, or for want of something later.

    Evicted entries are cancelled unless they are being built already or are awaited.

    Args:
        limit: entries kept.
        workers: threads that compute.
    """

    def __init__(self, limit: int, workers: Executor) -> None:
        self._limit = limit
        self._workers = workers
        self._entries: OrderedDict[K, _Entry[V]] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._entries)

    @contextmanager
    def awaited(self, key: K, work: Callable[[], V]) -> Iterator[Future[V]]:
        """The entry's future, which is not cancelled within; computed by `work` where it is not there."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is None or _is_worth_another_try(entry):
                entry = self._entries[key] = _Entry(self._workers.submit(work))
            entry.waiting += 1
            self._entries.move_to_end(key)
            while len(self._entries) > self._limit:
                _, oldest = self._entries.popitem(last=False)
                oldest.evicted = True
                oldest.cancel_unless_awaited()
        try:
            yield entry.future
        finally:
            with self._lock:
                entry.waiting -= 1
                entry.cancel_unless_awaited()

    def drop(self, chosen: Callable[[K], bool]) -> None:
        """Forgets entries."""
        with self._lock:
            for key in [key for key in self._entries if chosen(key)]:
                del self._entries[key]

    def failure(self, key: K) -> BaseException | None:
        """Why the last attempt failed; None: it didn't, or isn't over."""
        entry = self._entries.get(key)
        return None if entry is None or not entry.is_done() else entry.future.exception()


@dataclass(eq=False)
class _Entry(Generic[V]):
    future: Future[V]
    asked_at: float = field(default_factory=time.monotonic)
    waiting: int = 0
    evicted: bool = False

    def is_done(self) -> bool:
        return self.future.done() and not self.future.cancelled()

    def cancel_unless_awaited(self) -> None:
        if self.evicted and not self.waiting:
            self.future.cancel()


@dataclass(frozen=True)
class Snapshot:
    """Immutable: a resolved config, and the taggers that carry it out.

    Attributes:
        config: says what to do, and names it (`model_version`).
        version: what the project has learned; None: the bundle's base.
        taggers: by control; those with dynamic choices are missing, and those without choices.
        plain: the same tags without the version: what is precomputed for them stays as long as a snapshot needs it, so
            that the next version's snapshot needn't do it again.
        dynamic: taggers for choices that come with tasks; they end with the snapshot.
    """

    config: ResolvedConfig
    version: LoadedVersion | None
    taggers: Mapping[str, Tagger]
    plain: tuple[Tagger, ...]
    dynamic: FutureLRU[tuple[str, ...], TaggerPair]


class SnapshotCache:
    """Resolves label configs and builds snapshots; the latest ones are kept.

    Projects whose predictions are the same in everything share a snapshot; no other ones do.

    Args:
        model: what they are built on.
        text_encoder: embeds tags that the vocabulary doesn't know.
        loader: checks taggers of versions.
        builders: threads that build.
        limit: how many are kept.
        metrics: told how many there are.
    """

    def __init__(
        self,
        model: Model,
        text_encoder: SharedTextEncoder,
        loader: VersionLoader,
        builders: Executor,
        limit: int,
        metrics: ServerMetrics,
    ) -> None:
        self._model = model
        self._text_encoder = text_encoder
        self._loader = loader
        self._builders = builders
        self._metrics = metrics
        self._configs: OrderedDict[_Key, tuple[ResolvedConfig, set[ProjectKey]]] = OrderedDict()
        self._lock = threading.Lock()
        self._snapshots: FutureLRU[tuple[str, VersionRef | None], Snapshot] = FutureLRU(limit, builders)
        self._plain: WeakValueDictionary[tuple[tuple[str, ...], int], Tagger] = WeakValueDictionary()

    def find(self, project: Project, label_config: str, version: VersionRef | None) -> ResolvedConfig | None:
        """What a label config means for a project, where it was resolved before."""
        key = _key(project, label_config, version)
        with self._lock:
            known = self._configs.get(key)
            if known is None:
                return None
            known[1].add(project.key)
            self._configs.move_to_end(key)
            return known[0]

    def resolve(
        self, identity: ModelIdentity, project: Project, label_config: str, version: VersionRef | None
    ) -> ResolvedConfig:
        """What a label config means for a project; parses it where that was not done before.

        Raises:
            InputError: the label config can't be used.
        """
        found = self.find(project, label_config, version)
        if found is not None:
            return found
        config = resolve_config(identity, parse_label_config(label_config), project, version)
        for note in config.notes:
            _log.info("project %s: %s", project.key, note)
        self._remember(_key(project, label_config, version), config, project.key)
        return config

    def prepare(self, identity: ModelIdentity, project: Project, version: LoadedVersion | None) -> None:
        """Builds the snapshots of the label configs that a project used lately, under a version, and waits for them.

        Raises:
            VersionDamaged: the version can't be served.
        """
        ref = None if version is None else version.ref
        with self._lock:
            used = [(key[0], config.plan) for key, (config, keys) in self._configs.items() if project.key in keys]
        plans = dict(used[-RECENT_CONFIGS:])
        try:
            if project.label_config and not plans:
                self._build_and_wait(project, self.resolve(identity, project, project.label_config, ref), version)
            for digest, plan in plans.items():
                config = resolve_config(identity, plan, project, ref)
                self._remember((digest, project.extra_params, project.set_options, ref), config, project.key)
                self._build_and_wait(project, config, version)
        except InputError as error:  # its own request says so
            _log.info("project %s: %s", project.key, error)

    @contextmanager
    def awaited(self, config: ResolvedConfig, version: LoadedVersion | None) -> Iterator[Future[Snapshot]]:
        """The snapshot of a resolved config, being built where it is not there; within, it is built for sure.

        Args:
            config: what to do.
            version: the loaded one that `config.version` names.
        """
        key, build = (config.model_version, config.version), partial(self._build, config, version)
        with self._snapshots.awaited(key, build) as future:
            self._metrics.snapshots.set(len(self._snapshots))
            yield future

    def tagger(self, snapshot: Snapshot, texts: tuple[str, ...]) -> AbstractContextManager[Future[TaggerPair]]:
        """Taggers for the dynamic choices of a task, under the snapshot's version; see `awaited`."""
        return snapshot.dynamic.awaited(texts, partial(self._pair, texts, snapshot.version))

    def failure(self, config: ResolvedConfig) -> BaseException | None:
        """Why the last build of a snapshot failed; None: it didn't."""
        return self._snapshots.failure((config.model_version, config.version))

    def forget(self, version: VersionRef) -> None:
        """Drops everything of a version; whoever works with it keeps it until he is done."""
        self._snapshots.drop(lambda key: key[1] == version)
        with self._lock:
            for key in [key for key in self._configs if key[3] == version]:
                del self._configs[key]
        self._metrics.snapshots.set(len(self._snapshots))

    def _remember(self, key: _Key, config: ResolvedConfig, project: ProjectKey) -> None:
        with self._lock:
            _, users = self._configs.setdefault(key, (config, set()))
            users.add(project)
            self._configs.move_to_end(key)
            while len(self._configs) > RESOLVED_CONFIGS:
                self._configs.popitem(last=False)

    def _build_and_wait(self, project: Project, config: ResolvedConfig, version: LoadedVersion | None) -> None:
        """Builds a snapshot; where that fails for another reason than the version, that one isn't blamed."""
        with self.awaited(config, version) as building:
            error = building.exception()
        if isinstance(error, VersionDamaged):
            raise error
        if error is not None:
            _log.info("project %s: a snapshot is not built beforehand: %s", project.key, error)

    def _build(self, config: ResolvedConfig, version: LoadedVersion | None) -> Snapshot:
        started = time.monotonic()
        pairs: dict[tuple[str, ...], TaggerPair] = {}
        for asked in config.asked.values():
            if asked.texts and asked.texts not in pairs:
                pairs[asked.texts] = self._pair(asked.texts, version)
        new = sum(len(plain.subset.new_tags) for _, plain in pairs.values())
        texts = sum(len(plain.tags) for _, plain in pairs.values())
        seconds = time.monotonic() - started
        _log.info("snapshot %s ready: %d tags, %d of them new, %.1f s", config.model_version, texts, new, seconds)
        taggers = {name: pairs[asked.texts][0] for name, asked in config.asked.items() if asked.texts}
        plain = tuple(plain for _, plain in pairs.values())
        return Snapshot(config, version, taggers, plain, FutureLRU(DYNAMIC_TAGGERS, self._builders))

    def _pair(self, texts: tuple[str, ...], version: LoadedVersion | None) -> TaggerPair:
        if version is None:
            plain = self._without_version(texts, self._model.network.result())
            return plain, plain
        plain = self._without_version(texts, version.network)
        tagger = plain.with_version(version.delta, version.ref.digest)
        self._loader.check(tagger)
        return tagger, plain

    def _without_version(self, texts: Sequence[str], network: Network) -> Tagger:
        key = (tuple(texts), id(network))  # a tagger keeps its network, so the number is not given to another one
        plain = self._plain.get(key)
        if plain is None:
            bundle = self._model.identity.result().bundle
            encoder = cast(TextEncoder, self._text_encoder) if bundle.text_encoder is not None else None
            subset = resolve_subset(bundle, texts, encoder)
            plain = self._plain[key] = Tagger(bundle, network, subset, token_dtype=TOKEN_DTYPE)
        return plain


def _key(project: Project, label_config: str, version: VersionRef | None) -> _Key:
    """Not the label config itself, which may have megabytes, but its digest."""
    digest = hashlib.sha256(label_config.encode("utf-8", "surrogatepass")).hexdigest()
    return (digest, project.extra_params, project.set_options, version)


def _is_worth_another_try(entry: _Entry[V]) -> bool:
    if not entry.future.done():
        return False
    error = entry.future.exception() if entry.is_done() else None
    if error is None or isinstance(error, InputError):
        return not entry.is_done()
    return not isinstance(error, NotAvailable) or time.monotonic() - entry.asked_at > RETRY_S
