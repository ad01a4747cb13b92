"""Corrections of captions: what was shown against what the annotator made of it."""

import pytest
from feedback.saying import CONFIG, current, said, shown

from ram_backend.feedback.corrections import caption_corrections, corrections_of
from ram_backend.feedback.shown import ShownChoice, ShownPrediction
from ram_backend.labelstudio.annotations import ParsedAnnotation, read_annotation
from ram_backend.labelstudio.label_config import parse_label_config

SCHEMA = parse_label_config(CONFIG.replace("</View>", '<TextArea name="caption" toName="image"/></View>'))
LONG = "a brown dog that runs over the grass after a red ball, while two children look on from a wooden bench"


def parsed(*lines: str, parent: int | None = 9) -> ParsedAnnotation:
    place = {"from_name": "caption", "to_name": "image", "type": "textarea", "value": {"text": list(lines)}}
    tags = {"from_name": "tags", "to_name": "image", "type": "choices", "value": {"choices": ["cat"]}}
    annotation = {"id": 1, "task": 1, "parent_prediction": parent, "lead_time": 3.5}
    found = read_annotation(annotation | {"result": [tags, place] if lines else [tags]})
    assert found is not None
    return found


def served(caption: str) -> list[ShownPrediction]:
    prediction = shown(1, ["cat"], prediction_id=9)
    caption_shown = (ShownChoice("caption", (caption,), None, True),) if caption else ()
    return [ShownPrediction(1, "tag2text-1", prediction.shown_at, prediction.choices + caption_shown, prediction_id=9)]


@pytest.mark.parametrize(
    ("before", "lines", "state", "text"),
    [
        ("a dog", ["a dog"], "confirmed", "a dog"),
        ("a dog", ["a  dog "], "confirmed", "a dog"),
        ("a dog", [LONG], "edited", LONG),
        ("a dog", ["a dog", "on grass"], "edited", "a dog on grass"),
        ("a dog", [], "removed", ""),
        ("", [LONG], "written", LONG),
    ],
)
def test_states(before: str, lines: list[str], state: str, text: str) -> None:
    (found,) = caption_corrections(SCHEMA, [current(parsed(*lines))], {1: served(before)})
    assert (found.state, found.shown, found.text) == (state, before, text)
    assert (found.task_id, found.annotation_id, found.to_name) == (1, 1, "image")
    assert found.model_version == "tag2text-1"


def test_what_says_nothing_about_a_caption() -> None:
    skipped = said(2, was_cancelled=True)
    assert caption_corrections(SCHEMA, [current(parsed()), current(skipped)], {}) == []
    (own,) = caption_corrections(SCHEMA, [current(parsed("a cat", parent=None))], {1: served("a dog")})
    assert (own.state, own.shown, own.model_version) == ("written", "", None)


def test_a_caption_is_no_tag() -> None:
    (labels,) = corrections_of(SCHEMA, [current(parsed("dog"))], {1: served("tree")})
    assert set(labels.states) == {"cat"}
