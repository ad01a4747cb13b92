"""RAM's prompt ensemble."""

import hashlib

import pytest

from ram_backend.vocabulary.prompts import prompts, spoken


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


def test_there_are_ram_s_63_sentences_of_which_58_begin_with_this_is() -> None:
    sentences = prompts("dog")
    assert len(sentences) == len(set(sentences)) == 63
    assert sum(sentence.startswith("This is ") for sentence in sentences) == 58
    assert {"There is the dog in the scene.", "itap of my dog.", "This is a close-up photo of a dog."} < set(sentences)
    assert hashlib.sha256("\n".join(sentences).encode()).hexdigest().startswith("b8eec4a33150")


def test_the_article_follows_the_first_letter_as_it_is_written() -> None:
    assert "itap of an apple." in prompts("apple")
    assert "itap of a apple." in prompts("Apple")  # as RAM's code has it
    assert "This is a photo of a nice apple." in prompts("apple")
    assert "itap of a unicorn." in prompts("_unicorn")
    assert "itap of a {article}." in prompts("{article}")
