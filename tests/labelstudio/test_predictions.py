from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ram_backend.labelstudio.label_config import parse_label_config
from ram_backend.labelstudio.plan import free_choice
from ram_backend.labelstudio.predictions import ScoredChoice, control_confidence, empty_prediction, prediction

IMAGE = '<Image name="image" value="$image"/>'
TAGS = '<Choices name="tags" toName="image" choice="multiple">' + "".join(
    f'<Choice value="{name}"/>' for name in ("cat", "dog", "tree", "sky")
)
AREA = '<TextArea name="confidence" toName="image" editable="false" maxSubmissions="0"/>'


def predict(xml, scores, threshold=0.5, **more):
    plan = parse_label_config(f"<View>{xml}</View>")
    by_name = scores if isinstance(next(iter(scores.values()), None), dict) else {"tags": scores}
    scored = {
        control.name: [ScoredChoice(each, by_name[control.name][each.value], threshold) for each in control.choices]
        for control in plan.tag_controls
        if control.name in by_name
    }
    return prediction(plan, scored, model_version="v1", **more)


def test_one_item_with_all_ticked_values_best_first():
    answer = predict(f"{IMAGE}{TAGS}</Choices>", {"cat": 0.61, "dog": 0.93, "tree": 0.5, "sky": 0.1})
    score = answer["score"]
    assert answer == {
        "model_version": "v1",
        "score": score,
        "result": [
            {
                "id": "tags",
                "from_name": "tags",
                "to_name": "image",
                "type": "choices",
                "score": score,
                "value": {"choices": ["dog", "cat"]},
            }
        ],
    }


def test_confidences_stand_next_to_the_tags_where_the_config_has_room():
    answer = predict(f"{IMAGE}{TAGS}</Choices>{AREA}", {"cat": 0.61, "dog": 0.934, "tree": 0.2, "sky": 0.1})
    assert [item["from_name"] for item in answer["result"]] == ["tags", "confidence"]
    assert answer["result"][1]["value"] == {"text": ["dog  93%", "cat  61%"]}
    assert answer["result"][1]["type"] == "textarea"


def test_nothing_ticked_has_no_item():
    answer = predict(f"{IMAGE}{TAGS}</Choices>{AREA}", {"cat": 0.1, "dog": 0.2, "tree": 0.0, "sky": 0.5})
    assert answer["result"] == []
    assert 0 <= answer["score"] <= 1


def test_aliases_name_the_choice_and_lines_show_what_the_annotator_reads():
    xml = (
        f'{IMAGE}<Choices name="tags" toName="image" choice="multiple"><Choice value="Cat" alias="C"/></Choices>{AREA}'
    )
    tags, lines = predict(xml, {"C": 0.9})["result"]
    assert tags["value"] == {"choices": ["C"]}
    assert lines["value"] == {"text": ["Cat  90%"]}


def test_taxonomy_items_have_paths_and_lines_name_the_path_where_words_repeat():
    xml = (
        f'{IMAGE}<Taxonomy name="tags" toName="image" leafsOnly="true">'
        '<Choice value="bird"><Choice value="crane"/></Choice>'
        f'<Choice value="tool"><Choice value="crane"/><Choice value="saw"/></Choice></Taxonomy>{AREA}'
    )
    tags, lines = predict(xml, {"crane": 0.8, "saw": 0.7})["result"]
    assert tags["type"] == "taxonomy"
    assert tags["value"] == {"taxonomy": [["bird", "crane"], ["tool", "crane"], ["tool", "saw"]]}
    assert lines["value"]["text"] == ["bird / crane  80%", "tool / crane  80%", "saw  70%"]


def test_nested_choices_are_answered_with_paths():
    xml = (
        f'{IMAGE}<Choices name="tags" toName="image" choice="multiple" allowNested="true">'
        '<Choice value="animal"><Choice value="cat"/></Choice></Choices>'
    )
    assert predict(xml, {"cat": 0.9})["result"][0]["value"] == {"choices": [["animal", "cat"]]}


@pytest.mark.parametrize(
    ("attributes", "scores", "ticked"),
    [
        ('choice="single"', (0.7, 0.9), ["dog"]),
        ('choice="single-radio"', (0.9, 0.9), ["cat"]),
        ('choice="single"', (0.5, 0.3), None),
        ('choice="single" required="true"', (0.4, 0.3), ["cat"]),
        ('choice="multiple" required="true"', (0.4, 0.3), None),
    ],
)
def test_a_single_choice_is_the_best_one_if_it_is_good_enough_or_has_to_be(attributes, scores, ticked):
    xml = (
        f'{IMAGE}<Choices name="tags" toName="image" {attributes}><Choice value="cat"/><Choice value="dog"/></Choices>'
    )
    result = predict(xml, dict(zip(("cat", "dog"), scores, strict=True)))["result"]
    assert (result[0]["value"]["choices"] if result else None) == ticked


def test_at_most_top_k_of_the_config_and_a_stronger_one_wins():
    xml = f"{IMAGE}{TAGS.replace('choice=', 'model_top_k=' + chr(34) + '2' + chr(34) + ' choice=')}</Choices>"
    scores = {"cat": 0.6, "dog": 0.9, "tree": 0.8, "sky": 0.7}
    assert predict(xml, scores)["result"][0]["value"]["choices"] == ["dog", "tree"]
    assert predict(xml, scores, top_k={"tags": 3})["result"][0]["value"]["choices"] == ["dog", "tree", "sky"]
    assert predict(xml, scores, top_k={"tags": None})["result"][0]["value"]["choices"] == ["dog", "tree"]


def test_no_more_than_label_studio_takes():
    inside = '<Choice value="cat"/><Choice value="dog"/>'
    xml = f'{IMAGE}<Taxonomy name="tags" toName="image" maxUsages="1">{inside}</Taxonomy>'
    assert predict(xml, {"cat": 0.8, "dog": 0.9})["result"][0]["value"]["taxonomy"] == [["dog"]]


def test_each_control_has_its_own_item_and_images_their_own_lines():
    xml = (
        '<Image name="front" value="$a"/><Image name="back" value="$b"/>'
        '<Choices name="x" toName="front"><Choice value="cat"/></Choices>'
        '<Choices name="y" toName="back"><Choice value="dog"/></Choices>'
        '<TextArea name="t" toName="back" maxSubmissions="0"/>'
    )
    answer = predict(xml, {"x": {"cat": 0.9}, "y": {"dog": 0.8}})
    assert [(item["from_name"], item["to_name"]) for item in answer["result"]] == [
        ("x", "front"),
        ("y", "back"),
        ("t", "back"),
    ]
    assert answer["result"][2]["value"]["text"] == ["dog  80%"]
    assert answer["score"] == min(item["score"] for item in answer["result"][:2])


def test_a_control_whose_image_is_broken_is_left_out():
    xml = f'{IMAGE}{TAGS}</Choices><Choices name="more" toName="image"><Choice value="cat"/></Choices>'
    answer = predict(xml, {"more": {"cat": 0.9}})
    assert [item["from_name"] for item in answer["result"]] == ["more"]


def test_rectangles_carry_a_score_per_tag_that_has_a_label():
    labels = '<Label value="cat"/><Label value="sky"/>'
    rectangles = f'<RectangleLabels name="conf" toName="image" opacity="0">{labels}</RectangleLabels>'
    xml, scores = f"{IMAGE}{TAGS}</Choices>{rectangles}", {"cat": 0.6, "dog": 0.9, "tree": 0.1, "sky": 0.8}
    tags, first, second = predict(xml, scores, image_sizes={"image": (640, 480)})["result"]
    assert tags["value"]["choices"] == ["dog", "sky", "cat"]
    assert first == {
        "id": "conf-1",
        "from_name": "conf",
        "to_name": "image",
        "type": "rectanglelabels",
        "score": 0.8,
        "readonly": True,
        "original_width": 640,
        "original_height": 480,
        "image_rotation": 0,
        "value": {"x": 0, "y": 0, "width": 100, "height": 100, "rotation": 0, "rectanglelabels": ["sky"]},
    }
    assert (second["score"], second["value"]["rectanglelabels"]) == (0.6, ["cat"])
    assert len(predict(xml, scores)["result"]) == 1


def test_ids_are_unique_also_where_a_control_is_named_like_one():
    xml = (
        f'{IMAGE}<Choices name="conf-1" toName="image"><Choice value="cat"/></Choices>'
        '<RectangleLabels name="conf" toName="image" opacity="0"><Label value="cat"/></RectangleLabels>'
    )
    result = predict(xml, {"conf-1": {"cat": 0.9}}, image_sizes={"image": (1, 1)})["result"]
    assert len({item["id"] for item in result}) == len(result) == 2


def test_an_image_that_cannot_be_tagged_comes_last_in_uncertainty_order():
    assert empty_prediction("v1") == {"model_version": "v1", "score": 1.0, "result": []}


def test_the_score_falls_where_a_tag_is_close_to_its_threshold():
    sure = predict(f"{IMAGE}{TAGS}</Choices>", {"cat": 0.99, "dog": 0.02, "tree": 0.01, "sky": 0.0})["score"]
    close = predict(f"{IMAGE}{TAGS}</Choices>", {"cat": 0.99, "dog": 0.49, "tree": 0.01, "sky": 0.0})["score"]
    barely = predict(f"{IMAGE}{TAGS}</Choices>", {"cat": 0.51, "dog": 0.49, "tree": 0.01, "sky": 0.0})["score"]
    assert sure > 0.9
    assert barely < close < sure
    assert barely < 0.05


def scored(score, threshold=0.5):
    (choice,) = (
        parse_label_config(f'<View>{IMAGE}<Choices name="t" toName="image"><Choice value="x"/></Choices></View>')
        .tag_controls[0]
        .choices
    )
    return ScoredChoice(choice, score, threshold)


def test_confidence_is_decisiveness_measured_from_the_threshold():
    assert control_confidence([scored(0.9)], [scored(0.2)]) == pytest.approx((0.8 + 0.6) / 2)
    assert control_confidence([scored(0.85, 0.7)], []) == pytest.approx(0.5)
    assert control_confidence([], [scored(0.35, 0.7)]) == pytest.approx(0.5)
    assert control_confidence([scored(0.3)], []) == 0
    assert control_confidence([], [scored(0.99, 1.0)]) == 1


def test_absent_tags_do_not_drown_the_doubtful_one():
    doubtful = [scored(0.49), *[scored(0.0) for _ in range(4000)]]
    assert control_confidence([], doubtful) == pytest.approx(0.02)


scores = st.lists(st.floats(0, 1, width=32), min_size=4, max_size=4)


@given(scores, st.floats(0, 1, width=32))
def test_answers_are_json_within_bounds_and_the_same_each_time(values, threshold):
    xml = f"{IMAGE}{TAGS}</Choices>{AREA}"
    given_scores = dict(zip(("cat", "dog", "tree", "sky"), values, strict=True))
    answer = predict(xml, given_scores, threshold)
    assert 0 <= answer["score"] <= 1
    assert json.loads(json.dumps(answer, allow_nan=False)) == answer
    assert predict(xml, given_scores, threshold) == answer
    ticked = {value for item in answer["result"][:1] for value in item["value"]["choices"]}
    assert ticked == {name for name, score in given_scores.items() if score > threshold}


def test_numbers_of_numpy_become_plain_ones():
    import numpy as np

    answer = predict(
        f"{IMAGE}{TAGS}</Choices>{AREA}",
        dict(zip(("cat", "dog", "tree", "sky"), np.float32([0.9, 0.6, 0.1, 0]), strict=True)),
    )
    assert json.loads(json.dumps(answer)) == answer


REGIONS = (
    '<RectangleLabels name="tags" toName="image"><Label value="cat"/><Label value="Dog" alias="d"/></RectangleLabels>'
)


def test_labels_are_regions_over_the_whole_image_with_a_score_each():
    xml, scores = f"{IMAGE}{REGIONS}{AREA}", {"cat": 0.61, "d": 0.93}
    first, second, lines = predict(xml, scores, image_sizes={"image": (640, 480)})["result"]
    assert first == {
        "id": "tags-1",
        "from_name": "tags",
        "to_name": "image",
        "type": "rectanglelabels",
        "score": 0.93,
        "original_width": 640,
        "original_height": 480,
        "image_rotation": 0,
        "value": {"x": 0, "y": 0, "width": 100, "height": 100, "rotation": 0, "rectanglelabels": ["d"]},
    }
    assert (second["id"], second["score"], second["value"]["rectanglelabels"]) == ("tags-2", 0.61, ["cat"])
    assert lines["value"]["text"] == ["Dog  93%", "cat  61%"]


def test_labels_with_a_rectangle_are_pairs_of_one_id():
    xml = (
        f'{IMAGE}<Labels name="tags" toName="image"><Label value="cat"/><Label value="dog"/></Labels>'
        '<Rectangle name="where" toName="image"/>'
    )
    result = predict(xml, {"cat": 0.9, "dog": 0.8}, image_sizes={"image": (4, 3)})["result"]
    assert [(item["id"], item["from_name"], item["type"]) for item in result] == [
        ("tags-1", "where", "rectangle"),
        ("tags-1", "tags", "labels"),
        ("tags-2", "where", "rectangle"),
        ("tags-2", "tags", "labels"),
    ]
    place = {"x": 0, "y": 0, "width": 100, "height": 100, "rotation": 0}
    assert result[0]["value"] == place
    assert result[1]["value"] == place | {"labels": ["cat"]}


def test_regions_are_not_lost_where_nobody_knows_the_size():
    (item, _) = predict(f"{IMAGE}{REGIONS}", {"cat": 0.61, "d": 0.93})["result"]
    assert "original_width" not in item


def test_free_tags_are_lines_best_first_and_no_more_than_asked():
    xml = f'{IMAGE}<TextArea name="tags" toName="image" maxSubmissions="2"/>'
    plan = parse_label_config(f"<View>{xml}</View>")
    scores = {"cat": 0.6, "red chair": 0.9, "sofa": 0.8, "lamp": 0.2}
    scored = {"tags": [ScoredChoice(free_choice(name), score, 0.5) for name, score in scores.items()]}
    (item,) = prediction(plan, scored, model_version="v")["result"]
    assert (item["type"], item["value"]) == ("textarea", {"text": ["red chair", "sofa"]})
