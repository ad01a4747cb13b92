"""Corrections: diff of annotations against the shown predictions. Pure.

A tag is its text: two choices with one text are one tag, which is on if either
is ticked. A ticked entry of a nested list leaves the entries above it unknown.
Captions are diffed, too; they are not trained on.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from itertools import chain
from typing import Any, Literal

from ram_backend.feedback.events import CurrentAnnotation, LabelSpace
from ram_backend.feedback.labels import UNKNOWN, ImageLabels, LabelState, TagLabel, merge_choices, weighted_vote
from ram_backend.feedback.shown import ShownPrediction
from ram_backend.labelstudio.annotations import ChoiceId, ParsedAnnotation, caption_in, ticked_paths
from ram_backend.labelstudio.schema import Choice, LabelSchema, TagControl, choices_for, free_choice, image_reference

MAX_CLOCK_SKEW = timedelta(seconds=60)
"""Largest difference between Label Studio's clock and ours."""

_Choices = Mapping[ChoiceId, Choice]
_Shown = Mapping[int, Sequence[ShownPrediction]]


@dataclass(frozen=True)
class CaptionCorrection:
    """What one annotation says about the caption of an image.

    Attributes:
        to_name: name of the image.
        shown: the caption that it started from; "": none, or not known.
        text: the annotator's; "": removed.
        model_version: that wrote `shown`; None: not known.
    """

    task_id: int
    annotation_id: int
    to_name: str
    control: str
    shown: str
    text: str
    model_version: str | None

    @property
    def state(self) -> Literal["confirmed", "edited", "written", "removed"]:
        """`written`: where none was shown."""
        if not self.shown:
            return "written"
        return "confirmed" if self.text == self.shown else "edited" if self.text else "removed"


def corrections_of(
    schema: LabelSchema,
    annotations: Iterable[CurrentAnnotation],
    shown: _Shown,
    *,
    task_data: Mapping[int, Mapping[str, Any]] | None = None,
) -> list[ImageLabels]:
    """The corrections of each usable annotation, one per image with tags.

    Without a known prediction to start from, every ticked tag is added.

    Args:
        schema: of the label config that names controls and images.
        annotations: the current ones; those that aren't usable are left out.
        shown: served predictions by task.
        task_data: by task, newer than the events'; None: the events' alone.
    """
    usable = [annotation for annotation in annotations if annotation.parsed.usable]
    by_age = sorted(usable, key=lambda each: each.event_id)
    data = {each.parsed.task: each.task_data for each in by_age if each.task_data}
    data |= {task: newer for task, newer in (task_data or {}).items() if newer}

    reader = _Reader(schema, usable, shown)
    read = (reader.read(annotation, data.get(annotation.parsed.task, {})) for annotation in usable)
    return list(chain.from_iterable(read))


def merge_corrections(corrections: Iterable[ImageLabels]) -> list[ImageLabels]:
    """Weak labels of each image, by task and image name.

    Ground truth, if a task has any, decides alone; else `weighted_vote`.
    """
    by_image: dict[tuple[int, str], list[ImageLabels]] = {}
    for each in corrections:
        by_image.setdefault((each.task_id, each.to_name), []).append(each)
    return [_merged(by_image[image]) for image in sorted(by_image)]


def shown_to(parsed: ParsedAnnotation, shown: Sequence[ShownPrediction]) -> ShownPrediction | None:
    """The prediction that an annotation started from, by id or time.

    None: it started from none, or the prediction is not known.
    """
    if parsed.parent_prediction is None:
        return None
    for each in shown:
        if each.prediction_id == parsed.parent_prediction:
            return each
    others = [each for each in shown if each.prediction_id is None]
    if parsed.created_at is not None:
        others = [each for each in others if each.shown_at <= parsed.created_at + MAX_CLOCK_SKEW]
    return max(others, key=lambda each: each.shown_at, default=None)


def caption_corrections(
    schema: LabelSchema, annotations: Iterable[CurrentAnnotation], shown: _Shown
) -> list[CaptionCorrection]:
    """Of usable annotations, one per caption control with a text."""
    found: list[CaptionCorrection] = []
    for parsed in (each.parsed for each in annotations if each.parsed.usable):
        origin = shown_to(parsed, shown.get(parsed.task, ()))
        for name, to_name in schema.captions.items():
            served = [each.path[0] for each in (origin.choices if origin else ()) if each.control == name]
            before, text = " ".join(served), caption_in(name, parsed.items)
            if before or text:
                version = origin.model_version if origin else None
                found.append(CaptionCorrection(parsed.task, parsed.id, to_name, name, before, text, version))
    return found


class _Reader:
    """Reads annotations by one label config.

    The candidates of a control without a list of tags are all tags of the
    project's annotations and served predictions, case folded.
    """

    def __init__(self, schema: LabelSchema, annotations: Sequence[CurrentAnnotation], shown: _Shown) -> None:
        self._shown = shown
        self._controls = {
            to_name: [control for control in schema.tag_controls if control.to_name == to_name]
            for to_name in schema.images
        }
        self._fixed: dict[str, _Choices] = {control.name: _by_path(control.choices) for control in schema.tag_controls}
        self._spelled = {
            control.name: _spellings(control, annotations, shown)
            for control in schema.tag_controls
            if control.free_text
        }
        for name, spelled in self._spelled.items():
            self._fixed[name] = _by_path(free_choice(text) for text in dict.fromkeys(spelled.values()))
        self._candidates = {
            to_name: _texts(self._fixed[control.name] for control in controls)
            for to_name, controls in self._controls.items()
            if all(control.dynamic is None for control in controls)
        }
        self._unoffered: dict[tuple[str, str], list[Choice]] = {}

    def read(self, annotation: CurrentAnnotation, data: Mapping[str, Any]) -> Iterator[ImageLabels]:
        parsed = annotation.parsed
        started_from = shown_to(parsed, self._shown.get(parsed.task, ()))
        for to_name, controls in self._controls.items():
            choices = [self._choices(control, data) for control in controls]
            states: dict[str, TagLabel] = {}
            for control, known in zip(controls, choices, strict=True):
                for choice, label in self._labels(control, known, annotation, started_from):
                    for tag in choice.texts:
                        states[tag] = merge_choices(states.get(tag), label)
            yield ImageLabels(
                task_id=parsed.task,
                to_name=to_name,
                reference=image_reference(controls[0], data),
                candidates=self._candidates[to_name] if to_name in self._candidates else _texts(choices),
                states=states,
                ground_truth=parsed.ground_truth,
                annotation_ids=(parsed.id,),
                model_versions=(started_from.model_version,) if started_from else (),
                versions=(started_from.version,) if started_from and started_from.version else (),
            )

    def _choices(self, control: TagControl, data: Mapping[str, Any]) -> _Choices:
        return self._fixed[control.name] if control.dynamic is None else _by_path(choices_for(control, data))

    def _labels(
        self,
        control: TagControl,
        choices: _Choices,
        annotation: CurrentAnnotation,
        started_from: ShownPrediction | None,
    ) -> Iterator[tuple[Choice, TagLabel]]:
        """Labels of all choices but the untouched ones.

        A ticked choice of several texts means that one of them applies, not
        which: they share the weight.
        """
        ticked = ticked_paths(control, annotation.parsed.items)
        on = {self._path(control, path) for path in ticked} & choices.keys()
        everything = started_from.choices if started_from else ()
        served = [each for each in everything if each.control == control.name]
        shown_on = {self._path(control, each.path) for each in served if each.ticked} & choices.keys()
        scores = {self._path(control, each.path): each.score for each in served}
        for path in on:
            state: LabelState = "confirmed" if path in shown_on else "added"
            yield choices[path], TagLabel(True, 1 / len(choices[path].texts), state, scores.get(path))
        for path in shown_on - on:
            yield choices[path], TagLabel(False, 1.0, "removed", scores.get(path))
        above = {path[:steps] for path in on for steps in range(1, len(path))} & choices.keys()
        for path in above - on - shown_on:
            yield choices[path], UNKNOWN
        if annotation.offered is not None:
            for choice in self._not_offered(control, annotation.offered):
                if choice.path not in on | shown_on:
                    yield choice, UNKNOWN

    def _path(self, control: TagControl, path: ChoiceId) -> ChoiceId:
        """Free tags in their one spelling."""
        spelled = self._spelled.get(control.name)
        return path if spelled is None else (spelled.get(path[0].casefold(), path[0]),)

    def _not_offered(self, control: TagControl, offered: LabelSpace) -> list[Choice]:
        """Choices that the label config lacked at the time: they are unknown."""
        key = (offered.digest, control.name)
        if key not in self._unoffered:
            paths = offered.choices.get(control.name, frozenset())
            self._unoffered[key] = [choice for choice in control.choices if choice.path not in paths]
        return self._unoffered[key]


def _by_path(choices: Iterable[Choice]) -> _Choices:
    return {choice.path: choice for choice in choices}


def _texts(choices: Iterable[_Choices]) -> Mapping[str, None]:
    return {text: None for known in choices for choice in known.values() for text in choice.texts}


def _spellings(control: TagControl, annotations: Sequence[CurrentAnnotation], shown: _Shown) -> Mapping[str, str]:
    """Free tags: case folded -> as the model or an annotator has it; sorted."""
    found: dict[str, str] = {}
    tasks = sorted({annotation.parsed.task for annotation in annotations})
    for each in (each for task in tasks for row in shown.get(task, ()) for each in row.choices):
        if each.control == control.name:
            found.setdefault(each.path[0].casefold(), each.path[0])
    for annotation in annotations:
        for path in ticked_paths(control, annotation.parsed.items):
            found.setdefault(path[0].casefold(), path[0])
    return dict(sorted(found.items()))


def _merged(corrections: Sequence[ImageLabels]) -> ImageLabels:
    """The labels of one image from all corrections of it."""
    counted = [each for each in corrections if each.ground_truth] or corrections
    if len(counted) == 1:
        return counted[0]
    tags = dict.fromkeys(tag for each in counted for tag in each.states)
    return replace(
        counted[0],
        states={tag: weighted_vote([each.label(tag) for each in counted]) for tag in tags},
        annotation_ids=tuple(sorted(number for each in counted for number in each.annotation_ids)),
        model_versions=tuple(sorted({version for each in counted for version in each.model_versions})),
        versions=tuple(sorted({version for each in counted for version in each.versions})),
    )
