"""Every command of `docs/command-line.md` runs, `--json` prints JSON, and the help speaks plainly."""

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
from feedback.saying import event
from support import commands
from support.label_studio import LEGACY, FakeLabelStudio
from support.starter import lend
from support.versions import ACCEPT, write
from test_readme import PAGES, blocks, command_names

from ram_backend.cli.main import app
from ram_backend.feedback.ledger import Ledger
from ram_backend.settings import load_settings
from ram_backend.versions.table import VersionTable

CONFIG = Path(__file__).resolve().parents[2] / "label_configs" / "choices_with_confidence.xml"
ELSEWHERE = {  # these run until they are stopped, download, or need a server or files: other tests start them
    *("serve", "worker", "studio", "demo", "tag", "eval", "engine run", "bundles pull", "bundles import", "finetune"),
    *("vocabulary parse", "vocabulary build", "bundles use", "label"),
}
WITHOUT_TABLE = ELSEWHERE - {"tag"} | {
    "connect", "prelabel", "train", "project set", "project unset", "project pin-host", "project forget",
    "corrections export", "schedule set", "schedule remove", "report",
    "versions activate", "versions rollback", "versions pin", "versions unpin", "vocabulary label-config",
}  # fmt: skip
LINES = [line for block in blocks("sh", PAGES["command-line.md"]) for line in block.splitlines()]
COMMANDS = [[word for word in shlex.split(line, comments=True)[1:] if word != "--wait"] for line in LINES]  # no worker
ROOT: Any = typer.main.get_command(app)


def name_of(words: list[str]) -> str:
    return " ".join(words[:2] if hasattr(ROOT.commands[words[0]], "commands") else words[:1])


@pytest.fixture
def project(with_starter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Project 1 of a Label Studio, with tags, corrections and two versions, of which the second one is served."""
    monkeypatch.setenv("RAM_DATA_DIR", str(lend(with_starter, tmp_path / "data")))
    monkeypatch.chdir(tmp_path)
    with FakeLabelStudio(project=1) as studio:
        monkeypatch.setenv("LABEL_STUDIO_URL", studio.url)
        monkeypatch.setenv("LABEL_STUDIO_API_KEY", LEGACY)
        database = commands.connect(studio.key, CONFIG.read_text(encoding="utf-8"))
        Ledger(database).record(studio.key, [event(1, "cat"), event(2, "dog")])
        table = VersionTable(database)
        for bias, parent in ((0.0, None), (1.0, "v0001")):
            table.record(write(load_settings().versions_dir, bias, key=studio.key, parent=parent, verdict=ACCEPT))
        table.publish(studio.key, "v0001", expected=None)
        table.publish(studio.key, "v0002", expected="v0001")
        yield


def test_examples_run_in_their_order(project: None) -> None:
    for words in COMMANDS:
        if name_of(words) not in ELSEWHERE:
            commands.run(*words, status=1 if words == ["doctor"] else 0)


def test_json_of_every_table(project: None) -> None:
    names = {name.removeprefix("ram-backend ") for name in command_names(ROOT)}
    assert names >= WITHOUT_TABLE
    examples = {name_of(words): words for words in [*COMMANDS, ["vocabulary", "find", "dogs"], ["doctor"]]}
    commands.run("train", 1)
    commands.run("schedule", "set", 1, "train", "0 3 * * *")
    for name in sorted(names - WITHOUT_TABLE - {"tag"}):
        printed = commands.run(*examples[name], "--json", status=1 if name == "doctor" else 0)
        try:
            found = [json.loads(line) for line in printed.splitlines()]
        except ValueError:
            found = [json.loads(printed)]
        assert found, name
        assert all(isinstance(each, dict) for each in found), name


@pytest.mark.parametrize("command", ["", *sorted({" ".join(each.split()[1:]) for each in command_names(ROOT)})])
def test_h_is_help_for_every_command(command: str) -> None:
    assert "Usage: " in commands.run(*command.split(), "-h")


def test_help_names_no_types_of_python() -> None:
    command = [sys.executable, "-m", "ram_backend", "tag", "-h"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "NUMBER" in done.stdout
    assert not re.search("<(str|int|float|bool|path|list)", done.stdout)
