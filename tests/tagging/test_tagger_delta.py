"""A tagger with a version's delta, on a network small enough to be computed by hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from ram_backend.errors import VersionDamaged
from ram_backend.models.bundle import Bundle
from ram_backend.models.calibration import Calibration
from ram_backend.models.delta import Delta
from ram_backend.models.label_embeddings import LabelEmbeddings
from ram_backend.models.preprocessing import Preprocessing
from ram_backend.tagging.subset import resolve_subset
from ram_backend.tagging.tag_embeddings import tag_embeddings
from ram_backend.tagging.tagger import Tagger
from ram_backend.vocabulary.tags import Tag, Vocabulary

LABELS = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0]], dtype=np.float32)
TOKENS = np.random.default_rng(0).random((6, 1, 3)).astype(np.float32)


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


@pytest.fixture
def bundle() -> Bundle:
    tags = [Tag("red", threshold=0.6), Tag("green"), Tag("blue", threshold=0.7), Tag("red")]
    return cast(
        Bundle,
        SimpleNamespace(
            name="colours",
            digest="d" * 64,
            path=Path("nowhere"),
            vocabulary=Vocabulary(tags),
            preprocessing=Preprocessing(size=4, mean=(0, 0, 0), std=(1, 1, 1)),
            calibration=Calibration(np.array([1, 2, 1, 1]), np.array([0, -1, 0, 0.5])),
            text_encoder=None,
            new_tag_threshold=0.9,
        ),
    )


def tagger(bundle: Bundle, names: list[str], **options: Any) -> Tagger:
    return Tagger(bundle, ColourNetwork(), resolve_subset(bundle, names), **options)


def delta(tags: tuple[str, ...] = ("green", "teal"), width: int = 3) -> Delta:
    drawn = np.random.default_rng(7)
    count = len(tags)
    return Delta(
        tags,
        base_scale=np.full(count, 0.5, dtype=np.float32),
        weight=drawn.normal(size=(count, width)).astype(np.float32),
        bias=np.arange(count, dtype=np.float32) + 1,
        thresholds=np.full(count, 0.25, dtype=np.float32),
    )


def test_named_tags_get_the_deltas_logits_and_scores(bundle: Bundle) -> None:
    plain, changed = tagger(bundle, ["red", "green"]), tagger(bundle, ["red", "green"], delta=delta())
    z = 2 * TOKENS[:, 0, 1] - 1  # the bundle's calibrated log-odds of green
    logits = 0.5 * z + TOKENS[:, 0] @ delta().weight[0] + 1
    found = changed.score(TOKENS)
    assert found.logits[:, 1] == pytest.approx(logits, abs=1e-6)
    assert found.scores[:, 1] == pytest.approx(1 / (1 + np.exp(-logits)), abs=1e-6)
    assert np.abs(found.scores[:, 1] - plain.score(TOKENS).scores[:, 1]).max() > 0.05


def test_other_tags_stay_as_they_are_bit_by_bit(bundle: Bundle) -> None:
    names = ["blue", "red", "green", "red"]
    before, after = (tagger(bundle, names, delta=change).score(TOKENS) for change in (None, delta()))
    kept = [0, 1, 3]
    assert after.logits[:, kept].tobytes() == before.logits[:, kept].tobytes()
    assert after.scores[:, kept].tobytes() == before.scores[:, kept].tobytes()
    nothing = tagger(bundle, names, delta=delta(("teal", "pink"))).score(TOKENS)
    assert nothing.scores.tobytes() == before.scores.tobytes()


def test_thresholds_are_the_deltas_where_it_has_any(bundle: Bundle) -> None:
    assert tagger(bundle, ["red", "green", "blue"], delta=delta()).thresholds == pytest.approx([0.6, 0.25, 0.7])


def test_a_tag_asked_twice_is_changed_twice(bundle: Bundle) -> None:
    found = tagger(bundle, ["red", "red"], delta=delta(("red",))).score(TOKENS).logits
    first, second = TOKENS[:, 0, 0], TOKENS[:, 0, 0] + TOKENS[:, 0, 1] + 0.5  # rows 0 and 3 of the vocabulary
    learned = TOKENS[:, 0] @ delta(("red",)).weight[0] + 1
    assert found == pytest.approx(np.stack([0.5 * first + learned, 0.5 * second + learned], axis=1), abs=1e-6)


def test_log_odds_are_those_of_the_scores(bundle: Bundle) -> None:
    for change in (None, delta()):
        one = tagger(bundle, ["red", "green"], delta=change)
        found = one.score(TOKENS)
        assert 1 / (1 + np.exp(-one.log_odds(found))) == pytest.approx(found.scores, abs=1e-6)


def test_the_version_is_part_of_the_name_only_where_there_is_one(bundle: Bundle) -> None:
    names = ["red", "blue"]  # none of them in the delta: thresholds stay
    plain = tagger(bundle, names).model_version
    assert tagger(bundle, names, version=None).model_version == plain
    versions = {tagger(bundle, names, delta=delta(), version=digit * 64).model_version for digit in "ab"}
    assert len(versions | {plain}) == 3
    assert plain == "colours-feddd96bdb35", "names given before there were versions stay"


def test_a_delta_of_another_bundle_is_refused(bundle: Bundle) -> None:
    with pytest.raises(VersionDamaged, match="5 features, this bundle's have 3"):
        tagger(bundle, ["red"], delta=delta(width=5))


def test_no_images_give_no_rows(bundle: Bundle) -> None:
    assert tagger(bundle, ["red", "green"], delta=delta()).score(TOKENS[:0]).scores.shape == (0, 2)


def test_texts_of_tags_as_numbers(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    assert tag_embeddings(bundle, resolve_subset(bundle, ["red"])) is None, "no text encoder, so no texts"
    bundle.text_encoder = "words"  # type: ignore[misc]
    rows = np.array([[3, 0], [0, 2], [0, 4], [5, 0], [1, 1]], dtype=np.float16)
    labels = LabelEmbeddings(rows, np.array([1, 2, 1, 1], dtype=np.int32), 2)
    monkeypatch.setattr(LabelEmbeddings, "open", classmethod(lambda cls, path: labels))
    encoder = SimpleNamespace(id="words", dim=2, embed=lambda texts: np.array([[0, 7]], dtype=np.float32))
    found = tag_embeddings(bundle, resolve_subset(bundle, ["green", "teal", "red"], cast(Any, encoder)))
    assert found is not None
    assert found == pytest.approx(np.array([[0, 1], [0, 1], [1, 0]]))
