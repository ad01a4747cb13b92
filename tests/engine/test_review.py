"""The review queue: proposed tags as a prediction, the order in the task's data, nothing asked twice."""

import json
from typing import Any

import pytest
from support.http_server import Reply, Request
from support.label_studio import LEGACY, FakeLabelStudio

from ram_backend.engine.findings import Finding
from ram_backend.engine.review import ASKED, ORDER, REVIEW, push_review
from ram_backend.labelstudio.client import LabelStudio
from ram_backend.labelstudio.label_config import parse_label_config
from ram_backend.labelstudio.project_api import ProjectApi

CONFIG = """<View><Image name="image" value="$image"/><Choices name="tags" toName="image" choice="multiple">
<Choice value="dog"/><Choice value="cat"/><Choice value="tree"/></Choices></View>"""
FINDINGS = [
    Finding(2, "dog", "wrong", 0.9, ("ridge",)),
    Finding(1, "cat", "missing", 0.8, ("ridge", "model")),
    Finding(2, "tree", "missing", 0.6, ("ridge", "model")),
]


@pytest.fixture
def studio() -> Any:
    with FakeLabelStudio.with_tasks(3) as fake:
        fake.posted = []  # type: ignore[attr-defined]

        def add(request: Request) -> Any:
            fake.posted.append(json.loads(request.body))  # type: ignore[attr-defined]
            return fake.posted[-1]  # type: ignore[attr-defined]

        def change(number: int) -> Any:
            def answer(request: Request) -> Any:
                fake.tasks[number].update(json.loads(request.body))
                return Reply(200, body=b"{}")

            return answer

        fake.route("/api/predictions/", add)
        for number in (1, 2, 3):
            fake.route(f"/api/tasks/{number}/", change(number))
        yield fake


def _push(studio: FakeLabelStudio, findings: list[Finding]) -> int:
    api = ProjectApi(LabelStudio(studio.url, LEGACY), studio.project)
    return push_review(api, parse_label_config(CONFIG), findings, {1: {"dog"}, 2: {"dog"}, 3: set()}, lambda *_: None)


def test_each_task_gets_the_proposed_tags_and_its_place(studio: Any) -> None:
    assert _push(studio, FINDINGS) == 2
    proposed = {each["task"]: (each["result"][0]["value"]["choices"], each["score"]) for each in studio.posted}
    assert {each["model_version"] for each in studio.posted} == {REVIEW}
    assert proposed[2] == (["tree"], pytest.approx(0.1))
    assert sorted(proposed[1][0]) == ["cat", "dog"]
    assert [studio.tasks[number]["data"].get(ORDER) for number in (1, 2, 3)] == [2, 1, None]
    assert studio.tasks[2]["data"][ASKED] == "wrong: dog; missing: tree"
    assert studio.tasks[2]["data"]["image"] == "/data/2.jpg"


def test_what_was_asked_is_not_asked_again(studio: Any) -> None:
    _push(studio, FINDINGS)
    more = Finding(1, "tree", "missing", 0.7, ("ridge", "model"))
    assert _push(studio, [*FINDINGS, more]) == 1
    assert [each["task"] for each in studio.posted] == [2, 1, 1]
