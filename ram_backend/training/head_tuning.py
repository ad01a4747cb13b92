"""LoRA or full fine-tuning of the tagging head on a project's corrections; the encoder is never touched.

What is minimised, over images of the project:

    asymmetric loss of the project's tags, each pair counted by how much its label is believed
  + replay of the bundle's own scores on tags outside the project (in eval mode: dropout would pass for drift)

Each round starts from the bundle's head and learns from all corrections, so earlier ones are not forgotten and those
that were withdrawn leave no trace. A fifth of the images is left out: it says when to stop, and what the head is worth.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.model_selection import GroupShuffleSplit
from torch import Tensor, nn
from torch.nn import functional

from ram_backend.errors import InputError, NotAvailable, SettingsError
from ram_backend.gate.training_set import TrainingSet
from ram_backend.metrics import mean_average_precision
from ram_backend.models.head import TaggingHead, TagQueries
from ram_backend.models.head_checkpoint import Entry, HeadCheckpoint
from ram_backend.models.ram import Descriptions, mixed
from ram_backend.models.tuned import LowRank, head_files, low_rank_files
from ram_backend.training.losses import asymmetric_loss
from ram_backend.training.selection import FitResult, Progress, RidgeTrainer

FloatArray = NDArray[np.float32]

MIN_GROUPS = 30
"""Groups of look-alikes below which a head isn't tuned: too few are left out to stop by."""
HUBER_DELTA = 1.0
"""Log-odds beyond which replay is linear instead of squared."""
LORA_TARGETS = r".*layers\.\d+\.(query|key|value|attention_output|up|down)"
"""Products that get factors; the classifier and the projection of label embeddings stay the bundle's."""
_ADAPTER = "default"


@dataclass(frozen=True)
class TuningOptions:
    """Hyperparameters of a fine-tuning.

    Attributes:
        rank: r of LoRA (needs peft); None: the whole head learns.
        epochs: at most.
        batch: images a step.
        tags: of the project's tags at most so many a step.
        learning_rate: at its highest; None: .15 / H, or 1 / H for LoRA: weights are about 1 / sqrt(H) large.
        weight_decay: of AdamW.
        dropout: on attention weights and layer outputs, in [0, 1).
        gamma_neg: of the asymmetric loss.
        clip: of the asymmetric loss.
        replay: weight of the bundle's own scores; 0: none.
        replay_tags: tags outside the project a step, drawn anew each time.
        validation: share of the images that is left out, in (0, 1).
        patience: epochs without improvement after which it stops.
        device: "auto" takes a CUDA device where there is one.

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
    gamma_neg: float = 4.0
    clip: float = 0.05
    replay: float = 2.0
    replay_tags: int = 64
    validation: float = 0.2
    patience: int = 4
    device: Literal["auto", "cpu", "cuda"] = "auto"

    def __post_init__(self) -> None:
        counts = (self.rank or 1, self.epochs, self.batch, self.tags, self.replay_tags, self.patience)
        if min(counts) < 1 or not 0 < self.validation < 1 or not 0 <= self.dropout < 1 or self.replay < 0:
            raise InputError(
                "Fine-tuning needs counts of at least 1, a replay of at least 0, and validation and dropout in [0, 1)."
            )


@dataclass(frozen=True)
class HeadTrainer:
    """Fine-tunes the head, then fits a ridge and the calibration on what it says about the images left out.

    Attributes:
        head: the checkpoint to start from; its tags are the training set's.
        options: see there.
        replay_tokens: (M, T, D) tokens of other photos on which the bundle's scores are replayed, too.
        harmless: says whether a head, given as files of a version, leaves other tags alone; one that doesn't is no
            result, so that a simpler trainer can win. None: nobody asks.
    """

    head: HeadCheckpoint = field(repr=False)
    options: TuningOptions = TuningOptions()
    replay_tokens: NDArray[np.float16] | None = field(default=None, repr=False)
    harmless: Callable[[dict[str, bytes]], bool] | None = field(default=None, repr=False)

    @property
    def name(self) -> str:
        """Stands in a version's lineage."""
        return "tuning" if self.options.rank is None else "low-rank"

    def fit(
        self, material: TrainingSet, groups: NDArray[np.int64], seed: int, progress: Progress | None
    ) -> FitResult | None:
        """As `selection.Trainer` says; None for too few images, or a head that is no better or not harmless.

        Raises:
            InputError: the training set has no tokens, or other tags than the head.
            NotAvailable: LoRA without peft.
            SettingsError: the device is not there.
        """
        if material.tokens is None or len(self.head.entries) != len(material.tags):
            raise InputError(
                f"Fine-tuning needs image tokens, and a head with the {len(material.tags)} tags of the training set."
            )
        if len(np.unique(groups)) < MIN_GROUPS:
            return None
        rest, held = next(
            GroupShuffleSplit(1, test_size=self.options.validation, random_state=seed).split(groups, groups=groups)
        )
        rest = rest[material.known[rest].any(axis=1)]
        if not len(rest):
            return None
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            epoch, files, tuned = _Tuning(self, material, rest, held).run(np.random.default_rng(seed), progress)
        if not files or (self.harmless is not None and not self.harmless(files)):
            return None
        on_top = RidgeTrainer().fit(replace(material.take(held), base=tuned), groups[held], seed, None)
        log_odds, judged = material.base.copy(), np.zeros(len(material), dtype=np.bool_)
        log_odds[held], judged[held] = on_top.log_odds, True
        params = {"epoch": epoch, "rank": self.options.rank, "replay": self.options.replay, "ridge": on_top.params}
        return FitResult(on_top.delta, log_odds, judged, params, files)


class _Tuning:
    """One run over the images `rest`, judged on `held`."""

    def __init__(
        self, trainer: HeadTrainer, material: TrainingSet, rest: NDArray[np.int64], held: NDArray[np.int64]
    ) -> None:
        assert material.tokens is not None
        self.checkpoint, self.options, self.replay_tokens = trainer.head, trainer.options, trainer.replay_tokens
        self.material, self.tokens, self.rest, self.held = material, material.tokens, rest, held
        self.device = device_of(self.options.device)
        self.frozen = plain_head(self.checkpoint).to(self.device).requires_grad_(False)
        self.head = plain_head(self.checkpoint, self.options.dropout)
        if self.options.rank is not None:
            add_factors(self.head, self.options.rank)
        self.head.to(self.device)

    def run(self, rng: np.random.Generator, progress: Progress | None) -> tuple[int, dict[str, bytes], FloatArray]:
        """The best epoch, the head's files and its log-odds (H, L) on the images left out; 0 and no files: none."""
        options = self.options
        learning = [part for part in self.head.parameters() if part.requires_grad]
        rate = options.learning_rate or (0.15 if options.rank is None else 1.0) / self.checkpoint.config.hidden
        optimizer = torch.optim.AdamW(learning, weight_decay=options.weight_decay)
        steps = -(-len(self.rest) // options.batch)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, options.epochs * steps, pct_start=0.1)
        before = log_odds_change(self.checkpoint, self.frozen, self.tokens[self.held], self.device)
        base = self.material.base[self.held]
        best: tuple[int, dict[str, bytes], FloatArray] = (0, {}, base)
        highest = self._quality(base)
        for epoch in range(1, options.epochs + 1):
            self.head.train()
            for rows in np.array_split(rng.permutation(self.rest), steps):
                optimizer.zero_grad(set_to_none=True)
                self.loss(rows, rng).backward()  # type: ignore[no-untyped-call]
                nn.utils.clip_grad_norm_(learning, 1.0)
                optimizer.step()
                schedule.step()
            now = log_odds_change(self.checkpoint, self.head.eval(), self.tokens[self.held], self.device)
            tuned = base + now - before
            if (quality := self._quality(tuned)) > highest:
                highest, best = quality, (epoch, self._files(), tuned)
            if progress is not None:
                progress("fine-tuning the head", epoch, options.epochs)
            if epoch - best[0] >= options.patience:
                break
        return best

    def loss(self, rows: NDArray[np.int64], rng: np.random.Generator) -> Tensor:
        """Of the project's tags on images `rows`, and of replay; a scalar."""
        options, material = self.options, self.material
        columns = _drawn_tags(material.known[rows], material.labels[rows], options.tags, rng)
        tokens = _tensor(self.tokens[rows], self.device)
        entries = [self.checkpoint.entries[column] for column in columns]
        change = self._change(tokens, entries, self.checkpoint.slope[columns])
        base, labels, weights = (
            _tensor(values[np.ix_(rows, columns)], self.device)
            for values in (material.base, material.labels, material.weights)
        )
        loss = asymmetric_loss(base + change, labels, weights, gamma_neg=options.gamma_neg, clip=options.clip)
        count = min(options.replay_tags, len(self.checkpoint.outside)) if options.replay else 0
        if count:
            drawn = rng.choice(len(self.checkpoint.outside), count, replace=False)
            others = [int(row) for row in self.checkpoint.outside[drawn]]
            self.head.eval()
            for seen in (tokens, *self._replay_photos(rng)):
                drift = self._change(seen, others, self.checkpoint.outside_slope[drawn])
                huber = functional.huber_loss(drift, torch.zeros_like(drift), delta=HUBER_DELTA)
                loss = loss + options.replay * count * huber
            self.head.train()
        return loss

    def _replay_photos(self, rng: np.random.Generator) -> Iterator[Tensor]:
        if self.replay_tokens is not None and len(self.replay_tokens):
            count = min(len(self.replay_tokens), max(1, self.options.batch // 4))
            yield _tensor(self.replay_tokens[rng.choice(len(self.replay_tokens), count, replace=False)], self.device)

    def _change(self, tokens: Tensor, entries: Sequence[Entry], slope: FloatArray) -> Tensor:
        """Calibrated log-odds (B, C) of the head minus the bundle's."""
        now = self.head(tokens, queries_of(self.checkpoint, self.head, entries, tokens))
        with torch.no_grad():
            then = self.frozen(tokens, queries_of(self.checkpoint, self.frozen, entries, tokens))
        change: Tensor = (now - then) * _tensor(slope, self.device)
        return change

    def _quality(self, log_odds: FloatArray) -> float:
        known = self.material.known[self.held]
        quality = mean_average_precision(log_odds, self.material.labels[self.held], known, min_positives=1)
        return quality if np.isfinite(quality) else 0.0

    def _files(self) -> dict[str, bytes]:
        if self.options.rank is not None:
            return low_rank_files(factors_of(self.head))
        return head_files({name: tensor.float().cpu().numpy() for name, tensor in self.head.state_dict().items()})


def log_odds_change(
    checkpoint: HeadCheckpoint,
    head: TaggingHead,
    tokens: NDArray[np.float16],
    device: torch.device,
    *,
    images: int = 64,
    tags: int = 512,
) -> FloatArray:
    """Logits times slope (N, L) of the project's tags on tokens (N, T, D), in portions; `head` is in eval mode."""
    found = np.empty((len(tokens), len(checkpoint.entries)), dtype=np.float32)
    with torch.inference_mode():
        for row in range(0, len(tokens), images):
            seen = _tensor(tokens[row : row + images], device)
            memory = head.keys_values(seen)
            for at in range(0, found.shape[1], tags):
                queries = queries_of(checkpoint, head, checkpoint.entries[at : at + tags], seen)
                found[row : row + images, at : at + tags] = head.score(memory, queries).float().cpu().numpy()
    return found * checkpoint.slope


def queries_of(checkpoint: HeadCheckpoint, head: TaggingHead, entries: Sequence[Entry], tokens: Tensor) -> TagQueries:
    """Queries for tags, with gradients; `tokens` (B, T, D) matter to RAM++ only, and say on which device."""
    texts = [torch.from_numpy(text) for text in checkpoint.texts(entries)]
    if checkpoint.mixing_scale is not None:
        scale = torch.tensor(checkpoint.mixing_scale, device=tokens.device)
        return head.queries(mixed(tokens, Descriptions.of(texts).to(tokens.device), scale))
    embeddings = torch.cat(texts).to(tokens.device)
    if head.config.classifier == "shared":
        return head.queries(embeddings)
    return head.queries(embeddings, torch.tensor([int(entry) for entry in entries], device=tokens.device))


def plain_head(checkpoint: HeadCheckpoint, dropout: float = 0.0) -> TaggingHead:
    """A head with copies of the checkpoint's weights, float32, in eval mode."""
    head = TaggingHead(replace(checkpoint.config, dropout=dropout))
    head.load_state_dict({name: torch.tensor(array) for name, array in checkpoint.tensors.items()})
    return head.eval()


def device_of(name: str) -> torch.device:
    """The device of a setting.

    Raises:
        SettingsError: it is not there.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise SettingsError(
            "Fine-tuning on cuda was asked for, and torch finds no such device: use cpu, or check the driver."
        )
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def add_factors(head: TaggingHead, rank: int) -> None:
    """Adds LoRA factors to a plain head, in place, and freezes everything else; at first they change nothing.

    Raises:
        NotAvailable: peft is not installed.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise NotAvailable(
            "LoRA needs peft, which is not installed: pip install 'ram_backend[low-rank]', or set RAM_TUNING=whole."
        ) from None
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=LORA_TARGETS, bias="none", lora_dropout=0.0)
    inject_adapter_in_model(config, head, adapter_name=_ADAPTER)


def factors_of(head: TaggingHead) -> dict[str, LowRank]:
    """The LoRA factors of a head, by the name that their weight has in a plain head."""
    found: dict[str, LowRank] = {}
    for name, part in head.named_modules():
        if hasattr(part, "lora_A") and _ADAPTER in part.lora_A:
            layer: Any = part
            a = layer.lora_A[_ADAPTER].weight.detach().float().cpu().numpy()
            b = layer.lora_B[_ADAPTER].weight.detach().float().cpu().numpy()
            found[f"{name}.weight"] = LowRank(a.copy(), b * float(layer.scaling[_ADAPTER]))
    return found


def _drawn_tags(
    known: NDArray[np.bool_], labels: NDArray[np.bool_], count: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """At most `count` columns with a known pair (B, L), in random order, those with a positive first."""
    asked = rng.permutation(np.flatnonzero(known.any(axis=0)))
    positive = (known & labels)[:, asked].any(axis=0)
    return np.sort(asked[np.argsort(~positive, kind="stable")][:count])


def _tensor(values: NDArray[Any], device: torch.device) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32)).to(device)
