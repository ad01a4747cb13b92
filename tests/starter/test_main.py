"""`python -m starter`: errors are one line."""

import os
import subprocess
import sys
from pathlib import Path


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
