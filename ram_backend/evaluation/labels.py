"""Multi-label annotations of images: right, wrong and unknown tags, as matrices.

What a tag means that a file doesn't list for an image follows from the format:
JSON lines, RAM's files, COCO and VOC are taken as exhaustive (it is absent),
OpenImages lists verified absent tags, too (it is unknown).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from ram_backend.errors import InputError
from ram_backend.vocabulary.tags import first_error

TRAIN = "train"
"""Split that baselines and fine-tuning learn from."""


@dataclass(frozen=True)
class LabelledImage:
    """What an annotation file says about one image.

    Attributes:
        file: path of the image below the folder of images.
        positives: tags that are right.
        unknown: tags that nobody is sure of.
        negatives: tags that are wrong; None: all that are neither positive nor
            unknown.
        split: "train", "val", "test" or whatever the file says; None: nothing.
        captions: sentences about it.
    """

    file: str
    positives: frozenset[str]
    unknown: frozenset[str] = frozenset()
    negatives: frozenset[str] | None = None
    split: str | None = None
    captions: tuple[str, ...] = ()


@dataclass(frozen=True)
class LabelSet:
    """A labelled set.

    Attributes:
        name: for tables.
        images: N images, in the file's order.
        tags: L tags that the set is about; a list of a benchmark may name one
            twice.
    """

    name: str
    images: tuple[LabelledImage, ...]
    tags: tuple[str, ...]

    def of_split(self, split: str) -> LabelSet:
        """The images of a split, with the tags of all.

        Raises:
            InputError: no image is of that split; names those that there are.
        """
        chosen = tuple(image for image in self.images if image.split == split)
        if not chosen:
            splits = ", ".join(sorted({image.split for image in self.images if image.split})) or "none at all"
            raise InputError(f"{self.name}: no image is of split {split!r} (known: {splits}).")
        return LabelSet(self.name, chosen, self.tags)

    def matrices(self, tags: Sequence[str]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Labels and known pairs, (N, L) bool each; equal columns for equal tags."""
        columns: dict[str, list[int]] = {}
        for column, tag in enumerate(tags):
            columns.setdefault(tag, []).append(column)

        def places(names: Iterable[str]) -> list[int]:
            return [column for name in names for column in columns.get(name, ())]

        labels = np.zeros((len(self.images), len(tags)), dtype=np.bool_)
        known = np.ones_like(labels)
        for row, image in enumerate(self.images):
            if image.negatives is not None:
                known[row] = False
                known[row, places(image.negatives)] = True
            known[row, places(image.unknown)] = False
            labels[row, places(image.positives)] = True
            known[row, places(image.positives)] = True
        return labels, known


@contextmanager
def naming(place: str, what: str) -> Iterator[None]:
    """Turns errors of malformed content into InputError: place, and `what` it is not."""
    try:
        yield
    except ValidationError as error:
        raise InputError(f"{place}: not {what} ({first_error(error)}). Repair or remove it.") from None
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise InputError(f"{place}: not {what} ({type(error).__name__}: {error}). Repair or remove it.") from None
