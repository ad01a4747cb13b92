"""`ram-backend demo`, which is what `make run` runs: from nothing to tagged photos."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ram_backend.cli.main import app
from ram_backend.demo import photo_paths


@pytest.mark.usefixtures("with_starter")
def test_every_photo_gets_tags_and_the_next_step_is_named() -> None:
    result = CliRunner().invoke(app, ["demo"], catch_exceptions=False)
    assert result.exit_code == 0
    assert len(photo_paths()) >= 8
    assert "cat 0.9" in result.stdout
    squeezed = "".join(result.stdout.split()).replace("│", "")
    assert all(path.stem[:10] in squeezed for path in photo_paths())
    assert "Next: " in result.stdout.splitlines()[-1]


@pytest.mark.slow
def test_a_stranger_s_first_run_installs_the_starter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAM_DATA_DIR", str(tmp_path / "new" / "folder"))
    done = subprocess.run(
        [sys.executable, "-m", "ram_backend", "demo"], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "Next: " in done.stdout
    bundles = tmp_path / "new" / "folder" / "bundles"
    assert [path.name for path in bundles.iterdir() if path.is_dir()] == ["starter"]
    assert bundles.parent.stat().st_mode & 0o077 == 0, "tokens and locks will lie there"
    assert "Traceback" not in done.stderr
