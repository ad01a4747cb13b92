"""What the gate lets through: honest and shuffled corrections, nothing to learn, and rounds on a served version.

    python benchmarks/gate_simulation.py --data DIR [--base DIR] [--seeds 20] [--splits val] [--json out.json]

A simulated annotator (see `annotated_photos.py`) corrects photos of the train split of `flickr8k_tags` with a starter
that was built without that set; without `--base` it is built first, unless `learning_curve.py` has built it already.
Then comes the product's own round: split, fit, choose, judge. "Shuffled" swaps the labels of all corrected photos among
them, "half shuffled" those of half of the photos. "Nothing to learn" has honest labels, but gives the fit and the
candidate each photo's features of another photo: what it learns can only be noise, and served it is by chance. Served
or not, each candidate is measured on photos that nobody trained or gated on; the gate doesn't see these figures.

The first table starts from the bundle. The second one goes on: 100 honest corrections, then the next ones up to 300 and
up to 1,000 as the column says, each round against what is served by then. The annotator corrects what is served at that
time, so later corrections have the weights that follow from its ticks, and earlier ones keep theirs.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from annotated_photos import (
    SET,
    AnnotatedPhotos,
    annotated,
    in_processes,
    learning_round,
    open_base,
    starter_without_set,
)
from numpy.typing import NDArray

from ram_backend.gate.judge import UNRELATED, Verdict
from ram_backend.gate.training_set import TrainingSet
from ram_backend.metrics import mean_average_precision
from ram_backend.settings import load_settings
from ram_backend.training.selection import Candidate

COUNTS = (100, 300, 1000)
SHUFFLED = {"honest": 0.0, "half shuffled": 0.5, "shuffled": 1.0}
"""Share of the photos whose labels are swapped."""
NOTHING = "nothing to learn"
KINDS = (*SHUFFLED, NOTHING)
LEAST_SERVED = {100: 10, 300: 18, 1000: 20}
"""Of 20 honest rounds."""
MOST_OF_NOTHING = 0.05
"""Share of the rounds with nothing to learn that may be served: the gate lets a candidate that is as good as the
incumbent pass in 1 of 40, and they are few."""
HARM = -0.01
"""Change of mAP on unseen photos below which a version is clearly worse than its predecessor."""

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Round:
    """One round of learning and what became of it.

    Attributes:
        start: corrections that the served version was made from; 0: the bundle is served.
        corrections: photos corrected by now.
        labels: which of `KINDS`.
        seed: of the photos, the shuffling and the round.
        outcome: of the verdict.
        unrelated: it says that labels look unrelated to the images.
        probability: of ranking better, as the gate sees it; nan where it was not asked.
        change: candidate minus incumbent, mAP on unseen photos; nan where nothing was fitted.
        reason: of the verdict.
    """

    start: int
    corrections: int
    labels: str
    seed: int
    outcome: str
    unrelated: bool
    probability: float
    change: float
    reason: str

    @property
    def served(self) -> bool:
        """The gate accepts."""
        return self.outcome == "accept"


class Project:
    """Photos in the order in which they are corrected, and what is served."""

    def __init__(self, photos: AnnotatedPhotos, unseen: Rows, seed: int) -> None:
        self.photos, self.unseen, self.seed = photos, unseen, seed
        self.random = np.random.default_rng(seed)
        self.order = self.random.permutation(photos.rows("train"))
        self.said = self.order.copy()  # whose labels each corrected photo got
        self.weights = np.zeros((len(self.order), len(photos.training_set.tags)), dtype=np.float32)
        self.served: Candidate | None = None
        self.served_from = 0
        self.share: float | None = None

    def correct(self, first: int, last: int, shuffled: float) -> None:
        """Corrections of what is served, `first` to `last`, come in; a share of them gets each other's labels."""
        places = self.random.permutation(np.arange(first, last))[: round(shuffled * (last - first))]
        self.said[places] = self.order[self.random.permutation(places)]
        self.weights[first:last] = self.photos.weights_under(self.said[first:last], self.served)

    def learn(self, corrections: int, labels: str) -> Round:
        """One round, from the first corrections on; what is accepted is served from now on."""
        found = learning_round(self._material(corrections), self.seed, at_most=self.share)
        change = float("nan")
        if found.candidate is not None:
            change = self._quality(found.candidate) - self._quality(self.served)
        result = self._round(corrections, labels, found.verdict, change)
        if found.served is not None:
            self.served, self.served_from, self.share = found.served, corrections, found.parts.share
        return result

    def _material(self, corrections: int) -> TrainingSet:
        rows, said = self.order[:corrections], self.said[:corrections]
        labels = self.photos.training_set.labels[said]
        training_set = replace(self.photos.without_tokens(rows), labels=labels, weights=self.weights[:corrections])
        if self.served is None:
            return training_set
        return replace(training_set, incumbent=self.served.logits(training_set.base, training_set.features))

    def _quality(self, candidate: Candidate | None) -> float:
        whole, rows = self.photos.training_set, self.unseen
        base = whole.base[rows]
        scores = base if candidate is None else candidate.logits(base, whole.features[rows])
        return mean_average_precision(scores, self.photos.labels[rows], self.photos.known[rows])

    def _round(self, corrections: int, labels: str, verdict: Verdict, change: float) -> Round:
        return Round(
            start=self.served_from,
            corrections=corrections,
            labels=labels,
            seed=self.seed,
            outcome=verdict.outcome,
            unrelated=UNRELATED in verdict.reason,
            probability=verdict.figures.get("probability", float("nan")),
            change=change,
            reason=verdict.reason,
        )


def first_rounds(photos: AnnotatedPhotos, unseen: Rows, seeds: int, processes: int) -> list[Round]:
    """From the bundle, at each number of corrections and with each kind of labels."""

    def one(case: tuple[int, str, int]) -> Round:
        corrections, labels, seed = case
        project = Project(photos.with_features_of_others(seed) if labels == NOTHING else photos, unseen, seed)
        project.correct(0, corrections, SHUFFLED.get(labels, 0.0))
        return project.learn(corrections, labels)

    return in_processes(one, list(itertools.product(COUNTS, KINDS, range(seeds))), processes)


def later_rounds(photos: AnnotatedPhotos, unseen: Rows, seeds: int, processes: int) -> list[Round]:
    """After a first honest round, against what it left behind."""

    def one(case: tuple[str, int]) -> list[Round]:
        labels, seed = case
        project = Project(photos, unseen, seed)
        project.correct(0, COUNTS[0], 0.0)
        project.learn(COUNTS[0], "honest")
        found = []
        for before, now in itertools.pairwise(COUNTS):
            project.correct(before, now, SHUFFLED[labels])
            found.append(project.learn(now, labels))
        return found

    projects = in_processes(one, list(itertools.product(SHUFFLED, range(seeds))), processes)
    return list(itertools.chain.from_iterable(projects))


def table(rounds: Sequence[Round]) -> str:
    """Markdown, a row for each number of corrections and kind of labels."""
    lines = [
        "| corrections | labels | served | unrelated | needs data | change, all candidates (worst) |"
        " change, served (worst) | served though worse |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for corrections in COUNTS:
        for labels in KINDS:
            some = [one for one in rounds if (one.corrections, one.labels) == (corrections, labels)]
            if some:
                lines.append(_row(corrections, labels, some))
    return "\n".join(lines)


def _row(corrections: int, labels: str, rounds: Sequence[Round]) -> str:
    def count(chosen: Callable[[Round], bool]) -> int:
        return sum(chosen(one) for one in rounds)

    cells = [
        f"{corrections:,}",
        labels,
        f"{count(lambda one: one.served)} of {len(rounds)}",
        f"{count(lambda one: one.unrelated)}",
        f"{count(lambda one: one.outcome == 'needs_data')}",
        _changes([one.change for one in rounds]),
        _changes([one.change for one in rounds if one.served]),
        f"{count(lambda one: one.served and one.change < 0)}",
    ]
    return f"| {' | '.join(cells)} |"


def _changes(values: Sequence[float]) -> str:
    measured = [value for value in values if not np.isnan(value)]
    return f"{np.mean(measured):+.3f} ({min(measured):+.3f})" if measured else "none"


def promises(first: Sequence[Round], later: Sequence[Round], seeds: int) -> list[tuple[str, bool]]:
    """What has to hold, and whether it does."""

    def served(labels: str, corrections: int) -> int:
        return sum(one.served for one in first if (one.labels, one.corrections) == (labels, corrections))

    rounds = [*first, *later]
    honest = [served("honest", corrections) for corrections in COUNTS]
    wanted = [LEAST_SERVED[corrections] * seeds / 20 for corrections in COUNTS]
    shuffled = sum(served("shuffled", corrections) for corrections in COUNTS)
    nothing = [one for one in first if one.labels == NOTHING]
    lucky = sum(one.served for one in nothing)
    worse = [one for one in rounds if one.labels == "half shuffled" and one.served and one.change < 0]
    harmful = [one for one in rounds if one.served and one.change < HARM]
    kept = all(count >= least for count, least in zip(honest, wanted, strict=True))
    return [
        (
            f"shuffled labels: {shuffled} served at {', '.join(f'{count:,}' for count in COUNTS)} corrections",
            not shuffled,
        ),
        (f"half shuffled labels: {len(worse)} served though worse", not worse),
        (f"nothing to learn: {lucky} of {len(nothing)} served", lucky <= MOST_OF_NOTHING * len(nothing)),
        (f"honest labels: {' / '.join(map(str, honest))} served", kept),
        (f"all {len(rounds)} rounds: {len(harmful)} served that are worse by more than {-HARM}", not harmful),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with the labelled sets")
    parser.add_argument("--base", type=Path, help=f"starter built without {SET}, or a bundle; built if not given")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--splits", nargs="+", default=["val"], choices=("val", "test"), help="of the unseen photos")
    parser.add_argument("--json", type=Path, help="write every round there")
    parser.add_argument("--threads", type=int, default=2, help="for building and scoring")
    parser.add_argument("--processes", type=int, default=2, help="for the rounds")
    chosen = parser.parse_args()
    settings = load_settings()
    base = chosen.base or starter_without_set(chosen.data, settings, "base", threads=chosen.threads)
    bundle = open_base(base, settings)
    photos = annotated(chosen.data, SET, bundle, settings, threads=chosen.threads)
    unseen = photos.rows(*chosen.splits)
    first = first_rounds(photos, unseen, chosen.seeds, chosen.processes)
    print(f"## From the bundle, {chosen.seeds} seeds\n\n{table(first)}\n", flush=True)
    later = later_rounds(photos, unseen, chosen.seeds, chosen.processes)
    print(f"## Against a served version, after 100 honest corrections\n\n{table(later)}\n")
    held = promises(first, later, chosen.seeds)
    print("\n".join(f"- {'holds' if kept else 'BROKEN'}: {sentence}" for sentence, kept in held))
    if chosen.json is not None:
        chosen.json.write_text(json.dumps([asdict(one) for one in (*first, *later)], indent=1))
    raise SystemExit(0 if all(kept for _, kept in held) else 1)


if __name__ == "__main__":
    main()
