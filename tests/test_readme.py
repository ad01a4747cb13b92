"""The README tells the truth: its commands run, and every command is in it."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest
import typer.main
from typer.testing import CliRunner

from ram_backend.cli.main import app
from ram_backend.demo import photo_paths

README = Path(__file__).resolve().parent.parent / "README.md"
BLOCKS = re.findall(r"^```console\n(.*?)^```", README.read_text(encoding="utf-8"), flags=re.M | re.S)
COMMANDS = [line[2:] for block in BLOCKS for line in block.splitlines() if line.startswith("$ ram-backend")]


def test_there_are_commands_to_run() -> None:
    assert len(COMMANDS) >= 4


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_of_console_blocks_run(
    command: str, with_starter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "photos").mkdir()
    for source in photo_paths()[:2]:
        (tmp_path / "photos" / source.name).write_bytes(source.read_bytes())
    (tmp_path / "photo.jpg").write_bytes(photo_paths()[0].read_bytes())
    (tmp_path / "tags.txt").write_text("cat\nsunset\n")
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, shlex.split(command)[1:], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert result.stdout.strip()


def command_names(group: click.Group, prefix: str = "ram-backend") -> list[str]:
    """Full names of all commands below a group."""
    names = []
    for name, command in group.commands.items():
        full = f"{prefix} {name}"
        names += command_names(command, full) if hasattr(command, "commands") else [full]
    return names


def test_every_command_is_in_the_readme() -> None:
    root = typer.main.get_command(app)
    text = README.read_text(encoding="utf-8")
    missing = [name for name in command_names(root) if name not in text]  # type: ignore[arg-type]
    assert not missing


def test_every_setting_is_in_the_readme() -> None:
    from ram_backend.settings import Settings

    text = README.read_text(encoding="utf-8")
    names = [
        field.validation_alias.choices[-1] if field.validation_alias else f"RAM_{name.upper()}"  # type: ignore[union-attr]
        for name, field in Settings.model_fields.items()
    ]
    assert [name for name in names if f"`{name}`" not in text] == []


def test_links_to_files_are_not_broken() -> None:
    links = re.findall(r"\]\((?!https?://|#)([^)]+)\)", README.read_text(encoding="utf-8"))
    assert [link for link in links if not (README.parent / link.split("#")[0]).exists()] == []
