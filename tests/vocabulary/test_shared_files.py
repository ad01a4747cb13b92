"""RAM's own files, where they lie beside the repository; their small siblings always run."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from ram_backend.vocabulary.embeddings import load_descriptions
from ram_backend.vocabulary.label_system import load_label_system
from ram_backend.vocabulary.tags import Vocabulary

pytestmark = pytest.mark.shared


def test_rams_list_has_4585_tags_and_thresholds_in_order(shared: Path) -> None:
    folder = shared / "ram-files"
    vocabulary = Vocabulary.from_files(folder / "ram_tag_list.txt", folder / "ram_tag_list_threshold.txt")
    lines = (folder / "ram_tag_list.txt").read_text().split("\n")
    assert list(vocabulary.names) == lines
    counts = Counter(np.round(vocabulary.thresholds.astype(float), 3).tolist())
    assert (counts[0.65], counts[0.8], counts[0.9]) == (3414, 735, 119)
    assert vocabulary.resolve(vocabulary.names) == list(range(4585))


def test_200_tags_have_51_descriptions_each(shared: Path) -> None:
    descriptions = load_descriptions(shared / "ram-files" / "openimages_rare_200_llm_tag_descriptions.json")
    assert len(descriptions) == 200
    assert {len(sentences) for sentences in descriptions.values()} == {51}
    assert next(iter(descriptions.items()))[1][0] == "a photo of a aerial photography."


def test_the_label_system_finds_the_tags_of_the_shared_sets(shared: Path) -> None:
    vocabulary = load_label_system()
    names = (shared / "data" / "flickr8k_tags" / "tags.txt").read_text().splitlines()
    assert len(names) == 160
    assert [name for name in names if vocabulary.find(name) is None] == []
