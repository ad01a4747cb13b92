"""Every promise of `PROMISES.md` has its tests."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
ROWS = [
    [cell.strip() for cell in line.strip().strip("|").split("|")]
    for line in (TESTS / "PROMISES.md").read_text(encoding="utf-8").splitlines()
    if line.startswith("|") and not line.startswith(("| ---", "| promise |"))
]


@cache
def functions_in(file: str) -> frozenset[str]:
    """Names of the test functions of a file, as pytest collects them."""
    path = TESTS / file
    tree = ast.parse(path.read_text(encoding="utf-8")) if path.is_file() else ast.Module([], [])
    return frozenset(
        node.name
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
    )


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_a_promise_has_its_tests(row: list[str]) -> None:
    assert len(row) == 2, "a promise, and its tests"
    named = re.findall(r"`(\S+)::(\w+)`", row[1])
    assert named, "no test is named"
    assert row[1] == ", ".join(f"`{file}::{test}`" for file, test in named), "only tests stand there"
    assert [f"{file}::{test}" for file, test in named if test not in functions_in(file)] == []


def test_each_promise_stands_there_once() -> None:
    promises = [row[0] for row in ROWS]
    assert len(promises) > 60
    assert len(set(promises)) == len(promises)
