"""The cache of image tokens: keys, rounding, and the same bits on a hit and a miss."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from ram_backend.tagging.tagger import rounded
from ram_backend.tagging.token_cache import TOKEN_DTYPE, CachedImage, TokenCache, token_key


def key(name: str, preprocessing: str = "p", encoder: str = "e") -> str:
    return token_key(hashlib.sha256(name.encode()).hexdigest(), preprocessing, encoder)


def test_hit_and_miss_give_the_same_bits(tmp_path: Path) -> None:
    original = np.random.default_rng(0).normal(size=(5, 8)).astype(np.float32) * 3
    cache = TokenCache(tmp_path, 1_000_000)
    assert cache.get(key("a")) is None
    missed = cache.put(key("a"), CachedImage(original, 2**64 - 1, (640, 480)))
    hit = cache.get(key("a"))
    assert hit is not None
    assert (hit.phash, hit.size) == (2**64 - 1, (640, 480))
    assert missed.dtype == hit.tokens.dtype == np.float32
    assert missed.tobytes() == hit.tokens.tobytes() == rounded(original, TOKEN_DTYPE).tobytes()
    assert not np.array_equal(missed, original)  # so the rounding is real
    assert np.abs(missed - original).max() < 0.01
    assert np.array_equal(cache.put(key("a"), CachedImage(original + 1, 0, (1, 1))), missed)


@pytest.mark.parametrize("budget", [1_000_000, 0])
def test_large_values_stay_finite_and_are_rounded_without_a_cache_too(tmp_path: Path, budget: int) -> None:
    cache = TokenCache(tmp_path, budget)
    original = np.array([[1e6, -1e6, 65504, 1e-9]], dtype=np.float32)
    missed = cache.put(key("a"), CachedImage(original, 0, (1, 1)))
    assert missed.tolist() == [[65504, -65504, 65504, 0]]
    assert (cache.get(key("a")) is None) == (budget == 0)


def test_every_part_of_the_key_counts() -> None:
    keys = [("a",), ("b",), ("a", "q"), ("a", "p", "f"), ("a", "pe", ""), ("a", "p", "e ")]
    assert len({key(*parts) for parts in keys}) == 6
    assert key("a") == key("a")
