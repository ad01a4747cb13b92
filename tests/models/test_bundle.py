"""Bundles appear whole or not at all, and are opened only if they are what was written."""

import json
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from models.conftest import TinyBundle

from ram_backend.errors import BundleDamaged, BundleNotFound, CheckpointError
from ram_backend.models.bundle import bundle_digest, new_bundle, open_bundle
from ram_backend.models.preprocessing import Preprocessing


@pytest.fixture
def copied(tiny_bundle: TinyBundle, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_bundle("ram").path, tmp_path / "copy"))


@pytest.mark.parametrize("name", ["network.safetensors", "vocabulary.json", "label_embeddings.safetensors"])
def test_a_missing_or_shortened_file_is_named(copied: Path, name: str) -> None:
    file = copied / name
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(BundleDamaged, match=name):
        open_bundle(copied)
    file.unlink()
    with pytest.raises(BundleDamaged, match=f"{name} is missing"):
        open_bundle(copied)


RUBBISH = ["", "[]", "{}", "{", '{"format": 1}', "[" * 100_000]
ELSEWHERE = ['{"format": 1, "files": {}}', '{"format": 1, "files": {"../../etc/hostname": {}}}']


@pytest.mark.parametrize("text", RUBBISH + ELSEWHERE)
def test_a_manifest_of_rubbish_or_one_that_leads_away_is_damage(copied: Path, text: str) -> None:
    (copied / "bundle.json").write_text(text)
    with pytest.raises(BundleDamaged, match=r"bundle\.json"):
        open_bundle(copied)


@pytest.mark.parametrize("key", ["kind", "digest", "preprocessing", "text_encoder", "new_tag_threshold", "format"])
def test_a_manifest_that_lacks_something_is_damage(copied: Path, key: str) -> None:
    manifest = json.loads((copied / "bundle.json").read_text())
    del manifest[key]
    (copied / "bundle.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleDamaged, match=key):
        open_bundle(copied)
    (copied / "bundle.json").write_text(json.dumps({**manifest, "format": 99}))
    with pytest.raises(BundleDamaged, match=r"format 99.*update"):
        open_bundle(copied)
    with pytest.raises(BundleNotFound, match="bundles list"):
        open_bundle(copied / "nothing")


def test_what_a_killed_process_left_goes_away(tmp_path: Path) -> None:
    code = (
        "import os, pathlib; from ram_backend.models.bundle import new_bundle\n"
        f"with new_bundle(pathlib.Path({str(tmp_path)!r}), 'again', {{}}) as directory:\n"
        "    (directory / 'network.safetensors').write_bytes(b'half'); os._exit(9)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 9
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == [".again.partial"]
    with new_bundle(tmp_path, "again", {"kind": "ram"}) as directory:
        (directory / "file").write_bytes(b"abc")
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["again"]
    manifest = json.loads((tmp_path / "again" / "bundle.json").read_text())
    assert manifest["files"]["file"]["bytes"] == 3
    assert manifest["files"]["file"]["sha256"].startswith("ba7816bf")


def test_of_two_writers_of_one_name_the_second_waits_and_the_first_wins(tmp_path: Path) -> None:
    """Two threads have one process number, as two containers can that share the folder."""
    begun, second_came = threading.Event(), threading.Event()

    def first() -> None:
        with new_bundle(tmp_path, "same", {"by": "first"}) as directory:
            begun.set()
            second_came.wait(0.5)
            (directory / "file").write_bytes(b"whole")

    writer = threading.Thread(target=first)
    writer.start()
    assert begun.wait(60)
    with pytest.raises(CheckpointError, match="already a bundle"), new_bundle(tmp_path, "same", {"by": "second"}):
        second_came.set()
    writer.join()
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["same"]
    assert json.loads((tmp_path / "same" / "bundle.json").read_text())["by"] == "first"
    assert (tmp_path / "same" / "file").read_bytes() == b"whole"


def test_a_writer_that_takes_too_long_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ram_backend.models.bundle.WAIT_S", 0.05)
    with (
        new_bundle(tmp_path, "slow", {}),
        pytest.raises(CheckpointError, match="Another process has been writing the bundle 'slow'"),
        new_bundle(tmp_path, "slow", {}),
    ):
        pass


@pytest.mark.parametrize("name", ["", ".hidden", "a/b", "..", "a b", "x" * 65])
def test_names_that_are_no_directory_names_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(CheckpointError, match="can't name a bundle"), new_bundle(tmp_path, name, {}):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_digest_names_what_a_bundle_was_made_from() -> None:
    made: list[Any] = ["ram", {"a": 1, "b": [2]}, Preprocessing(64), {"tags": "1" * 64}]
    first = bundle_digest(*made)
    assert first == bundle_digest("ram", {"b": [2], "a": 1}, *made[2:])
    others = ["ram_plus", {"a": 2, "b": [2]}, Preprocessing(65), {"tags": "2" * 64}]
    assert len({first, *(bundle_digest(*made[:at], other, *made[at + 1 :]) for at, other in enumerate(others))}) == 5
