"""What a project's label config asks for: which controls to fill, with which tags, for which image of a task.

Protocol section 5 says how the answers look; `predicted_values` and `model_score_threshold` mean what Label Studio's
own example backends made usual. Label Studio sends the config with each request, so plans are kept by its hash.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections import OrderedDict
from collections.abc import Mapping

from ram_backend.errors import LabelConfigError
from ram_backend.labelstudio.choices import Choice, Nesting, static_choices
from ram_backend.labelstudio.markup import Node, read_markup
from ram_backend.labelstudio.plan import ConfidenceControl, LabelPlan, TagControl, choices_for, image_reference, look_up

__all__ = [
    "Choice",
    "ConfidenceControl",
    "LabelPlan",
    "TagControl",
    "choices_for",
    "image_reference",
    "look_up",
    "parse_label_config",
]

KEPT_PLANS = 64

_VARIABLE = re.compile(r"\$\{?([^\s${}]+)\}?")
_NEEDED = (
    'Needed: <Image name="image" value="$image"/>, and with toName="image" either <Choices name="tags" '
    'choice="multiple"> or <Taxonomy name="tags">, with one <Choice value="..."/> per tag (or value="$options"), '
    "without perRegion, perItem and visibleWhen"
)


_plans: OrderedDict[bytes, LabelPlan] = OrderedDict()
_plans_lock = threading.Lock()


def parse_label_config(xml: str) -> LabelPlan:
    """The plan of a label config; the latest `KEPT_PLANS` are remembered.

    Raises:
        LabelConfigError: not readable, an attribute that can't be used, or nothing to tag; says what to change.
    """
    key = hashlib.sha256(xml.encode("utf-8", "surrogatepass")).digest()
    with _plans_lock:
        plan = _plans.get(key)
        if plan is not None:
            _plans.move_to_end(key)
            return plan
    plan = _plan(read_markup(xml))
    with _plans_lock:
        _plans[key] = plan
        while len(_plans) > KEPT_PLANS:
            _plans.popitem(last=False)
    return plan


def _plan(root: Node) -> LabelPlan:
    notes: list[str] = []
    nodes = list(root.walk())
    images = {name: path for node in nodes if node.name == "image" for name, path in _image(node, notes)}
    tags = [found for node in nodes if (found := _tag_control(node, images, notes)) is not None]
    names = [control.name for control in tags]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise LabelConfigError(f"Two controls have the name {twice!r}. Give each control a name of its own.")
    if not tags:
        seen = [f"Image {name!r} (${path})" for name, path in images.items()]
        said = "; ".join([*seen, *notes]) or "no Image, no Choices, no Taxonomy"
        raise LabelConfigError(f"The label config has nothing to tag. Found: {said}. {_NEEDED}.")
    wanted = {control.to_name for control in tags}
    confidence: dict[str, tuple[ConfidenceControl, ...]] = {}
    for node in nodes:
        shown = _confidence_control(node, wanted)
        if shown is None:
            continue
        there = confidence.get(shown.to_name, ())
        if all(other.kind != shown.kind for other in there):
            confidence[shown.to_name] = (*there, shown)
    used = {name: path for name, path in images.items() if name in wanted}
    return LabelPlan(tuple(tags), confidence, used, _digest(tags, confidence, used), tuple(notes))


def _image(node: Node, notes: list[str]) -> list[tuple[str, str]]:
    name, path = node.get("name"), _variable(node.get("value"))
    if name and path:
        return [(name, path)]
    shown = f"Image {name!r}" if name else "an Image without a name"
    why = "shows a list (valueList)" if node.get("valuelist") else f"value={node.get('value')!r} is no $variable"
    notes.append(f"{shown} is left alone: {why}")
    return []


def _tag_control(node: Node, images: Mapping[str, str], notes: list[str]) -> TagControl | None:
    if node.name not in ("choices", "taxonomy"):
        return None
    name, to_name = node.get("name"), next((to for to in _to_names(node) if to in images), None)
    shown = f"{'Choices' if node.name == 'choices' else 'Taxonomy'} {name!r}"
    nesting = _nesting(node)
    choices = static_choices(node, nesting)
    dynamic = _variable(node.get("value"))
    problem = (
        ("it has no name" if not name else None)
        or (f"toName={node.get('toname')!r} is no Image that can be tagged" if to_name is None else None)
        or next((f"it is {flag}" for flag in ("perRegion", "perItem") if node.is_true(flag.lower())), None)
        or ("it is shown only under a condition (visibleWhen)" if node.conditional else None)
        or ("it labels text (labeling)" if node.is_true("labeling") else None)
        or ("its entries come from apiUrl" if node.get("apiurl") else None)
        or ('it has no <Choice value="..."/>' if not choices and not dynamic else None)
    )
    if problem or to_name is None:
        notes.append(f"{shown} is left alone: {problem}")
        return None
    if node.name == "choices" and nesting != "flat":
        notes.append(f"{shown} has allowNested: Label Studio's strict mode takes no answer for it; prefer a Taxonomy")
    return TagControl(
        name=name,
        to_name=to_name,
        kind="choices" if node.name == "choices" else "taxonomy",
        single=node.name == "choices" and node.get("choice").lower() != "multiple",
        choices=choices,
        dynamic=dynamic,
        threshold=_threshold(node, shown),
        top_k=_top_k(node, shown),
        image_key=images[to_name],
        required=node.is_true("required"),
        max_usages=_max_usages(node),
        nesting=nesting,
    )


def _nesting(node: Node) -> Nesting:
    if node.name == "taxonomy":
        return "leaves" if node.is_true("leafsonly") else "nodes"
    return "leaves" if node.is_true("allownested") else "flat"


def _confidence_control(node: Node, images: set[str]) -> ConfidenceControl | None:
    """A `TextArea` that nobody can type in, or `RectangleLabels` that nobody sees; others are the annotator's.

    Rectangles may stand under a condition that never holds: that hides their buttons, and their scores still show.
    """
    to_name = next((to for to in _to_names(node) if to in images), None)
    name = node.get("name")
    if not name or to_name is None or node.is_true("perregion") or node.is_true("peritem"):
        return None
    if node.name == "textarea" and not node.conditional:
        called = "confidence" in name.lower() and not node.is_true("editable")
        if node.get("maxsubmissions") == "0" or node.is_true("readonly") or called:
            return ConfidenceControl(name, to_name, "textarea")
    if node.name == "rectanglelabels" and _is_zero(node.get("opacity")):
        labels: dict[str, str] = {}
        for label in node.walk():
            value, alias = label.get("value"), label.get("alias")
            if label.name == "label" and (value or alias):
                labels.setdefault(value or alias, alias or value)
                labels.setdefault(alias or value, alias or value)
        return ConfidenceControl(name, to_name, "rectanglelabels", tuple(labels.items()))
    return None


def _to_names(node: Node) -> list[str]:
    return [name.strip() for name in node.get("toname").split(",")]


def _variable(value: str) -> str | None:
    match = _VARIABLE.fullmatch(value)
    return match[1] if match else None


def _is_zero(text: str) -> bool:
    return bool(re.fullmatch(r"0*\.?0+|0+\.", text))


def _threshold(node: Node, shown: str) -> float | None:
    text = node.get("model_score_threshold")
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0.0 <= value <= 1.0:
        raise LabelConfigError(f"{shown} has model_score_threshold={text[:40]!r}. Give a number from 0 to 1.")
    return value


def _top_k(node: Node, shown: str) -> int | None:
    text = node.get("model_top_k")
    if not text:
        return None
    if not re.fullmatch(r"0*[1-9][0-9]{0,6}", text):
        raise LabelConfigError(f"{shown} has model_top_k={text[:40]!r}. Give a whole number from 1 to 9999999.")
    return int(text)


def _max_usages(node: Node) -> int | None:
    text = node.get("maxusages")
    return int(text) if re.fullmatch(r"0*[1-9][0-9]{0,6}", text) else None


def _digest(
    tags: list[TagControl], confidence: Mapping[str, tuple[ConfidenceControl, ...]], images: Mapping[str, str]
) -> str:
    said = {
        "tags": [
            [
                *(control.name, control.to_name, control.kind, control.single, control.dynamic, control.threshold),
                *(control.top_k, control.required, control.max_usages, control.nesting),
                [[choice.path, choice.texts, choice.label] for choice in control.choices],
            ]
            for control in tags
        ],
        "confidence": [
            [each.name, each.to_name, each.kind, each.labels] for row in confidence.values() for each in row
        ],
        "images": dict(images),
    }
    return hashlib.sha256(json.dumps(said, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
