"""Near-duplicates: groups by perceptual hash and bytes."""

import numpy as np
from numpy.typing import NDArray

from ram_backend.images.near_duplicates import group_near_duplicates

PHASH = np.random.default_rng(3).integers(0, 2**64, 300, dtype=np.uint64)
CONTENT = tuple(f"{number:064x}" for number in range(300))


def test_groups_follow_bits_and_contents() -> None:
    base = int(PHASH[0])
    near, chain, far = base ^ 0xFF, base ^ 0xFFFF, base ^ 0x1FF << 20  # 8, 16 and 9 bits from the first
    phash = np.array([base, near, chain, far, *PHASH[1:17]], dtype=np.uint64)
    groups = group_near_duplicates(phash, CONTENT[:20])
    assert groups[0] == groups[1] == groups[2] != groups[3]  # the third through the second
    assert len(set(groups)) == 18
    same_bytes = group_near_duplicates(phash, (*CONTENT[:3], CONTENT[10], *CONTENT[4:20]))
    assert same_bytes[3] == same_bytes[10]
    assert list(dict.fromkeys(same_bytes)) == list(range(17))  # numbered in order of appearance


def test_near_pairs_are_found_wherever_their_bits_differ() -> None:
    random = np.random.default_rng(1)
    hashes = PHASH[:300].copy()
    for place in range(150):
        flipped = random.permutation(64)[: random.integers(1, 9)]
        hashes[150 + place] = hashes[place] ^ np.uint64(sum(1 << int(bit) for bit in flipped))
    groups = group_near_duplicates(hashes, CONTENT[:300])
    assert len(set(groups)) == 150
    assert (groups[:150] == groups[150:]).all()


def test_photos_of_one_fixed_camera_are_told_apart_more_finely() -> None:
    """Sixteen scenes eight bits apart, five near-duplicates of each: one group would leave nothing to judge by."""
    scenes = [int(PHASH[0]) ^ (0b1111 << 4 * scene) for scene in range(16)]
    copies = [scene ^ (1 << 4 * number + bit) for number, scene in enumerate(scenes) for bit in range(4)]
    groups = group_near_duplicates(np.array([*scenes, *copies], dtype=np.uint64), CONTENT[:80])
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
    groups = group_near_duplicates(np.concatenate([pairs, camera(50, 70)]), CONTENT[:190])
    assert (groups[:140:2] == groups[1:140:2]).all()
    assert len(set(groups[:140])) == 70
    assert np.bincount(groups[140:]).max() <= 0.25 * 190  # taken apart, where they made one group
    assert not set(groups[:140]) & set(groups[140:])


def test_pictures_that_all_hash_alike_are_told_apart_by_their_bytes() -> None:
    flat = np.zeros(256, dtype=np.uint64)
    assert len(set(group_near_duplicates(flat, CONTENT[:256]))) == 256
    assert set(group_near_duplicates(flat, ("same",) * 256)) == {0}
