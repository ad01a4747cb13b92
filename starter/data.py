"""Readers of the labelled photo sets: what people said about a photo, as states of the vocabulary's tags.

A set is a folder `<data>/<name>/` with `images/` and `labels.jsonl`, one JSON object a line: `file`, `split`, `tags`,
and where known `maybe`, `captions`, `imagenet_index`. What a missing tag means differs by set:

- exhaustive sets (coco_objects): a tag of the set that is not listed is absent; other tags are unknown unless captions
  speak of them;
- captioned sets (flickr8k_tags): a tag that no caption mentions is taken as absent, one of five mentions is unknown;
- single-label sets (imagenet_samples): other classes are absent, all else is unknown.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ram_backend.errors import InputError
from ram_backend.images.decode import decode, perceptual_hash
from ram_backend.vocabulary.caption_parser import CaptionParser
from ram_backend.vocabulary.tags import Vocabulary

TRAINING_SETS = ("flickr8k_tags", "coco_objects", "imagenet_samples")
EXHAUSTIVE_SETS = ("coco_objects",)
PRESENT, ABSENT, UNKNOWN = 1, 0, -1


@dataclass(frozen=True)
class LabelledPhoto:
    """One photo of a set: `entry` is its line in labels.jsonl."""

    set_name: str
    path: Path
    split: str
    entry: dict[str, Any]

    @property
    def tags(self) -> list[str]:
        """Tags that people gave."""
        return list(self.entry["tags"])

    @property
    def maybe(self) -> list[str]:
        """Tags that nobody can be sure of."""
        return list(self.entry.get("maybe", ()))

    @property
    def captions(self) -> list[str]:
        """Sentences that people wrote about the photo."""
        return list(self.entry.get("captions", ()))

    def sha256(self) -> str:
        """Of the file's bytes."""
        return hashlib.sha256(self.path.read_bytes()).hexdigest()

    def perceptual_hash(self) -> int:
        """Of the decoded photo, as the product computes it."""
        image, _ = decode(self.path, exif_orientation=True, alpha="white", max_pixels=10**8, max_bytes=10**8)
        return perceptual_hash(image)


def read_set(data: Path, name: str, split: str | None = None) -> list[LabelledPhoto]:
    """Reads one labelled set.

    Raises:
        InputError: there is no such set, or a line is malformed; names file and line.
    """
    file = data / name / "labels.jsonl"
    if not file.is_file():
        raise InputError(f"{file} is missing: give the folder that holds the labelled sets, one folder each.")
    photos = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            entry = json.loads(line)
            photo = LabelledPhoto(name, data / name / "images" / entry["file"], entry["split"], entry)
            _ = photo.tags
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{file}, line {number}: not a labelled photo ({error}).") from None
        if split is None or photo.split == split:
            photos.append(photo)
    return photos


def set_tags(data: Path, name: str) -> list[str]:
    """All tags that a set is labelled with, sorted: those of `tags.txt`, else those that occur."""
    listed = data / name / "tags.txt"
    if listed.is_file():
        return sorted({line.strip() for line in listed.read_text(encoding="utf-8").splitlines() if line.strip()})
    return sorted({tag for photo in read_set(data, name) for tag in photo.tags})


def label_matrix(photos: Sequence[LabelledPhoto], tags: Sequence[str]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """What a set itself says, for measuring: labels and known, (N, L) each, by the set's own tag names."""
    index = {tag: column for column, tag in enumerate(tags)}
    labels = np.zeros((len(photos), len(tags)), dtype=np.bool_)
    known = np.ones_like(labels)
    for row, photo in enumerate(photos):
        labels[row, [index[tag] for tag in photo.tags if tag in index]] = True
        known[row, [index[tag] for tag in photo.maybe if tag in index]] = False
    return labels, known


class Labeller:
    """Translates what a set says about a photo into states (1 present, 0 absent, -1 unknown) of a vocabulary's tags."""

    def __init__(
        self, data: Path, vocabulary: Vocabulary, classes_of_tags: Sequence[Sequence[int]], sets: Iterable[str]
    ) -> None:
        self._vocabulary = vocabulary
        self._find = vocabulary.find
        self._parser = CaptionParser(vocabulary)
        self._row = {tag.name: row for row, tag in enumerate(vocabulary)}
        self._broader = [[self._row[name] for name in tag.hypernyms if name in self._row] for tag in vocabulary]
        # A photo labelled with one class may show people, clothes or a landscape besides: only these tags are absent.
        self._grounded = np.array(
            [
                len(classes) > 0
                and (tag.category in ("animal", "food") or (tag.category == "object" and len(classes) < 12))
                for tag, classes in zip(vocabulary, classes_of_tags, strict=True)
            ]
        )
        self._tags_of_class: dict[int, list[int]] = {}
        for row, classes in enumerate(classes_of_tags):
            for number in classes:
                self._tags_of_class.setdefault(number, []).append(row)
        self._person = self._find("person")
        self._people = {row for row, tag in enumerate(vocabulary) if tag.category == "person"}
        self._listed = {name: self._rows(set_tags(data, name)) for name in sets if name != "imagenet_samples"}

    def states(self, photo: LabelledPhoto) -> NDArray[np.int8]:
        """(L,) int8."""
        if "imagenet_index" in photo.entry:
            return self._of_class(int(photo.entry["imagenet_index"]))
        listed = self._listed[photo.set_name]
        states = np.full(len(self._vocabulary), ABSENT if photo.captions else UNKNOWN, dtype=np.int8)
        for row, count in Counter(row for text in photo.captions for row in self._parser.rows(text)).items():
            states[row] = PRESENT if count >= 2 else UNKNOWN
        states[listed] = ABSENT
        states[self._rows(photo.maybe)] = UNKNOWN
        states[self._rows(photo.tags)] = PRESENT
        self._close(states, exhaustive=set(listed) if not photo.maybe and "maybe" not in photo.entry else set())
        return states

    def _close(self, states: NDArray[np.int8], exhaustive: set[int]) -> None:
        """Broader tags of a present tag are not absent; they are present unless the set's own labels speak of them."""
        hints = {row for row in np.flatnonzero(states != ABSENT) if states[row] == PRESENT or row not in exhaustive}
        for row in hints:
            broader = list(self._broader[row])
            if row in self._people and self._person is not None:
                broader.append(self._person)
            for wide in broader:
                if wide in exhaustive or states[wide] == PRESENT or wide == row:
                    continue
                certain = states[row] == PRESENT and bool(exhaustive) and states[wide] == UNKNOWN
                if certain:
                    states[wide] = PRESENT
                elif states[wide] == ABSENT and (states[row] == PRESENT or (row in hints and not exhaustive)):
                    states[wide] = UNKNOWN

    def _of_class(self, number: int) -> NDArray[np.int8]:
        states = np.full(len(self._vocabulary), UNKNOWN, dtype=np.int8)
        states[self._grounded] = ABSENT
        own = self._tags_of_class.get(number, [])
        for row in own:
            for wide in self._broader[row]:
                states[wide] = PRESENT
        states[own] = PRESENT
        return states

    def _rows(self, names: Iterable[str]) -> list[int]:
        return [row for row in map(self._find, names) if row is not None]


def related_tags(vocabulary: Vocabulary, names: Iterable[str]) -> set[int]:
    """Rows of the named tags, of those that mean the same and of all broader ones: nothing may leak through them."""
    row_of = {tag.name: row for row, tag in enumerate(vocabulary)}
    rows = {row for row in map(vocabulary.find, names) if row is not None}
    closed = set(rows)
    for row in rows:
        tag = vocabulary[row]
        closed.update(row_of[name] for name in tag.hypernyms if name in row_of)
        closed.update(found for found in map(vocabulary.find, tag.synonyms) if found is not None)
    words = {word for row in rows for word in (vocabulary[row].name, *vocabulary[row].synonyms)}
    closed.update(row for row, tag in enumerate(vocabulary) if words & {tag.name, *tag.synonyms})
    return closed
