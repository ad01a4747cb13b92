"""Snapshots: what a server holds for a label config and its settings, built in the background, the latest ones kept."""

from __future__ import annotations

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
from ram_backend.models.network import Network
from ram_backend.server.canary import Canary
from ram_backend.server.embedding import SharedTextEncoder
from ram_backend.server.live import LiveVersion
from ram_backend.server.metrics import ServerMetrics
from ram_backend.server.model import Model
from ram_backend.server.recipes import Recipe
from ram_backend.tagging.subset import resolve_subset
from ram_backend.tagging.tagger import Tagger
from ram_backend.tagging.token_cache import TOKEN_DTYPE
from ram_backend.vocabulary.embeddings import TextEncoder

K = TypeVar("K")
V = TypeVar("V")
_Key = tuple[str, str | None]

RETRY_S = 10.0
"""A build that failed for want of something is tried again after so many seconds."""

_DYNAMIC_TAGGERS = 64
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Snapshot:
    """Immutable: a recipe, and the taggers that carry it out.

    Attributes:
        recipe: says what to do, and names it (`model_version`).
        taggers: by control; those with dynamic choices are missing, and those without choices.
        plain: the same tags without the project's version: what is precomputed for them stays as long as a snapshot
            needs it, so that the next version's snapshot needn't do it again.
    """

    recipe: Recipe
    taggers: Mapping[str, Tagger]
    plain: tuple[Tagger, ...] = ()

    @property
    def model_version(self) -> str:
        """What `/setup` answers and what `/predict` puts on its predictions."""
        return self.recipe.model_version


@dataclass(frozen=True)
class _Pair:
    """A tagger, and the one without a version that it shares what is precomputed with."""

    tagger: Tagger
    plain: Tagger


class SnapshotShelf:
    """Builds snapshots in the background and keeps the latest, by `model_version`.

    Projects whose predictions are the same in everything share a snapshot; no other ones do.

    Args:
        model: what they are built on.
        text_encoder: embeds tags that the vocabulary doesn't know.
        builders: threads that build.
        limit: how many are kept.
        metrics: told how many there are.
        canary: what taggers of versions have to score.
    """

    def __init__(
        self,
        model: Model,
        text_encoder: SharedTextEncoder,
        builders: Executor,
        limit: int,
        metrics: ServerMetrics,
        canary: Canary,
    ) -> None:
        self._model = model
        self._text_encoder = text_encoder
        self._snapshots: _Latest[_Key, Snapshot] = _Latest(limit, builders)
        self._dynamic: _Latest[tuple[tuple[str, ...], str | None], _Pair] = _Latest(_DYNAMIC_TAGGERS, builders)
        self._plain: WeakValueDictionary[tuple[tuple[str, ...], int], Tagger] = WeakValueDictionary()
        self._metrics = metrics
        self._canary = canary

    def get(self, recipe: Recipe) -> Future[Snapshot]:
        """The snapshot of a recipe, being built where it is not there: at once, the future says when."""
        with self.awaited(recipe) as future:
            return future

    @contextmanager
    def awaited(self, recipe: Recipe) -> Iterator[Future[Snapshot]]:
        """`get`, for who waits for it within: it is built even where later ones push it out meanwhile."""
        key, build = (recipe.model_version, _digest(recipe.version)), partial(self._build, recipe)
        with self._snapshots.awaited(key, build, _keeps(recipe.version)) as future:
            self._metrics.snapshots.set(len(self._snapshots))
            yield future

    def tagger(self, texts: tuple[str, ...], version: LiveVersion | None) -> AbstractContextManager[Future[_Pair]]:
        """A tagger for the dynamic choices of a task, in `tagger` of the result; see `awaited`."""
        build = partial(self._pair, texts, version)
        return self._dynamic.awaited((texts, _digest(version)), build, _keeps(version))

    def failure(self, recipe: Recipe) -> BaseException | None:
        """Why the last build of a recipe failed; None: it didn't."""
        return self._snapshots.failure((recipe.model_version, _digest(recipe.version)))

    def forget(self, version: LiveVersion) -> None:
        """Lets go of everything that was built of a version; who works with it keeps it until he is done."""
        self._snapshots.drop(lambda key: key[1] == version.digest)
        self._dynamic.drop(lambda key: key[1] == version.digest)
        self._metrics.snapshots.set(len(self._snapshots))

    def _build(self, recipe: Recipe) -> Snapshot:
        started = time.monotonic()
        pairs: dict[tuple[str, ...], _Pair] = {}
        for asked in recipe.asked.values():
            if asked.texts and asked.texts not in pairs:
                pairs[asked.texts] = self._pair(asked.texts, recipe.version)
        new = sum(len(pair.plain.subset.new_tags) for pair in pairs.values())
        texts = sum(len(pair.plain.tags) for pair in pairs.values())
        seconds = time.monotonic() - started
        _log.info("snapshot %s ready: %d tags, %d of them new, %.1f s", recipe.model_version, texts, new, seconds)
        taggers = {name: pairs[asked.texts].tagger for name, asked in recipe.asked.items() if asked.texts}
        return Snapshot(recipe, taggers, tuple(pair.plain for pair in pairs.values()))

    def _pair(self, texts: tuple[str, ...], version: LiveVersion | None) -> _Pair:
        network = self._model.network.result()
        if version is None:
            plain = self._without_version(texts, network)
            return _Pair(plain, plain)
        learned = version.learned(network)
        plain = self._without_version(texts, learned.network)
        try:
            tagger = plain.with_version(learned.delta, version.digest)
            self._canary.check_tagger(tagger)
        except VersionDamaged as error:
            version.condemn(error)
            raise
        return _Pair(tagger, plain)

    def _without_version(self, texts: Sequence[str], network: Network) -> Tagger:
        key = (tuple(texts), id(network))  # a tagger keeps its network, so the number is not given to another one
        plain = self._plain.get(key)
        if plain is None:
            bundle = self._model.identity.result().bundle
            encoder = cast(TextEncoder, self._text_encoder) if bundle.text_encoder is not None else None
            subset = resolve_subset(bundle, texts, encoder)
            plain = self._plain[key] = Tagger(bundle, network, subset, token_dtype=TOKEN_DTYPE)
        return plain


def _digest(version: LiveVersion | None) -> str | None:
    return None if version is None else version.digest


def _keeps(version: LiveVersion | None) -> bool:
    return version is None or not version.retired


@dataclass(eq=False)
class _Entry(Generic[V]):
    """A result, when its work was asked for, and that work until somebody begins it or it is given up."""

    work: Callable[[], V] | None
    asked_at: float
    waiting: int = 0
    pushed_out: bool = False
    future: Future[V] = field(init=False)

    def give_up_unless_awaited(self) -> None:
        if self.pushed_out and not self.waiting:
            self.work = None


class _Latest(Generic[K, V]):
    """Results by key, the latest used are kept. What failed is tried again: at once, or for want of something later.

    What is pushed out by others is not worked for any more, unless that has begun already or somebody waits for it.
    """

    def __init__(self, limit: int, workers: Executor) -> None:
        self._limit = limit
        self._workers = workers
        self._entries: OrderedDict[K, _Entry[V]] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._entries)

    @contextmanager
    def awaited(self, key: K, work: Callable[[], V], keep: bool = True) -> Iterator[Future[V]]:
        with self._lock:
            entry = self._entry(key, work, keep)
            entry.waiting += 1
        try:
            yield entry.future
        finally:
            with self._lock:
                entry.waiting -= 1
                entry.give_up_unless_awaited()

    def _entry(self, key: K, work: Callable[[], V], keep: bool) -> _Entry[V]:
        entry = self._entries.get(key)
        if entry is None or _worth_another_try(entry.future, entry.asked_at):
            entry = _Entry(work, time.monotonic())
            entry.future = self._workers.submit(self._carry_out, entry)
            if not keep:
                return entry
            self._entries[key] = entry
        self._entries.move_to_end(key)
        while len(self._entries) > self._limit:
            _, oldest = self._entries.popitem(last=False)
            oldest.pushed_out = True
            oldest.give_up_unless_awaited()
        return entry

    def _carry_out(self, entry: _Entry[V]) -> V:
        with self._lock:
            work, entry.work = entry.work, None
        if work is None:
            raise NotAvailable("Too many others have come meanwhile: try again in a moment.")
        return work()

    def drop(self, chosen: Callable[[K], bool]) -> None:
        with self._lock:
            for key in [key for key in self._entries if chosen(key)]:
                del self._entries[key]

    def failure(self, key: K) -> BaseException | None:
        entry = self._entries.get(key)
        future = None if entry is None else entry.future
        return future.exception() if future is not None and future.done() and not future.cancelled() else None


def _worth_another_try(future: Future[V], started: float) -> bool:
    if not future.done():
        return False
    if future.cancelled():
        return True
    error = future.exception()
    if error is None or isinstance(error, InputError):
        return False
    return not isinstance(error, NotAvailable) or time.monotonic() - started > RETRY_S
