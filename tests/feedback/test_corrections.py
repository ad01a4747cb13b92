"""What annotations mean: each way in which people say something about tags, or nothing."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from feedback.saying import CONFIG, MINUTE, NOW, current, microseconds, said, shown
from support.server import choices_config

from ram_backend.feedback.corrections import corrections_of, merge_corrections, shown_to
from ram_backend.feedback.events import CurrentAnnotation, LabelSpace
from ram_backend.feedback.labels import ImageLabels, LabelState, TagLabel, to_matrix
from ram_backend.feedback.shown import ShownPrediction
from ram_backend.labelstudio.annotations import ParsedAnnotation, ParsedItem
from ram_backend.labelstudio.label_config import parse_label_config

SCHEMA = parse_label_config(CONFIG)
TREE = parse_label_config(
    '<View><Image name="image" value="$image"/><Taxonomy name="tags" toName="image"><Choice value="animal">'
    '<Choice value="cat"/><Choice value="dog"/></Choice><Choice value="plant"/></Taxonomy></View>'
)


def only(annotation: ParsedAnnotation | CurrentAnnotation, *rows: ShownPrediction, schema: Any = SCHEMA) -> ImageLabels:
    given = current(annotation) if isinstance(annotation, ParsedAnnotation) else annotation
    (correction,) = corrections_of(schema, [given], {given.parsed.task: rows})
    return correction


def states(said: ImageLabels, tags: Sequence[str] = ("cat", "dog", "tree")) -> list[tuple[LabelState, float]]:
    return [(said.label(tag).state, round(said.label(tag).weight, 6)) for tag in tags]


def merged(*given: Any, **options: Any) -> list[ImageLabels]:
    return merge_corrections(corrections_of(*given, **options))


def together(*annotations: ParsedAnnotation, schema: Any = SCHEMA, **options: Any) -> list[ImageLabels]:
    return merged(schema, [current(each) for each in annotations], {}, **options)


def paths(*values: tuple[str, ...], kind: str = "taxonomy", name: str = "tags") -> tuple[ParsedItem, ...]:
    return (ParsedItem(name, "image", kind, values),)


# One annotation


def test_against_what_was_shown() -> None:
    served = shown(1, ["cat", "dog"], ["tree"], prediction_id=9, version="v0002")
    correction = only(said(1, "cat", "tree", parent_prediction=9, completed_by=4), served)
    assert states(correction) == [("confirmed", 1), ("removed", 1), ("added", 1)]
    assert [correction.label(tag).label for tag in ("cat", "dog", "tree")] == [True, False, True]
    assert [correction.label(tag).score for tag in ("cat", "dog", "tree")] == [0.9, 0.9, 0.2]
    assert (correction.model_versions, correction.versions) == (("starter-1",), ("v0002",))
    assert correction.tags("removed") == ("dog",)


OFF = ("untouched", 1)


@pytest.mark.parametrize(
    ("parsed", "served", "expected"),
    [
        (said(1, "cat"), [shown(1, ["cat", "dog"])], [("added", 1), OFF, OFF]),  # started from none
        (said(1, "cat", parent_prediction=9), [], [("added", 1), OFF, OFF]),  # from one that nobody knows
        (said(1), [], [OFF] * 3),  # no tag is an answer
        (said(1, parent_prediction=9), [shown(1, ["cat"])], [("removed", 1), OFF, OFF]),
    ],
)
def test_what_is_ticked_or_not(parsed: ParsedAnnotation, served: Any, expected: list[tuple[LabelState, float]]) -> None:
    correction = only(parsed, *served)
    assert states(correction) == expected
    assert correction.model_versions == (("starter-1",) if expected[0][0] == "removed" else ())


def test_a_skipped_or_unseen_one_and_tags_that_the_label_config_has_no_more_are_left_out() -> None:
    assert together(said(1, "cat", was_cancelled=True), said(2, "cat", auto_created=True, parent_prediction=9)) == []
    correction = only(said(1, "bus", "cat", parent_prediction=9), shown(1, ["bus", "train"]))
    assert set(correction.states) == {"cat"}
    assert states(correction, ["bus", "train"]) == [("unknown", 0), ("unknown", 0)]


def test_a_tag_that_came_into_the_label_config_later_is_unknown() -> None:
    earlier = LabelSpace.of(parse_label_config(CONFIG.replace('<Choice value="tree"/>', "")))
    annotation = current(said(1, "cat"), offered=earlier)
    assert states(only(annotation)) == [("added", 1), ("untouched", 1), ("unknown", 0)]
    (labels,) = merged(SCHEMA, [annotation, current(said(2, "dog", task=1))], {})
    assert states(labels)[2] == ("untouched", 1)  # the other annotator could have ticked it


# Which prediction was shown


def test_the_prediction_is_found_by_its_number_else_it_is_the_last_that_was_served_before() -> None:
    rows = [shown(1, ["cat"], prediction_id=8), shown(1, ["dog"], prediction_id=9), shown(1, ["tree"], shown_at=NOW)]
    assert shown_to(said(1, parent_prediction=9), rows) is rows[1]
    first, second, later = (shown(1, shown_at=NOW + minutes * MINUTE) for minutes in (-9, -5, 5))
    other = shown(1, prediction_id=3, shown_at=NOW)
    parsed = said(1, parent_prediction=9, created_us=microseconds(NOW))
    assert shown_to(parsed, [second, first, later, other]) is second
    assert shown_to(parsed, [later, other]) is None
    assert shown_to(replace(parsed, created_us=0), [first, later]) is later
    assert shown_to(replace(parsed, parent_prediction=None), [first]) is None
    early = shown(1, shown_at=NOW + MINUTE / 2)
    assert shown_to(parsed, [early]) is early, "clocks need not agree"


# Lists and trees


def test_a_chosen_entry_of_a_tree_says_nothing_of_those_above_it() -> None:
    parsed = said(1, items=paths(("animal", "cat")))
    names = ("animal", "cat", "dog", "plant")
    expected = [("unknown", 0), ("added", 1), ("untouched", 1), ("untouched", 1)]
    assert states(only(parsed, schema=TREE), names) == expected
    both = said(1, items=paths(("animal", "cat"), ("animal",)))
    assert states(only(both, schema=TREE), names)[0] == ("added", 1)
    served = shown(1, prediction_id=9)
    served = replace(served, choices=tuple(replace(shown(1, ["x"]).choices[0], path=path) for path in [("animal",)]))
    parsed = said(1, items=paths(("animal", "cat")), parent_prediction=9)
    assert only(parsed, served, schema=TREE).label("animal").state == "removed", "it was shown and unticked"


def test_two_choices_of_one_text_are_one_tag() -> None:
    schema = parse_label_config(
        '<View><Image name="image" value="$image"/><Taxonomy name="tags" toName="image"><Choice value="pet">'
        '<Choice value="cat"/></Choice><Choice value="wild"><Choice value="cat"/></Choice></Taxonomy></View>'
    )
    parsed = said(1, items=paths(("pet", "cat")))
    assert only(parsed, schema=schema).label("cat") == TagLabel(True, 1, "added")


def test_of_several_texts_nobody_knows_which() -> None:
    several = '"vehicle" predicted_values="car, bus, truck,tram"'
    schema = parse_label_config(choices_config("vehicle", "car").replace('"vehicle"', several))
    assert states(only(said(1, "vehicle"), schema=schema), ["bus", "vehicle"]) == [("added", 0.25), ("unknown", 0)]
    assert states(only(said(1, "vehicle", "car"), schema=schema), ["car", "bus"]) == [("added", 1), ("added", 0.25)]
    assert states(only(said(1), schema=schema), ["car", "bus"]) == [("untouched", 1), ("untouched", 1)]


def test_dynamic_choices_come_with_the_task() -> None:
    schema = parse_label_config(choices_config(attributes='value="$options"'))
    data = {"image": "/a.jpg", "options": ["bus", {"value": "A tram", "alias": "tram"}]}
    correction = only(current(said(1, "tram"), task_data=data), schema=schema)
    assert states(correction, ["bus", "A tram", "cat"]) == [("untouched", 1), ("added", 1), ("unknown", 0)]
    other = current(said(2, "cat"), task_data={"image": "/b.jpg", "options": ["cat"]})
    labels = merged(schema, [current(said(1, "tram"), task_data=data), other], {})
    on, weights = to_matrix(labels, ["bus", "A tram", "cat"])
    assert on.tolist() == [[False, True, False], [False, False, True]]
    assert weights.tolist() == [[1, 1, 0], [0, 0, 1]]


def test_each_image_of_a_task_has_its_own_labels() -> None:
    schema = parse_label_config(
        '<View><Image name="left" value="$a"/><Image name="right" value="$b"/>'
        '<Choices name="one" toName="left" choice="multiple"><Choice value="cat"/></Choices>'
        '<Choices name="two" toName="right" choice="multiple"><Choice value="cat"/></Choices></View>'
    )
    annotation = current(
        said(1, items=paths(("cat",), kind="choices", name="two")), task_data={"a": "/a.jpg", "b": "/b.jpg"}
    )
    left, right = merged(schema, [annotation], {})
    assert (left.to_name, left.reference, left.label("cat").label) == ("left", "/a.jpg", False)
    assert (right.to_name, right.reference, right.label("cat").label) == ("right", "/b.jpg", True)


# Several annotations of one task


def test_annotators_who_agree_count_in_full() -> None:
    (labels,) = together(said(1, "cat", task=5), said(2, "cat", task=5, completed_by=2))
    assert states(labels) == [("added", 1), ("untouched", 1), ("untouched", 1)]
    assert labels.annotation_ids == (1, 2)
    (labels,) = together(said(1, "cat", task=5), said(2, task=5))  # who left a tag off says as much as who ticked it
    assert states(labels)[0] == ("unknown", 0)


def test_a_tie_is_unknown() -> None:
    served = {5: [shown(5, ["cat"], prediction_id=9)]}
    one, other = said(1, "cat", task=5, parent_prediction=9), said(2, task=5, parent_prediction=9)
    third = round(1 / 3, 6)
    for more, expected in (
        ([], (False, ("unknown", 0))),
        ([replace(one, id=3)], (True, ("confirmed", third))),
        ([replace(other, id=4)], (False, ("removed", third))),
    ):
        (labels,) = merged(SCHEMA, [current(each) for each in (one, other, *more)], served)
        assert (labels.label("cat").label, states(labels)[0]) == expected


def test_ground_truth_wins_and_is_flagged() -> None:
    (labels,) = together(said(1, "cat", task=5), said(2, "cat", task=5), said(3, "dog", task=5, ground_truth=True))
    assert states(labels) == [("untouched", 1), ("added", 1), ("untouched", 1)]
    assert labels.ground_truth
    assert labels.annotation_ids == (3,)
    assert not together(said(1, "cat"))[0].ground_truth


def test_tasks_come_in_order_and_newer_data_win() -> None:
    labels = together(said(1, "cat", task=9), said(2, "dog", task=3), task_data={3: {"image": "/new.jpg"}, 9: {}})
    assert [(each.task_id, each.reference) for each in labels] == [(3, "/new.jpg"), (9, "/data/9.jpg")]
    assert only(current(said(1, "cat"), task_data={})).reference is None
    given = [said(number, *tags, task=5) for number, tags in enumerate([("cat",), ("dog", "cat"), (), ("tree",)], 1)]
    assert states(together(*given)[0]) == states(together(*reversed(given))[0]), "whoever came first"


# Regions and free tags

BOXES = parse_label_config(
    '<View><Image name="image" value="$image"/><RectangleLabels name="tags" toName="image"><Label value="cat"/>'
    '<Label value="dog"/><Label value="tree"/></RectangleLabels></View>'
)
WORDS = parse_label_config(
    '<View><Image name="image" value="$image"/><TextArea name="tags" toName="image" editable="true"/></View>'
)


def stating(number: int, *tags: str, kind: Any = "rectanglelabels", **more: Any) -> ParsedAnnotation:
    return replace(said(number, **more), items=paths(*((tag,) for tag in tags), kind=kind) if tags else ())


def test_regions_are_deleted_and_drawn() -> None:
    correction = only(
        stating(1, "cat", "tree", parent_prediction=9),
        shown(1, ["cat", "dog"], ["tree"], prediction_id=9),
        schema=BOXES,
    )
    assert states(correction) == [("confirmed", 1), ("removed", 1), ("added", 1)]
    assert states(only(stating(1), schema=BOXES)) == [("untouched", 1)] * 3
    assert states(only(stating(1, "cat", kind="choices"), schema=BOXES))[0] == ("untouched", 1)


def test_lines_are_tags_in_anybodys_words() -> None:
    served = shown(1, ["cat", "dog"], ["tree"], prediction_id=9)
    correction = only(stating(1, "Cat", "red chair", kind="textarea", parent_prediction=9), served, schema=WORDS)
    assert [correction.tags(state) for state in ("confirmed", "removed", "added")] == [
        ("cat",),
        ("dog",),
        ("red chair",),
    ]
    assert states(correction, ["tree", "sofa"]) == [("untouched", 1), ("unknown", 0)]
    one, other = together(stating(1, "Sofa", kind="textarea"), stating(2, "lamp", kind="textarea"), schema=WORDS)
    assert states(one, ["Sofa", "lamp"]) == [("added", 1), ("untouched", 1)]
    assert states(other, ["Sofa", "lamp"]) == [("untouched", 1), ("added", 1)]
    assert one.candidates is other.candidates
    correction = only(stating(1), schema=WORDS)
    assert (correction.states, correction.candidates) == ({}, {})
