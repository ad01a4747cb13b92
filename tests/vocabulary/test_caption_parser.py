"""Captions to tags: hand-checked sentences, and the tags that another parser found in Flickr8k's captions."""

import json
from collections import Counter
from pathlib import Path

import pytest

from ram_backend.errors import VocabularyError
from ram_backend.vocabulary.caption_parser import CaptionParser, vocabulary_of_captions
from ram_backend.vocabulary.label_system import load_label_system
from ram_backend.vocabulary.tags import Tag, Vocabulary

CAPTIONS = Path(__file__).parents[1] / "data" / "captions.tsv"


def _parser(names: list[str]) -> CaptionParser:
    known = {tag.name: tag for tag in load_label_system()}
    return CaptionParser(Vocabulary(known.get(name, Tag(name)) for name in names))


def _precision_recall(pairs: list[tuple[set[str], set[str]]]) -> tuple[float, float]:
    hits = sum(len(found & right) for found, right in pairs)
    return hits / sum(len(found) for found, _ in pairs), hits / sum(len(right) for _, right in pairs)


def test_hand_checked_captions():
    _, tags, *rows = CAPTIONS.read_text().splitlines()
    lines = [row.split("\t") for row in rows]
    parser = _parser(tags.removeprefix("# ").split(", "))
    pairs = [(set(parser.parse(caption)), set(filter(None, tags.split(", ")))) for caption, tags in lines]
    wrong = [(lines[at][0], found ^ right) for at, (found, right) in enumerate(pairs) if found != right]
    precision, recall = _precision_recall(pairs)
    assert len(pairs) == 100
    assert precision >= 0.95, wrong
    assert recall >= 0.90, wrong


@pytest.mark.parametrize(
    ("caption", "tags"),
    [
        ("No dogs and no cats.", []),
        ("A man without a hat or a shirt on a beach", ["man", "beach"]),
        ("A woman isn't wearing a hat, and she holds a dog", ["woman", "dog"]),
        ("A man without a hat rides a horse", ["man", "ride", "horse"]),
        ("not only a dog but two cats", ["dog", "cat"]),
        ("A hot dog", []),
        ("a picnic table", ["table"]),
        ("The boy parks the car in two parks.", ["boy", "car", "park"]),
        ("ladies on a sofa", ["woman", "couch"]),
        ("a dog bed", ["bed"]),
        ("a toy car", []),
        ("", []),
    ],
)
def test_a_sentence(caption: str, tags: list[str]) -> None:
    names = "man, woman, boy, dog, cat, horse, hat, shirt, beach, table, car, park, couch, bed, ride"
    assert _parser(names.split(", ")).parse(caption) == tags


def test_a_vocabulary_of_captions_merges_synonyms_and_takes_frequent_new_nouns() -> None:
    captions = ["A sofa and a gimbal.", "A couch", "two gimbals on a couch", "a dog", "the gimbal is black"]
    found = vocabulary_of_captions(captions, 3)
    assert found.names == ("couch", "gimbal")
    assert "sofa" in found[0].synonyms
    with pytest.raises(VocabularyError, match="9 captions"):
        vocabulary_of_captions(captions, 9)


@pytest.mark.shared
def test_flickr_captions_as_another_parser_reads_them(shared: Path) -> None:
    folder = shared / "data" / "flickr8k_tags"
    photos = [json.loads(line) for line in (folder / "labels.jsonl").read_text().splitlines()]
    parser = CaptionParser(Vocabulary(Tag(name) for name in (folder / "tags.txt").read_text().split("\n") if name))
    pairs = []
    for photo in photos:
        counts = Counter(name for caption in photo["captions"] for name in parser.parse(caption))
        pairs.append(({name for name, count in counts.items() if count >= 2}, set(photo["tags"])))
    precision, recall = _precision_recall(pairs)
    assert precision >= 0.90
    assert recall >= 0.90
