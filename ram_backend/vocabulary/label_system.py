"""Builder of the label system: word lists, WordNet synonyms and hypernyms.

`build_label_system` merges the named lists in `sources/` in a fixed order;
`label_system.json` beside this module is its result. Where each list comes from
stands in its head, the rules in LABEL_SYSTEM.md. A word list is text:

    # title: ...                  comment; every list has `title`, `origin`, `terms`
    [animal]                      category of what follows; else it is found later
    dog = canine = hound, puppy   tags, separated by commas; after "=" synonyms
    crane (bird)                  a gloss, shown only where a name is not enough
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ram_backend.errors import VocabularyError
from ram_backend.vocabulary.normalisation import fold, singular_forms, verb_forms
from ram_backend.vocabulary.tags import CATEGORIES, Tag, Vocabulary, read_text

SOURCES = Path(__file__).with_name("sources")
SHIPPED = Path(__file__).with_name("label_system.json")

# The order decides spelling and category.
ORDER = (
    "coco", "flickr8k", "clothing_cc0", "people", "animals", "nature", "food", "clothing", "home", "places",
    "qualities", "actions", "cocostuff", "ade20k", "voc", "cityscapes", "openimages", "objects365", "lvis", "places365",
    "food101", "dtd", "pets", "imagenet1k", "caltech101", "flowers102", "kinetics", "captions", "imagenet21k",
)  # fmt: skip

CATEGORY_OF_FILE = {
    4: "action", 5: "animal", 6: "object", 7: "attribute", 8: "object", 11: "event", 13: "food", 15: "scene",
    17: "scene", 18: "person", 19: "scene", 20: "plant", 27: "material",
}  # fmt: skip
"""Lexicographer file (WordNet's lexnames(5WN)) -> category of a tag."""

_NAMED_IN_WORDNET = ("object", "animal", "plant", "food", "scene", "material")
_GLOSSED = re.compile(r"(?P<name>.+?) \((?P<gloss>[^)]+)\)")


@dataclass(frozen=True)
class Sense:
    """One noun synset: offset, lexicographer file, all broader offsets, nearest first.

    `words` are lower-case ones whose most frequent sense this is.
    """

    synset: str
    file: int
    ancestors: tuple[str, ...]
    words: tuple[str, ...] = ()


@dataclass
class Draft:
    """A tag of a word list, or of several that are being merged."""

    name: str
    gloss: str | None
    category: str | None
    synonyms: list[str] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)
    sense: Sense | None = None

    @property
    def full_name(self) -> str:
        """The name with its gloss, which tells it apart from others."""
        return self.name if self.gloss is None else f"{self.name} ({self.gloss})"


def load_label_system() -> Vocabulary:
    """The label system as it ships."""
    return Vocabulary.load(SHIPPED)


def build_label_system(sources: Path = SOURCES) -> Vocabulary:
    """Builds the label system from the lists of `ORDER` and the rules, tags sorted.

    Raises:
        VocabularyError: a list is missing or malformed, or rules contradict.
    """
    drafts = merged_lists(sources)
    senses = read_senses(sources / "wordnet.txt")
    for draft in drafts:
        draft.sense = senses.get(draft.name)
    _categorise(drafts)
    _add_words(drafts, {fold(word) for word in read_words(sources / "excluded.txt")})
    broader = _broader(drafts, read_words(sources / "broad.txt"), read_pairs(sources / "broader.txt", ":"))
    return Vocabulary(
        Tag(
            draft.name,
            synonyms=tuple(draft.synonyms),
            category=draft.category or "object",
            sources=tuple(draft.sources),
            hypernyms=broader[draft.name],
        )
        for draft in sorted(drafts, key=lambda draft: draft.name)
    )


class _Merger:
    """Drafts by every key under which a later list may mean them."""

    def __init__(self, excluded: set[str], separate: set[str]) -> None:
        self.drafts: list[Draft] = []
        self._excluded = excluded
        self._separate = separate
        self._keys: dict[str, Draft] = {}
        self._singulars: dict[str, Draft] = {}
        self._verbs: dict[str, Draft] = {}
        self._glossed: dict[str, Draft] = {}

    def find(self, key: str, category: str | None) -> Draft | None:
        """The draft of the same word, its singular or plural, or the same action."""
        if key in self._keys or key in self._separate:
            return self._keys.get(key)
        singular = (self._keys[form] for form in singular_forms(key) if form in self._keys)
        if (number := next(singular, self._singulars.get(key))) is not None:
            return number
        if category in (None, "action"):
            for form in (key, *verb_forms(key)):
                found = self._keys.get(form) or self._verbs.get(form)
                if found is not None and found.category == "action":
                    return found
        return self._glossed.get(key) if category is None else None

    def add(self, entry: Draft) -> None:
        """Merges an entry into the draft of the same meaning, or starts one."""
        key = fold(entry.full_name)
        draft = self.find(key, entry.category)
        if draft is None:
            draft = Draft(entry.name, entry.gloss, entry.category)
            self.drafts.append(draft)
            self._claim(key, draft)
            if entry.gloss is not None:
                self._glossed.setdefault(fold(entry.name), draft)
        elif key not in self._keys and fold(draft.name) != key:
            self._synonym(draft, entry.name)
        draft.category = draft.category or entry.category
        draft.sources = list(dict.fromkeys(draft.sources + entry.sources))
        for synonym in entry.synonyms:
            self._synonym(draft, synonym)

    def _synonym(self, draft: Draft, word: str) -> None:
        key = fold(word)
        if key not in self._keys and key not in self._excluded:
            draft.synonyms.append(word)
            self._claim(key, draft)

    def _claim(self, key: str, draft: Draft) -> None:
        self._keys[key] = draft
        for form in singular_forms(key):
            self._singulars.setdefault(form, draft)
        for form in verb_forms(key):
            self._verbs.setdefault(form, draft)


def merged_lists(sources: Path) -> list[Draft]:
    """All lists merged, in order, without senses and excluded words."""
    excluded = {fold(word) for word in read_words(sources / "excluded.txt")}
    separate = {fold(word) for word in read_words(sources / "separate.txt")}
    renamed = {fold(old): new for new, olds in read_pairs(sources / "renamed.txt", "=") for old in olds}
    merger = _Merger(excluded, separate)
    for source in ORDER:
        for entry in read_word_list(sources / f"{source}.txt"):
            entry.name, entry.gloss = _split_gloss(renamed.get(fold(entry.full_name), entry.full_name))
            if fold(entry.full_name) not in excluded:
                merger.add(entry)
    return _named(merger.drafts)


def _named(drafts: list[Draft]) -> list[Draft]:
    """Drops a gloss ("crane (bird)") where the bare name is free; cleans synonyms."""
    bare = {fold(draft.name) for draft in drafts if draft.gloss is None}
    for draft in drafts:
        if draft.gloss is not None and fold(draft.name) in bare:
            draft.name = draft.full_name
        bare.add(fold(draft.name))
    taken = {fold(draft.name) for draft in drafts}
    for draft in drafts:
        free = {fold(synonym): synonym for synonym in draft.synonyms if fold(synonym) not in taken}
        draft.synonyms = list(free.values())
        taken |= free.keys()
    return drafts


def _add_words(drafts: list[Draft], excluded: set[str]) -> None:
    """Adds WordNet's words for the same thing, not for people, as synonyms."""
    taken = {fold(word) for draft in drafts for word in (draft.name, *draft.synonyms)} | excluded
    owner = {draft.sense.synset: draft.name for draft in reversed(drafts) if draft.sense is not None}
    for draft in drafts:
        if draft.sense is None or draft.category not in _NAMED_IN_WORDNET or owner[draft.sense.synset] != draft.name:
            continue
        for word in draft.sense.words:
            key = fold(word)
            if key not in taken and not taken.intersection(singular_forms(key)):
                taken.add(key)
                draft.synonyms.append(word)


def _head(name: str) -> str | None:
    """The head of a phrase: "beer bottle" -> "bottle", "slice of pizza" has none."""
    words = name.split(" ")
    return words[-1] if len(words) > 1 and "of" not in words and "(" not in name and "and" not in words else None


def _categorise(drafts: list[Draft]) -> None:
    """Missing categories: of the sense, else of the head word, else "object"."""
    for draft in drafts:
        if draft.category is None and draft.sense is not None:
            draft.category = CATEGORY_OF_FILE.get(draft.sense.file, "other")
    known = {draft.name: draft.category for draft in drafts}
    for draft in drafts:
        draft.category = draft.category or known.get(_head(draft.name) or "") or "object"


def _broader(
    drafts: list[Draft], broad: Iterable[str], pairs: Iterable[tuple[str, list[str]]]
) -> dict[str, tuple[str, ...]]:
    """All broader tags, nearest first, by own rules, WordNet, and heads of phrases.

    WordNet and heads give only tags that are listed as `broad`: upper words are
    rarely what a person would say.

    Raises:
        VocabularyError: a rule names no tag, or the rules form a cycle.
    """
    tags = {draft.name: draft for draft in drafts}
    allowed = set(broad)
    named = [draft for draft in reversed(drafts) if draft.name in allowed]
    by_synset = {draft.sense.synset: draft.name for draft in named if draft.sense is not None}
    steps: dict[str, list[str]] = defaultdict(list)
    cut: set[tuple[str, str]] = set()
    unknown: set[str] = set()
    for rule, narrower in pairs:
        name = rule.removeprefix("not ")
        unknown.update(f"{word} ({name})" for word in (name, *narrower) if word not in tags)
        for word in narrower:
            if rule.startswith("not "):
                cut.add((word, name))
            else:
                steps[word].append(name)
    if unknown:
        listed = ", ".join(sorted(unknown))
        raise VocabularyError(f"broader.txt: no tags of these names: {listed}. Correct or remove them.")
    for draft in drafts:
        ups = [by_synset[up] for up in (draft.sense.ancestors if draft.sense else ()) if up in by_synset]
        head = _head(draft.name)
        if draft.sense is None and head in allowed and head in tags and tags[head].category == draft.category:
            ups.append(head)
        steps[draft.name] += [up for up in ups if up != draft.name and up not in steps[draft.name]]
    steps = {name: [up for up in ups if (name, up) not in cut] for name, ups in steps.items()}
    broader = {name: closure(name, steps.__getitem__) for name in tags}
    cycle = next((name for name, above in broader.items() if name in above), None)
    if cycle is not None:
        raise VocabularyError(f"{cycle!r} is broader than itself, among {list(broader[cycle])}. Correct broader.txt.")
    return broader


def closure(start: str, above: Callable[[str], Iterable[str]]) -> tuple[str, ...]:
    """Everything above `start`, breadth first, perhaps with `start`."""
    found: dict[str, None] = {}
    layer = list(above(start))
    while layer:
        found.update(dict.fromkeys(layer))
        layer = [up for one in layer for up in above(one) if up not in found]
    return tuple(found)


def _split_gloss(name: str) -> tuple[str, str | None]:
    match = _GLOSSED.fullmatch(name)
    return (match["name"], match["gloss"]) if match else (name, None)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        if line.strip() and not line.startswith("#"):
            yield number, line.strip()


def read_word_list(path: Path) -> list[Draft]:
    """Reads one list; VocabularyError: an unknown category or an empty word."""
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
            synonyms = [_split_gloss(word)[0] for word in words[1:]]
            entries.append(Draft(name, gloss, category, synonyms, [path.stem]))
    return entries


def read_words(path: Path) -> list[str]:
    """Words separated by commas or line ends."""
    return [word.strip() for _, line in _lines(path) for word in line.split(",") if word.strip()]


def read_pairs(path: Path, mark: str) -> list[tuple[str, list[str]]]:
    """Lines of `key <mark> word, word`; VocabularyError: one lacks the mark."""
    pairs = []
    for number, line in _lines(path):
        key, found, rest = line.partition(mark)
        words = [word.strip() for word in rest.split(",") if word.strip()]
        if not found or not words:
            raise VocabularyError(f"{path}, line {number}: expected 'word {mark} word, word'. Correct that line.")
        pairs.append((key.strip(), words))
    return pairs


def read_senses(path: Path) -> dict[str, Sense]:
    """Reads `sources/wordnet.txt`: name -> sense; VocabularyError: a malformed line."""
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
