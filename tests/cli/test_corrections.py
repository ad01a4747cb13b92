"""`ram-backend corrections`: what people said, counted, listed, written to a file, and fetched."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from feedback.saying import CONFIG, NOW, deleted, event, shown
from support.label_studio import CREATED, LEGACY, FakeLabelStudio
from typer.testing import CliRunner

from ram_backend.cli.corrections import app
from ram_backend.database.migrate import open_migrated
from ram_backend.errors import InputError, LabelStudioUnauthorized, ProjectNotFound
from ram_backend.feedback.ledger import Ledger
from ram_backend.projects.keys import ProjectKey
from ram_backend.projects.project import Setup
from ram_backend.projects.table import ProjectTable
from ram_backend.settings import load_settings

KEY = ProjectKey("http://localhost:8080", 3, CREATED)


def run(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert LEGACY not in result.output
    return result.output


def json_lines(*arguments: object) -> list[dict[str, Any]]:
    return [json.loads(line) for line in run(*arguments).splitlines()]


def connect(key: ProjectKey) -> None:
    table = ProjectTable(open_migrated(load_settings()))
    table.apply(Setup.read(key, label_config=CONFIG, access_token=LEGACY, extra_params=None))
    table.pin_host(key.instance)


@pytest.fixture
def ledger() -> Ledger:
    connect(KEY)
    return Ledger(open_migrated(load_settings()))


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
            event(5, "cat", at=4, unseen=True, parent_prediction=10),
            event(6, at=5, ground_truth=True, completed_by=None),
            event(7, "cat"),
            deleted(7),
        ],
    )
    return ledger


def test_nothing_yet(ledger: Ledger) -> None:
    assert "No corrections of project 3." in run("list", "--project", 3)
    assert json_lines("list", "-p", 3, "--json") == []
    assert json.loads(run("stats", "--project", 3, "--json"))["annotations"] == 0
    assert "agreement: -" in run("stats", "--project", 3)
    assert run("export", "--project", 3) == ""


def test_list_latest_first(said: Ledger) -> None:
    rows = json_lines("list", "--project", 3, "--json")
    assert [row["annotation"] for row in rows] == [6, 5, 4, 3, 2, 1]
    first = rows[-1]
    assert (first["confirmed"], first["added"], first["removed"]) == (["cat"], ["tree"], ["dog"])
    assert (first["model_version"], first["version"], first["annotator"]) == ("starter-1", "v0002", 1)
    assert first["when"] == NOW.isoformat()
    assert [row["note"] for row in rows[:3]] == ["ground truth", "made from a prediction, nobody looked", "skipped"]
    assert [row["usable"] for row in rows] == [True, False, False, True, True, True]


def test_the_table_says_the_same(said: Ledger) -> None:
    text = run("list", "--project", 3)
    for word in ("annotator", "confirmed", "2026-11-24 12:05", "starter-1", "skipped", "ground truth"):
        assert word in text
    assert "more: --limit 6." in run("list", "--project", 3, "--limit", 2)
    assert [row["annotation"] for row in json_lines("list", "-p", 3, "--task", 2, "--json")] == [3, 2]


def test_stats(said: Ledger) -> None:
    found = json.loads(run("stats", "--project", 3, "--json"))
    tags = found.pop("tags")
    assert found == {
        "project": str(KEY),
        "annotations": 6,
        "usable": 4,
        "skipped": 1,
        "nobody_looked": 1,
        "tasks": 3,
        "ground_truth_tasks": 1,
        "tasks_of_several_annotators": 1,
        "agreement": 0.5,
        "confirmed": 1,
        "added": 4,
        "removed": 1,
        "changed_since_last_training": 4,
    }
    assert tags == [
        {"tag": "cat", "confirmed": 1, "added": 2, "removed": 0, "right": 1.0, "found": 1 / 3},
        {"tag": "dog", "confirmed": 0, "added": 1, "removed": 1, "right": 0.0, "found": 0.0},
        {"tag": "tree", "confirmed": 0, "added": 1, "removed": 0, "right": None, "found": 0.0},
    ]
    text = run("stats", "--project", 3, "--top", 1)
    assert "agreement: 50%" in text
    assert "changed since last training: 4" in text
    assert "cat" in text
    assert "tree" not in text


def test_export(said: Ledger, tmp_path: Path) -> None:
    rows = json_lines("export", "--project", 3)
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
    everything = json_lines("export", "--project", 3, "--untouched")
    assert everything[2]["tags"]["cat"] == {"label": False, "weight": 1.0, "state": "untouched", "score": None}
    file = tmp_path / "out.jsonl"
    assert "3 images written to" in run("export", "--project", 3, "--output", file)
    assert [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] == rows
    with pytest.raises(InputError, match="can't be written"):
        run("export", "--project", 3, "-o", tmp_path / "none" / "out.jsonl")


def test_weights_are_the_settings(said: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAM_LISTED_TAGS", "2")
    monkeypatch.setenv("RAM_UNTOUCHED_HIDDEN_WEIGHT", "0.01")
    rows = json_lines("export", "--project", 3, "--untouched")
    assert rows[2]["tags"]["cat"]["weight"] == 0.01


@pytest.mark.parametrize("command", ["list", "stats", "export", "reconcile"])
def test_a_project_that_is_not_there(ledger: Ledger, command: str) -> None:
    with pytest.raises(ProjectNotFound, match="no project 8"):
        run(command, "--project", 8)


def test_reconcile() -> None:
    with FakeLabelStudio() as studio:
        connect(ProjectKey(studio.url, 3, CREATED))
        for number in (1, 2):
            studio.annotate(number, number, "cat")
        assert json.loads(run("reconcile", "--project", 3, "--json")) == {
            "listed": 2,
            "added": 2,
            "gone": 0,
            "returned": 0,
            "shown": 0,
            "left_out": 0,
        }
        assert len(json_lines("list", "--project", 3, "--json")) == 2
        studio.annotate(1, 1, "dog", minute=9)
        studio.annotate(3, 1)["result"] = "broken"
        said = run("reconcile", "--project", 3)
        assert "has 2 annotations" in said
        assert "1 statements were new" in said
        assert "1 annotations can't be used" in said
        studio.legacy = "another"
        with pytest.raises(LabelStudioUnauthorized):
            run("reconcile", "--project", 3)
