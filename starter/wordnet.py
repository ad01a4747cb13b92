"""Senses of WordNet 3.0 for the label system's names: `python -m starter.wordnet FOLDER` writes `wordnet.txt` again.

Run it once after the word lists have changed. FOLDER has WordNet's dictionary
files (`data.noun`, `index.noun`; Debian's `wordnet-base`, about 20 MB).
`wordnet.txt` has a row per name: name, synset (offset of the noun),
lexicographer file, offsets of all broader synsets (nearest first), and the
other words of the synset for which it is the most frequent sense.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from ram_backend.vocabulary.label_system import CATEGORY_OF_FILE, SOURCES, Sense, closure, merged_lists, read_pairs
from ram_backend.vocabulary.tags import read_text

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


def extract(folder: Path, sources: Path = SOURCES) -> None:
    """Writes `wordnet.txt` in `sources`: the first sense that fits a tag's category, or the one in `senses.txt`."""
    wordnet, senses = WordNet(folder), []
    chosen = {name: synsets[0] for name, synsets in read_pairs(sources / "senses.txt", "=")}
    for draft in merged_lists(sources):
        word, _, number = chosen.get(draft.name, "").partition("#")
        words = [word] if word else [draft.name.split(" (")[0], *draft.synonyms]
        found = [sense for each in words for sense in wordnet.senses(each)]
        fitting = CATEGORY_OF_FILE if draft.category is None else COMPATIBLE_FILES[draft.category]
        usable = found[int(number) - 1 :] if number else [sense for sense in found if sense.file in fitting]
        senses += [(draft.name, sense) for sense in usable[:1] if word != "none"]
    write_senses(sources / "wordnet.txt", senses, {sense.synset for _, sense in senses})


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


if __name__ == "__main__":
    extract(Path(sys.argv[1]))
