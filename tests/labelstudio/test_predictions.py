"""Predictions in Label Studio's shape: items by control, confidences, and the score of uncertainty sampling."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.studio_api import unpacked

from ram_backend.labelstudio.label_config import parse_label_config
from ram_backend.labelstudio.predictions import (
    RANDOM_UNTIL,
    ScoredChoice,
    brush_rle,
    margins_of,
    place_in_order,
    prediction,
)
from ram_backend.labelstudio.schema import free_choice

IMAGE = '<Image name="image" value="$image"/>'
NAMES = ("cat", "dog", "tree", "sky")
TAGS = (
    '<Choices name="tags" toName="image" choice="multiple">'
    + "".join(f'<Choice value="{name}"/>' for name in NAMES)
    + "</Choices>"
)
CAT, DOG = '<Choice value="cat"/>', '<Choice value="dog"/>'
LABELS = '<Label value="cat"/><Label value="Dog" alias="d"/>'
REGIONS = f'<RectangleLabels name="tags" toName="image">{LABELS}</RectangleLabels>'
AREA = '<TextArea name="confidence" toName="image" editable="false" maxSubmissions="0"/>'
PLACE = {"x": 0, "y": 0, "width": 100, "height": 100, "rotation": 0}
SIZE = {"image_sizes": {"image": (640, 480)}}


def predict(xml: str, scores: dict[str, Any], threshold: float = 0.5, **more: Any) -> dict[str, Any]:
    """The prediction for scores by choice, or by control and choice; other controls have none."""
    schema = parse_label_config(f"<View>{IMAGE}{xml}</View>")
    by_name = scores if isinstance(next(iter(scores.values())), dict) else {"tags": scores}
    scored = {
        control.name: [ScoredChoice(each, by_name[control.name][each.value], threshold) for each in control.choices]
        for control in schema.tag_controls
        if control.name in by_name
    }
    return prediction(schema, scored, model_version="v1", **more)


def of(*scores: float) -> dict[str, float]:
    return dict(zip(NAMES, scores, strict=False))


def values(answer: dict[str, Any]) -> list[Any]:
    """What each item says, without the place of regions."""
    return [value for item in answer["result"] for key, value in item["value"].items() if key not in PLACE]


def test_one_item_with_all_ticked_values_best_first() -> None:
    answer = predict(TAGS, of(0.61, 0.93, 0.5, 0.1))
    item = {"id": "tags", "from_name": "tags", "to_name": "image", "type": "choices", "score": 0.47}
    assert answer == {
        "model_version": "v1",
        "score": round(1 / (1 + 0.39 + 0.07 + 0.5 + 0.1), 6),
        "result": [item | {"value": {"choices": ["dog", "cat"]}}],
    }


def choices(attributes: str, inside: str = CAT + DOG) -> str:
    return f'<Choices name="tags" toName="image" {attributes}>{inside}</Choices>'


def taxonomy(inside: str, attributes: str = 'leafsOnly="true"') -> str:
    return f'<Taxonomy name="tags" toName="image" {attributes}>{inside}</Taxonomy>'


MULTIPLE, TOP_2 = 'choice="multiple"', TAGS.replace("choice=", 'model_top_k="2" choice=')
TREE = f'<Choice value="a">{CAT}</Choice><Choice value="b">{CAT}{DOG}</Choice>'


@pytest.mark.parametrize(
    ("xml", "scores", "more", "expected"),
    [
        (TAGS + AREA, of(0.61, 0.934, 0.2, 0.1), {}, [["dog", "cat"], ["dog  93%", "cat  61%"]]),
        (TAGS + AREA, of(0.1, 0.2, 0.0, 0.5), {}, []),
        (choices(MULTIPLE, '<Choice value="Cat" alias="C"/>') + AREA, {"C": 0.9}, {}, [["C"], ["Cat  90%"]]),
        (
            taxonomy(TREE) + AREA,
            of(0.8, 0.7),
            {},
            [[["a", "cat"], ["b", "cat"], ["b", "dog"]], ["a / cat  80%", "b / cat  80%", "dog  70%"]],
        ),
        (choices(MULTIPLE + ' allowNested="true"', f'<Choice value="a">{CAT}</Choice>'), of(0.9), {}, [[["a", "cat"]]]),
        (choices('choice="single"'), of(0.7, 0.9), {}, [["dog"]]),
        (choices('choice="single-radio"'), of(0.9, 0.9), {}, [["cat"]]),
        (choices('choice="single"'), of(0.5, 0.3), {}, []),
        (choices('choice="single" required="true"'), of(0.4, 0.3), {}, [["cat"]]),
        (choices('choice="multiple" required="true"'), of(0.4, 0.3), {}, []),
        (TOP_2, of(0.6, 0.9, 0.8, 0.7), {}, [["dog", "tree"]]),
        (TOP_2, of(0.6, 0.9, 0.8, 0.7), {"top_k": {"tags": 3}}, [["dog", "tree", "sky"]]),
        (TOP_2, of(0.6, 0.9, 0.8, 0.7), {"top_k": {"tags": None}}, [["dog", "tree"]]),
        (taxonomy(CAT + DOG, 'maxUsages="1"'), of(0.8, 0.9), {}, [[["dog"]]]),
        (REGIONS + AREA, {"cat": 0.61, "d": 0.93}, {}, [["d"], ["cat"], ["Dog  93%", "cat  61%"]]),
        (TAGS + choices("").replace("tags", "more"), {"more": of(0.9, 0)}, {}, [["cat"]]),  # the other image is broken
    ],
)
def test_what_is_ticked_and_shown(xml: str, scores: dict[str, Any], more: dict[str, Any], expected: list[Any]) -> None:
    answer = predict(xml, scores, **more)
    assert values(answer) == expected
    assert 0 <= answer["score"] <= 1


def test_each_control_has_its_own_item_and_images_their_own_lines() -> None:
    xml = (
        '<Image name="back" value="$b"/>'
        f'<Choices name="x" toName="image">{CAT}</Choices><Choices name="y" toName="back">{DOG}</Choices>'
        '<TextArea name="t" toName="back" maxSubmissions="0"/>'
    )
    answer = predict(xml, {"x": {"cat": 0.9}, "y": {"dog": 0.8}})
    named = [(item["from_name"], item["to_name"], item["type"]) for item in answer["result"]]
    assert named == [("x", "image", "choices"), ("y", "back", "choices"), ("t", "back", "textarea")]
    assert values(answer) == [["cat"], ["dog"], ["dog  80%"]]
    assert answer["score"] == pytest.approx(1 / (1 + 0.1 + 0.2), abs=1e-6), "of both"


def region(name: str, score: float, label: str, **more: Any) -> dict[str, Any]:
    return {
        "id": f"{name}-region-1",
        "from_name": name,
        "to_name": "image",
        "type": "rectanglelabels",
        "score": score,
        "original_width": 640,
        "original_height": 480,
        "image_rotation": 0,
        "value": PLACE | {"rectanglelabels": [label]},
        **more,
    }


def test_rectangles_carry_a_score_per_tag_that_has_a_label() -> None:
    rectangles = '<RectangleLabels name="conf" toName="image" opacity="0"><Label value="cat"/><Label value="sky"/>'
    xml, scores = f"{TAGS}{rectangles}</RectangleLabels>", of(0.6, 0.9, 0.1, 0.8)
    answer = predict(xml, scores, **SIZE)
    assert values(answer) == [["dog", "sky", "cat"], ["sky"], ["cat"]]
    assert answer["result"][1] == region("conf", 0.8, "sky", readonly=True)
    assert (answer["result"][2]["id"], answer["result"][2]["score"]) == ("conf-region-2", 0.6)
    assert len(predict(xml, scores)["result"]) == 1


def test_labels_have_a_region_per_box_or_over_the_whole_image() -> None:
    boxes = {"tags": {"cat": [(0.8, (0.25, 0.5, 0.75, 1.0)), (0.4, (0.0, 0.0, 0.1, 0.2))], "d": []}}
    answer = predict(REGIONS, {"cat": 0.8, "d": 0.7}, boxes=boxes, **SIZE)
    assert values(answer) == [["cat"], ["cat"], ["d"]]
    first, second, third = answer["result"]
    place = {"x": 25, "y": 50, "width": 50, "height": 50, "rotation": 0}
    assert first == region("tags", 0.8, "cat") | {"value": place | {"rectanglelabels": ["cat"]}}
    assert (second["id"], second["score"], second["value"]["width"]) == ("tags-region-2", 0.4, 10)
    assert third["value"] == PLACE | {"rectanglelabels": ["d"]}  # no box: the whole image
    first, second = predict(REGIONS, {"cat": 0.61, "d": 0.93}, **SIZE)["result"]
    assert first == region("tags", 0.93, "d")
    assert (second["id"], second["score"]) == ("tags-region-2", 0.61)
    (item, _) = predict(REGIONS, {"cat": 0.61, "d": 0.93})["result"]
    assert "original_width" not in item, "regions are not lost where nobody knows the size"


@given(st.data(), st.integers(1, 9), st.integers(1, 700))
def test_masks_in_label_studio_s_run_lengths(data: st.DataObject, height: int, width: int) -> None:
    edges = sorted(data.draw(st.lists(st.integers(0, height * width), max_size=8)))
    mask = np.zeros(height * width, bool)
    for edge in edges:
        mask[edge:] ^= True
    mask = mask.reshape(height, width)
    assert (unpacked(brush_rle(mask)).reshape(height, width, 4) == 255 * mask[..., None]).all()


def test_long_runs_are_several_and_short() -> None:
    rle = brush_rle(np.zeros((1000, 1000), bool))
    assert unpacked(rle).sum() == 0
    assert len(unpacked(rle)) == 4_000_000
    assert len(rle) < 250
    assert all(isinstance(each, int) and 0 <= each < 256 for each in rle)


def test_brush_labels_have_their_masks_and_no_whole_image() -> None:
    xml = REGIONS.replace("RectangleLabels", "BrushLabels").replace(' name="tags"', ' name="tags" model_masks="true"')
    mask = brush_rle(np.eye(4, dtype=bool))
    (item,) = predict(xml, {"cat": 0.8, "d": 0.7}, boxes={"tags": {"cat": [(0.6, mask)]}}, **SIZE)["result"]
    value = {"format": "rle", "rle": mask, "brushlabels": ["cat"]}
    assert item == region("tags", 0.6, "cat", type="brushlabels", value=value)


def test_labels_with_a_rectangle_are_pairs_of_one_id() -> None:
    xml = f'<Labels name="tags" toName="image">{LABELS}</Labels><Rectangle name="where" toName="image"/>'
    result = predict(xml, {"cat": 0.9, "d": 0.8}, **SIZE)["result"]
    assert [(item["id"], item["from_name"], item["type"]) for item in result] == [
        ("tags-region-1", "where", "rectangle"),
        ("tags-region-1", "tags", "labels"),
        ("tags-region-2", "where", "rectangle"),
        ("tags-region-2", "tags", "labels"),
    ]
    assert [item["value"] for item in result[:2]] == [PLACE, PLACE | {"labels": ["cat"]}]


def test_free_tags_are_lines_best_first_and_no_more_than_asked() -> None:
    schema = parse_label_config(f'<View>{IMAGE}<TextArea name="tags" toName="image" maxSubmissions="2"/></View>')
    scores = {"cat": 0.6, "red chair": 0.9, "sofa": 0.8, "lamp": 0.2}
    scored = {"tags": [ScoredChoice(free_choice(name), score, 0.5) for name, score in scores.items()]}
    (item,) = prediction(schema, scored, model_version="v")["result"]
    assert (item["type"], item["value"]) == ("textarea", {"text": ["red chair", "sofa"]})


def test_tasks_are_served_at_random_first_then_by_expected_edits_but_for_one_in_five() -> None:
    tasks, scores = range(1, 5001), np.array([round(each, 6) for each in np.random.default_rng(0).beta(5, 5, 5000)])
    early, again, late = (
        np.array([place_in_order(task, score, learned) for task, score in zip(tasks, given, strict=True)])
        for given, learned in ((scores, 0), (1 - scores, RANDOM_UNTIL - 1), (scores, RANDOM_UNTIL))
    )
    assert (early == again).all(), "whatever the scores say"
    assert abs(np.corrcoef(early, tasks)[0, 1]) < 0.05
    random = late != scores
    assert (late[random] == early[random]).all(), "the same tasks, at the same places"
    assert 0.18 < random.mean() < 0.22
    first = np.argsort(late)[:1000]
    assert 0.1 < random[first].mean() < 0.3
    assert scores[first][~random[first]].max() < np.quantile(scores, 0.25)
    new = np.array([place_in_order(task, 0.5, RANDOM_UNTIL, novelty=2.0) for task in tasks])
    assert (new[random] == early[random]).all()
    assert (new[~random] == 0.2).all(), "four times the edits"


def scored(score: float, threshold: float = 0.5) -> ScoredChoice:
    return ScoredChoice(free_choice("x"), score, threshold)


@pytest.mark.parametrize(
    ("kept", "others", "confidence"),
    [
        ([scored(0.9)], [scored(0.2)], (0.8 + 0.6) / 2),
        ([scored(0.85, 0.7)], [], 0.5),
        ([], [scored(0.35, 0.7)], 0.5),
        ([scored(0.3)], [], 0),
        ([], [scored(0.99, 1.0)], 1),
        ([], [scored(0.49), *[scored(0.0)] * 4000], 0.02),  # absent tags do not drown the doubtful one
    ],
)
def test_confidence_by_the_threshold(kept: list[ScoredChoice], others: list[ScoredChoice], confidence: float) -> None:
    assert np.mean(margins_of(kept, others)) == pytest.approx(confidence)


@given(st.lists(st.floats(0, 1, width=32), min_size=4, max_size=4), st.floats(0, 1, width=32))
def test_answers_are_json_within_bounds_and_the_same_each_time(scores: list[float], threshold: float) -> None:
    answer = predict(TAGS + AREA, of(*scores), threshold)
    assert 0 <= answer["score"] <= 1
    assert json.loads(json.dumps(answer, allow_nan=False)) == answer
    assert predict(TAGS + AREA, of(*np.float32(scores)), np.float32(threshold)) == answer, "numpy's numbers, too"
    ticked = {value for item in answer["result"][:1] for value in item["value"]["choices"]}
    assert ticked == {name for name, score in of(*scores).items() if score > threshold}


def test_a_caption_is_one_text() -> None:
    area = '<TextArea name="caption" toName="image"/>'
    item = {"id": "caption", "from_name": "caption", "to_name": "image", "type": "textarea"}
    answer = predict(TAGS + area, of(0.9, 0.1, 0.1, 0.1), captions={"caption": "a cat on a mat", "other": "no"})
    assert answer["result"][1:] == [item | {"value": {"text": ["a cat on a mat"]}}]
    assert len(predict(TAGS + area, of(0.9, 0.1, 0.1, 0.1), captions={"caption": ""})["result"]) == 1
