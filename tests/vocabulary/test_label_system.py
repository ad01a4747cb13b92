import re
from collections import Counter
from pathlib import Path

import pytest

from ram_backend.errors import VocabularyError
from ram_backend.vocabulary.label_system import (
    ORDER,
    SHIPPED,
    SOURCES,
    build_label_system,
    load_label_system,
    read_word_list,
    read_words,
)
from ram_backend.vocabulary.normalisation import fold, joined, singular_forms
from ram_backend.vocabulary.tags import CATEGORIES, Tag, Vocabulary

COCO = [entry.name for entry in read_word_list(SOURCES / "coco.txt")]
OTHERS = """man, woman, boy, girl, child, beach, snow, grass, sky, run, jump, sitting, smile, black, red, rocky,
grassy, race car, dirt bike, basketball player, sunset, dress, hat, longsleeve, outwear, pants, shirt, shoes,
shorts, skirt, t-shirt, bedroom, living room, kitchen, bathroom, street, highway, skyscraper, castle, golden
retriever, siamese cat, kitchen island"""
JUNK = """instrumentality, container, structure, artifact, entity, equipment, device, object, whole, matter,
conveyance, instrument, covering, implement, vertebrate, chordate, organism, substance, unit, commodity, durables,
wheeled vehicle, abstraction, physical entity, living thing, placental, carnivore, ungulate, consumer goods, way,
thing"""
UNWANTED = """negro, gypsy, squaw, whore, nude, sexy, pecker, cock, arse, meth, christian, muslim, jew, caucasian,
asian, african american, lesbian, gay, cancer, tumor, genitalia"""
SAME = """television: tv, sofa: couch, aeroplane: airplane, plane: airplane, photo: photograph, picture: photograph,
canine: dog, motorbike: motorcycle, lorry: truck, mobile phone: cell phone, running shoe: sneaker, staircase: stairs,
people: person, bike: bicycle"""
CATEGORY = """dog: animal, crane (bird): animal, mouse: object, pizza: food, man: person, beach: scene, red: color,
wooden: material, run: action, wedding: event, rose: plant, striped: attribute"""
BROADER = """golden retriever: retriever / dog / animal, man: person, siamese cat: cat / animal,
strawberry: fruit / food, taxi: car / vehicle, electric guitar: guitar / musical instrument, rose: flower / plant,
jeans: pants / clothing, bald eagle: eagle / bird / animal, ambulance: vehicle"""
NOT_BROADER = """mouse: animal, hot dog: dog, toy gun: gun, stained glass: glass, bottle cap: clothing,
teddy bear: bear, monitor: vehicle, crab cake: dessert, girl: woman"""


def words(text: str) -> list[str]:
    return [word.strip() for word in text.replace("\n", " ").split(",")]


def pairs(text: str) -> list[list[str]]:
    return [pair.split(": ") for pair in words(text)]


def tag_of(text: str, vocabulary: Vocabulary) -> Tag:
    return vocabulary[vocabulary.find(text)]  # type: ignore[index]


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return load_label_system()


def test_it_has_thousands_of_tags_and_stays_small(vocabulary: Vocabulary) -> None:
    assert 4000 <= len(vocabulary) <= 5200
    assert SHIPPED.stat().st_size < 1_000_000
    assert len(COCO) == 80
    assert list(vocabulary.names) == sorted(set(vocabulary.names))


def test_the_shipped_file_is_what_the_lists_give(vocabulary: Vocabulary, tmp_path: Path) -> None:
    built = build_label_system()
    assert built == vocabulary
    built.save(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == SHIPPED.read_bytes()


@pytest.mark.parametrize("name", COCO + words(OTHERS))
def test_names_of_the_well_known_sets_are_found(name: str, vocabulary: Vocabulary) -> None:
    tag = tag_of(name, vocabulary)
    assert {fold(name), *singular_forms(fold(name))} & {fold(word) for word in (tag.name, *tag.synonyms)}


def test_no_two_tags_are_one_word(vocabulary: Vocabulary) -> None:
    assert [key for key, count in Counter(map(fold, vocabulary.names)).items() if count > 1] == []
    assert [key for key, count in Counter(joined(fold(name)) for name in vocabulary.names).items() if count > 1] == []
    keys = {fold(name) for name in vocabulary.names}
    plurals = {name for name in vocabulary.names if keys.intersection(singular_forms(fold(name)))}
    assert plurals <= {"skis"}


def test_every_synonym_leads_to_its_tag(vocabulary: Vocabulary) -> None:
    wrong = [
        (tag.name, synonym)
        for index, tag in enumerate(vocabulary)
        for synonym in tag.synonyms
        if vocabulary.find(synonym) != index
    ]
    assert wrong == []


@pytest.mark.parametrize(("synonym", "name"), pairs(SAME))
def test_words_for_one_thing_are_one_tag(synonym: str, name: str, vocabulary: Vocabulary) -> None:
    assert tag_of(synonym, vocabulary).name == name


def test_no_upper_words_of_wordnet_and_nothing_unwanted(vocabulary: Vocabulary) -> None:
    for word in words(JUNK):
        assert word not in vocabulary.names
    said = {fold(word) for tag in vocabulary for word in (tag.name, *tag.synonyms)}
    assert said.intersection(map(fold, words(UNWANTED))) == set()


def test_every_tag_has_a_category_and_sources(vocabulary: Vocabulary) -> None:
    counts = Counter(tag.category for tag in vocabulary)
    assert set(counts) <= set(CATEGORIES)
    least = {"object": 1000, "animal": 300, "scene": 300, "food": 300, "action": 200, "person": 150}
    assert all(counts[category] >= number for category, number in least.items())
    for tag in vocabulary:
        assert tag.sources
        assert set(tag.sources) <= set(ORDER)
        assert tag.name == tag.name.lower().strip()


@pytest.mark.parametrize(("name", "category"), pairs(CATEGORY))
def test_categories_are_what_a_person_would_say(name: str, category: str, vocabulary: Vocabulary) -> None:
    assert tag_of(name, vocabulary).category == category


def test_hypernyms_are_tags_and_complete_and_not_circular(vocabulary: Vocabulary) -> None:
    above = {tag.name: tag.hypernyms for tag in vocabulary}
    for name, hypernyms in above.items():
        assert name not in hypernyms
        assert len(set(hypernyms)) == len(hypernyms)
        for hypernym in hypernyms:
            assert hypernym in above
            assert name not in above[hypernym]
            assert set(above[hypernym]) <= set(hypernyms)


@pytest.mark.parametrize(("name", "expected"), pairs(BROADER))
def test_broader_tags_are_known(name: str, expected: str, vocabulary: Vocabulary) -> None:
    assert set(expected.split(" / ")) <= set(tag_of(name, vocabulary).hypernyms)


@pytest.mark.parametrize(("name", "wrong"), pairs(NOT_BROADER))
def test_a_word_that_only_sounds_like_it_is_not_broader(name: str, wrong: str, vocabulary: Vocabulary) -> None:
    assert wrong not in tag_of(name, vocabulary).hypernyms


def test_every_list_says_what_it_is_and_is_used() -> None:
    for source in ORDER:
        text = (SOURCES / f"{source}.txt").read_text()
        for field in ("# title: ", "# origin: ", "# terms: "):
            assert re.search(rf"^{field}\S", text, re.MULTILINE), (source, field)
        assert read_word_list(SOURCES / f"{source}.txt")
    assert read_words(SOURCES / "excluded.txt")


@pytest.mark.parametrize(
    ("file", "text", "match"),
    [
        ("broader.txt", "dog: unicorn\n", "unicorn"),
        ("broader.txt", "dog: puppy\npuppy: dog\n", "broader than itself"),
        ("broader.txt", "dog puppy\n", "line 1"),
        ("coco.txt", "dog,, cat\n", "line 1"),
        ("coco.txt", "[thing]\ndog\n", "thing"),
        ("wordnet.txt", "dog\t1\n", "line 1"),
    ],
)
def test_build_refuses_a_list_that_contradicts_itself(file: str, text: str, match: str, tmp_path: Path) -> None:
    for source in (*ORDER, "renamed", "excluded", "separate", "broad", "broader", "senses", "wordnet"):
        (tmp_path / f"{source}.txt").write_text("# title: none\n")
    (tmp_path / "coco.txt").write_text("dog, puppy\n")
    (tmp_path / file).write_text(text)
    with pytest.raises(VocabularyError, match=match):
        build_label_system(tmp_path)
    (tmp_path / "coco.txt").unlink()
    with pytest.raises(VocabularyError, match=r"coco\.txt"):
        build_label_system(tmp_path)


@pytest.mark.shared
def test_the_tags_of_the_shared_sets_are_found(vocabulary: Vocabulary, shared: Path) -> None:
    names = (shared / "data" / "flickr8k_tags" / "tags.txt").read_text().splitlines()
    assert len(names) == 160
    assert [name for name in names if vocabulary.find(name) is None] == []


def test_the_page_about_it_has_todays_counts(vocabulary: Vocabulary) -> None:
    page = SHIPPED.with_name("LABEL_SYSTEM.md").read_text()
    synonyms = sum(len(tag.synonyms) for tag in vocabulary)
    assert f"{len(vocabulary):,} common tags of photos with {synonyms:,} synonyms" in page
    for category, count in Counter(tag.category for tag in vocabulary).items():
        assert f"| {category} | {count} |" in page
    for source, count in Counter(source for tag in vocabulary for source in tag.sources).items():
        row = next(line for line in page.splitlines() if line.startswith(f"| `{source}` |"))
        assert row.split(" | ")[-2] == str(count)
    assert "WordNet 3.0 Copyright 2006 by Princeton University" in (SOURCES / "wordnet-license.txt").read_text()
