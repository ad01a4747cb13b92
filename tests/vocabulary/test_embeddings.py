from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ram_backend.vocabulary.embeddings import CachedTextEncoder

LARGE = 100_000_000


class Counting:
    """Embeds a text as numbers drawn from it, and remembers what it was asked."""

    def __init__(self, identity: str = "one", dim: int = 8) -> None:
        self.id = identity
        self.dim = dim
        self.asked: list[str] = []

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        self.asked += texts
        rows = [np.random.default_rng(list(text.encode())).normal(size=self.dim) for text in texts]
        return np.array(rows, dtype=np.float32).reshape(len(texts), self.dim)

    def embed_sentences(self, sentences: Sequence[str]) -> np.ndarray:
        return -self.embed(sentences)


def test_every_text_is_embedded_once_and_comes_back_in_order(tmp_path: Path) -> None:
    inner = Counting()
    cached = CachedTextEncoder(inner, tmp_path / "made", LARGE)
    texts = ["dog", "cat", "dog", "", "Dog", "狗", "a\0b"]
    first = cached.embed(texts)
    assert inner.asked == ["dog", "cat", "", "Dog", "狗", "a\0b"]
    assert first.dtype == np.float32
    np.testing.assert_array_equal(first, Counting().embed(texts))
    other = Counting()
    again = CachedTextEncoder(other, tmp_path / "made", LARGE).embed([*texts, "new"])
    assert other.asked == ["new"]
    np.testing.assert_array_equal(again[:-1], first)
    assert cached.embed([]).shape == (0, 8)


def test_a_text_a_sentence_and_a_text_of_another_encoder_are_three_things(tmp_path: Path) -> None:
    cached = CachedTextEncoder(Counting(), tmp_path, LARGE)
    for _ in range(2):
        np.testing.assert_array_equal(cached.embed(["dog"]), -cached.embed_sentences(["dog"]))
    other = Counting("two", dim=4)
    assert CachedTextEncoder(other, tmp_path, LARGE).embed(["dog"]).shape == (1, 4)
    assert other.asked == ["dog"]
