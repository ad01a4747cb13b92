import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ram_backend.errors import VocabularyError
from ram_backend.vocabulary.embeddings import embed_descriptions, load_descriptions


def written(folder: Path, data: object) -> Path:
    path = folder / "descriptions.json"
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    return path


def test_each_tag_has_its_own_number_of_sentences(tmp_path: Path) -> None:
    path = written(tmp_path, [{"Dog": ["a photo of a dog.", "It barks."]}, {"cat": ["a photo of a cat."]}])
    assert load_descriptions(path) == {"Dog": ["a photo of a dog.", "It barks."], "cat": ["a photo of a cat."]}


def test_sentences_are_embedded_one_by_one_and_not_averaged() -> None:
    lengths: Any = SimpleNamespace(embed_sentences=lambda texts: np.array([[len(text)] for text in texts]))
    rows = embed_descriptions(lengths, {"one": ["aab"], "three": ["a", "bb", "cddd"]})
    assert {tag: found.tolist() for tag, found in rows.items()} == {"one": [[3]], "three": [[1], [2], [4]]}


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


@pytest.mark.shared
def test_the_authors_descriptions_are_51_each_of_200_tags(shared: Path) -> None:
    descriptions = load_descriptions(shared / "ram-files" / "openimages_rare_200_llm_tag_descriptions.json")
    assert [len(sentences) for sentences in descriptions.values()] == [51] * 200
    assert next(iter(descriptions.values()))[0] == "a photo of a aerial photography."
