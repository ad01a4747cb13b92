"""`ram-backend vocabulary`: looking up, and building the label system."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.commands import run

from ram_backend.errors import InputError
from ram_backend.vocabulary.label_system import load_label_system
from ram_backend.vocabulary.tags import Vocabulary


@pytest.mark.usefixtures("with_starter")
@pytest.mark.parametrize(("text", "status", "shown"), [("dogs", 0, "animal"), ("my product name", 1, "(new: scored")])
def test_find_says_as_what_a_word_is_scored(text: str, status: int, shown: str) -> None:
    assert shown in run("vocabulary", "find", text, status=status)


def test_build_gives_the_label_system_that_ships(tmp_path: Path) -> None:
    text = run("vocabulary", "build", "--out", tmp_path / "tags.json")
    built = Vocabulary.load(tmp_path / "tags.json")
    assert built == load_label_system()
    assert f"{len(built)} tags" in text
    with pytest.raises(InputError, match="create it first"):
        run("vocabulary", "build", "--out", tmp_path / "no" / "tags.json")
