"""Weakly supervised localisation: connected components of evidence maps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ram_backend.models.label_embeddings import Entry
from ram_backend.models.network import Network

FloatArray = NDArray[np.float32]

RESOLUTION = 45
"""Cells per side that a map is interpolated to."""
LEVEL = 0.4
"""Share of the way from mean to peak above which a cell belongs to a box."""
MOST_BOXES = 3


@dataclass(frozen=True)
class Region:
    """A tag's place in an image; coordinates are shares in [0, 1], from the top left.

    Attributes:
        tag: as it was asked for.
        score: in [0, 1], of the tag in this region.
        box: (x0, y0, x1, y1), x0 < x1, y0 < y1.
        point: (x, y) inside the box, where the evidence is strongest.
    """

    tag: str
    score: float
    box: tuple[float, float, float, float]
    point: tuple[float, float]

    def as_json(self) -> dict[str, object]:
        """`{"tag", "score", "box", "point"}`, rounded to 4 digits."""
        box, point = ([round(value, 4) for value in values] for values in (self.box, self.point))
        return {"tag": self.tag, "score": round(self.score, 4), "box": box, "point": point}


def locate(
    network: Network, entries: Sequence[Entry], tags: Sequence[str], scores: Sequence[float], tokens: FloatArray
) -> list[Region]:
    """At most three regions per tag of one image, from the tagging network itself.

    They are in the order of the tags, best first per tag. The first one has the
    tag's score, others a part of it by their peaks above the map's mean.

    Args:
        network: which made the tokens.
        entries: per tag its row in the vocabulary, or its text embeddings (k, d).
        tags: their names.
        scores: in [0, 1].
        tokens: (T, D) of the image.
    """
    if not tags:
        return []
    maps = network.evidence(tokens[None], network.select(entries))[0]
    found: list[Region] = []
    for tag, score, evidence in zip(tags, scores, np.moveaxis(maps, -1, 0), strict=True):
        found += [Region(tag, float(score * share), box, point) for share, box, point in _boxes(evidence)]
    return found


def _boxes(evidence: FloatArray) -> list[tuple[float, tuple[float, float, float, float], tuple[float, float]]]:
    """(share of the peak, box, point) of each part of a map (S, S), best first."""
    from scipy import ndimage

    places = (np.arange(RESOLUTION) + 0.5) / RESOLUTION * len(evidence) - 0.5
    fine = ndimage.map_coordinates(evidence, np.meshgrid(places, places, indexing="ij"), order=3, mode="nearest")
    height = fine - fine.mean()
    peak = float(height.max())
    if peak <= 0:  # a flat map says nothing of the place
        return [(1.0, (0.0, 0.0, 1.0, 1.0), (0.5, 0.5))]
    parts, count = ndimage.label(height >= LEVEL * peak)
    numbers = np.arange(1, count + 1)
    tops = ndimage.maximum(height, parts, numbers)
    where = ndimage.maximum_position(height, parts, numbers)
    spans = ndimage.find_objects(parts)
    order = np.argsort(-np.asarray(tops), kind="stable")[:MOST_BOXES]
    found = []
    for place in order:
        rows, columns = spans[place]
        box = (columns.start, rows.start, columns.stop, rows.stop)
        y, x = where[place]
        point = ((x + 0.5) / RESOLUTION, (y + 0.5) / RESOLUTION)
        found.append((float(tops[place]) / peak, tuple(float(edge) / RESOLUTION for edge in box), point))
    return found  # type: ignore[return-value]
