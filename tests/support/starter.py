"""The starter bundle for tests: installed and exported once, lent to each data folder."""

import os
import shutil
from pathlib import Path

from ram_backend.models.registry import find_bundle
from ram_backend.vocabulary.minilm import MiniLMTextEncoder


def install(folder: Path) -> None:
    """The starter and its text encoder: a minute's work of exports, which one of several processes does."""
    find_bundle("starter", folder / "bundles")
    MiniLMTextEncoder(folder / "cache" / "text-encoders").embed(["a tag"])


def lend(installed: Path, folder: Path) -> Path:
    """A data folder with what `install` made, linked file by file."""
    for part in ("bundles/starter", "cache/text-encoders"):
        shutil.copytree(installed / part, folder / part, copy_function=os.link)
    return folder
