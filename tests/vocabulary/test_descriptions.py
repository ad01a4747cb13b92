import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from ram_backend.errors import VocabularyError
from ram_backend.vocabulary.embeddings import embed_descriptions, load_descriptions


class Letters:
    """Embeds a text by how often it has each of four letters, to length 1."""

    id, dim = "letters", 4

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        raise AssertionError("descriptions are sentences, not tags")

    def embed_sentences(self, sentences: Sequence[str]) -> np.ndarray:
        rows = np.array([[text.count(letter) + 1e-3 for letter in "abcd"] for text in sentences], dtype=np.float32)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def written(folder: Path, data: object) -> Path:
    path = folder / "descriptions.json"
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    return path


def test_each_tag_has_its_own_number_of_sentences(tmp_path: Path) -> None:
    path = written(tmp_path, [{"Dog": ["a photo of a dog.", "It barks."]}, {"cat": ["a photo of a cat."]}])
    assert load_descriptions(path) == {"Dog": ["a photo of a dog.", "It barks."], "cat": ["a photo of a cat."]}


def test_sentences_are_embedded_one_by_one_and_not_averaged() -> None:
    descriptions = {"one": ["aab"], "three": ["a", "bb", "cdd"], "two": ["d", "c"]}
    rows = embed_descriptions(Letters(), descriptions)
    assert {tag: value.shape for tag, value in rows.items()} == {"one": (1, 4), "three": (3, 4), "two": (2, 4)}
    for tag, sentences in descriptions.items():
        np.testing.assert_array_equal(rows[tag], Letters().embed_sentences(sentences))
        np.testing.assert_allclose(np.linalg.norm(rows[tag], axis=1), 1, rtol=1e-6)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ("no json", ["line 1", "Invalid JSON"]),
        ([], ["at least 1 item"]),
        ([{"dog": ["a"]}, "cat"], ["(2: ", "object"]),
        ([{}], ["(1: ", "at least 1"]),
        ([{"dog": []}], ["(1 dog: ", "at least 1"]),
        ([{"dog": ["a", " "]}], ["(1 dog 2: ", "pattern"]),
        ([{"dog": ["a"]}, {"dog": ["b"]}], ["entry 2", "'dog'", "before"]),
    ],
)
def test_a_malformed_file_is_refused_and_the_entry_named(data: object, words: list[str], tmp_path: Path) -> None:
    path = written(tmp_path, data)
    with pytest.raises(VocabularyError) as raised:
        load_descriptions(path)
    for word in (*words, str(path)):
        assert word in str(raised.value)
    assert "\n" not in str(raised.value)
