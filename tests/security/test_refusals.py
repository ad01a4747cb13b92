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
import time
from collections.abc import Callable, Iterator
from functools import cache
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


SHORTEST_LIMIT_S = 60.0
ENDLESS = 10
"""A test that takes so many times as long without a guard as with it never ends."""


def outcome(copy: Path, test: str, limit_s: float | None = None) -> subprocess.CompletedProcess[str]:
    """Runs one test in the copy."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", f"tests/{test}"]
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(copy)}
    return subprocess.run(
        command, cwd=copy, env=environment, capture_output=True, text=True, timeout=limit_s, check=False
    )


@pytest.fixture(scope="module")
def seconds_with_guard(copy: Path) -> Callable[[str], float]:
    """How long a test takes here while all guards are there; fails where it doesn't pass then."""

    @cache
    def measured(test: str) -> float:
        begun = time.monotonic()
        done = outcome(copy, test)
        assert done.returncode == 0, f"it fails with its guard, too: {done.stdout[-2000:]}"
        assert " passed" in done.stdout, done.stdout[-2000:]
        return time.monotonic() - begun

    return measured


@pytest.mark.mutants
@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda refusal: refusal.what)
def test_without_its_guard_the_test_fails(
    copy: Path, refusal: Refusal, seconds_with_guard: Callable[[str], float]
) -> None:
    """A test that never ends without the guard has failed, too; a machine that is only slow proves nothing."""
    limit_s = max(SHORTEST_LIMIT_S, ENDLESS * seconds_with_guard(refusal.test))
    file = copy / "ram_backend" / refusal.file
    good = file.read_text()
    file.write_text(good.replace(refusal.guard, refusal.disabled))
    try:
        done = outcome(copy, refusal.test, limit_s)
    except subprocess.TimeoutExpired:
        return
    finally:
        file.write_text(good)
    assert done.returncode == 1, done.stdout[-2000:]
    assert "failed" in done.stdout, done.stdout[-2000:]
