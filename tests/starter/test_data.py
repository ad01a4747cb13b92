"""What each kind of set says about a photo: present, absent, or nobody knows."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ram_backend.errors import InputError
from ram_backend.vocabulary.tags import Tag, Vocabulary
from starter.data import Labeller, label_matrix, read_set, related_tags, set_tags

VOCABULARY = Vocabulary(
    [
        Tag("animal", category="animal"),
        Tag("cat", category="animal", hypernyms=("animal",)),
        Tag("dog", synonyms=("hound",), category="animal", hypernyms=("animal",)),
        Tag("grass", category="plant"),
        Tag("man", category="person"),
        Tag("person", category="person"),
        Tag("poodle", category="animal", hypernyms=("dog", "animal")),
        Tag("tennis ball"),
    ]
)
CLASSES = [[0, 1], [1], [0], [], [], [], [0], []]


def write(data: Path, name: str, *entries: dict[str, object]) -> None:
    (data / name / "images").mkdir(parents=True)
    text = "\n".join(json.dumps({"split": "train", **entry}) for entry in entries)
    (data / name / "labels.jsonl").write_text(text, encoding="utf-8")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    captions = ["A dog on grass", "The hound runs with a tennis ball", "dogs", "a man and a dog", "a dog"]
    write(tmp_path, "coco_objects", {"file": "a.jpg", "tags": ["dog"]}, {"file": "b.jpg", "tags": ["cat", "person"]})
    flickr = {"file": "c.jpg", "tags": ["dog"], "maybe": ["grass", "man"], "captions": captions}
    write(tmp_path, "flickr8k_tags", flickr)
    write(tmp_path, "imagenet_samples", {"file": "d.jpg", "tags": ["poodle"], "imagenet_index": 0})
    return tmp_path


@pytest.mark.parametrize(
    ("name", "present", "absent"),
    [
        ("coco_objects", {"dog", "animal"}, {"cat", "person"}),  # exhaustive, for its own tags only
        ("flickr8k_tags", {"dog"}, {"cat", "poodle"}),  # nobody wrote "animal", but a dog is one
        ("imagenet_samples", {"poodle", "dog", "animal"}, {"cat"}),  # nothing about people and plants
    ],
)
def test_each_set_says_present_absent_or_nothing(data: Path, name: str, present: set[str], absent: set[str]) -> None:
    labeller = Labeller(data, VOCABULARY, CLASSES, ("coco_objects", "flickr8k_tags", "imagenet_samples"))
    found = labeller.states(read_set(data, name)[0])
    for state, tags in ((1, present), (0, absent)):
        assert {VOCABULARY.names[row] for row in np.flatnonzero(found == state)} == tags


def test_an_unseen_tag_takes_synonyms_and_broader_tags_with_it() -> None:
    rows = {VOCABULARY.names[row] for row in related_tags(VOCABULARY, ["poodle"])}
    assert rows == {"poodle", "dog", "animal"}
    assert {VOCABULARY.names[row] for row in related_tags(VOCABULARY, ["hound"])} == {"dog", "animal"}


def test_matrix_for_measuring_masks_what_is_unsure(data: Path) -> None:
    photos, tags = read_set(data, "flickr8k_tags"), ["cat", "dog", "grass"]
    labels, known = label_matrix(photos, tags)
    np.testing.assert_array_equal(labels, [[False, True, False]])
    np.testing.assert_array_equal(known, [[True, True, False]])
    assert set_tags(data, "coco_objects") == ["cat", "dog", "person"]


def test_a_folder_without_photos_is_an_error_in_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "starter", "--data", tmp_path, "--out", tmp_path / "out"]
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.startswith("Error: "), done.stderr.count("\n")) == (1, True, 1)
    assert "labels.jsonl is missing" in done.stderr


def test_malformed_lines_are_named(data: Path) -> None:
    (data / "coco_objects" / "labels.jsonl").write_text('{"file": "a.jpg"}', encoding="utf-8")
    with pytest.raises(InputError, match="line 1"):
        read_set(data, "coco_objects")
