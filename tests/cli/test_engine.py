"""`ram-backend engine run` over labelled files."""

import json
import shutil
from pathlib import Path

import pytest
from support.commands import run

from ram_backend.demo import photo_paths
from ram_backend.errors import InputError


@pytest.mark.usefixtures("with_starter")
def test_a_run_over_files_writes_report_and_findings(tmp_path: Path) -> None:
    photos = photo_paths()
    entries = [{"file": photo.name, "tags": ["cat", "photo"][at % 2 :]} for at, photo in enumerate(photos)]
    entries[0]["captions"] = ["A photo of two cats.", "Two animals."]
    entries[0]["split"] = "train"
    entries.append({"file": "no.jpg", "tags": ["photo"]})
    (tmp_path / "labels.jsonl").write_text("\n".join(map(json.dumps, entries)))
    given = ("--labels", tmp_path / "labels.jsonl", "--images", photos[0].parent, "--out", tmp_path / "run")
    assert f"{len(photos)} images" in run("engine", "run", *given)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert "no.jpg" in summary["unreadable"][0]
    assert "caption" in summary["weights"]
    assert (tmp_path / "run" / "report.html").exists()
    cleaned = [json.loads(line) for line in (tmp_path / "run" / "labels.jsonl").read_text().splitlines()]
    assert [(each["split"], each["captions"]) for each in cleaned[:2]] == [
        ("train", entries[0]["captions"]),
        (None, []),
    ]
    run("engine", "run", *given[:3], shutil.copytree(photos[0].parent, tmp_path / "others"), *given[4:])
    assert len(list((tmp_path / "run" / "portions").glob("*.npz"))) == 2, "these may be other photos of the same names"


def test_input_is_a_project_or_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--labels with --images"):
        run("engine", "run", "--labels", tmp_path / "labels.jsonl")
