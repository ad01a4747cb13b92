"""A rollback brings back all of a version: its scores, and the thresholds that tags are ticked by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from server.house import ON_BOTH_DATABASES, House, colours
from server.playing import wait_until
from versions.making import lineage

from ram_backend.versions.directory import StoredVersion, write_version

pytestmark = ON_BOTH_DATABASES


def make(there: House, thresholds: float) -> StoredVersion:
    """A version whose scores are those of every other one, with other thresholds."""
    delta = replace(colours(0.0), thresholds=np.full(2, thresholds, dtype=np.float32))
    number = there.table.next_number(there.key)
    verdict = {"outcome": "accept", "reason": "better", "figures": {}}
    facts = lineage(bundle_digest="d" * 64)
    stored = write_version(there.settings.versions_dir, there.key, delta, {}, facts, verdict, first_number=number)
    there.table.record(stored)
    return stored


def test_thresholds_are_those_of_the_version_that_is_served(house: Callable[..., House]) -> None:
    there = house()
    base = there.scores()
    assert base[1] == ["red"]
    ticking, careful = make(there, 0.5), make(there, 0.999)
    answers = {}
    for stored, ticked in ((ticking, ["red"]), (careful, [])):
        there.publish(stored)
        wait_until(lambda name=stored.name: there.is_served(name))
        answers[stored.name] = there.scores()
        assert answers[stored.name][1] == ticked
    for name in (ticking.name, careful.name, ticking.name):
        there.table.roll_back(there.key, name)
        wait_until(lambda name=name: there.is_served(name))
        assert there.scores() == answers[name]
    there.table.roll_back(there.key, None)
    wait_until(lambda: there.is_served("base"))
    assert there.scores() == base
