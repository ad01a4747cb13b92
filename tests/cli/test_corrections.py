"""`ram-backend corrections`: what people said, counted, listed, written to a file, and fetched."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from feedback.saying import CONFIG, NOW, deleted, event, shown
from support import commands
from support.label_studio import CREATED, FakeLabelStudio

from ram_backend.errors import InputError, LabelStudioUnauthorized, ProjectNotFound
from ram_backend.feedback.ledger import Ledger
from ram_backend.feedback.shown import ShownChoice
from ram_backend.labelstudio.annotations import ParsedItem
from ram_backend.projects.keys import ProjectKey
from ram_backend.projects.table import ProjectTable

KEY = ProjectKey("http://localhost:8080", 3, CREATED)


def run(command: str, *arguments: object) -> str:
    return commands.run("corrections", command, 3, *arguments)


def json_lines(command: str, *arguments: object) -> list[dict[str, Any]]:
    return commands.json_lines("corrections", command, 3, *arguments)


@pytest.fixture
def ledger() -> Ledger:
    return Ledger(commands.connect(KEY, CONFIG))


@pytest.fixture
def said(ledger: Ledger) -> Ledger:
    """Five annotations of four tasks, and one that was deleted."""
    ledger.record_shown(KEY, [shown(1, ["cat", "dog"], prediction_id=9, version="v0002")])
    ledger.record(
        KEY,
        [
            event(1, "cat", "tree", parent_prediction=9),
            event(2, "cat", at=1, completed_by=2),
            event(3, "cat", "dog", task=2, at=2, completed_by=3),
            event(4, "cat", at=3, was_cancelled=True),
            event(5, "cat", at=4, auto_created=True, parent_prediction=10),
            event(6, at=5, ground_truth=True, completed_by=None),
            event(7, "cat"),
            deleted(7),
        ],
    )
    return ledger


def test_nothing_yet(ledger: Ledger) -> None:
    assert "No corrections of project 3." in run("list")
    assert json_lines("list", "--json") == []
    assert json.loads(run("stats", "--json"))["annotations"] == 0
    assert "agreement: -" in run("stats")
    assert run("export") == ""


def test_list_latest_first(said: Ledger) -> None:
    rows = json_lines("list", "--json")
    assert [row["annotation"] for row in rows] == [6, 5, 4, 3, 2, 1]
    first = rows[-1]
    assert (first["confirmed"], first["added"], first["removed"]) == (["cat"], ["tree"], ["dog"])
    assert (first["model_version"], first["version"], first["annotator"]) == ("starter-1", "v0002", 1)
    assert first["when"] == NOW.isoformat()
    assert [row["note"] for row in rows[:3]] == ["ground truth", "made from a prediction, nobody looked", "skipped"]
    assert [row["usable"] for row in rows] == [True, False, False, True, True, True]
    text = run("list")
    for word in ("annotator", "confirmed", "2026-11-24 12:05", "starter-1", "skipped", "ground truth"):
        assert word in text
    assert "more: --limit 6." in run("list", "--limit", 2)
    assert [row["annotation"] for row in json_lines("list", "--task", 2, "--json")] == [3, 2]


def test_stats(said: Ledger) -> None:
    found = json.loads(run("stats", "--json"))
    tags = found.pop("tags")
    assert found.pop("edits") == {"2026-11-24": {"photos": 1, "edits": 2, "tags": 2, "saved": 0.0}}
    annotations = {"annotations": 6, "usable": 4, "skipped": 1, "nobody_looked": 1, "changed_since_last_training": 4}
    tasks = {"tasks": 3, "ground_truth_tasks": 1, "tasks_of_several_annotators": 1, "agreement": 0.5}
    statements = {"confirmed": 1, "added": 4, "removed": 1}
    assert found == {"project": str(KEY), **annotations, **tasks, **statements}
    assert tags == [
        {"tag": "cat", "confirmed": 1, "added": 2, "removed": 0, "right": 1.0, "found": 1 / 3},
        {"tag": "dog", "confirmed": 0, "added": 1, "removed": 1, "right": 0.0, "found": 0.0},
        {"tag": "tree", "confirmed": 0, "added": 1, "removed": 0, "right": None, "found": 0.0},
    ]
    text = run("stats", "--top", 1)
    assert [part in text for part in ("agreement: 50%", "since last training: 4", "cat")] == [True] * 3
    assert " ".join(text.splitlines()[-4].split()) == "day photos edits per photo in an empty form saved"
    assert text.splitlines()[-3].split() == ["2026-11-24", "1", "2.00", "2.00", "0%"]
    assert "tree" not in text


def test_export(said: Ledger, tmp_path: Path) -> None:
    rows = json_lines("export")
    assert [(row["task"], row["reference"], row["annotations"]) for row in rows] == [
        (1, "/data/1.jpg", [1]),
        (2, "/data/2.jpg", [2, 3]),
        (6, "/data/6.jpg", [6]),
    ]
    assert rows[0]["tags"] == {
        "cat": {"label": True, "weight": 1.0, "state": "confirmed", "score": 0.9},
        "dog": {"label": False, "weight": 1.0, "state": "removed", "score": 0.9},
        "tree": {"label": True, "weight": 1.0, "state": "added", "score": None},
    }
    assert rows[1]["tags"]["dog"] == {"label": False, "weight": 0.0, "state": "unknown", "score": None}
    assert (rows[2]["ground_truth"], rows[2]["tags"]) == (True, {})
    everything = json_lines("export", "--untouched")
    assert everything[2]["tags"]["cat"] == {"label": False, "weight": 1.0, "state": "untouched", "score": None}
    file = tmp_path / "out.jsonl"
    assert "3 images written to" in run("export", "--output", file)
    assert [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] == rows
    with pytest.raises(InputError, match="can't be written"):
        run("export", "-o", tmp_path / "none" / "out.jsonl")


@pytest.mark.parametrize("command", ["corrections stats", "corrections reconcile", "prelabel", "versions list"])
def test_a_project_that_is_not_there(ledger: Ledger, command: str) -> None:
    with pytest.raises(ProjectNotFound, match="no project 8"):
        commands.run(*command.split(), 8)


def test_reconcile() -> None:
    with FakeLabelStudio() as studio:
        key = ProjectKey(studio.url, 3, CREATED)
        ProjectTable(commands.connect(key, CONFIG)).pin_host(studio.url)
        for number in (1, 2):
            studio.annotate(number, number, "cat")
        nothing = {"gone": 0, "returned": 0, "shown": 0, "left_out": 0}
        assert json_lines("reconcile", "--json") == [{"listed": 2, "added": 2, **nothing}]
        assert len(json_lines("list", "--json")) == 2
        studio.annotate(1, 1, "dog", minute=9)
        studio.annotate(3, 1)["result"] = "broken"
        said = run("reconcile")
        assert "has 2 annotations" in said
        assert "1 statements were new" in said
        assert "1 annotations can't be used" in said
        studio.legacy = "another"
        with pytest.raises(LabelStudioUnauthorized):
            run("reconcile")


def test_export_has_the_corrections_of_captions() -> None:
    area = '<TextArea name="caption" toName="image"/></View>'
    ledger = Ledger(commands.connect(KEY, CONFIG.replace("</View>", area)))
    sentence = "a dog " + "on a long road " * 10 + "home"
    served, caption = shown(1, ["cat"], prediction_id=9), ShownChoice("caption", ("a cat",), None, True)
    ledger.record_shown(KEY, [replace(served, choices=(*served.choices, caption))])
    text = ParsedItem("caption", "image", "textarea", ((sentence,),))
    tags = ParsedItem("tags", "image", "choices", (("cat",),))
    ledger.record(KEY, [event(1, items=(tags, text), parent_prediction=9), event(2, "dog")])
    with_caption, without = json_lines("export")
    (found,) = with_caption["captions"]
    assert (found["shown"], found["text"], found["state"]) == ("a cat", sentence, "edited")
    assert (found["control"], found["annotation_id"], found["model_version"]) == ("caption", 1, "starter-1")
    assert with_caption["tags"]["cat"]["state"] == "confirmed"
    assert "captions" not in without
