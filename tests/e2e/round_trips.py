"""One round trip per ready label config: what its tasks need, and how an annotator corrects what is shown."""

import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

THREE = {"threshold": 0.0, "top_k": 3}
"""Extra params with which any photo gets three tags."""


@dataclass(frozen=True)
class RoundTrip:
    """From a photo to a correction that is read back.

    Attributes:
        remove: control whose last tag the annotator takes away.
        add: control and tag that the annotator adds.
        caption: that the annotator writes in place of the shown one.
        data: makes a task's data of photos; None: the photo is uploaded.
        photos: names of the photos, as many as the task has.
        extra_params: of the connection.
    """

    remove: str = "tags"
    add: tuple[str, str] | None = None
    caption: str | None = None
    data: Callable[[list[Path]], dict[str, Any]] | None = None
    photos: tuple[str, ...] = ("chelsea_cat.jpg",)
    extra_params: Mapping[str, Any] = field(default_factory=lambda: THREE)


def data_uri(photo: Path) -> str:
    """The photo as it can stand in a task's data itself."""
    return f"data:image/jpeg;base64,{base64.b64encode(photo.read_bytes()).decode()}"


def _with_options(photos: list[Path]) -> dict[str, Any]:
    cat: dict[str, str] = {"value": "cat", "alias": "feline"}
    others = [{"value": value} for value in ("dog", "red chair", "whiskers")]
    return {"image": data_uri(photos[0]), "options": [cat, *others]}


def _pair(photos: list[Path]) -> dict[str, Any]:
    return {"image1": data_uri(photos[0]), "image2": data_uri(photos[1])}


ROUND_TRIPS: Mapping[str, RoundTrip] = {
    "all_options": RoundTrip(add=("others", "garden gnome"), extra_params={}),
    "captions": RoundTrip(add=("tags", "indoor"), caption="a tabby cat that looks up"),
    "choices": RoundTrip(add=("tags", "indoor")),
    "choices_of_the_task": RoundTrip(data=_with_options),
    "choices_with_confidence": RoundTrip(add=("tags", "indoor")),
    "free_tags": RoundTrip(add=("tags", "garden gnome")),
    "labels": RoundTrip(add=("tags", "food")),
    "regions": RoundTrip(add=("tags", "food")),
    "several_images": RoundTrip(remove="left_tags", data=_pair, photos=("chelsea_cat.jpg", "coffee_cup.jpg")),
    "single_choice": RoundTrip(add=("tags", "building")),
    "taxonomy": RoundTrip(),
}
"""Name of the file in label_configs/ -> its round trip."""
