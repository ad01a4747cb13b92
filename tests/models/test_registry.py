"""Finding bundles by name."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from ram_backend.errors import BundleDamaged, BundleNotFound
from ram_backend.models.bundle import Bundle
from ram_backend.models.registry import find_bundle, list_bundles

TinyBundle = Callable[[str], Bundle]


@pytest.fixture
def bundles(tiny_bundle: TinyBundle, tmp_path: Path) -> Path:
    folder = tmp_path / "bundles"
    for kind in ("ram", "tag2text"):
        shutil.copytree(tiny_bundle(kind).path, folder / kind)
    return folder


def test_an_empty_data_folder_has_the_starter(tmp_path: Path) -> None:
    (entry,) = list_bundles(tmp_path / "nothing")
    assert (entry.name, entry.kind, entry.installed, entry.problem) == ("starter", "starter", False, None)
    assert not (tmp_path / "nothing").exists()


def test_the_list_says_what_each_is(bundles: Path) -> None:
    (bundles / ".ram.123.partial").mkdir()
    entries = list_bundles(bundles)
    assert [entry.name for entry in entries] == ["starter", "ram", "tag2text"]
    assert "7 tags, any new tag" in entries[1].summary
    assert "7 tags, no new tags" in entries[2].summary
    assert all(entry.installed for entry in entries[1:])
    assert find_bundle("ram", bundles).name == "ram"
    assert find_bundle(str(bundles / "tag2text"), bundles / "elsewhere").kind == "tag2text"
    with pytest.raises(BundleNotFound, match=r"'nothing'.*starter, ram, tag2text.*bundles pull"):
        find_bundle("nothing", bundles)


def test_a_damaged_bundle_is_listed_with_its_problem(bundles: Path) -> None:
    (bundles / "ram" / "vocabulary.json").unlink()
    (entry,) = (entry for entry in list_bundles(bundles) if entry.name == "ram")
    assert entry.problem is not None
    assert "vocabulary.json is missing" in entry.problem
    with pytest.raises(BundleDamaged, match="vocabulary"):
        find_bundle("ram", bundles)
