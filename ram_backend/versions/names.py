"""What versions and their folders are called. Pure."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from ram_backend.projects.keys import ProjectKey

BASE = "base"
"""How people call what the bundle does by itself, without any version."""

_NAME = re.compile(r"v(\d{4,9})")


def folder_of(key: ProjectKey) -> str:
    """Name of a project's folder."""
    return f"{key.id}.{key.created}-{hashlib.sha256(key.instance.encode()).hexdigest()[:12]}"


def name_of(number: int) -> str:
    """Name of a project's n-th version, n >= 1."""
    return f"v{number:04d}"


def number_of(name: str) -> int | None:
    """The number of a version's name; None where it is no such name."""
    match = _NAME.fullmatch(name)
    return int(match[1]) if match and name == name_of(int(match[1])) else None


def version_path(versions_dir: Path, key: ProjectKey, name: str) -> Path:
    """The directory of a project's version."""
    return versions_dir / folder_of(key) / name
