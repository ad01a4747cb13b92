"""Every refusal, with its guard in the code and the test that fails without it.

`refusals.py` is the list. That the guards and the tests are there is looked at always; that a test fails where its
guard is disabled (in a copy of the package) is tried by those that `make mutants` runs.
"""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from security.refusals import REFUSALS, Refusal

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda refusal: refusal.what)
def test_guard_and_test_are_there(refusal: Refusal) -> None:
    text = (REPOSITORY / "ram_backend" / refusal.file).read_text()
    assert text.count(refusal.guard) == 1, f"{refusal.file}: {refusal.guard!r}"
    file, _, name = refusal.test.partition("::")
    tree = ast.parse((REPOSITORY / "tests" / file).read_text())
    assert any(isinstance(node, ast.FunctionDef) and node.name == name for node in tree.body)


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A copy of the package and its tests, to break."""
    folder = tmp_path_factory.mktemp("copy")
    for name in ("ram_backend", "tests"):
        shutil.copytree(REPOSITORY / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(REPOSITORY / "pyproject.toml", folder)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.mutants
@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda refusal: refusal.what)
def test_without_its_guard_the_test_fails(copy: Path, refusal: Refusal) -> None:
    """A test that never ends without the guard has failed, too."""
    file = copy / "ram_backend" / refusal.file
    good = file.read_text()
    file.write_text(good.replace(refusal.guard, refusal.disabled))
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", f"tests/{refusal.test}"]
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(copy)}
    try:
        done = subprocess.run(
            command, cwd=copy, env=environment, capture_output=True, text=True, timeout=60, check=False
        )
    except subprocess.TimeoutExpired:
        return
    finally:
        file.write_text(good)
    assert done.returncode == 1, done.stdout[-2000:]
    assert "failed" in done.stdout, done.stdout[-2000:]
