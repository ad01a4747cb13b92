"""'Tick only where precision is at least p': which thresholds that means, and for which tags it can be promised. Pure.

A calibrated score is the expected precision at that score: of images on which a tag scores .9, nine of ten have it. Of
all that lies above a threshold at least that share is right, however the scores of a project are spread, and below it
there is always a spread for which it is less. So p itself is the lowest threshold that keeps the promise.

That holds as far as the calibration does: for tags that have a curve of their own, on photos such as those it was
fitted on. All other tags are ticked above p, too, but never below the bundle's threshold, and are named.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from ram_backend.models.bundle import Bundle

_NAMED = 5
_NEW = "not in the vocabulary, scored from their text alone"
_SHARED = "no calibration of their own, one curve serves many tags"
_PLAIN = "not calibrated, their scores are the network's own"


class Certainty:
    """What a bundle's calibration can promise.

    Args:
        bundle: whose scores they are.
    """

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle
        curves = list(zip(bundle.calibration.slope.tolist(), bundle.calibration.offset.tolist(), strict=True))
        known = Counter(curves)
        self._of_row = [_PLAIN if curve == (1.0, 0.0) else _SHARED if known[curve] > 1 else None for curve in curves]

    def threshold(self, texts: Sequence[str], precision: float) -> float:
        """Of a choice with these texts: `precision`, or a higher threshold of the bundle where nothing is promised.

        Args:
            texts: what is scored, one or more.
            precision: in [0, 1].
        """
        rows = self._bundle.vocabulary.resolve(texts)
        own = [
            self._bundle.new_tag_threshold if row is None else self._bundle.vocabulary.thresholds[row]
            for row in rows
            if self._trouble(row) is not None
        ]
        return max([precision, *(float(f"{each:.6g}") for each in own)])

    def notes(self, name: str, precision: float, texts: Sequence[str], own_threshold: Sequence[str]) -> list[str]:
        """For which tags of a control the precision is promised, and for which not and why: sentences.

        Args:
            name: of the control.
            precision: in [0, 1].
            texts: what is scored of choices that have no threshold of their own.
            own_threshold: what is scored of those that have one.
        """
        troubles: dict[str, list[str]] = {}
        for text, row in zip(texts, self._bundle.vocabulary.resolve(texts) if texts else (), strict=True):
            trouble = self._trouble(row)
            if trouble is not None:
                troubles.setdefault(trouble, []).append(text)
        if own_threshold:
            troubles["a threshold of their own"] = list(own_threshold)
        without = sum(map(len, troubles.values()))
        held = len(texts) + len(own_threshold) - without
        found = [
            f"{name!r} ticks tags where at least {precision:.0%} of such ticks are right: promised, on photos like"
            f" those that bundle {self._bundle.name!r} was calibrated with, for {held} of {held + without} tags."
        ]
        return found + [f"{name!r}: not promised for {_named(tags)}: {why}." for why, tags in troubles.items()]

    def _trouble(self, row: int | None) -> str | None:
        return _NEW if row is None else self._of_row[row]


def of_dynamic(name: str, precision: float) -> str:
    """What can be said of a control whose choices come with each task."""
    return (
        f"{name!r} ticks tags where at least {precision:.0%} of such ticks are right; its choices come with each task:"
        " it is not promised for those that the vocabulary doesn't know, or has no calibration of their own for."
    )


def _named(tags: Sequence[str]) -> str:
    more = f" and {len(tags) - _NAMED} more" if len(tags) > _NAMED else ""
    return ", ".join(repr(tag) for tag in tags[:_NAMED]) + more
