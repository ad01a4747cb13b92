"""Finding bundles by name."""

import shutil
from pathlib import Path

import pytest
from models.conftest import TinyBundle

from ram_backend.errors import BundleDamaged, BundleNotFound
from ram_backend.models.registry import find_bundle, list_bundles


@pytest.fixture
def bundles(tiny_bundle: TinyBundle, tmp_path: Path) -> Path:
    folder = tmp_path / "bundles"
    for kind in ("ram", "tag2text"):
        shutil.copytree(tiny_bundle(kind).path, folder / kind)
    return folder


def test_the_list_says_what_each_is(bundles: Path) -> None:
    (bundles / ".ram.123.partial").mkdir()
    entries = list_bundles(bundles)
    assert [entry.name for entry in entries] == ["starter", "ram", "tag2text"]
    assert "7 tags, any new tag" in entries[1].summary
    assert "7 tags, no new tags" in entries[2].summary
    assert [entry.installed for entry in entries] == [False, True, True]
    assert find_bundle("ram", bundles).name == "ram"
    assert find_bundle(str(bundles / "tag2text"), bundles / "elsewhere").kind == "tag2text"
    with pytest.raises(BundleNotFound, match=r"'nothing'.*starter, ram, tag2text.*bundles pull"):
        find_bundle("nothing", bundles)


def test_a_damaged_bundle_is_listed_with_its_problem(bundles: Path) -> None:
    (bundles / "ram" / "vocabulary.json").unlink()
    (entry,) = (entry for entry in list_bundles(bundles) if entry.name == "ram")
    assert "vocabulary.json is missing" in str(entry.problem)
    with pytest.raises(BundleDamaged, match="vocabulary"):
        find_bundle("ram", bundles)
