"""Sample photos for a demo; `photos/PROVENANCE.md` names their authors."""

from __future__ import annotations

from pathlib import Path


def photo_paths() -> list[Path]:
    """The JPEG files of the photos, sorted by name."""
    return sorted((Path(__file__).parent / "photos").glob("*.jpg"))
