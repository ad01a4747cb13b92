"""No `LABEL_STUDIO_*` setting: a server on this machine works with the token that Label Studio sends at `/setup`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from e2e.conftest import FIRST_PORT, Installation
from e2e.reading import photo, tags
from support.studio_api import StudioApi

from ram_backend.cli.servers import Server

NOTHING = {"RAM_LABEL_STUDIO_URL": "", "RAM_LABEL_STUDIO_API_KEY": ""}
CAT = "chelsea_cat.jpg"


@pytest.fixture(scope="module")
def unconfigured(install: Callable[..., Installation]) -> Server:
    return install("without-settings", FIRST_PORT["backend"] + 60, **NOTHING).server


@pytest.fixture(scope="module")
def project(api: StudioApi, photos: list[Path], label_config: Callable[[str], str], unconfigured: Server) -> int:
    number = int(api.create_project("Without settings", label_config("choices_with_confidence"))["id"])
    api.upload(number, [path for path in photos if path.name == CAT])
    api.connect(number, unconfigured.url)
    return number


def test_uploaded_photos_are_fetched_with_the_token_that_setup_brought(api: StudioApi, project: int) -> None:
    api.retrieve(project)
    (task,) = api.tasks(project)
    assert photo(task) == CAT
    assert "cat" in tags(task["predictions"][0])
