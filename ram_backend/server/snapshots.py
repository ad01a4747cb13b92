"""Snapshots: what a server holds for a label config and its settings, built in the background, the latest ones kept."""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar, cast

from ram_backend.errors import InputError, NotAvailable
from ram_backend.server.embedding import SharedTextEncoder
from ram_backend.server.metrics import ServerMetrics
from ram_backend.server.model import Model
from ram_backend.server.recipes import Recipe
from ram_backend.tagging import Tagger, resolve_subset
from ram_backend.tagging.token_cache import TOKEN_DTYPE
from ram_backend.vocabulary import TextEncoder

K = TypeVar("K")
V = TypeVar("V")

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
    """

    recipe: Recipe
    taggers: Mapping[str, Tagger]

    @property
    def model_version(self) -> str:
        """What `/setup` answers and what `/predict` puts on its predictions."""
        return self.recipe.model_version


class SnapshotShelf:
    """Builds snapshots in the background and keeps the latest, by `model_version`.

    Projects whose predictions are the same in everything share a snapshot; no other ones do.

    Args:
        model: what they are built on.
        text_encoder: embeds tags that the vocabulary doesn't know.
        builders: threads that build.
        limit: how many are kept.
        metrics: told how many there are.
    """

    def __init__(
        self, model: Model, text_encoder: SharedTextEncoder, builders: Executor, limit: int, metrics: ServerMetrics
    ) -> None:
        self._model = model
        self._text_encoder = text_encoder
        self._builders = builders
        self._snapshots: _Latest[str, Snapshot] = _Latest(limit)
        self._dynamic: _Latest[tuple[str, ...], Tagger] = _Latest(_DYNAMIC_TAGGERS)
        self._metrics = metrics

    def get(self, recipe: Recipe) -> Future[Snapshot]:
        """The snapshot of a recipe, being built where it is not there: at once, the future says when."""
        future = self._snapshots.get(recipe.model_version, partial(self._start, partial(self._build, recipe)))
        self._metrics.snapshots.set(len(self._snapshots))
        return future

    def tagger(self, texts: tuple[str, ...]) -> Future[Tagger]:
        """A tagger for the dynamic choices of a task."""
        return self._dynamic.get(texts, partial(self._start, partial(self._tagger, texts)))

    def failure(self, recipe: Recipe) -> BaseException | None:
        """Why the last build of a recipe failed; None: it didn't."""
        return self._snapshots.failure(recipe.model_version)

    def _start(self, build: Callable[[], V]) -> Future[V]:
        return self._builders.submit(build)

    def _build(self, recipe: Recipe) -> Snapshot:
        started = time.monotonic()
        taggers: dict[str, Tagger] = {}
        shared: dict[tuple[str, ...], Tagger] = {}
        for name, asked in recipe.asked.items():
            if asked.texts:
                taggers[name] = shared.get(asked.texts) or self._tagger(asked.texts)
                shared[asked.texts] = taggers[name]
        new = sum(len(tagger.subset.new_tags) for tagger in shared.values())
        texts = sum(len(tagger.tags) for tagger in shared.values())
        seconds = time.monotonic() - started
        _log.info("snapshot %s ready: %d tags, %d of them new, %.1f s", recipe.model_version, texts, new, seconds)
        return Snapshot(recipe, taggers)

    def _tagger(self, texts: Sequence[str]) -> Tagger:
        bundle = self._model.identity.result().bundle
        encoder = cast(TextEncoder, self._text_encoder) if bundle.text_encoder is not None else None
        subset = resolve_subset(bundle, texts, encoder)
        return Tagger(bundle, self._model.network.result(), subset, token_dtype=TOKEN_DTYPE)


class _Latest(Generic[K, V]):
    """Futures by key, the latest used are kept. What failed is tried again: at once, or for want of something later."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._entries: OrderedDict[K, tuple[Future[V], float]] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: K, start: Callable[[], Future[V]]) -> Future[V]:
        with self._lock:
            entry = self._entries.get(key)
            if entry is None or _worth_another_try(*entry):
                entry = self._entries[key] = (start(), time.monotonic())
            self._entries.move_to_end(key)
            while len(self._entries) > self._limit:
                self._entries.popitem(last=False)
            return entry[0]

    def failure(self, key: K) -> BaseException | None:
        entry = self._entries.get(key)
        return entry[0].exception() if entry is not None and entry[0].done() and not entry[0].cancelled() else None


def _worth_another_try(future: Future[V], started: float) -> bool:
    if not future.done():
        return False
    if future.cancelled():
        return True
    error = future.exception()
    if error is None or isinstance(error, InputError):
        return False
    return not isinstance(error, NotAvailable) or time.monotonic() - started > RETRY_S
