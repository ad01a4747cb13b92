"""One run of tuning: the head that learns, epoch by epoch, what is minimised and how well it does.

Shapes: N images, L tags of the project, B images and C tags of a step, T tokens of width D.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ram_backend.errors import SettingsError
from ram_backend.gate.training_set import TrainingSet
from ram_backend.models.head import TaggingHead
from ram_backend.models.head_source import HeadSource
from ram_backend.models.tuned import head_files, low_rank_files
from ram_backend.training.distillation import ImageAligner, distillation_loss, drift_loss
from ram_backend.training.losses import asymmetric_loss
from ram_backend.training.low_rank import add_factors, factors_of
from ram_backend.training.tuning_data import Beside, TagTexts, as_tensor, batches, drawn_tags, head_logits
from ram_backend.training.tuning_options import TuningOptions

FloatArray = NDArray[np.float32]

_AVERAGED_STEPS = 10
_CLIPPED_NORM = 1.0
_WARM_UP = 0.1


class TuningRun:
    """A head in training.

    What counts is a running average of its weights over about an epoch, at least `_AVERAGED_STEPS` steps: it ranks
    better than any single step, and strays less from the bundle.

    Args:
        material: with tokens; its tags are those of `source`.
        source: the head to start from.
        options: how.
        seed: of everything that is drawn.
        rows: images that are trained on.
        watched: images that it is judged on after each epoch.
        beside: what it is held to besides the corrections.

    Raises:
        NotAvailable: low rank without peft.
        SettingsError: the device is not there.
    """

    def __init__(
        self,
        material: TrainingSet,
        source: HeadSource,
        options: TuningOptions,
        seed: int,
        rows: NDArray[np.int64],
        watched: NDArray[np.int64],
        beside: Beside,
    ) -> None:
        assert material.tokens is not None
        self.material, self.source, self.options, self.seed = material, source, options, seed
        self.tokens: NDArray[np.float16] = material.tokens
        self.rows, self.watched = rows, watched
        self.teacher, self.also_seen = beside.teacher, beside.also_seen
        self.device = device_of(options.device)
        self.half = _half(options.precision, self.device)
        torch.manual_seed(seed)
        self.frozen = plain_head(source).to(self.device).requires_grad_(False)
        self.head = plain_head(source, dropout=options.dropout).to(self.device)
        if options.rank is not None:
            add_factors(self.head, options.rank)
            self.head.to(self.device)
        self.averaged = copy.deepcopy(self.head)
        self.texts = TagTexts(source, (*source.entries, *(int(row) for row in source.outside)), self.device)
        self.scale = torch.from_numpy(np.concatenate([source.scale, source.outside_scale])).to(self.device)
        self.aligner = self._aligner()
        self.columns = np.arange(len(source.entries), dtype=np.int64)
        self.before = head_logits(self.frozen, self.texts, self.tokens, self.columns)
        learning = [part for part in self.head.parameters() if part.requires_grad]
        self.optimizer = torch.optim.AdamW(
            [
                {"params": learning, "lr": options.rate(source.config.hidden)},
                *([] if self.aligner is None else [{"params": list(self.aligner.parameters()), "lr": 1e-3}]),
            ],
            weight_decay=options.weight_decay,
        )
        self.rates = [group["lr"] for group in self.optimizer.param_groups]

    def epoch(self, number: int) -> float:
        """Runs one epoch.

        Args:
            number: from 1 on; what it draws depends on the seed and this number, not on earlier epochs.

        Returns:
            The mean loss of its steps.
        """
        rng = np.random.default_rng((self.seed, 3, number))
        torch.manual_seed(int(rng.integers(2**31)))
        self.head.train()
        parts = list(batches(self.rows, self.options.batch, rng))
        total = 0.0
        for place, part in enumerate(parts):
            self._set_rate((number - 1 + place / len(parts)) / self.options.epochs)
            loss = self._loss(part, rng)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_([part for part in self.head.parameters() if part.requires_grad], _CLIPPED_NORM)
            self.optimizer.step()
            self._average(1 / max(_AVERAGED_STEPS, len(parts)))
            total += float(loss.item())
        return total / max(1, len(parts))

    def _average(self, share: float) -> None:
        """Moves the averaged head a little towards the one that learns."""
        with torch.no_grad():
            for slow, fast in zip(self.averaged.parameters(), self.head.parameters(), strict=True):
                if fast.requires_grad:
                    slow.lerp_(fast, share)

    def log_odds(self, rows: NDArray[np.int64]) -> FloatArray:
        """Calibrated log-odds (len(rows), L) of the project's tags under the averaged head."""
        now = head_logits(self.averaged, self.texts, self.tokens[rows], self.columns)
        changed: FloatArray = self.material.base[rows] + self.source.scale * (now - self.before[rows])
        return changed.astype(np.float32)

    def state(self) -> dict[str, Tensor]:
        """Copies of everything that learns, in the averaged head."""
        return _learning(self.averaged)

    def restore(self, state: dict[str, Tensor]) -> None:
        """Brings the averaged head back to what `state` gave."""
        _restore(self.averaged, state)

    def learning(self) -> dict[str, Any]:
        """Everything that an interrupted run needs to go on, for `resume`."""
        return {
            "head": _learning(self.head),
            "averaged": _learning(self.averaged),
            "aligner": {} if self.aligner is None else self.aligner.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def resume(self, learning: dict[str, Any]) -> None:
        """Takes over what `learning` gave."""
        _restore(self.head, learning["head"])
        _restore(self.averaged, learning["averaged"])
        if self.aligner is not None:
            self.aligner.load_state_dict(learning["aligner"])
        self.optimizer.load_state_dict(learning["optimizer"])

    def files(self) -> dict[str, bytes]:
        """The averaged head, as files of a version."""
        if self.options.rank is not None:
            return low_rank_files(factors_of(self.averaged))
        state = self.averaged.state_dict()
        return head_files({name: tensor.float().cpu().numpy() for name, tensor in state.items()})

    def _loss(self, rows: NDArray[np.int64], rng: np.random.Generator) -> Tensor:
        options, material = self.options, self.material
        known = material.weights[rows] > 0
        asked = drawn_tags(known, material.labels[rows], options.tags, rng)
        outside = self._outside(rng)
        tokens = as_tensor(self.tokens[rows], self.device)
        drift, states = self._drift(tokens, np.concatenate([asked, outside]))
        logits = as_tensor(material.base[np.ix_(rows, asked)], self.device) + drift[:, : len(asked)]
        labels = torch.from_numpy(material.labels[np.ix_(rows, asked)]).to(self.device)
        weights = as_tensor(material.weights[np.ix_(rows, asked)], self.device)
        loss = asymmetric_loss(logits, labels, weights, focus=options.focus, margin=options.margin)
        if len(outside):
            loss = loss + options.replay * len(outside) * drift_loss(drift[:, len(asked) :])
            loss = loss + options.replay * self._elsewhere(outside, rng)
        if self.aligner is not None and self.teacher is not None:
            feature = self.aligner(states)
            loss = loss + options.distillation * distillation_loss(feature, as_tensor(self.teacher[rows], self.device))
        return loss

    def _elsewhere(self, outside: NDArray[np.int64], rng: np.random.Generator) -> Tensor | float:
        """Replay on photos that are none of the project's."""
        if self.also_seen is None or len(self.also_seen) == 0:
            return 0.0
        count = min(len(self.also_seen), max(1, self.options.batch // 4))
        photos = np.sort(rng.choice(len(self.also_seen), count, replace=False))
        drift, _ = self._drift(as_tensor(self.also_seen[photos], self.device), outside)
        return len(outside) * drift_loss(drift)

    def _outside(self, rng: np.random.Generator) -> NDArray[np.int64]:
        """Columns of the outside tags that this step replays."""
        count = min(self.options.replay_tags, len(self.source.outside)) if self.options.replay else 0
        drawn = rng.choice(len(self.source.outside), count, replace=False)
        return np.sort(drawn).astype(np.int64) + len(self.source.entries)

    def _drift(self, tokens: Tensor, columns: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """What the head changes about the log-odds (B, C) of some tags, and its last states (B, C, H)."""
        with self._precision():
            queries = self.texts.queries(self.head, columns, tokens)
            states = self.head.hidden_states(self.head.keys_values(tokens), queries)[-1]
        now = self.head.classify(states.float(), queries)
        with torch.no_grad():
            with self._precision():
                old = self.texts.queries(self.frozen, columns, tokens)
                past = self.frozen.hidden_states(self.frozen.keys_values(tokens), old)[-1]
            then = self.frozen.classify(past.float(), old)
        return (now - then) * self.scale[torch.from_numpy(columns).to(self.device)], states

    def _precision(self) -> AbstractContextManager[object]:
        return nullcontext() if self.half is None else torch.autocast(self.device.type, self.half)

    def _aligner(self) -> ImageAligner | None:
        if self.teacher is None or not self.options.distillation:
            return None
        return ImageAligner(self.source.config.hidden, self.teacher.shape[1]).to(self.device)

    def _set_rate(self, done: float) -> None:
        """Learning rates at a share of all epochs in [0, 1): up for a tenth, then down along a cosine."""
        factor = (
            done / _WARM_UP if done < _WARM_UP else 0.5 + 0.5 * math.cos(math.pi * (done - _WARM_UP) / (1 - _WARM_UP))
        )
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * max(factor, 0.01)


def plain_head(source: HeadSource, dropout: float = 0.0) -> TaggingHead:
    """A head with copies of the source's weights, float32, in evaluation mode."""
    head = TaggingHead(replace(source.config, dropout=dropout))
    head.load_state_dict({name: torch.tensor(array) for name, array in source.tensors.items()})
    return head.eval()


def device_of(name: str) -> torch.device:
    """The device of a setting.

    Raises:
        SettingsError: it is not there.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise SettingsError(
            "Tuning on cuda was asked for, and torch finds no such device: use cpu, or check the driver."
        )
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


@contextmanager
def reproducible(device: torch.device) -> Iterator[None]:
    """Deterministic algorithms where torch has them, and the caller's random state untouched."""
    before, warn = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.use_deterministic_algorithms(True, warn_only=True)
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(before, warn_only=warn)


def _learning(head: TaggingHead) -> dict[str, Tensor]:
    return {name: part.detach().clone() for name, part in head.named_parameters() if part.requires_grad}


def _restore(head: TaggingHead, state: dict[str, Tensor]) -> None:
    own = dict(head.named_parameters())
    with torch.no_grad():
        for name, saved in state.items():
            own[name].copy_(saved)


def _half(name: str, device: torch.device) -> torch.dtype | None:
    native = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.bfloat16 if name == "bf16" or (name == "auto" and native) else None
