"""The `bundles` commands, on small files."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from models import tiny
from typer.testing import CliRunner, Result

from ram_backend.cli.bundles import app
from ram_backend.errors import BundleDamaged, CheckpointError
from ram_backend.settings import load_settings


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "200"})


def imported(folder: Path, kind: str = "ram", name: str = "small") -> Result:
    file, tags = tiny.write(folder, kind)
    extra = ["--descriptions", tiny.EACH] if kind == "ram_plus" else []
    return run("import", file, "--tags", tags, "--name", name, "--image-size", tiny.IMAGE, *extra)


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_import_says_what_it_made_and_what_to_do_next(tmp_path: Path, kind: str) -> None:
    result = imported(tmp_path, kind)
    assert result.exit_code == 0, result.output
    assert f"Bundle small ({kind}, 7 tags) is ready" in result.stdout
    assert "ram-backend tag PHOTO --bundle small" in result.stdout
    assert (load_settings().bundles_dir / "small" / "bundle.json").exists()


def test_import_of_a_bad_file_raises_one_line(tmp_path: Path) -> None:
    file, tags = tiny.write(tmp_path, "ram", {**tiny.state_dict("ram"), "odd": tiny.images(1)})
    arguments = ("import", file, "--tags", tags, "--name", "small", "--image-size", tiny.IMAGE)
    result = run(*arguments)
    assert isinstance(result.exception, CheckpointError)
    assert "'odd'" in str(result.exception)
    assert run(*arguments, "--allow-extra").exit_code == 0


def test_list_shows_the_starter_and_what_was_imported(tmp_path: Path) -> None:
    imported(tmp_path)
    shown = run("list").stdout
    assert "starter" in shown
    assert "small" in shown
    entries = [json.loads(line) for line in run("list", "--json").stdout.splitlines()]
    assert [(entry["name"], entry["installed"]) for entry in entries] == [("starter", False), ("small", True)]


def test_show_tells_what_a_bundle_is_and_checks_it(tmp_path: Path) -> None:
    imported(tmp_path)
    result = run("show", "small", "--verify")
    assert "All checksums are right." in result.stdout
    for part in ("ram.pth", "cat, dog, red car", "clip-vit-b-16", "Apache-2.0"):
        assert part in result.stdout
    assert json.loads(run("show", "small", "--json").stdout)["kind"] == "ram"
    network = load_settings().bundles_dir / "small" / "network.safetensors"
    content = bytearray(network.read_bytes())
    content[-1] ^= 255
    network.write_bytes(content)
    assert run("show", "small").exit_code == 0
    assert isinstance(run("show", "small", "--verify").exception, BundleDamaged)


def test_pull_hands_the_addresses_on(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def pull(kind: str, **options: Any) -> None:
        asked.update(options, kind=kind)
        raise CheckpointError("enough")

    monkeypatch.setattr("ram_backend.models.hub.pull", pull)
    addresses = ("--repository", "me/mine", "--tags", "t.txt", "--endpoint", "http://x")
    result = run("pull", "ram-plus", *addresses, "--name", "n")
    assert isinstance(result.exception, CheckpointError)
    assert (asked["kind"], asked["name"], asked["endpoint"]) == ("ram-plus", "n", "http://x")
    release = asked["release"]
    assert (release.repository, release.tags, release.filename) == ("me/mine", "t.txt", "ram_plus_swin_large_14m.pth")
    assert run("pull", "yolo").exit_code == 2


def test_a_file_that_wants_to_run_code_is_refused_in_one_line(tmp_path: Path) -> None:
    trace = tmp_path / "ran"

    class RunsCode:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (trace,)

    (tmp_path / "evil.pth").write_bytes(pickle.dumps({"model": RunsCode()}))
    (tmp_path / "tags.txt").write_text("cat\ndog\n")
    command = [
        sys.executable,
        "-m",
        "ram_backend",
        "bundles",
        "import",
        "evil.pth",
        "--tags",
        "tags.txt",
        "--name",
        "x",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 1
    assert not trace.exists()
    (line,) = done.stderr.splitlines()
    assert "evil.pth" in line
    assert "refused" in line
