"""Writer of Label Studio's prediction objects (protocol section 5): ticks, and the order of tasks.

One item per tag control with all ticked values, since Label Studio keeps only
the last of several, but a region per label or box. Confidences are written only
for controls that show them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ram_backend.labelstudio.schema import VALUE_KEYS, Choice, ConfidenceControl, LabelSchema, TagControl

WHOLE = (0.0, 0.0, 1.0, 1.0)
RANDOM_UNTIL = 200
"""Photos learned from until scores say enough to order tasks."""
RANDOM_SCORES = (0.28, 0.8)
"""Scores of tasks at a random place: about the 5 and 97 % quantiles of Flickr photos."""

Item = dict[str, Any]
Size = tuple[int, int]
Boxes = Mapping[str, Sequence[tuple[float, tuple[float, float, float, float] | list[int]]]]
"""Value of a choice -> its boxes, best first: (score, (x0, y0, x1, y1)), as shares.

Of `BrushLabels` its masks: (score, `brush_rle`).
"""
RUN_BITS = (4, 8, 12, 16)
"""Sizes of a run's length in `brush_rle`."""


@dataclass(frozen=True)
class ScoredChoice:
    """A choice, its probability in [0, 1], and the threshold of a tick."""

    choice: Choice
    score: float
    threshold: float


def prediction(
    schema: LabelSchema,
    scored: Mapping[str, Sequence[ScoredChoice]],
    *,
    model_version: str,
    image_sizes: Mapping[str, Size] | None = None,
    top_k: Mapping[str, int | None] | None = None,
    captions: Mapping[str, str] | None = None,
    boxes: Mapping[str, Boxes] | None = None,
) -> dict[str, Any]:
    """One task's prediction: `{"model_version", "score", "result"}`.

    A control ticks the choices whose score is strictly above their threshold,
    best first, at most `top_k`; a single choice ticks the best of them, and
    a required one the best of all. A control that ticks nothing has no item.

    The score is 1 / (1 + expected edits), rounded to 6 digits: uncertainty
    sampling serves low scores first. Of each control the choices count that
    `margins_of` looks at; where nothing was scored it is 1.0.

    Args:
        schema: of the project's label config.
        scored: control name -> its choices; a control that is left out (its
            image is broken) gets no item.
        model_version: that of `/setup`.
        image_sizes: image name -> (width, height) in pixels; without it,
            confidences as rectangles are left out.
        top_k: control name -> limit; a number wins over the config's
            `model_top_k`.
        captions: caption control -> text; one that is left out, or has no text,
            gets no item.
        boxes: control of regions -> boxes of its choices; a choice without one
            has the whole image, and no mask.
    """
    limits, sizes = top_k or {}, image_sizes or {}
    result: list[Item] = []
    expected_edits = 0.0
    shown: dict[str, list[ScoredChoice]] = {}
    for control in schema.tag_controls:
        if not scored.get(control.name):
            continue
        kept, margins = tick(control, scored[control.name], limits.get(control.name))
        expected_edits += sum(1 - margin for margin in margins) / 2
        shown.setdefault(control.to_name, []).extend(kept)
        if control.regions:
            places = (boxes or {}).get(control.name, {})
            result += _regions(control, kept, places, sizes.get(control.to_name))
        elif kept:
            flat = control.nesting == "flat"
            values = [one.choice.value if flat else list(one.choice.path) for one in kept]
            confidence = round(sum(margins) / len(margins), 6)
            result.append(_item(control, {VALUE_KEYS[control.kind]: values}) | {"score": confidence})
    for to_name, row in schema.confidence_controls.items():
        best = _best_first(shown.get(to_name, []))
        for where in row if best else ():
            if where.kind == "textarea":
                result.append(_text_item(where, best))
            elif to_name in sizes:
                result += _rectangle_items(where, best, sizes[to_name])
    for name, to_name in schema.captions.items():
        if text := (captions or {}).get(name):
            names = {"id": name, "from_name": name, "to_name": to_name}
            result.append({**names, "type": "textarea", "value": {"text": [text]}})
    return {"model_version": model_version, "score": round(1 / (1 + expected_edits), 6), "result": result}


def empty_prediction(model_version: str) -> dict[str, Any]:
    """Of an image that can't be tagged; uncertainty sampling serves score 1.0 last."""
    return {"model_version": model_version, "score": 1.0, "result": []}


def place_in_order(task: int, score: float, learned: int, novelty: float = 1.0) -> float:
    """Score by which a task is served, the lowest first: random, later by expected edits and novelty.

    It is random, by the task's number, until `RANDOM_UNTIL` photos are learned
    from, and for one task in five for ever, spread as scores of photos are.

    Args:
        task: its number.
        score: of its prediction, in [0, 1].
        learned: number of photos that the served version has learned from.
        novelty: of its image, at least 0; squared, it multiplies the edits.
    """
    if learned >= RANDOM_UNTIL and not is_always_random(task):
        return round(1 / (1 + (1 / score - 1) * novelty**2), 6)
    low, high = RANDOM_SCORES
    return round(low + (high - low) * int.from_bytes(_digest(task)[1:5], "big") / 2**32, 6)


def is_always_random(task: int) -> bool:
    """One task in five is never served by its score: an unbiased sample of all."""
    return _digest(task)[0] % 5 == 0


def _digest(task: int) -> bytes:
    return sha256(str(task).encode()).digest()


def margins_of(kept: Sequence[ScoredChoice], others: Sequence[ScoredChoice]) -> list[float]:
    """Margins of a control's least certain choices, in [0, 1]; their mean is its confidence.

    The margin is the distance of a score from its threshold, as a share of the
    room on that side: |2p - 1| where the threshold is 0.5; 0 for a choice on
    the wrong side. The choices are the ticked ones and the same number (at
    least 1) of the others with the least margins.

    Args:
        kept: ticked choices.
        others: choices that are not ticked; those with threshold 1 (never on)
            don't count.
    """
    on = [(float(one.score), float(one.threshold)) for one in kept]
    off = [(float(one.score), float(one.threshold)) for one in others if one.threshold < 1.0]
    ticked = [_share(score - threshold, 1.0 - threshold) for score, threshold in on]
    missed = sorted(_share(threshold - score, threshold) for score, threshold in off)
    return ticked + missed[: max(1, len(ticked))] or [1.0]


def _share(distance: float, room: float) -> float:
    return _unit(distance / room) if room > 0 else 0.0


def tick(
    control: TagControl, scored: Sequence[ScoredChoice], top_k: int | None
) -> tuple[list[ScoredChoice], list[float]]:
    """The choices that a control ticks, best first, and `margins_of` them."""
    ranked = _best_first(scored)
    on = [one for one in ranked if one.score > one.threshold]
    if control.single:
        kept = on[:1] or (ranked[:1] if control.required else [])
        cut = []
    else:
        kept = on[: min(top_k or control.top_k or len(on), control.max_usages or len(on))]
        cut = on[len(kept) :]
    left_out = {id(one) for one in [*kept, *cut]}
    return kept, margins_of(kept, [one for one in ranked if id(one) not in left_out])


def _best_first(scored: Sequence[ScoredChoice]) -> list[ScoredChoice]:
    return sorted(scored, key=lambda one: -one.score)


def _regions(control: TagControl, kept: Sequence[ScoredChoice], boxes: Boxes, size: Size | None) -> list[Item]:
    """A region per box or mask of each choice, by default the whole image."""
    items: list[Item] = []
    placed: list[tuple[ScoredChoice, Any]] = []
    for one in kept:
        nothing = [] if control.kind == "brushlabels" else [(one.score, WHOLE)]
        placed += [(one, box) for box in boxes.get(one.choice.value) or nothing]
    for number, (one, (score, box)) in enumerate(placed, start=1):
        region = _region(control, score, number, one.choice.value, size, box)
        if control.rectangle_control is not None:
            place = {name: value for name, value in region["value"].items() if name != control.kind}
            items.append(region | {"from_name": control.rectangle_control, "type": "rectangle", "value": place})
        items.append(region)
    return items


def _region(
    control: TagControl | ConfidenceControl,
    score: float,
    number: int,
    label: str,
    size: Size | None,
    box: tuple[float, float, float, float] | list[int] = WHOLE,
) -> Item:
    """A rectangle in percent of the image, or a mask, with an id of its own."""
    place: dict[str, Any] = {"format": "rle", "rle": box}
    if not isinstance(box, list):
        x0, y0, x1, y1 = (round(100 * edge, 3) for edge in box)
        place = {"x": x0, "y": y0, "width": round(x1 - x0, 3), "height": round(y1 - y0, 3), "rotation": 0}
    item = _item(control, {**place, control.kind: [label]})
    item |= {"score": round(_unit(score), 6), "image_rotation": 0}
    if size is not None:
        item |= {"original_width": int(size[0]), "original_height": int(size[1])}
    return item | {"id": f"{control.name}-region-{number}"}


def brush_rle(mask: NDArray[np.bool_]) -> list[int]:
    """Bytes of a mask (height, width) for Label Studio's brush: run lengths of RGBA.

    A head of 32 bits for the number of values, 5 for the size of a value less
    1, and 4 for each of `RUN_BITS` less 1; then per run a 1, two bits for the
    size of its length, the length less 1, and the value, 0 or 255
    (https://github.com/thi-ng/umbrella, package rle-pack).
    """
    flat = mask.ravel()
    edges = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1, [flat.size]])
    bits = [f"{4 * flat.size:032b}{7:05b}", *(f"{size - 1:04b}" for size in RUN_BITS)]
    for start, end in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        value = "11111111" if flat[start] else "00000000"
        for left in range(4 * (end - start), 0, -(1 << RUN_BITS[-1])):
            length = min(left, 1 << RUN_BITS[-1])
            place = next(place for place, size in enumerate(RUN_BITS) if length <= 1 << size)
            bits.append(f"1{place:02b}{length - 1:0{RUN_BITS[place]}b}{value}")
    text = "".join(bits)
    text += "0" * (-len(text) % 8)
    return list(int(text, 2).to_bytes(len(text) // 8, "big"))


def _item(control: TagControl | ConfidenceControl, value: dict[str, Any]) -> Item:
    names = {"id": control.name, "from_name": control.name, "to_name": control.to_name}
    return {**names, "type": control.kind, "value": value}


def _text_item(control: ConfidenceControl, shown: Sequence[ScoredChoice]) -> Item:
    """Lines such as "cat  93%", best first; equal names get their whole path."""
    names = [one.choice.label for one in shown]
    lines = [
        f"{name if names.count(name) == 1 else ' / '.join(one.choice.path)}  {_unit(one.score):.0%}"
        for name, one in zip(names, shown, strict=True)
    ]
    return _item(control, {"text": lines})


def _rectangle_items(control: ConfidenceControl, shown: Sequence[ScoredChoice], size: Size) -> list[Item]:
    """An invisible rectangle over the whole image per tag with a `Label`."""
    labels = dict(control.labels)
    best: dict[str, ScoredChoice] = {}
    for one in shown:
        if label := labels.get(one.choice.value) or labels.get(one.choice.label):
            best.setdefault(label, one)
    return [
        _region(control, one.score, number, label, size) | {"readonly": True}
        for number, (label, one) in enumerate(best.items(), start=1)
    ]


def _unit(score: float) -> float:
    return min(1.0, max(0.0, float(score)))
