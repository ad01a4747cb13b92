"""The `bundles` commands, on small files."""

import json
import pickle
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from models import tiny
from support import commands

from ram_backend.errors import BundleDamaged, BundleNotFound, CheckpointError
from ram_backend.jobs.job import JobOptions
from ram_backend.jobs.table import JobTable
from ram_backend.projects.keys import ProjectKey
from ram_backend.settings import load_settings


def run(*arguments: object, status: int = 0) -> str:
    return commands.run("bundles", *arguments, status=status)


def imported(folder: Path, kind: str = "ram") -> str:
    file, tags = tiny.write(folder, kind)
    extra = ["--descriptions", tiny.EACH] if kind == "ram_plus" else []
    return run("import", file, "--tags", tags, "--name", "small", "--image-size", tiny.IMAGE, *extra)


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_import_says_what_it_made_and_what_to_do_next(tmp_path: Path, kind: str) -> None:
    text = imported(tmp_path, kind)
    assert f"Bundle small ({kind}, 7 tags) is ready" in text
    assert "ram-backend tag PHOTO --bundle small" in text
    entries = commands.json_lines("bundles", "list", "--json")
    assert [(entry["name"], entry["installed"]) for entry in entries] == [("starter", False), ("small", True)]


def test_import_of_a_bad_file_raises_one_line(tmp_path: Path) -> None:
    file, tags = tiny.write(tmp_path, "ram", {**tiny.state_dict("ram"), "odd": tiny.images(1)})
    arguments = ("import", file, "--tags", tags, "--name", "small", "--image-size", tiny.IMAGE)
    with pytest.raises(CheckpointError, match="'odd'"):
        run(*arguments)
    run(*arguments, "--allow-extra")


def test_show_tells_what_a_bundle_is_and_checks_it(tmp_path: Path) -> None:
    imported(tmp_path)
    text = run("show", "small", "--verify")
    for part in ("All checksums are right.", "ram.pth", "cat, dog, red car", "clip-vit-b-16", "Apache-2.0"):
        assert part in text
    assert json.loads(run("show", "small", "--json"))["kind"] == "ram"
    network = load_settings().bundles_dir / "small" / "network.safetensors"
    content = bytearray(network.read_bytes())
    content[-1] ^= 255
    network.write_bytes(content)
    run("show", "small")
    with pytest.raises(BundleDamaged, match=r"checksum of network\.safetensors"):
        run("show", "small", "--verify")


def test_pull_hands_the_addresses_on(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def pull(kind: str, **options: Any) -> None:
        asked.update(options, kind=kind)
        raise CheckpointError("enough")

    monkeypatch.setattr("ram_backend.models.hub.pull", pull)
    addresses = ("--repository", "me/mine", "--revision", "v2")
    with pytest.raises(CheckpointError):
        run("pull", "ram-plus", *addresses, "--name", "n")
    assert (asked["kind"], asked["name"]) == ("ram-plus", "n")
    release = asked["release"]
    assert (release.repository, release.revision, release.filename) == ("me/mine", "v2", "ram_plus_swin_large_14m.pth")
    run("pull", "yolo", status=2)


def test_a_file_that_wants_to_run_code_is_refused_in_one_line(tmp_path: Path) -> None:
    trace = tmp_path / "ran"

    class RunsCode:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (trace,)

    (tmp_path / "evil.pth").write_bytes(pickle.dumps({"model": RunsCode()}))
    (tmp_path / "tags.txt").write_text("cat\ndog\n")
    command = shlex.split(f"{sys.executable} -m ram_backend bundles import evil.pth --tags tags.txt --name x")
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 1
    assert not trace.exists()
    (line,) = done.stderr.splitlines()
    assert line.startswith("ram-backend: ")
    assert "evil.pth" in line
    assert "refused" in line


def test_a_project_is_to_use_a_bundle(tmp_path: Path) -> None:
    queue = JobTable(commands.connect(ProjectKey("http://localhost:8080", 7, 70)))
    with pytest.raises(BundleNotFound, match="no bundle 'small'"):
        run("use", "small", "--project", 7)
    imported(tmp_path)
    assert "is queued as job" in run("use", "small", "--project", 7)
    assert [(job.kind, JobOptions.of(job.options).bundle) for job in queue.jobs()] == [("train", "small")]
