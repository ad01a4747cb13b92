"""What the label system takes from WordNet 3.0: senses, categories and broader words.

The dictionary files (`data.noun`, `index.noun`; Debian's `wordnet-base`, about 20 MB) are read once by whoever
changes the word lists; what the build needs of them is kept in `sources/wordnet.txt`, one row per name:
name, synset (offset of the noun), lexicographer file, offsets of all broader synsets (nearest first), and the other
words of the synset for which it is the most frequent sense.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ram_backend.errors import VocabularyError

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


@dataclass(frozen=True)
class Sense:
    """One noun synset: its offset, lexicographer file, the offsets of all broader ones (nearest first) and its words.

    `words` are lower-case words whose most frequent sense this is, so that they may stand for it without doubt.
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
        """Takes a folder with `data.noun` and `index.noun`.

        Raises:
            VocabularyError: one of them is missing.
        """
        for name in ("data.noun", "index.noun"):
            if not (folder / name).is_file():
                raise VocabularyError(
                    f"{folder}: no {name}. Install WordNet's files (Debian: wordnet-base) or leave it out."
                )
        self._folder = folder

    @cached_property
    def _senses(self) -> dict[str, list[str]]:
        senses = {}
        for line in (self._folder / "index.noun").read_text(encoding="latin-1").splitlines():
            if line.startswith(" "):
                continue
            fields = line.split()
            senses[fields[0].replace("_", " ")] = fields[-int(fields[2]) :]
        return senses

    @cached_property
    def _synsets(self) -> dict[str, tuple[int, tuple[str, ...], list[str]]]:
        """Offset -> (lexicographer file, offsets one step up, words)."""
        synsets = {}
        for line in (self._folder / "data.noun").read_text(encoding="latin-1").splitlines():
            if line.startswith(" "):
                continue
            fields = line.split(" | ")[0].split()
            count = int(fields[3], 16)
            words = [word.replace("_", " ") for word in fields[4 : 4 + 2 * count : 2]]
            pointers = fields[5 + 2 * count :]
            up = tuple(pointers[at + 1] for at in range(0, 4 * int(fields[4 + 2 * count]), 4) if pointers[at][0] == "@")
            synsets[fields[0]] = (int(fields[1]), up, words)
        return synsets

    def sense(self, synset: str) -> Sense:
        """The sense with that offset."""
        ancestors: dict[str, None] = {}
        layer = list(self._synsets[synset][1])
        while layer:
            ancestors.update(dict.fromkeys(layer))
            layer = [up for offset in layer for up in self._synsets[offset][1] if up not in ancestors]
        file, _, words = self._synsets[synset]
        plain = tuple(word for word in words if word.islower() and self._senses[word][0] == synset)
        return Sense(synset, file, tuple(ancestors), plain)

    def senses(self, word: str) -> list[Sense]:
        """Noun senses of a lower-case word, the most frequent first; empty where it is unknown."""
        return [self.sense(offset) for offset in self._senses.get(word, ())]


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
    """Writes `sources/wordnet.txt`; of the ancestors only those in `needed` (synsets of tags) are needed."""
    rows = [
        f"{name}\t{sense.synset}\t{sense.file}\t{' '.join(a for a in sense.ancestors if a in needed)}"
        f"\t{'|'.join(word for word in sense.words if word != name)}"
        for name, sense in sorted(senses, key=lambda pair: pair[0])
    ]
    head = (
        "# name, synset, lexicographer file, broader synsets that are tags too, words; from WordNet 3.0 (Princeton)\n"
    )
    path.write_text(head + "\n".join(rows) + "\n", encoding="utf-8")
