"""Caption parser: noun phrases, attributes and actions of a sentence to tags, by rules.

The longest phrase in the lexicon or the vocabulary wins: "hot dog" gives no
"dog", and "swimming pool" no "swimming". A word that is noun and verb ("parks
his car", "in two parks") is disambiguated by the adjacent words. Negated phrases
("no people", "without a hat") give no tag.

The lexicon is the label system: its names, synonyms, categories and broader
tags. English only.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest

from ram_backend.errors import VocabularyError
from ram_backend.vocabulary.label_system import load_label_system
from ram_backend.vocabulary.normalisation import fold, singular_forms, verb_forms
from ram_backend.vocabulary.tags import Tag, Vocabulary

LONGEST = 4
"""Words of the longest phrase that is looked up."""

_TOKEN = re.compile(r"[^\W_]+(?:['\u2019][^\W_]+)?|[.,;:!?()]")

_DETERMINERS = frozenset(str.split("""
    a an the this that these those his her their its my our your some any each every another both several many few
    one two three four five six seven eight nine ten all
"""))  # fmt: skip
_PREPOSITIONS = frozenset(str.split("""
    in on at of to for from with by into onto over under above below behind beside between among through across along
    around against near towards toward down up off out inside outside past after before during underneath beneath
    alongside atop within without about upon next away together
"""))  # fmt: skip
_OTHER_FUNCTION_WORDS = frozenset(str.split("""
    and or but nor as while who which whose where when because although though so if than then is are was were be been
    being am has have had having do does did he she it they him them himself herself itself themselves there here very
    too also just not never can could will would may might must should i you we us me someone something other others
"""))  # fmt: skip
_FUNCTION_WORDS = _DETERMINERS | _PREPOSITIONS | _OTHER_FUNCTION_WORDS
_MODALS = frozenset({"to", "can", "could", "will", "would", "may", "might", "must", "should", "do", "does", "did"})
_NOT_INFINITIVE = frozenset(str.split("next close up on down over back out attached tied leading belonging due used"))
"""Before "to" they make it a preposition: "close to shore", "leading to stairs"."""

_NEGATORS = frozenset(str.split("no not without never neither nor none nobody lacking lacks lack minus cannot"))
_NEGATING_PHRASES = ("instead of", "rather than", "free of", "devoid of", "empty of", "absence of", "lack of")
_NOT_NEGATING = ("not only", "no longer", "no doubt", "not just", "no matter")
_END_OF_NEGATION = frozenset(str.split("but while who which that in on at near by under behind beside over across along"
    " through is are was were as where when from inside outside during against around"))  # fmt: skip

_MEASURES = frozenset(str.split("""
    couple pair row line piece bunch number lot lots body set slice edge team series bit kind rest view shot
"""))  # fmt: skip
"""Words that are no tags before "of"."""

_VAGUE = frozenset(str.split("""
    back front side top hand head left right group other large little big small look looks looking show shows
    get make take go full picture photo photograph image background background's camera case game way can light
    lights like fall fast long new old young mean rest point kind area set new stand standing stands hold holds
    holding wear wears wearing worn
"""))  # fmt: skip
"""Single words that say little about what is to be seen, or mean many things."""

_ANIMATE = ("animal", "person")
_THINGS = ("object", "scene", "plant", "food", "event")
_IMITATIONS = ("toy", "fake", "stuffed")
"""A thing after one of these isn't there itself."""
_OPEN = ("action", "attribute", "color")
"""Categories whose words count for others, too: "play guitar" is play and guitar."""


@dataclass(frozen=True)
class _Concept:
    """What a phrase means.

    Attributes:
        row: in the vocabulary; None: it only keeps its words from others.
        category: of the lexicon, or of the tag.
        exact: whether the row is the phrase itself, not its head word.
    """

    row: int | None
    category: str
    exact: bool = True


@dataclass(frozen=True)
class _Match:
    start: int
    end: int
    concept: _Concept


class CaptionParser:
    """Finds the tags of one vocabulary in sentences.

    Args:
        vocabulary: the tags to find, by names, synonyms and inflections. A
            phrase that only the lexicon has stands for its head word ("picnic
            table" -> "table"), a single word for nothing.
        lexicon: None: the label system.
    """

    def __init__(self, vocabulary: Vocabulary, lexicon: Vocabulary | None = None) -> None:
        lexicon = load_label_system() if lexicon is None else lexicon
        self.vocabulary = vocabulary
        self._concepts: dict[str, _Concept] = {}
        categories = {fold(word): tag.category for tag in lexicon for word in (*tag.synonyms, tag.name)}
        own = {fold(vocabulary[row].name): row for row in reversed(range(len(vocabulary)))}
        for tag in vocabulary:
            for word in map(fold, (tag.name, *tag.synonyms)):
                self._concepts.setdefault(word, _Concept(own[fold(tag.name)], categories.get(word, tag.category)))
        for tag in lexicon:
            concept = self._of_lexicon(tag, own, categories)
            for word in (tag.name, *tag.synonyms):
                self._concepts.setdefault(fold(word), concept)
        self._verbs: dict[str, _Concept] = {}
        for key, concept in self._concepts.items():
            for form in (key, *verb_forms(key)):
                if concept.category in ("action", "event", "other"):
                    self._verbs.setdefault(form, concept)

    def parse(self, caption: str) -> list[str]:
        """Names of the tags, in the order of the sentence, each once."""
        return [self.vocabulary[row].name for row in self.rows(caption)]

    def rows(self, caption: str) -> list[int]:
        """Rows of the tags, in the order of the sentence, each once."""
        found = (match.concept.row for match in self._matches(_tokens(caption)))
        return list(dict.fromkeys(row for row in found if row is not None))

    def unknown(self, caption: str) -> list[str]:
        """Nouns ("the new drone flies") that nobody knows, as written."""
        words = _tokens(caption)
        found = []
        for at in range(1, len(words)):
            word, before = words[at], words[at - 1]
            after = words[at + 1] if at + 1 < len(words) else "."
            begins = before in _DETERMINERS or self._is_quality(before) or before in _VAGUE
            ends = after in _FUNCTION_WORDS or not after[0].isalnum() or self._third_person(after) is not None
            plain = word.isalpha() and word not in _FUNCTION_WORDS | _VAGUE and not word.endswith(("ing", "ed", "ly"))
            if begins and ends and plain and self._single(words, at) is None and self._noun(word) is None:
                found.append(word)
        return found

    def _of_lexicon(self, tag: Tag, own: dict[str, int], categories: dict[str, str]) -> _Concept:
        """A tag of the lexicon: itself, else its head word if that is a broader tag."""
        for word in (tag.name, *tag.synonyms):
            key = fold(word)
            verbs = [form for form in verb_forms(key) if categories.get(form, "action") == "action"]
            for form in (key, *singular_forms(key), *verbs):
                if form in own:
                    return _Concept(own[form], tag.category)
        head = fold(tag.name).rpartition(" ")[2]
        return _Concept(own.get(head) if head in map(fold, tag.hypernyms) else None, tag.category, exact=False)

    def _matches(self, words: Sequence[str]) -> Iterator[_Match]:
        denied = self._denied(words)
        found: list[_Match] = []
        at = 0
        while at < len(words):
            match = self._longest(words, at)
            if match is None:
                at += 1
                continue
            verb = self._single(words, at) if match.concept.category in _OPEN and match.end - match.start > 1 else None
            readings = [match] if verb is None else [match, _Match(at, at + 1, verb)]
            found += [each for each in readings if not any(denied[each.start : each.end])]
            at = match.end if verb is None else at + 1
        for match, following in zip_longest(found, found[1:]):
            modifies = (
                following is not None
                and following.start == match.end
                and match.concept.category in _ANIMATE
                and following.concept.category in _THINGS
                and not words[match.end - 1].endswith("'s")
                and not singular_forms(words[match.end - 1])
            )
            imitated = match.start > 0 and words[match.start - 1] in _IMITATIONS
            if not modifies and not imitated:
                yield match

    def _longest(self, words: Sequence[str], at: int) -> _Match | None:
        if words[at] in _FUNCTION_WORDS or not words[at][0].isalnum():
            return None
        for length in range(min(LONGEST, len(words) - at), 1, -1):
            phrase = words[at : at + length]
            if any(not word[0].isalnum() for word in phrase) or phrase[-1] in _FUNCTION_WORDS:
                continue
            key = fold(" ".join(phrase))
            for form in (key, *singular_forms(key)):
                concept = self._concepts.get(form)
                if concept is not None and (concept.exact or not ("of" in phrase or self._is_quality(phrase[0]))):
                    return _Match(at, at + length, concept)
            if verb := _first(self._verbs, (key, *verb_forms(key))):
                return _Match(at, at + length, verb)
        concept = self._single(words, at)
        return None if concept is None else _Match(at, at + 1, concept)

    def _single(self, words: Sequence[str], at: int) -> _Concept | None:
        word = fold(words[at].removesuffix("'s"))
        if word in _VAGUE or (word in _MEASURES and words[at + 1 : at + 2] == ["of"]):
            return None
        noun = _first(self._concepts, (word, *singular_forms(word)))
        verb = _first(self._verbs, (word, *verb_forms(word)))
        if noun is not None and noun.category not in _OPEN and self._is_verb(words, at):
            return verb or self._third_person(word)
        return noun or verb

    def _is_verb(self, words: Sequence[str], at: int) -> bool:
        """Whether a word that may be a noun is a verb, by the words beside it."""
        before = words[at - 1] if at else ""
        after = words[at + 1] if at + 1 < len(words) else "."
        closed = after in _FUNCTION_WORDS or not after[0].isalnum()
        if before == "to":
            infinitive = at > 1 and words[at - 2] not in _NOT_INFINITIVE
            return infinitive and closed and after not in ("of", ".", ",") and not singular_forms(words[at])
        if before in _MODALS or before in ("who", "which"):
            return True
        subject = self._noun(before)
        agrees = bool(singular_forms(words[at])) != bool(singular_forms(before))
        return agrees and closed and subject is not None and subject.category in _ANIMATE

    def _denied(self, words: Sequence[str]) -> list[bool]:
        """Words under a negation: to the end of its phrase, or the next finite verb."""
        denied = [False] * len(words)
        start = None
        for at, word in enumerate(words):
            pair = " ".join(words[at : at + 2])
            if (word in _NEGATORS or word.endswith("n't") or pair in _NEGATING_PHRASES) and pair not in _NOT_NEGATING:
                start = at
                continue
            if start is None:
                continue
            after = words[at + 1] if at + 1 < len(words) else ""
            joins = word in ("and", ",") and (after in _FUNCTION_WORDS or after.endswith("ing")) and after != "or"
            verb = at > start + 2 and self._noun(words[at - 1]) is not None and self._third_person(word) is not None
            copula = word in ("is", "are", "was", "were") and at == start + 1
            if joins or verb or word in ".;:!?()" or (word in _END_OF_NEGATION and not copula):
                start = None
            denied[at] = start is not None
        return denied

    def _third_person(self, word: str) -> _Concept | None:
        """The action of a verb's form in -s."""
        return _first(self._verbs, singular_forms(word))

    def _is_quality(self, word: str) -> bool:
        concept = self._noun(word)
        return concept is not None and concept.category in ("color", "attribute")

    def _noun(self, word: str) -> _Concept | None:
        return None if word in _FUNCTION_WORDS else _first(self._concepts, (word, *singular_forms(word)))


def _first(table: Mapping[str, _Concept], forms: Iterable[str]) -> _Concept | None:
    return next((table[form] for form in forms if form in table), None)


def _tokens(caption: str) -> list[str]:
    return _TOKEN.findall(caption.casefold().replace("\u2019", "'").replace("-", " "))


def vocabulary_of_captions(captions: Iterable[str], min_count: int, lexicon: Vocabulary | None = None) -> Vocabulary:
    """RAM's way to a label system: tags and unknown nouns that `min_count` captions name.

    Raises:
        VocabularyError: none reaches `min_count`.
    """
    lexicon = load_label_system() if lexicon is None else lexicon
    parser = CaptionParser(lexicon, lexicon)
    counts: Counter[int] = Counter()
    new: Counter[str] = Counter()
    for caption in captions:
        counts.update(parser.rows(caption))
        new.update(set(parser.unknown(caption)))
    for word in list(new):
        base = next((form for form in singular_forms(word) if form in new), None)
        if base is not None:
            new[base] += new.pop(word)
    kept = [lexicon[row] for row in sorted(counts) if counts[row] >= min_count]
    names = {tag.name for tag in kept}
    known = [replace(tag, hypernyms=tuple(name for name in tag.hypernyms if name in names)) for tag in kept]
    words = [Tag(word, category="other", sources=("captions",)) for word in sorted(new) if new[word] >= min_count]
    if not known and not words:
        raise VocabularyError(f"No tag stands in {min_count} captions: give more, or a lower count.")
    return Vocabulary([*known, *words])
