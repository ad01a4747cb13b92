"""Importing the package stays cheap and has no effect."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = {"torch", "torchvision", "transformers", "timm", "open_clip", "sklearn", "scipy", "onnxruntime"}


@pytest.mark.parametrize(
    "module",
    [
        "ram_backend",
        "ram_backend.demo",
        "ram_backend.errors",
        "ram_backend.images",
        "ram_backend.metrics",
        "ram_backend.settings",
    ],
)
def test_import_loads_nothing_heavy_and_writes_nothing(module: str, tmp_path: Path) -> None:
    code = f"import json, sys; import {module}; print(json.dumps(sorted(sys.modules)))"
    environment = {"HOME": str(tmp_path), "RAM_DATA_DIR": str(tmp_path / "data"), "RAM_THREADS": "not a number"}
    done = subprocess.run(
        [sys.executable, "-B", "-c", code],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).resolve().parent.parent,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    loaded = set(json.loads(done.stdout))
    assert module in loaded
    assert not HEAVY & loaded
    assert list(tmp_path.iterdir()) == []


def test_the_package_is_typed() -> None:
    import ram_backend

    assert (Path(ram_backend.__file__).parent / "py.typed").is_file()
