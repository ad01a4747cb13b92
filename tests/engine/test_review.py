"""The review queue: proposed tags as a prediction, the order in the task's data, nothing asked twice."""

from collections.abc import Iterator

import pytest
from support.label_studio import LEGACY, FakeLabelStudio
from support.server import choices_config

from ram_backend.engine.findings import Finding
from ram_backend.engine.review import ASKED, ORDER, REVIEW, push_review
from ram_backend.labelstudio.client import LabelStudio
from ram_backend.labelstudio.label_config import parse_label_config
from ram_backend.labelstudio.project_api import ProjectApi

CONFIG = choices_config("dog", "cat", "tree")
FINDINGS = [
    Finding(2, "dog", "wrong", 0.9, ("ridge",)),
    Finding(1, "cat", "missing", 0.8, ("ridge", "model")),
    Finding(2, "tree", "missing", 0.6, ("ridge", "model")),
]


@pytest.fixture
def studio() -> Iterator[FakeLabelStudio]:
    with FakeLabelStudio.with_tasks(3) as fake:
        yield fake


def _push(studio: FakeLabelStudio, findings: list[Finding]) -> int:
    api = ProjectApi(LabelStudio(studio.url, LEGACY), studio.project)
    return push_review(api, parse_label_config(CONFIG), findings, {1: {"dog"}, 2: {"dog"}, 3: set()}, lambda *_: None)


def test_each_task_gets_the_proposed_tags_and_its_place(studio: FakeLabelStudio) -> None:
    assert _push(studio, FINDINGS) == 2
    (first,), (second,) = (studio.tasks[number]["predictions"] for number in (1, 2))
    assert first["model_version"] == second["model_version"] == REVIEW
    assert sorted(first["result"][0]["value"]["choices"]) == ["cat", "dog"]
    assert (second["result"][0]["value"]["choices"], second["score"]) == (["tree"], pytest.approx(0.1))
    assert [studio.tasks[number]["data"].get(ORDER) for number in (1, 2, 3)] == [2, 1, None]
    assert studio.tasks[2]["data"][ASKED] == "wrong: dog; missing: tree"
    assert studio.tasks[2]["data"]["image"] == "/data/2.jpg"


def test_what_was_asked_is_not_asked_again(studio: FakeLabelStudio) -> None:
    _push(studio, FINDINGS)
    more = Finding(1, "tree", "missing", 0.7, ("ridge", "model"))
    assert _push(studio, [*FINDINGS, more]) == 1
    assert [len(studio.tasks[number]["predictions"]) for number in (1, 2, 3)] == [2, 1, 0]
