"""Corrections of captions: what annotators made of the sentences they were shown. Pure; not trained on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from ram_backend.feedback.corrections import shown_to
from ram_backend.feedback.projection import CurrentAnnotation
from ram_backend.feedback.shown import ShownPrediction
from ram_backend.labelstudio.annotations import caption_in
from ram_backend.labelstudio.schema import LabelSchema


@dataclass(frozen=True)
class CaptionCorrection:
    """What one annotation says about the caption of an image.

    Attributes:
        to_name: name of the image.
        shown: the caption that the annotation started from; "": none, or not
            known.
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


def caption_corrections(
    schema: LabelSchema, annotations: Iterable[CurrentAnnotation], shown: Mapping[int, Sequence[ShownPrediction]]
) -> list[CaptionCorrection]:
    """The caption corrections of usable annotations; one per caption control with a text, shown or written."""
    found: list[CaptionCorrection] = []
    for parsed in (each.parsed for each in annotations if each.parsed.usable):
        origin = shown_to(parsed, shown.get(parsed.task, ()))
        for control in schema.captions:
            served = [each.path[0] for each in (origin.choices if origin else ()) if each.control == control.name]
            before, text = " ".join(served), caption_in(control.name, parsed.items)
            if before or text:
                version = origin.model_version if origin else None
                found.append(
                    CaptionCorrection(parsed.task, parsed.id, control.to_name, control.name, before, text, version)
                )
    return found
