"""Small bundles, imported once from official-looking files."""

from collections.abc import Callable
from functools import cache

import pytest
from models import tiny

from ram_backend.models.bundle import Bundle

TinyBundle = Callable[[str], Bundle]


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> TinyBundle:
    """Opens the small bundle of a kind; made when it is first asked for, and not to be changed."""
    return cache(lambda kind: tiny.imported(tmp_path_factory.mktemp(kind), kind))
