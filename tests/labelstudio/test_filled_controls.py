"""Label configs that ask for more than tags: captions, boxes, masks."""

from __future__ import annotations

import pytest
from labelstudio.test_label_config import BOXES, IMAGE, choices, control, schema

from ram_backend.errors import LabelConfigError


@pytest.mark.parametrize(
    ("area", "caption"),
    [
        ('<TextArea name="caption" toName="image"/>', True),
        ('<TextArea name="imageCaption2" toName="image" editable="true"/>', True),
        ('<TextArea name="about" toName="image" model_caption="true"/>', True),
        ('<TextArea name="caption" toName="image" model_caption="false"/>', False),
        ('<TextArea name="caption" toName="image" perRegion="true"/>', False),
        ('<TextArea name="caption" toName="other"/>', False),
        ('<TextArea name="caption" toName="image" readOnly="true"/>', False),
        ('<TextArea name="about" toName="image"/>', False),
    ],
)
def test_text_areas_that_ask_for_a_caption(area: str, caption: bool) -> None:
    found, plain = schema(IMAGE, choices(), area), schema(IMAGE, choices())
    assert [*found.captions.values()] == ["image"] * caption
    assert [each.name for each in found.tag_controls] == ["tags"]
    if caption:
        assert found.digest != plain.digest


def test_a_text_area_with_tags_has_no_caption() -> None:
    caption = '<TextArea name="caption" toName="image"/>'
    assert schema(IMAGE, caption).captions == {}
    assert control(caption).name == "caption"
    both = schema(IMAGE, caption, '<TextArea name="tags" toName="image"/>')
    assert ([each.name for each in both.tag_controls], [*both.captions]) == (["tags"], ["caption"])
    with pytest.raises(LabelConfigError, match="nothing to tag"):
        schema(IMAGE, '<TextArea name="about" toName="image" model_caption="true"/>')


def test_brush_labels_are_filled_where_they_ask_for_masks() -> None:
    brush = '<BrushLabels name="masks" toName="image"{}><Label value="cat"/></BrushLabels>'
    asked = control(brush.format(' model_masks="true"'))
    assert (asked.kind, asked.regions, asked.boxes, [each.value for each in asked.choices]) == (
        "brushlabels", True, True, ["cat"],
    )  # fmt: skip
    with pytest.raises(LabelConfigError, match="model_masks=\"true\" on BrushLabels 'masks'"):
        schema(IMAGE, brush.format(""))
    beside = schema(IMAGE, choices(), brush.format(' model_masks="true"'))
    assert [each.name for each in beside.tag_controls] == ["tags"], "as other labels beside Choices"
    both = schema(IMAGE, choices(), brush.format(' model_masks="true" model_tags="true"'))
    assert [each.name for each in both.tag_controls] == ["tags", "masks"]


def test_boxes_are_asked_for_by_labels_only() -> None:
    assert control(BOXES.format('model_boxes="true"')).boxes
    assert not control(BOXES.format("")).boxes
    assert not control(choices(attributes='model_boxes="true"')).boxes
