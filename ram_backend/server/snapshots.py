"""LRU cache of project snapshots."""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar, cast
from weakref import WeakValueDictionary

from ram_backend.errors import InputError, QuotaExceeded, VersionDamaged
from ram_backend.labelstudio.label_config import parse_label_config
from ram_backend.models.delta import Delta
from ram_backend.models.network import Network
from ram_backend.projects.keys import ProjectKey
from ram_backend.projects.options import ProjectOptions
from ram_backend.projects.project import Project
from ram_backend.server.model import ModelLoader, ModelPool
from ram_backend.server.resolved_config import ResolvedConfig, VersionRef, precision_notes, resolve_config
from ram_backend.tagging.subset import resolve_subset
from ram_backend.tagging.tagger import TOKEN_DTYPE, Tagger
from ram_backend.training.drift import Novelty
from ram_backend.vocabulary.embeddings import TextEncoder

K = TypeVar("K")
V = TypeVar("V")
T = TypeVar("T")

RETRY_S = 10.0
"""A failed computation is tried again after this many seconds."""

RESOLVED_CONFIGS = 128

DYNAMIC_TAGGERS = 16
"""Per snapshot: taggers for choices that come with tasks."""

_log = logging.getLogger(__name__)


class FutureLRU(Generic[K, V]):
    """LRU cache of what threads compute. Failures are tried again after `RETRY_S`.

    Args:
        limit: most entries.
        workers: threads that compute.
    """

    def __init__(self, limit: int, workers: Executor) -> None:
        self._limit = limit
        self._workers = workers
        self._entries: OrderedDict[K, tuple[Future[V], float]] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: K, compute: Callable[[], V], workers: Executor | None = None) -> Future[V]:
        """The value of a key, else made by `compute`. Waits for nothing."""
        with self._lock:
            future, since = self._entries.get(key, (None, 0.0))
            if future is None or (future.done() and future.exception() and time.monotonic() - since > RETRY_S):
                future = (workers or self._workers).submit(compute)
                self._entries[key] = future, time.monotonic()
            self._entries.move_to_end(key)
            if len(self._entries) > self._limit:
                self._entries.popitem(last=False)
            return future

    def drop(self, chosen: Callable[[K], bool]) -> None:
        """Removes entries; who has their futures keeps them."""
        with self._lock:
            for key in [key for key in self._entries if chosen(key)]:
                del self._entries[key]


@dataclass(frozen=True, eq=False)
class LoadedVersion:
    """A checked version in memory; its network may have a head of its own."""

    ref: VersionRef
    delta: Delta
    network: Network
    model: ModelLoader
    novelty: Novelty | None


@dataclass(frozen=True)
class Snapshot:
    """Immutable: a resolved config, and the taggers that carry it out.

    Attributes:
        version: what the project has learned; None: the bundle's base.
        taggers: by control; those with dynamic choices are missing, and those
            without choices.
        dynamic: taggers for choices that come with tasks; they end with the
            snapshot.
    """

    config: ResolvedConfig
    model: ModelLoader
    version: LoadedVersion | None
    taggers: Mapping[str, Tagger]
    dynamic: FutureLRU[tuple[str, ...], Tagger]


_ConfigKey = tuple[ProjectKey, bytes, ProjectOptions, ProjectOptions, VersionRef | None]
"""Project, digest of the label config, extra params, set options, version."""


@dataclass(eq=False)
class SnapshotCache:
    """Resolves label configs and builds snapshots, each at most once at a time.

    Projects whose predictions are the same in everything share a snapshot; no
    other ones do.

    Attributes:
        resolvers: threads that resolve label configs.
        builders: threads that build snapshots whose tags are known.
        embedders: threads that build those with new tags.
        max_new_tags: most of one label config, or of one task's choices.
    """

    models: ModelPool
    resolvers: Executor
    builders: Executor
    embedders: Executor
    limit: int
    max_new_tags: int

    def __post_init__(self) -> None:
        self._configs: FutureLRU[_ConfigKey, ResolvedConfig] = FutureLRU(RESOLVED_CONFIGS, self.resolvers)
        self._snapshots: FutureLRU[tuple[str, VersionRef | None], Snapshot] = FutureLRU(self.limit, self.builders)
        self._base_taggers: WeakValueDictionary[tuple[tuple[str, ...], int], Tagger] = WeakValueDictionary()

    def __len__(self) -> int:
        return len(self._snapshots)

    def resolve(
        self, project: Project, label_config: str, version: LoadedVersion | VersionRef | None
    ) -> Future[ResolvedConfig]:
        """What a label config means for a project. Waits for nothing.

        Args:
            project: with its options.
            label_config: XML, the project's or another one.
            version: that is served; None: the base.

        Returns:
            Ends with an InputError where the label config can't be used, with a
            QuotaExceeded where it has too many new tags.
        """
        ref = version.ref if isinstance(version, LoadedVersion) else version
        digest = hashlib.sha256(label_config.encode("utf-8", "surrogatepass")).digest()
        key = (project.key, digest, project.extra_params, project.admin_options, ref)

        def work() -> ResolvedConfig:
            try:
                model = self.models.get(ref and ref.bundle)
                config = resolve_config(model.known(), parse_label_config(label_config), project, ref)
                self._check_new_tags(config.new_tags)
            except InputError:
                self._configs.drop(lambda each: each == key)  # a traceback keeps the label config
                raise
            _log.info("project %s is served as %s", project.key, config.model_version)
            for note in (*config.schema.notes, *precision_notes(config.options, ref)):
                _log.info("project %s: %s", project.key, note)
            return config

        return self._configs.get(key, work)

    def get(self, config: ResolvedConfig, version: LoadedVersion | None) -> Future[Snapshot]:
        """The snapshot of a resolved config and its version. Waits for nothing."""
        build = partial(self._build, config, version)
        workers = self.embedders if config.new_tags else None
        return self._snapshots.get((config.model_version, config.version), build, workers)

    def tagger(self, snapshot: Snapshot, texts: tuple[str, ...]) -> Future[Tagger]:
        """The snapshot's tagger for the dynamic choices of a task. Waits for nothing."""
        build = partial(self._tagger, texts, snapshot.version)
        return snapshot.dynamic.get(texts, build)

    def prepare(self, project: Project, version: LoadedVersion | None) -> Snapshot | None:
        """Builds the snapshot of a project's label config under a version.

        Returns:
            None where it failed for another reason than the version: requests
            will say so.

        Raises:
            VersionDamaged: the version can't be served.
        """
        try:
            config = self.resolve(project, project.label_config, version).result()
            return self.get(config, version).result()
        except VersionDamaged:
            raise
        except Exception as error:
            _log.info("project %s: a snapshot is not built beforehand: %s", project.key, error)
            return None

    def evict(self, version: VersionRef) -> None:
        """Evicts the snapshots of a version; running requests keep them."""
        self._snapshots.drop(lambda key: key[1] == version)

    def _build(self, config: ResolvedConfig, version: LoadedVersion | None) -> Snapshot:
        started = time.monotonic()
        texts = {name: control.texts for name, control in config.controls.items() if control.texts}
        by_texts = {each: self._tagger(each, version) for each in dict.fromkeys(texts.values())}
        taggers = {name: by_texts[each] for name, each in texts.items()}
        new = sum(len(tagger.subset.new_tags) for tagger in by_texts.values())
        seconds = time.monotonic() - started
        tags = sum(map(len, by_texts))
        _log.info("snapshot %s ready: %d tags, %d of them new, %.1f s", config.model_version, tags, new, seconds)
        return Snapshot(config, self._model(version), version, taggers, FutureLRU(DYNAMIC_TAGGERS, self.embedders))

    def _model(self, version: LoadedVersion | None) -> ModelLoader:
        return self.models.own if version is None else version.model

    def _tagger(self, texts: tuple[str, ...], version: LoadedVersion | None) -> Tagger:
        """A tagger; those of one network share what is precomputed."""
        model = self._model(version)
        network = model.network.result() if version is None else version.network
        key = (texts, id(network))  # a tagger keeps its network, and so the id
        plain = self._base_taggers.get(key)
        if plain is None:
            bundle = model.known().bundle
            encoder = cast(TextEncoder, model.text_encoder) if bundle.text_encoder is not None else None
            self._check_new_tags(bundle.vocabulary.resolve(texts).count(None))
            subset = resolve_subset(bundle, texts, encoder)
            plain = self._base_taggers[key] = Tagger(bundle, network, subset, token_dtype=TOKEN_DTYPE)
        return plain if version is None else plain.with_version(version.delta, version.ref.digest)

    def _check_new_tags(self, count: int) -> None:
        if count > self.max_new_tags:
            raise QuotaExceeded(
                "new_tags",
                f"{count:,} choices are not in the vocabulary, and would have to be embedded: at most"
                f" {self.max_new_tags:,} may be. Offer fewer, or raise RAM_MAX_NEW_TAGS.",
            )
