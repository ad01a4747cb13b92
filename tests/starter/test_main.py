"""`python -m starter`: options reach the build, errors are one line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from starter.__main__ import app


def test_options_are_handed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def build_starter(data: Path, out: Path, **options: Any) -> None:
        asked.update(options, data=data, out=out)

    monkeypatch.setattr("starter.build.build_starter", build_starter)
    monkeypatch.setenv("RAM_DATA_DIR", str(tmp_path))
    left_out = ("--leave-out-set", "ade", "--leave-out-tag", "dog")
    where = ("--data", str(tmp_path), "--out", str(tmp_path / "out"))
    result = CliRunner().invoke(app, [*where, *left_out, "--seed", "3"])
    assert result.exit_code == 0, result.output
    assert (asked["leave_out_sets"], asked["leave_out_tags"], asked["seed"]) == (("ade",), ("dog",), 3)
    assert (asked["data"], asked["out"]) == (tmp_path, tmp_path / "out")


def test_a_folder_without_photos_is_an_error_in_one_line(tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-m", "starter", "--data", str(tmp_path), "--out", str(tmp_path / "out")],
        cwd=root,
        env={**os.environ, "RAM_DATA_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("Error: ")
    assert "labels.jsonl is missing" in done.stderr
    assert len(done.stderr.splitlines()) == 1
