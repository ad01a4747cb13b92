"""Localisation by evidence maps on photos with boxes: pointing game, IoU of the best box, and what the maps cost.

    python benchmarks/regions.py --data FOLDER    (a folder with boxes.jsonl and images/)

Only rows that aren't in `train` count: the starter learned from those. A pair
is a photo and a tag that it shows. Pointing game: the share of pairs whose
point lies in a box of the tag; `small` are pairs whose largest box takes less
than 9 % of the photo.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np

from ram_backend.images.decode import decode
from ram_backend.models.bundle import open_bundle
from ram_backend.models.network import load_network
from ram_backend.models.starter.install import install_starter
from ram_backend.regions.evidence import locate
from ram_backend.settings import load_settings

SMALL = 0.09
Box = tuple[float, float, float, float]


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--split", nargs="*", default=["val", "test"])
    options = parser.parse_args()
    rows = [json.loads(line) for line in (options.data / "boxes.jsonl").read_text().splitlines()]
    rows = [row for row in rows if row["split"] in options.split]
    network_of = open_bundle(install_starter(load_settings().data_dir / "bundles"))
    network = load_network(network_of, threads=1)
    prepare, vocabulary = network_of.preprocessing, network_of.vocabulary
    tags = sorted({each["tag"] for row in rows for each in row["boxes"]})
    rows_of = {tag: row for tag in tags if (row := vocabulary.find(tag)) is not None}
    everything = network.select(range(len(vocabulary)))
    hits: list[tuple[bool, bool, bool]] = []  # ours, the centre's, small
    overlaps: list[tuple[float, float]] = []  # best box, whole photo
    tagging = mapping = 0.0
    for row in rows:
        started = time.perf_counter()
        pixels = prepare(decode(options.data / "images" / row["file"], exif_orientation=True, alpha="white",
                                max_pixels=10**8, max_bytes=10**8)[0])[None]  # fmt: skip
        tokens = network.encode(pixels)
        network.logits(tokens, everything)
        tagging += time.perf_counter() - started
        there = [tag for tag in rows_of if any(each["tag"] == tag for each in row["boxes"])]
        started = time.perf_counter()
        found = locate(network, [rows_of[tag] for tag in there], there, [1.0] * len(there), tokens[0])
        mapping += time.perf_counter() - started
        for tag in there:
            boxes = [tuple(each["box"]) for each in row["boxes"] if each["tag"] == tag]
            small = max((x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in boxes) < SMALL
            best = [one for one in found if one.tag == tag]
            hits.append((_inside(best[0].point, boxes), _inside((0.5, 0.5), boxes), small))
            overlaps.append((max(_iou(one.box, box) for one in best for box in boxes),
                             max(_iou((0, 0, 1, 1), box) for box in boxes)))  # fmt: skip
    ours, centre, small = np.array(hits).T
    print(f"{len(rows)} photos, {len(hits)} pairs, {small.sum()} of them small")
    print(f"pointing game: {ours.mean():.3f} (the centre: {centre.mean():.3f})")
    print(f"  small ones:  {ours[small].mean():.3f} (the centre: {centre[small].mean():.3f})")
    ious = np.array(overlaps).mean(axis=0)
    print(f"mean IoU of the best box: {ious[0]:.3f} (the whole photo: {ious[1]:.3f})")
    print(f"maps and boxes take {mapping / tagging:.1%} of the time of tagging")


def _inside(point: tuple[float, float], boxes: list[Box]) -> bool:
    return any(x0 <= point[0] <= x1 and y0 <= point[1] <= y1 for x0, y0, x1, y1 in boxes)


def _iou(one: Box, other: Box) -> float:
    width = max(0.0, min(one[2], other[2]) - max(one[0], other[0]))
    height = max(0.0, min(one[3], other[3]) - max(one[1], other[1]))
    both = (one[2] - one[0]) * (one[3] - one[1]) + (other[2] - other[0]) * (other[3] - other[1])
    return width * height / (both - width * height)


if __name__ == "__main__":
    main()
