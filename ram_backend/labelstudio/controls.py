"""Which controls of a label config are filled with tags, and which show confidences."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from ram_backend.errors import LabelConfigError
from ram_backend.labelstudio.choices import Nesting, static_choices
from ram_backend.labelstudio.markup import Node
from ram_backend.labelstudio.plan import ConfidenceControl, Kind, TagControl

KINDS: Mapping[str, Kind] = {
    "choices": "choices",
    "taxonomy": "taxonomy",
    "labels": "labels",
    "rectanglelabels": "rectanglelabels",
    "textarea": "textarea",
}
SPELLED: Mapping[str, str] = {
    "choices": "Choices",
    "taxonomy": "Taxonomy",
    "labels": "Labels",
    "rectanglelabels": "RectangleLabels",
    "textarea": "TextArea",
}

_LISTS = ("choices", "taxonomy")
_REGIONS = ("labels", "rectanglelabels")
_VARIABLE = re.compile(r"\$\{?([^\s${}]+)\}?")


def tag_controls(nodes: Sequence[Node], images: Mapping[str, str], notes: list[str]) -> list[TagControl]:
    """The controls that are filled with tags, in the order of the config.

    Every `Choices` and `Taxonomy` is one. Where the config has none of either, it is its `Labels` and
    `RectangleLabels` (a region over the whole image per tag), and where it has none of those, its only `TextArea` (a
    line per tag). `model_tags="true"` makes any of them one besides, `model_tags="false"` none.

    Args:
        nodes: of the whole config, in order.
        images: name -> path, of the images that can be tagged.
        notes: takes a sentence about each that is left alone.

    Raises:
        LabelConfigError: an attribute can't be used.
    """
    filled = {id(node) for node in _filled(nodes, images, notes)}
    found = [_tag_control(node, nodes, images, notes) for node in nodes if id(node) in filled]
    return [control for control in found if control is not None]


def confidence_controls(nodes: Sequence[Node], tags: Sequence[TagControl]) -> dict[str, tuple[ConfidenceControl, ...]]:
    """Where confidences of those controls are shown: by image name at most one of each kind."""
    wanted, names = {control.to_name for control in tags}, {control.name for control in tags}
    found: dict[str, tuple[ConfidenceControl, ...]] = {}
    for node in nodes:
        shown = _confidence_control(node, wanted)
        if shown is None or shown.name in names:
            continue
        there = found.get(shown.to_name, ())
        if all(other.kind != shown.kind for other in there):
            found[shown.to_name] = (*there, shown)
    return found


def variable(value: str) -> str | None:
    """The path in "$photo" or "${photo}"; None where it is no variable."""
    match = _VARIABLE.fullmatch(value)
    return match[1] if match else None


def _filled(nodes: Sequence[Node], images: Mapping[str, str], notes: list[str]) -> list[Node]:
    named: list[Node] = []
    asked: list[Node] = []
    for node in nodes:
        if node.name not in KINDS:
            continue
        said = _yes_or_no(node, "model_tags")
        if said is False:
            notes.append(f'{_shown(node)} is left alone: model_tags="false"')
        elif said or node.name in _LISTS:
            named.append(node)
        else:
            asked.append(node)
    if named or any(node.name in _LISTS for node in nodes):
        return named
    regions = [node for node in asked if node.name in _REGIONS]
    visible = [node for node in regions if not is_zero(node.get("opacity"))]
    if regions:
        return visible or regions
    return _only_text_area([node for node in asked if node.name == "textarea"], images, notes)


def _only_text_area(areas: Sequence[Node], images: Mapping[str, str], notes: list[str]) -> list[Node]:
    free = [node for node in areas if not _shows_confidences(node) and any(to in images for to in _to_names(node))]
    if len(free) <= 1:
        return free
    named = ", ".join(repr(node.get("name")) for node in free)
    notes.append(f'of the TextAreas {named} none says model_tags="true": all are left alone')
    return []


def _tag_control(node: Node, nodes: Sequence[Node], images: Mapping[str, str], notes: list[str]) -> TagControl | None:
    kind, name = KINDS[node.name], node.get("name")
    to_name = next((to for to in _to_names(node) if to in images), None)
    nesting = _nesting(node)
    choices = () if kind == "textarea" else static_choices(node, nesting, _entry_of(node))
    dynamic = None if kind == "textarea" else variable(node.get("value"))
    tool = _rectangle_tool(nodes, to_name or "") if kind == "labels" else None
    problem = (
        ("it has no name" if not name else None)
        or (f"toName={node.get('toname')!r} is no Image that can be tagged" if to_name is None else None)
        or next((f"it is {flag}" for flag in ("perRegion", "perItem") if node.is_true(flag.lower())), None)
        or ("it is shown only under a condition (visibleWhen)" if node.conditional else None)
        or ("it labels text (labeling)" if node.is_true("labeling") else None)
        or ("its entries come from apiUrl" if node.get("apiurl") else None)
        or _without_entries(node, bool(choices or dynamic))
        or ("there is no <Rectangle> for its regions on that image" if kind == "labels" and not tool else None)
    )
    if problem or to_name is None:
        notes.append(f"{_shown(node)} is left alone: {problem}")
        return None
    if kind == "choices" and nesting != "flat":
        notes.append(
            f"{_shown(node)} has allowNested: Label Studio's strict mode takes no answer for it; prefer a Taxonomy"
        )
    threshold, precision = _share(node, "model_score_threshold"), _share(node, "model_min_precision")
    if threshold is not None and precision is not None:
        raise LabelConfigError(
            f"{_shown(node)} has model_score_threshold and model_min_precision: give one of them, a score above which"
            " tags are ticked, or how many of the ticked tags shall be right."
        )
    return TagControl(
        name=name,
        to_name=to_name,
        kind=kind,
        single=kind == "choices" and node.get("choice").lower() != "multiple",
        choices=choices,
        dynamic=dynamic,
        threshold=threshold,
        top_k=_top_k(node),
        image_key=images[to_name],
        required=node.is_true("required") and kind in _LISTS,
        max_usages=_max_usages(node),
        nesting=nesting,
        precision=precision,
        tool=tool,
    )


def _entry_of(node: Node) -> str:
    return "label" if node.name in _REGIONS else "choice"


def _without_entries(node: Node, some: bool) -> str | None:
    if some or node.name == "textarea":
        return None
    return f'it has no <{"Label" if node.name in _REGIONS else "Choice"} value="..."/>'


def _rectangle_tool(nodes: Sequence[Node], to_name: str) -> str | None:
    """The control that says where the regions of `Labels` are."""
    tools = (node for node in nodes if node.name == "rectangle" and to_name in _to_names(node) and node.get("name"))
    return next((node.get("name") for node in tools), None)


def _nesting(node: Node) -> Nesting:
    if node.name == "taxonomy":
        return "leaves" if node.is_true("leafsonly") else "nodes"
    return "leaves" if node.name == "choices" and node.is_true("allownested") else "flat"


def _confidence_control(node: Node, images: set[str]) -> ConfidenceControl | None:
    """A `TextArea` that nobody can type in, or `RectangleLabels` that nobody sees; others are the annotator's.

    Rectangles may stand under a condition that never holds: that hides their buttons, and their scores still show.
    """
    to_name = next((to for to in _to_names(node) if to in images), None)
    name = node.get("name")
    if not name or to_name is None or node.is_true("perregion") or node.is_true("peritem"):
        return None
    if node.name == "textarea" and not node.conditional and _shows_confidences(node):
        return ConfidenceControl(name, to_name, "textarea")
    if node.name == "rectanglelabels" and is_zero(node.get("opacity")):
        labels: dict[str, str] = {}
        for label in node.walk():
            value, alias = label.get("value"), label.get("alias")
            if label.name == "label" and (value or alias):
                labels.setdefault(value or alias, alias or value)
                labels.setdefault(alias or value, alias or value)
        return ConfidenceControl(name, to_name, "rectanglelabels", tuple(labels.items()))
    return None


def _shows_confidences(area: Node) -> bool:
    called = "confidence" in area.get("name").lower() and not area.is_true("editable")
    return area.get("maxsubmissions") == "0" or area.is_true("readonly") or called


def _to_names(node: Node) -> list[str]:
    return [name.strip() for name in node.get("toname").split(",")]


def _shown(node: Node) -> str:
    return f"{SPELLED[node.name]} {node.get('name')!r}"


def is_zero(text: str) -> bool:
    """Whether an attribute is the number 0, as an opacity that nobody sees."""
    return bool(re.fullmatch(r"0+(\.0*)?|\.0+", text))


def _yes_or_no(node: Node, name: str) -> bool | None:
    text = node.get(name).lower()
    if not text:
        return None
    if text not in {"true", "1", "yes", "false", "0", "no"}:
        raise LabelConfigError(f'{_shown(node)} has {name}={text[:40]!r}. Give "true" or "false".')
    return text in {"true", "1", "yes"}


def _share(node: Node, name: str) -> float | None:
    text = node.get(name)
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0.0 <= value <= 1.0:
        raise LabelConfigError(f"{_shown(node)} has {name}={text[:40]!r}. Give a number from 0 to 1.")
    return value


def _top_k(node: Node) -> int | None:
    text = node.get("model_top_k")
    if not text:
        return None
    if not re.fullmatch(r"0*[1-9][0-9]{0,6}", text):
        raise LabelConfigError(f"{_shown(node)} has model_top_k={text[:40]!r}. Give a whole number from 1 to 9999999.")
    return int(text.lstrip("0"))


def _max_usages(node: Node) -> int | None:
    """So many entries of the control are taken. Of labels `maxUsages` is about each of them, and one region is."""
    if node.name in _REGIONS:
        return None
    text = node.get("maxsubmissions" if node.name == "textarea" else "maxusages")
    return int(text.lstrip("0")) if re.fullmatch(r"0*[1-9][0-9]{0,6}", text) else None
