"""How a head is tuned: every number in one place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ram_backend.errors import InputError

_RATE, _LOW_RANK_RATE = 0.15, 1.0


@dataclass(frozen=True)
class TuningOptions:
    """How a head is tuned.

    Attributes:
        rank: r of low-rank tuning (needs peft); None: the whole head.
        epochs: at most.
        batch: images a step.
        tags: of the project's tags at most so many a step.
        learning_rate: at its highest; None: what suits the head's width, and more for low rank.
        weight_decay: of AdamW: pulls low-rank factors towards the bundle's weights, whole weights towards 0.
        dropout: on attention weights and layer outputs, in [0, 1).
        focus: of the asymmetric loss.
        margin: of the asymmetric loss.
        replay: weight of the bundle's own behaviour; 0: none.
        replay_tags: tags outside the project a step, drawn anew each time.
        distillation: weight of the CLIP distillation, where features are given.
        validation: share of the images that decide when to stop; 0: all epochs are run and the last one counts.
        patience: epochs without improvement after which it stops.
        device: "auto" takes a CUDA device where there is one.
        precision: of the products; "auto" is bf16 on CUDA devices that have it, else fp32.

    Raises:
        InputError: a number that can't be.
    """

    rank: int | None = None
    epochs: int = 12
    batch: int = 32
    tags: int = 192
    learning_rate: float | None = None
    weight_decay: float = 0.01
    dropout: float = 0.1
    focus: float = 4.0
    margin: float = 0.05
    replay: float = 2.0
    replay_tags: int = 64
    distillation: float = 1.0
    validation: float = 0.2
    patience: int = 4
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "fp32", "bf16"] = "auto"

    def __post_init__(self) -> None:
        counts = ("epochs", "batch", "tags", "replay_tags", "patience")
        wrong = next((name for name in counts if getattr(self, name) < 1), None)
        if wrong is not None or (self.rank is not None and self.rank < 1):
            raise InputError(f"Tuning with {wrong or 'rank'} below 1 is none: give 1 or more.")
        if not 0 <= self.validation < 1 or not 0 <= self.dropout < 1 or not self.rate(1) > 0 or self.replay < 0:
            raise InputError(
                "Tuning needs a learning rate above 0, a replay of at least 0, and a validation share and dropout in"
                " [0, 1)."
            )

    def rate(self, hidden: int) -> float:
        """The learning rate for a head of width H: its weights are about 1 / sqrt(H) large, and it sums H of them."""
        if self.learning_rate is not None:
            return self.learning_rate
        return (_RATE if self.rank is None else _LOW_RANK_RATE) / hidden
