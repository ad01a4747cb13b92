"""Versions that are damaged, foreign, rejected or impossible: never served, and said to be there."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from support.processes import wait_until
from support.server import ON_BOTH_DATABASES, House, Houses
from support.tiny_model import ColourNetwork, colours
from support.versions import REJECT, lineage

from ram_backend.errors import DatabaseUnavailable
from ram_backend.projects.keys import ProjectKey
from ram_backend.versions.directory import write_version
from ram_backend.versions.table import VersionTable

pytestmark = ON_BOTH_DATABASES

DAMAGE: dict[str, Callable[[Path], object]] = {
    "gone": lambda path: path.rename(path.parent / "elsewhere"),
    "truncated": lambda path: os.truncate(path / "delta.safetensors", 64),
    "manifest": lambda path: (path / "manifest.json").write_text("{}"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_version_is_quarantined_and_the_old_one_stays(there: House, kind: str) -> None:
    there.serve(there.make(-5.0))
    before, bad = there.scores(), there.make(5.0)
    DAMAGE[kind](bad.path)
    there.publish(bad)
    wait_until(lambda: there.quarantined)
    assert there.client.get("/ready").status_code == 200, "what was served still is"
    (found,) = there.quarantined
    assert (found["version"], found["serving"], found["project"]) == ("v0002", "v0001", str(there.key))
    assert (there.setup(), there.scores()) == (before[0], before)
    wait_until(lambda: "v0002" in str(there.table.get(there.key, "v0002").quarantined))
    assert "ram_versions_quarantined 1.0" in there.client.get("/metrics").text
    there.serve(there.make(6.0))
    assert there.quarantined == []


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_version_at_the_start_leaves_the_base(house: Houses, kind: str) -> None:
    first = house()
    base = first.scores()
    stored = first.make(-5.0)
    first.serve(stored)
    DAMAGE[kind](stored.path)
    second = house()
    assert second.scores() == base, "the very first answer is the base's"
    assert second.setup() == base[0]
    (found,) = second.quarantined
    assert (found["version"], found["serving"]) == ("v0001", "base")
    third = house()
    assert third.setup() == base[0], "known to be damaged: not even named"


def test_a_version_that_was_restored_is_served_again(there: House) -> None:
    stored = there.make(-5.0)
    hidden = stored.path.rename(stored.path.parent / "hidden")
    there.publish(stored)
    wait_until(lambda: there.table.get(there.key, "v0001").quarantined is not None)
    hidden.rename(stored.path)
    wait_until(lambda: there.is_served("v0001"))
    wait_until(lambda: there.table.get(there.key, "v0001").quarantined is None)
    assert there.scores()[1] == []


def test_foreign_rejected_and_impossible_versions_are_never_served(there: House) -> None:
    before = there.scores()
    other = ProjectKey("http://elsewhere", 1, 1_795_452_148)
    foreign = there.make(9.0, key=other)
    copied = there.make(-5.0)
    shutil.copytree(foreign.path, copied.path, dirs_exist_ok=True)
    exchanged, instead = there.make(-4.0), there.make(-3.0)
    shutil.copytree(instead.path, exchanged.path, dirs_exist_ok=True)
    rejected = there.make(-2.0, verdict={"outcome": "accept"})
    real = write_version(
        there.settings.versions_dir.parent / "other", there.key, colours(-2.0), {}, lineage(), REJECT, first_number=5
    )
    (rejected.path / "manifest.json").write_bytes((real.path / "manifest.json").read_bytes())
    huge = there.make(3e38)
    for stored in (copied, exchanged, rejected, huge):
        there.publish(stored)
        wait_until(lambda name=stored.name: [each["version"] for each in there.quarantined] == [name])
        assert there.scores() == before, stored.name


def test_scores_that_are_no_numbers_quarantine_a_version(house: Houses) -> None:
    """Whatever a version computes: where an image's score is none, it isn't served."""

    class Broken(ColourNetwork):
        broken = False

        def logits(self, tokens: np.ndarray, queries: np.ndarray) -> np.ndarray:
            found = super().logits(tokens, queries)
            return found * np.nan if self.broken else found

    network = Broken()
    there = house(network=network)
    before = there.scores()
    network.broken = True
    there.publish(there.make(1.0))
    wait_until(lambda: there.quarantined)
    network.broken = False
    assert there.scores()[0] == before[0]
    assert "not a number between 0 and 1" in there.quarantined[0]["reason"]


def test_another_bundle(house: Houses, monkeypatch: pytest.MonkeyPatch) -> None:
    """A version of another bundle isn't served; a server that finds it when it starts asks to learn anew."""
    there = house()
    before = there.scores()
    there.publish(there.make(-5.0, bundle="e" * 64))
    wait_until(lambda: there.quarantined)
    assert "another bundle" in there.quarantined[0]["reason"]
    assert there.scores() == before
    assert there.jobs.asked == [], "another server may have that bundle"
    with monkeypatch.context() as patched:
        patched.setattr(VersionTable, "changes", Mock(side_effect=DatabaseUnavailable("It is away at the start.")))
        second = house()
        assert second.scores() == before
    wait_until(lambda: second.jobs.asked)
    assert second.jobs.asked == [(there.key, "the bundle has changed")]
    assert there.jobs.asked == []
    second.serve(second.make(-5.0))
