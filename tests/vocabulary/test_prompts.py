from __future__ import annotations

import open_clip
import pytest

from ram_backend.vocabulary import prompts as module
from ram_backend.vocabulary.prompts import prompts, recipe_id, spoken, templates


def test_templates_are_open_clips() -> None:
    assert len(templates()) == len(open_clip.OPENAI_IMAGENET_TEMPLATES) == 80
    assert [template.format("fox") for template in templates()] == [
        template("fox") for template in open_clip.OPENAI_IMAGENET_TEMPLATES
    ]


@pytest.mark.parametrize(
    ("tag", "word"),
    [
        ("Golden Retriever", "golden retriever"),
        ("traffic_light", "traffic light"),
        ("car/van", "car or van"),
        ("stop sign.", "stop sign"),
        ("  fire   hydrant ", "fire hydrant"),
    ],
)
def test_a_tag_is_spoken(tag: str, word: str) -> None:
    assert spoken(tag) == word


def test_article_follows_the_word_and_sentences_are_whole() -> None:
    chosen = [
        "a photo of a {}.",
        "itap of a {}.",
        "the {}.",
        "There is {}.",
        "a photo of the big {}.",
        "a {} in a box.",
    ]
    assert prompts("Apple", chosen) == [
        "This is a photo of an apple.",
        "itap of an apple.",
        "This is the apple.",
        "There is apple.",
        "This is a photo of the big apple.",
        "This is an apple in a box.",
    ]
    assert prompts("dog", chosen)[1] == "itap of a dog."
    assert len(prompts("dog")) == 80
    assert all("dog" in sentence and "{" not in sentence for sentence in prompts("dog"))


def test_braces_in_a_tag_are_text() -> None:
    assert prompts("{}", ["a photo of a {}."]) == ["This is a photo of a {}."]


def test_recipe_id_changes_with_the_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    before = recipe_id()
    assert before == recipe_id()
    monkeypatch.setattr(module, "RULES", module.RULES + 1)
    assert recipe_id() != before
