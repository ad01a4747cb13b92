"""`/predict`: from tasks to predictions, one each, in order."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable, Sequence
from concurrent.futures import Executor, Future
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from itertools import chain
from typing import Any, TypeVar
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray

from ram_backend.errors import ImageError, ImageUnreachable, ImageUnreadable, LabelStudioUnreachable, PredictionsLate
from ram_backend.feedback.shown import ServedImage, ServedPrediction
from ram_backend.labelstudio.label_config import look_up
from ram_backend.labelstudio.plan import LabelPlan, TagControl, choices_for
from ram_backend.labelstudio.predictions import ScoredChoice, empty_prediction, prediction
from ram_backend.labelstudio.requests import Task
from ram_backend.labelstudio.task_images import ImageReference, TaskImages
from ram_backend.models.network import Network
from ram_backend.projects.keys import ProjectKey
from ram_backend.server.batcher import Batcher
from ram_backend.server.images import ServerImages
from ram_backend.server.loaded_version import LoadedVersion
from ram_backend.server.metrics import ServerMetrics
from ram_backend.server.model import Model
from ram_backend.server.resolved_config import ControlChoices, ResolvedConfig
from ram_backend.server.shown_log import ShownLog, shown_of
from ram_backend.server.snapshots import Snapshot, SnapshotCache
from ram_backend.settings import Settings
from ram_backend.tagging.image_loader import LoadedImage
from ram_backend.tagging.tagger import Tagger, TagScores

FloatArray = NDArray[np.float32]
T = TypeVar("T")
Trouble = ImageError | ImageUnreachable

GROUP, GROUPS_AT_ONCE = 8, 3
"""Tasks in a group (a batch, where that is more), and groups that one request has in work: enough to keep fetching,
decoding and the network busy, and few enough that a request of one task needn't wait long behind one of thousands."""

FETCHING_SHARE, FETCHING_SHARE_OF_PROJECT = 0.75, 0.875
"""Of the threads that fetch, a request and all of a project have at most so many: a slow host doesn't stop all."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Seen:
    """What became of one image: its tokens and what the ledger keeps of it, or why there are none."""

    size: tuple[int, int]
    tokens: FloatArray | None
    trouble: Trouble | None = None
    shown: ServedImage | None = None


@dataclass(frozen=True)
class _Workplace:
    """What is the same for all tasks of a request."""

    key: ProjectKey
    snapshot: Snapshot
    source: TaskImages
    network: Network
    fetching: asyncio.Semaphore
    fetching_for_project: asyncio.Semaphore

    @property
    def plan(self) -> LabelPlan:
        return self.snapshot.config.plan


class Predictor:
    """Tags the images of tasks.

    Args:
        settings: deadline and batch size.
        model: encodes and scores.
        snapshots: builds and keeps them.
        images: fetches and decodes images, in threads of `fetchers`.
        batcher: where the network works.
        fetchers: threads that wait for images.
        keepers: threads that store tokens and put predictions together.
        metrics: told of images and tasks.
        shown_log: told what is shown.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        model: Model,
        snapshots: SnapshotCache,
        images: ServerImages,
        batcher: Batcher,
        fetchers: Executor,
        keepers: Executor,
        metrics: ServerMetrics,
        shown_log: ShownLog,
    ) -> None:
        self._settings = settings
        self._model = model
        self._snapshots = snapshots
        self._images = images
        self._batcher = batcher
        self._fetchers = fetchers
        self._keepers = keepers
        self._metrics = metrics
        self._shown_log = shown_log
        self._shares: WeakValueDictionary[ProjectKey, asyncio.Semaphore] = WeakValueDictionary()

    async def predict(
        self,
        key: ProjectKey,
        tasks: Sequence[Task],
        config: ResolvedConfig,
        version: LoadedVersion | None,
        source: TaskImages,
        deadline: float,
    ) -> list[dict[str, Any]]:
        """One prediction per task, in order; those of images that can't be tagged are empty.

        All of them are the work of one snapshot. Cancelling stops the work that has not begun.

        Args:
            key: of the project.
            tasks: whose images are tagged.
            config: what to do.
            version: the loaded one that `config.version` names.
            source: of images.
            deadline: on the event loop's clock.

        Raises:
            PredictionsLate: the snapshot or the predictions are not done in time.
            NotAvailable: they can't be made.
            LabelStudioUnreachable: Label Studio doesn't bring its images now; nothing is answered for any task.
            ImageUnreachable: none of the images could be had, and later some may.
        """
        snapshot: Snapshot | None = None
        try:
            async with asyncio.timeout_at(deadline):
                snapshot = await shared(self._snapshots.get(config, version))
                network = await shared(self._model.network)
                request, project = self._share(FETCHING_SHARE), self._share_of(key)
                done = await self._groups(tasks, _Workplace(key, snapshot, source, network, request, project))
        except TimeoutError:
            raise PredictionsLate(self._too_late(snapshot is None, len(tasks))) from None
        troubles = [each for each in done if not isinstance(each, dict)]
        if troubles and len(troubles) == len(done) and all(isinstance(each, ImageUnreachable) for each in troubles):
            raise troubles[0]
        for each in done:
            self._metrics.tasks.labels("tagged" if isinstance(each, dict) else "broken").inc()
        return [each if isinstance(each, dict) else empty_prediction(config.model_version) for each in done]

    def _share_of(self, key: ProjectKey) -> asyncio.Semaphore:
        share = self._shares.get(key)
        if share is None:
            share = self._shares[key] = self._share(FETCHING_SHARE_OF_PROJECT)
        return share

    def _share(self, part: float) -> asyncio.Semaphore:
        return asyncio.Semaphore(max(1, int(self._settings.fetch_threads * part)))

    def _too_late(self, unbuilt: bool, tasks: int) -> str:
        if not self._model.network.done():
            return "The model is still being loaded: try again in a moment; /ready says when it is there."
        if unbuilt:
            return "The label config's new tags are still being embedded: try again in a moment, what is done is kept."
        return (
            f"{tasks} tasks were not done within {self._settings.predict_seconds:g} s. The images seen so far are"
            " remembered: retrieve again, or fewer tasks at a time."
        )

    async def _groups(self, tasks: Sequence[Task], place: _Workplace) -> list[dict[str, Any] | Trouble]:
        at_once = asyncio.Semaphore(GROUPS_AT_ONCE)

        async def limited(group: Sequence[Task]) -> list[dict[str, Any] | Trouble]:
            async with at_once:
                return await self._group(group, place)

        size = max(GROUP, self._settings.batch_size)
        groups = [tasks[start : start + size] for start in range(0, len(tasks), size)]
        return list(chain.from_iterable(await all_of(limited(group) for group in groups)))

    async def _group(self, tasks: Sequence[Task], place: _Workplace) -> list[dict[str, Any] | Trouble]:
        """Some tasks: their images at the same time, then each control's scores of all of them at once."""
        wanted = [(task, to_name) for task in range(len(tasks)) for to_name in place.plan.images]
        found_there = await all_of(self._see(tasks[task], to_name, place) for task, to_name in wanted)
        seen = dict(zip(wanted, found_there, strict=True))
        scored: list[dict[str, list[ScoredChoice]]] = [{} for _ in tasks]
        for control in place.plan.tag_controls:
            there = [task for task in range(len(tasks)) if seen[task, control.to_name].tokens is not None]
            tokens = [seen[task, control.to_name].tokens for task in there]
            found = await self._score(control, [tasks[task] for task in there], tokens, place)  # type: ignore[arg-type]
            for task, choices in zip(there, found, strict=True):
                scored[task][control.name] = choices
        results: list[dict[str, Any] | Trouble] = []
        shown: list[ServedPrediction] = []
        for number, choices_by_control in enumerate(scored):
            images = [seen[number, to_name] for to_name in place.plan.images]
            trouble = next((image.trouble for image in images if image.trouble is not None), None)
            if trouble is not None and all(image.tokens is None for image in images):
                results.append(trouble)
                continue
            sizes = {to_name: seen[number, to_name].size for to_name in place.plan.images}
            made = self._prediction(place.snapshot, choices_by_control, sizes)
            results.append(made)
            shown.extend(_shown(place, tasks[number], made, choices_by_control, images))
        if shown:
            self._shown_log.put(place.key, shown)
        return results

    def _prediction(
        self, snapshot: Snapshot, scored: dict[str, list[ScoredChoice]], sizes: dict[str, tuple[int, int]]
    ) -> dict[str, Any]:
        config = snapshot.config
        limits = {name: options.top_k for name, options in config.options.items()}
        version = config.model_version
        return prediction(config.plan, scored, model_version=version, image_sizes=sizes, top_k=limits)

    async def _see(self, task: Task, to_name: str, place: _Workplace) -> _Seen:
        """Tokens of one image of a task, or why there are none."""
        number = task.id if isinstance(task.id, int) else 0
        reference = ImageReference(number, look_up(task.data, place.plan.images[to_name]))
        load = partial(self._images.load, place.source, reference)
        try:
            async with place.fetching:
                image = await in_thread(self._fetchers, place.fetching_for_project, load)
        except LabelStudioUnreachable:
            raise
        except (ImageError, ImageUnreachable) as error:
            return self._broken(task, error)
        except Exception:
            _log.exception("task %s: preparing its image failed unexpectedly", task.id)
            return self._broken(task, ImageUnreadable("The image could not be prepared; the log tells why."))
        self._metrics.images.labels("tagged").inc()
        shown = None
        if isinstance(reference.value, str):
            shown = ServedImage(to_name, reference.value, image.sha256, image.phash)
        return _Seen(image.size, await self._tokens(image, place.network), shown=shown)

    def _broken(self, task: Task, error: Trouble) -> _Seen:
        self._metrics.images.labels(type(error).__name__).inc()
        _log.warning("task %s is not tagged (%s): %s", task.id, type(error).__name__, error)
        return _Seen((0, 0), None, error)

    async def _tokens(self, image: LoadedImage, network: Network) -> FloatArray:
        if image.tokens is not None:
            return image.tokens
        assert image.pixels is not None
        tokens = await asyncio.wrap_future(self._batcher.encode(network, image.pixels))
        return await asyncio.get_running_loop().run_in_executor(self._keepers, self._images.store, image, tokens)

    async def _score(
        self, control: TagControl, tasks: Sequence[Task], tokens: Sequence[FloatArray], place: _Workplace
    ) -> list[list[ScoredChoice]]:
        """Scored choices of one control, per task."""
        config, loop = place.snapshot.config, asyncio.get_running_loop()
        if not tasks:
            return []
        if control.name in config.controls:
            tagger, asked = place.snapshot.taggers.get(control.name), config.controls[control.name]
            if tagger is None:
                return [[] for _ in tasks]
            scores = await self._scores(tagger, np.stack(tokens))
            return await loop.run_in_executor(self._keepers, scored_choices, asked, scores, tagger.thresholds)
        found: list[list[ScoredChoice]] = []
        for task, one in zip(tasks, tokens, strict=True):
            asked = config.dynamic(control, choices_for(control, task.data))
            if not asked.texts:
                found.append([])
                continue
            dynamic = await shared(self._snapshots.tagger(place.snapshot, asked.texts))
            scores = await self._scores(dynamic, one[None])
            found.extend(await loop.run_in_executor(self._keepers, scored_choices, asked, scores, dynamic.thresholds))
        return found

    async def _scores(self, tagger: Tagger, tokens: FloatArray) -> FloatArray:
        def work() -> TagScores:
            return tagger.score(tokens)

        return (await asyncio.wrap_future(self._batcher.run(work))).scores


def _shown(
    place: _Workplace,
    task: Task,
    prediction: dict[str, Any],
    scored: dict[str, list[ScoredChoice]],
    images: Sequence[_Seen],
) -> list[ServedPrediction]:
    """What the ledger keeps of one prediction; nothing where Label Studio names no task or project."""
    if not isinstance(task.id, int) or task.id <= 0 or place.key.id <= 0:
        return []
    version = place.snapshot.config.version
    seen = [image.shown for image in images if image.shown is not None]
    name = None if version is None else version.name
    return [shown_of(place.plan, task.id, prediction, scored, seen, version=name, now=datetime.now(UTC))]


def scored_choices(asked: ControlChoices, scores: FloatArray, thresholds: FloatArray) -> list[list[ScoredChoice]]:
    """Per image the choices that matter for its prediction, in the order of `asked`.

    A choice has the score of its best text. Choices that can't change anything are left out: of thousands that are off,
    only those count that are nearest to their thresholds (see `control_confidence`), and the best.

    Args:
        asked: L texts, C choices.
        scores: (N, L) calibrated probabilities.
        thresholds: (L,) of the bundle, where admins set none.
    """
    if not asked.choices:
        return [[] for _ in scores]
    best, limits = _by_choice(asked, scores, thresholds)
    return [_that_matter(asked, row, limit) for row, limit in zip(best, limits, strict=True)]


def _by_choice(asked: ControlChoices, scores: FloatArray, thresholds: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Scores and thresholds (N, C): of each choice those of its best text."""
    most = max(len(columns) for columns in asked.columns)
    columns = np.array([(*own, *(own[-1:] * (most - len(own)))) for own in asked.columns])  # (C, most)
    of_texts = scores[:, columns]  # (N, C, most)
    best = of_texts.argmax(axis=2)
    texts = columns[np.arange(len(columns)), best]  # (N, C)
    limits = thresholds[texts].astype(np.float32)
    for place, own in enumerate(asked.thresholds):
        if own is not None:
            limits[:, place] = own
    return np.take_along_axis(of_texts, best[:, :, None], axis=2)[:, :, 0], limits


def _that_matter(asked: ControlChoices, scores: FloatArray, limits: FloatArray) -> list[ScoredChoice]:
    on = np.flatnonzero(scores > limits)
    off = np.flatnonzero((scores <= limits) & (limits < 1))
    share = (limits[off] - scores[off]) / np.maximum(limits[off], np.float32(1e-9))
    near = off[np.argsort(share, kind="stable")[: max(1, len(on)) + 1]]
    chosen = np.union1d(np.union1d(on, near), [int(scores.argmax())])
    return [ScoredChoice(asked.choices[int(i)], float(scores[i]), float(limits[i])) for i in chosen]


async def shared(future: Future[T]) -> T:
    """The result of a future that others wait for too: it goes on when this waiting is cancelled."""
    return await asyncio.shield(asyncio.wrap_future(future))


async def all_of(work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """The results of all, in order; where one fails, or the caller is cancelled, the others are ended, too."""
    tasks = [asyncio.create_task(each) for each in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def in_thread(threads: Executor, share: asyncio.Semaphore, work: Callable[[], T]) -> T:
    """The result of work in one of the threads, of which the share has so many: until it ends, awaited or not."""
    loop = asyncio.get_running_loop()

    def give_back(_: Future[T]) -> None:
        with suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(share.release)

    await share.acquire()
    try:
        future = threads.submit(work)
    except BaseException:
        share.release()
        raise
    future.add_done_callback(give_back)
    return await asyncio.wrap_future(future)
