"""`docs/architecture.md` lists the modules of the server between a request and its tags: the list is what runs."""

import re
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import httpx
import pytest
from support.label_studio import FakeLabelStudio
from support.server import CONFIG, connect, predict_body, ticked
from support.tiny_model import RED, picture

DOC = Path(__file__).resolve().parent.parent.parent / "docs" / "architecture.md"


def listed(heading: str) -> list[str]:
    """The numbered modules under a heading, as dotted names below `ram_backend`."""
    section = DOC.read_text(encoding="utf-8").split(f"### {heading}\n", 1)[1].split("\n#", 1)[0]
    return [path.replace("/", ".") for path in re.findall(r"^\d+\. `([\w/]+)`", section, re.MULTILINE)]


@pytest.fixture
def called() -> Iterator[set[str]]:
    """Modules of the server in which a function ran, in threads that start from now on."""
    found: set[str] = set()

    def note(frame: FrameType, event: str, argument: object) -> None:
        name = frame.f_globals.get("__name__", "")
        if event == "call" and name.startswith("ram_backend.server.") and frame.f_code.co_name != "<module>":
            found.add(name.removeprefix("ram_backend."))

    before = sys.getprofile()
    threading.setprofile(note)
    sys.setprofile(note)
    yield found
    sys.setprofile(before)
    threading.setprofile(None)


def test_modules_from_a_request_to_its_tags(called: set[str], client: httpx.Client, studio: FakeLabelStudio) -> None:
    connect(client, studio)
    body = predict_body(CONFIG, [studio.upload("a.png", picture(RED))])
    called.clear()
    assert ticked(client, body) == [["red"]]
    assert sorted(called) == sorted(listed("A prediction"))
