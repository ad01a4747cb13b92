"""Label configs: which controls are ours, which tags they have, and what is refused in one line."""

from typing import Any

import pytest

from ram_backend.errors import LabelConfigError
from ram_backend.labelstudio.label_config import parse_label_config
from ram_backend.labelstudio.schema import Choice, LabelSchema, TagControl, choices_for, image_reference, look_up

IMAGE = '<Image name="image" value="$image"/>'
ENTRIES = '<Label value="cat"/><Label value="Dog" alias="d"/>'
BOXES = '<RectangleLabels name="boxes" toName="image" {}>' + ENTRIES + "</RectangleLabels>"
LABELS = '<Labels name="labels" toName="image"><Label value="cat" predicted_values="kitten,tiger"/></Labels>'
TOOL = '<Rectangle name="where" toName="image"/>'
AREA = '<TextArea name="{}" toName="image" {}/>'
CONFIDENCE = '<TextArea name="confidence" toName="image" editable="false" maxSubmissions="0" rows="1"/>'
HIDDEN = '<RectangleLabels name="conf" toName="image" opacity="0"><Label value="cat"/></RectangleLabels>'
BRUSH = '<BrushLabels name="masks" toName="image" {}><Label value="cat"/></BrushLabels>'
CAT_AND_DOG = '<Choice value="cat"/><Choice value="dog"/>'
KITTEN = '<Choice value="cat"><Choice value="kitten"/></Choice>'


def schema(*inside: str) -> LabelSchema:
    return parse_label_config(f"<View>{''.join(inside)}</View>")


def choices(inside: str = CAT_AND_DOG, attributes: str = 'choice="multiple"') -> str:
    return f'<Choices name="tags" toName="image" {attributes}>{inside}</Choices>'


def taxonomy(inside: str, attributes: str = "") -> str:
    return f'<Taxonomy name="tags" toName="image" {attributes}>{inside}</Taxonomy>'


def control(*inside: str) -> TagControl:
    (only,) = schema(IMAGE, *inside).tag_controls
    return only


def refusal(*inside: str) -> str:
    with pytest.raises(LabelConfigError) as caught:
        schema(*inside)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_choices_on_an_image() -> None:
    cat, dog = (Choice(value=name, path=(name,), texts=(name,), label=name) for name in ("cat", "dog"))
    found = control(choices())
    assert found == TagControl("tags", "image", "choices", False, (cat, dog), None, None, None, "image")
    assert choices_for(found, {"tags": ["x"]}) is found.choices, "choices of the config need no task"


NO_TEXT = '<Choice value="cat"/><Choice/><Choice value=" "/><Choice value="$x"/>'
ONE_VALUE = '<Choice value="cat"/><Choice value="p" alias="cat"/><Choice value="cat "/>'
ESCAPED = '<Choice value="caf&#233; &amp; &lt;bar&gt;"/><Choice value="猫"/>'


@pytest.mark.parametrize(
    ("inside", "expected"),
    [
        (choices(NO_TEXT), [("cat",)]),
        (choices(ONE_VALUE), [("cat",), ("cat ",)]),
        (choices(f'<View><Header value="h"/>{KITTEN}</View>'), [("cat",)]),  # nested choices are not shown
        (choices(ESCAPED), [("café & <bar>",), ("猫",)]),
        (choices(f'{KITTEN}<Choice value="dog"/>', 'allowNested="true"'), [("cat", "kitten"), ("dog",)]),
        (taxonomy(f'<Choice value="big" alias="A">{CAT_AND_DOG}</Choice>'), [("A",), ("A", "cat"), ("A", "dog")]),
        (taxonomy(KITTEN, 'leafsOnly="true"'), [("cat", "kitten")]),
        (taxonomy(f'{KITTEN}<Choice value="kitten"/>', 'leafsOnly="true"'), [("cat", "kitten"), ("kitten",)]),
    ],
)
def test_paths(inside: str, expected: list[tuple[str, ...]]) -> None:
    assert [choice.path for choice in control(inside).choices] == expected


def test_what_results_say_and_what_is_scored() -> None:
    inside = '<Choice value="Domestic cat" alias="C1"/><Choice value="Car" predicted_values="jeep, van ,,jeep"/>'
    found = [(each.value, each.label, each.texts) for each in control(choices(inside)).choices]
    assert found == [("C1", "Domestic cat", ("Domestic cat",)), ("Car", "Car", ("jeep", "van"))]


@pytest.mark.parametrize(
    ("inside", "expected"),
    [
        (choices(attributes='choice="single"'), {"single": True}),
        (choices(attributes=""), {"single": True}),
        (choices(attributes='visibleWhen="no-region-selected"'), {"name": "tags"}),
        (choices(KITTEN, 'allowNested="true"'), {"nesting": "leaves"}),
        (taxonomy(KITTEN, 'maxUsages="3"'), {"kind": "taxonomy", "single": False, "max_usages": 3}),
        (choices(attributes='model_score_threshold="0.35"'), {"threshold": 0.35}),
        (choices(attributes='model_top_k="7" required="true"'), {"top_k": 7, "required": True}),
        (choices(attributes='model_min_precision="0.9"'), {"precision": 0.9}),
        (BOXES.format(""), {"kind": "rectanglelabels", "regions": True, "free_text": False, "single": False}),
        (BOXES.format('maxUsages="1" required="true"'), {"max_usages": None, "required": False}),
        (BOXES.format('opacity="0"'), {"name": "boxes", "boxes": False}),
        (BOXES.format('model_boxes="true"'), {"boxes": True}),
        (BRUSH.format('model_masks="true"'), {"kind": "brushlabels", "regions": True, "boxes": True}),
        (choices(attributes='model_boxes="true"'), {"boxes": False}),
        (LABELS + TOOL, {"kind": "labels", "regions": True, "rectangle_control": "where"}),
        (AREA.format("words", ""), {"kind": "textarea", "free_text": True, "choices": ()}),
        (AREA.format("words", 'maxSubmissions="4"'), {"max_usages": 4}),
    ],
)
def test_a_control(inside: str, expected: dict[str, Any]) -> None:
    found = control(inside)
    assert {name: getattr(found, name) for name in expected} == expected


def test_labels_of_regions() -> None:
    assert [(each.value, each.label) for each in control(BOXES.format("")).choices] == [("cat", "cat"), ("d", "Dog")]
    assert control(LABELS, TOOL).choices[0].texts == ("kitten", "tiger")
    assert choices_for(control(BOXES.format('value="$labels"')), {"labels": ["cow"]})[0].value == "cow"


def test_element_and_attribute_names_in_any_case() -> None:
    found = schema('<image NAME="i" Value="$photo"/><choices name="t" TONAME="i"><choice VALUE="cat"/></choices>')
    assert found.images == {"i": "photo"}
    assert [choice.value for choice in found.tag_controls[0].choices] == ["cat"]


UNUSABLE = [
    *(("model_score_threshold", value) for value in ("high", "1.5", "nan")),
    *(("model_top_k", "0"), ("model_min_precision", "90"), ("model_tags", "perhaps")),
]


@pytest.mark.parametrize(
    ("inside", "words"),
    [
        *((choices(attributes=f'{name}="{value}"'), ("'tags'", name, value)) for name, value in UNUSABLE),
        (choices(attributes='model_min_precision="0.9" model_score_threshold="0.4"'), ("give one of them",)),
        (choices() + choices(), ("'tags'",)),
        (LABELS, ("no <Rectangle>",)),
        (LABELS + '<Rectangle name="where" toName="other"/>', ("no <Rectangle>",)),
        (AREA.format("a", "") + AREA.format("b", ""), ("'a', 'b'",)),
        ('<PolygonLabels name="b" toName="image"/>', ("Image 'image' ($image)", "<Choices", "<Taxonomy")),
        (choices(attributes='perRegion="true"') + BOXES.format(""), ('model_tags="true" on RectangleLabels',)),
        (BRUSH.format(""), ("model_masks=\"true\" on BrushLabels 'masks'",)),
    ],
)
def test_what_cannot_be_used_is_named(inside: str, words: tuple[str, ...]) -> None:
    message = refusal(IMAGE, inside)
    assert [word for word in words if word not in message] == []


def test_a_value_in_another_script_is_scored_by_its_english_alias() -> None:
    found = schema(IMAGE, choices(inside='<Choice value="狗" alias="dog"/><Choice value="猫"/><Choice value="chien"/>'))
    assert [each.texts for each in found.tag_controls[0].choices] == [("dog",), ("猫",), ("chien",)]
    (note,) = found.notes
    assert "猫" in note
    assert "English" in note


def test_what_is_not_filled_is_said() -> None:
    more = (
        '<Image name="other" value="$other"/><Choices name="both" toName="image,other"><Choice value="cat"/></Choices>'
    )
    (note,) = schema(IMAGE, more).notes
    assert "is for image, other: the tags are those of image alone" in note
    pages = '<Repeater on="$pages"><Image name="p{{idx}}" value="$pages[{{idx}}].url"/></Repeater>'
    assert any("Repeater" in note for note in schema(IMAGE, choices(), pages).notes)


def test_an_image_that_is_no_variable_is_named() -> None:
    assert "'image'" in refusal('<Image name="image" valueList="$images"/>', choices())
    assert "http://x/y.jpg" in refusal('<Image name="image" value="http://x/y.jpg"/>', choices())


def test_several_controls_and_images_among_others_that_nobody_tags() -> None:
    found = schema(
        '<Image name="front" value="$image1"/><Image name="back" value="$image2"/>',
        '<Choices name="a" toName="front" model_score_threshold="0.2"><Choice value="cat"/></Choices>',
        '<Taxonomy name="b" toName="back"><Choice value="sky"/></Taxonomy>',
        '<Image name="logo" value="$logo"/><Text name="text" value="$text"/>',
        '<Choices name="mood" toName="text"><Choice value="good"/></Choices>',
        '<Rating name="stars" toName="front"/>',
        '<RectangleLabels name="boxes" toName="front"><Label value="cat"/></RectangleLabels>',
        '<TextArea name="comment" toName="front" editable="false"/>',
    )
    controls = [(each.name, each.to_name, each.image_key, each.threshold) for each in found.tag_controls]
    assert controls == [("a", "front", "image1", 0.2), ("b", "back", "image2", None)]
    assert found.images == {"front": "image1", "back": "image2"}
    assert found.confidence_controls == {}
    assert any("mood" in note for note in found.notes)


@pytest.mark.parametrize(
    "inside",
    [
        choices(attributes='perRegion="true"'),
        choices(attributes='visibleWhen="choice-selected" whenTagName="x" whenChoiceValue="y"'),
        f'<View visibleWhen="choice-selected" whenTagName="x"><View>{choices()}</View></View>',
        taxonomy("", 'apiUrl="http://example.com/tags"'),
        choices(inside=""),
    ],
)
def test_what_is_not_for_the_whole_image_or_has_no_tags_is_left_alone_and_said(inside: str) -> None:
    assert "'tags' is left alone" in refusal(IMAGE, inside)
    other = schema(IMAGE, inside, '<Choices name="plain" toName="image"><Choice value="cat"/></Choices>')
    assert [each.name for each in other.tag_controls] == ["plain"]
    assert any("'tags'" in note for note in other.notes)


@pytest.mark.parametrize(
    "inside",
    [
        AREA.format("confidence", ""),
        AREA.format("t", 'maxSubmissions="0"'),
        AREA.format("t", 'readonly="true"'),
        BOXES.format('model_tags="false"'),
        BOXES.format('perRegion="true"'),
        f'{BOXES.format("")}<Choices name="kind" toName="image" perRegion="true"><Choice value="x"/></Choices>',
    ],
)
def test_controls_that_somebody_else_fills_are_not_ours(inside: str) -> None:
    assert refusal(IMAGE, inside)


def test_a_named_control_is_filled_too() -> None:
    more = 'model_tags="true"'
    found = schema(
        IMAGE, choices(), BOXES.format(more + ' opacity="0"'), AREA.format("more", more), AREA.format("x", "")
    )
    assert [each.name for each in found.tag_controls] == ["tags", "boxes", "more"]
    assert found.confidence_controls == {}
    without = schema(IMAGE, choices(attributes='model_tags="no"'), BOXES.format(more))
    assert [each.name for each in without.tag_controls] == ["boxes"]
    assert any("model_tags" in note for note in without.notes)
    assert [each.name for each in schema(IMAGE, AREA.format("a", ""), BOXES.format("")).tag_controls] == ["boxes"]
    for given, names in (('model_masks="true"', ["tags"]), (f'model_masks="true" {more}', ["tags", "masks"])):
        assert [each.name for each in schema(IMAGE, choices(), BRUSH.format(given)).tag_controls] == names


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "empty"),
        ("<View>", "well-formed"),
        ("no xml", "well-formed"),
        (f"<View>{' ' * 5_000_000}</View>", "at most 5000000 can be read"),
        ("<View>&undefined;</View>", "undefined entity"),
        ("\ud800", "characters"),
        ("<a>" * 5000 + "</a>" * 5000, "nests deeper"),
    ],
    ids=lambda value: value[:30],
)
def test_what_is_no_label_config(text: str, word: str) -> None:
    with pytest.raises(LabelConfigError, match=word):
        parse_label_config(text)


def test_entities_are_refused_before_they_can_grow_or_read_files() -> None:
    grown = choices('<Choice value="&e9;"/>')
    bomb = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10}">' for n in range(1, 10))
    for subset in (f'<!ENTITY e0 "ha">{bomb}', '<!ENTITY e9 SYSTEM "file:///etc/passwd">'):
        with pytest.raises(LabelConfigError, match="document type") as caught:
            parse_label_config(f"<!DOCTYPE View [{subset}]><View>{IMAGE}{grown}</View>")
        assert "root:" not in str(caught.value)


def test_dynamic_choices_come_from_the_task() -> None:
    found = control(choices(inside="", attributes='value="$options" choice="multiple"'))
    assert (found.choices, found.dynamic) == ((), "options")
    task = {"options": ["cat", {"value": "dog", "alias": "D", "html": "<b>x</b>"}, 7, None, {"html": "x"}, "cat", True]}
    assert [(each.value, each.label) for each in choices_for(found, task)] == [("cat", "cat"), ("D", "dog"), ("7", "7")]
    for nothing in ({}, {"options": None}, {"options": "cat"}, {"options": {"value": "cat"}}):
        assert choices_for(found, nothing) == ()
    both = control(choices(inside='<Choice value="other"/>', attributes='value="$options"'))
    for options in (["cat", "other"], ["cat"]):
        assert [each.value for each in choices_for(both, {"options": options})] == ["cat", "other"]


def test_dynamic_taxonomy_has_paths() -> None:
    found = control(taxonomy("", 'value="$tree" leafsOnly="true"'))
    task = {"tree": [{"value": "animal", "children": [{"value": "cat", "alias": "C"}, "dog"]}, {"value": "sky"}]}
    assert [each.path for each in choices_for(found, task)] == [("animal", "C"), ("animal", "dog"), ("sky",)]


def test_where_the_image_is() -> None:
    deep = schema('<Image name="image" value="$photos[1].url"/>', choices()).tag_controls[0]
    assert image_reference(deep, {"photos": [{}, {"url": "/data/upload/1/x.jpg"}]}) == "/data/upload/1/x.jpg"
    for without in ({}, {"photos": []}, {"photos": [{}, {"url": None}]}, {"photos": [{}, {"url": " "}]}, {"photos": 3}):
        assert image_reference(deep, without) is None
    assert look_up({"a.b": 1, "a": {"b": 2}}, "a.b") == 1, "a key that looks like a path wins over the path"
    assert look_up({"a": {"b": 2}}, "a.b") == 2


@pytest.mark.parametrize(
    ("inside", "names"),
    [
        (choices() + '<TextArea name="comment" toName="image"/>', []),
        (choices() + '<TextArea name="confidence" toName="image" maxSubmissions="0" perRegion="true"/>', []),
        (choices() + f'<View visibleWhen="choice-selected">{CONFIDENCE}</View>', []),
        (choices() + CONFIDENCE.replace('toName="image"', 'toName="text"'), []),
        (choices() + HIDDEN.replace('"0"', '"0.5"'), []),
        (choices() + CONFIDENCE, ["confidence"]),
        (choices() + CONFIDENCE + CONFIDENCE.replace("confidence", "confidence2"), ["confidence"]),
        (choices() + HIDDEN, ["conf"]),
        (BOXES.format("") + HIDDEN, ["conf"]),
        (f'{choices()}<View visibleWhen="region-selected" whenTagName="conf">{HIDDEN}</View>', ["conf"]),
    ],
)
def test_what_shows_confidences(inside: str, names: list[str]) -> None:
    """What annotators fill is not ours."""
    found = schema(IMAGE, '<Text name="text" value="$t"/>', inside)
    assert [*found.confidence_controls] == ["image"] * bool(names)
    assert [each.name for each in found.confidence_controls.get("image", ())] == names
    assert not {*names} & {each.name for each in found.tag_controls}


def test_invisible_rectangles_show_confidences_of_tags_that_have_a_label() -> None:
    for opacity in ("0", "0.0", "0."):
        (found,) = schema(IMAGE, choices(), BOXES.format(f'opacity="{opacity}"')).confidence_controls["image"]
        assert (found.kind, dict(found.labels)) == ("rectanglelabels", {"cat": "cat", "Dog": "d", "d": "d"})


def test_the_digest_is_of_what_changes_answers() -> None:
    """It is part of the model version: another one makes Label Studio ask anew for every task."""
    first = schema(IMAGE, choices())
    assert first.digest.startswith("8583528cad21ae8a"), "label configs that say nothing new keep their digest"
    assert schema(IMAGE, '<Header value="Which animals?"/>', choices()).digest == first.digest
    attributes = ('model_score_threshold="0.4"', 'model_top_k="4"', 'model_min_precision="0.8"')
    others = [
        *(schema(IMAGE, choices(attributes=f'choice="multiple" {each}')) for each in attributes),
        schema(IMAGE, choices(attributes='choice="multiple" model_min_precision="0.9"')),
        schema(IMAGE, choices(attributes='choice="single"')),
        schema(IMAGE, choices('<Choice value="dog"/><Choice value="cat"/>')),
        schema(IMAGE, choices('<Choice value="cat" predicted_values="lynx"/><Choice value="dog"/>')),
        schema('<Image name="image" value="$photo"/>', choices()),
        schema(IMAGE, choices(), '<TextArea name="confidence" toName="image" maxSubmissions="0"/>'),
    ]
    assert len({first.digest, *(other.digest for other in others)}) == 1 + len(others)


@pytest.mark.parametrize(
    ("area", "caption"),
    [
        ('<TextArea name="caption" toName="image"/>', True),
        ('<TextArea name="imageCaption2" toName="image" editable="true"/>', True),
        ('<TextArea name="about" toName="image" model_caption="true"/>', True),
        ('<TextArea name="caption" toName="image" model_caption="false"/>', False),
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
