"""Builder of the label system: merge of word lists, WordNet synonyms and hypernyms, into one vocabulary.

`build_label_system` merges the named lists in `sources/` in a fixed order;
`label_system.json` beside this module is its result. Nothing else is needed to
build it again: no network, no other package. What each list is and where it
comes from stands in its head, the rules in LABEL_SYSTEM.md.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from ram_backend.errors import VocabularyError
from ram_backend.vocabulary.normalisation import fold, singular_forms, verb_forms
from ram_backend.vocabulary.tags import Tag, Vocabulary
from ram_backend.vocabulary.word_sources import (
    Entry,
    Sense,
    WordNet,
    closure,
    read_pairs,
    read_senses,
    read_word_list,
    read_words,
    write_senses,
)

SOURCES = Path(__file__).with_name("sources")
SHIPPED = Path(__file__).with_name("label_system.json")

# The order decides which spelling is shown and which category wins: annotated sets, own lists, then class lists.
ORDER = (
    "coco", "flickr8k", "clothing_cc0", "people", "animals", "nature", "food", "clothing", "home", "places",
    "qualities", "actions", "cocostuff", "ade20k", "voc", "cityscapes", "openimages", "objects365", "lvis", "places365",
    "food101", "dtd", "pets", "imagenet1k", "caltech101", "flowers102", "kinetics", "captions", "imagenet21k",
)  # fmt: skip

_NAMED_IN_WORDNET = ("object", "animal", "plant", "food", "scene", "material")


@dataclass
class Draft:
    """A tag that is still being put together."""

    name: str
    gloss: str | None
    category: str | None
    synonyms: list[str] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)
    sense: Sense | None = None


def load_label_system() -> Vocabulary:
    """The label system as it ships."""
    return Vocabulary.load(SHIPPED)


def build_label_system(sources: Path = SOURCES, wordnet: Path | None = None) -> Vocabulary:
    """Builds the label system from its word lists, tags in alphabetical order.

    Args:
        sources: folder with the lists of `ORDER` and the rules.
        wordnet: folder with WordNet 3.0's dictionary files: `wordnet.txt` is
            extracted again first (needed only after the lists have changed).

    Raises:
        VocabularyError: a list is missing or malformed, or two rules contradict
            each other.
    """
    drafts = _named(_gather(sources))
    if wordnet is not None:
        _extract(drafts, WordNet(wordnet), sources)
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
        """The draft that `key` means: same word, its singular or plural, or the same verb where both are actions."""
        if key in self._keys or key in self._separate:
            return self._keys.get(key)
        for form in singular_forms(key):
            if form in self._keys:
                return self._keys[form]
        if key in self._singulars:
            return self._singulars[key]
        if category in (None, "action"):
            for form in (key, *verb_forms(key)):
                found = self._keys.get(form) or self._verbs.get(form)
                if found is not None and found.category == "action":
                    return found
        return self._glossed.get(key) if category is None else None

    def add(self, entry: Entry, source: str) -> None:
        """Merges one entry into the draft that means the same, or starts a new one."""
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
        if draft.category is None:
            draft.category = entry.category
        if source not in draft.sources:
            draft.sources.append(source)
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


def _gather(sources: Path) -> list[Draft]:
    """All lists merged, in order; excluded words are gone, renamed ones have their common name."""
    excluded = {fold(word) for word in read_words(sources / "excluded.txt")}
    separate = {fold(word) for word in read_words(sources / "separate.txt")}
    renamed = {fold(old): new for new, olds in read_pairs(sources / "renamed.txt", "=") for old in olds}
    merger = _Merger(excluded, separate)
    for source in ORDER:
        for entry in read_word_list(sources / f"{source}.txt"):
            name = renamed.get(fold(entry.full_name))
            common = entry if name is None else entry.renamed(name)
            if fold(common.full_name) not in excluded:
                merger.add(common, source)
    return merger.drafts


def _named(drafts: list[Draft]) -> list[Draft]:
    """Drops the gloss of a name ("crane (bird)") where no other tag has the bare one; then cleans the synonyms."""
    bare = {fold(draft.name) for draft in drafts if draft.gloss is None}
    for draft in drafts:
        if draft.gloss is None:
            continue
        if fold(draft.name) in bare:
            draft.name = f"{draft.name} ({draft.gloss})"
        else:
            bare.add(fold(draft.name))
    taken = {fold(draft.name) for draft in drafts}
    for draft in drafts:
        free = []
        for synonym in draft.synonyms:
            if fold(synonym) not in taken:
                taken.add(fold(synonym))
                free.append(synonym)
        draft.synonyms = free
    return drafts


def _extract(drafts: Iterable[Draft], wordnet: WordNet, sources: Path) -> None:
    """Writes `wordnet.txt` for these drafts: the first sense that fits the category, or the one in `senses.txt`."""
    chosen = {name: synsets[0] for name, synsets in read_pairs(sources / "senses.txt", "=")}
    senses = []
    for draft in drafts:
        fixed = chosen.get(draft.name)
        if fixed == "none":
            continue
        if fixed is not None:
            word, _, number = fixed.partition("#")
            senses.append((draft.name, wordnet.senses(word)[int(number) - 1]))
            continue
        words = [draft.name.split(" (")[0], *draft.synonyms]
        found = next((sense for word in words for sense in wordnet.senses(word) if sense.fits(draft.category)), None)
        if found is not None:
            senses.append((draft.name, found))
    write_senses(sources / "wordnet.txt", senses, {sense.synset for _, sense in senses})


def _add_words(drafts: list[Draft], excluded: set[str]) -> None:
    """Adds WordNet's other words for the same thing as synonyms: of things, not of people, and no Latin names."""
    taken = {fold(word) for draft in drafts for word in (draft.name, *draft.synonyms)} | excluded
    owner: dict[str, str] = {}
    for draft in drafts:
        if draft.sense is not None:
            owner.setdefault(draft.sense.synset, draft.name)
    for draft in drafts:
        if draft.sense is None or draft.category not in _NAMED_IN_WORDNET or owner[draft.sense.synset] != draft.name:
            continue
        for word in draft.sense.words:
            key = fold(word)
            if key not in taken and not taken.intersection(singular_forms(key)):
                taken.add(key)
                draft.synonyms.append(word)


def _head(name: str) -> str | None:
    """The word that says what a phrase is: "beer bottle" -> "bottle", "slice of pizza" has none."""
    words = name.split(" ")
    return words[-1] if len(words) > 1 and "of" not in words and "(" not in name and "and" not in words else None


def _categorise(drafts: list[Draft]) -> None:
    """Gives every draft without a category that of its sense, else that of its head word, else "object"."""
    for draft in drafts:
        if draft.category is None and draft.sense is not None:
            draft.category = draft.sense.category
    known = {draft.name: draft.category for draft in drafts}
    for draft in drafts:
        if draft.category is None:
            draft.category = known.get(_head(draft.name) or "") or "object"


def _broader(
    drafts: list[Draft], broad: Iterable[str], pairs: Iterable[tuple[str, list[str]]]
) -> dict[str, tuple[str, ...]]:
    """Names of all broader tags of each tag, nearest first: from own rules, WordNet, and the head of a phrase.

    WordNet and heads give only tags that are listed as `broad`: its upper words
    are rarely what a person would say.

    Raises:
        VocabularyError: a rule names no tag, or the rules form a cycle.
    """
    tags = {draft.name: draft for draft in drafts}
    allowed = set(broad)
    by_synset: dict[str, str] = {}
    for draft in drafts:
        if draft.sense is not None and draft.name in allowed:
            by_synset.setdefault(draft.sense.synset, draft.name)
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
