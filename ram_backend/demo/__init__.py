"""Photos that come with the package: for the demo, and for the off-target check of a tuned head."""

from __future__ import annotations

from pathlib import Path

FIRST = (
    "german_shepherd_dog", "chelsea_cat", "great_wall", "coffee_cup", "kingfisher", "giraffes", "horses_on_hillside",
    "eiffel_tower", "astronaut", "moose", "rocket",
)  # fmt: skip
"""Photos in colour of what the starter knows well."""


def familiar_first() -> list[Path]:
    """The photos, those first that the starter is at home with."""
    ranks = {name: rank for rank, name in enumerate(FIRST)}
    return sorted(photo_paths(), key=lambda path: ranks.get(path.stem, len(FIRST)))


def photo_paths() -> list[Path]:
    """The JPEG files of the photos, sorted by name."""
    return sorted((Path(__file__).parent / "photos").glob("*.jpg"))
