"""The text format of the label system's word lists.

# title: ...                      comment lines; `title`, `origin` and `terms` are given for every list
[animal]                          category of what follows; without one the category is found later
dog = canine = hound, puppy       tags, separated by commas; after "=" synonyms
crane (bird)                      a gloss tells two tags of one name apart; shown only where that is needed
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from ram_backend.errors import VocabularyError
from ram_backend.vocabulary.tags import CATEGORIES, read_text

_GLOSSED = re.compile(r"(?P<name>.+?) \((?P<gloss>[^)]+)\)")


@dataclass(frozen=True)
class Entry:
    """One tag of a word list."""

    name: str
    gloss: str | None = None
    synonyms: tuple[str, ...] = ()
    category: str | None = None

    @property
    def full_name(self) -> str:
        """The name with its gloss, which tells it apart from others."""
        return self.name if self.gloss is None else f"{self.name} ({self.gloss})"

    def renamed(self, name: str) -> Entry:
        """The same entry under another name, which may have a gloss."""
        bare, gloss = _split_gloss(name)
        return replace(self, name=bare, gloss=gloss)


def _split_gloss(name: str) -> tuple[str, str | None]:
    match = _GLOSSED.fullmatch(name)
    return (match["name"], match["gloss"]) if match else (name, None)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        if line.strip() and not line.startswith("#"):
            yield number, line.strip()


def read_word_list(path: Path) -> list[Entry]:
    """Reads one list.

    Raises:
        VocabularyError: an unknown category or an empty word; names file and line.
    """
    entries = []
    category = None
    for number, line in _lines(path):
        if line.startswith("["):
            category = line.strip("[]")
            if category not in CATEGORIES:
                raise VocabularyError(f"{path}, line {number}: unknown category {category!r}. Use one of {CATEGORIES}.")
            continue
        for part in line.split(","):
            words = [word.strip() for word in part.split("=")]
            if not all(words):
                raise VocabularyError(f"{path}, line {number}: an empty word in {part!r}. Remove the comma or '='.")
            name, gloss = _split_gloss(words[0])
            synonyms = tuple(_split_gloss(word)[0] for word in words[1:])
            entries.append(Entry(name, gloss, synonyms, category))
    return entries


def read_words(path: Path) -> list[str]:
    """Words separated by commas or line ends."""
    return [word.strip() for _, line in _lines(path) for word in line.split(",") if word.strip()]


def read_pairs(path: Path, mark: str) -> list[tuple[str, list[str]]]:
    """Lines of `key <mark> word, word`.

    Raises:
        VocabularyError: a line without the mark; names file and line.
    """
    pairs = []
    for number, line in _lines(path):
        key, found, rest = line.partition(mark)
        words = [word.strip() for word in rest.split(",") if word.strip()]
        if not found or not words:
            raise VocabularyError(f"{path}, line {number}: expected 'word {mark} word, word'. Correct that line.")
        pairs.append((key.strip(), words))
    return pairs
