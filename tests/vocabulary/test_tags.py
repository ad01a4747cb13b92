from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ram_backend.errors import VocabularyError
from ram_backend.vocabulary.tags import Tag, Vocabulary

WORDS = Vocabulary(
    [
        Tag("dog", synonyms=("canine", "hound"), category="animal", threshold=0.6, sources=("coco",)),
        Tag("golden retriever", category="animal", hypernyms=("dog",)),
        Tag("run", category="action"),
        Tag("sitting", synonyms=("seated",), category="action"),
        Tag("child", synonyms=("kid",), category="person"),
        *map(Tag, ("man", "goose", "mouse", "knife", "glass", "glasses", "hot dog", "t-shirt", "stairs", "ear")),
    ]
)


def found(text: str, vocabulary: Vocabulary = WORDS) -> str | None:
    index = vocabulary.find(text)
    return None if index is None else vocabulary[index].name


FOUND = """dog: dog; Dog: dog; DOGS: dog; canine: dog; Canines: dog; Golden_Retriever: golden retriever;
golden-retrievers: golden retriever; running: run; ran: run; runs: run; sit: sitting; sat: sitting; seated: sitting;
men: man; geese: goose; mice: mouse; children: child; kids: child; knives: knife; glasses: glasses; glass: glass;
hotdogs: hot dog; T Shirts: t-shirt; tshirt: t-shirt; stair: stairs"""


@pytest.mark.parametrize(("text", "name"), [pair.strip().split(": ") for pair in FOUND.split(";")])
def test_find_knows_spellings_synonyms_and_inflections(text: str, name: str) -> None:
    assert found(text) == name


@pytest.mark.parametrize("text", ["", "  ", "cat", "earring", "glas", "manhole", "running shoe", "dog house"])
def test_find_gives_none_for_another_thing(text: str) -> None:
    assert found(text) is None


def test_the_stricter_step_wins() -> None:
    vocabulary = Vocabulary(
        [
            Tag("saw", synonyms=("Apple",)),
            Tag("apple"),
            Tag("Apple pie"),
            Tag("apple pie"),
            Tag("dogs", synonyms=("pie",)),
            Tag("dog"),
        ]
    )
    assert vocabulary.find("Apple") == 1  # a folded name comes before an exact synonym
    assert vocabulary.find("apple pie") == 3  # the exact name before the folded one
    assert vocabulary.find("APPLE PIE") == 2  # the lowest index where two fold to one key
    assert vocabulary.find("dogs") == 4
    assert vocabulary.find("Dog") == 5
    assert vocabulary.find("pies") == 4
    assert Vocabulary([Tag("hound", synonyms=("dog",)), Tag("dog")]).find("dogs") == 1  # names before synonyms


def test_resolve_keeps_order_and_gives_duplicates_their_own_tag() -> None:
    vocabulary = Vocabulary([Tag("walk"), Tag("dog"), Tag("walk")])
    assert vocabulary.resolve(["walk", "dog", "walk", "nothing", "walk", "Walk"]) == [0, 1, 2, None, 2, 0]
    assert vocabulary.resolve(vocabulary.names) == [0, 1, 2]
    assert vocabulary.resolve([]) == []


@given(st.lists(st.text(alphabet="abcA_- ", min_size=1, max_size=4).filter(str.strip), min_size=1, max_size=8))
def test_every_vocabulary_finds_its_own_names(names: list[str]) -> None:
    vocabulary = Vocabulary(Tag(name) for name in names)
    for index, name in zip(vocabulary.resolve(names), names, strict=True):
        assert vocabulary[index].name == name
    assert vocabulary.resolve(names) == list(range(len(names)))


def test_save_and_load_give_the_same_vocabulary(tmp_path: Path) -> None:
    WORDS.save(tmp_path / "vocabulary.json")
    assert Vocabulary.load(tmp_path / "vocabulary.json") == WORDS
    assert [path.name for path in tmp_path.iterdir()] == ["vocabulary.json"]
    lines = (tmp_path / "vocabulary.json").read_text().splitlines()
    assert len(lines) == len(WORDS) + 2  # one tag a line
    first = '"name":"dog","synonyms":["canine","hound"],"category":"animal","threshold":0.6,"sources":["coco"]'
    assert lines[1] == f"{{{first}}},"
    with pytest.raises(VocabularyError, match=r"absent\.json"):
        Vocabulary.load(tmp_path / "absent.json")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("nothing", ["line 1", "Invalid JSON"]),
        ('{"format":1,"tags":[\n{"name":"a"},\n{"name":"b",}\n]}', ["line 3"]),
        ('{"format":2,"tags":[]}', ["format 1"]),
        ('{"format":1,"tags":[]}', ["at least one tag"]),
        ('{"format":1,"tags":[\n{"name":""}\n]}', ["non-empty"]),
        ('{"format":1,"tags":[\n{"name":"a","threshold":1.5}\n]}', ["'a'", "1.5", "between 0 and 1"]),
        ('{"format":1,"tags":[\n{"name":"a","category":"thing"}\n]}', ["thing", "object"]),
        ('{"format":1,"tags":[\n{"name":"a","colour":"b"}\n]}', ["tags 1 colour:"]),
    ],
)
def test_load_refuses_a_malformed_file_and_says_where(text: str, words: list[str], tmp_path: Path) -> None:
    path = tmp_path / "vocabulary.json"
    path.write_text(text)
    with pytest.raises(VocabularyError) as raised:
        Vocabulary.load(path)
    for word in words:
        assert word in str(raised.value)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


def lists(folder: Path, tags: str, thresholds: str | None = None) -> tuple[Path, Path | None]:
    (folder / "tags.txt").write_text(tags, encoding="utf-8")
    if thresholds is None:
        return folder / "tags.txt", None
    (folder / "thresholds.txt").write_text(thresholds, encoding="utf-8")
    return folder / "tags.txt", folder / "thresholds.txt"


def test_from_files_needs_no_final_newline_and_keeps_duplicates(tmp_path: Path) -> None:
    tags, _ = lists(tmp_path, "walk\ndog\nwalk")
    vocabulary = Vocabulary.from_files(tags, default_threshold=0.68)
    assert vocabulary.names == ("walk", "dog", "walk")
    assert set(vocabulary.thresholds.tolist()) == {np.float32(0.68)}
    assert {tag.category for tag in vocabulary} == {"other"}
    vocabulary = Vocabulary.from_files(*lists(tmp_path, "\ufeff狗 \n猫\n", "0.65\n1.0"))
    assert vocabulary.names == ("狗", "猫")
    assert vocabulary.thresholds.tolist() == [np.float32(0.65), 1.0]
    (tmp_path / "tags.txt").write_bytes("caf\xe9".encode("latin-1"))
    with pytest.raises(VocabularyError, match="UTF-8"):
        Vocabulary.from_files(tmp_path / "tags.txt")


@pytest.mark.parametrize(
    ("tags", "thresholds", "words"),
    [
        ("a\nb", "0.5", ["1 thresholds", "2 tags"]),
        ("a\n\nb", None, ["line 2", "empty"]),
        ("", None, ["empty"]),
        ("a\nb", "0.5\nhalf", ["line 2", "'half'"]),
        ("a\nb", "0.5\nnan", ["line 2", "'nan'"]),
    ],
)
def test_from_files_refuses_bad_lists(tags: str, thresholds: str | None, words: list[str], tmp_path: Path) -> None:
    with pytest.raises(VocabularyError) as raised:
        Vocabulary.from_files(*lists(tmp_path, tags, thresholds))
    for word in (*words, str(tmp_path)):
        assert word in str(raised.value)
