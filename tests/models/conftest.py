"""Small bundles, imported once from official-looking files."""

from collections.abc import Callable
from pathlib import Path

import pytest
from models import tiny

from ram_backend.models.bundle import Bundle
from ram_backend.models.importing import import_checkpoint


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Bundle]:
    """Opens the small bundle of a kind; made when it is first asked for, and not to be changed."""
    made: dict[str, Bundle] = {}

    def open_tiny(kind: str) -> Bundle:
        if kind not in made:
            folder: Path = tmp_path_factory.mktemp(kind)
            file, tags = tiny.write(folder, kind)
            made[kind] = import_checkpoint(file, tags, name=kind, bundles_dir=folder / "bundles", **tiny.options(kind))
        return made[kind]

    return open_tiny
