"""Tagger, subset and delta on a network small enough to be computed by hand."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from PIL import Image
from support import tiny_model
from support.versions import delta

from ram_backend.errors import TextEncoderUnavailable, VersionDamaged, VocabularyError
from ram_backend.models.bundle import Bundle
from ram_backend.models.calibration import Calibration
from ram_backend.models.label_embeddings import LabelEmbeddings
from ram_backend.tagging.subset import resolve_subset, tag_embeddings, whole_vocabulary
from ram_backend.tagging.tagger import TOKEN_DTYPE, Tagger
from ram_backend.vocabulary.tags import Tag, Vocabulary

LABELS = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0]], dtype=np.float32)
TOKENS = np.random.default_rng(0).random((6, 1, 3)).astype(np.float32)
DELTA = delta(1.0, ("green", "teal"), base_scale=np.full(2, 0.5), thresholds=np.full(2, 0.25))


class ColourNetwork(tiny_model.ColourNetwork):
    labels = LABELS


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
    slope, offset = np.array([[1, 2, 1, 1], [0, -1, 0, 0.5]], dtype=np.float32)
    changed = {
        "path": Path("nowhere"),
        "vocabulary": Vocabulary(tags),
        "calibration": Calibration(slope, offset, new_slope=3.0, new_offset=-2.0),
        "new_tag_threshold": 0.9,
    }
    return cast(Bundle, SimpleNamespace(**(vars(tiny_model.tiny_bundle()) | changed)))


def plain(*colour: int) -> Image.Image:
    return Image.new("RGB", (8, 6), colour)


def sigmoid(value: float) -> float:
    return float(1 / (1 + np.exp(-value)))


def tagger(bundle: Bundle, names: list[str], **options: Any) -> Tagger:
    return Tagger(bundle, ColourNetwork(), resolve_subset(bundle, names), **options)


def test_columns_are_the_asked_tags_in_their_order(bundle: Bundle) -> None:
    subset = resolve_subset(bundle, ["blue", "Crimson", "turquoise", "turquoise"], ColourEncoder())
    whole = Tagger(bundle, ColourNetwork(), subset)
    found = whole.tag([plain(255, 0, 0), plain(0, 0, 255)])
    assert whole.tags == ("blue", "Crimson", "turquoise", "turquoise")
    assert subset.new_tags == ("turquoise", "turquoise")
    assert found.logits == pytest.approx(np.array([[0, 1, 0, 0], [1, 0, 0.5, 0.5]]))
    expected = [sigmoid(1), sigmoid(0), sigmoid(3 * 0.5 - 2), sigmoid(3 * 0.5 - 2)]
    assert found.scores[1] == pytest.approx(expected, abs=1e-6)
    assert whole.thresholds == pytest.approx([0.7, 0.6, 0.9, 0.9])


def test_the_whole_vocabulary_keeps_duplicates_apart(bundle: Bundle) -> None:
    whole = Tagger(bundle, ColourNetwork(), whole_vocabulary(bundle))
    found = whole.tag([plain(0, 255, 0)])
    assert whole.tags == ("red", "green", "blue", "red")
    assert found.logits[0] == pytest.approx([0, 1, 0, 1])
    assert found.scores[0] == pytest.approx([sigmoid(0), sigmoid(2 - 1), sigmoid(0), sigmoid(1.5)], abs=1e-6)


def test_described_tags_are_scored_from_their_descriptions(bundle: Bundle) -> None:
    described = {"red": np.array([[0, 0, 1], [0, 1, 0]], dtype=np.float32)}
    subset = resolve_subset(bundle, ["red", "green"], ColourEncoder(), described=described)
    found = Tagger(bundle, ColourNetwork(), subset).tag([plain(0, 0, 255)])
    assert found.logits[0] == pytest.approx([0.5, 0])
    assert subset.new_tags == ("red",)
    assert subset.thresholds == pytest.approx([0.9, 0.5])

    def version(described_from: str) -> str:
        named = resolve_subset(bundle, ["red"], ColourEncoder(), described=described, described_from=described_from)
        return Tagger(bundle, ColourNetwork(), named).model_version

    assert version("a") == version("a") != version("b")


def test_model_version_names_behaviour(bundle: Bundle) -> None:
    def version(names: list[str]) -> str:
        return Tagger(bundle, ColourNetwork(), resolve_subset(bundle, names, ColourEncoder())).model_version

    assert version(["red", "blue"]) == version(["red", "blue"])
    others = [["blue", "red"], ["red"], ["red", "Blue"], ["red", "turquoise"]]
    assert len({version(["red", "blue"]), *(version(names) for names in others)}) == 5
    assert version(["red"]).startswith("colours-")
    assert resolve_subset(bundle, ["red", "green", "red"]).entries == (0, 1, 3)  # two tags of one name


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


def test_tokens_are_rounded_only_where_asked_and_the_version_says_so(bundle: Bundle) -> None:
    subset = resolve_subset(bundle, ["red"])
    exact, coarse = (Tagger(bundle, ColourNetwork(), subset, token_dtype=kind) for kind in (None, TOKEN_DTYPE))
    image = plain(77, 0, 0)
    assert exact.encode([image])[0, 0, 0] == np.float32(77 / 255)
    assert coarse.encode([image])[0, 0, 0] == np.float16(77 / 255)
    assert exact.model_version != coarse.model_version


def test_named_tags_get_the_deltas_logits_and_scores(bundle: Bundle) -> None:
    plain, changed = tagger(bundle, ["red", "green"]), tagger(bundle, ["red", "green"], delta=DELTA)
    z = 2 * TOKENS[:, 0, 1] - 1  # the bundle's calibrated log-odds of green
    logits = 0.5 * z + TOKENS[:, 0] @ DELTA.weight[0] + 1
    found = changed.score(TOKENS)
    assert found.log_odds[:, 1] == pytest.approx(logits, abs=1e-6)
    assert found.scores == pytest.approx(1 / (1 + np.exp(-found.log_odds)), abs=1e-6)
    assert tagger(bundle, ["red", "green", "blue"], delta=DELTA).thresholds == pytest.approx([0.6, 0.25, 0.7])
    assert np.abs(found.scores[:, 1] - plain.score(TOKENS).scores[:, 1]).max() > 0.05


def test_other_tags_stay_as_they_are_bit_by_bit(bundle: Bundle) -> None:
    names = ["blue", "red", "green", "red"]
    before, after = (tagger(bundle, names, delta=change).score(TOKENS) for change in (None, DELTA))
    kept = [0, 1, 3]
    assert after.log_odds[:, kept].tobytes() == before.log_odds[:, kept].tobytes()
    assert after.scores[:, kept].tobytes() == before.scores[:, kept].tobytes()
    nothing = tagger(bundle, names, delta=delta(tags=("teal", "pink"))).score(TOKENS)
    assert nothing.scores.tobytes() == before.scores.tobytes()


def test_the_version_is_part_of_the_name_only_where_there_is_one(bundle: Bundle) -> None:
    names = ["red", "blue"]  # none of them in the delta: thresholds stay
    plain = tagger(bundle, names).model_version
    assert tagger(bundle, names, version=None).model_version == plain
    versions = {tagger(bundle, names, delta=DELTA, version=digit * 64).model_version for digit in "ab"}
    assert len(versions | {plain}) == 3
    assert plain == "colours-feddd96bdb35", "names given before there were versions stay"


def test_a_delta_of_another_bundle_is_refused(bundle: Bundle) -> None:
    with pytest.raises(VersionDamaged, match="5 features, this bundle's have 3"):
        tagger(bundle, ["red"], delta=delta(width=5))


def test_texts_of_tags_as_numbers(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle, "text_encoder", None)
    assert tag_embeddings(bundle, resolve_subset(bundle, ["red"])) is None, "no text encoder, so no texts"
    monkeypatch.setattr(bundle, "text_encoder", "words")
    rows = np.array([[3, 0], [0, 2], [0, 4], [5, 0], [1, 1]], dtype=np.float16)
    labels = LabelEmbeddings(rows, np.array([1, 2, 1, 1], dtype=np.int32), 2)
    monkeypatch.setattr(LabelEmbeddings, "open", classmethod(lambda cls, path: labels))
    encoder = SimpleNamespace(id="words", dim=2, embed=lambda texts: np.array([[0, 7]], dtype=np.float32))
    found = tag_embeddings(bundle, resolve_subset(bundle, ["green", "teal", "red"], cast(Any, encoder)))
    assert found == pytest.approx(np.array([[0, 1], [0, 1], [1, 0]]))
