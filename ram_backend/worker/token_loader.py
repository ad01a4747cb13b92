"""From corrected images to their tokens: from the cache where they were seen before, else fetched and encoded."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ram_backend.errors import ImageError, LabelStudioUnreachable
from ram_backend.feedback.labels import TaskLabels
from ram_backend.feedback.ledger import Ledger
from ram_backend.feedback.shown import TaskImage
from ram_backend.images.fetch import FetchLimits
from ram_backend.images.guard import AddressGuard
from ram_backend.labelstudio.client import LabelStudio
from ram_backend.labelstudio.task_images import ImageReference, Outcome, TaskImages
from ram_backend.models.bundle import Bundle
from ram_backend.models.network import Network
from ram_backend.projects.keys import ProjectKey
from ram_backend.settings import Settings
from ram_backend.tagging.image_loader import ImageLoader, LoadedImage
from ram_backend.tagging.token_cache import TokenCache

MOST_MISSING = 0.5
"""Where more than this share of the images can't be had now, a training waits for a better time."""

LARGEST_IN_MEMORY = 500_000_000
"""Bytes of tokens; above, they are kept in a file."""


@dataclass(frozen=True)
class EncodedImages:
    """N corrected images, in order of their tasks.

    Attributes:
        labels: what was said about each.
        content: sha256 of each one's bytes, in hex.
        phash: (N,) uint64 perceptual hashes.
        tokens: (N, T, D) float16, as they are cached; a file that has no name any more where they are large.
    """

    labels: Sequence[TaskLabels]
    content: tuple[str, ...]
    phash: NDArray[np.uint64]
    tokens: NDArray[np.float16] = field(repr=False)

    def __len__(self) -> int:
        return len(self.content)


@dataclass
class Missing:
    """Images that were left out.

    Attributes:
        unreadable: of these there is no image, and asking again won't help.
        unreachable: these can't be had now.
        first: why the first of them could not be had.
    """

    unreadable: int = 0
    unreachable: int = 0
    first: str = ""

    def add(self, error: Exception, *, for_good: bool) -> None:
        """Counts one."""
        self.first = self.first or str(error)
        if for_good:
            self.unreadable += 1
        else:
            self.unreachable += 1

    @property
    def note(self) -> str | None:
        """One sentence for people; None: nothing is missing."""
        count = self.unreadable + self.unreachable
        return f"{count} images were left out; the first of them: {self.first}" if count else None


class CorrectedImages:
    """Finds the tokens of corrected images, and notes in the ledger what the images were.

    Args:
        settings: limits and batch size.
        ledger: knows what images were when they were last seen.
        bundle: says how images are prepared.
        network: encodes images that are new.
        label_studio: where images come from; None: nobody has named it.
    """

    def __init__(
        self,
        settings: Settings,
        ledger: Ledger,
        *,
        bundle: Bundle,
        network: Network,
        label_studio: LabelStudio | None,
    ) -> None:
        self._settings = settings
        self._ledger = ledger
        self._network = network
        self._label_studio = label_studio
        self._loader = ImageLoader(
            bundle.preprocessing,
            network.encoder_id,
            TokenCache(settings.cache_dir / "tokens", settings.token_cache_bytes),
            max_pixels=settings.max_image_pixels,
            max_bytes=settings.max_image_bytes,
        )
        self.missing = Missing()

    def of(
        self, key: ProjectKey, labels: Sequence[TaskLabels], progress: Callable[[str, int, int], None]
    ) -> EncodedImages:
        """The images that can be had, in order of their tasks.

        Args:
            key: of which project.
            labels: with references.
            progress: told of stage, step and steps.

        Raises:
            LabelStudioUnreachable: too many of them can't be had now.
        """
        tokens = _room(len(labels), self._network.token_shape, self._settings.cache_dir)
        known = self._ledger.images(key)
        images: dict[int, tuple[str, int]] = {}  # sha256 and perceptual hash of each row
        for row, each in enumerate(labels):
            progress("cached images", row, len(labels))
            image = known.get(each.task_id, each.reference or "")
            cached = None if image is None else self._loader.cached(image.sha256)
            if image is not None and cached is not None:
                tokens[row], images[row] = cached.tokens, (image.sha256, image.phash)
        new = [row for row in range(len(labels)) if row not in images]
        if new:
            fetched = self._fetched(labels, new, tokens, progress)
            found = {row: (labels[row].task_id, labels[row].reference or "") for row in fetched}
            self._ledger.record_images(key, [TaskImage(*found[row], *fetched[row]) for row in fetched])
            images |= fetched
        rows = sorted(images)
        for place, row in enumerate(rows):  # rows rise, so none is written over before it has moved
            if row != place:
                tokens[place] = tokens[row]
        return EncodedImages(
            labels=[labels[row] for row in rows],
            content=tuple(images[row][0] for row in rows),
            phash=np.array([images[row][1] for row in rows], dtype=np.uint64),
            tokens=tokens[: len(rows)],
        )

    def _fetched(
        self,
        labels: Sequence[TaskLabels],
        rows: Sequence[int],
        tokens: NDArray[np.float16],
        progress: Callable[[str, int, int], None],
    ) -> dict[int, tuple[str, int]]:
        """Hashes of the images of these rows, as far as they can be had; writes their tokens."""
        found: dict[int, tuple[str, int]] = {}
        waiting: dict[int, LoadedImage] = {}

        def encode() -> None:
            for row, own in zip(waiting, self._loader.encode(self._network, list(waiting.values())), strict=True):
                tokens[row] = own
            waiting.clear()

        for count, (row, outcome) in enumerate(self._fetch(labels, rows)):
            progress("new images", count, len(rows))
            if not isinstance(outcome, bytes):
                self.missing.add(outcome, for_good=isinstance(outcome, ImageError))
                continue
            try:
                image = self._loader.load(outcome, name=f"image of task {labels[row].task_id}")
            except ImageError as error:
                self.missing.add(error, for_good=True)
                continue
            found[row], waiting[row] = (image.sha256, image.phash), image
            if len(waiting) == self._settings.batch_size:
                encode()
        encode()
        if self.missing.unreachable > MOST_MISSING * len(labels):
            raise LabelStudioUnreachable(
                f"{self.missing.unreachable} of {len(labels)} corrected images can't be had now; the first of them:"
                f" {self.missing.first}"
            )
        return found

    def _fetch(self, labels: Sequence[TaskLabels], rows: Sequence[int]) -> Iterator[tuple[int, Outcome]]:
        """Rows, and the bytes of their images or why there are none; where Label Studio fails, all others have failed.

        Args:
            labels: with references.
            rows: which of them, rising.
        """
        limits = FetchLimits(
            max_bytes=self._settings.max_image_bytes,
            seconds=self._settings.fetch_seconds,
            connections=self._settings.fetch_threads,
        )
        guard = AddressGuard.parse(self._settings.allowed_image_hosts)
        source = TaskImages(self._label_studio, limits=limits, guard=guard, threads=self._settings.fetch_threads)
        done = 0
        try:
            references = [ImageReference(labels[row].task_id, labels[row].reference) for row in rows]
            for outcome in source.fetch_all(references):
                yield rows[done], outcome
                done += 1
        except LabelStudioUnreachable as error:
            for row in rows[done:]:
                yield row, error
        finally:
            source.close()


def _room(images: int, token_shape: tuple[int, int], folder: Path) -> NDArray[np.float16]:
    """Room for tokens (images, T, D): in memory, or in a file that vanishes with the process where that is too much."""
    shape = (images, *token_shape)
    if 2 * images * token_shape[0] * token_shape[1] <= LARGEST_IN_MEMORY:
        return np.zeros(shape, dtype=np.float16)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as file:
        return np.memmap(file, dtype=np.float16, mode="w+", shape=shape)
