"""Normalisation and stemming of tag names, for look-up only.

A proposal of `base_forms` counts only where the vocabulary knows it, so a wrong
one ("gas" -> "ga") is harmless. Words whose reduction would be a *different*
common word ("glasses" -> "glass", "earring" -> "ear") are listed and left alone.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

_SEPARATORS = re.compile(r"[\s_\-/\u2010-\u2015\u2212]+")
_APOSTROPHES = re.compile("['`\u2018\u2019\u02bc]")
_VOWEL = re.compile(r"[aeiouy]")

# Plurals that name another thing than their singular, and words like plurals.
_NOT_PLURAL = frozenset(
    str.split("""
    glasses eyeglasses shorts news goods woods customs spectacles briefs slacks pants underpants tights clothes
    shades boxers stockings works arts species series chassis tennis bus gas glass grass lens axis chess iris
    cactus canvas atlas christmas octopus walrus hibiscus asparagus citrus hummus molasses swiss dominoes
    checkers billiards darts cards blues greens
""")
)

# Words in -ing or -ed whose verb is not what one sees.
_NOT_VERB = frozenset(
    str.split("""
    earring building ceiling wedding clothing railing morning evening string icing lightning pudding bedding
    sibling duckling sapling seedling dumpling sling spring wing ring king thing herring awning viking sterling
    gosling starling lighting stuffing topping filling dressing frosting flooring siding crossing landing
    opening clearing setting wiring piping scaffolding plumbing moped naked aged sacred wicked hundred infrared
    bobsled biped quadruped bed shed sled red
""")
)

_IRREGULAR_NOUNS = {
    "men": "man", "women": "woman", "children": "child", "people": "person", "geese": "goose", "mice": "mouse",
    "feet": "foot", "teeth": "tooth", "oxen": "ox", "lice": "louse", "dice": "die", "cacti": "cactus",
    "fungi": "fungus", "octopi": "octopus", "hippopotami": "hippopotamus", "oases": "oasis", "axes": "axe",
    "vertebrae": "vertebra", "antennae": "antenna", "larvae": "larva", "stadia": "stadium", "aquaria": "aquarium",
    "bacteria": "bacterium", "radii": "radius", "stimuli": "stimulus", "alumni": "alumnus", "nuclei": "nucleus",
    "indices": "index", "matrices": "matrix", "vertices": "vertex", "appendices": "appendix", "crises": "crisis",
    "theses": "thesis", "leaves": "leaf", "loaves": "loaf", "thieves": "thief", "hooves": "hoof",
    "scarves": "scarf", "dwarves": "dwarf", "passersby": "passerby", "brethren": "brother",
    "bureaux": "bureau", "skis": "ski",
    "chateaux": "chateau", "plateaux": "plateau", "tableaux": "tableau", "quizzes": "quiz",
}  # fmt: skip

# Past forms that are no common noun or adjective (so no "saw", "felt").
_IRREGULAR_VERBS = {
    "ran": "run", "sat": "sit", "stood": "stand", "rode": "ride", "ridden": "ride", "swam": "swim", "swum": "swim",
    "flew": "fly", "flown": "fly", "drove": "drive", "driven": "drive", "ate": "eat", "eaten": "eat",
    "drank": "drink", "drunk": "drink", "sang": "sing", "sung": "sing", "slept": "sleep", "threw": "throw",
    "thrown": "throw", "caught": "catch", "held": "hold", "wore": "wear", "worn": "wear", "blew": "blow",
    "blown": "blow", "swung": "swing", "hung": "hang", "dug": "dig", "fought": "fight", "knelt": "kneel",
    "leapt": "leap", "wrote": "write", "written": "write", "drew": "draw", "drawn": "draw", "slid": "slide",
    "spun": "spin", "shook": "shake", "shaken": "shake", "swept": "sweep", "taught": "teach", "bought": "buy",
    "sold": "sell", "grew": "grow", "grown": "grow", "gave": "give", "given": "give", "took": "take",
    "taken": "take", "went": "go", "gone": "go", "came": "come", "made": "make", "built": "build", "fed": "feed",
    "led": "lead", "met": "meet", "lit": "light", "shot": "shoot", "stuck": "stick", "struck": "strike",
    "broken": "break", "broke": "break", "frozen": "freeze", "froze": "freeze", "fallen": "fall", "woken": "wake",
    "woke": "wake", "lying": "lie", "dying": "die", "tying": "tie", "skiing": "ski", "skied": "ski",
    "bitten": "bite", "hidden": "hide", "hid": "hide", "torn": "tear", "tore": "tear", "crept": "creep",
}  # fmt: skip


@lru_cache(maxsize=65536)
def fold(text: str) -> str:
    """Key under which spellings of one word meet.

    Case, accents and apostrophes go; underscores, hyphens, slashes and runs of
    whitespace become one space: "T-Shirt" -> "t shirt", "Café" -> "cafe".
    """
    decomposed = unicodedata.normalize("NFKD", text.casefold())
    plain = "".join(letter for letter in decomposed if not unicodedata.combining(letter))
    return _SEPARATORS.sub(" ", _APOSTROPHES.sub("", plain)).strip()


def joined(key: str) -> str:
    """A folded key without its spaces: "hot dog" -> "hotdog"."""
    return key.replace(" ", "")


def _singulars(word: str) -> list[str]:
    """Possible singulars of one lower-case word, the likeliest first."""
    if word in _IRREGULAR_NOUNS:
        return [_IRREGULAR_NOUNS[word]]
    for ending, singular in (("men", "man"), ("people", "person"), ("children", "child")):
        if word.endswith(ending):
            return [word.removesuffix(ending) + singular]
    regular = word.endswith("s") and not word.endswith(("ss", "us", "is"))
    if word in _NOT_PLURAL or len(word) < 4 or not regular:
        return []

    found = []
    if word.endswith("ies"):
        found.append(word[:-3] + "y")
    if word.endswith("ves"):
        found += [word[:-3] + "f", word[:-3] + "fe"]
    if word.endswith(("ses", "xes", "zes", "ches", "shes", "oes")):
        found.append(word[:-2])
    return [*found, word[:-1]]


def _verb_bases(word: str) -> list[str]:
    """Possible base forms of one lower-case word, the likeliest first."""
    if word in _IRREGULAR_VERBS:
        return [_IRREGULAR_VERBS[word]]
    if word in _NOT_VERB:
        return []
    if word.endswith("ied"):
        return [word[:-3] + "y", word[:-1]]
    regular = word.endswith("ing") or (word.endswith("ed") and not word.endswith("eed"))
    stem = word[: -3 if word.endswith("ing") else -2] if regular else ""
    if len(stem) < 2 or not _VOWEL.search(stem):
        return []
    doubled = len(stem) > 2 and stem[-1] == stem[-2] and stem[-1] not in "aeiou"
    return [stem[:-1], stem] if doubled else [stem, stem + "e"]  # "runn" -> run, "rid" -> ride, "play" -> play


@lru_cache(maxsize=65536)
def singular_forms(key: str) -> tuple[str, ...]:
    """Folded keys that `key` may be the plural of, the likeliest first.

    Only one word is reduced: the one before " of " ("glasses of wine" -> "glass
    of wine"), else the last one ("fire hydrants" -> "fire hydrant").
    """
    words = key.split(" ")
    position = words.index("of", 1) - 1 if "of" in words[1:] else len(words) - 1
    return tuple(_replaced(words, position, word) for word in _singulars(words[position]))


@lru_cache(maxsize=65536)
def verb_forms(key: str) -> tuple[str, ...]:
    """Keys that `key` may be a verb form of: "riding a bike" -> "ride a bike"."""
    words = key.split(" ")
    return tuple(_replaced(words, 0, word) for word in _verb_bases(words[0]))


def base_forms(key: str) -> tuple[str, ...]:
    """Keys that `key` may be an inflection of: singulars, then verbs; not itself."""
    return tuple(form for form in (*singular_forms(key), *verb_forms(key)) if form != key)


def _replaced(words: list[str], position: int, word: str) -> str:
    return " ".join((*words[:position], word, *words[position + 1 :]))
