"""RAM's prompt ensemble: 63 sentences around a tag, for CLIP.

The released label embeddings come from the same sentences, which were first
published for ViLD (Gu et al. 2021).
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

RULES = 2
"""To be raised with every change that gives other sentences."""

_QUALITIES = ("good", "bad")
_KINDS = ("nice", "cool", "weird", "small", "large", "clean", "dirty")
_PHOTOS = ("bright", "dark")
_DEGRADED = ("low resolution", "cropped", "close-up", "jpeg corrupted", "blurry", "pixelated", "black and white")
_MATERIALS = ("a plastic", "a toy", "a plushie", "a cartoon", "an embroidered")

TEMPLATES = (
    *(f"There is {which} {{tag}} in the scene." for which in ("{article}", "the")),
    *(f"a photo of {which} {{tag}} in the scene." for which in ("{article}", "the", "one")),
    *(f"itap of {which} {{tag}}." for which in ("{article}", "my", "the")),  # "I took a picture"
    *(f"a photo of {which} {{tag}}." for which in ("{article}", "my", "the", "one", "many")),
    *(f"a {quality} photo of {which} {{tag}}." for quality in _QUALITIES for which in ("{article}", "the")),
    *(f"a photo of {which} {kind} {{tag}}." for kind in _KINDS for which in ("a", "the")),
    *(f"a {light} photo of {which} {{tag}}." for light in _PHOTOS for which in ("{article}", "the")),
    *(f"a photo of {which} hard to see {{tag}}." for which in ("a", "the")),
    *(f"a {state} photo of {which} {{tag}}." for state in _DEGRADED for which in ("{article}", "the")),
    *(f"{which} {{tag}}." for what in _MATERIALS for which in (what, f"the {what.split()[1]}")),
    *(f"a painting of {which} {{tag}}." for which in ("the", "a")),
)
"""With `{tag}` where the tag goes, and `{article}` for "a" or "an"."""


def recipe_id() -> str:
    """Short digest of templates and rules: part of an encoder's id."""
    return hashlib.sha256("\n".join((str(RULES), *TEMPLATES)).encode()).hexdigest()[:8]


def spoken(tag: str) -> str:
    """The tag in a sentence: "Traffic_light." -> "traffic light"."""
    return " ".join(tag.lower().replace("_", " ").replace("/", " or ").strip().rstrip(".").split())


def prompts(tag: str) -> list[str]:
    """The 63 sentences of one tag.

    As in RAM's code, "an" stands before a tag whose first letter, as it is
    written, is one of a, e, i, o, u ("Apple" has "a"), and "This is " before a
    sentence that begins with the letters "a" or "the".
    """
    word = spoken(tag)
    article = "an" if tag.strip()[:1] in set("aeiou") else "a"

    sentences = []
    for template in TEMPLATES:
        sentence = template.replace("{article}", article).replace("{tag}", word)
        begins = "This is " if sentence.startswith(("a", "the")) else ""
        sentences.append(begins + sentence)
    return sentences


def unit_rows(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Embeddings (N, d) brought to length 1, float32; a row of zeros stays."""
    lengths: NDArray[np.float32] = np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.float32(1e-12))
    return np.divide(rows, lengths, dtype=np.float32)
