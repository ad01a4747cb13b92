from __future__ import annotations

import pytest

from ram_backend.errors import LabelConfigError
from ram_backend.labelstudio.choices import Choice
from ram_backend.labelstudio.label_config import KEPT_PLANS, parse_label_config
from ram_backend.labelstudio.plan import LabelPlan, TagControl, choices_for, image_reference, look_up

IMAGE = '<Image name="image" value="$image"/>'


def plan(*inside: str) -> LabelPlan:
    return parse_label_config(f"<View>{''.join(inside)}</View>")


def choices(inside: str = '<Choice value="cat"/><Choice value="dog"/>', attributes: str = 'choice="multiple"') -> str:
    return f'<Choices name="tags" toName="image" {attributes}>{inside}</Choices>'


def taxonomy(inside: str, attributes: str = "") -> str:
    return f'<Taxonomy name="tags" toName="image" {attributes}>{inside}</Taxonomy>'


def control(*inside: str) -> TagControl:
    (only,) = plan(IMAGE, *inside).tag_controls
    return only


def values(found: TagControl) -> list[str]:
    return [choice.value for choice in found.choices]


def refusal(*inside: str) -> str:
    with pytest.raises(LabelConfigError) as caught:
        plan(*inside)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_choices_on_an_image():
    found = control(choices())
    assert (found.name, found.to_name, found.kind, found.image_key) == ("tags", "image", "choices", "image")
    assert not found.single
    assert found.choices[0] == Choice(value="cat", text="cat", path=("cat",), texts=("cat",), label="cat")
    assert values(found) == ["cat", "dog"]
    assert (found.threshold, found.top_k, found.dynamic, found.required) == (None, None, None, False)


@pytest.mark.parametrize("attributes", ['choice="single"', 'choice="single-radio"', ""])
def test_choices_are_single_unless_multiple(attributes):
    assert control(choices(attributes=attributes)).single


def test_element_and_attribute_names_in_any_case():
    found = parse_label_config(
        '<view><image NAME="i" Value="$photo"/><choices name="t" TONAME="i"><choice VALUE="cat"/></choices></view>'
    )
    assert found.images == {"i": "photo"}
    assert values(found.tag_controls[0]) == ["cat"]


def test_an_alias_is_what_results_say_and_the_value_is_what_is_scored():
    (choice,) = control(choices('<Choice value="Domestic cat" alias="C1"/>')).choices
    assert (choice.value, choice.text, choice.label) == ("C1", "Domestic cat", "Domestic cat")


def test_predicted_values_are_scored_in_place_of_the_value():
    (choice,) = control(choices('<Choice value="Car" predicted_values="jeep, cab ,,limousine, cab"/>')).choices
    assert choice.texts == ("jeep", "cab", "limousine")
    assert (choice.text, choice.value) == ("jeep", "Car")


def test_choices_inside_layout_elements_are_found_and_nested_ones_are_not_shown_by_the_page():
    found = control(choices('<View><Header value="h"/><Choice value="cat"><Choice value="kitten"/></Choice></View>'))
    assert values(found) == ["cat"]


def test_nested_choices_where_the_control_allows_them_are_leaves_with_paths():
    found = control(
        choices('<Choice value="cat"><Choice value="kitten"/></Choice><Choice value="dog"/>', 'allowNested="true"')
    )
    assert [choice.path for choice in found.choices] == [("cat", "kitten"), ("dog",)]
    assert found.nesting == "leaves"


def test_entries_that_results_cannot_tell_apart_are_one():
    found = control(choices('<Choice value="cat"/><Choice value="pussy" alias="cat"/><Choice value="cat "/>'))
    assert values(found) == ["cat", "cat "]


def test_entries_without_a_text_are_left_out():
    assert values(control(choices('<Choice value="cat"/><Choice/><Choice value=" "/><Choice value="$x"/>'))) == ["cat"]


def test_taxonomy_has_paths_from_the_root_and_each_level_can_be_ticked():
    found = control(taxonomy('<Choice value="animal" alias="A"><Choice value="cat"/></Choice><Choice value="sky"/>'))
    assert found.kind == "taxonomy"
    assert not found.single
    assert [choice.path for choice in found.choices] == [("A",), ("A", "cat"), ("sky",)]
    assert [choice.text for choice in found.choices] == ["animal", "cat", "sky"]


def test_taxonomy_with_leaves_only():
    found = control(taxonomy('<Choice value="animal"><Choice value="cat"/></Choice>', 'leafsOnly="true" maxUsages="3"'))
    assert [choice.path for choice in found.choices] == [("animal", "cat")]
    assert found.max_usages == 3


def test_one_word_in_two_branches_stays_two_choices():
    found = control(
        taxonomy(
            '<Choice value="bird"><Choice value="crane"/></Choice><Choice value="tool"><Choice value="crane"/></Choice>'
        )
    )
    assert [choice.path for choice in found.choices if choice.value == "crane"] == [
        ("bird", "crane"),
        ("tool", "crane"),
    ]


def test_threshold_and_top_k():
    found = control(
        choices(attributes='choice="multiple" model_score_threshold="0.35" model_top_k="7" required="true"')
    )
    assert (found.threshold, found.top_k, found.required) == (0.35, 7, True)


@pytest.mark.parametrize(
    "attribute", ['model_score_threshold="high"', 'model_score_threshold="1.5"', 'model_top_k="0"']
)
def test_an_attribute_that_cannot_be_used_is_named(attribute):
    name, value = attribute.replace('"', "").split("=")
    message = refusal(IMAGE, choices(attributes=attribute))
    assert "'tags'" in message
    assert name in message
    assert value in message


def test_nan_is_no_threshold():
    assert "model_score_threshold" in refusal(IMAGE, choices(attributes='model_score_threshold="nan"'))


def test_several_controls_each_with_its_own_tags_and_threshold_for_several_images():
    found = plan(
        '<Image name="front" value="$image1"/><Image name="back" value="$image2"/>',
        '<Choices name="a" toName="front" model_score_threshold="0.2"><Choice value="cat"/></Choices>',
        '<Choices name="b" toName="back" choice="multiple"><Choice value="dog"/></Choices>',
        '<Taxonomy name="c" toName="back"><Choice value="sky"/></Taxonomy>',
    )
    assert [(each.name, each.to_name, each.image_key, each.threshold) for each in found.tag_controls] == [
        ("a", "front", "image1", 0.2),
        ("b", "back", "image2", None),
        ("c", "back", "image2", None),
    ]
    assert found.images == {"front": "image1", "back": "image2"}


def test_two_controls_of_one_name_are_refused():
    assert "'tags'" in refusal(IMAGE, choices(), choices())


def test_other_controls_and_images_that_nobody_tags_are_ignored():
    found = plan(
        IMAGE,
        '<Image name="logo" value="$logo"/><Text name="text" value="$text"/>',
        choices(),
        '<Choices name="mood" toName="text"><Choice value="good"/></Choices>',
        '<Rating name="stars" toName="image"/>',
        '<RectangleLabels name="boxes" toName="image"><Label value="cat"/></RectangleLabels>',
        '<TextArea name="comment" toName="image" editable="false"/>',
    )
    assert [each.name for each in found.tag_controls] == ["tags"]
    assert found.images == {"image": "image"}
    assert found.confidence_controls == {}
    assert any("mood" in note for note in found.notes)


@pytest.mark.parametrize(
    "inside",
    [
        choices(attributes='perRegion="true"'),
        choices(attributes='perItem="true"'),
        choices(attributes='visibleWhen="choice-selected" whenTagName="x" whenChoiceValue="y"'),
        choices(attributes='visibleWhen="region-selected" whenLabelValue="cat"'),
        f'<View visibleWhen="choice-selected" whenTagName="x"><View>{choices()}</View></View>',
        taxonomy("", 'apiUrl="http://example.com/tags"'),
        choices(inside=""),
    ],
)
def test_what_is_not_for_the_whole_image_or_has_no_tags_is_left_alone_and_said(inside):
    message = refusal(IMAGE, inside)
    assert "'tags' is left alone" in message
    other = plan(IMAGE, inside, '<Choices name="plain" toName="image"><Choice value="cat"/></Choices>')
    assert [each.name for each in other.tag_controls] == ["plain"]
    assert any("'tags'" in note for note in other.notes)


def test_visible_while_no_region_is_selected_is_for_the_whole_image():
    assert control(choices(attributes='visibleWhen="no-region-selected"')).name == "tags"


def test_nothing_to_tag_lists_what_was_found_and_what_is_needed():
    message = refusal(IMAGE, '<PolygonLabels name="boxes" toName="image"><Label value="cat"/></PolygonLabels>')
    assert "Image 'image' ($image)" in message
    assert "<Choices" in message
    assert "<Taxonomy" in message


def test_an_image_that_is_no_variable_is_named():
    assert "'image'" in refusal('<Image name="image" valueList="$images"/>', choices())
    assert "http://x/y.jpg" in refusal('<Image name="image" value="http://x/y.jpg"/>', choices())


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "empty"),
        ("   ", "empty"),
        ("<View>", "well-formed"),
        ("no xml", "well-formed"),
        ("<View>&undefined;</View>", "undefined entity"),
        ("\ud800", "characters"),
        ("<a>" * 5000 + "</a>" * 5000, "nests deeper"),
    ],
)
def test_what_is_no_label_config(text, word):
    with pytest.raises(LabelConfigError, match=word):
        parse_label_config(text)


def test_entities_are_refused_before_they_can_grow_or_read_files():
    grown = choices('<Choice value="&e9;"/>')
    bomb = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10}">' for n in range(1, 10))
    for subset in (f'<!ENTITY e0 "ha">{bomb}', '<!ENTITY e9 SYSTEM "file:///etc/passwd">'):
        with pytest.raises(LabelConfigError, match="document type") as caught:
            parse_label_config(f"<!DOCTYPE View [{subset}]><View>{IMAGE}{grown}</View>")
        assert "root:" not in str(caught.value)


def test_characters_are_read_as_written():
    found = control(choices('<Choice value="caf&#233; &amp; &lt;bar&gt;"/><Choice value="猫"/>'))
    assert values(found) == ["café & <bar>", "猫"]


def test_dynamic_choices_come_from_the_task():
    found = control(choices(inside="", attributes='value="$options" choice="multiple"'))
    assert (found.choices, found.dynamic) == ((), "options")
    task = {"options": ["cat", {"value": "dog", "alias": "D", "html": "<b>x</b>"}, 7, None, {"html": "x"}, "cat", True]}
    assert [(each.value, each.text) for each in choices_for(found, task)] == [("cat", "cat"), ("D", "dog"), ("7", "7")]
    for nothing in ({}, {"options": None}, {"options": "cat"}, {"options": {"value": "cat"}}):
        assert choices_for(found, nothing) == ()


def test_dynamic_choices_stand_before_those_of_the_config():
    found = control(choices(inside='<Choice value="other"/>', attributes='value="$options"'))
    assert [each.value for each in choices_for(found, {"options": ["cat", "other"]})] == ["cat", "other"]
    assert [each.value for each in choices_for(found, {"options": ["cat"]})] == ["cat", "other"]


def test_dynamic_taxonomy_has_paths():
    found = control(taxonomy("", 'value="$tree" leafsOnly="true"'))
    task = {"tree": [{"value": "animal", "children": [{"value": "cat", "alias": "C"}, "dog"]}, {"value": "sky"}]}
    assert [each.path for each in choices_for(found, task)] == [("animal", "C"), ("animal", "dog"), ("sky",)]


def test_choices_of_the_config_need_no_task():
    found = control(choices())
    assert choices_for(found, {"tags": ["x"]}) is found.choices


def test_where_the_image_is():
    deep = plan('<Image name="image" value="$photos[1].url"/>', choices()).tag_controls[0]
    assert image_reference(deep, {"photos": [{}, {"url": "/data/upload/1/x.jpg"}]}) == "/data/upload/1/x.jpg"
    for without in ({}, {"photos": []}, {"photos": [{}, {"url": None}]}, {"photos": [{}, {"url": " "}]}, {"photos": 3}):
        assert image_reference(deep, without) is None


def test_a_key_that_looks_like_a_path_wins_over_the_path():
    assert look_up({"a.b": 1, "a": {"b": 2}}, "a.b") == 1
    assert look_up({"a": {"b": 2}}, "a.b") == 2


def test_a_text_area_that_nobody_can_type_in_shows_confidences():
    area = '<TextArea name="confidence" toName="image" editable="false" maxSubmissions="0" rows="1"/>'
    (found,) = plan(IMAGE, choices(), area).confidence_controls["image"]
    assert (found.name, found.kind) == ("confidence", "textarea")
    second = area.replace("confidence", "confidence2")
    assert len(plan(IMAGE, choices(), area, second).confidence_controls["image"]) == 1


@pytest.mark.parametrize(
    "area",
    [
        '<TextArea name="comment" toName="image"/>',
        '<TextArea name="confidence" toName="image" editable="true"/>',
        '<TextArea name="confidence" toName="image" maxSubmissions="0" perRegion="true"/>',
        '<View visibleWhen="choice-selected"><TextArea name="confidence" toName="image" maxSubmissions="0"/></View>',
        '<TextArea name="confidence" toName="text" maxSubmissions="0"/>',
        '<RectangleLabels name="conf" toName="image" opacity="0.5"><Label value="cat"/></RectangleLabels>',
    ],
)
def test_what_annotators_fill_is_not_ours(area):
    assert plan(IMAGE, '<Text name="text" value="$t"/>', choices(), area).confidence_controls == {}


def test_invisible_rectangles_may_be_hidden_by_a_condition_that_never_holds():
    rectangles = '<RectangleLabels name="conf" toName="image" opacity="0"><Label value="cat"/></RectangleLabels>'
    hidden = f'<View visibleWhen="region-selected" whenTagName="conf" whenLabelValue="zz">{rectangles}</View>'
    assert [each.name for each in plan(IMAGE, hidden, choices()).confidence_controls["image"]] == ["conf"]


@pytest.mark.parametrize("opacity", ["0", "0.0", "0."])
def test_invisible_rectangles_show_confidences_of_tags_that_have_a_label(opacity):
    rectangles = (
        f'<RectangleLabels name="conf" toName="image" opacity="{opacity}">'
        '<Label value="cat"/><Label value="Dog" alias="d"/></RectangleLabels>'
    )
    (found,) = plan(IMAGE, choices(), rectangles).confidence_controls["image"]
    assert found.kind == "rectanglelabels"
    assert dict(found.labels) == {"cat": "cat", "Dog": "d", "d": "d"}


def test_the_digest_is_of_what_changes_answers():
    first = plan(IMAGE, choices())
    assert plan(IMAGE, '<Header value="Which animals?"/>', choices()).digest == first.digest
    for other in (
        plan(IMAGE, choices('<Choice value="dog"/><Choice value="cat"/>')),
        plan(IMAGE, choices(attributes='choice="multiple" model_score_threshold="0.4"')),
        plan(IMAGE, choices(attributes='choice="multiple" model_top_k="4"')),
        plan(IMAGE, choices(attributes='choice="single"')),
        plan(IMAGE, choices('<Choice value="cat" predicted_values="lynx"/><Choice value="dog"/>')),
        plan('<Image name="image" value="$photo"/>', choices()),
        plan(IMAGE, choices(), '<TextArea name="confidence" toName="image" maxSubmissions="0"/>'),
    ):
        assert other.digest != first.digest


def test_plans_are_remembered_and_no_more_than_so_many():
    first = plan(IMAGE, choices(), "<!-- remembered -->")
    assert plan(IMAGE, choices(), "<!-- remembered -->") is first
    for number in range(KEPT_PLANS):
        plan(IMAGE, choices(), f"<!-- {number} -->")
    again = plan(IMAGE, choices(), "<!-- remembered -->")
    assert again is not first
    assert again == first


ENTRIES = '<Label value="cat"/><Label value="Dog" alias="d"/>'
BOXES = '<RectangleLabels name="boxes" toName="image" {}>' + ENTRIES + "</RectangleLabels>"
LABELS = '<Labels name="labels" toName="image"><Label value="cat" predicted_values="kitten,tiger"/></Labels>'
TOOL = '<Rectangle name="where" toName="image"/>'
AREA = '<TextArea name="{}" toName="image" {}/>'


def test_without_choices_and_taxonomy_rectangle_labels_are_filled():
    found = control(BOXES.format('maxUsages="1" required="true" model_min_precision="0.9"'))
    assert (found.kind, found.regions, found.free, found.single) == ("rectanglelabels", True, False, False)
    assert [(each.value, each.text, each.label) for each in found.choices] == [
        ("cat", "cat", "cat"),
        ("d", "Dog", "Dog"),
    ]
    assert (found.max_usages, found.required, found.precision) == (None, False, 0.9)
    assert choices_for(control(BOXES.format('value="$labels"')), {"labels": ["cow"]})[0].value == "cow"


def test_labels_are_filled_where_a_rectangle_says_where_their_regions_are():
    found = control(LABELS, TOOL)
    assert (found.kind, found.regions, found.tool) == ("labels", True, "where")
    assert found.choices[0].texts == ("kitten", "tiger")
    assert "no <Rectangle>" in refusal(IMAGE, LABELS)
    assert "no <Rectangle>" in refusal(IMAGE, LABELS, '<Rectangle name="where" toName="other"/>')


def test_a_text_area_alone_is_for_any_tag():
    found = control(AREA.format("words", 'maxSubmissions="4"'))
    assert (found.kind, found.free, found.choices, found.max_usages) == ("textarea", True, (), 4)
    assert "'a', 'b'" in refusal(IMAGE, AREA.format("a", ""), AREA.format("b", ""))
    assert [each.name for each in plan(IMAGE, AREA.format("a", ""), BOXES.format("")).tag_controls] == ["boxes"]


@pytest.mark.parametrize(
    "inside",
    [
        AREA.format("confidence", ""),
        AREA.format("t", 'maxSubmissions="0"'),
        AREA.format("t", 'readonly="true"'),
        AREA.format("t", 'perRegion="true"'),
        BOXES.format('model_tags="false"'),
        BOXES.format('perRegion="true"'),
        f'{BOXES.format("")}<Choices name="kind" toName="image" perRegion="true"><Choice value="x"/></Choices>',
    ],
)
def test_controls_that_somebody_else_fills_are_not_ours(inside):
    assert refusal(IMAGE, inside)


def test_who_names_a_control_gets_it_filled_besides():
    more = 'model_tags="true"'
    found = plan(IMAGE, choices(), BOXES.format(more + ' opacity="0"'), AREA.format("more", more), AREA.format("x", ""))
    assert [each.name for each in found.tag_controls] == ["tags", "boxes", "more"]
    assert found.confidence_controls == {}
    without = plan(IMAGE, choices(attributes='model_tags="no"'), BOXES.format(more))
    assert [each.name for each in without.tag_controls] == ["boxes"]
    assert any("model_tags" in note for note in without.notes)
    assert "model_tags" in refusal(IMAGE, choices(attributes='model_tags="perhaps"'))


def test_invisible_rectangles_show_confidences_wherever_something_else_is_filled():
    hidden = BOXES.format('opacity="0"')
    for other in (choices(), BOXES.replace("boxes", "tags").format("")):
        found = plan(IMAGE, hidden, other)
        assert [each.name for each in found.tag_controls] == ["tags"]
        assert [each.name for each in found.confidence_controls["image"]] == ["boxes"]
    assert control(hidden).name == "boxes"


def test_precision():
    assert control(choices(attributes='model_min_precision="0.9"')).precision == 0.9
    assert "model_min_precision" in refusal(IMAGE, choices(attributes='model_min_precision="90"'))
    both = 'model_min_precision="0.9" model_score_threshold="0.4"'
    assert "give one of them" in refusal(IMAGE, choices(attributes=both))
    first = plan(IMAGE, choices(attributes='model_min_precision="0.9"')).digest
    assert first != plan(IMAGE, choices(attributes='model_min_precision="0.8"')).digest
    assert first != plan(IMAGE, choices()).digest


def test_label_configs_that_say_nothing_new_keep_their_digest():
    """It is part of the model version: another one makes Label Studio ask anew for every task."""
    assert plan(IMAGE, choices()).digest.startswith("8583528cad21ae8a")
