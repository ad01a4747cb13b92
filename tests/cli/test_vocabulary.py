"""`ram-backend vocabulary`: looking up, and building the label system."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.commands import run

from ram_backend.errors import InputError
from ram_backend.vocabulary.label_system import load_label_system
from ram_backend.vocabulary.tags import Vocabulary


@pytest.mark.usefixtures("with_starter")
@pytest.mark.parametrize(("text", "status", "shown"), [("dogs", 0, "animal"), ("my product name", 1, "(new: scored")])
def test_find_says_as_what_a_word_is_scored(text: str, status: int, shown: str) -> None:
    assert shown in run("vocabulary", "find", text, status=status)


def test_build_gives_the_label_system_that_ships(tmp_path: Path) -> None:
    text = run("vocabulary", "build", "--out", tmp_path / "tags.json")
    built = Vocabulary.load(tmp_path / "tags.json")
    assert built == load_label_system()
    assert f"{len(built)} tags" in text
    with pytest.raises(InputError, match="create it first"):
        run("vocabulary", "build", "--out", tmp_path / "no" / "tags.json")


@pytest.mark.usefixtures("with_starter")
def test_captions_become_tags_and_a_vocabulary(tmp_path: Path) -> None:
    captions = tmp_path / "captions.jsonl"
    lines = [
        {"file": "a.jpg", "captions": ["A dog on grass.", "A dog without a leash"]},
        {"file": "b.jpg", "caption": "dog"},
    ]
    captions.write_text("\n".join(map(json.dumps, lines)))
    run("vocabulary", "parse", captions, "--min-mentions", 2, "--out", tmp_path / "tags.jsonl")
    found = [json.loads(line) for line in (tmp_path / "tags.jsonl").read_text().splitlines()]
    assert found == [
        {"file": "a.jpg", "tags": ["dog"], "maybe": ["grass"]},
        {"file": "b.jpg", "tags": [], "maybe": ["dog"]},
    ]
    run("vocabulary", "build", "--captions", captions, "--min-count", 3, "--out", tmp_path / "vocabulary.json")
    assert Vocabulary.load(tmp_path / "vocabulary.json").names == ("dog",)
    text = run(
        "vocabulary", "parse", captions, "--tags", tmp_path / "vocabulary.json", "--out", tmp_path / "dogs.jsonl"
    )
    assert "2 tags of 2 images" in text
