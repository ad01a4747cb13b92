from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from ram_backend.errors import TextEncoderUnavailable
from ram_backend.settings import load_settings
from ram_backend.vocabulary.embeddings import CachedTextEncoder, TextEncoder, open_text_encoder

LARGE = 100_000_000


class Counting:
    """Embeds a text as numbers drawn from it, and remembers what it was asked."""

    def __init__(self, identity: str = "one", dim: int = 8) -> None:
        self.id = identity
        self.dim = dim
        self.asked: list[str] = []

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        self.asked += texts
        rows = [
            np.random.default_rng(list(text.encode("utf-8", "surrogatepass"))).normal(size=self.dim) for text in texts
        ]
        return np.array(rows, dtype=np.float32).reshape(len(texts), self.dim)

    def embed_sentences(self, sentences: Sequence[str]) -> np.ndarray:
        return -self.embed(sentences)


def file(folder: Path) -> Path:
    return next(folder.glob("*.sqlite"))


def test_it_is_a_text_encoder(tmp_path: Path) -> None:
    encoder: TextEncoder = CachedTextEncoder(Counting(), tmp_path, LARGE)
    assert isinstance(encoder, TextEncoder)
    assert (encoder.id, encoder.dim) == ("one", 8)


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


def test_a_text_and_a_sentence_are_two_things(tmp_path: Path) -> None:
    cached = CachedTextEncoder(Counting(), tmp_path, LARGE)
    np.testing.assert_array_equal(cached.embed(["dog"]), -cached.embed_sentences(["dog"]))
    np.testing.assert_array_equal(cached.embed(["dog"]), -cached.embed_sentences(["dog"]))


def test_another_encoder_shares_the_file_but_no_row(tmp_path: Path) -> None:
    CachedTextEncoder(Counting("one"), tmp_path, LARGE).embed(["dog"])
    other = Counting("two", dim=4)
    assert CachedTextEncoder(other, tmp_path, LARGE).embed(["dog"]).shape == (1, 4)
    assert other.asked == ["dog"]
    assert len(list(tmp_path.glob("*.sqlite"))) == 1


@pytest.mark.parametrize("damage", [b"", b"short", "text"])
def test_a_damaged_row_is_embedded_and_written_again(damage: bytes | str, tmp_path: Path) -> None:
    expected = CachedTextEncoder(Counting(), tmp_path, LARGE).embed(["dog", "cat"])
    with sqlite3.connect(file(tmp_path)) as connection:
        connection.execute("UPDATE embedding SET row = ?", (damage,))
    inner = Counting()
    np.testing.assert_array_equal(CachedTextEncoder(inner, tmp_path, LARGE).embed(["dog", "cat"]), expected)
    assert sorted(inner.asked) == ["cat", "dog"]
    after = Counting()
    np.testing.assert_array_equal(CachedTextEncoder(after, tmp_path, LARGE).embed(["dog", "cat"]), expected)
    assert after.asked == []


def test_a_damaged_file_is_replaced(tmp_path: Path) -> None:
    cached = CachedTextEncoder(Counting(), tmp_path, LARGE)
    expected = cached.embed(["dog"])
    for path in tmp_path.iterdir():
        path.write_bytes(b"this is no database" * 500)
    np.testing.assert_array_equal(cached.embed(["dog"]), expected)
    cached.embed(["dog"])
    inner = Counting()
    np.testing.assert_array_equal(CachedTextEncoder(inner, tmp_path, LARGE).embed(["dog"]), expected)
    assert inner.asked == []


def test_the_file_is_bounded_and_keeps_what_came_last(tmp_path: Path) -> None:
    limit = 200_000
    inner = Counting(dim=256)
    cached = CachedTextEncoder(inner, tmp_path, limit)
    for start in range(0, 1000, 50):
        cached.embed([f"tag {number}" for number in range(start, start + 50)])
    assert file(tmp_path).stat().st_size < 2 * limit
    inner.asked.clear()
    cached.embed(["tag 999", "tag 998"])
    assert inner.asked == []
    cached.embed(["tag 0"])
    assert inner.asked == ["tag 0"]


def test_what_is_used_stays_longer_than_what_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = Counting(dim=256)
    cached = CachedTextEncoder(inner, tmp_path, 200_000)
    day = 86_400.0
    monkeypatch.setattr("time.time", lambda: 10 * day)
    cached.embed([f"old {number}" for number in range(60)])
    monkeypatch.setattr("time.time", lambda: 11 * day)
    cached.embed(["old 0"])
    monkeypatch.setattr("time.time", lambda: 12 * day)
    for start in range(0, 100, 20):
        cached.embed([f"new {number}" for number in range(start, start + 20)])
    inner.asked.clear()
    cached.embed(["old 0"])
    cached.embed(["old 1"])
    assert inner.asked == ["old 1"]


def test_nothing_is_written_where_the_limit_is_zero(tmp_path: Path) -> None:
    inner = Counting()
    cached = CachedTextEncoder(inner, tmp_path / "none", 0)
    cached.embed(["dog"])
    cached.embed(["dog"])
    assert inner.asked == ["dog", "dog"]
    assert not (tmp_path / "none").exists()


def test_embedding_goes_on_where_nothing_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    cached = CachedTextEncoder(Counting(), tmp_path / "file" / "cache", LARGE)
    np.testing.assert_array_equal(cached.embed(["dog"]), Counting().embed(["dog"]))


WRITER = """
import sys
from pathlib import Path
import numpy as np
from ram_backend.vocabulary.embeddings import CachedTextEncoder

class Lengths:
    id, dim = "lengths", 4
    def embed(self, texts):
        return np.array([[len(text), 1, 2, 3] for text in texts], dtype=np.float32)
    embed_sentences = embed

cached = CachedTextEncoder(Lengths(), Path(sys.argv[1]), 10_000_000)
for start in range(0, 200, 10):
    texts = ["x" * number for number in range(start, start + 20)]
    assert (cached.embed(texts)[:, 0] == [len(text) for text in texts]).all()
"""


def test_several_processes_write_at_once(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WRITER, str(tmp_path)]
    running = [subprocess.Popen(command, stderr=subprocess.PIPE, env=os.environ.copy()) for _ in range(3)]
    for process in running:
        _, errors = process.communicate()
        assert process.returncode == 0, errors.decode()
    with sqlite3.connect(file(tmp_path)) as connection:
        assert connection.execute("SELECT count(*) FROM embedding").fetchone() == (210,)
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_an_unknown_encoder_is_refused_with_the_known_ones() -> None:
    with pytest.raises(TextEncoderUnavailable, match=r"'bert'.*minilm, clip-vit-b-16"):
        open_text_encoder("bert", load_settings())


def test_minilm_is_opened_behind_the_cache() -> None:
    encoder = open_text_encoder("minilm", load_settings())
    assert isinstance(encoder, CachedTextEncoder)
    assert encoder.dim == 384
    assert encoder.id.startswith("minilm-")
