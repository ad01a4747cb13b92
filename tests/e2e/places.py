"""Where the end-to-end tests find what they need, and leave what a person may want to look at."""

from __future__ import annotations

import os
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
VENV = Path(os.environ.get("RAM_STUDIO_VENV", REPOSITORY / ".venv-studio"))
ARTEFACTS = Path(os.environ.get("RAM_ARTEFACTS", REPOSITORY / "artefacts"))
SHARED = Path(os.environ.get("RAM_SHARED", REPOSITORY.parent / "shared"))
