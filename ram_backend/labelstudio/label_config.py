"""What a project's label config asks for: which controls to fill, with which tags, for which image of a task.

Protocol section 5 says how the answers look; `predicted_values` and `model_score_threshold` mean what Label Studio's
own example backends made usual. Label Studio sends the config with each request, so plans are kept by its hash.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections import Counter, OrderedDict
from collections.abc import Mapping

from ram_backend.errors import LabelConfigError
from ram_backend.labelstudio.choices import Choice
from ram_backend.labelstudio.controls import confidence_controls, tag_controls, variable
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
KEPT_CHOICES = 200_000
"""Choices that the plans remembered have together."""

MAX_CHOICES = 50_000
MAX_NOTES = 30
LONGEST_NOTE = 300

_NEEDED = (
    'Needed: <Image name="image" value="$image"/>, and with toName="image" either <Choices name="tags" '
    'choice="multiple"> or <Taxonomy name="tags">, with one <Choice value="..."/> per tag (or value="$options"); or, '
    'with one <Label value="..."/> per tag, <RectangleLabels name="tags">; or <TextArea name="tags"> for any tag; all '
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
        while len(_plans) > KEPT_PLANS or (len(_plans) > 1 and _choices_kept() > KEPT_CHOICES):
            _plans.popitem(last=False)
    return plan


def _choices_kept() -> int:
    return sum(len(control.choices) for plan in _plans.values() for control in plan.tag_controls)


def _plan(root: Node) -> LabelPlan:
    notes: list[str] = []
    nodes = list(root.walk())
    images = {name: path for node in nodes if node.name == "image" for name, path in _image(node, notes)}
    tags = tag_controls(nodes, images, notes)
    notes = [note[:LONGEST_NOTE] for note in notes[:MAX_NOTES]]
    if sum(len(choice.texts) for control in tags for choice in control.choices) > MAX_CHOICES:
        raise LabelConfigError(f"The label config offers more than {MAX_CHOICES:,} choices. Offer fewer.")
    names = Counter(control.name for control in tags)
    if twice := next((name for name, count in names.items() if count > 1), None):
        raise LabelConfigError(f"Two controls have the name {twice!r}. Give each control a name of its own.")
    if not tags:
        seen = [f"Image {name!r} (${path})"[:LONGEST_NOTE] for name, path in list(images.items())[:MAX_NOTES]]
        said = "; ".join([*seen, *notes]) or "no Image, no Choices, no Taxonomy, no Labels, no TextArea"
        raise LabelConfigError(f"The label config has nothing to tag. Found: {said}. {_NEEDED}.")
    confidence = confidence_controls(nodes, tags)
    used = {name: path for name, path in images.items() if name in {control.to_name for control in tags}}
    return LabelPlan(tuple(tags), confidence, used, _digest(tags, confidence, used), tuple(notes))


def _image(node: Node, notes: list[str]) -> list[tuple[str, str]]:
    name, path = node.get("name"), variable(node.get("value"))
    if name and path:
        return [(name, path)]
    shown = f"Image {name!r}" if name else "an Image without a name"
    why = "shows a list (valueList)" if node.get("valuelist") else f"value={node.get('value')!r} is no $variable"
    notes.append(f"{shown} is left alone: {why}")
    return []


def _digest(
    tags: list[TagControl], confidence: Mapping[str, tuple[ConfidenceControl, ...]], images: Mapping[str, str]
) -> str:
    said = {
        "tags": [
            [
                *(control.name, control.to_name, control.kind, control.single, control.dynamic, control.threshold),
                *(control.top_k, control.required, control.max_usages, control.nesting),
                [[choice.path, choice.texts, choice.label] for choice in control.choices],
                *_further(control),
            ]
            for control in tags
        ],
        "confidence": [
            [each.name, each.to_name, each.kind, each.labels] for row in confidence.values() for each in row
        ],
        "images": dict(images),
    }
    return hashlib.sha256(json.dumps(said, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _further(control: TagControl) -> list[object]:
    """What only some controls have: the others keep the digest, and so the model version, that they had without it."""
    said = {"precision": control.precision, "tool": control.tool}
    given = {name: value for name, value in said.items() if value is not None}
    return [given] if given else []
