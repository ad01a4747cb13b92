"""Sources of the label system: word lists, and senses of WordNet 3.0.

A word list is text:

    # title: ...                      comment lines; `title`, `origin` and `terms` are given for every list
    [animal]                          category of what follows; without one the category is found later
    dog = canine = hound, puppy       tags, separated by commas; after "=" synonyms
    crane (bird)                      a gloss tells two tags of one name apart; shown only where that is needed

WordNet's dictionary files (`data.noun`, `index.noun`; Debian's `wordnet-base`,
about 20 MB) are read once by whoever changes the word lists; what the build
needs of them is in `sources/wordnet.txt`, one row per name: name, synset
(offset of the noun), lexicographer file, offsets of all broader synsets
(nearest first), and the other words of the synset for which it is the most
frequent sense.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from ram_backend.errors import VocabularyError
from ram_backend.vocabulary.tags import CATEGORIES, read_text

# Numbers of lexicographer files (WordNet's lexnames(5WN)) -> category of a tag.
_CATEGORY_OF_FILE = {
    4: "action", 5: "animal", 6: "object", 7: "attribute", 8: "object", 11: "event", 13: "food", 15: "scene",
    17: "scene", 18: "person", 19: "scene", 20: "plant", 27: "material",
}  # fmt: skip
_COMPATIBLE = {
    "object": {6, 8, 10, 17, 19, 21, 25},
    "scene": {6, 15, 17, 19, 26, 28},
    "animal": {5},
    "plant": {20},
    "food": {13},
    "person": {18, 14, 8},
    "material": {27, 6},
    "action": {4, 11},
    "event": {4, 11, 14, 28},
    "attribute": {7},
    "color": {7},
    "other": {10, 6},
}
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
        VocabularyError: an unknown category or an empty word; names file and
            line.
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


@dataclass(frozen=True)
class Sense:
    """One noun synset: its offset, lexicographer file, the offsets of all broader ones (nearest first) and its words.

    `words` are lower-case words whose most frequent sense this is, so that they
    may stand for it without doubt.
    """

    synset: str
    file: int
    ancestors: tuple[str, ...]
    words: tuple[str, ...] = ()

    @property
    def category(self) -> str:
        """The category that a tag of this sense has when no list says another."""
        return _CATEGORY_OF_FILE.get(self.file, "other")

    def fits(self, category: str | None) -> bool:
        """Whether a tag of `category` may have this sense; None: any sense of something that can be seen."""
        return self.file in (_CATEGORY_OF_FILE if category is None else _COMPATIBLE[category])


class WordNet:
    """The nouns of a WordNet dictionary folder."""

    def __init__(self, folder: Path) -> None:
        """Reads `data.noun` and `index.noun`; VocabularyError where one is missing."""
        self._synsets: dict[str, tuple[int, tuple[str, ...], list[str]]] = {}
        """Offset -> (lexicographer file, offsets one step up, words)."""
        for line in _records(folder / "data.noun"):
            fields = line.split(" | ")[0].split()
            count = int(fields[3], 16)
            words = [word.replace("_", " ") for word in fields[4 : 4 + 2 * count : 2]]
            pointers = fields[5 + 2 * count :]
            up = tuple(pointers[at + 1] for at in range(0, 4 * int(fields[4 + 2 * count]), 4) if pointers[at][0] == "@")
            self._synsets[fields[0]] = (int(fields[1]), up, words)
        rows = (line.split() for line in _records(folder / "index.noun"))
        self._senses = {fields[0].replace("_", " "): fields[-int(fields[2]) :] for fields in rows}

    def sense(self, synset: str) -> Sense:
        """The sense with that offset."""
        file, _, words = self._synsets[synset]
        plain = tuple(word for word in words if word.islower() and self._senses[word][0] == synset)
        return Sense(synset, file, closure(synset, lambda offset: self._synsets[offset][1]), plain)

    def senses(self, word: str) -> list[Sense]:
        """Noun senses of a lower-case word, the most frequent first; empty where it is unknown."""
        return [self.sense(offset) for offset in self._senses.get(word, ())]


def _records(path: Path) -> Iterator[str]:
    """Lines of a dictionary file without its licence, whose lines begin with a space."""
    return (line for line in read_text(path).splitlines() if not line.startswith(" "))


def closure(start: str, above: Callable[[str], Iterable[str]]) -> tuple[str, ...]:
    """Everything above `start`, breadth first; with `start` itself where it is above itself."""
    found: dict[str, None] = {}
    layer = list(above(start))
    while layer:
        found.update(dict.fromkeys(layer))
        layer = [up for one in layer for up in above(one) if up not in found]
    return tuple(found)


def read_senses(path: Path) -> dict[str, Sense]:
    """Reads `sources/wordnet.txt`: name -> sense.

    Raises:
        VocabularyError: a malformed row; names the line.
    """
    senses = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if line.startswith("#"):
            continue
        fields = line.split("\t")
        if len(fields) != 5 or not fields[2].isdigit():
            raise VocabularyError(f"{path}, line {number}: not name, synset, file, ancestors, words. Extract it again.")
        words = tuple(fields[4].split("|")) if fields[4] else ()
        senses[fields[0]] = Sense(fields[1], int(fields[2]), tuple(fields[3].split()), words)
    return senses


def write_senses(path: Path, senses: Iterable[tuple[str, Sense]], needed: set[str]) -> None:
    """Writes `sources/wordnet.txt`, of the ancestors only those in `needed`."""
    rows = [
        f"{name}\t{sense.synset}\t{sense.file}\t{' '.join(a for a in sense.ancestors if a in needed)}"
        f"\t{'|'.join(word for word in sense.words if word != name)}"
        for name, sense in sorted(senses, key=lambda pair: pair[0])
    ]
    head = (
        "# name, synset, lexicographer file, broader synsets that are tags too, words; from WordNet 3.0 (Princeton)\n"
    )
    path.write_text(head + "\n".join(rows) + "\n", encoding="utf-8")
