"""Tag and vocabulary: an ordered, immutable list of tags with forgiving look-up.

Look-up is forgiving, output is not: what was asked is what is shown.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from ram_backend.errors import VocabularyError
from ram_backend.vocabulary.normalisation import base_forms, fold, joined

CATEGORIES = (
    "object", "animal", "plant", "food", "person", "scene", "attribute", "color", "material", "action", "event",
    "other",
)  # fmt: skip


@dataclass(frozen=True)
class Tag:
    """One entry of a vocabulary.

    Attributes:
        name: exactly the string shown.
        synonyms: other words for the same thing; found by look-up, never shown.
        category: one of `CATEGORIES`.
        threshold: in [0, 1]; a score strictly above it means that the tag is
            on.
        sources: short names of the lists that the tag comes from.
        hypernyms: names of broader tags ("golden retriever" -> "dog"), all of
            them, nearest first.

    Raises:
        VocabularyError: empty name, unknown category, threshold out of range.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    name: str
    synonyms: tuple[str, ...] = ()
    category: str = "object"
    threshold: float = 0.5
    sources: tuple[str, ...] = ()
    hypernyms: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.name.strip():
            raise VocabularyError(f"A tag has the name {self.name!r}. Give every tag a non-empty name.")
        if self.category not in CATEGORIES:
            raise VocabularyError(f"Tag {self.name!r} has the category {self.category!r}. Use one of {CATEGORIES}.")
        if not 0 <= self.threshold <= 1:
            raise VocabularyError(f"Tag {self.name!r} has the threshold {self.threshold!r}. Give one between 0 and 1.")


class _File(BaseModel):
    """A vocabulary on disk."""

    format: Literal[1]
    tags: list[Tag]


class Vocabulary(tuple[Tag, ...]):
    """An ordered, immutable list of tags.

    Two tags may have the same name (in Tag2Text's list): a tag is identified by
    its index, and `resolve` gives the k-th asking of a name the k-th such tag.

    Look-up (`find`) goes from strict to loose and stops at the first hit:

    1. the exact name;
    2. the folded name (case, underscore, hyphen, slash, accents, whitespace);
    3. a synonym, exact before folded;
    4. inflection: the asked text is reduced (names before synonyms), then the
       vocabulary's own names and synonyms are (so "sit" finds a tag "sitting");
    5. the same letters written together or apart ("hotdog", "hot dog").

    Within one step the tag with the lowest index wins; within step 4 the
    likelier base form (plural before verb).
    """

    def __new__(cls, tags: Iterable[Tag]) -> Self:
        """Takes the tags in their order; VocabularyError where there is none."""
        made = super().__new__(cls, tags)
        if not made:
            raise VocabularyError("A vocabulary without tags was asked for. Give at least one tag.")
        return made

    @cached_property
    def names(self) -> tuple[str, ...]:
        """All names, in order; a name may occur twice."""
        return tuple(tag.name for tag in self)

    @cached_property
    def thresholds(self) -> np.ndarray:
        """(L,) float32, read-only."""
        values = np.array([tag.threshold for tag in self], dtype=np.float32)
        values.flags.writeable = False
        return values

    def find(self, text: str) -> int | None:
        """Index of the tag that `text` means, by the class's order, or None."""
        index = self._index
        if text in index.exact:
            return index.exact[text][0]
        key = fold(text)
        if not key:
            return None
        bases = base_forms(key)
        strict = ((index.names, (key,)), (index.exact_synonyms, (text,)), (index.synonyms, (key,)))
        inflected = ((index.names, bases), (index.synonyms, bases), (index.bases, (key, *bases)))
        steps = (*strict, *inflected, (index.joined, tuple(map(joined, (key, *bases)))))
        return next((table[form] for table, forms in steps for form in forms if form in table), None)

    def resolve(self, texts: Sequence[str]) -> list[int | None]:
        """Per text the index of the tag that it means, or None.

        The k-th asking of one exact name takes the k-th tag of that name, the
        last one when there are no more.
        """
        turns: Counter[str] = Counter()
        found: list[int | None] = []
        for text in texts:
            same = self._index.exact.get(text)
            found.append(same[min(turns[text], len(same) - 1)] if same else self.find(text))
            turns[text] += 1
        return found

    def save(self, path: Path) -> None:
        """Writes one JSON file, one tag a line; empty lists are left out."""
        entries = [{key: value for key, value in asdict(tag).items() if value != ()} for tag in self]
        lines = ",\n".join(json.dumps(entry, ensure_ascii=False, separators=(",", ":")) for entry in entries)
        path.write_text(f'{{"format":1,"tags":[\n{lines}\n]}}\n', encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Vocabulary:
        """Reads what `save` wrote; VocabularyError names file and place."""
        try:
            return cls(_File.model_validate_json(read_text(path), strict=True).tags)
        except ValidationError as error:
            raise VocabularyError(f"{path}: not a vocabulary of format 1 ({first_error(error)}). Repair it.") from None
        except VocabularyError as error:
            raise VocabularyError(f"{path}: {error}") from None

    @classmethod
    def from_files(cls, tags: Path, thresholds: Path | None = None, *, default_threshold: float = 0.5) -> Vocabulary:
        """Reads RAM's plain lists: one name a line, and as many thresholds in [0, 1].

        Names may repeat; whitespace at their ends (the Chinese list has it) goes.

        Raises:
            VocabularyError: a file is malformed, or two counts differ.
        """
        names = read_names(tags)
        values = [default_threshold] * len(names) if thresholds is None else _read_thresholds(thresholds)
        if len(values) != len(names):
            raise VocabularyError(
                f"{thresholds} has {len(values)} thresholds, {tags} has {len(names)} tags. Give one per tag."
            )
        return cls(
            Tag(name.rstrip(), category="other", threshold=value) for name, value in zip(names, values, strict=True)
        )

    @cached_property
    def _index(self) -> _Index:
        return _Index(self)


class _Index:
    """Look-up tables of one vocabulary; in each the lowest index wins."""

    def __init__(self, tags: Sequence[Tag]) -> None:
        self.exact: dict[str, list[int]] = {}
        self.names: dict[str, int] = {}
        self.exact_synonyms: dict[str, int] = {}
        self.synonyms: dict[str, int] = {}
        for index, tag in enumerate(tags):
            self.exact.setdefault(tag.name, []).append(index)
            self.names.setdefault(fold(tag.name), index)
            for synonym in tag.synonyms:
                self.exact_synonyms.setdefault(synonym, index)
                self.synonyms.setdefault(fold(synonym), index)
        self.bases: dict[str, int] = {}
        self.joined: dict[str, int] = {}
        for table in (self.names, self.synonyms):
            for key, index in table.items():
                for base in base_forms(key):
                    self.bases.setdefault(base, index)
                self.joined.setdefault(joined(key), index)


def read_text(path: Path) -> str:
    """UTF-8 text of a file, without byte order mark; VocabularyError: unreadable."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise VocabularyError(f"{path}: can't be read ({error.strerror}). Check the path.") from None
    except UnicodeDecodeError as error:
        raise VocabularyError(f"{path}: byte {error.start} is not UTF-8. Save the file as UTF-8.") from None


def first_error(error: ValidationError) -> str:
    """Pydantic's first error in one line; places in lists are counted from 1."""
    found = error.errors()[0]
    place = " ".join(str(part + 1) if isinstance(part, int) else part for part in found["loc"])
    return f"{place}: {found['msg']}" if place else found["msg"]


def read_names(path: Path) -> list[str]:
    """The lines of a tag list, untouched; VocabularyError: none, or an empty one."""
    names = read_text(path).splitlines()
    if not names:
        raise VocabularyError(f"{path}: empty. Put one tag on each line.")
    for number, name in enumerate(names, start=1):
        if not name.strip():
            raise VocabularyError(f"{path}, line {number}: empty. Put one tag on each line.")
    return names


def _read_thresholds(path: Path) -> list[float]:
    values = []
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        try:
            values.append(float(line))
        except ValueError:
            values.append(math.nan)
        if not 0 <= values[-1] <= 1:
            raise VocabularyError(f"{path}, line {number}: {line!r} is not a number between 0 and 1. Correct it.")
    return values
