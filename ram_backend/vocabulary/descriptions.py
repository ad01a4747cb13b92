"""RAM++'s tag descriptions: several sentences per tag, each embedded on its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ram_backend.errors import VocabularyError
from ram_backend.vocabulary.embeddings import TextEncoder
from ram_backend.vocabulary.tag_files import read_json


def load_descriptions(path: Path) -> dict[str, list[str]]:
    """Reads descriptions as RAM++'s authors publish them: a JSON list of one-key objects `{tag: [sentence, ...]}`.

    Returns:
        Tag -> its sentences, in the file's order; the number of sentences may differ from tag to tag.

    Raises:
        VocabularyError: the file can't be read or is no such list; names the file and the entry.
    """
    data = read_json(path)
    if not isinstance(data, list) or not data:
        raise VocabularyError(f"{path}: not a list of objects {{tag: [sentence, ...]}}. Repair the file.")
    descriptions: dict[str, list[str]] = {}
    for number, entry in enumerate(data, start=1):
        tag, sentences = _entry(entry, f"{path}, entry {number}")
        if tag in descriptions:
            raise VocabularyError(f"{path}, entry {number}: {tag!r} has come before. Keep one entry per tag.")
        descriptions[tag] = sentences
    return descriptions


def _entry(entry: object, place: str) -> tuple[str, list[str]]:
    if not isinstance(entry, dict) or len(entry) != 1:
        raise VocabularyError(f"{place}: not an object with one tag. Write {{tag: [sentence, ...]}}.")
    tag, sentences = next(iter(entry.items()))
    if not tag.strip():
        raise VocabularyError(f"{place}: the tag has no name. Give it one.")
    if not isinstance(sentences, list) or not sentences:
        raise VocabularyError(f"{place} ({tag!r}): no list of sentences. Give at least one sentence.")
    for position, sentence in enumerate(sentences, start=1):
        if not isinstance(sentence, str) or not sentence.strip():
            raise VocabularyError(f"{place} ({tag!r}): sentence {position} is no text. Correct or remove it.")
    return tag, sentences


def embed_descriptions(
    encoder: TextEncoder, descriptions: Mapping[str, Sequence[str]]
) -> dict[str, NDArray[np.float32]]:
    """Embeds every sentence on its own: they are not averaged, RAM++ weighs them by the image.

    Args:
        encoder: of the bundle; what is too long for it is cut off.
        descriptions: tag -> its sentences; one sentence makes the tag as RAM would have it.

    Returns:
        Tag -> (k, dim) float32, rows of length 1, in the order of its sentences.
    """
    if not descriptions:
        return {}
    rows = encoder.embed_sentences([sentence for sentences in descriptions.values() for sentence in sentences])
    ends = np.cumsum([len(sentences) for sentences in descriptions.values()])
    return dict(zip(descriptions, np.split(rows, ends[:-1]), strict=True))
