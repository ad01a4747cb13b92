"""A version on disk: written whole or not at all, and never read where it is not what was written."""

import json
import multiprocessing
import os
import shutil
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from support.versions import ACCEPT, BUNDLE, KEY, OTHER, REJECT, delta, lineage, write, write_and_die

from ram_backend.errors import VersionDamaged, VersionsUnavailable
from ram_backend.models.bundle import Bundle
from ram_backend.versions.directory import (
    folder_of,
    manifest_text,
    open_version,
    remove_version,
    version_path,
    write_version,
)


def test_what_was_written_is_what_is_read(tmp_path: Path) -> None:
    stored = write(tmp_path, 0.5, files={"head.safetensors": b"weights"})
    assert (stored.name, stored.path) == ("v0001", version_path(tmp_path, KEY, "v0001"))
    version = open_version(stored.path, BUNDLE, key=KEY, digest=stored.digest)
    assert version.delta.tags == ("red", "green")
    for name, array in delta(0.5).to_tensors().items():
        np.testing.assert_array_equal(version.delta.to_tensors()[name], array)
    assert (version.files, version.lineage) == ({"head.safetensors": b"weights"}, lineage())
    assert (version.key, version.name, version.digest, version.verdict) == (KEY, "v0001", stored.digest, ACCEPT)


def test_names_count_up_per_project(tmp_path: Path) -> None:
    assert [write(tmp_path).name for _ in range(3)] == ["v0001", "v0002", "v0003"]
    assert write(tmp_path, key=OTHER).name == "v0001"
    assert write(tmp_path, first_number=9).name == "v0009"
    remove_version(tmp_path, KEY, "v0003")
    remove_version(tmp_path, KEY, "v0003")
    assert not version_path(tmp_path, KEY, "v0003").exists()
    assert write(tmp_path).name == "v0010", "names are not used again"


def test_the_digest_names_the_behaviour(tmp_path: Path) -> None:
    same = {write(tmp_path).digest, write(tmp_path, verdict=REJECT, parent="v0001").digest}
    assert len(same) == 1
    others = {
        write(tmp_path, 0.5).digest,
        write(tmp_path, tags=("red", "blue")).digest,
        write(tmp_path, files={"head": b"x"}).digest,
        write_version(tmp_path, KEY, delta(), {}, lineage(bundle_digest="e" * 64), ACCEPT).digest,
    }
    assert len(others | same) == 5


def _manifest(path: Path, **changes: Any) -> None:
    """Writes another manifest, with a right checksum: somebody who knows the format."""
    manifest = json.loads((path / "manifest.json").read_text())
    manifest.pop("checksum")
    (path / "manifest.json").write_text(manifest_text({**manifest, **changes}))


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "no directory": (shutil.rmtree, "is missing"),
    "no manifest": (lambda path: (path / "manifest.json").unlink(), "lacks manifest.json"),
    "no delta": (lambda path: (path / "delta.safetensors").unlink(), "lacks delta.safetensors"),
    "delta truncated": (lambda path: os.truncate(path / "delta.safetensors", 100), "bytes instead of"),
    "one bit of another file": (lambda path: (path / "head.bin").write_bytes(b"abb"), "corrupted head.bin"),
    "manifest truncated": (lambda path: os.truncate(path / "manifest.json", 200), "unreadable manifest.json"),
    "manifest nested": (lambda path: (path / "manifest.json").write_text("[" * 100_000), "unreadable"),
    "manifest altered": (
        lambda path: (path / "manifest.json").write_text(
            (path / "manifest.json").read_text().replace('"seed": 4', '"seed": 5')
        ),
        "was altered",
    ),
    "another format": (lambda path: _manifest(path, format=2), "has format 2"),
    "another name in it": (lambda path: _manifest(path, name="v0002"), "written as 'v0002'"),
    "another project in it": (
        lambda path: _manifest(path, project={"instance": "http://other", "id": 7, "created": 1_795_452_148}),
        "another project",
    ),
    "another digest in it": (lambda path: _manifest(path, digest="0" * 64), "another digest than its files"),
    "file outside": (
        lambda path: _manifest(path, files={"../delta.safetensors": {"sha256": "0" * 64, "bytes": 1}}),
        "can't be right",
    ),
    "no verdict": (lambda path: _manifest(path, verdict={}), "lacks or garbles"),
    "lineage garbled": (lambda path: _manifest(path, lineage={"parent": None}), "lineage can't be read"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_what_is_damaged_is_never_opened(tmp_path: Path, kind: str) -> None:
    stored = write(tmp_path, files={"head.bin": b"abc"})
    damage, said = DAMAGE[kind]
    damage(stored.path)
    with pytest.raises(VersionDamaged, match=said) as caught:
        open_version(stored.path, BUNDLE)
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith(("train again.", "Train again.")), "it says what to do"


def test_every_single_byte_counts(tmp_path: Path) -> None:
    """Wherever one byte differs, nothing is opened."""
    path = write(tmp_path).path
    for name in ("manifest.json", "delta.safetensors"):
        whole = (path / name).read_bytes()
        for place in range(0, len(whole), 7):
            altered = bytearray(whole)
            altered[place] ^= 4
            (path / name).write_bytes(altered)
            with pytest.raises(VersionDamaged):
                open_version(path, BUNDLE)
        (path / name).write_bytes(whole)
    open_version(path, BUNDLE)


def test_a_version_of_another_project_bundle_or_digest_is_refused(tmp_path: Path) -> None:
    stored, foreign = write(tmp_path), write(tmp_path, 1.0, key=OTHER)
    with pytest.raises(VersionDamaged, match="another project"):
        open_version(stored.path, BUNDLE, key=OTHER)
    copied = tmp_path / folder_of(KEY) / "v0002"
    shutil.copytree(foreign.path, copied)
    with pytest.raises(VersionDamaged, match="another project"):
        open_version(copied, BUNDLE)
    renamed = tmp_path / folder_of(KEY) / "v0003"
    shutil.copytree(stored.path, renamed)
    with pytest.raises(VersionDamaged, match="stands under another name"):
        open_version(renamed, BUNDLE)
    with pytest.raises(VersionDamaged, match="than the one that was recorded"):
        open_version(stored.path, BUNDLE, digest=foreign.digest)
    other = cast(Bundle, type("B", (), {"name": "b2", "digest": "e" * 64})())
    with pytest.raises(VersionDamaged, match=r"another bundle \('colours', digest dddddddddddd\).*'b2'"):
        open_version(stored.path, other)


def test_a_disk_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "versions").write_text("a file")
    with pytest.raises(VersionsUnavailable, match="can't be written"):
        write(tmp_path / "versions")

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(VersionsUnavailable, match="No space left"):
        write(tmp_path / "other")
    monkeypatch.undo()
    assert list((tmp_path / "other").rglob("v0001")) == [], "nothing half-written is left"
    assert write(tmp_path / "other").name == "v0001"


@pytest.mark.parametrize("at", [1, 2, 3])
def test_a_killed_writer_leaves_nothing_that_counts(tmp_path: Path, at: int) -> None:
    write(tmp_path)
    process = multiprocessing.get_context("spawn").Process(target=write_and_die, args=(tmp_path, at))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    project = tmp_path / folder_of(KEY)
    assert [path.name for path in project.glob("v*")] == ["v0001"]
    assert len(list(project.glob(".*.partial"))) == 1
    assert write(tmp_path, 2.0).name == "v0002"
    assert list(project.glob(".*.partial")) == [], "the next writer sweeps"
    assert open_version(project / "v0002", BUNDLE).delta.bias[0] == 2.0


def test_many_writers_at_once(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, [tmp_path] * 8, map(float, range(8))))
    versions = [open_version(path, BUNDLE) for path in sorted((tmp_path / folder_of(KEY)).glob("v*"))]
    assert [each.name for each in versions] == [f"v{number:04d}" for number in range(1, 9)]
    assert {float(each.delta.bias[0]) for each in versions} == set(map(float, range(8)))
