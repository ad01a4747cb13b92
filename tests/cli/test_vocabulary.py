"""`ram-backend vocabulary`: looking up, and building the label system."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from ram_backend.cli.main import app
from ram_backend.errors import InputError
from ram_backend.vocabulary.label_system import load_label_system
from ram_backend.vocabulary.tags import Vocabulary


@pytest.mark.usefixtures("with_starter")
def test_find_says_as_what_a_word_is_scored() -> None:
    result = CliRunner().invoke(app, ["vocabulary", "find", "dogs"], terminal_width=200)
    assert result.exit_code == 0
    assert " dog " in result.stdout
    assert "animal" in result.stdout


@pytest.mark.usefixtures("with_starter")
def test_find_says_what_is_new() -> None:
    result = CliRunner().invoke(app, ["vocabulary", "find", "my product name"])
    assert result.exit_code == 1
    assert "new" in result.stdout


def test_build_gives_the_label_system_that_ships(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["vocabulary", "build", "--out", str(tmp_path / "tags.json")])
    assert result.exit_code == 0
    built = Vocabulary.load(tmp_path / "tags.json")
    assert built == load_label_system()
    assert f"{len(built)} tags" in result.stdout


def test_build_into_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="create it first"):
        CliRunner().invoke(
            app, ["vocabulary", "build", "--out", str(tmp_path / "no" / "tags.json")], catch_exceptions=False
        )
