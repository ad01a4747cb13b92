"""The mutants of `make mutants` can be made of today's code, and their tests are there."""

import ast
from pathlib import Path

import pytest
from security.mutants import TESTS, mutants


@pytest.mark.parametrize("file", TESTS)
def test_mutants_can_be_made(file: str) -> None:
    texts = [text for _, text in mutants(file)]
    assert all(ast.parse(text) for text in texts)
    assert texts
    assert [each for each in TESTS[file] if not (Path(__file__).resolve().parents[1] / each).is_file()] == []
