"""Photos that come with the package, to see it work without any of one's own; `photos/PROVENANCE.md` says whose."""

from __future__ import annotations

from pathlib import Path


def photo_paths() -> list[Path]:
    """The JPEG files of the photos, sorted by name."""
    return sorted((Path(__file__).parent / "photos").glob("*.jpg"))
