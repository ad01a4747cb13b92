"""Scores -> Label Studio's prediction object, in the shapes of protocol section 5.

One item per tag control with all ticked values (of several items Label Studio keeps only the last), but of labels one
region per value; and confidences only where the config has a control for them. Pure: the same input gives the same
output.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ram_backend.labelstudio.plan import VALUE_KEYS, Choice, ConfidenceControl, LabelPlan, TagControl

Item = dict[str, Any]
Size = tuple[int, int]


@dataclass(frozen=True)
class ScoredChoice:
    """One choice of one task.

    Attributes:
        score: calibrated probability in [0, 1]; of a choice with several texts the highest of theirs.
        threshold: in [0, 1]; the choice is ticked where the score is strictly above.
    """

    choice: Choice
    score: float
    threshold: float


def prediction(
    plan: LabelPlan,
    scored: Mapping[str, Sequence[ScoredChoice]],
    *,
    model_version: str,
    image_sizes: Mapping[str, Size] | None = None,
    top_k: Mapping[str, int | None] | None = None,
) -> dict[str, Any]:
    """One task's prediction: `{"model_version", "score", "result"}`.

    A control ticks the choices whose score is strictly above their threshold, best first (equal scores: in the order
    given), at most `top_k`; a single choice ticks the best of them, and where the annotator is required to choose the
    best of all. A control that ticks nothing has no item.

    The score is the confidence of the least certain control (`control_confidence`), rounded to 6 digits: low means
    "look here first", which is what uncertainty sampling serves. Where nothing was scored it is 1.0.

    Args:
        plan: of the project's label config.
        scored: control name -> its choices; a control that is left out (its image is broken) gets no item.
        model_version: the very one that `/setup` answers.
        image_sizes: image name -> (width, height) in pixels; named by regions, and needed for confidences as invisible
            rectangles, which are left out for an image without.
        top_k: control name -> limit; wins over the config's `model_top_k` where it says a number.
    """
    limits, sizes = top_k or {}, image_sizes or {}
    taken = {control.name for control in plan.tag_controls}
    taken.update(control.name for row in plan.confidence_controls.values() for control in row)
    result: list[Item] = []
    confidences: list[float] = []
    shown: dict[str, list[ScoredChoice]] = {}
    for control in plan.tag_controls:
        if not scored.get(control.name):
            continue
        kept, confidence = _tick(control, scored[control.name], limits.get(control.name) or control.top_k)
        confidences.append(confidence)
        shown.setdefault(control.to_name, []).extend(kept)
        if kept:
            items = _regions if control.regions else _one_item
            result += items(control, kept, confidence, sizes.get(control.to_name), taken)
    for to_name, row in plan.confidence_controls.items():
        best = _best_first(shown.get(to_name, []))
        for where in row if best else ():
            if where.kind == "textarea":
                result.append(_text_item(where, best))
            elif to_name in sizes:
                result += _rectangle_items(where, best, sizes[to_name], taken)
    return {"model_version": model_version, "score": round(min(confidences, default=1.0), 6), "result": result}


def empty_prediction(model_version: str) -> dict[str, Any]:
    """For a task whose image can't be tagged: score 1.0, so that uncertainty sampling serves it last."""
    return {"model_version": model_version, "score": 1.0, "result": []}


def control_confidence(kept: Sequence[ScoredChoice], others: Sequence[ScoredChoice]) -> float:
    """How sure one control is, in [0, 1]: the mean decisiveness of the choices that somebody could argue about.

    Decisiveness is the distance of a score from its threshold, as a share of the room on that side: |2p - 1| where the
    threshold is 0.5; 0 for a choice that is on the wrong side of it. Asked are the kept choices and the same number
    (at least 1) of the least decisive others: thousands of tags that are clearly absent say nothing about a photo.

    Args:
        kept: ticked choices.
        others: choices that are not ticked; those with threshold 1 (never on) don't count.
    """
    ticked = [_share(one.score - one.threshold, 1.0 - one.threshold) for one in kept]
    missed = sorted(_share(one.threshold - one.score, one.threshold) for one in others if one.threshold < 1.0)
    asked = ticked + missed[: max(1, len(ticked))]
    return sum(asked) / len(asked) if asked else 1.0


def _share(distance: float, room: float) -> float:
    return min(1.0, max(0.0, float(distance) / float(room))) if room > 0 else 0.0


def _tick(control: TagControl, scored: Sequence[ScoredChoice], top_k: int | None) -> tuple[list[ScoredChoice], float]:
    """The choices that a control shows, best first, and how sure that is."""
    ranked = _best_first(scored)
    on = [one for one in ranked if one.score > one.threshold]
    if control.single:
        kept = on[:1] or (ranked[:1] if control.required else [])
        cut = []
    else:
        kept = on[: min(top_k or len(on), control.max_usages or len(on))]
        cut = on[len(kept) :]
    left_out = {id(one) for one in [*kept, *cut]}
    return kept, control_confidence(kept, [one for one in ranked if id(one) not in left_out])


def _best_first(scored: Sequence[ScoredChoice]) -> list[ScoredChoice]:
    return sorted(scored, key=lambda one: -one.score)


def _regions(
    control: TagControl, kept: Sequence[ScoredChoice], confidence: float, size: Size | None, taken: set[str]
) -> list[Item]:
    """A region over the whole image per choice."""
    items: list[Item] = []
    for number, one in enumerate(kept, start=1):
        region = _whole_image(control, one, size)
        region["id"] = _new_id(f"{control.name}-{number}", taken)
        if control.tool is not None:
            place = {name: value for name, value in region["value"].items() if name != control.kind}
            items.append(region | {"from_name": control.tool, "type": "rectangle", "value": place})
        items.append(region)
    return items


def _whole_image(control: TagControl | ConfidenceControl, one: ScoredChoice, size: Size | None) -> Item:
    """A region over the whole image, still with the id of its control."""
    place = {"x": 0, "y": 0, "width": 100, "height": 100, "rotation": 0}
    item = _item(control, {**place, control.kind: [one.choice.value]})
    item |= {"score": round(_unit(one.score), 6), "image_rotation": 0}
    if size is not None:
        item |= {"original_width": int(size[0]), "original_height": int(size[1])}
    return item


def _one_item(
    control: TagControl, kept: Sequence[ScoredChoice], confidence: float, size: Size | None, taken: set[str]
) -> list[Item]:
    """One item with all choices."""
    flat = control.nesting == "flat"
    values = [one.choice.value if flat else list(one.choice.path) for one in kept]
    item = _item(control, {VALUE_KEYS[control.kind]: values})
    return [item | {"score": round(confidence, 6)}]


def _item(control: TagControl | ConfidenceControl, value: dict[str, Any]) -> Item:
    names = {"id": control.name, "from_name": control.name, "to_name": control.to_name}
    return {**names, "type": control.kind, "value": value}


def _text_item(control: ConfidenceControl, shown: Sequence[ScoredChoice]) -> Item:
    """Lines such as "cat  93%", best first; where two tags read the same their whole path is named."""
    names = [one.choice.label for one in shown]
    lines = [
        f"{name if names.count(name) == 1 else ' / '.join(one.choice.path)}  {_unit(one.score):.0%}"
        for name, one in zip(names, shown, strict=True)
    ]
    return _item(control, {"text": lines})


def _rectangle_items(
    control: ConfidenceControl, shown: Sequence[ScoredChoice], size: Size, taken: set[str]
) -> list[Item]:
    """One invisible rectangle over the whole image per tag that has a `Label`, with the tag's score."""
    labels = dict(control.labels)
    items: list[Item] = []
    named: set[str] = set()
    for one in shown:
        label = labels.get(one.choice.value) or labels.get(one.choice.label)
        if label is None or label in named:
            continue
        named.add(label)
        item = _whole_image(control, one, size) | {"readonly": True}
        item["id"] = _new_id(f"{control.name}-{len(items) + 1}", taken)
        item["value"]["rectanglelabels"] = [label]
        items.append(item)
    return items


def _new_id(wanted: str, taken: set[str]) -> str:
    while wanted in taken:
        wanted += "-"
    taken.add(wanted)
    return wanted


def _unit(score: float) -> float:
    return min(1.0, max(0.0, float(score)))
