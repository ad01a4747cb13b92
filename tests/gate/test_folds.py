"""Fit and gate: stable, nested, look-alikes together."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from numpy.typing import NDArray

from ram_backend.errors import InputError
from ram_backend.gate.folds import gate_share, group_alike, split
from ram_backend.gate.training_set import TrainingSet

PHASH = np.random.default_rng(3).integers(0, 2**64, 4000, dtype=np.uint64)
CONTENT = tuple(f"{number:064x}" for number in range(4000))


def training_set(
    rows: NDArray[np.int64] | range,
    *,
    phash: NDArray[np.uint64] | None = None,
    content: tuple[str, ...] | None = None,
    truth: tuple[int, ...] = (),
) -> TrainingSet:
    """Images by number; only what the split looks at differs between them."""
    count = len(rows)
    pairs = np.zeros((count, 1), dtype=np.float32)
    marks = np.zeros(count, dtype=np.bool_)
    marks[list(truth)] = True
    return TrainingSet(
        tags=("cat",),
        features=np.zeros((count, 2), dtype=np.float32),
        tokens=None,
        base=pairs,
        incumbent=pairs,
        labels=pairs > 0,
        weights=pairs,
        content=tuple(CONTENT[row] for row in rows) if content is None else content,
        phash=PHASH[np.asarray(rows, dtype=np.int64)] if phash is None else phash,
        ground_truth=marks,
        base_thresholds=np.full(1, 0.5, dtype=np.float32),
    )


def test_parts_are_disjoint_and_complete_and_of_about_the_wanted_share() -> None:
    for count in (100, 300, 1000, 3000):
        parts = split(training_set(range(count)))
        assert sorted([*parts.fit, *parts.gate]) == list(range(count))
        assert parts.share == gate_share(count)
        assert len(parts.gate) / count == pytest.approx(parts.share, abs=0.11)


def test_share_falls_from_four_to_two_tenths() -> None:
    assert [round(gate_share(count), 3) for count in (1, 100, 316, 1000, 10**6)] == [0.4, 0.4, 0.3, 0.2, 0.2]
    shares = [gate_share(count) for count in range(1, 1500)]
    assert all(one >= other for one, other in itertools.pairwise(shares))


def test_side_of_an_image_depends_on_nothing_but_the_image() -> None:
    order = np.random.default_rng(0).permutation(500)
    straight, shuffled = split(training_set(range(500))), split(training_set(order))
    assert set(order[shuffled.gate]) == set(straight.gate)


def test_images_only_move_from_gate_to_fit_as_corrections_come_in() -> None:
    share, gates, fits = None, [], []
    for count in (60, 100, 300, 301, 1000, 2500):
        parts = split(training_set(range(count)), at_most=share)
        gates.append(set(parts.gate))
        fits.append(set(parts.fit))
        share = parts.share
    for earlier, later in itertools.pairwise(fits):
        assert earlier <= later
    assert gates[-1] & set(range(60)) < gates[0]  # some have moved, none has joined


def test_gate_never_grows_within_a_lineage() -> None:
    served = split(training_set(range(1000)))
    fewer = split(training_set(range(200)), at_most=served.share)  # corrections were withdrawn
    assert fewer.share == served.share < gate_share(200)
    assert set(fewer.fit) == set(served.fit) & set(range(200))


@pytest.mark.parametrize("share", [0.0, -0.1, 1.1])
def test_impossible_share_is_refused(share: float) -> None:
    with pytest.raises(InputError, match="largest allowed share"):
        split(training_set(range(10)), at_most=share)


def test_look_alikes_stay_together() -> None:
    rows = np.arange(200)
    phash = PHASH[rows].copy()
    phash[100:] = PHASH[:100] ^ np.uint64(0b1001000100001)  # each a near-duplicate of one of the first hundred
    parts = split(training_set(rows, phash=phash))
    assert (parts.groups[:100] == parts.groups[100:]).all()
    assert len(np.unique(parts.groups)) == 100
    in_gate = np.isin(rows, parts.gate)
    assert (in_gate[:100] == in_gate[100:]).all()
    assert in_gate.any()
    assert parts.share == gate_share(100)  # counted are groups


def test_a_look_alike_that_comes_later_never_moves_an_image_to_the_gate() -> None:
    before = split(training_set(range(100)))
    phash = np.concatenate([PHASH[:100], PHASH[:100]])
    after = split(training_set(range(200), phash=phash), at_most=before.share)
    assert set(before.fit) <= set(after.fit)
    assert set(after.gate) & set(range(100)) < set(before.gate)


def test_groups_follow_bits_and_contents() -> None:
    base = int(PHASH[0])
    near, chain, far = base ^ 0xFF, base ^ 0xFFFF, base ^ 0x1FF << 20  # 8, 16 and 9 bits from the first
    phash = np.array([base, near, chain, far, *PHASH[1:17]], dtype=np.uint64)
    groups = group_alike(phash, CONTENT[:20])
    assert groups[0] == groups[1] == groups[2] != groups[3]  # the third through the second
    assert len(set(groups)) == 18
    same_bytes = group_alike(phash, (*CONTENT[:3], CONTENT[10], *CONTENT[4:20]))
    assert same_bytes[3] == same_bytes[10]
    assert list(dict.fromkeys(same_bytes)) == list(range(17))  # numbered in order of appearance


def test_near_pairs_are_found_wherever_their_bits_differ() -> None:
    random = np.random.default_rng(1)
    hashes = PHASH[:300].copy()
    for place in range(150):
        flipped = random.permutation(64)[: random.integers(1, 9)]
        hashes[150 + place] = hashes[place] ^ np.uint64(sum(1 << int(bit) for bit in flipped))
    groups = group_alike(hashes, CONTENT[:300])
    assert (groups[:150] == groups[150:]).all()
    assert len(set(groups)) == 150


def test_photos_of_one_fixed_camera_are_told_apart_more_finely() -> None:
    """Sixteen scenes eight bits apart, five near-duplicates of each: one group would leave nothing to judge by."""
    scenes = [int(PHASH[0]) ^ (0b1111 << 4 * scene) for scene in range(16)]
    copies = [scene ^ (1 << 4 * number + bit) for number, scene in enumerate(scenes) for bit in range(4)]
    groups = group_alike(np.array([*scenes, *copies], dtype=np.uint64), CONTENT[:80])
    assert len(set(groups)) == 16
    assert (groups[16:] == np.repeat(groups[:16], 4)).all()


def camera(frames: int, start: int) -> NDArray[np.uint64]:
    """Hashes of a fixed camera's frames: each six bits from the one before."""
    hashes, current = [], int(PHASH[start])
    for number in range(frames):
        hashes.append(current)
        current ^= sum(1 << (6 * number + bit) % 64 for bit in range(6))
    return np.array(hashes, dtype=np.uint64)


def test_one_fixed_camera_takes_no_other_group_apart() -> None:
    pairs = np.repeat(PHASH[:70], 2)
    pairs[1::2] ^= np.uint64(0b111111)
    groups = group_alike(np.concatenate([pairs, camera(50, 70)]), CONTENT[:190])
    assert (groups[:140:2] == groups[1:140:2]).all()
    assert len(set(groups[:140])) == 70
    assert np.bincount(groups[140:]).max() <= 0.25 * 190  # taken apart, where they made one group
    assert not set(groups[:140]) & set(groups[140:])


def test_a_camera_that_fills_up_moves_no_other_image() -> None:
    pairs = np.repeat(PHASH[:70], 2)
    pairs[1::2] ^= np.uint64(0b111111)
    frames = camera(50, 70)
    share, fits = None, []
    for count in (20, 50):
        hashes = np.concatenate([pairs, frames[:count]])
        parts = split(training_set(range(len(hashes)), phash=hashes), at_most=share)
        fits.append(set(parts.fit[parts.fit < 140]))
        share = parts.share
    assert fits[0] <= fits[1]


def test_pictures_that_all_hash_alike_are_told_apart_by_their_bytes() -> None:
    flat = group_alike(np.zeros(256, dtype=np.uint64), CONTENT[:256])
    assert len(set(flat)) == 256
    parts = split(training_set(range(256), phash=np.zeros(256, dtype=np.uint64)))
    assert len(parts.fit) > 100
    assert len(parts.gate) > 50


def test_equal_bytes_are_one_group_whatever_their_number() -> None:
    assert set(group_alike(np.zeros(50, dtype=np.uint64), ("same",) * 50)) == {0}


def test_ground_truth_goes_to_the_gate_with_its_look_alikes() -> None:
    plain = split(training_set(range(100)))
    marked = tuple(int(row) for row in plain.fit[:10])
    phash = PHASH[:100].copy()
    friend = int(plain.fit[20])
    phash[friend] = phash[marked[0]]
    parts = split(training_set(range(100), phash=phash, truth=marked))
    assert {*marked, friend} <= set(parts.gate)
    assert set(plain.gate) <= set(parts.gate)


def test_where_nearly_all_is_ground_truth_half_of_it_is_learned_from() -> None:
    parts = split(training_set(range(200), truth=tuple(range(190))))
    assert 70 < len(parts.fit) < 130


def test_nothing_to_split() -> None:
    parts = split(training_set(range(0)))
    assert len(parts.fit) == len(parts.gate) == len(parts.groups) == 0
