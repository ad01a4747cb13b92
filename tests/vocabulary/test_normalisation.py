import pytest

from ram_backend.vocabulary.normalisation import base_forms, fold, singular_forms, verb_forms

FOLDED = """T-Shirt: t shirt, t_shirt: t shirt, Café: cafe, crème brûlée: creme brulee, Straße: strasse, 狗: 狗,
child's room: childs room, child\u2019s room: childs room, car/van: car van, ski\u2013boot: ski boot"""


@pytest.mark.parametrize(
    ("text", "key"),
    [*(pair.strip().split(": ") for pair in FOLDED.split(",")), ("  t \t shirt ", "t shirt"), ("___", "")],
)
def test_fold_leaves_what_tells_words_apart(text: str, key: str) -> None:
    assert fold(text) == key


FORMS = """dogs dog, boxes box, benches bench, buses bus, cherries cherry, movies movie, knives knife, wolves wolf,
gloves glove, potatoes potato, shoes shoe, men man, firemen fireman, salespeople salesperson, children child,
schoolchildren schoolchild, geese goose, mice mouse, feet foot, leaves leaf, running run, riding ride, playing play,
carries carry, carried carry, jumped jump, ran run, sat sit, swum swim, lying lie"""


@pytest.mark.parametrize(
    ("form", "base"),
    [
        *(pair.split() for pair in FORMS.split(",")),
        ("fire hydrants", "fire hydrant"),
        ("cups of coffee", "cup of coffee"),
        ("riding a bike", "ride a bike"),
    ],
)
def test_base_form_is_proposed(form: str, base: str) -> None:
    assert base in base_forms(form)


@pytest.mark.parametrize("word", ["glasses", "shorts", "news", "woods", "bus", "glass", "tennis", "grass", "chess"])
def test_words_that_only_look_like_plurals_stay(word: str) -> None:
    assert singular_forms(word) == ()


@pytest.mark.parametrize("word", ["earring", "building", "ceiling", "wedding", "ring", "seed", "bed", "string", "red"])
def test_words_that_only_look_like_verbs_stay(word: str) -> None:
    assert verb_forms(word) == ()


def test_a_word_is_no_inflection_of_itself() -> None:
    for word in ("sheep", "dogs", "running", "men", "a", "", "ss"):
        assert word not in base_forms(word)
