"""Regions from evidence maps: where a bump is, how many, and what networks give for them."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ram_backend.regions.evidence import Region, locate


def regions_of(tags: list[str], scores: list[float], maps: np.ndarray) -> list[Region]:
    """What a network with these evidence maps (S, S, L) places."""
    network: Any = SimpleNamespace(select=len, evidence=lambda tokens, _: maps[None])
    return locate(network, range(len(tags)), tags, scores, np.zeros((1, 1), np.float32))


def bumps(*places: tuple[float, float, float], side: int = 9) -> np.ndarray:
    """A map (side, side) with a bump of a height at each (x, y, height)."""
    row = (np.arange(side) + 0.5) / side
    found = np.zeros((side, side), np.float32)
    for x, y, height in places:
        found += height * np.exp(-((row[None] - x) ** 2 + (row[:, None] - y) ** 2) / 0.01)
    return found


def test_region_is_where_the_evidence_is() -> None:
    maps = np.stack([bumps((0.2, 0.7, 1.0)), bumps((0.8, 0.3, 5.0))], axis=-1)
    cat, dog = regions_of(["cat", "dog"], [0.9, 0.6], maps)
    assert (cat.tag, dog.tag) == ("cat", "dog")
    assert (cat.score, dog.score) == (pytest.approx(0.9), pytest.approx(0.6))
    assert cat.point == pytest.approx((0.2, 0.7), abs=0.05)
    assert dog.point == pytest.approx((0.8, 0.3), abs=0.05)
    x0, y0, x1, y1 = cat.box
    assert 0 <= x0 < 0.2 < x1 < 0.4
    assert 0.5 < y0 < 0.7 < y1 <= 1


def test_regions_of_one_tag_are_three_at_most_best_first() -> None:
    places = [(0.2, 0.2, 0.7), (0.8, 0.2, 1.0), (0.2, 0.8, 0.8), (0.8, 0.8, 0.9)]
    found = regions_of(["cat"], [0.5], bumps(*places)[:, :, None])
    best = [pytest.approx(place, abs=0.06) for place in [(0.8, 0.2), (0.8, 0.8), (0.2, 0.8)]]
    assert [one.point for one in found] == best
    assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)
    assert found[0].score == pytest.approx(0.5)


def test_flat_map_gives_the_whole_image() -> None:
    assert regions_of(["sky"], [0.5], np.ones((5, 5, 1), np.float32)) == [Region("sky", 0.5, (0, 0, 1, 1), (0.5, 0.5))]
