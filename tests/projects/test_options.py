"""Admins' settings: what is accepted, what is refused and how, and which source wins."""

import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ram_backend.errors import InputError, ProjectOptionsError
from ram_backend.projects.options import ProjectOptions, merge, parse_options

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.sampled_from(["tags", "per_tag", "top_k"]), inner),
    max_leaves=12,
)
TAGS = st.text(st.characters(exclude_categories=["Cs", "Cc", "Z"]), min_size=1, max_size=9)
SCORES = st.floats(0, 1)
OPTIONS = st.builds(
    ProjectOptions,
    tags=st.none() | st.lists(TAGS, min_size=1, unique=True).map(tuple),
    threshold=st.none() | SCORES,
    per_tag=st.dictionaries(TAGS, SCORES, max_size=4),
    top_k=st.none() | st.integers(1, 1000),
) | st.builds(ProjectOptions, precision=SCORES, top_k=st.none() | st.integers(1, 1000))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, ProjectOptions()),
        ("", ProjectOptions()),
        ({}, ProjectOptions()),
        ('{"threshold": 0.5}', ProjectOptions(threshold=0.5)),
        ({"tags": "cat, hot dog\n dog,,cat"}, ProjectOptions(tags=("cat", "hot dog", "dog"))),
        ({"tags": ["Cat", "a, b", "cat"]}, ProjectOptions(tags=("Cat", "a, b", "cat"))),
        ({"per_tag": {"cat": 0.25, "dog": 0}}, ProjectOptions(per_tag={"cat": 0.25, "dog": 0.0})),
        ({"top_k": 5.0}, ProjectOptions(top_k=5)),
        ({" Threshold": 0.3, "Top-K": 2}, ProjectOptions(threshold=0.3, top_k=2)),
        ({"precision": 0.9}, ProjectOptions(precision=0.9)),
    ],
)
def test_what_is_accepted(value: object, expected: ProjectOptions) -> None:
    assert parse_options(value) == expected
    assert bool(parse_options(value)) == (expected != ProjectOptions())


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"a": 1}, ["'a'=1", "tags, threshold, per_tag, top_k"]),
        ({"precision": 90}, ["precision=90", "a number from 0 to 1"]),
        ({"threshold": 0.5, "precision": 0.9}, ["threshold and precision", "give one"]),
        ({"x" * 1_000_000: 1}, ["there is no such key"]),
        ({"threshold": float("nan")}, ["threshold=nan", "a number from 0 to 1"]),
        ('{"threshold": 1e999}', ["threshold=inf"]),
        ({"model_score_threshold": 0.2}, ["'model_score_threshold'=0.2", "no such key", "did you mean threshold?"]),
        ({"tags": []}, ["tags=[]", "a list of tags"]),
        ({"tags": [str(number) for number in range(60_000)]}, ["tags=['0', '1',", "a list of tags"]),
        ({"tags": ["cat", 3]}, ["tags=['cat', 3]"]),
        ({"tags": ["c\0at"]}, ["tags=['c\\x00at']"]),
        ({"tags": ["\ud800"]}, ["tags=['\\ud800']"]),
        ({"per_tag": {"cat": 2}}, ["per_tag['cat']=2", "from 0 to 1 per tag"]),
        ({"per_tag": dict.fromkeys(map(str, range(60_000)), 0.5)}, ["per_tag={'0': 0.5,"]),
        ({"per_tag": [0.5]}, ["per_tag=[0.5]", "an object"]),
        ({"top_k": 0}, ["top_k=0", "a whole number from 1"]),
        ({"top_k": 10**5000}, ["top_k=a very long int"]),
        ("{threshold: 0.5}", ["'{threshold: 0.5}' is not JSON"]),
        ("[" * 100_000, ["is not JSON"]),
        ([1], ["[1] is not an object"]),
    ],
)
def test_what_is_refused_names_key_value_and_what_is_allowed(value: object, said: list[str]) -> None:
    with pytest.raises(ProjectOptionsError) as caught:
        parse_options(value, source="Here")
    message = str(caught.value)
    assert isinstance(caught.value, InputError)
    assert message.startswith("Here: ")
    assert "\n" not in message
    assert len(message) < 500
    assert [part for part in said if part not in message] == []


@given(JSON)
def test_nothing_but_our_own_error_comes_out(value: object) -> None:
    for given_value in (value, json.dumps(value)):
        with suppress(ProjectOptionsError):
            parsed = parse_options(given_value)
            assert parse_options(parsed.to_json()) == parsed


@given(OPTIONS)
def test_json_and_back(options: ProjectOptions) -> None:
    assert parse_options(json.dumps(options.to_json())) == options
    assert merge(options) == merge(options, ProjectOptions()) == merge(ProjectOptions(), options) == options
    assert hash(merge(options)) == hash(options)


def test_the_first_that_says_something_wins_field_by_field() -> None:
    strong = ProjectOptions(threshold=0.0, per_tag={"cat": 0.1})
    middle = ProjectOptions(tags=("a",), threshold=0.6, per_tag={"cat": 0.2, "dog": 0.3})
    weak = ProjectOptions(tags=("b",), threshold=0.7, top_k=3)
    merged = merge(strong, middle, weak)
    assert merged == ProjectOptions(tags=("a",), threshold=0.0, per_tag={"cat": 0.1, "dog": 0.3}, top_k=3)


def test_threshold_and_precision_are_one_thing_said_in_two_ways() -> None:
    exact, loose = ProjectOptions(precision=0.9), ProjectOptions(threshold=0.3, top_k=2)
    assert merge(exact, loose) == ProjectOptions(precision=0.9, top_k=2)
    assert merge(loose, exact) == loose
    assert merge(ProjectOptions(top_k=1), exact, loose) == ProjectOptions(precision=0.9, top_k=1)
    assert merge(exact, ProjectOptions(per_tag={"cat": 0.2})).per_tag == {"cat": 0.2}
