"""Schema of a label config: tag controls, choices, look-ups in a task's data."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Literal, get_args

ControlKind = Literal["choices", "taxonomy", "labels", "rectanglelabels", "brushlabels", "textarea"]
REGIONS: tuple[ControlKind, ...] = ("labels", "rectanglelabels", "brushlabels")
"""Kinds with an item per tag, a region of the image."""

VALUE_KEYS: Mapping[ControlKind, str] = {**{kind: kind for kind in get_args(ControlKind)}, "textarea": "text"}
"""Key of the tags in the `value` of an item, by the control's kind."""

ADD_COSTS: Mapping[ControlKind, float] = {
    "choices": 1.0,
    "taxonomy": 4.0,
    **dict.fromkeys(REGIONS, 1.5),
    "textarea": 3.5,
}
"""Cost of adding a missing tag, in removed ticks, by the control's kind.

A click in a list; in a `Taxonomy` two clicks and five keys; for a region a
label and a drag; in a `TextArea` a typed line. Times are those of the
keystroke-level model (Card, Moran, Newell 1980).
"""
LISTED_CHOICES = 200
"""A longer list of `Choices` doesn't fit on screen: adding costs as in a `Taxonomy`."""

Nesting = Literal["flat", "nodes", "leaves"]
"""The entries that can be ticked: the top level, all, or leaves."""

MAX_OPTION_DEPTH, MAX_OPTIONS = 100, 50_000
MAX_TEXTS = 1000
"""Most `predicted_values` of a choice."""

LATIN = re.compile("[a-zA-Z\u00c0-\u024f]")
"""Vocabularies are English: of a value without these, the alias is scored."""

_STEP = re.compile(r"[^.\[\]]+")


@dataclass(frozen=True)
class Choice:
    """One entry that can be ticked.

    Attributes:
        value: in results: the alias if there is one, else the value; the last
            step of `path`.
        path: in results of a nested control: from the topmost entry down to
            this one.
        texts: one or more; the score of the choice is the highest of theirs.
        label: on the annotator's page.
    """

    value: str
    path: tuple[str, ...]
    texts: tuple[str, ...]
    label: str

    @property
    def names(self) -> tuple[str, ...]:
        """What an admin may call it, most special first."""
        return tuple(dict.fromkeys([" / ".join(self.path), self.value, self.label, *self.texts, self.path[-1]]))


@dataclass(frozen=True)
class TagControl:
    """A control on an image, to be filled with tags.

    `Choices` and `Taxonomy` have ticks, `Labels` and `RectangleLabels` a region
    over the whole image per tag, `BrushLabels` masks of it, and a `TextArea` a
    line per tag of the whole vocabulary.

    Attributes:
        name, to_name, kind: `from_name`, `to_name` (the image) and `type` of a
            result.
        choices: those of the label config, in order; dynamic ones come with
            each task (`choices_for`).
        dynamic: path of dynamic choices in a task's data; None: there are none.
        threshold: `model_score_threshold`, in [0, 1]; None: not given.
        top_k: `model_top_k`, >= 1: most tags shown; None: not given.
        image_key: path of the image's reference in a task's data.
        max_usages: most choices that Label Studio takes; None: any number.
        nesting: which entries of a nested list can be ticked. "flat": results
            have values, else paths.
        precision: `model_min_precision`, in [0, 1]: least share of right ticks;
            None: not given.
        rectangle_control: name of the `Rectangle` control for the regions of
            `Labels`; None for other kinds.
        boxes: `model_boxes`, whether labels get the boxes of what they name
            instead of the whole image; always of `BrushLabels`.
    """

    name: str
    to_name: str
    kind: ControlKind
    single: bool
    choices: tuple[Choice, ...]
    dynamic: str | None
    threshold: float | None
    top_k: int | None
    image_key: str
    required: bool = False
    max_usages: int | None = None
    nesting: Nesting = "flat"
    precision: float | None = None
    rectangle_control: str | None = None
    boxes: bool = False

    @property
    def free_text(self) -> bool:
        """Whether it takes any tag, since it lists none."""
        return self.kind == "textarea"

    @property
    def attributes(self) -> dict[str, Any]:
        """What the label config says about ticking; None: nothing."""
        return {"threshold": self.threshold, "precision": self.precision, "top_k": self.top_k}

    @property
    def add_cost(self) -> float:
        """What it costs to add a missing tag, in removed ticks."""
        return ADD_COSTS["taxonomy" if len(self.choices) > LISTED_CHOICES and not self.regions else self.kind]

    @property
    def regions(self) -> bool:
        """Whether each tag has items of its own."""
        return self.kind in REGIONS


@dataclass(frozen=True)
class ConfidenceControl:
    """A control that shows confidences; `labels`: value or alias -> name in results."""

    name: str
    to_name: str
    kind: Literal["textarea", "rectanglelabels"]
    labels: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class LabelSchema:
    """The parsed label config of a project.

    Attributes:
        tag_controls: at least one, in the order of the config.
        confidence_controls: by image name; at most one of each kind.
        images: image name -> path into a task's data; only images of tag
            controls.
        digest: of everything that changes an answer; equal for configs that
            only look different.
        notes: ignored elements, one sentence each, for the log.
        captions: names of `TextArea`s that are filled with a sentence -> name
            of the image that it is about, which has a tag control.
    """

    tag_controls: tuple[TagControl, ...]
    confidence_controls: Mapping[str, tuple[ConfidenceControl, ...]]
    images: Mapping[str, str]
    digest: str
    notes: tuple[str, ...] = ()
    captions: Mapping[str, str] = field(default_factory=dict)


def choices_for(control: TagControl, task_data: Mapping[str, Any]) -> tuple[Choice, ...]:
    """Choices of a control for one task: dynamic ones, then the config's, each once."""
    if control.dynamic is None:
        return control.choices
    options = look_up(task_data, control.dynamic)
    return _unique([*islice(_nested(options, (), control.nesting), MAX_OPTIONS), *control.choices])


def choices_of(options: Sequence[object], nesting: Nesting) -> tuple[Choice, ...]:
    """The choices that can be ticked among options, in order, each once.

    Args:
        options: texts, or mappings with `value` and perhaps `alias`, `children`
            and `predicted_values` (texts with commas between them).
        nesting: see `Nesting`.
    """
    return _unique(_nested(options, (), nesting))


def free_choice(text: str) -> Choice:
    """A tag that no label config lists."""
    return Choice(value=text, path=(text,), texts=(text,), label=text)


def image_reference(control: TagControl, task_data: Mapping[str, Any]) -> str | None:
    """The reference of a control's image in a task's data; None where there is none."""
    found = look_up(task_data, control.image_key)
    return found if isinstance(found, str) and found.strip() else None


def look_up(task_data: Mapping[str, Any], path: str) -> object:
    """The value at a path such as "image" or "photos[0].url" of a task's data, or None."""
    if path in task_data:
        return task_data[path]
    found: object = task_data
    for step in _STEP.findall(path):
        if isinstance(found, Mapping):
            found = found.get(step)
        elif isinstance(found, list) and step.isdecimal() and len(step) < 10 and int(step) < len(found):
            found = found[int(step)]
        else:
            return None
    return found


def _nested(options: object, above: tuple[str, ...], nesting: Nesting) -> Iterator[Choice]:
    if not isinstance(options, list) or len(above) >= MAX_OPTION_DEPTH:
        return
    for option in options:
        given: Mapping[object, object] = option if isinstance(option, Mapping) else {"value": option}
        value, alias, predicted = (text_of(given.get(name)) or "" for name in ("value", "alias", "predicted_values"))
        label, result = value.strip() or alias.strip(), alias if alias.strip() else value
        if not label:
            continue
        path, children = (*above, result), given.get("children")
        named = predicted.split(",", MAX_TEXTS)[:MAX_TEXTS]
        texts = tuple(dict.fromkeys(text.strip() for text in named if text.strip()))
        if nesting != "leaves" or not children or not isinstance(children, list):
            scored = alias.strip() if LATIN.search(alias) and not LATIN.search(value) else label
            yield Choice(result, path, texts or (scored,), label)
        if nesting != "flat":
            yield from _nested(children, path, nesting)


def _unique(choices: Iterable[Choice]) -> tuple[Choice, ...]:
    """The first choice of each path."""
    found: dict[tuple[str, ...], Choice] = {}
    for choice in choices:
        found.setdefault(choice.path, choice)
    return tuple(found.values())


def text_of(value: object) -> str | None:
    """A text or a number as text; None for all else."""
    if isinstance(value, str):
        return value
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
