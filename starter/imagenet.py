"""The 1,000 classes that the starter's encoder was trained on, and which tags they are evidence for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from ram_backend.errors import BundleDamaged
from ram_backend.models.starter.components import CLASSES
from ram_backend.vocabulary.tags import Vocabulary

FILE = Path(__file__).with_name("imagenet_classes.tsv")


@dataclass(frozen=True)
class ImageNetClass:
    """One output of the classifier.

    Attributes:
        synset: WordNet 3.0 offset, 8 digits (ImageNet's "n" + synset).
        words: WordNet's words for it, the usual one first.
        gloss: WordNet's definition.
        broader: synsets of all broader classes, nearest first.
        name: what people call it.
    """

    synset: str
    words: tuple[str, ...]
    gloss: str
    broader: tuple[str, ...]
    name: str

    @property
    def description(self) -> str:
        """The text that stands for the class in a text encoder."""
        return f"{self.words[0]}: {self.gloss}"


@lru_cache(maxsize=1)
def imagenet_classes() -> tuple[ImageNetClass, ...]:
    """All classes, in the order of the classifier's outputs.

    Raises:
        BundleDamaged: the list is not whole.
    """
    lines = [line for line in FILE.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    classes = []
    for line in lines:
        synset, words, gloss, broader, name = line.split("\t")
        classes.append(ImageNetClass(synset, tuple(words.split(", ")), gloss, tuple(broader.split()), name))
    if len(classes) != CLASSES:
        raise BundleDamaged(f"{FILE} lists {len(classes)} classes instead of {CLASSES}: check the file out again.")
    return tuple(classes)


def classes_of_tags(vocabulary: Vocabulary, synsets: Mapping[str, tuple[str, tuple[str, ...]]]) -> list[list[int]]:
    """Finds for each tag the classes that are kinds of it ("dog": 118 breeds).

    A class belongs to a tag if the tag's synset is the class's or broader, or if the class has the tag's name or a
    name that the vocabulary knows as narrower than the tag.

    Args:
        vocabulary: L tags.
        synsets: tag name -> (its synset, broader synsets); names without a noun sense are missing.

    Returns:
        L lists of class numbers, ascending, empty where no class is a kind of the tag.
    """
    by_synset: dict[str, list[int]] = {}
    for number, item in enumerate(imagenet_classes()):
        for synset in (item.synset, *item.broader):
            by_synset.setdefault(synset, []).append(number)
    found: list[set[int]] = [
        set(by_synset.get(synsets[tag.name][0], ())) if tag.name in synsets else set() for tag in vocabulary
    ]
    index = {tag.name: row for row, tag in enumerate(vocabulary)}
    for number, row in enumerate(vocabulary.resolve([item.name for item in imagenet_classes()])):
        if row is None:
            continue
        found[row].add(number)
        for broader in vocabulary[row].hypernyms:
            if broader in index:
                found[index[broader]].add(number)
    return [sorted(classes) for classes in found]
