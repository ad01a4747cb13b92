"""Tagger and subset on a network small enough to be computed by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
from PIL import Image

from ram_backend.errors import TextEncoderUnavailable, VocabularyError
from ram_backend.models.bundle import Bundle
from ram_backend.models.calibration import Calibration
from ram_backend.models.preprocessing import Preprocessing
from ram_backend.tagging.subset import resolve_subset, whole_vocabulary
from ram_backend.tagging.tagger import Tagger
from ram_backend.tagging.token_cache import TOKEN_DTYPE, CachedImage, TokenCache, token_key
from ram_backend.vocabulary.tags import Tag, Vocabulary

LABELS = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0]], dtype=np.float32)


class ColourNetwork:
    """One token, the mean colour; a tag's logit is its dot product with the tag's row."""

    encoder_id = "mean-colour"
    token_shape = (1, 3)

    def encode(self, pixels: np.ndarray) -> np.ndarray:
        return pixels.mean(axis=(2, 3))[:, None, :]

    def select(self, tags: Sequence[int | np.ndarray]) -> np.ndarray:
        return np.stack([LABELS[tag] if isinstance(tag, int) else tag.mean(axis=0) for tag in tags])

    def logits(self, tokens: np.ndarray, queries: np.ndarray) -> np.ndarray:
        return tokens[:, 0] @ queries.T


@dataclass
class ColourEncoder:
    """Knows one word."""

    id: str = "colour-words"
    dim: int = 3

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        assert list(texts) == ["turquoise"], "each new tag is embedded once, and only new ones"
        return np.array([[0, 0.5, 0.5]], dtype=np.float32)


@pytest.fixture
def bundle() -> Bundle:
    tags = [Tag("red", synonyms=("crimson",), threshold=0.6), Tag("green"), Tag("blue", threshold=0.7), Tag("red")]
    return cast(
        Bundle,
        SimpleNamespace(
            name="colours",
            digest="d" * 64,
            vocabulary=Vocabulary(tags),
            preprocessing=Preprocessing(size=4, mean=(0, 0, 0), std=(1, 1, 1)),
            calibration=Calibration(
                slope=np.array([1, 2, 1, 1], dtype=np.float32),
                offset=np.array([0, -1, 0, 0.5], dtype=np.float32),
                new_slope=3.0,
                new_offset=-2.0,
            ),
            text_encoder="colour-words",
            new_tag_threshold=0.9,
        ),
    )


def plain(*colour: int) -> Image.Image:
    return Image.new("RGB", (8, 6), colour)


def sigmoid(value: float) -> float:
    return float(1 / (1 + np.exp(-value)))


def test_columns_are_the_asked_tags_in_their_order(bundle: Bundle) -> None:
    subset = resolve_subset(bundle, ["blue", "Crimson", "turquoise", "turquoise"], ColourEncoder())
    tagger = Tagger(bundle, ColourNetwork(), subset)
    found = tagger.tag([plain(255, 0, 0), plain(0, 0, 255)])
    assert tagger.tags == ("blue", "Crimson", "turquoise", "turquoise")
    assert subset.new_tags == ("turquoise", "turquoise")
    assert found.logits == pytest.approx(np.array([[0, 1, 0, 0], [1, 0, 0.5, 0.5]]))
    expected = [sigmoid(1), sigmoid(0), sigmoid(3 * 0.5 - 2), sigmoid(3 * 0.5 - 2)]
    assert found.scores[1] == pytest.approx(expected, abs=1e-6)
    assert tagger.thresholds == pytest.approx([0.7, 0.6, 0.9, 0.9])


def test_the_whole_vocabulary_keeps_duplicates_apart(bundle: Bundle) -> None:
    tagger = Tagger(bundle, ColourNetwork(), whole_vocabulary(bundle))
    found = tagger.tag([plain(0, 255, 0)])
    assert tagger.tags == ("red", "green", "blue", "red")
    assert found.logits[0] == pytest.approx([0, 1, 0, 1])
    assert found.scores[0] == pytest.approx([sigmoid(0), sigmoid(2 - 1), sigmoid(0), sigmoid(1.5)], abs=1e-6)


def test_the_second_asking_of_a_name_is_the_second_tag_of_that_name(bundle: Bundle) -> None:
    subset = resolve_subset(bundle, ["red", "green", "red"])
    assert subset.entries == (0, 1, 3)


def test_described_tags_are_scored_from_their_descriptions(bundle: Bundle) -> None:
    described = {"red": np.array([[0, 0, 1], [0, 1, 0]], dtype=np.float32)}
    subset = resolve_subset(bundle, ["red", "green"], ColourEncoder(), described=described)
    found = Tagger(bundle, ColourNetwork(), subset).tag([plain(0, 0, 255)])
    assert found.logits[0] == pytest.approx([0.5, 0])
    assert subset.new_tags == ("red",)
    assert subset.thresholds == pytest.approx([0.9, 0.5])


def test_no_images_give_no_rows(bundle: Bundle) -> None:
    tagger = Tagger(bundle, ColourNetwork(), resolve_subset(bundle, ["red"]))
    assert tagger.tag([]).scores.shape == (0, 1)


def test_model_version_names_behaviour(bundle: Bundle) -> None:
    def version(names: list[str]) -> str:
        return Tagger(bundle, ColourNetwork(), resolve_subset(bundle, names, ColourEncoder())).model_version

    assert version(["red", "blue"]) == version(["red", "blue"])
    others = [["blue", "red"], ["red"], ["red", "Blue"], ["red", "turquoise"]]
    assert len({version(["red", "blue"]), *(version(names) for names in others)}) == 5
    assert version(["red"]).startswith("colours-")


def test_model_version_names_the_descriptions(bundle: Bundle) -> None:
    def version(described_from: str) -> str:
        rows = {"red": np.ones((1, 3), dtype=np.float32)}
        subset = resolve_subset(bundle, ["red"], ColourEncoder(), described=rows, described_from=described_from)
        return Tagger(bundle, ColourNetwork(), subset).model_version

    assert version("a") == version("a") != version("b")


def test_new_tags_without_an_encoder_are_named(bundle: Bundle) -> None:
    with pytest.raises(TextEncoderUnavailable, match=r"'turquoise'.*"):
        resolve_subset(bundle, ["red", "turquoise"])
    bundle.text_encoder = None  # type: ignore[misc]
    with pytest.raises(TextEncoderUnavailable, match=r"without a text encoder.*'turquoise'"):
        resolve_subset(bundle, ["red", "turquoise"])


@pytest.mark.parametrize(("names", "said"), [([], "at least one"), (["red", " "], "Tag 2 of 2 is empty")])
def test_nothing_asked(bundle: Bundle, names: list[str], said: str) -> None:
    with pytest.raises(VocabularyError, match=said):
        resolve_subset(bundle, names)


def test_rounded_tokens_give_the_same_scores_from_the_network_and_from_a_cache(bundle: Bundle, tmp_path: Path) -> None:
    subset = resolve_subset(bundle, ["red", "green"])
    tagger = Tagger(bundle, ColourNetwork(), subset, token_dtype=TOKEN_DTYPE)
    images = [plain(10, 20, 30), plain(200, 100, 0)]
    cache = TokenCache(tmp_path / "tokens", 1_000_000)
    keys = [token_key(name, bundle.preprocessing.id, tagger.network.encoder_id) for name in ("a", "b")]
    missed = np.stack(
        [cache.put(key, CachedImage(one, 0, (1, 1))) for key, one in zip(keys, tagger.encode(images), strict=True)]
    )
    hit = np.stack([one.tokens for one in map(cache.get, keys) if one is not None])
    direct = tagger.tag(images)
    for found in (tagger.score(missed), tagger.score(hit)):
        assert found.logits.tobytes() == direct.logits.tobytes()
        assert found.scores.tobytes() == direct.scores.tobytes()


def test_tokens_are_rounded_only_where_asked_and_the_version_says_so(bundle: Bundle) -> None:
    subset = resolve_subset(bundle, ["red"])
    exact, coarse = (Tagger(bundle, ColourNetwork(), subset, token_dtype=kind) for kind in (None, TOKEN_DTYPE))
    image = plain(77, 0, 0)
    assert exact.encode([image])[0, 0, 0] == np.float32(77 / 255)
    assert coarse.encode([image])[0, 0, 0] == np.float16(77 / 255)
    assert exact.model_version != coarse.model_version
