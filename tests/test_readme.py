"""README and docs: commands run or parse, what they print is what is shown, every command and setting is there."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer.main
from typer.testing import CliRunner

from ram_backend.cli.main import app
from ram_backend.demo import photo_paths
from ram_backend.settings import Settings

README = Path(__file__).resolve().parent.parent / "README.md"
TEXT = README.read_text(encoding="utf-8")
PAGES = {
    page.name: page.read_text(encoding="utf-8") for page in (README, *sorted((README.parent / "docs").glob("*.md")))
}


def blocks(kind: str, text: str = TEXT) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", text, flags=re.M | re.S)


RUN = {
    line[2:]
    for text in PAGES.values()
    for block in blocks("console", text)
    for line in block.splitlines()
    if line.startswith("$ ram-backend")
}
SHOWN = [part.partition("\n") for part in re.split(r"^\$ ", blocks("text")[0], flags=re.M)[1:]]
QUOTED = {
    command.strip()
    for text in PAGES.values()
    for block in (*blocks("sh", text), *re.findall(r"`(ram-backend [^`]+)`", text.replace("\n", " ")))
    for command in re.findall(r"^(?:docker compose exec backend )?(ram-backend [^#&\n]+)", block, flags=re.M)
}
ROOT: Any = typer.main.get_command(app)


def run(command: str) -> str:
    result = CliRunner().invoke(app, shlex.split(command)[1:], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_there_are_commands_to_run() -> None:
    assert len(RUN) >= 4
    assert len(SHOWN) == 2
    assert len(QUOTED) > 30


@pytest.fixture
def photos(with_starter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder that the README's commands are run in."""
    (tmp_path / "photos").mkdir()
    for source in photo_paths()[:2]:
        (tmp_path / "photos" / source.name).write_bytes(source.read_bytes())
    for source in photo_paths():
        (tmp_path / source.name).write_bytes(source.read_bytes())
    (tmp_path / "photo.jpg").write_bytes(photo_paths()[0].read_bytes())
    (tmp_path / "tags.txt").write_text("cat\nsunset\n")
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("command", sorted(RUN))
def test_commands_of_console_blocks_run(command: str, photos: None) -> None:
    assert run(command).strip()


@pytest.mark.parametrize(("command", "shown"), [(command, shown) for command, _, shown in SHOWN], ids=["all", "asked"])
def test_commands_print_what_is_shown(command: str, shown: str, photos: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same tags in the same order, in brackets or not, with the same scores."""
    monkeypatch.setenv("COLUMNS", "110")

    def tags(printed: str) -> list[tuple[str, float]]:
        return [(name.strip(), float(score)) for name, score in re.findall(r"([^,\d]+) (\d\.\d+)", printed)]

    expected, printed = tags(shown), tags(run(command))
    assert [name for name, _ in printed] == [name for name, _ in expected]
    assert [score for _, score in printed] == pytest.approx([score for _, score in expected], abs=0.01)


@pytest.mark.parametrize("command", sorted(QUOTED))
def test_commands_that_are_quoted_parse(command: str, photos: None) -> None:
    found, words = ROOT, shlex.split(command)[1:]
    while hasattr(found, "commands"):
        found = found.commands[words.pop(0)]
    if words:
        found.make_context(command, words)


def command_names(group: Any, prefix: str = "ram-backend") -> list[str]:
    """Full names of all commands below a group."""
    names = []
    for name, command in group.commands.items():
        full = f"{prefix} {name}"
        names += command_names(command, full) if hasattr(command, "commands") else [full]
    return names


def test_every_command_is_in_the_reference() -> None:
    assert [name for name in command_names(ROOT) if name not in PAGES["command-line.md"]] == []


def test_every_setting_is_in_the_reference() -> None:
    names = [
        field.validation_alias.choices[-1] if field.validation_alias else f"RAM_{name.upper()}"  # type: ignore[union-attr]
        for name, field in Settings.model_fields.items()
    ]
    assert [name for name in names if f"`{name}`" not in PAGES["settings.md"]] == []


def test_the_readme_is_short() -> None:
    assert len(TEXT.splitlines()) <= 150
