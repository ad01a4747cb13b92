"""The untrained part of the starter, on classifiers small enough to know the answer."""

import numpy as np
import pytest

from ram_backend.models.starter.components import (
    PriorTags,
    background_evidence,
    background_stats,
    class_weights,
)
from ram_backend.vocabulary.tags import Tag, Vocabulary
from starter.build import largest_classes
from starter.imagenet import CLASSES, classes_of_tags, imagenet_classes


def test_a_kind_of_the_tag_counts_more_than_a_similar_word() -> None:
    rng = np.random.default_rng(2)
    background = rng.dirichlet(np.full(CLASSES, 0.05), size=(40, 3)).astype(np.float32)
    rows = rng.standard_normal((CLASSES, 16))
    class_embeddings = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    weights = class_weights(class_embeddings[[10, 10]], [[20, 21], []], class_embeddings)
    tags = PriorTags(weights, *background_stats(weights, background_evidence(*largest_classes(background))))
    assert tags.weights[0, 20] >= 1 > tags.weights[0, 10] > tags.weights[0, 30]
    assert tags.weights[1].argmax() == 10
    evidence = np.full((2, 3, CLASSES), 1e-5, dtype=np.float32)
    evidence[0, :, 21] = 0.5
    scores = tags.scores(evidence)
    assert scores[0, 0] > scores[1, 0] + 1
    assert scores[0, 1] == pytest.approx(scores[1, 1], abs=0.5)


def test_classes_are_found_by_synset_by_name_and_through_broader_tags() -> None:
    classes = imagenet_classes()
    tench = next(number for number, item in enumerate(classes) if item.name == "tench")
    vocabulary = Vocabulary([Tag("fish"), Tag("tench", hypernyms=("fish",)), Tag("nonsense word")])
    by_name = classes_of_tags(vocabulary, {})
    assert by_name == [[tench], [tench], []]
    fish_synset = "02512053"
    assert fish_synset in classes[tench].broader
    by_synset = classes_of_tags(vocabulary, {"fish": (fish_synset, ())})
    assert len(by_synset[0]) > 5
    assert tench in by_synset[0]
