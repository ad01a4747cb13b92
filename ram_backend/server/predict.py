"""Prediction pipeline of `/predict`: fetch, encode, score; bounded concurrency."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from concurrent.futures import Executor, Future
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import chain
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ram_backend.errors import ImageError, ImageUnreachable, ImageUnreadable, LabelStudioUnreachable
from ram_backend.feedback.shown import ShownImage, shown_of
from ram_backend.images.decode import decode
from ram_backend.labelstudio.predictions import (
    Boxes,
    ScoredChoice,
    brush_rle,
    empty_prediction,
    place_in_order,
    prediction,
    tick,
)
from ram_backend.labelstudio.request_models import Task
from ram_backend.labelstudio.schema import Choice, TagControl, choices_for, look_up
from ram_backend.labelstudio.task_images import ImageReference
from ram_backend.models.calibration import cost_thresholds
from ram_backend.models.delta import features_of
from ram_backend.models.label_embeddings import Entry
from ram_backend.models.network import Network
from ram_backend.projects.project import Project
from ram_backend.server.model import await_shared
from ram_backend.server.resolved_config import ControlChoices
from ram_backend.server.services import Services
from ram_backend.server.snapshots import Snapshot
from ram_backend.tagging.image_loader import LoadedImage
from ram_backend.tagging.tagger import Tagger

if TYPE_CHECKING:
    from ram_backend.regions.finder import RegionFinder

FloatArray = NDArray[np.float32]
T = TypeVar("T")
ImageFailure = ImageError | ImageUnreachable

GROUP, GROUPS_AT_ONCE = 8, 3
"""Tasks in a group, and groups of one request in work.

They are few: a request of one task doesn't wait long behind one of thousands.
"""

MASK_SIDE = 1024
"""Longer side of a photo in pixels when masks are made, as SAM sees it."""

FETCHING_SHARE, FETCHING_SHARE_OF_PROJECT = 0.75, 0.875
"""Largest shares of the fetching threads: a slow host doesn't stop the others."""

_log = logging.getLogger(__name__)


async def predict_tasks(
    services: Services, project: Project, tasks: Sequence[Task], snapshot: Snapshot
) -> list[dict[str, Any]]:
    """One prediction per task (protocol section 4), empty where no image is tagged.

    Cancelling stops the work that has not begun.

    Raises:
        NotAvailable: they can't be made.
        LabelStudioUnreachable: it doesn't bring its images: no task is answered.
        ImageUnreachable: none of the images could be had, and later some may.
    """
    network = await await_shared(snapshot.model.network)
    done = await _Request(services, project, snapshot, network).groups(tasks)
    unreachable = [each for each in done if isinstance(each, ImageUnreachable)]
    if len(unreachable) == len(done):
        raise unreachable[0]
    for each in done:
        services.metrics.tasks.labels("tagged" if isinstance(each, dict) else "broken").inc()
    version = snapshot.config.model_version
    return [each if isinstance(each, dict) else empty_prediction(version) for each in done]


@dataclass
class _Tagging:
    """A task in work: images by name, or why they fail; findings by control."""

    task: Task
    images: Mapping[str, LoadedImage | ImageFailure]
    choices: dict[str, list[ScoredChoice]] = field(default_factory=dict)
    captions: dict[str, str] = field(default_factory=dict)
    boxes: dict[str, Boxes] = field(default_factory=dict)

    @cached_property
    def tokens(self) -> dict[str, FloatArray]:
        """Of the images that can be tagged, by name."""
        return {
            name: image.tokens
            for name, image in self.images.items()
            if isinstance(image, LoadedImage) and image.tokens is not None
        }


@dataclass
class _Request:
    """A request in work."""

    services: Services
    project: Project
    snapshot: Snapshot
    network: Network

    def __post_init__(self) -> None:
        def share(part: float) -> asyncio.Semaphore:
            return asyncio.Semaphore(max(1, int(self.services.settings.fetch_threads * part)))

        self._source = self.services.task_images(self.project)
        self._loader = self.services.image_loader(self.snapshot.model)
        self._fetching = share(FETCHING_SHARE)
        self._fetching_for_project = self.services.fetching.setdefault(
            self.project.key, share(FETCHING_SHARE_OF_PROJECT)
        )

    async def groups(self, tasks: Sequence[Task]) -> list[dict[str, Any] | ImageFailure]:
        """Per task its prediction, or why its images can't be tagged."""
        at_once = asyncio.Semaphore(GROUPS_AT_ONCE)

        async def limited(group: Sequence[Task]) -> list[dict[str, Any] | ImageFailure]:
            async with at_once:
                return await self._group(group)

        size = max(GROUP, self.services.settings.batch_size)
        groups = [tasks[start : start + size] for start in range(0, len(tasks), size)]
        return list(chain.from_iterable(await all_of(limited(group) for group in groups)))

    async def _group(self, tasks: Sequence[Task]) -> list[dict[str, Any] | ImageFailure]:
        """Some tasks: their images at once, then scores by control."""
        names = list(self.snapshot.config.schema.images)
        loaded = iter(await all_of(self._image(task, name) for task in tasks for name in names))
        group = [_Tagging(task, {name: next(loaded) for name in names}) for task in tasks]
        for control in self.snapshot.config.schema.tag_controls:
            if some := [each for each in group if control.to_name in each.tokens]:
                for each, choices in zip(some, await self._score(control, some), strict=True):
                    each.choices[control.name] = choices
        await self._write_captions(group)
        await self._locate(group)
        return [self._prediction(each) for each in group]

    def _ticked(self, tagging: _Tagging, control: TagControl) -> list[ScoredChoice]:
        choices = tagging.choices.get(control.name, ())
        return tick(control, choices, self.snapshot.config.options[control.name].top_k)[0]

    async def _locate(self, group: Sequence[_Tagging]) -> None:
        """The boxes or masks of the ticked labels, where a config asks for them."""
        for control in self.snapshot.config.schema.tag_controls:
            tagger = self.snapshot.taggers.get(control.name) if control.boxes else None
            for each in group:
                tokens = each.tokens.get(control.to_name)
                if tagger is None or tokens is None:
                    continue
                kept = self._ticked(each, control)
                work = partial(_located, tagger, kept, tokens)
                if control.kind == "brushlabels":
                    opening = self.services.cpu_pool.submit(lambda: self.services.model.masks)
                    finder = await asyncio.wrap_future(opening)
                    if finder is None or not kept:
                        continue
                    read = partial(self._photo, self._reference(each.task, control.to_name))
                    photo = await in_thread(self.services.fetchers, self._fetching_for_project, read)
                    work = partial(_masked, finder, tagger, kept, tokens, *photo)
                each.boxes[control.name] = await asyncio.wrap_future(self.services.batcher.submit_scoring(work))

    async def _write_captions(self, group: Sequence[_Tagging]) -> None:
        """Captions from the tags that are ticked for the image."""
        schema = self.snapshot.config.schema
        for name, to_name in schema.captions.items():
            captions = self.snapshot.model.captions
            some = [each for each in group if to_name in each.tokens]
            if captions is None or not some:
                continue
            controls = [control for control in schema.tag_controls if control.to_name == to_name]
            tags = [[one.choice.label for control in controls for one in self._ticked(each, control)] for each in some]
            tokens = np.stack([each.tokens[to_name] for each in some])
            write = partial(captions.write, tokens, tags)
            texts = await asyncio.wrap_future(self.services.batcher.submit_scoring(write))
            for each, text in zip(some, texts, strict=True):
                each.captions[name] = text

    async def _image(self, task: Task, to_name: str) -> LoadedImage | ImageFailure:
        try:
            async with self._fetching:
                load = partial(self._load, self._reference(task, to_name))
                image = await in_thread(self.services.fetchers, self._fetching_for_project, load)
        except LabelStudioUnreachable:
            raise
        except Exception as error:
            failure = error
            if not isinstance(failure, ImageFailure):
                _log.exception("task %s: preparing its image failed unexpectedly", task.id)
                failure = ImageUnreadable("The image could not be prepared; the log tells why.")
            kind = type(failure).__name__
            self.services.metrics.images.labels(kind).inc()
            _log.warning("task %s is not tagged (%s): %s", task.id, kind, failure)
            return failure.with_traceback(None)  # which would hold the task, in a cycle
        self.services.metrics.images.labels("tagged").inc()
        if image.pixels is not None:
            encoded = await asyncio.wrap_future(self.services.batcher.encode(self.network, image.pixels))
            storing = self.services.cpu_pool.submit(self._loader.store, image, encoded)
            tokens = await asyncio.wrap_future(storing)
            image = replace(image, tokens=tokens, pixels=None)
        return image

    def _reference(self, task: Task, to_name: str) -> ImageReference:
        number = task.id if isinstance(task.id, int) else 0
        return ImageReference(number, look_up(task.data, self.snapshot.config.schema.images[to_name]))

    def _photo(self, reference: ImageReference) -> tuple[Image.Image, tuple[int, int]]:
        """A photo at the size for masks, decoded in a process, and its whole size."""
        settings = self.services.settings
        data = self._source.fetch(reference)
        limits = {"max_pixels": settings.max_image_pixels, "max_bytes": settings.max_image_bytes}
        return self.services.processes.decode(_reduced, data, **limits)

    def _load(self, reference: ImageReference) -> LoadedImage:
        """Fetches an image; its tokens from the cache, or its pixels for the encoder."""
        metrics = self.services.metrics
        with metrics.stage_seconds.labels("fetch").time():
            data = self._source.fetch(reference)
        started = time.perf_counter()
        image = self._loader.load(data, name=f"image of task {reference.task}")
        metrics.token_lookups.labels("miss" if image.tokens is None else "hit").inc()
        if image.tokens is None:
            metrics.stage_seconds.labels("decode").observe(time.perf_counter() - started)
        return image

    async def _score(self, control: TagControl, group: Sequence[_Tagging]) -> list[list[ScoredChoice]]:
        config = self.snapshot.config
        tokens = [each.tokens[control.to_name] for each in group]
        if control.name in config.controls:
            fixed = self.snapshot.taggers.get(control.name)
            return await self._choices(config.controls[control.name], fixed, np.stack(tokens))
        found: list[list[ScoredChoice]] = []
        for each, one in zip(group, tokens, strict=True):
            choices = config.dynamic(control, choices_for(control, each.task.data))
            tagger = None
            if choices.texts:
                tagger = await await_shared(self.services.snapshots.tagger(self.snapshot, choices.texts))
            found += await self._choices(choices, tagger, one[None])
        return found

    async def _choices(
        self, choices: ControlChoices, tagger: Tagger | None, tokens: FloatArray
    ) -> list[list[ScoredChoice]]:
        """Scored choices per image, from tokens (N, T, D)."""
        if tagger is None:
            return [[] for _ in tokens]
        scoring = self.services.batcher.submit_scoring(partial(tagger.score, tokens))
        found = await asyncio.wrap_future(scoring)
        choose = partial(scored_choices, choices, found.scores, tagger.thresholds)
        return await asyncio.wrap_future(self.services.cpu_pool.submit(choose))

    def _prediction(self, tagging: _Tagging) -> dict[str, Any] | ImageFailure:
        """A task's prediction, which is logged as shown; or why no image is tagged."""
        task, images = tagging.task, tagging.images.items()
        good = {name: image for name, image in images if isinstance(image, LoadedImage)}
        if not good:
            return next(image for _, image in images if isinstance(image, ImageFailure))
        config = self.snapshot.config
        made = prediction(
            config.schema,
            tagging.choices,
            model_version=config.model_version,
            image_sizes={name: image.size for name, image in good.items()},
            top_k={name: options.top_k for name, options in config.options.items()},
            captions=tagging.captions,
            boxes=tagging.boxes,
        )
        key = self.project.key
        if isinstance(task.id, int) and task.id > 0 and key.id > 0:  # else the ledger can't name it
            version = None if config.version is None else config.version.name
            learned = 0 if config.version is None else config.version.learned
            made["score"] = place_in_order(task.id, made["score"], learned, self._novelty(tagging))
            served = []
            for name, image in good.items():
                reference = str(look_up(task.data, config.schema.images[name]))
                served.append(ShownImage(name, reference, image.sha256, image.phash))
            shown = shown_of(config.schema, task.id, made, tagging.choices, served, version)
            self.services.shown_log.put(key, shown)
        return made

    def _novelty(self, tagging: _Tagging) -> float:
        novelty = None if self.snapshot.version is None else self.snapshot.version.novelty
        if novelty is None:
            return 1.0
        return max(novelty.of(features_of(tokens[None])[0]) for tokens in tagging.tokens.values())


def _located(tagger: Tagger, kept: Sequence[ScoredChoice], tokens: FloatArray) -> Boxes:
    from ram_backend.regions.evidence import locate

    entries, names, scores = _asked(tagger, kept)
    regions = locate(tagger.network, entries, names, scores, tokens)
    return {name: [(each.score, each.box) for each in regions if each.tag == name] for name in names}


def _reduced(data: bytes, **limits: Any) -> tuple[Image.Image, tuple[int, int]]:
    photo, size = decode(data, exif_orientation=True, alpha="white", draft_size=MASK_SIDE // 2, **limits)
    photo.thumbnail((MASK_SIDE, MASK_SIDE))
    return photo, size


def _masked(
    finder: RegionFinder,
    tagger: Tagger,
    kept: Sequence[ScoredChoice],
    tokens: FloatArray,
    photo: Image.Image,
    size: tuple[int, int],
) -> Boxes:
    found: dict[str, list[tuple[float, list[int]]]] = {}
    for region, mask in finder.find(tagger.network, *_asked(tagger, kept), tokens, lambda: photo):
        assert mask is not None
        whole = Image.fromarray(mask).resize(size, Image.Resampling.NEAREST)
        found.setdefault(region.tag, []).append((region.score, brush_rle(np.asarray(whole))))
    return found


def _asked(tagger: Tagger, kept: Sequence[ScoredChoice]) -> tuple[list[Entry], list[str], list[float]]:
    """Entries, names and scores of ticked choices."""
    columns = [tagger.tags.index(one.choice.texts[0]) for one in kept]
    entries = [tagger.subset.entries[column] for column in columns]
    return entries, [one.choice.value for one in kept], [one.score for one in kept]


def scored_choices(control: ControlChoices, scores: FloatArray, thresholds: FloatArray) -> list[list[ScoredChoice]]:
    """Per image the choices that matter for its prediction, in the control's order.

    A choice has the score of its best text. Of those that are off, only the
    nearest to their thresholds count (see `margins_of`), and the best.

    Args:
        control: C choices with L texts.
        scores: (N, L) calibrated probabilities.
        thresholds: (L,) of the bundle, where admins set none.
    """
    if not control.choices:
        return [[] for _ in scores]
    longest = max(map(len, control.columns))
    columns = np.array([(*places, *places[-1:] * (longest - len(places))) for places in control.columns])
    best = scores[:, columns].argmax(axis=2)
    texts = columns[np.arange(len(columns)), best]  # (N, C)
    by_admins = np.array(control.thresholds, dtype=np.float32)  # None is NaN
    own = cost_thresholds(thresholds, control.add_cost)
    limits = np.where(np.isnan(by_admins), own[texts], by_admins)
    by_choice = zip(np.take_along_axis(scores, texts, axis=1), limits, strict=True)
    return [_that_matter(control.choices, row, limit) for row, limit in by_choice]


def _that_matter(choices: Sequence[Choice], scores: FloatArray, limits: FloatArray) -> list[ScoredChoice]:
    on = np.flatnonzero(scores > limits)
    off = np.flatnonzero((scores <= limits) & (limits < 1))
    share = (limits[off] - scores[off]) / np.maximum(limits[off], np.float32(1e-9))
    near = off[np.argsort(share, kind="stable")[: max(1, len(on)) + 1]]
    chosen = np.union1d(np.union1d(on, near), [int(scores.argmax())])
    return [ScoredChoice(choices[int(i)], float(scores[i]), float(limits[i])) for i in chosen]


async def all_of(work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """The results of all, in order; where one fails, the others are cancelled."""
    tasks = [asyncio.create_task(each) for each in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def in_thread(threads: Executor, share: asyncio.Semaphore, work: Callable[[], T]) -> T:
    """The result of work in a thread, which holds the share until it has ended."""
    loop = asyncio.get_running_loop()

    def give_back(_: Future[T]) -> None:
        with suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(share.release)

    await share.acquire()
    future = threads.submit(work)
    future.add_done_callback(give_back)
    return await asyncio.wrap_future(future)
