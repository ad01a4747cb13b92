"""What is read of annotations: of recorded ones, of the API's, and of those that nobody should send."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from contract.recorded import body
from hypothesis import given
from hypothesis import strategies as st

from ram_backend.labelstudio.annotations import (
    MAX_STATEMENT_CHARS,
    ParsedAnnotation,
    caption_in,
    content_hash,
    read_annotation,
    read_items,
    ticked_paths,
    trimmed_task_data,
)
from ram_backend.labelstudio.label_config import parse_label_config


def read(given: dict[str, Any], **options: Any) -> ParsedAnnotation:
    parsed = read_annotation(given, **options)
    assert parsed is not None
    return parsed


def recorded(name: str) -> ParsedAnnotation:
    return read(body(f"webhook-annotation-{name}")["annotation"])


def annotation(**changes: Any) -> dict[str, Any]:
    return {"id": 1, "task": 2, "result": [], **changes}


def item(values: Any, kind: str = "choices", name: Any = "tags") -> dict[str, Any]:
    return {"from_name": name, "to_name": "image", "type": kind, "value": {kind: values}}


def values(*items: Any) -> list[tuple[Any, ...]]:
    return [each.values for each in read(annotation(result=list(items))).items]


def test_an_edited_prediction() -> None:
    parsed = recorded("created-choices-textarea-from-prediction-changed")
    assert (parsed.id, parsed.task, parsed.completed_by, parsed.parent_prediction) == (31, 58, 1, 108)
    assert parsed.updated_at == datetime(2026, 11, 23, 16, 55, 21, 213796, tzinfo=UTC)
    assert parsed.created_at == datetime(2026, 11, 23, 16, 55, 21, 213760, tzinfo=UTC)
    assert [each.values for each in parsed.items] == [(("cat",), ("tree",), ("sky",), ("water",))]
    assert "93%" not in parsed.canonical()  # the model's own words are not kept
    assert parsed.usable


@pytest.mark.parametrize(
    ("name", "count", "usable"),
    [
        ("created-choices-rectanglelabels-from-prediction-changed", 1, True),
        ("created-taxonomy", 1, True),
        ("created-empty", 0, True),
        ("updated-empty", 0, True),
        ("created-textarea-from-prediction", 0, True),
        ("created-skipped", 0, False),
        ("created-skipped-from-prediction", 1, False),
    ],
)
def test_recorded_ones(name: str, count: int, usable: bool) -> None:
    parsed = recorded(name)
    assert (len(parsed.items), parsed.usable) == (count, usable)


def test_made_from_predictions_in_bulk_nobody_has_looked() -> None:
    given = body("webhook-annotations-created")["annotation"]
    assert [(each.auto_created, each.usable) for each in map(read, given)] == [(True, False)] * 3
    for seen in ({"updated_by": 1}, {"parent_prediction": None}):  # edited, and imported labels
        assert read({**given[0], **seen}).usable


def test_the_api_and_a_webhook_say_the_same() -> None:
    webhook = body("webhook-annotation-created-choices-from-prediction")["annotation"]
    listed = {name: value for name, value in webhook.items() if name not in ("unique_id", "prediction", "result_count")}
    listed |= {
        "completed_by": {"id": 1, "email": "admin@example.com"},
        "created_username": " admin@example.com, 1",
        "created_ago": "0 minutes",
    }
    one, other = read(webhook), read(listed, task=123)
    assert one == other
    assert content_hash(one.canonical()) == content_hash(other.canonical())


def test_times() -> None:
    moments = {"1970-01-01T00:00:01.000002Z": 1_000_002, "1969-12-31T00:00:00Z": 0, "yesterday": 0, 17: 0}
    for moment, microseconds in moments.items():
        parsed = read(annotation(updated_at=moment))
        assert (parsed.updated_us, parsed.updated_at is None) == (microseconds, microseconds == 0)


@pytest.mark.parametrize(
    "broken",
    [
        {},
        *({"id": number} for number in (None, "one", True, 0, -1, 2**63, 1.5)),
        *({"task": number} for number in (None, [])),
        *({"result": result} for result in ("cat", {"0": 1}, [item(["x" * MAX_STATEMENT_CHARS])])),
    ],
)
def test_nothing_can_be_made_of(broken: dict[str, Any]) -> None:
    assert read_annotation(annotation(**broken) if broken else {}) is None


def test_numbers_may_be_digits_or_objects() -> None:
    parsed = read(annotation(id="7", task={"id": 9}, completed_by={"id": "3"}))
    assert (parsed.id, parsed.task, parsed.completed_by) == (7, 9, 3)
    parsed = read({"id": 1, "result": None}, task=5)  # the task may be known otherwise
    assert (parsed.task, parsed.items) == (5, ())


@pytest.mark.parametrize(
    "broken",
    [
        None,
        item(None),
        item({"a": 1}),
        item(["cat"], name=None),
        item(["cat"], kind="polygonlabels"),
        {**item(["cat"], kind="rectanglelabels"), "readonly": True},
        {**item(["cat"]), "type": "textarea", "value": {"text": ["cat  93%", "red chair  7%"]}},
        {**item(["cat"]), "type": "textarea", "value": {"text": ["cat"], "x": 1, "width": 5}},
        {**item(["cat"]), "type": "textarea", "value": {"text": ["x" * 1001, " "]}},
        {**item(["cat"]), "value": ["cat"]},
    ],
)
def test_broken_items_are_left_out_and_others_kept(broken: object) -> None:
    assert values(broken, item(["cat"])) == [(("cat",),)]


LINES = {"from_name": "words", "to_name": "image", "type": "textarea"}


@pytest.mark.parametrize(
    ("given_item", "expected"),
    [
        (item("cat"), [("cat",)]),
        (item(["cat", "cat", 7, None, {"x": 1}, ["a", "b"], []]), [("cat",), ("7",), ("a", "b")]),
        (item([["animal", "cat"], ["dog"]], "taxonomy"), [("animal", "cat"), ("dog",)]),
        (item(["\ud800x"]), [("?x",)]),
        ({**LINES, "value": {"text": [" red  chair ", "cat", "cat", "", "y" * 1001]}}, [("red chair",), ("cat",)]),
        ({**LINES, "value": {"text": "cat"}}, [("cat",)]),
        (item([f"tag {number}" for number in range(4585)]), [(f"tag {number}",) for number in range(4585)]),
    ],
)
def test_values(given_item: dict[str, Any], expected: list[tuple[str, ...]]) -> None:
    assert values(given_item) == [tuple(expected)]


def region(label: str, name: str = "boxes", kind: str = "rectanglelabels") -> dict[str, Any]:
    place = {"x": 1, "y": 2, "width": 3, "height": 4, "rotation": 0}
    return {"from_name": name, "to_name": "image", "type": kind, "id": label, "value": place | {kind: [label]}}


def test_regions_of_one_control_are_one_item_and_their_places_are_not_kept() -> None:
    tool = {"from_name": "where", "to_name": "image", "type": "rectangle", "value": {"x": 0, "y": 0}}
    said = [region("cat"), region("dog"), tool, region("cat"), region("cow", "more", "brushlabels"), item(["sky"])]
    parsed = read(annotation(result=said))
    assert [(each.from_name, each.kind, each.values) for each in parsed.items] == [
        ("boxes", "rectanglelabels", (("cat",), ("dog",))),
        ("more", "brushlabels", (("cow",),)),
        ("tags", "choices", (("sky",),)),
    ]
    assert "width" not in parsed.canonical()


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just("choices"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
FIELDS = ("id", "task", "result", "updated_at", "created_at", "completed_by", "parent_prediction", "was_cancelled")


@given(st.fixed_dictionaries({}, optional=dict.fromkeys(FIELDS, anything)), st.booleans())
def test_whatever_comes_it_never_raises(fields: dict[str, Any], good: bool) -> None:
    parsed = read_annotation(annotation(**fields) if good else fields)
    if parsed is not None:
        assert ParsedAnnotation.from_canonical(parsed.canonical(), updated_us=parsed.updated_us) == parsed


def test_task_data_without_the_longest_values() -> None:
    short = '{"image":"/a.jpg","n":1}'
    assert trimmed_task_data({"image": "/a.jpg", "n": 1}, len(short)) == short
    assert trimmed_task_data({}) is trimmed_task_data(None) is trimmed_task_data([1]) is None
    assert trimmed_task_data({"image": {1, 2}}) is None
    text = trimmed_task_data({"image": "/a.jpg", "photo": "data:" + "x" * 5000, "about": "y" * 50}, 100)
    assert json.loads(text or "") == {"image": "/a.jpg", "about": "y" * 50}
    assert trimmed_task_data({"photo": "x" * 5000}, 100) == "{}"


def test_long_lines_are_captions_and_no_free_tags() -> None:
    sentence = "a dog on a road " * 10
    items = read_items([{**LINES, "value": {"text": ["cat", sentence]}}])
    (area,) = parse_label_config(
        '<View><Image name="image" value="$image"/><TextArea name="words" toName="image"/></View>'
    ).tag_controls
    assert list(ticked_paths(area, items)) == [("cat",)]
    assert caption_in("words", items) == f"cat {sentence.strip()}"
    assert caption_in("other", items) == ""
