"""The mutants of `make mutants` can be made of today's code, and their tests are there."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from security.mutants import BROKEN, GUARDED, mutants

TESTS = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("file", sorted({*GUARDED, *(each.file for each in BROKEN)}))
def test_mutants_can_be_made(file: str) -> None:
    made = list(mutants(file))
    assert made
    for mutant in made:
        assert ast.parse(mutant.text)
        assert [each for each in mutant.tests if not (TESTS / each).is_file()] == []
