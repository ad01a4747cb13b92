"""Sentences that a tag is put into before CLIP embeds it.

The templates are open_clip's for zero-shot ImageNet, taken from the library; what is done to the tag follows RAM's
recipe: lower case, `_` is a blank, `/` means "or", no dot at the end, "an" before a vowel, and "This is " in front of
what begins with an article.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from functools import cache

RULES = 1
"""Number of the rules in this module; raise it with every change that gives other sentences."""

_SLOT = "{}"
_ARTICLE = re.compile(r"(?<![a-z])(a|A) (?=\{\})")
_BEGINS_WITH_ARTICLE = re.compile(r"(a|an|the) ", re.IGNORECASE)


@cache
def templates() -> tuple[str, ...]:
    """open_clip's zero-shot templates, each with one `{}` where the tag goes."""
    from open_clip import OPENAI_IMAGENET_TEMPLATES

    functions: Sequence[Callable[[str], str]] = OPENAI_IMAGENET_TEMPLATES
    return tuple(function(_SLOT) for function in functions)


def recipe_id() -> str:
    """Short digest of templates and rules: part of an encoder's id."""
    return hashlib.sha256("\n".join((str(RULES), *templates())).encode()).hexdigest()[:8]


def spoken(tag: str) -> str:
    """The tag as it stands in a sentence: "Traffic_light." -> "traffic light", "car/van" -> "car or van"."""
    return " ".join(tag.lower().replace("_", " ").replace("/", " or ").strip().rstrip(".").split())


def prompts(tag: str, chosen: Sequence[str] | None = None) -> list[str]:
    """All sentences of one tag, in the order of the templates.

    Args:
        tag: any text.
        chosen: templates with one `{}` each; None: open_clip's.
    """
    word = spoken(tag)
    article = "an" if word[:1] in set("aeiou") else "a"
    sentences = []
    for template in templates() if chosen is None else chosen:
        sentence = _ARTICLE.sub(f"{article} ", template).replace(_SLOT, word)
        sentences.append(f"This is {sentence}" if _BEGINS_WITH_ARTICLE.match(template) else sentence)
    return sentences
