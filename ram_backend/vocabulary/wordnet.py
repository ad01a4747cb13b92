"""Senses of WordNet 3.0: synset, hypernyms and synonyms of the label system's names.

WordNet's dictionary files (`data.noun`, `index.noun`; Debian's `wordnet-base`,
about 20 MB) are read once by whoever changes the word lists; what the build
needs of them is in `sources/wordnet.txt`, one row per name: name, synset
(offset of the noun), lexicographer file, offsets of all broader synsets
(nearest first), and the other words of the synset for which it is the most
frequent sense.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ram_backend.errors import VocabularyError
from ram_backend.vocabulary.tags import read_text

CATEGORY_OF_FILE = {
    4: "action", 5: "animal", 6: "object", 7: "attribute", 8: "object", 11: "event", 13: "food", 15: "scene",
    17: "scene", 18: "person", 19: "scene", 20: "plant", 27: "material",
}  # fmt: skip
"""Number of a lexicographer file (WordNet's lexnames(5WN)) -> category of a tag."""
COMPATIBLE_FILES = {
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
"""Category of a tag -> files of senses that it may have."""


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

    def senses(self, word: str) -> list[Sense]:
        """Noun senses of a lower-case word, the most frequent first; empty where it is unknown."""
        found = []
        for synset in self._senses.get(word, ()):
            file, _, words = self._synsets[synset]
            plain = tuple(word for word in words if word.islower() and self._senses[word][0] == synset)
            found.append(Sense(synset, file, closure(synset, lambda offset: self._synsets[offset][1]), plain))
        return found


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
