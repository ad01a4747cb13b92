"""Parser of label configs: which controls get tags, and which confidences."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import cast

from ram_backend.errors import LabelConfigError
from ram_backend.labelstudio.config_xml import Node, read_markup
from ram_backend.labelstudio.schema import (
    LATIN,
    REGIONS,
    ConfidenceControl,
    ControlKind,
    LabelSchema,
    Nesting,
    TagControl,
    choices_of,
)

MAX_CHOICES = 50_000
MAX_NOTES = 30
LONGEST_NOTE = 300

_NEEDED = (
    'Needed: <Image name="image" value="$image"/>, and with toName="image" either <Choices name="tags" '
    'choice="multiple"> or <Taxonomy name="tags">, with one <Choice value="..."/> per tag (or value="$options"); or, '
    'with one <Label value="..."/> per tag, <RectangleLabels name="tags">; or <TextArea name="tags"> for any tag; all '
    "without perRegion, perItem and visibleWhen"
)
_SPELLED = {
    name.lower(): name for name in ("Choices", "Taxonomy", "Labels", "RectangleLabels", "BrushLabels", "TextArea")
}
_LISTS = ("choices", "taxonomy")
_VARIABLE = re.compile(r"\$\{?([^\s${}]+)\}?")


def parse_label_config(xml: str) -> LabelSchema:
    """The schema of a label config.

    Every `Choices` and `Taxonomy` is filled with tags. Where the config has
    none of either, it is its `Labels`, `RectangleLabels` and, with
    `model_masks`, `BrushLabels` (visible ones first), else its only `TextArea`;
    `model_tags` decides otherwise. Beside them, a `TextArea` with "caption" in
    its name gets a sentence, unless `model_caption` decides otherwise.

    Raises:
        LabelConfigError: not readable, an attribute that can't be used, or
            nothing to tag; says what to change.
    """
    nodes = read_markup(xml)
    notes: list[str] = []
    images = _images(nodes, notes)
    found = [_tag_control(node, nodes, images, notes) for node in _filled(nodes, images, notes)]
    tags = [control for control in found if control is not None]
    notes = [note[:LONGEST_NOTE] for note in notes[:MAX_NOTES]]
    if sum(len(choice.texts) for control in tags for choice in control.choices) > MAX_CHOICES:
        raise LabelConfigError(f"The label config offers more than {MAX_CHOICES:,} choices. Offer fewer.")
    names = Counter(control.name for control in tags)
    if twice := next((name for name, count in names.items() if count > 1), None):
        raise LabelConfigError(f"Two controls have the name {twice!r}. Give each control a name of its own.")
    if not tags:
        seen = [f"Image {name!r} (${path})"[:LONGEST_NOTE] for name, path in list(images.items())[:MAX_NOTES]]
        listed = "; ".join([*seen, *notes]) or "no Image, no Choices, no Taxonomy, no Labels, no TextArea"
        raise LabelConfigError(f"The label config has nothing to tag. Found: {listed}. {_needed(nodes, images)}.")
    confidence, captions = _confidence_controls(nodes, tags), _captions(nodes, tags)
    used = {name: path for name, path in images.items() if name in {control.to_name for control in tags}}
    return LabelSchema(tuple(tags), confidence, used, _digest(tags, confidence, used, captions), tuple(notes), captions)


def _needed(nodes: Sequence[Node], images: Mapping[str, str]) -> str:
    """What would help: to fill a control that is there, or another one."""
    others = [node for node in nodes if node.tag in _SPELLED and node.tag not in _LISTS and _to_name(node, images)]
    for node in others:
        if not (node.get("model_tags") or node.is_true("perregion") or _shows_confidences(node)):
            wanted = "model_masks" if node.tag == "brushlabels" else "model_tags"
            return f'Needed: {wanted}="true" on {_shown(node)}, which then gets the tags, or another control'
    return _NEEDED


def _images(nodes: Sequence[Node], notes: list[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    if any(node.tag == "repeater" for node in nodes):
        notes.append("what is in the Repeater is left alone: pages of a task are not tagged one by one")
    for node in nodes:
        name, path = node.get("name"), _variable(node)
        if node.tag == "image" and name and path:
            found[name] = path
        elif node.tag == "image":
            shown = f"Image {name!r}" if name else "an Image without a name"
            is_list, value = node.get("valuelist"), node.get("value")
            why = "shows a list (valueList)" if is_list else f"value={value!r} is not a $variable"
            notes.append(f"{shown} is left alone: {why}")
    return found


def _variable(node: Node) -> str | None:
    """The path in value="$photo" or value="${photo}"; None where it is none."""
    match = _VARIABLE.fullmatch(node.get("value"))
    return match[1] if match else None


def _filled(nodes: Sequence[Node], images: Mapping[str, str], notes: list[str]) -> list[Node]:
    """The controls that are filled with tags."""
    chosen: list[Node] = []
    others: list[Node] = []
    for node in nodes:
        if node.tag not in _SPELLED or (node.tag == "textarea" and node.is_true("model_caption")):
            continue
        if node.tag == "brushlabels" and not node.is_true("model_masks"):
            continue
        wanted = node.get("model_tags").lower()
        if wanted not in {"", "true", "1", "yes", "false", "0", "no"}:
            _refuse(node, "model_tags", '"true" or "false"')
        if wanted and not node.is_true("model_tags"):
            notes.append(f'{_shown(node)} is left alone: model_tags="false"')
        elif wanted or node.tag in _LISTS:
            chosen.append(node)
        else:
            others.append(node)
    if chosen or any(node.tag in _LISTS for node in nodes):
        return chosen
    if regions := [node for node in others if node.tag in REGIONS]:
        return [node for node in regions if not _is_invisible(node)] or regions
    areas = [node for node in others if not _shows_confidences(node) and _to_name(node, images)]
    areas = [node for node in areas if not _is_caption(node)] or areas
    if len(areas) > 1:
        named = ", ".join(repr(node.get("name")) for node in areas)
        notes.append(f'of the TextAreas {named} none says model_tags="true": all are left alone')
        return []
    return areas


def _tag_control(node: Node, nodes: Sequence[Node], images: Mapping[str, str], notes: list[str]) -> TagControl | None:
    kind = cast("ControlKind", node.tag)
    name, to_name = node.get("name"), _to_name(node, images)
    is_list, free = kind in _LISTS, kind == "textarea"
    entry = "label" if kind in REGIONS else "choice"
    nesting: Nesting = "nodes" if kind == "taxonomy" else "flat"
    if node.is_true({"taxonomy": "leafsonly", "choices": "allownested"}.get(kind, "")):
        nesting = "leaves"
    choices = () if free else choices_of(list(_options(node, entry)), nesting)
    dynamic = None if free else _variable(node)
    # the control that says where regions of `Labels` are
    tools = (each.get("name") for each in nodes if each.tag == "rectangle" and to_name in _to_names(each))
    rectangle_control = next(filter(None, tools), None) if kind == "labels" else None
    problems = {
        "it has no name": not name,
        f"toName={node.get('toname')!r} is not an Image that can be tagged": to_name is None,
        "it is perRegion": node.is_true("perregion"),
        "it is perItem": node.is_true("peritem"),
        "it is shown only under a condition (visibleWhen)": node.conditional,
        "it labels text (labeling)": node.is_true("labeling"),
        "its entries come from apiUrl": node.get("apiurl"),
        f'it has no <{entry.title()} value="..."/>': not (choices or dynamic or free),
        "there is no <Rectangle> for its regions on that image": kind == "labels" and not rectangle_control,
    }
    problem = next((problem for problem, holds in problems.items() if holds), None)
    if problem or to_name is None:
        notes.append(f"{_shown(node)} is left alone: {problem}")
        return None
    several = [each for each in _to_names(node) if each in images]
    if len(several) > 1:
        notes.append(f"{_shown(node)} is for {', '.join(several)}: the tags are those of {to_name} alone")
    words = [text for each in choices for text in each.texts if text.isalpha()]
    if foreign := [word for word in words if not LATIN.search(word)]:
        some = ", ".join(foreign[:5])
        notes.append(f"{_shown(node)}: {some}: the vocabulary is English: give an alias or predicted_values in it")
    if kind == "choices" and nesting != "flat":
        notes.append(
            f"{_shown(node)} has allowNested: Label Studio's strict mode takes no answer for it; prefer a Taxonomy"
        )

    threshold = _share(node, "model_score_threshold")
    precision = _share(node, "model_min_precision")
    if threshold is not None and precision is not None:
        raise LabelConfigError(
            f"{_shown(node)} has model_score_threshold and model_min_precision: give one of them, a score above which"
            " tags are ticked, or how many of the ticked tags shall be right."
        )
    top_k = _positive(node, "model_top_k")
    if top_k is None and node.get("model_top_k"):
        _refuse(node, "model_top_k", "a whole number from 1 to 9999999")
    # Of labels `maxUsages` is about each of them, and one region is.
    limit = {"textarea": "maxsubmissions", "choices": "maxusages", "taxonomy": "maxusages"}.get(kind, "")
    return TagControl(
        name=name,
        to_name=to_name,
        kind=kind,
        single=kind == "choices" and node.get("choice").lower() != "multiple",
        choices=choices,
        dynamic=dynamic,
        threshold=threshold,
        top_k=top_k,
        image_key=images[to_name],
        required=node.is_true("required") and is_list,
        max_usages=_positive(node, limit),
        nesting=nesting,
        precision=precision,
        rectangle_control=rectangle_control,
        boxes=kind == "brushlabels" or (kind in REGIONS and node.is_true("model_boxes")),
    )


def _options(control: Node, name: str) -> Iterator[dict[str, object]]:
    """The nearest `Choice` (or `Label`) descendants, also through layout (`View`)."""
    for child in cast("Sequence[Node]", control):
        if child.tag != name:
            yield from _options(child, name)
        elif not child.attrib.get("value", "").startswith("$"):
            yield {**child.attrib, "children": list(_options(child, "choice"))}


def _captions(nodes: Sequence[Node], tags: Sequence[TagControl]) -> dict[str, str]:
    """`TextArea`s of the tagged images that ask for a caption, by attribute or name."""
    images = {control.to_name: "" for control in tags}
    taken = {"", *(control.name for control in tags)}
    found: dict[str, str] = {}
    for node in nodes:
        name, to_name = node.get("name"), _to_name(node, images)
        if node.tag != "textarea" or not _is_caption(node) or _shows_confidences(node):
            continue
        if to_name and name not in taken and not node.conditional:
            found[name] = to_name
    return found


def _is_caption(area: Node) -> bool:
    asked = area.get("model_caption") or ("true" if "caption" in area.get("name").lower() else "")
    return asked.lower() in {"true", "1", "yes"} and not area.is_true("perregion") and not area.is_true("peritem")


def _confidence_controls(nodes: Sequence[Node], tags: Sequence[TagControl]) -> dict[str, tuple[ConfidenceControl, ...]]:
    """Controls that show confidences: by image name at most one of each kind."""
    images = {control.to_name: "" for control in tags}
    names = {control.name for control in tags}
    found: dict[str, dict[str, ConfidenceControl]] = {}
    for node in nodes:
        control = _confidence_control(node, images)
        if control is not None and control.name not in names:
            found.setdefault(control.to_name, {}).setdefault(control.kind, control)
    return {to_name: tuple(row.values()) for to_name, row in found.items()}


def _confidence_control(node: Node, images: Mapping[str, str]) -> ConfidenceControl | None:
    """A `TextArea` that nobody can type in, or invisible `RectangleLabels`."""
    name, to_name = node.get("name"), _to_name(node, images)
    if not name or to_name is None or node.is_true("perregion") or node.is_true("peritem"):
        return None
    if node.tag == "textarea" and not node.conditional and _shows_confidences(node):
        return ConfidenceControl(name, to_name, "textarea")
    if node.tag == "rectanglelabels" and _is_invisible(node):
        labels: dict[str, str] = {}
        for label in node.iter():
            result = label.get("alias") or label.get("value")
            if label.tag == "label" and result:
                labels.setdefault(label.get("value") or result, result)
                labels.setdefault(result, result)
        return ConfidenceControl(name, to_name, "rectanglelabels", tuple(labels.items()))
    return None


def _shows_confidences(area: Node) -> bool:
    called = "confidence" in area.get("name").lower() and not area.is_true("editable")
    return area.get("maxsubmissions") == "0" or area.is_true("readonly") or called


def _is_invisible(node: Node) -> bool:
    return bool(re.fullmatch(r"0+(\.0*)?|\.0+", node.get("opacity")))


def _to_names(node: Node) -> list[str]:
    return [name.strip() for name in node.get("toname").split(",")]


def _to_name(node: Node, images: Mapping[str, str]) -> str | None:
    """The first image that a control is for."""
    return next((name for name in _to_names(node) if name in images), None)


def _shown(node: Node) -> str:
    return f"{_SPELLED[node.tag]} {node.get('name')!r}"


def _refuse(node: Node, attribute: str, allowed: str) -> None:
    """Raises LabelConfigError about the value of an attribute."""
    raise LabelConfigError(f"{_shown(node)} has {attribute}={node.get(attribute)[:40]!r}. Give {allowed}.")


def _share(node: Node, attribute: str) -> float | None:
    if not node.get(attribute):
        return None
    try:
        value = float(node.get(attribute))
    except ValueError:
        value = -1.0
    if not 0.0 <= value <= 1.0:
        _refuse(node, attribute, "a number from 0 to 1")
    return value


def _positive(node: Node, attribute: str) -> int | None:
    """A whole number from 1 to 9999999; None: it is none."""
    match = re.fullmatch(r"0*([1-9][0-9]{0,6})", node.get(attribute))
    return int(match[1]) if match else None


def _digest(
    tags: list[TagControl],
    confidence: Mapping[str, tuple[ConfidenceControl, ...]],
    images: Mapping[str, str],
    captions: Mapping[str, str],
) -> str:
    def newer(control: TagControl) -> dict[str, object]:
        """Attributes without which the digest is that of older releases."""
        given = {"precision": control.precision, "tool": control.rectangle_control, "boxes": control.boxes or None}
        return {name: value for name, value in given.items() if value is not None}

    content: dict[str, object] = {
        "tags": [
            [
                *(control.name, control.to_name, control.kind, control.single, control.dynamic, control.threshold),
                *(control.top_k, control.required, control.max_usages, control.nesting),
                [[choice.path, choice.texts, choice.label] for choice in control.choices],
                *filter(None, [newer(control)]),
            ]
            for control in tags
        ],
        "confidence": [
            [each.name, each.to_name, each.kind, each.labels] for row in confidence.values() for each in row
        ],
        "images": dict(images),
    }
    if captions:
        content["captions"] = list(captions.items())
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
